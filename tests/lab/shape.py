"""What a lab looks like: its names, addresses and folders. Nothing here touches the machine."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.errors import LabError

MIB = 2**20
GIB = 2**30

HEARTBEAT_PORT = 7800
"""UDP port on the lab's own address to which guests send their heartbeats."""

COMMAND_PORT = 7801
"""UDP port on which a guest's agent takes commands."""

_FIRST_HOST = 10
_FIRST_GUEST = 100
_MAX_HOSTS = 64
_MAX_GUESTS = 150
# A host's name ends in its number, so a prefix that ended in a digit could name another lab's host.
# With "v-" before it and two digits after it, it must fit an interface name of 15 characters.
_PREFIX = re.compile(r"[a-z]([a-z0-9]{0,8}[a-z])?")

type Setting = str | int | list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabShape:
    """What to build. Two labs can run at once if prefix and network differ."""

    prefix: str = "lab"
    """Begins the name of every host, namespace and interface."""

    hosts: int = 3
    """How many libvirt hosts; on 2 cores, 3 hosts with 6 to 12 guests are comfortable."""

    network: str = "10.78.0.0/24"
    """A /24 that nothing else on this machine uses."""

    keepalive_interval_seconds: int = 5
    """Of libvirtd for its clients and for peer-to-peer migration; libvirt's default."""

    keepalive_count: int = 5
    """Unanswered keepalives that mean a dead peer: 5 x 5 s finds a cut link in 28 s, 1 x 3 in 4."""

    shared_storage: bool = False
    """Offer a folder that libvirt takes for a cluster file system, for guests with a disk."""

    libvirtd_settings: Mapping[str, Setting] = field(default_factory=dict)
    """More of libvirtd.conf, or other values than the lab's own: for TLS, say."""

    qemu_settings: Mapping[str, Setting] = field(default_factory=dict)
    """The same for qemu.conf."""

    def __post_init__(self) -> None:
        """Refuse what could not work."""
        if not _PREFIX.fullmatch(self.prefix):
            raise LabError(
                f"prefix {self.prefix!r}: use up to 10 lower-case letters and digits, "
                "beginning and ending with a letter"
            )
        if not 1 <= self.hosts <= _MAX_HOSTS:
            raise LabError(f"{self.hosts} hosts: choose 1 to {_MAX_HOSTS}")
        try:
            prefix_length = ipaddress.IPv4Network(self.network).prefixlen
        except ValueError as error:
            raise LabError(f"network {self.network!r}: {error}") from error
        if prefix_length != 24:
            raise LabError(f"network {self.network}: the lab needs a /24")

    @property
    def host_names(self) -> tuple[str, ...]:
        """lab1, lab2, ...: also the names of their network namespaces."""
        return tuple(f"{self.prefix}{number}" for number in range(1, self.hosts + 1))

    @property
    def switch(self) -> str:
        """The namespace that holds the bridge between the hosts."""
        return f"{self.prefix}-switch"

    @property
    def bridge(self) -> str:
        """The bridge in that namespace."""
        return f"br-{self.prefix}"

    @property
    def uplink(self) -> str:
        """The interface through which this machine itself takes part in the lab's network."""
        return f"{self.prefix}-up"

    @property
    def collector_address(self) -> str:
        """The machine's own address in the lab's network."""
        return self._address(1)

    def host_address(self, name: str) -> str:
        """The address of a host."""
        return self._address(_FIRST_HOST + 1 + self.host_names.index(name))

    def guest_address(self, number: int) -> str:
        """The address of the guest with a number, from 0."""
        if not 0 <= number < _MAX_GUESTS:
            raise LabError(f"guest number {number}: a lab holds up to {_MAX_GUESTS} guests")
        return self._address(_FIRST_GUEST + number)

    def _address(self, last: int) -> str:
        return str(ipaddress.IPv4Network(self.network)[last])

    def to_json(self) -> str:
        """The shape as it is recorded in the lab's folder."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabShape:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def host_link(host: str) -> str:
    """The switch's port towards a host."""
    return f"v-{host}"


def mac_address(address: str, *, first_octets: str = "52:54") -> str:
    """A MAC address that no other lab address has: four octets are those of the IPv4 address."""
    octets = ipaddress.IPv4Address(address).packed
    return ":".join([first_octets, *(f"{octet:02x}" for octet in octets)])


def host_uuid(host: str, address: str) -> str:
    """A host's identity. libvirt refuses to migrate between two hosts with the same one."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{host}.{address}.rebalancer-lab"))


def default_state_dir(prefix: str) -> Path:
    """Where a lab keeps its state unless told otherwise."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / f"rebalancer-lab-{prefix}"


def default_cache_dir() -> Path:
    """Where initramfs and libvirt's knowledge about QEMU are kept between labs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "rebalancer-lab"
