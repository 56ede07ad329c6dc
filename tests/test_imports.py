"""The directions of imports, and what stays light: checked on the source, and on what a process really loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.early import CHECKS

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "pipeline": ("pipeline",),
    "k8s": ("k8s", "pipeline.recipe", "pipeline.store", "pipeline.errors"),
    "jobs": ("jobs", "pipeline", "k8s"),
}
OURS = ("pipeline", "k8s", "jobs", "tests", "benchmarks", "examples")
FORBIDDEN = {"pipeline": ("typer", "kubernetes"), "k8s": ("typer", "torch"), "jobs": ()}


def imported(path: Path) -> list[str]:
    """Every module named in an import statement of the file, at any depth."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if (name.split(".")[0] in OURS and not any(name == ok or name.startswith(f"{ok}.") for ok in ALLOWED[package]))
        or name.split(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


LIGHT = (
    "jobs.cli",
    "jobs.prepare",
    "jobs.augment",
    "jobs.validate",
    "jobs.promote",
    "pipeline.recipe.kinds",
    "pipeline.store.stage",
    *(place.split(":")[0] for place in CHECKS.values()),  # the driver in a cluster runs them, and has no torch
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'transformers', 'vllm'}} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
