"""The cluster's cables: a bridge in the control plane's network namespace, a cable to each node and one to the machine.

All of it but the machine's own end lies in namespaces that end with the cluster; that end goes with its other one.
"""

import ipaddress
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.errors import Unavailable
from tests.cluster.layout import (
    CONTROL_ADDRESS,
    LINK,
    MACHINE_ADDRESS,
    NETWORK,
    NODES,
    POD_NETWORK,
    SERVICE_NETWORK,
    Node,
)

BRIDGE = "nodes"
FIRST = next(iter(NODES.values()))  # its kube-proxy serves what comes from outside
PREFIX = NETWORK.split("/")[1]


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
    """Poll every 50 ms until `condition()` holds. Raises Unavailable, naming `what` was waited for."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {timeout_seconds:.0f} s in vain for {what}")
        time.sleep(0.05)


def ip(*arguments: str) -> None:
    """Run `ip ARGUMENTS`. Raises Unavailable with its words."""
    done = subprocess.run(["ip", *arguments], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Unavailable(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")


def exists(link: str) -> bool:
    """Whether this network namespace has the link."""
    table = Path("/proc/self/net/dev")
    return table.exists() and any(line.split(":")[0].strip() == link for line in table.read_text().splitlines())


def refuse_taken_networks() -> None:
    """Raise Unavailable where a route of this machine overlaps the cluster's networks."""
    routes = json.loads(subprocess.run(["ip", "-j", "route"], check=True, capture_output=True, text=True).stdout)
    ours = [ipaddress.ip_network(network) for network in (NETWORK, POD_NETWORK, SERVICE_NETWORK)]
    for route in routes:
        if route["dst"] == "default" or route.get("dev") == LINK:
            continue
        for network in ours:
            if network.overlaps(ipaddress.ip_network(route["dst"])):
                raise Unavailable(f"the route {route['dst']} dev {route.get('dev')} overlaps {network}, a test network")


def lay_bridge() -> None:
    """In the control plane's namespace: loopback, and the bridge with its address."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("address", "add", f"{CONTROL_ADDRESS}/{PREFIX}", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    filtered = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if filtered.exists():
        filtered.write_text("0")
    for node in NODES.values():
        ip("route", "add", node.pods, "via", node.address)
    ip("route", "add", SERVICE_NETWORK, "via", FIRST.address)


def plug(link: str) -> None:
    """Attach a cable's end in the control plane's namespace to the bridge."""
    ip("link", "set", link, "master", BRIDGE, "up")


def cable_to_node(node: Node, pid: int) -> None:
    """From the control plane: a cable to the namespace of process `pid`, where it is named eth0."""
    ip("link", "add", node.name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    plug(node.name)


def settle_node(node: Node) -> None:
    """In a node's namespace, once its cable is there: address, forwarding, the way to the other nodes' pods."""
    wait_until(lambda: exists("eth0"), f"{node.name}'s cable")
    ip("link", "set", "lo", "up")
    ip("address", "add", f"{node.address}/{PREFIX}", "dev", "eth0")
    ip("link", "set", "eth0", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for other in NODES.values():
        if other is not node:
            ip("route", "add", other.pods, "via", other.address)
    ip("route", "add", SERVICE_NETWORK, "dev", "eth0")  # kube-proxy rewrites what would leave on it


def cable_to_machine(pid: int) -> None:
    """On the machine: a cable into the namespace of process `pid` (named uplink there), routes to pods and Services."""
    ip("link", "add", LINK, "type", "veth", "peer", "name", "uplink", "netns", str(pid))
    ip("address", "add", f"{MACHINE_ADDRESS}/{PREFIX}", "dev", LINK)
    ip("link", "set", LINK, "up")
    for node in NODES.values():
        ip("route", "add", node.pods, "via", node.address)
    ip("route", "add", SERVICE_NETWORK, "via", FIRST.address)
