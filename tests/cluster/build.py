"""Builds the cluster's programs from pinned Go modules, once, into a folder keyed by what they are made of.

`go/` pins Kubernetes, etcd and CoreDNS (go.mod, go.sum). JobSet is built in its own module, Argo Workflows in a copy
of its own, whose zip lacks one symbolic link. Binaries and images are never part of the repository.
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.errors import Unavailable
from tests.cluster.image import is_static, scratch_image
from tests.cluster.layout import ARGO, CACHE, JOBSET, KUBERNETES, SOURCES

PROGRAMS = (
    "./etcd",
    "./coredns",
    "./gpus",
    "./pause",
    "./ask",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    "k8s.io/kubernetes/cmd/kube-controller-manager",
    "k8s.io/kubernetes/cmd/kube-scheduler",
    "k8s.io/kubernetes/cmd/kubelet",
    "k8s.io/kubernetes/cmd/kube-proxy",
)
ARGO_PROGRAMS = ("./cmd/workflow-controller", "./cmd/argoexec")
ARGO_MODULE = f"github.com/argoproj/argo-workflows/v3@{ARGO}"
JOBSET_MODULE = f"sigs.k8s.io/jobset@{JOBSET}"
PAUSE_IMAGE = "hanforge.test/pause:1"
ARGOEXEC_IMAGE = f"hanforge.test/argoexec:{ARGO}"
BUSYBOX_IMAGE = "hanforge.test/busybox:1"
USERS = b"root:x:0:0:root:/:/bin/false\nnonroot:x:8737:8737:nonroot:/tmp:/bin/false\n"


def folder() -> Path:
    """Where this version's programs lie: bin/, argo/, jobset/, images/, definitions; named by all that decides them."""
    digest = hashlib.sha256(f"{ARGO} {JOBSET} {PROGRAMS}".encode())
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return CACHE / f"{KUBERNETES}-{digest.hexdigest()[:10]}"


def built() -> bool:
    """Whether every program and image is there."""
    return (folder() / "complete").exists()


def build() -> Path:
    """Build what is missing and give the folder. Raises Unavailable with Go's last words when Go fails."""
    target = folder()
    if built():
        return target
    started = time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    version = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"
    _go_build(SOURCES, PROGRAMS, target / "bin", version)
    _build_argo(target)
    _build_jobset(target)
    _write_images(target)
    (target / "complete").touch()
    print(f"cluster-up: built in {time.monotonic() - started:.0f} s into {target}", flush=True)
    return target


def _go_build(directory: Path, packages: Sequence[str], target: Path, flags: str) -> None:
    """Build packages into the folder `target`, each under its last name."""
    if target.exists():
        return
    print(f"cluster-up: go build {' '.join(package.split('/')[-1] for package in packages)}", flush=True)
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _go(["build", "-o", f"{unfinished}/", "-ldflags", flags, *packages], directory, {"CGO_ENABLED": "0"})
    unfinished.rename(target)


def _go(arguments: Sequence[str], directory: Path, environment: Mapping[str, str] = {}) -> str:
    flags = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false".strip()
    done = subprocess.run(
        ["go", *arguments], cwd=directory, env={**os.environ, "GOFLAGS": flags, **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-3:])
        raise Unavailable(f"`go {' '.join(arguments)}` in {directory} failed: {last}")
    return done.stdout


def _module(name: str) -> Path:
    """The folder of a module, NAME@VERSION, in Go's module cache."""
    return Path(json.loads(_go(["mod", "download", "-json", name], CACHE))["Dir"])


def _build_argo(target: Path) -> None:
    """Argo's controller, executor and CRDs, from a copy of its module, whose zip drops signal_linux.go, a link."""
    if (target / "crds.yaml").exists():
        return
    module = _module(ARGO_MODULE)
    copy = target / "argo-source"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(module, copy, ignore=shutil.ignore_patterns("ui", "docs", "sdks", "examples"), copy_function=_copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    system = copy / "workflow" / "executor" / "osspecific"
    shutil.copyfile(system / "signal_darwin.go", system / "signal_linux.go")
    version = f"-s -w -X github.com/argoproj/argo-workflows/v3.version={ARGO}"
    _go_build(copy, ARGO_PROGRAMS, target / "argo", version)
    definitions = (copy / "manifests" / "base" / "crds" / "minimal").glob("argoproj.io_*.yaml")
    (target / "crds.yaml").write_text("---\n".join(path.read_text() for path in sorted(definitions)))
    shutil.rmtree(copy)


def _build_jobset(target: Path) -> None:
    """JobSet's controller, its CRD, and its webhooks with the module's own patches (which spare other pods)."""
    if (target / "jobset.yaml").exists():
        return
    module = _module(JOBSET_MODULE)
    version = f"-s -w -X sigs.k8s.io/jobset/pkg/version.GitVersion={JOBSET}"
    _go_build(module, ("sigs.k8s.io/jobset",), target / "jobset", version)
    components = module / "config" / "components"
    documents: list[Any] = list(yaml.safe_load_all((components / "webhook" / "manifests.yaml").read_text()))
    for item, kind in zip(documents, ("mutating", "validating"), strict=True):
        item["metadata"]["name"] = f"jobset-{kind}-webhook-configuration"
        for step in yaml.safe_load((components / "webhook" / "patches" / f"{kind}-patch.yaml").read_text()):
            item["webhooks"][int(step["path"].rsplit("/", 1)[1])] = step["value"]
    definition = (components / "crd" / "bases" / "jobset.x-k8s.io_jobsets.yaml").read_text()
    documents.append(yaml.load(definition, yaml.CSafeLoader))
    (target / "jobset.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper))


def _copy(source: str, destination: str) -> str:
    shutil.copyfile(source, destination)
    return destination


def _write_images(target: Path) -> None:
    """The images that the cluster itself needs: each a single layer over nothing."""
    images = target / "images"
    images.mkdir(exist_ok=True)
    accounts: dict[str, Path | bytes] = {"etc/passwd": USERS}
    executor = {"bin/argoexec": target / "argo" / "argoexec", **accounts}
    scratch_image(images / "pause.tar", PAUSE_IMAGE, {"pause": target / "bin" / "pause"}, ["/pause"])
    scratch_image(images / "argoexec.tar", ARGOEXEC_IMAGE, executor, ["argoexec"], 8737)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    if not is_static(busybox):
        raise Unavailable(f"{busybox} is not a static program: install the package busybox-static")
    shell = {"bin/busybox": busybox, "bin/ask": target / "bin" / "ask", **accounts}
    scratch_image(images / "busybox.tar", BUSYBOX_IMAGE, shell, [], 8737)
