"""Helm, as the user's `helm` binary or as the packaged real Helm (helm-python-sdk), with the same two questions.

Values are one document: files are laid over each other here as Helm does (mappings merge, anything else replaces).
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from k8s.client import Object
from k8s.connection import kubeconfig
from pipeline.errors import Trouble, UserError
from pipeline.recipe.models import nearest
from pipeline.recipe.profiles import laid_over as laid_over

Values = dict[str, Any]
HELM_SECONDS = 300


def read_values(paths: list[str]) -> Values:
    """The values files laid over each other, the last on top. UserError for one that is not there or no mapping."""
    out: Values = {}
    for path in paths:
        try:
            read = YAML(typ="safe").load(Path(path).read_text("utf-8")) or {}
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            words = " ".join(str(error).split())
            raise UserError(f"values file {path!r} cannot be read: {words}", "Correct it, or name another") from error
        if not isinstance(read, dict):
            what = f"values file {path!r} holds no mapping of values but {type(read).__name__}"
            raise UserError(what, "Write values as KEY: VALUE (docs/charts.md lists all of them)")
        out = laid_over(out, read)
    return out


def rendered(chart: Path, release: str, namespace: str, values: Values) -> list[Object]:
    """Every object of the chart with these values; UserError with what the chart or its schema refuses."""
    if not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", release):
        fitting = re.sub("[^a-z0-9]+", "-", release.lower()).strip("-") or "NAME"
        what = f"release name {release!r} is none: lower-case letters, digits and dashes, a letter or digit at each end"
        raise UserError(what, f"Name it otherwise: --release {fitting}")
    if _binary() is None:
        text = "\n---\n".join(_packaged_render(chart, release, namespace, values).values())
    else:
        text = _run(["template", release, str(chart), "--namespace", namespace, "--values", "-"], values)
    return [found for found in YAML(typ="safe").load_all(text) if found and "kind" in found]


def installed(chart: Path, release: str, namespace: str, values: Values, context: str | None) -> None:
    """Install the release, or upgrade the one that is there."""
    if _binary() is None:
        _packaged_install(chart, release, namespace, values, context)
        return
    command = ["upgrade", "--install", release, str(chart), "--namespace", namespace, "--values", "-"]
    _run([*command, *(["--kube-context", context] if context else [])], values)


def _binary() -> str | None:
    return shutil.which(os.environ.get("HANFORGE_HELM", "helm"))


def _run(arguments: list[str], values: Values) -> str:
    command = [_binary() or "helm", *arguments]
    try:
        done = subprocess.run(
            command, input=json.dumps(values), capture_output=True, text=True, timeout=HELM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Trouble(f"{' '.join(command[:2])} took more than {HELM_SECONDS} s", "Look at the cluster") from error
    if done.returncode:
        raise _refused(done.stderr)
    return done.stdout


def _packaged_render(chart: Path, release: str, namespace: str, values: Values) -> dict[str, str]:
    package = _package()
    try:
        with package.Chart.load(chart) as loaded:
            found: dict[str, str] = loaded.render(values, name=release, namespace=namespace)
    except package.HelmError as error:
        raise _refused(str(error)) from error
    return {path: text for path, text in found.items() if not path.endswith(".txt")}


def _packaged_install(chart: Path, release: str, namespace: str, values: Values, context: str | None) -> None:
    package = _package()
    try:
        with _connected(package, namespace, context) as config, package.Chart.load(chart) as loaded:
            try:
                config.status(release)
            except package.HelmNotFoundError:
                config.install(loaded, release, values, namespace=namespace, timeout=HELM_SECONDS)
            else:
                config.upgrade(loaded, release, values, namespace=namespace, timeout=HELM_SECONDS)
    except package.HelmError as error:
        raise _refused(str(error)) from error


def _connected(package: Any, namespace: str, context: str | None) -> Any:
    """The kubeconfig by its path: the library keeps the environment that it was loaded in."""
    path = kubeconfig()
    named = path if os.pathsep not in path and Path(path).exists() else None
    return package.Config(kubeconfig_path=named, namespace=namespace, kube_context=context)


def _package() -> Any:
    try:
        import helm_python
    except ImportError as error:
        raise UserError(
            "neither a helm binary nor the package helm-python-sdk is there",
            "Install Helm, or: pip install 'hanforge[cluster]'",
        ) from error
    return helm_python


def _refused(said: str) -> UserError:
    """Helm's sentence without the path through its templates, or what the chart's schema refuses, in words."""
    found = re.search(r"error calling fail: (.+)", said, re.S) or re.search(
        r"execution error at \([^)]*\): (.+)", said, re.S
    )
    text = " ".join((found.group(1) if found else said).split())
    if " is too long: " in text:
        return UserError(text.partition(" Choose ")[0], "Give a shorter one: --release NAME")
    refused = _of_schema(text)
    what = f"values: {'; '.join(refused)}" if refused else f"Helm refuses: {text}"
    return UserError(what, "Correct the values (docs/charts.md lists all of them)")


def _of_schema(text: str) -> list[str]:
    """What a closed schema refuses: each key with its place, and the nearest right one where it is unknown.

    Example: "- at '/store': additional properties 'uri' not allowed - at '': invalid propertyName 'uri' - at '':
    value must be one of 'secret', 'url'" -> ["unknown key 'store.uri'; did you mean 'url'?"]
    """
    out: list[str] = []
    place = unknown = ""
    for at, words in re.findall(r"- at '([^']*)': (.+?)(?= - at '|$)", text):
        names = re.findall(r"'([^']+)'", words)
        if words.startswith("additional properties"):
            place = at
        elif words.startswith("invalid propertyName"):
            unknown = names[0]
        elif unknown:
            out.append(f"unknown key {_dotted(place, unknown)!r}; {nearest(unknown, names)}")
            unknown = ""
        else:
            out.append(f"{_dotted(at)}: {words}")
    return out


def _dotted(place: str, key: str = "") -> str:
    """Example: "/stages/phase1", "memry" -> "stages.phase1.memry" """
    return ".".join(part for part in (*place.split("/"), key) if part)
