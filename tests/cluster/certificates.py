"""The cluster's own certificate authority, its certificates, and kubeconfigs made of them.

Every part of the control plane and every node has a client certificate of its own, so that RBAC and the Node
authorizer see them as in any cluster.
"""

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, stem: Path) -> None:
        """Write STEM.crt and STEM.key."""
        stem.with_suffix(".crt").write_bytes(self.certificate)
        stem.with_suffix(".key").touch(mode=0o600)
        stem.with_suffix(".key").write_bytes(self.key)


class Authority:
    """Signs; lives for the length of one `cluster-up`."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("hanforge-cluster")
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        self.pair = Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(self._key))

    def issue(self, name: str, groups: Sequence[str] = (), addresses: Sequence[str] = ()) -> Pair:
        """Sign a certificate for user `name` of `groups`; with addresses (DNS names, IPs) one that can serve."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name, groups), self._name, key.public_key())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if addresses else [])]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if addresses:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(a) for a in addresses]), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))

    def kubeconfig(self, server: str, name: str, groups: Sequence[str] = (), namespace: str = "default") -> str:
        """A kubeconfig (JSON, which is YAML) for user `name` of `groups` against the API at `server`."""
        user = self.issue(name, groups)
        cluster = {"server": server, "certificate-authority-data": _text(self.pair.certificate)}
        keys = {"client-certificate-data": _text(user.certificate), "client-key-data": _text(user.key)}
        return json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "hanforge",
            "clusters": [{"name": "hanforge", "cluster": cluster}],
            "users": [{"name": name, "user": keys}],
            "contexts": [{"name": "hanforge",
                          "context": {"cluster": "hanforge", "user": name, "namespace": namespace}}],
        }, indent=1)  # fmt: skip


def _text(pem: bytes) -> str:
    return base64.b64encode(pem).decode()


def _name(name: str, groups: Sequence[str] = ()) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + LIFETIME)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption())
