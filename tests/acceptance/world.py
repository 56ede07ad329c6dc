"""What the proofs share: the command line, a namespace of one's own, images on nodes, and what a failed wait says.

A wait that fails shows what `hanforge why` says and every pod's last state, so that a run of a machine that nobody can
look into is readable from its output.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from k8s.client import EVENTS, JOBS, PODS, SECRETS, Cluster, Object
from k8s.connection import connect
from tests.cluster import nodes
from tests.cluster.api import Api
from tests.cluster.conftest import fresh_namespace as own_namespace
from tests.cluster.errors import Unavailable
from tests.k8s.world import until

KINDS = ("data", "train", "serve")
IMAGES = {name: os.environ.get(f"HANFORGE_{name.upper()}_IMAGE", f"hanforge-{name}:latest") for name in KINDS}
GPU_PROFILES = ("h100", "a100", "v100", "t4-pair", "a10g", "rtx4090")
PLACED = {"h100-0": ("data", "train", "serve"), "t4-0": ("data", "train")}  # two nodes train together, one serves
SECRET = "s3"


def hanforge(*words: str) -> Result:
    """The command line, in this process: its `.output`, `.exit_code` and `.exception`."""
    return CliRunner().invoke(app, list(words))


def asked_for_well(*words: str) -> str:
    """Run a command that must end well, and give its output; fails with what it said."""
    said = hanforge(*words)
    assert said.exit_code == 0, f"hanforge {' '.join(words)}: {said.exit_code}: {said.exception}\n{said.output}"
    return said.output


@contextmanager
def fresh_namespace(api: Api, secret: dict[str, str]) -> Iterator[Cluster]:
    """Our client in a namespace of its own, with the Secret `s3` in it, for the length of a `with` block."""
    with own_namespace(api) as name:
        here = connect(name)
        here.create(SECRETS, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": secret})
        yield here


def common_values(url: str) -> dict[str, Any]:
    """Values of the chart for the test cluster: every node is tainted, and no profile's real size is here."""
    small = {"host_cpus": 1, "host_memory_gib": 3, "shm_gib": 0.1}
    return {
        "store": {"url": url, "secret": SECRET},
        "images": dict(IMAGES),
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "profiles": {
            "cpu": {"host_memory_gib": 7},
            "cpu-core": {"host_memory_gib": 3},
            **dict.fromkeys(GPU_PROFILES, small),
        },
        "engineSidecar": {"clientMemoryGib": 1},
        "driver": {"memory": "512Mi"},
    }


def give_images(node: str, *which: str) -> None:
    """Have these images ("data", "train", "serve") on a node as docker has them now; skips where docker has none.

    On a cluster that is not of our own the images come from its registry, or kind's nodes get them anew.
    """
    names = [IMAGES[name] for name in which]
    wanted = {name: _built(name) for name in names}
    try:
        held = nodes.images(node)
    except Unavailable:
        held = set()
    for name in names:
        if wanted[name] not in held:
            nodes.load_image(name, node)


def _built(image: str) -> str:
    """The id of an image that docker has; skips the test without one."""
    words = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO IMAGE {image}: run `make images CPU=1` first")
    return done.stdout.strip()


def wait(look: Callable[[], Any], seconds: float, explain: Callable[[], str]) -> Any:
    """The first thing that `look` gives which is not empty; fails after `seconds` with what `explain` says then."""
    try:
        return until(look, seconds)
    except TimeoutError as error:
        pytest.fail(f"{error}\n{explain()}")


def state_of(here: Cluster, store: str = "", run: str = "latest") -> str:
    """What a reader of a failed run wants: `hanforge why`, Jobs, pods with their containers, and the last warnings."""
    lines = [hanforge("why", run, "--store", store).output if store else ""]
    lines += [f"job {_name(job)}: {job.get('status')}" for job in here.list(JOBS)["items"]]
    for pod in here.list(PODS)["items"]:
        lines.append(f"pod {_name(pod)} on {pod['spec'].get('nodeName')}: {pod['status']['phase']}")
        every = ("initContainerStatuses", "containerStatuses")
        lines += [f"    {one['name']}: {one['state']}" for kind in every for one in pod["status"].get(kind) or ()]
    warnings = [event for event in here.list(EVENTS)["items"] if event.get("type") == "Warning"]
    lines += [f"warning {each['involvedObject'].get('name')}: {each.get('message')}" for each in warnings[-15:]]
    return "\n".join(lines)


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])
