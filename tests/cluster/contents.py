"""What is in a cluster of our own: its certificates and kubeconfigs, DNS, and Argo's definitions."""

import json
import os
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster.api import Api, Object
from tests.cluster.certificates import Authority
from tests.cluster.layout import (
    API_PORT,
    API_SERVICE,
    CONTROL_ADDRESS,
    DNS_SERVICE,
    KUBECONFIG,
    NODES,
    ROOT,
    STATE,
)

SERVER = f"https://{CONTROL_ADDRESS}:{API_PORT}"
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


def prepare_state() -> None:
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
    write_kubeconfig()


def write_kubeconfig() -> None:
    """Give this checkout the administrator's kubeconfig."""
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.unlink(missing_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text((STATE / "kubeconfigs" / "admin").read_text())
    owner = ROOT.stat()  # who calls this with sudo reads it without
    for path in (KUBECONFIG.parent.parent, KUBECONFIG.parent, KUBECONFIG):
        os.chown(path, owner.st_uid, owner.st_gid)


def apply(api: Api, programs: Path) -> None:
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
