"""What a cluster of our own needs of the machine: Linux, root, Go to build with, namespaces, and Debian's packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster import build
from tests.cluster.errors import Unavailable
from tests.cluster.layout import CACHE

UNSHARE = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--mount-proc", "--propagation", "private"]
HIDDEN = (Path("/run"), Path("/var/lib"), Path("/var/log"))  # each node has its own
PACKAGES = {  # Debian's package -> what shows that it is there
    "containerd": ("containerd", "ctr", "containerd-shim-runc-v2"),
    "runc": ("runc",),
    "containernetworking-plugins": ("/usr/lib/cni/bridge|/opt/cni/bin/bridge",),
    "iptables": ("iptables",),
    "conntrack": ("conntrack",),
    "iproute2": ("ip",),
    "busybox-static": ("busybox",),
}


def check() -> None:
    """Raise Unavailable where this machine cannot run the cluster, with all that is missing."""
    missing = []
    if not sys.platform.startswith("linux"):
        missing.append("Linux")
    elif os.geteuid() != 0:
        missing.append("root (sudo make cluster-up)")
    if not build.built() and shutil.which("go") is None:
        missing.append("Go 1.26 or newer (https://go.dev/dl)")
    if missing:
        raise Unavailable(
            f"no kubeconfig, no kind, and a cluster of its own needs {' and '.join(missing)}: get one of the three"
        )
    if any(folder in CACHE.parents for folder in HIDDEN):
        raise Unavailable(f"the nodes cannot see {CACHE}: choose a folder outside {', '.join(map(str, HIDDEN))}")
    allowed = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if allowed.returncode:
        raise Unavailable(f"this machine allows no namespaces ({allowed.stderr.strip()}): use a kubeconfig or kind")


def install_packages(packages: Mapping[str, tuple[str, ...]] = PACKAGES) -> None:
    """Install what is missing of Debian's packages with apt-get, saying so."""
    missing = [name for name, marks in packages.items() if not all(map(_present, marks))]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"install what Debian calls {' '.join(missing)}: there is no apt-get here to do it")
    print(f"apt-get install {' '.join(missing)}", flush=True)
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip().splitlines()[-1]}")


def _present(mark: str) -> bool:
    return any(shutil.which(path) for path in mark.split("|"))
