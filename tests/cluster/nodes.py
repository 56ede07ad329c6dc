"""What a test does to a node: hand it an image, run a command in it, stop its kubelet.

Works on the cluster of our own; `load_image` on kind's too. On the user's own cluster images come from a registry.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import own, theirs
from tests.cluster.errors import Unavailable
from tests.cluster.layout import MACHINE_ADDRESS
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

    Pods then name it with `imagePullPolicy: IfNotPresent`. Raises Unavailable where it cannot be done.
    """
    if not own.running():
        theirs.load_image(image, node)
        return
    ctr = [*entrance(node), "ctr", "--namespace", NAMESPACE]
    command = [*ctr, "images", "import", "-"]
    if Path(image).is_file():
        with Path(image).open("rb") as tar:
            done = subprocess.run(command, stdin=tar, capture_output=True, text=True)
    else:
        saved = subprocess.Popen(["docker", "save", str(image)], stdout=subprocess.PIPE)
        done = subprocess.run(command, stdin=saved.stdout, capture_output=True, text=True)
        if saved.wait():
            raise Unavailable(f"`docker save {image}` failed: is there such an image, and does dockerd run?")
    if done.returncode:
        raise Unavailable(f"{node} did not take {image}: {done.stderr.strip()}")
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
