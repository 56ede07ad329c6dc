"""The cluster of our own: its start and its end.

Everything runs below one process (`machine`) in namespaces of its own. What is outside them and must be undone: the
state folder, the cgroups named CGROUP and the cable LINK, with its routes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.cluster import build, contents, network, requirements
from tests.cluster.api import Api
from tests.cluster.contents import SERVER
from tests.cluster.errors import Unavailable
from tests.cluster.layout import CACHE, CGROUP, KUBECONFIG, KUBERNETES, LINK, NODES, ROOT, STATE
from tests.cluster.processes import command_lines
from tests.cluster.requirements import UNSHARE


def first_processes() -> dict[Path, int]:
    """The first process of each cluster that runs on this machine, by the cache folder it was started from."""
    lines = ((pid, words) for pid, words in command_lines() if words[1:3] == ["-m", "tests.cluster.machine"])
    return {Path(words[3]).parent: pid for pid, words in lines}


def first_process() -> int | None:
    """The first process of the cluster of this cache folder; None where it does not run."""
    return first_processes().get(CACHE)


def running() -> bool:
    """Whether a cluster of our own runs and had come up completely."""
    return first_process() is not None and (STATE / "complete").exists()


def up() -> str:
    """Bring the cluster up, building what is missing, and give one line about it. Raises Unavailable."""
    if running():
        contents.write_kubeconfig()
        if Api(KUBECONFIG).ready():
            return f"already up: {SERVER}, nodes {', '.join(NODES)}"
    requirements.check()
    down()
    for cache in first_processes():
        raise Unavailable(f"a cluster of HANFORGE_CLUSTER_CACHE={cache} runs on this machine: end that one first")
    network.refuse_taken_networks()
    requirements.install_packages()
    programs = build.build()
    contents.prepare_state()
    _start(programs)
    api = Api(KUBECONFIG)
    network.wait_until(api.ready, f"the API server (its words: {STATE}/logs/kube-apiserver.log)", 120)
    contents.apply(api, programs)
    network.wait_until(lambda: all(_node_ready(api, name) for name in NODES), f"the nodes (see {STATE}/logs)", 120)
    network.wait_until(lambda: contents.jobset_answers(api), f"JobSet's controller (see {STATE}/logs/jobset.log)")
    (STATE / "complete").touch()
    return f"Kubernetes {KUBERNETES} at {SERVER}, nodes {', '.join(NODES)}; state and logs in {STATE}"


def _start(programs: Path) -> None:
    """Start the first process in namespaces of its own, and lay the cable to it."""
    with (STATE / "logs" / "machine.log").open("wb") as log:
        subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "tests.cluster.machine", str(programs)], cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    network.wait_until(lambda: first_process() is not None, f"the first process (see {STATE}/logs/machine.log)")
    pid = first_process()
    assert pid is not None
    network.cable_to_machine(pid)


def _node_ready(api: Api, name: str) -> bool:
    """Whether a node is Ready, offers its GPUs, and holds the images that the cluster brings."""
    items = [item for item in api.get("/api/v1/nodes")["items"] if item["metadata"]["name"] == name]
    if not items or not (NODES[name].state / "ready").exists():
        return False
    status = items[0]["status"]
    ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", []))
    return ready and status["allocatable"].get("nvidia.com/gpu") == str(NODES[name].gpus)


def down() -> str:
    """End the cluster and remove its state; leave the programs that were built. Gives a line about it."""
    pid = first_process()
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        network.wait_until(_ended, "the cluster's processes to end", 300)
    if network.exists(LINK) and not first_processes():  # the kernel keeps it while connections time out
        _delete_cable()
    if not first_processes():
        _remove_cgroups()
    existed = STATE.exists()
    if existed:
        shutil.rmtree(STATE)
    return "ended the cluster; what was built stays in its cache" if pid or existed else "no cluster runs"


def _delete_cable() -> None:
    """Delete the machine's end of the cable, which the kernel may do first."""
    try:
        network.ip("link", "delete", LINK)
    except Unavailable:
        if network.exists(LINK):
            raise


def _ended() -> bool:
    """Whether the first process's parent, which waits for the last one below it, is gone too."""
    ours = f"{CACHE}/"
    lines = (words for _, words in command_lines() if "tests.cluster.machine" in words)
    return not any(word.startswith(ours) for words in lines for word in words)


def _remove_cgroups() -> None:
    hierarchies = Path("/sys/fs/cgroup")
    for root in [*hierarchies.glob(CGROUP), *hierarchies.glob(f"*/{CGROUP}")]:
        deadline = time.monotonic() + 20
        while root.exists():
            for path in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
                _try_rmdir(path)
            if not _try_rmdir(root) and time.monotonic() > deadline:
                raise Unavailable(f"processes remain in the cgroup {root}: end them and run `make cluster-down` again")


def _try_rmdir(path: Path) -> bool:
    """Remove an empty cgroup; False while processes still leave it."""
    try:
        path.rmdir()
    except OSError:
        time.sleep(0.01)
        return not path.exists()
    return True
