"""Docker's layers on the nodes: linked, not copied, with what an image removed gone, and written by nobody."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import daemon
from tests.cluster import build, layers, nodes, pods
from tests.cluster.api import Api
from tests.cluster.layout import NODES

pytestmark = pytest.mark.cluster
NAME = "hanforge.test/layers:1"
STEPS = f"""
FROM {build.BUSYBOX_IMAGE}
USER 0
RUN mkdir -m 777 /d /e && echo one > /d/a && echo two > /d/b && echo three > /e/c && chmod 666 /d/*
RUN rm /d/b && rm -r /e && mkdir /e && echo four > /e/d
USER 8737
"""


@pytest.fixture
def image(cluster: Path, tmp_path: Path) -> Iterator[layers.Image]:
    """An image of docker whose last layer takes a file and a folder of the one below away."""
    if not daemon.answers():
        pytest.skip("NO LAYERS: no docker engine answers; as root: python3 -m images.daemon start")
    subprocess.run(
        ["docker", "load", "-i", str(build.folder() / "images" / "busybox.tar")], check=True, capture_output=True
    )
    (tmp_path / "Dockerfile").write_text(STEPS)
    command = ["docker", "build", "--network", "host", "-t", NAME, str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    found = layers.of_docker(NAME, NODES["t4-0"].state)
    if found is None:
        pytest.skip("NO LAYERS: docker's storage is not overlay2, or not on the file system of the cluster's state")
    yield found
    subprocess.run(["docker", "image", "rm", "--force", NAME], check=True, capture_output=True)


def test_two_nodes_and_docker_share_the_files_of_an_image_and_no_writes(
    api: Api, namespace: str, image: layers.Image
) -> None:
    nodes.provide({node: [NAME] for node in NODES})
    nodes.provide({node: [NAME] for node in NODES})
    for node in NODES:  # the first writes over a file that the image has, the second sees it as it was
        spec = pods.pod_spec("cat /d/* /e/*; echo mine > /d/a; cat /d/a", node, image=NAME)
        spec["containers"][0]["securityContext"] = pods.RESTRICTED_CONTAINER | {"readOnlyRootFilesystem": False}
        ended, log = pods.run(api, namespace, node, spec)
        assert ended["status"]["phase"] == "Succeeded" and log == "one\nfour\nmine\n", log
    ours = image.layers[-2].folder / "d" / "a"
    assert ours.read_text() == "one\n"
    snapshots = Path("lib", "containerd", "io.containerd.snapshotter.v1.overlayfs", "snapshots")
    theirs = [path for node in NODES.values() for path in (node.state / snapshots).glob("*/fs/d/a")]
    linked = [path for path in theirs if path.samefile(ours)]
    assert len(linked) == len(NODES) and {path.read_text() for path in linked} == {"one\n"}


def test_an_image_stays_on_a_node_when_docker_removes_it(api: Api, namespace: str, image: layers.Image) -> None:
    nodes.load_image(NAME, "t4-0")
    subprocess.run(["docker", "image", "rm", NAME], check=True, capture_output=True)
    _, log = pods.run(api, namespace, "one", pods.pod_spec("cat /d/*", "t4-0", image=NAME))
    assert log == "one\n"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("hanforge-data", "docker.io/library/hanforge-data:latest"),
        ("someone/data:1", "docker.io/someone/data:1"),
        ("localhost:5000/data", "localhost:5000/data:latest"),
        ("registry.example.org/a/data:1", "registry.example.org/a/data:1"),
    ],
)
def test_a_name_is_written_out_as_containerd_keeps_it(name: str, full: str) -> None:
    assert layers.full_name(name) == full
