"""The lanes that migrations travel on, and what they may use of each.

A lane is one direction of one link: a host's NIC outwards or inwards, a rack's uplink, or the
network between two sites one way. Nobody measured here: capacities are those of the snapshot,
times the share that the policy leaves to migrations.
"""

from __future__ import annotations

from dataclasses import dataclass

from rebalancer.cluster.inventory import Host, HostId, Snapshot
from rebalancer.cluster.policy import Limits
from rebalancer.planning.cost import Line
from rebalancer.planning.habits import ASSUMED, Calibration, Habits
from rebalancer.planning.parts import UNLEARNED, PartHabits
from rebalancer.planning.wording import MIB

LEAST_BYTES_PER_SECOND = 32.0 * MIB
"""No migration is given less, unless the whole lane has less: slower ones only take longer
and dirty more (the default of other KVM managers)."""

TCP_WINDOW_BYTES = 4 * MIB
"""One stream has no more than this on its way: Linux's default limit (tcp_wmem). Over 50 ms
that is 80 MiB/s, whatever the link carries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One direction of one link."""

    name: str
    """Unique: `h1 out`, `h2 in`, `rack r1 up`, `wan-tokyo-osaka from tokyo`."""
    budget_bytes_per_second: float
    """What all migrations together may use of it."""
    capacity_bytes_per_second: float
    is_shared: bool = False
    """It is not one host's: migrations of all hosts of a rack or site take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The lanes between two hosts."""

    source: Host
    target: Host
    lanes: tuple[Lane, ...]
    bytes_per_second: float
    """The most that one migration can be granted: whole MiB/s, as the hypervisor is told."""
    round_trip_seconds: float
    habits: Habits = ASSUMED
    parts: PartHabits = UNLEARNED
    """How long takes what goes over none of the lanes, or waits for a disk."""

    @property
    def least_bytes_per_second(self) -> float:
        """The least that a migration is granted here."""
        return min(LEAST_BYTES_PER_SECOND, self.bytes_per_second)

    def is_filled_with(self, bytes_per_second: float) -> bool:
        """Whether a lane of it has no room for two such migrations."""
        return any(2 * bytes_per_second > lane.budget_bytes_per_second for lane in self.lanes)

    def line(self, bytes_per_second: float) -> Line:
        """What a migration has that is granted so much.

        The last bytes go without a limit, but others keep theirs: its own grant and what no
        migration may use are the rate that it can count on.
        """
        spare = min(
            lane.capacity_bytes_per_second - lane.budget_bytes_per_second for lane in self.lanes
        )
        return Line(
            bytes_per_second=bytes_per_second,
            switchover_bytes_per_second=bytes_per_second + max(0.0, spare),
            round_trip_seconds=self.round_trip_seconds,
            habits=self.habits,
        )


class Network:
    """Finds the path between any two hosts of a snapshot."""

    def __init__(
        self, snapshot: Snapshot, limits: Limits, calibration: Calibration | None = None
    ) -> None:
        self._snapshot = snapshot
        self._calibration = calibration or Calibration()
        self._share = limits.link_share
        self._paths: dict[tuple[HostId, HostId], Path] = {}

    def path(self, source: HostId, target: HostId) -> Path:
        """Return the lanes from `source` to `target` with what they may carry."""
        key = (source, target)
        if key not in self._paths:
            self._paths[key] = self._find(*(self._snapshot.host_by_id[host] for host in key))
        return self._paths[key]

    def _find(self, source: Host, target: Host) -> Path:
        lanes = [
            self._lane(f"{source.id} out", source.nic_bytes_per_second),
            self._lane(f"{target.id} in", target.nic_bytes_per_second),
        ]
        up, down = self._snapshot.uplinks_between(source, target)
        lanes += [
            self._lane(f"rack {rack.name} {way}", rack.uplink_bytes_per_second, is_shared=True)
            for rack, way in ((up, "up"), (down, "down"))
            if rack is not None
        ]
        lanes += [
            self._lane(f"{link.name} from {source.site}", link.bytes_per_second, is_shared=True)
            for link in self._snapshot.links_between(source, target)
        ]
        round_trip = self._round_trip_seconds(source.site, target.site)
        most = min(lane.budget_bytes_per_second for lane in lanes)
        if round_trip > 0:
            most = min(most, TCP_WINDOW_BYTES / round_trip)
        return Path(
            source=source,
            target=target,
            lanes=tuple(lanes),
            bytes_per_second=whole_mib(most),
            round_trip_seconds=round_trip,
            habits=self._calibration.of(source.id, target.id),
            parts=self._calibration.parts,
        )

    def _lane(self, name: str, bytes_per_second: float, is_shared: bool = False) -> Lane:
        return Lane(
            name=name,
            budget_bytes_per_second=self._share * bytes_per_second,
            capacity_bytes_per_second=bytes_per_second,
            is_shared=is_shared,
        )

    def _round_trip_seconds(self, one_site: str | None, other_site: str | None) -> float:
        if one_site is None or other_site is None or one_site == other_site:
            return 0.0
        sites = self._snapshot.site_by_name
        told = [
            sites[here].latency_seconds[there]
            for here, there in ((one_site, other_site), (other_site, one_site))
            if here in sites and there in sites[here].latency_seconds
        ]
        return max(told, default=0.0)


def whole_mib(bytes_per_second: float) -> float:
    """Round down to whole MiB/s, the unit in which libvirt is told a bandwidth."""
    return float(bytes_per_second // MIB * MIB)
