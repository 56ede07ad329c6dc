"""Where the cluster's parts lie and which addresses they have. Nothing here does anything.

Addresses: the machine, the control plane and the nodes share 10.245.0.0/24; each node gives its pods a /24 of
10.244.0.0/16; Services are in 10.96.0.0/16. A pod reaches a server on the machine at MACHINE_ADDRESS.
"""

import os
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "v1.34.2"
ARGO = "v3.7.3"
JOBSET = "v0.12.0"

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "go"
KUBECONFIG = ROOT / ".hanforge" / "cluster" / "kubeconfig"
CACHE = Path(os.environ.get("HANFORGE_CLUSTER_CACHE") or Path.home() / ".cache" / "hanforge" / "cluster")
STATE = CACHE / "state"

LINK = "hanforge0"  # the machine's end of the cable into the cluster
NETWORK = "10.245.0.0/24"
MACHINE_ADDRESS = "10.245.0.254"
CONTROL_ADDRESS = "10.245.0.1"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
DNS_SERVICE = "10.96.0.10"
API_PORT = 6443
JOBSET_PORT = 9443
CGROUP = "hanforge-cluster"


@dataclass(frozen=True)
class Node:
    """One node: its address, its pods' network, and the processors, memory and GPUs that it says it has."""

    name: str
    address: str
    pods: str
    gpus: int
    product: str
    memory_mib: int
    family: str
    compute: str
    cpus: int
    host_memory_gib: int

    @property
    def labels(self) -> dict[str, str]:
        """The labels that GPU feature discovery writes for such a node."""
        return {
            "nvidia.com/gpu.present": "true",
            "nvidia.com/gpu.count": str(self.gpus),
            "nvidia.com/gpu.product": self.product,
            "nvidia.com/gpu.memory": str(self.memory_mib),
            "nvidia.com/gpu.family": self.family,
            "nvidia.com/gpu.compute.major": self.compute.split(".")[0],
            "nvidia.com/gpu.compute.minor": self.compute.split(".")[1],
            "nvidia.com/gpu.replicas": "1",
            "nvidia.com/gpu.sharing-strategy": "none",
            "nvidia.com/mig.capable": "true" if self.family == "hopper" else "false",
        }

    @property
    def state(self) -> Path:
        """What the node keeps: its /var/lib, /var/log and configuration."""
        return STATE / "nodes" / self.name


NODES = {
    node.name: node
    for node in (
        Node("h100-0", "10.245.0.10", "10.244.0.0/24", 8, "NVIDIA-H100-80GB-HBM3", 81559, "hopper", "9.0", 192, 2048),
        Node("t4-0", "10.245.0.11", "10.244.1.0/24", 2, "Tesla-T4", 15360, "turing", "7.5", 16, 60),
    )
}
