"""The lab's network: one namespace a host, a switch between them, links that can be cut and shaped.

The switch is a bridge in a namespace of its own, not among the machine's interfaces: so neither a
firewall's forwarding rules (Docker's, say) nor a network manager gets hold of the lab's traffic.

    this machine               lab-switch                     lab1
    lab-up 10.78.0.1/24 ---- uplink  br-lab    v-lab1 ------- eth0  br0 10.78.0.11/24  guests' taps
                                               v-lab2 ------- ...
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.errors import LabError
from tests.lab.shape import host_link, mac_address

if TYPE_CHECKING:
    from tests.lab.shape import LabShape

NETNS_FOLDER = Path("/run/netns")
"""Where iproute2 keeps named namespaces; the first one ever makes it a mount point."""

_SWITCH_PORT = "uplink"
_MIN_BURST_BYTES = 128 * 1024


def run(*command: str) -> str:
    """Run a command of the system and return what it printed.

    Raises:
        LabError: it failed; the message has its own words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def namespaces() -> frozenset[str]:
    """The named network namespaces of this machine."""
    return frozenset(entry["name"] for entry in json.loads(run("ip", "-j", "netns") or "[]"))


def links() -> frozenset[str]:
    """The network interfaces of this machine, outside of all namespaces."""
    return frozenset(entry["ifname"] for entry in json.loads(run("ip", "-j", "link")))


def find_conflict(shape: LabShape) -> str | None:
    """Say what on this machine already uses a name or address that the lab would need."""
    taken = namespaces() & {shape.switch, *shape.host_names}
    if taken:
        return f"network namespace {min(taken)} exists already"
    if shape.uplink in links():
        return f"network interface {shape.uplink} exists already"
    routes = json.loads(run("ip", "-j", "-4", "route", "show", "root", shape.network) or "[]")
    if routes:
        return f"network {shape.network} is in use on {routes[0].get('dev', 'this machine')}"
    return None


def create(shape: LabShape) -> None:
    """Make the switch, this machine's own link to it, and a namespace for each host."""
    run("ip", "netns", "add", shape.switch)
    _in(shape.switch, "ip", "link", "add", shape.bridge, "type", "bridge")
    _in(shape.switch, "ip", "link", "set", shape.bridge, "up")
    _plug_in(shape, port=_SWITCH_PORT, interface=shape.uplink, namespace=None)
    run("ip", "address", "add", f"{shape.collector_address}/24", "dev", shape.uplink)
    run("ip", "link", "set", shape.uplink, "up")
    for host in shape.host_names:
        _create_host(shape, host)


def _create_host(shape: LabShape, host: str) -> None:
    run("ip", "netns", "add", host)
    _plug_in(shape, port=host_link(host), interface="eth0", namespace=host)
    address = shape.host_address(host)
    # A bridge without an address of its own takes a port's, and the tap of a guest in migration
    # exists on two hosts.
    pinned = mac_address(address, first_octets="02:00")
    _in(host, "ip", "link", "add", "br0", "address", pinned, "type", "bridge")
    _in(host, "ip", "link", "set", "eth0", "master", "br0")
    _in(host, "ip", "address", "add", f"{address}/24", "dev", "br0")
    for link in ("lo", "eth0", "br0"):
        _in(host, "ip", "link", "set", link, "up")


def _plug_in(shape: LabShape, *, port: str, interface: str, namespace: str | None) -> None:
    """Lay a cable from an interface (of this machine, without a namespace) to a switch port."""
    ip = ("ip",) if namespace is None else ("ip", "-n", namespace)
    peer = ("peer", "name", port, "netns", shape.switch)
    run(*ip, "link", "add", interface, "type", "veth", *peer)
    _in(shape.switch, "ip", "link", "set", "dev", port, "master", shape.bridge, "up")


def remove(shape: LabShape) -> None:
    """Remove whatever `create` made, also if it did not get to its end."""
    present = namespaces()
    for namespace in (*shape.host_names, shape.switch):
        if namespace in present:
            _delete_namespace(namespace)
    if shape.uplink in links():
        # Its other end went with the switch, and the kernel removes it a moment later by itself.
        subprocess.run(["ip", "link", "delete", shape.uplink], capture_output=True, check=False)


def _delete_namespace(namespace: str) -> None:
    try:
        run("ip", "netns", "delete", namespace)
    except LabError:
        if namespace in namespaces():  # otherwise somebody else was faster
            raise


def mount_points() -> tuple[Path, ...]:
    """Where something is mounted on this machine."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # Not Path.is_mount(): it misses a folder mounted over itself, as iproute2 does with its own.
    return tuple(Path(line.split()[4].replace(r"\040", " ")) for line in lines)


def is_netns_folder_mounted() -> bool:
    """Whether some program has made a named namespace since the machine started."""
    return NETNS_FOLDER in mount_points()


def unmount_netns_folder() -> None:
    """Undo what the first named namespace did to the machine, if there is none left."""
    if is_netns_folder_mounted() and not any(NETNS_FOLDER.iterdir()):
        with contextlib.suppress(LabError, OSError):  # just now taken into use by somebody else
            run("umount", str(NETNS_FOLDER))
            NETNS_FOLDER.rmdir()


def set_cable(shape: LabShape, host: str, *, plugged_in: bool) -> None:
    """Cut or restore the link of a host, both directions, as if at the switch."""
    run(*cable_command(shape, host, plugged_in=plugged_in))


def cable_command(shape: LabShape, host: str, *, plugged_in: bool) -> tuple[str, ...]:
    """The command that cuts or restores the link of a host, for who cannot wait for Python."""
    state = "up" if plugged_in else "down"
    return ("ip", "-n", shape.switch, "link", "set", host_link(host), state)


def shape_cable(shape: LabShape, host: str, bytes_per_second: int | None) -> None:
    """Limit the link of a host in each direction; None lifts the limit."""
    for namespace, interface in ((host, "eth0"), (shape.switch, host_link(host))):
        subprocess.run(
            ["ip", "netns", "exec", namespace, "tc", "qdisc", "del", "dev", interface, "root"],
            capture_output=True,  # there may have been no limit, which tc calls an error
            check=False,
        )
        if bytes_per_second is not None:
            # The bucket must hold one large segment, and what comes between two timer ticks.
            burst_bytes = max(_MIN_BURST_BYTES, bytes_per_second // 100)
            _in(
                namespace,
                *("tc", "qdisc", "add", "dev", interface, "root", "tbf"),
                *("rate", f"{bytes_per_second * 8}bit", "burst", f"{burst_bytes}b"),
                *("latency", "50ms"),
            )


def _in(namespace: str, *command: str) -> str:
    if command[0] == "ip":
        return run("ip", "-n", namespace, *command[1:])
    return run("ip", "netns", "exec", namespace, *command)
