"""What a test does to a node: hand it an image, run a command in it, stop its kubelet.

Works on the cluster of our own; `load_image` on kind's too. On the user's own cluster images come from a registry.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.cluster import layers, own, theirs
from tests.cluster.errors import Unavailable
from tests.cluster.layout import MACHINE_ADDRESS, NODES
from tests.cluster.processes import processes

NAMESPACE = "k8s.io"  # containerd's, where the kubelet looks for images


def entrance(node: str) -> list[str]:
    """The command prefix that runs a command inside a node: its mounts, network and processes."""
    pids = processes("-m", "tests.cluster.node", node)
    if not own.running() or not pids:
        raise Unavailable(f"no node {node!r} of our own runs here: `make cluster-up`")
    return ["nsenter", "--target", str(pids[0]), "--mount", "--net", "--uts", "--pid", "--"]


def run_in(node: str, *command: str) -> str:
    """Run a command inside a node and give what it printed. Raises CalledProcessError."""
    return subprocess.run([*entrance(node), *command], check=True, capture_output=True, text=True).stdout


def load_image(image: str | Path, node: str) -> None:
    """Give `node` an image: the path of a tar (docker save's or OCI's), or the name of an image that docker has.

    Pods then name it with `imagePullPolicy: IfNotPresent`. What docker has comes as links to its layers, in seconds and
    without a copy, where both are on one file system. Raises Unavailable where it cannot be done.
    """
    if not own.running():
        theirs.load_image(image, node)
        return
    ctr = [*entrance(node), "ctr", "--namespace", NAMESPACE]
    if Path(image).is_file():
        with Path(image).open("rb") as tar:
            _import(tar, ctr)
    elif linked := layers.of_docker(str(image), NODES[node].state):
        layers.give(linked, ctr, NODES[node].state / "lib")
    else:
        saved = subprocess.Popen(["docker", "save", str(image)], stdout=subprocess.PIPE)
        assert saved.stdout is not None
        _import(saved.stdout, ctr)
        saved.wait()


def provide(wanted: Mapping[str, Sequence[str]]) -> None:
    """Give nodes images of docker, by the node's name: {"t4-0": ["hanforge-data", "hanforge-train"]}.

    Once the cluster is up, and again after a build: only layers that a node lacks take time. Raises Unavailable.
    """
    for node, names in wanted.items():
        for name in names:
            load_image(name, node)


def _import(tar: IO[bytes], ctr: Sequence[str]) -> None:
    """Copy the images of a tar into a containerd. Raises Unavailable."""
    done = subprocess.run([*ctr, "images", "import", "-"], stdin=tar, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"the node did not take the image: {done.stderr.strip()}")
    subprocess.run([*ctr, "content", "prune", "references"], check=True)  # unpacked: the layers' tars may go


def images(node: str) -> set[str]:
    """The names of the images that a node has."""
    return set(run_in(node, "ctr", "--namespace", NAMESPACE, "images", "list", "--quiet").split())


@contextmanager
def stopped_kubelet(node: str) -> Iterator[None]:
    """Stop a node's kubelet (SIGSTOP) for the length of a `with` block: after 50 s the cluster gives the node up."""
    (pid,) = processes("--hostname-override", node)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def machine_address() -> str:
    """The address at which pods reach a server on this machine: bind the server to it."""
    if address := os.environ.get("HANFORGE_MACHINE_ADDRESS"):
        return address
    if own.running():
        return MACHINE_ADDRESS
    raise Unavailable("set HANFORGE_MACHINE_ADDRESS to an address of this machine that your cluster's pods can reach")


def kill_kubelet(node: str) -> None:
    """Kill a node's kubelet (SIGKILL); its supervisor starts it again a second later."""
    (pid,) = processes("--hostname-override", node)
    os.kill(pid, signal.SIGKILL)
