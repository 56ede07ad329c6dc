"""The cluster of our own: what it needs of the machine, its start, and its end.

Everything runs below one process (`machine`) in namespaces of its own. What is outside them and must be undone: the
state folder, the cgroups named CGROUP and the cable LINK, with its routes.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster import build, network
from tests.cluster.api import Api, Object
from tests.cluster.certificates import Authority
from tests.cluster.errors import Unavailable
from tests.cluster.layout import (
    API_PORT,
    API_SERVICE,
    CACHE,
    CGROUP,
    CONTROL_ADDRESS,
    DNS_SERVICE,
    KUBECONFIG,
    KUBERNETES,
    LINK,
    NODES,
    ROOT,
    STATE,
)

SERVER = f"https://{CONTROL_ADDRESS}:{API_PORT}"
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
RESTRICTED = {  # Argo's own containers, in every pod of a Workflow
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}
COREFILE = """\
cluster.local in-addr.arpa {{
    errors
    kubernetes {{
        kubeconfig {kubeconfig}
        ttl 5
    }}
    cache 5
}}
. {{
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def first_processes() -> dict[Path, int]:
    """The first process of each cluster that runs on this machine, by the cache folder it was started from."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if words[1:3] == ["-m", "tests.cluster.machine"]:
                found[Path(words[3]).parent] = int(entry.name)
    return found


def first_process() -> int | None:
    """The first process of the cluster of this cache folder; None where it does not run."""
    return first_processes().get(CACHE)


def running() -> bool:
    """Whether a cluster of our own runs and had come up completely."""
    return first_process() is not None and (STATE / "complete").exists()


def up() -> str:
    """Bring the cluster up, building what is missing, and give one line about it. Raises Unavailable."""
    if running():
        _write_kubeconfig()
        if Api(KUBECONFIG).ready():
            return f"already up: {SERVER}, nodes {', '.join(NODES)}"
    _require_machine()
    down()
    for cache in first_processes():
        raise Unavailable(f"a cluster of HANFORGE_CLUSTER_CACHE={cache} runs on this machine: end that one first")
    network.refuse_taken_networks()
    _install_packages()
    programs = build.build()
    _prepare_state()
    _start(programs)
    api = Api(KUBECONFIG)
    network.wait_until(api.ready, f"the API server (its words: {STATE}/logs/kube-apiserver.log)", 120)
    _apply(api, programs)
    network.wait_until(lambda: all(_node_ready(api, name) for name in NODES), f"the nodes (see {STATE}/logs)", 120)
    (STATE / "complete").touch()
    return f"Kubernetes {KUBERNETES} at {SERVER}, nodes {', '.join(NODES)}; state and logs in {STATE}"


def _require_machine() -> None:
    missing = []
    if not sys.platform.startswith("linux"):
        missing.append("Linux")
    elif os.geteuid() != 0:
        missing.append("root (sudo make cluster-up)")
    if not build.built() and shutil.which("go") is None:
        missing.append("Go 1.24 or newer (https://go.dev/dl)")
    if missing:
        raise Unavailable(
            f"no kubeconfig, no kind, and a cluster of its own needs {' and '.join(missing)}: get one of the three"
        )
    if any(folder in CACHE.parents for folder in HIDDEN):
        raise Unavailable(f"the nodes cannot see {CACHE}: choose a folder outside {', '.join(map(str, HIDDEN))}")
    allowed = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if allowed.returncode:
        raise Unavailable(f"this machine allows no namespaces ({allowed.stderr.strip()}): use a kubeconfig or kind")


def _install_packages() -> None:
    """Install what is missing of PACKAGES with apt-get, saying so."""
    missing = [name for name, marks in PACKAGES.items() if not all(map(_present, marks))]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"install what Debian calls {' '.join(missing)}: there is no apt-get here to do it")
    print(f"cluster-up: apt-get install {' '.join(missing)}", flush=True)
    for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300", *command]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"`{' '.join(command)}` failed: {done.stderr.strip().splitlines()[-1]}")


def _present(mark: str) -> bool:
    return any(shutil.which(path) for path in mark.split("|"))


def _prepare_state() -> None:
    """Certificates, kubeconfigs, the DNS server's configuration and the folders for logs and nodes."""
    for name in ("pki", "kubeconfigs", "logs", "nodes"):
        (STATE / name).mkdir(parents=True)
    (STATE / "pki").chmod(0o700)
    authority = Authority()
    authority.pair.write(STATE / "pki" / "ca")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    server = authority.issue("kube-apiserver", addresses=[*names, CONTROL_ADDRESS, API_SERVICE, "127.0.0.1"])
    server.write(STATE / "pki" / "apiserver")
    authority.issue("kube-apiserver-kubelet-client", ["system:masters"]).write(STATE / "pki" / "kubelet-client")
    accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = accounts.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (STATE / "pki" / "accounts.key").write_bytes(pem)
    users = {name: (f"system:node:{name}", "system:nodes") for name in NODES}
    users |= {name: (f"system:kube-{name}", "system:authenticated") for name in ("controller-manager", "scheduler")}
    users["kube-proxy"] = ("system:kube-proxy", "system:node-proxier")
    users |= {name: (name, "system:masters") for name in ("coredns", "argo", "admin")}
    for name, (user, group) in users.items():
        namespace = "argo" if name == "argo" else "default"
        (STATE / "kubeconfigs" / name).write_text(authority.kubeconfig(SERVER, user, [group], namespace))
    corefile = COREFILE.format(kubeconfig=STATE / "kubeconfigs" / "coredns")
    (STATE / "Corefile").write_text(corefile)
    _write_kubeconfig()


def _write_kubeconfig() -> None:
    """Give this checkout the administrator's kubeconfig."""
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.unlink(missing_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text((STATE / "kubeconfigs" / "admin").read_text())
    owner = ROOT.stat()  # who calls this with sudo reads it without
    for path in (KUBECONFIG.parent.parent, KUBECONFIG.parent, KUBECONFIG):
        os.chown(path, owner.st_uid, owner.st_gid)


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


def _apply(api: Api, programs: Path) -> None:
    """What a cluster has before its users come: DNS behind its Service, Argo's CRDs, namespace and settings."""
    metadata = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": name.lower(), "port": 53, "protocol": name} for name in ("UDP", "TCP")]
    slice_labels = {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "cluster-up"}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata,
         "spec": {"clusterIP": DNS_SERVICE, "ports": ports}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {**metadata, "labels": slice_labels},
         "addressType": "IPv4", "ports": ports, "endpoints": [{"addresses": [CONTROL_ADDRESS]}]},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argo"}},
        {"apiVersion": "v1", "kind": "ConfigMap",
         "metadata": {"name": "workflow-controller-configmap", "namespace": "argo"},
         "data": {"executor": json.dumps({"securityContext": RESTRICTED})}},
        *yaml.load_all((programs / "crds.yaml").read_text(), yaml.CSafeLoader),
    ]  # fmt: skip
    for item in objects:
        api.apply(item)


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
        network.wait_until(lambda: first_process() is None, "the cluster's processes to end")
    if (
        network.exists(LINK) and not first_processes()
    ):  # the kernel keeps its other end's namespace until the last connection times out
        network.ip("link", "delete", LINK)
    if not first_processes():
        _remove_cgroups()
    existed = STATE.exists()
    shutil.rmtree(STATE, ignore_errors=True)
    return "ended the cluster; what was built stays in its cache" if pid or existed else "no cluster runs"


def _remove_cgroups() -> None:
    roots = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    for root in [root / CGROUP for root in roots if (root / CGROUP).is_dir()]:
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
