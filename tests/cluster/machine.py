"""The cluster's first process: control plane and nodes are its children, and all of them end with it.

`python -m tests.cluster.machine PROGRAMS`, started by `up` as process 1 of a pid namespace of its own, with a mount
and a network namespace. It is never asked to stop: `down` kills it, and the kernel ends the rest.
"""

import subprocess
import sys
from pathlib import Path

from tests.cluster import network
from tests.cluster.build import ARGOEXEC_IMAGE
from tests.cluster.layout import API_PORT, CONTROL_ADDRESS, NODES, POD_NETWORK, ROOT, SERVICE_NETWORK, STATE, Node
from tests.cluster.supervise import Supervisor

PKI = STATE / "pki"


def kubeconfig(name: str) -> Path:
    """The kubeconfig of one part of the cluster."""
    return STATE / "kubeconfigs" / name


def etcd(programs: Path) -> list[str | Path]:
    """etcd's command: on loopback, without fsync, since nothing in this cluster outlives it."""
    return [
        programs / "bin" / "etcd", "--data-dir", STATE / "etcd", "--unsafe-no-fsync", "--log-level", "warn",
        "--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
        "--listen-peer-urls", "http://127.0.0.1:2380",
    ]  # fmt: skip


def apiserver(programs: Path) -> list[str | Path]:
    """kube-apiserver's command: Node and RBAC authorization, the default admission plugins."""
    return [
        programs / "bin" / "kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379",
        "--bind-address", "0.0.0.0", "--advertise-address", CONTROL_ADDRESS, "--secure-port", str(API_PORT),
        "--tls-cert-file", PKI / "apiserver.crt", "--tls-private-key-file", PKI / "apiserver.key",
        "--client-ca-file", PKI / "ca.crt", "--authorization-mode", "Node,RBAC",
        "--enable-admission-plugins", "NodeRestriction", "--allow-privileged",
        "--kubelet-client-certificate", PKI / "kubelet-client.crt",
        "--kubelet-client-key", PKI / "kubelet-client.key",
        "--kubelet-preferred-address-types", "InternalIP",
        "--service-account-key-file", PKI / "accounts.key", "--service-account-signing-key-file", PKI / "accounts.key",
        "--service-account-issuer", "https://kubernetes.default.svc",
        "--service-cluster-ip-range", SERVICE_NETWORK, "--shutdown-delay-duration", "0s",
    ]  # fmt: skip


def controller_manager(programs: Path) -> list[str | Path]:
    """kube-controller-manager's command."""
    return [
        programs / "bin" / "kube-controller-manager", "--kubeconfig", kubeconfig("controller-manager"),
        "--use-service-account-credentials", "--service-account-private-key-file", PKI / "accounts.key",
        "--root-ca-file", PKI / "ca.crt", "--leader-elect=false", "--secure-port=0", "--bind-address", "127.0.0.1",
        "--cluster-cidr", POD_NETWORK, "--controllers", "*,-nodeipam,-cloud-node-lifecycle-controller",
    ]  # fmt: skip


def start_control_plane(programs: Path, supervisor: Supervisor) -> None:
    """etcd, API server, controller manager, scheduler, DNS, Argo's and JobSet's controllers."""
    supervisor.start("etcd", etcd(programs))
    supervisor.start("kube-apiserver", apiserver(programs))
    supervisor.start("kube-controller-manager", controller_manager(programs))
    scheduler: list[str | Path] = ["--kubeconfig", kubeconfig("scheduler"), "--leader-elect=false", "--secure-port=0"]
    supervisor.start("kube-scheduler", [programs / "bin" / "kube-scheduler", *scheduler, "--bind-address", "127.0.0.1"])
    supervisor.start("coredns", [programs / "bin" / "coredns", "-conf", STATE / "Corefile"])
    argo: list[str | Path] = ["--kubeconfig", kubeconfig("argo"), "--executor-image", ARGOEXEC_IMAGE]
    argo += ["--executor-image-pull-policy", "IfNotPresent", "--workflow-workers", "4"]
    command = [programs / "argo" / "workflow-controller", *argo]
    settings = {"LEADER_ELECTION_DISABLE": "true", "DEFAULT_REQUEUE_TIME": "2s"}  # looks again after 2 s, not 10
    supervisor.start("workflow-controller", command, settings)
    jobset: list[str | Path] = ["--kubeconfig", kubeconfig("jobset"), "--config", STATE / "jobset.json"]
    supervisor.start("jobset", [programs / "jobset" / "jobset", *jobset])


def start_node(node: Node, programs: Path, supervisor: Supervisor) -> None:
    """A node in a mount, network and host name space of its own, and its cable."""
    command = ["unshare", "--mount", "--net", "--uts", "--propagation", "private"]
    pid = supervisor.start(node.name, [*command, sys.executable, "-m", "tests.cluster.node", node.name, programs])
    own = Path("/proc/self/ns/net").readlink()
    network.wait_until(lambda: Path(f"/proc/{pid}/ns/net").readlink() != own, f"{node.name}'s namespaces")
    network.cable_to_node(node, pid)


def main() -> None:
    """Start everything and keep it running until killed."""
    programs = Path(sys.argv[1])
    subprocess.run(["hostname", "control"], check=False)
    network.lay_bridge()
    supervisor = Supervisor(STATE / "logs")
    start_control_plane(programs, supervisor)
    network.wait_until(lambda: network.exists("uplink"), "the cable to the machine")
    network.plug("uplink")
    for node in NODES.values():
        start_node(node, programs, supervisor)
    supervisor.forever()


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
