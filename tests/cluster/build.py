"""Builds the cluster's programs from pinned Go modules, once, into folders keyed by what they are made of.

`go/` pins Kubernetes, etcd and CoreDNS (go.mod, go.sum). JobSet is built in its own module, Argo Workflows in a copy
of its own, whose zip lacks one symbolic link. Binaries and images are never part of the repository.
"""

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import golang
from tests.cluster.errors import Unavailable
from tests.cluster.image import is_static, scratch_image
from tests.cluster.layout import ARGO, CACHE, JOBSET, KUBERNETES, SOURCES

PINNED = tuple(SOURCES / name for name in ("go.mod", "go.sum", "tools.go", "etcd/main.go", "coredns/main.go"))
PAUSE_IMAGE = "hanforge.test/pause:1"
ARGOEXEC_IMAGE = f"hanforge.test/argoexec:{ARGO}"
BUSYBOX_IMAGE = "hanforge.test/busybox:1"
USERS = b"root:x:0:0:root:/:/bin/false\nnonroot:x:8737:8737:nonroot:/tmp:/bin/false\n"


@dataclass(frozen=True)
class Part:
    """What is built together, and again only when what decides it changes: its version and some sources."""

    name: str
    make: Callable[[Path], None]  # fills a folder, each file at its place in the finished one
    version: str = ""
    sources: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies once it is built, named by what decides it."""
        digest = hashlib.sha256(self.version.encode())
        for path in self.sources:
            digest.update(path.read_bytes())
        return CACHE / "parts" / f"{self.name}-{digest.hexdigest()[:10]}"


def folder() -> Path:
    """Where this version lies: bin/, argo/, jobset/, images/, definitions. It shares its programs' files with parts."""
    names = " ".join(part.folder.name for part in PARTS)
    return CACHE / f"{KUBERNETES}-{hashlib.sha256(names.encode()).hexdigest()[:10]}"


def built() -> bool:
    """Whether every program and image is there."""
    return (folder() / "complete").exists()


def build() -> Path:
    """Build what is missing and give the folder. Raises Unavailable with Go's last words when Go fails."""
    target = folder()
    if built():
        return target
    started = time.monotonic()
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for part in PARTS:
        if not part.folder.exists():
            _make(part)
        subprocess.run(["cp", "-al", f"{part.folder}/.", target], check=True)
    _write_images(target)
    (target / "complete").touch()
    print(f"cluster-up: built in {time.monotonic() - started:.0f} s into {target}", flush=True)
    return target


def _make(part: Part) -> None:
    unfinished = part.folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    part.make(unfinished)
    unfinished.rename(part.folder)
    golang.forget()


def _kubernetes(target: Path) -> None:
    """etcd, CoreDNS and Kubernetes' own programs."""
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    packages = ["./etcd", "./coredns", *(f"k8s.io/kubernetes/cmd/{name}" for name in names)]
    golang.build(SOURCES, packages, target / "bin", {"k8s.io/component-base/version.gitVersion": KUBERNETES})


def _tools(target: Path) -> None:
    """Programs of this repository."""
    golang.build(SOURCES, ["./gpus", "./pause", "./ask"], target / "bin", {})


def _argo(target: Path) -> None:
    """Argo's controller, executor and CRDs, from a copy of its module, whose zip drops signal_linux.go, a link."""
    name = "github.com/argoproj/argo-workflows/v3"
    copy = target / "source"
    ignored = shutil.ignore_patterns("ui", "docs", "sdks", "examples")
    shutil.copytree(golang.module(f"{name}@{ARGO}"), copy, ignore=ignored)
    system = copy / "workflow" / "executor" / "osspecific"
    shutil.copyfile(system / "signal_darwin.go", system / "signal_linux.go")
    golang.build(copy, ["./cmd/workflow-controller", "./cmd/argoexec"], target / "argo", {f"{name}.version": ARGO})
    definitions = (copy / "manifests" / "base" / "crds" / "minimal").glob("argoproj.io_*.yaml")
    (target / "crds.yaml").write_text("---\n".join(path.read_text() for path in sorted(definitions)))
    shutil.rmtree(copy)


def _jobset(target: Path) -> None:
    """JobSet's controller, its CRD, and its webhooks with the module's own patches (which spare other pods)."""
    name = "sigs.k8s.io/jobset"
    module = golang.module(f"{name}@{JOBSET}")
    golang.build(module, [name], target / "jobset", {f"{name}/pkg/version.GitVersion": JOBSET})
    components = module / "config" / "components"
    documents: list[Any] = list(yaml.safe_load_all((components / "webhook" / "manifests.yaml").read_text()))
    for item, kind in zip(documents, ("mutating", "validating"), strict=True):
        item["metadata"]["name"] = f"jobset-{kind}-webhook-configuration"
        for step in yaml.safe_load((components / "webhook" / "patches" / f"{kind}-patch.yaml").read_text()):
            item["webhooks"][int(step["path"].rsplit("/", 1)[1])] = step["value"]
    definition = (components / "crd" / "bases" / "jobset.x-k8s.io_jobsets.yaml").read_text()
    documents.append(yaml.load(definition, yaml.CSafeLoader))
    (target / "jobset.yaml").write_text(yaml.dump_all(documents, Dumper=yaml.CSafeDumper))


def _write_images(target: Path) -> None:
    """The images that the cluster itself needs: each a single layer over nothing."""
    images = target / "images"
    images.mkdir()
    accounts: dict[str, Path | bytes] = {"etc/passwd": USERS}
    executor = {"bin/argoexec": target / "argo" / "argoexec", **accounts}
    scratch_image(images / "pause.tar", PAUSE_IMAGE, {"pause": target / "bin" / "pause"}, ["/pause"])
    scratch_image(images / "argoexec.tar", ARGOEXEC_IMAGE, executor, ["argoexec"], 8737)
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    if not is_static(busybox):
        raise Unavailable(f"{busybox} is not a static program: install the package busybox-static")
    shell = {"bin/busybox": busybox, "bin/ask": target / "bin" / "ask", **accounts}
    scratch_image(images / "busybox.tar", BUSYBOX_IMAGE, shell, [], 8737)


PARTS = (
    Part("kubernetes", _kubernetes, KUBERNETES, PINNED),
    Part("tools", _tools, sources=tuple(sorted(path for path in SOURCES.rglob("*") if path.is_file()))),
    Part("argo", _argo, ARGO),
    Part("jobset", _jobset, JOBSET),
)
