"""Which waiting migrations may start now: dependencies, concurrency and bandwidth.

Bandwidth is granted, not hoped for: for every NIC, rack uplink and WAN link, in each direction,
the sum of what was granted to migrations under way never exceeds the share that the limits allow.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, Mode, Snapshot, VmId
from rebalancer.cluster.plan import Migration
from rebalancer.cluster.policy import Limits

type Resource = tuple[str, str]
"""One direction of a NIC or link: `("out of", "h1")`, `("into", "h2")`, `("wan to osaka", …)`."""

OUT_OF, INTO = "out of", "into"
"""The two directions of a host's NIC."""

ENOUGH_RATIO = 0.5
"""A migration that others leave less than this share of its bandwidth waits until they are done:
how it was planned to go would not hold any more."""

LEAST_BYTES_PER_SECOND = 1024 * 1024
"""libvirt takes bandwidth in MiB/s and 0 means "unlimited", so less than one cannot be granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A migration under way, and the bandwidth it was granted."""

    migration: Migration
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A migration that somebody else began, and may have been granted anything."""

    vm: VmId
    source: HostId
    target: HostId | None
    """`None`: it goes to a host that is not ours, or was not seen."""
    bytes_per_second: float | None = None
    """What it takes of the links, as its source says; `None`: all of them, for all we know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A migration that may start now, and with how much bandwidth."""

    migration: str
    bytes_per_second: float


def admit(
    waiting: Sequence[Migration],
    flights: Iterable[Flight],
    snapshot: Snapshot,
    limits: Limits,
    foreign: Iterable[Foreign] = (),
    ceilings: Mapping[Resource, int] | None = None,
) -> tuple[Grant, ...]:
    """Choose from `waiting`, whose dependencies are met, in the plan's order.

    Migrations that others began count as concurrent ones, on both of their hosts, and what they
    take of the links is not granted again. `ceilings` are places that take fewer at once for the
    time being than the limits allow.
    A migration that lacks bandwidth keeps later ones off the links it waits for; otherwise a
    hot VM that needs a link to itself would wait for ever behind a stream of small ones.
    """
    gate = _Gate(flights, snapshot, limits, ceilings or {}, foreign)
    return tuple(grant for migration in waiting if (grant := gate.let_in(migration)) is not None)


class _Gate:
    def __init__(
        self,
        flights: Iterable[Flight],
        snapshot: Snapshot,
        limits: Limits,
        ceilings: Mapping[Resource, int],
        foreign: Iterable[Foreign],
    ) -> None:
        self._snapshot = snapshot
        self._limits = limits
        self._ceilings = ceilings
        self._there: Counter[Resource] = Counter()
        self._granted: dict[Resource, float] = defaultdict(float)
        self._theirs: dict[Resource, float] = defaultdict(float)
        self._reserved: set[Resource] = set()
        self._out: Counter[str] = Counter()
        self._in: Counter[str] = Counter()
        self._vms: set[str] = set()
        for flight in flights:
            self._take(flight.migration, flight.bytes_per_second)
        for other in foreign:
            self._count(other)

    def spare(self, migration: Migration) -> float:
        links = list(self._resources(migration))
        return max(min((self._free(*link) for link in links), default=0.0), 0.0)

    def _count(self, other: Foreign) -> None:
        self._out[other.source] += 1
        self._there[OUT_OF, other.source] += 1
        if other.target is not None:
            self._in[other.target] += 1
            self._there[INTO, other.target] += 1
        rate = math.inf if other.bytes_per_second is None else other.bytes_per_second
        for resource, _ in _between(other.source, other.target, self._snapshot, self._limits):
            self._theirs[resource] += rate

    def let_in(self, migration: Migration) -> Grant | None:
        if self._is_crowded(migration):
            return None
        wanted = self._wanted(migration)
        if wanted is None or any(
            resource in self._reserved or self._free(resource, capacity) < wanted * (1 - 1e-9)
            for resource, capacity in self._resources(migration)
        ):
            self._reserved.update(resource for resource, _ in self._resources(migration))
            return None
        self._take(migration, wanted)
        return Grant(migration=migration.id, bytes_per_second=wanted)

    def _is_crowded(self, migration: Migration) -> bool:
        return (
            sum(self._out.values()) >= self._limits.cluster
            or self._out[migration.source] >= self._limits.per_host_out
            or self._in[migration.target] >= self._limits.per_host_in
            or migration.vm in self._vms
            or any(
                self._there[place] >= self._ceilings[place]
                for place in places_of(migration, self._snapshot, self._limits)
                if place in self._ceilings
            )
        )

    def _wanted(self, migration: Migration) -> float | None:
        """What the plan grants, but never more than a free link of its path could give.

        Where others are at work it is what they leave; `None` if that is too little.
        """
        if not uses_the_network(migration.mode):
            return 0.0
        budgets = list(self._resources(migration))
        planned = max(min([migration.bytes_per_second, *(c for _, c in budgets)]), 0.0)
        left = min((c - self._theirs[resource] for resource, c in budgets), default=math.inf)
        return min(planned, left) if left >= planned * ENOUGH_RATIO else None

    def _free(self, resource: Resource, capacity: float) -> float:
        return capacity - self._granted[resource] - self._theirs[resource]

    def _take(self, migration: Migration, bytes_per_second: float) -> None:
        self._vms.add(migration.vm)
        self._out[migration.source] += 1
        self._in[migration.target] += 1
        self._there.update(places_of(migration, self._snapshot, self._limits))
        for resource, _ in self._resources(migration):
            self._granted[resource] += bytes_per_second

    def _resources(self, migration: Migration) -> Iterator[tuple[Resource, float]]:
        return _resources(migration, self._snapshot, self._limits)


def link_budgets(migration: Migration, snapshot: Snapshot, limits: Limits) -> tuple[float, ...]:
    """Return what migrations together may use of each link on the way, in bytes a second."""
    return tuple(budget for _, budget in _resources(migration, snapshot, limits))


def spare_bandwidth(
    migration: Migration,
    flights: Iterable[Flight],
    snapshot: Snapshot,
    limits: Limits,
    foreign: Iterable[Foreign] = (),
) -> float:
    """Return what nobody was granted, or takes, of every link on the way, in bytes a second."""
    gate = _Gate(flights, snapshot, limits, {}, foreign)
    return gate.spare(migration)


def places_of(migration: Migration, snapshot: Snapshot, limits: Limits) -> tuple[Resource, ...]:
    """Where a migration counts as one: both hosts, whatever its mode, and the links on the way."""
    links = (place for place, _ in _resources(migration, snapshot, limits))
    ends = ((OUT_OF, migration.source), (INTO, migration.target))
    return tuple(dict.fromkeys((*ends, *links)))


def _resources(
    migration: Migration, snapshot: Snapshot, limits: Limits
) -> Iterator[tuple[Resource, float]]:
    if uses_the_network(migration.mode):
        yield from _between(migration.source, migration.target, snapshot, limits)


def _between(
    source_id: HostId, target_id: HostId | None, snapshot: Snapshot, limits: Limits
) -> Iterator[tuple[Resource, float]]:
    """Both NICs and what is between them, in that direction, with what migrations may use."""
    hosts = snapshot.host_by_id
    source = hosts.get(source_id)
    target = hosts.get(target_id) if target_id is not None else None
    # One end may be out of the configuration by now; the other one's NIC is busy all the same.
    share = limits.link_share
    if source is not None:
        yield (OUT_OF, source.id), source.nic_bytes_per_second * share
    if target is not None:
        yield (INTO, target.id), target.nic_bytes_per_second * share
    if source is None or target is None:
        return
    up, down = snapshot.uplinks_between(source, target)
    if up is not None:
        yield ("up from rack", up.name), up.uplink_bytes_per_second * share
    if down is not None:
        yield ("down to rack", down.name), down.uplink_bytes_per_second * share
    for link in snapshot.links_between(source, target):
        yield (f"wan to {target.site}", link.name), link.bytes_per_second * share


def uses_the_network(mode: Mode) -> bool:
    """Whether memory is transferred in this mode."""
    return mode not in (Mode.COLD, Mode.OFFLINE)
