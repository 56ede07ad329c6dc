"""What this machine has for `make test-cluster`, and what is installed where Debian lacks it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from images import build as image_build
from images import daemon, engine
from tests.cluster import build as cluster_build
from tests.cluster import own, requirements, theirs
from tests.cluster.errors import Unavailable

IMAGES_GB, PROGRAMS_GB, RUNNING_GB = 9, 9, 4  # what images, a cluster's programs, and a run of both take of the disk
SWITCH = "HANFORGE_TEST_CLUSTER"


def why_not() -> str:
    """Why this machine cannot run the proofs and what it would need, in one line; empty where it can."""
    if os.environ.get(SWITCH, "").lower() in ("off", "no", "0", "false"):
        return f"{SWITCH}={os.environ[SWITCH]} says so; unset it to run them"
    if not sys.platform.startswith("linux"):
        return f"this is {sys.platform}; it needs Linux"
    try:
        cluster_choice()
    except Unavailable as error:
        return f"{error}; a cluster of yours is used with USE=existing alone"
    if not daemon.answers() and not _can_start_docker():
        return "no docker engine answers; it needs docker, or root on Debian to install and start one"
    if free_gb() < (needed := _needed_gb()):
        return f"{free_gb():.0f} GB of disk are free; it needs {needed}"
    return ""


def cluster_choice() -> str:
    """Which cluster: USE, else one of our own where the machine can run it, else kind's; no kubeconfig unasked."""
    if os.environ.get("USE"):
        return os.environ["USE"]
    try:
        if not own.running():
            requirements.check()
    except Unavailable:
        if theirs.has_kind():
            return "kind"
        raise
    return "own"


def cluster_runs() -> bool:
    """Whether the cluster runs already, and is to be left running."""
    return own.running() if cluster_choice() == "own" else theirs.runs()


def free_gb() -> float:
    """Free disk where docker and the cluster keep their files."""
    return shutil.disk_usage("/").free / 1e9


def _needed_gb() -> int:
    images = 0 if daemon.answers() and engine.has_image("docker", "hanforge-serve:latest") else IMAGES_GB
    programs = 0 if cluster_build.built() else PROGRAMS_GB
    return RUNNING_GB + images + programs


def _can_start_docker() -> bool:
    installed = shutil.which("docker") and shutil.which("dockerd")
    return os.geteuid() == 0 and bool(installed or (shutil.which("apt-get") and Path("/etc/debian_version").exists()))


def install_docker() -> None:
    """Install Debian's docker where none answers and none could be started."""
    if not daemon.answers():
        requirements.install_packages({"docker.io": ("docker", "dockerd")})


def install_debootstrap() -> None:
    """Install what `make base-image` needs."""
    requirements.install_packages({"debootstrap": ("debootstrap",)})


def has_base() -> bool:
    """Whether a base image is here, or comes from a registry within a minute."""
    docker = engine.client()
    if engine.has_image(docker, image_build.PULLED) or engine.has_image(docker, image_build.MADE):
        return True
    words = [docker, "pull", "--quiet", image_build.PULLED]
    try:
        return subprocess.run(words, capture_output=True, timeout=60, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
