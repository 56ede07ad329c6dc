"""Clusters that are not ours to build: the one that the user's kubeconfig names, and kind's."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.api import Api
from tests.cluster.errors import Unavailable
from tests.cluster.layout import KUBECONFIG, KUBERNETES, NODES

KIND = "hanforge"
KIND_IMAGE = f"kindest/node:{KUBERNETES}"
EXTRAS = {  # API group -> whose it is, and what needs it
    "argoproj.io": "Argo Workflows (chains with engine: argo)",
    "jobset.x-k8s.io": "JobSet (training on several nodes goes by Indexed Jobs without it)",
}


def users_kubeconfig() -> Path | None:
    """$KUBECONFIG or ~/.kube/config, where there is one that is not the file that cluster-up wrote itself."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(named) if named else Path.home() / ".kube" / "config"
    if path.resolve() == KUBECONFIG.resolve() and not KUBECONFIG.is_symlink():
        return None
    if named and not path.exists():
        raise Unavailable(f"KUBECONFIG names {named!r}, which does not exist: correct it or unset it")
    return path if path.exists() else None


def usable_kubeconfig() -> bool:
    """Whether the user's cluster answers. One named by KUBECONFIG must: raises Unavailable where it does not."""
    path = users_kubeconfig()
    if path is None:
        return False
    if Api(path).ready():
        return True
    if os.environ.get("KUBECONFIG"):
        raise Unavailable(f"KUBECONFIG={path}: its API server {Api(path).server} does not answer: mend or unset it")
    print(f"cluster-up: {path} names {Api(path).server}, which does not answer: going on without it", flush=True)
    return False


def adopt() -> str:
    """Point the checkout's kubeconfig at the user's; create nothing."""
    path = users_kubeconfig()
    if path is None:
        raise Unavailable("no KUBECONFIG and no ~/.kube/config to use")
    target = path.resolve()
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.unlink(missing_ok=True)
    KUBECONFIG.symlink_to(target)
    return f"using the cluster of {path} at {Api(path).server}; nothing was created{lacking(Api(path))}"


def lacking(api: Api) -> str:
    """What of EXTRAS a cluster does not have, as the end of a line; empty where it has all."""
    there = {group["name"] for group in api.get("/apis")["groups"]}
    missing = [text for group, text in EXTRAS.items() if group not in there]
    return f"; not there: {' and '.join(missing)}; docs/cluster.md says how to install it" if missing else ""


def has_kind() -> bool:
    """Whether kind is installed and its container engine answers."""
    return shutil.which("kind") is not None and _kind("get", "clusters").returncode == 0


def runs() -> bool:
    """Whether there is anything that `down` would leave or delete: the user's cluster, or kind's."""
    return KUBECONFIG.is_symlink() or (has_kind() and KIND in _kind("get", "clusters").stdout.split())


def _kind(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kind", *arguments], input=text, capture_output=True, text=True)


def up_kind() -> str:
    """Create kind's cluster with our nodes' labels, taints and GPU counts, unless it is there."""
    if KIND not in _kind("get", "clusters").stdout.split():
        print(f"cluster-up: kind create cluster --name {KIND} --image {KIND_IMAGE}", flush=True)
        KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
        arguments = ("--name", KIND, "--image", KIND_IMAGE, "--kubeconfig", str(KUBECONFIG), "--wait", "180s")
        done = _kind("create", "cluster", *arguments, "--config", "-", text=json.dumps(kind_settings()))
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise Unavailable(f"kind failed: {said[0]}; `make cluster-up USE=own` builds one without kind")
    else:
        _kind("export", "kubeconfig", "--name", KIND, "--kubeconfig", str(KUBECONFIG))
    api = Api(KUBECONFIG)
    for item in api.get("/api/v1/nodes")["items"]:
        gpus = item["metadata"]["labels"].get("nvidia.com/gpu.count")
        if gpus:
            patch = [{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": gpus}]
            path = f"/api/v1/nodes/{item['metadata']['name']}/status"
            api.call("PATCH", path, patch, "application/json-patch+json")
    return f"kind's cluster {KIND!r} at {api.server}; `make cluster-down` deletes it{lacking(api)}"


def kind_settings() -> dict[str, object]:
    """kind's configuration: one control plane, and a worker for each of our nodes."""
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    workers = [
        {
            "role": "worker", "labels": node.labels,
            "kubeadmConfigPatches": [json.dumps({"kind": "JoinConfiguration", "nodeRegistration": {"taints": taints}})],
        }
        for node in NODES.values()
    ]  # fmt: skip
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}, *workers]}


def load_image(image: str | Path, node: str) -> None:
    """Give kind's worker for `node` an image: a tar's path or a name that docker has. Raises Unavailable."""
    if not has_kind() or KIND not in _kind("get", "clusters").stdout.split():
        raise Unavailable(f"{image}: images of a cluster that is not ours come from its registry")
    how = "image-archive" if Path(image).is_file() else "docker-image"
    worker = f"{KIND}-worker{'' if node == next(iter(NODES)) else '2'}"  # as kind names them, in order
    done = _kind("load", how, str(image), "--name", KIND, "--nodes", worker)
    if done.returncode:
        raise Unavailable(f"kind did not take {image}: {done.stderr.strip().splitlines()[-1]}")


def down() -> str:
    """Forget the user's cluster, or delete kind's. Empty when there was neither."""
    if KUBECONFIG.is_symlink():
        return f"{KUBECONFIG.resolve()} is yours: nothing was started, nothing ended"
    if has_kind() and KIND in _kind("get", "clusters").stdout.split():
        _kind("delete", "cluster", "--name", KIND)
        return f"deleted kind's cluster {KIND!r}"
    return ""
