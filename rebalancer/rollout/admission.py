"""Which waiting migrations may start now: dependencies, concurrency and bandwidth.

Bandwidth is granted, not hoped for: for every NIC, rack uplink and WAN link, in each direction,
the sum of what was granted to migrations under way never exceeds the share that the limits allow.
"""

from __future__ import annotations

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

LEAST_BYTES_PER_SECOND = 1024 * 1024
"""libvirt takes bandwidth in MiB/s and 0 means "unlimited", so less than one cannot be granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A migration under way, and the bandwidth it was granted."""

    migration: Migration
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A migration that somebody else began. What it takes of the links, nobody has told."""

    vm: VmId
    source: HostId
    target: HostId | None
    """`None`: it goes to a host that is not ours, or was not seen."""


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

    Migrations that others began count as concurrent ones, on both of their hosts. `ceilings`
    are places that take fewer at once for the time being than the limits allow.
    A migration that lacks bandwidth keeps later ones off the links it waits for; otherwise a
    hot VM that needs a link to itself would wait for ever behind a stream of small ones.
    """
    gate = _Gate(flights, snapshot, limits, ceilings or {})
    for other in foreign:
        gate.count(other)
    return tuple(grant for migration in waiting if (grant := gate.let_in(migration)) is not None)


class _Gate:
    def __init__(
        self,
        flights: Iterable[Flight],
        snapshot: Snapshot,
        limits: Limits,
        ceilings: Mapping[Resource, int],
    ) -> None:
        self._snapshot = snapshot
        self._limits = limits
        self._ceilings = ceilings
        self._there: Counter[Resource] = Counter()
        self._granted: dict[Resource, float] = defaultdict(float)
        self._reserved: set[Resource] = set()
        self._out: Counter[str] = Counter()
        self._in: Counter[str] = Counter()
        self._vms: set[str] = set()
        for flight in flights:
            self._take(flight.migration, flight.bytes_per_second)

    def spare(self, migration: Migration) -> float:
        links = list(self._resources(migration))
        return max(min((self._free(*link) for link in links), default=0.0), 0.0)

    def count(self, other: Foreign) -> None:
        self._out[other.source] += 1
        self._there[OUT_OF, other.source] += 1
        if other.target is not None:
            self._in[other.target] += 1
            self._there[INTO, other.target] += 1

    def let_in(self, migration: Migration) -> Grant | None:
        if self._is_crowded(migration):
            return None
        wanted = self._wanted(migration)
        if any(
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

    def _wanted(self, migration: Migration) -> float:
        """What the plan grants, but never more than a free link of its path could give."""
        if not uses_the_network(migration.mode):
            return 0.0
        budgets = [capacity for _, capacity in self._resources(migration)]
        return max(min([migration.bytes_per_second, *budgets]), 0.0)

    def _free(self, resource: Resource, capacity: float) -> float:
        return capacity - self._granted[resource]

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
    migration: Migration, flights: Iterable[Flight], snapshot: Snapshot, limits: Limits
) -> float:
    """Return what nobody was granted of every link on the way, in bytes a second."""
    gate = _Gate(flights, snapshot, limits, {})
    return gate.spare(migration)


def places_of(migration: Migration, snapshot: Snapshot, limits: Limits) -> tuple[Resource, ...]:
    """Where a migration counts as one: both hosts, whatever its mode, and the links on the way."""
    links = (place for place, _ in _resources(migration, snapshot, limits))
    ends = ((OUT_OF, migration.source), (INTO, migration.target))
    return tuple(dict.fromkeys((*ends, *links)))


def _resources(
    migration: Migration, snapshot: Snapshot, limits: Limits
) -> Iterator[tuple[Resource, float]]:
    hosts = snapshot.host_by_id
    source, target = hosts.get(migration.source), hosts.get(migration.target)
    if not uses_the_network(migration.mode):
        return
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
