"""One node: containerd, kubelet, kube-proxy and a device plugin with GPUs that do not exist.

`python -m tests.cluster.node NAME PROGRAMS`, in mount, network and host name namespaces of its own: /run, /var/lib and
/var/log are the node's, so that every program finds its usual paths and two nodes never meet.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.cluster import network
from tests.cluster.build import PAUSE_IMAGE
from tests.cluster.layout import CGROUP, DNS_SERVICE, NODES, POD_NETWORK, STATE, Node
from tests.cluster.supervise import Supervisor

SOCKET = "/run/containerd/containerd.sock"
CGROUPS = Path("/sys/fs/cgroup")
KERNEL_SETTINGS = {  # what a kubelet wants and would write, on the machine of whoever runs a test cluster
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
CONTAINERD = """\
version = 2
oom_score = 0
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{conf}"
"""


def mount(*arguments: str | Path) -> None:
    """Run `mount ARGUMENTS` in this node's mount namespace."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def own_folders(node: Node) -> None:
    """Give this namespace its own /run, /var/lib and /var/log, stand-ins for the kernel's settings, and its size."""
    for name in ("lib", "log"):
        (node.state / name).mkdir(parents=True, exist_ok=True)
        mount("--bind", node.state / name, f"/var/{name}")
    mount("-t", "tmpfs", "run", "/run")
    for setting, value in KERNEL_SETTINGS.items():
        stand_in = node.state / setting.replace("/", ".")
        stand_in.write_text(value)
        mount("--bind", stand_in, f"/proc/sys/{setting}")
    claim_size(node)


def claim_size(node: Node) -> None:
    """Show the kubelet as many processors and as much memory as such a node has, so that real requests fit it.

    The containers have a /proc and /sys of their own and see the machine as it is.
    """
    memory = node.state / "meminfo"
    total = f"MemTotal: {node.host_memory_gib << 20} kB"
    memory.write_text(re.sub(r"^MemTotal:.*$", total, Path("/proc/meminfo").read_text(), flags=re.M))
    mount("--bind", memory, "/proc/meminfo")
    for cpu in range(node.cpus):
        topology = node.state / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(str(cpu))
        (topology / "physical_package_id").write_text("0")
    online = Path("/sys/devices/system/cpu/online")  # the kubelet binds its pods to these, and counts all
    (node.state / "cpu" / "online").write_text(online.read_text())
    mount("--bind", node.state / "cpu", "/sys/devices/system/cpu")
    if Path("/sys/devices/system/node").exists():
        mount("-t", "tmpfs", "none", "/sys/devices/system/node")  # NUMA nodes would name the real processors


def own_cgroup(node: Node) -> None:
    """Make the cgroup that holds the node's pods, in every hierarchy (v1) or with every controller (v2)."""
    if (CGROUPS / "cgroup.controllers").exists():
        path = CGROUPS
        for name in ("", CGROUP, node.name):
            path = path / name
            path.mkdir(exist_ok=True)
            available = (path / "cgroup.controllers").read_text().split()
            (path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))
        return
    for hierarchy in CGROUPS.iterdir():
        if not (hierarchy / "cgroup.procs").exists():
            continue
        path = hierarchy
        for name in (CGROUP, node.name):
            path = path / name
            path.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if (path / setting).exists():
                    (path / setting).write_text((path.parent / setting).read_text())


def write_settings(node: Node, programs: Path) -> None:
    """containerd's, CNI's, the kubelet's and kube-proxy's configuration."""
    conf = node.state / "cni"
    conf.mkdir(exist_ok=True)
    plugins = next(path for path in ("/usr/lib/cni", "/opt/cni/bin") if Path(path, "bridge").exists())
    settings = CONTAINERD.format(pause=PAUSE_IMAGE, plugins=plugins, conf=conf)
    (node.state / "containerd.toml").write_text(settings)
    bridge = {
        "type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pods}]]},
    }  # fmt: skip
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    plan = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}
    (conf / "10-pods.conflist").write_text(json.dumps(plan))
    (node.state / "kubelet.json").write_text(json.dumps(kubelet_settings(node)))
    (node.state / "kube-proxy.json").write_text(json.dumps(proxy_settings(node)))


def kubelet_settings(node: Node) -> dict[str, object]:
    """The kubelet's configuration."""
    (node.state / "resolv.conf").write_text("")  # names outside the cluster do not resolve in it
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(STATE / "pki" / "ca.crt")}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{CGROUP}/{node.name}", "failCgroupV1": False,
        "failSwapOn": False, "oomScoreAdj": 0,
        "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local",
        "resolvConf": str(node.state / "resolv.conf"), "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "registerWithTaints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "nodeStatusUpdateFrequency": "5s", "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"}, "maxPods": 60, "serializeImagePulls": False,
    }  # fmt: skip


def proxy_settings(node: Node) -> dict[str, object]:
    """kube-proxy's configuration. masqueradeAll: answers between pods of one bridge come back the way they went."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(STATE / "kubeconfigs" / "kube-proxy")},
        "mode": "iptables", "clusterCIDR": POD_NETWORK, "hostnameOverride": node.name, "oomScoreAdj": 0,
        "bindAddress": node.address, "conntrack": {"maxPerCore": 0},
        "iptables": {"masqueradeAll": True, "syncPeriod": "30s", "minSyncPeriod": "100ms"},
    }  # fmt: skip


def import_image(tar: Path) -> None:
    """Give this node's containerd the images of a tar."""
    subprocess.run(["ctr", "--namespace", "k8s.io", "images", "import", str(tar)], check=True)


def accepts() -> bool:
    """Whether containerd answers."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(SOCKET) == 0


def start_kubelet(node: Node, programs: Path, supervisor: Supervisor) -> None:
    """The kubelet, registered with the labels that GPU feature discovery writes, and its device plugin."""
    labels = ",".join(f"{key}={value}" for key, value in node.labels.items())
    command: list[str | Path] = [
        programs / "bin" / "kubelet", "--config", node.state / "kubelet.json",
        "--kubeconfig", STATE / "kubeconfigs" / node.name, "--node-ip", node.address,
        "--hostname-override", node.name, "--node-labels", labels,
    ]  # fmt: skip
    supervisor.start(f"{node.name}-kubelet", command)
    network.wait_until(Path("/var/lib/kubelet/device-plugins/kubelet.sock").exists, f"{node.name}'s kubelet")
    supervisor.start(f"{node.name}-gpus", [programs / "bin" / "gpus", str(node.gpus)])


def main() -> None:
    """Set the node up, start its programs and keep them running until killed."""
    node, programs = NODES[sys.argv[1]], Path(sys.argv[2])
    socket.sethostname(node.name)
    own_folders(node)
    own_cgroup(node)
    write_settings(node, programs)
    supervisor = Supervisor(STATE / "logs")
    supervisor.start(f"{node.name}-containerd", ["containerd", "--config", node.state / "containerd.toml"])
    network.settle_node(node)
    supervisor.start(
        f"{node.name}-kube-proxy", [programs / "bin" / "kube-proxy", "--config", node.state / "kube-proxy.json"]
    )
    network.wait_until(accepts, f"{node.name}'s containerd")
    import_image(programs / "images" / "pause.tar")
    start_kubelet(node, programs, supervisor)
    for image in ("busybox", "argoexec"):
        import_image(programs / "images" / f"{image}.tar")
    (node.state / "ready").touch()
    supervisor.forever()


if __name__ == "__main__":
    os.umask(0o022)
    main()
