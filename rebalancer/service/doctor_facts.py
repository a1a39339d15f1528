"""What `doctor` found out, before it is judged. Values only; `doctor_probe` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

from rebalancer.cluster.inventory import HostId, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.collect.host_check import HostCheck
from rebalancer.collect.past_use import Coverage


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    NOTE = 1
    """Nothing is wrong that can be seen from here; what cannot be is said with how to see it."""
    WARNING = 2
    """A rollout works, but not for everything, or not for long."""
    ERROR = 3
    """A rollout would fail, or must not be begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tested."""

    level: Level
    area: str
    about: str
    """The host, VM, file or setting."""
    text: str
    """What is so."""
    todo: str = ""
    """What to do about it; often a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalFacts:
    """The journal's database as this user finds it."""

    url: str
    """Without password."""
    exists: bool = True
    fault: str = ""
    """Why it cannot be used; empty: it can be written."""
    free_bytes: int | None = None
    """On its disk; `None` where that is another machine's business."""
    unfinished: tuple[str, ...] = ()
    """Plans whose rollouts were cut short."""
    busy: str = ""
    """Who is changing the cluster now."""
    paused: str = ""
    moved: frozenset[tuple[str, str]] = frozenset()
    """From which host to which running VMs were moved in the last 90 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressFacts:
    """How the other hosts reach one, as far as this machine can tell."""

    host: str
    peer_uri: str
    """What a source's libvirt connects to."""
    transport: str
    """`ssh`, `tls`, `tcp`, or empty: a local connection."""
    peer_name: str
    """The host in `peer_uri`; empty if there is none."""
    peer_addresses: tuple[str, ...] = ()
    """What the name means here; empty: nothing."""
    peer_port_error: str = ""
    """Why its port does not open from here."""
    memory_name: str = ""
    """Where memory is sent: of `migration_uri`, else what the host calls itself."""
    memory_addresses: tuple[str, ...] = ()
    is_memory_stated: bool = False
    """It is of `migration_uri`."""
    certificate_ends_at: datetime | None = None
    """Of its libvirt, with `tls`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFacts:
    """One configured hook."""

    moment: str
    command: str
    fault: str = ""
    may_object: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Facts:
    """Everything that is judged."""

    now: datetime
    cluster: str
    mode: str
    user: str
    is_root: bool
    tls: bool
    """Guests' memory is to be encrypted."""
    policies: Mapping[str, str]
    """What is wrong with each policy file; empty: nothing."""
    journal: JournalFacts
    hosts: tuple[HostCheck, ...]
    addresses: Mapping[str, AddressFacts] = field(default_factory=dict)
    client_certificate_ends_at: datetime | None = None
    snapshot: Snapshot | None = None
    snapshot_fault: str = ""
    prometheus_url: str = ""
    coverage: Coverage | None = None
    hooks: tuple[HookFacts, ...] = ()
    in_force: Mapping[str, Policy] = field(default_factory=dict)
    """The policies that can be read, by file."""

    @property
    def names(self) -> Mapping[HostId, str]:
        """Names of hosts by id."""
        return {host.id: host.name for host in self.snapshot.hosts} if self.snapshot else {}
