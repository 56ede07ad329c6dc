"""What is in a cluster of our own: certificates and kubeconfigs, DNS, the definitions of Argo and JobSet."""

import base64
import json
import os
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cluster.api import Api, Object, Refused
from tests.cluster.certificates import Authority
from tests.cluster.layout import (
    API_PORT,
    API_SERVICE,
    CONTROL_ADDRESS,
    DNS_SERVICE,
    JOBSET_PORT,
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
    cache 5 {{
        denial 9984 1
    }}
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
    users |= {name: (name, "system:masters") for name in ("coredns", "argo", "jobset", "admin")}
    for name, (user, group) in users.items():
        namespace = "argo" if name == "argo" else "default"
        (STATE / "kubeconfigs" / name).write_text(authority.kubeconfig(SERVER, user, [group], namespace))
    prepare_jobset(authority)
    corefile = COREFILE.format(kubeconfig=STATE / "kubeconfigs" / "coredns")
    (STATE / "Corefile").write_text(corefile)
    write_kubeconfig()


def prepare_jobset(authority: Authority) -> None:
    """The settings of JobSet's controller and the certificate of its webhooks, which only the API server calls."""
    served = STATE / "pki" / "jobset"
    served.mkdir()
    pair = authority.issue("jobset", addresses=["127.0.0.1"])
    (served / "tls.crt").write_bytes(pair.certificate)
    (served / "tls.key").write_bytes(pair.key)
    settings = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1", "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": JOBSET_PORT, "certDir": str(served)},
        "internalCertManagement": {"enable": False}, "leaderElection": {"leaderElect": False},
        "metrics": {"bindAddress": "0"}, "health": {"healthProbeBindAddress": "0"},
    }  # fmt: skip
    (STATE / "jobset.json").write_text(json.dumps(settings))


def jobset_objects(programs: Path) -> list[Object]:
    """JobSet's CRD and its webhooks, called at their address with our authority's word for it."""
    authority = base64.b64encode((STATE / "pki" / "ca.crt").read_bytes()).decode()
    items = list(yaml.load_all((programs / "jobset.yaml").read_text(), yaml.CSafeLoader))
    for hook in (hook for item in items for hook in item.get("webhooks", [])):
        url = f"https://127.0.0.1:{JOBSET_PORT}{hook['clientConfig']['service']['path']}"
        hook["clientConfig"] = {"url": url, "caBundle": authority}
    return items


def jobset_answers(api: Api) -> bool:
    """Whether a JobSet would be taken, its webhooks included: nothing is created."""
    job = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "a"}]}}}}
    asked = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"replicatedJobs": [{"name": "a", "template": job}]},
    }  # fmt: skip
    try:
        api.call("POST", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets?dryRun=All", asked)
    except Refused:
        return False
    return True


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
    """What a cluster has before its users come: DNS behind its Service, Argo's and JobSet's definitions."""
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
        *jobset_objects(programs),
    ]  # fmt: skip
    for item in objects:
        api.apply(item)
