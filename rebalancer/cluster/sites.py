"""Where hosts stand, and the network between these places: sites, links, racks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place with hosts in it."""

    name: str
    energy_price_per_kwh: float | None = None
    """The same all day. `None`: unknown, unless it is known by the hour."""
    energy_price_per_kwh_by_hour: tuple[float, ...] = ()
    """One for each hour of the day, UTC, from midnight on: 24, or none. Goes before the former."""
    carbon_g_per_kwh: float | None = None
    carbon_g_per_kwh_by_hour: tuple[float, ...] = ()
    latency_seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Round-trip time to other sites, and to groups of users, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network between two sites. Each direction carries `bytes_per_second` on its own."""

    name: str
    bytes_per_second: float
    between: tuple[str, str]
    price_per_gib: float = 0.0
    """What sending a GiB costs, in the currency of the energy prices."""
    carbon_g_per_gib: float = 0.0

    def joins(self, one_site: str, other_site: str) -> bool:
        """Whether traffic between the two sites takes this link."""
        return set(self.between) == {one_site, other_site} and one_site != other_site


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """Hosts behind one switch. Its uplink carries what goes to other racks, each way on its own."""

    name: str
    uplink_bytes_per_second: float
