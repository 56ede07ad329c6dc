"""Which code this is: the package's version and, where it can be known, the git commit."""

import os
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def code_version() -> dict[str, str]:
    """{"version": "0.1.0", "commit": "<40 hex>[-dirty]"}; commit is "" outside a checkout without HANFORGE_COMMIT.

    An image has no .git: its build sets HANFORGE_COMMIT.
    """
    try:
        version = metadata.version("hanforge")
    except metadata.PackageNotFoundError:
        version = "unknown"
    return {"version": version, "commit": os.environ.get("HANFORGE_COMMIT", "") or _git_commit()}


def short_commit(commit: str) -> str:
    """Twelve digits, and whether the checkout had changes. Example: "<40 hex>-dirty" -> "4439f66b015d-dirty" """
    digits, dash, dirty = commit.partition("-")
    return f"{digits[:12]}{dash}{dirty}"


def _git_commit() -> str:
    if not (ROOT / ".git").exists():
        return ""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
