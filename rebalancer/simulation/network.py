"""Bandwidth shared fairly: what each transfer gets of the NICs and links on its path.

Max-min fairness is what TCP streams come close to: nobody can get more without taking from
someone who has no more than he has (Bertsekas and Gallager, Data Networks, section 6.5.2).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from rebalancer.cluster.inventory import HostId

_NEGLIGIBLE_RATIO = 1e-9


class Way(StrEnum):
    """In which direction a NIC carries bytes."""

    OUT = "out"
    IN = "in"


class Nic(NamedTuple):
    """One direction of a host's migration network."""

    host: HostId
    way: Way


class Wan(NamedTuple):
    """One direction of a link between two sites."""

    link: str
    from_site: str


class Uplink(NamedTuple):
    """One direction of what joins a rack with the others."""

    rack: str
    way: Way


type Carrier = Nic | Wan | Uplink
"""Something that carries bytes with a capacity of its own."""


def share_fairly[Flow: Hashable, Pipe: Hashable](
    caps: Mapping[Flow, float],
    paths: Mapping[Flow, Sequence[Pipe]],
    capacities: Mapping[Pipe, float],
) -> dict[Flow, float]:
    """Return the max-min fair rate of each flow.

    `caps` is the most that each flow takes (infinity: whatever it gets). All rates are raised
    together; a flow stops rising when it has its cap or when a pipe on its path is full.
    """
    rates = dict.fromkeys(caps, 0.0)
    rising = {flow for flow, cap in caps.items() if cap > 0}
    left = dict(capacities)
    while rising:
        users = _users(rising, paths)
        rise = min(
            min((left[pipe] / count for pipe, count in users.items()), default=float("inf")),
            min(caps[flow] - rates[flow] for flow in rising),
        )
        if rise == float("inf"):
            raise ValueError("a flow without a cap passes nothing that would limit it")
        for flow in rising:
            rates[flow] = min(caps[flow], rates[flow] + rise)
        for pipe, count in users.items():
            left[pipe] = max(0.0, left[pipe] - rise * count)
        full = {pipe for pipe in users if left[pipe] <= _NEGLIGIBLE_RATIO * capacities[pipe]}
        rising = {
            flow
            for flow in rising
            if rates[flow] < caps[flow] * (1 - _NEGLIGIBLE_RATIO) and full.isdisjoint(paths[flow])
        }
    return rates


def _users[Flow: Hashable, Pipe: Hashable](
    flows: set[Flow], paths: Mapping[Flow, Sequence[Pipe]]
) -> dict[Pipe, int]:
    counts: dict[Pipe, int] = {}
    for flow in flows:
        for pipe in paths[flow]:
            counts[pipe] = counts.get(pipe, 0) + 1
    return counts
