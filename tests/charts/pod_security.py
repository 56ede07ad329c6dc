"""The Pod Security Standard "restricted", rule by rule: https://kubernetes.io/docs/concepts/security/pod-security-standards."""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
PROFILES = ("RuntimeDefault", "Localhost")


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """What the admission of a namespace with `enforce: restricted` would say against a pod."""
    pod = spec.get("securityContext", {})
    # baseline
    yield from (f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    if pod.get("sysctls") or pod.get("seLinuxOptions") or pod.get("appArmorProfile") or pod.get("windowsOptions"):
        yield "the pod asks for sysctls, SELinux, AppArmor or Windows options"
    # restricted
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume['name']} is of a refused kind: {sorted(volume)}"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        name, own = container["name"], container.get("securityContext", {})
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            yield f"{name}: privileged, or procMount"
        if own.get("seLinuxOptions") or own.get("appArmorProfile") or own.get("windowsOptions"):
            yield f"{name}: SELinux, AppArmor or Windows options"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: hostPort"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation is not false"
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            yield f"{name}: runAsNonRoot is not true"
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            yield f"{name}: runs as user 0"
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in PROFILES:
            yield f"{name}: no seccomp profile"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield f"{name}: capabilities are not dropped"
