"""What one plan may move besides what has to be: bytes, moves per host, and across sites.

Searches count units that move by their `Budget`; these are the caps of a policy that go by VMs,
size or place. Units that have to move, for a drain or a broken rule, are exempt from those on
how much moves; from those on where to only if they cannot be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rebalancer.cluster.inventory import Host
from rebalancer.cluster.policy import Limits
from rebalancer.placement.arrays import Bools, Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cap:
    """At most `most` by weight of units that are away from their start, as far as they count."""

    name: str
    weight: Floats
    """`(U,)`: what each unit counts; 0 for those that are exempt."""
    most: float
    off: int | None = None
    """Only units that started on this host count."""
    onto: int | None = None
    """Only units that are on this host count."""
    site: Ints | None = None
    """`(H,)`: the site of each host, where only units on another site than at the start count."""

    def counts(self, start: Ints, hosts: Ints) -> Bools:
        """Whether units that started on `start` count when they are on `hosts`; broadcast."""
        counts = np.not_equal(start, hosts)
        if self.off is not None:
            counts &= start == self.off
        if self.onto is not None:
            counts &= hosts == self.onto
        if self.site is not None:
            counts &= self.site[start] != self.site[hosts]
        return counts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Allowance:
    """The caps that a policy has set; hosts and units by index."""

    moves: float
    bytes_moved: float
    bytes_across: float
    moves_across: float
    moves_out: float
    moves_in: float
    """Infinity where there is no cap, each."""
    vms: Floats
    """`(U,)`: VMs of each unit; each is a move."""
    size: Floats
    """`(U,)`: bytes of each unit."""
    counted: Bools
    """`(U,)`: the units that are not exempt."""
    counted_across: Bools
    """`(U,)`: the same for the caps between sites."""
    counted_in: Bools
    """`(U,)`: the same for the cap onto a host."""
    site: Ints
    """`(H,)`: the site of each host; one whose site is not known is a site of its own."""
    start: Ints
    """`(U,)`"""

    def on_where_to(self) -> Iterator[Allowance]:
        """The caps that a choice of hosts can keep: all of them, then those between sites only.

        Those on how much moves are left out. Nothing comes where there are none.
        """
        across = replace(self, moves=np.inf, bytes_moved=np.inf, moves_out=np.inf, moves_in=np.inf)
        if self.moves_in < np.inf:
            yield replace(across, moves_in=self.moves_in)
        if min(self.moves_across, self.bytes_across) < np.inf:
            yield across

    def beside(self, needed: Ints) -> Allowance:
        """The allowance where units that have to move do not count, `needed` being where to.

        One that need not go to another site to be where it has to be counts if it does; and all
        that come to hosts count where the needed ones alone keep the cap on that.
        """
        exempt = needed != self.start
        crosses = self.crosses(np.arange(len(needed)), needed)
        arriving = np.bincount(needed[exempt], self.vms[exempt], len(self.site))
        keeps_in = bool((arriving <= self.moves_in).all())
        return replace(
            self,
            counted=~exempt,
            counted_across=~(exempt & crosses),
            counted_in=np.full(len(needed), True) if keeps_in else ~exempt,
        )

    def crosses(self, units: Ints, hosts: Ints) -> Bools:
        """Whether each unit would be on another site than it started on; broadcast."""
        return np.not_equal(self.site[self.start[units]], self.site[hosts])

    def spending(self, start: Ints, x: Ints) -> Spending:
        """What placement `x` has spent."""
        spent = Spending(self, start)
        for unit in np.flatnonzero(x != start).tolist():
            spent.move(unit, int(start[unit]), int(x[unit]))
        spent.begin()
        return spent

    def lets(self, before: Ints, x: Ints) -> bool:
        """Whether one may go from placement `before` to `x`: within the caps, or no further off."""
        spent = self.spending(self.start, before)
        for unit in np.flatnonzero(x != before).tolist():
            spent.move(unit, int(before[unit]), int(x[unit]))
        return spent.is_within

    def keeps(self, x: Ints) -> bool:
        """Whether placement `x` stays within the caps."""
        return self.spending(self.start, x).is_allowed


class Spending:
    """What has been spent of an allowance, kept up with every move."""

    def __init__(self, allowance: Allowance, start: Ints) -> None:
        """Begin with nothing spent."""
        self.allowance = allowance
        self.x = start.copy()
        hosts = len(allowance.site)
        self.moves = 0.0
        self.bytes_moved = 0.0
        self.bytes_across = 0.0
        self.moves_across = 0.0
        self.moves_out = np.zeros(hosts)
        self.moves_in = np.zeros(hosts)
        self.begin()

    def begin(self) -> None:
        """Take what is spent now for what may be, where that is more than is allowed."""
        allowed = self.allowance
        self._most_moves = max(allowed.moves, self.moves)
        self._most_bytes = max(allowed.bytes_moved, self.bytes_moved)
        self._most_bytes_across = max(allowed.bytes_across, self.bytes_across)
        self._most_across = max(allowed.moves_across, self.moves_across)
        self._most_out = np.maximum(allowed.moves_out, self.moves_out)
        self._most_in = np.maximum(allowed.moves_in, self.moves_in)

    def move(self, unit: int, source: int, target: int) -> None:
        """Take in that a unit goes from one host to another."""
        self.x[unit] = target
        self._count(unit, source, -1)
        self._count(unit, target, +1)

    def _count(self, unit: int, host: int, sign: int) -> None:
        allowed, home = self.allowance, int(self.allowance.start[unit])
        if host == home:
            return
        size, vms = sign * float(allowed.size[unit]), sign * float(allowed.vms[unit])
        if allowed.counted[unit]:
            self.moves += vms
            self.bytes_moved += size
            self.moves_out[home] += vms
        if allowed.counted_in[unit]:
            self.moves_in[host] += vms
        if allowed.counted_across[unit] and allowed.site[home] != allowed.site[host]:
            self.bytes_across += size
            self.moves_across += vms

    @property
    def is_within(self) -> bool:
        """Whether nothing is spent beyond what may be."""
        return bool(
            self.moves <= self._most_moves
            and self.bytes_moved <= self._most_bytes
            and self.bytes_across <= self._most_bytes_across
            and self.moves_across <= self._most_across
            and (self.moves_out <= self._most_out).all()
            and (self.moves_in <= self._most_in).all()
        )

    @property
    def is_allowed(self) -> bool:
        """Whether nothing is spent beyond what the policy allows."""
        allowed = self.allowance
        return bool(
            self.moves <= allowed.moves
            and self.bytes_moved <= allowed.bytes_moved
            and self.bytes_across <= allowed.bytes_across
            and self.moves_across <= allowed.moves_across
            and (self.moves_out <= allowed.moves_out).all()
            and (self.moves_in <= allowed.moves_in).all()
        )

    def allowed(self, units: Ints, source: int) -> Bools:
        """Whether each of `units`, all on `source` now, may be moved to each host: `(n, H)`."""
        allowed = self.allowance
        hosts = np.arange(len(allowed.site))
        home = allowed.start[units]
        is_first = (home == source) & allowed.counted[units]
        size, vms = allowed.size[units], allowed.vms[units]
        across = allowed.crosses(units[:, None], hosts[None, :])
        crosses_already = allowed.crosses(units, np.array(source))
        crossing = across & (~crosses_already & allowed.counted_across[units])[:, None]
        may = np.ones(across.shape, bool)
        may &= (~is_first | (self.moves + vms <= self._most_moves))[:, None]
        may &= (~is_first | (self.bytes_moved + size <= self._most_bytes))[:, None]
        may &= (~is_first | (self.moves_out[home] + vms <= self._most_out[home]))[:, None]
        goes_in = allowed.counted_in[units][:, None]
        may &= ~goes_in | (self.moves_in + vms[:, None] <= self._most_in)
        may &= ~crossing | (self.moves_across + vms <= self._most_across)[:, None]
        may &= ~crossing | (self.bytes_across + size <= self._most_bytes_across)[:, None]
        may[np.arange(len(units)), home] = True
        return may


def allowance_of(
    limits: Limits,
    hosts: Sequence[Host],
    start: Ints,
    *,
    moves: int | None,
    vms: Floats,
    size: Floats,
) -> Allowance | None:
    """The caps of a policy, with nobody exempt; `None` if it has none but the search's budget.

    That counts units, so `moves` are only looked at here where a unit has several VMs.
    """
    caps = (
        moves if (vms > 1).any() else None,
        limits.moved_bytes,
        limits.bytes_between_sites,
        limits.moves_between_sites,
        limits.moves_out_of_host,
        limits.moves_into_host,
    )
    if all(cap is None for cap in caps):
        return None
    total, moved, across, moves_across, out, into = (
        np.inf if c is None else float(c) for c in caps
    )
    everybody = np.ones(len(start), bool)
    sites: dict[str, int] = {}
    names = [host.site if host.site is not None else f"host {host.id}" for host in hosts]
    return Allowance(
        moves=total,
        bytes_moved=moved,
        bytes_across=across,
        moves_across=moves_across,
        moves_out=out,
        moves_in=into,
        vms=vms,
        size=size,
        counted=everybody,
        counted_across=everybody,
        counted_in=everybody,
        site=np.array([sites.setdefault(name, len(sites)) for name in names], np.intp),
        start=start,
    )


def caps_of(allowance: Allowance, off: Iterable[int], onto: Iterable[int]) -> Iterator[Cap]:
    """Every cap that is one, as what counts towards it; those by host of the given hosts."""
    vms = allowance.vms * allowance.counted
    size = allowance.size * allowance.counted
    vms_across = allowance.vms * allowance.counted_across
    size_across = allowance.size * allowance.counted_across
    vms_in = allowance.vms * allowance.counted_in
    site, most_across = allowance.site, allowance.bytes_across
    yield Cap(name="VMs moved", weight=vms, most=allowance.moves)
    yield Cap(name="memory moved", weight=size, most=allowance.bytes_moved)
    yield Cap(
        name="moves to other sites", weight=vms_across, most=allowance.moves_across, site=site
    )
    yield Cap(name="memory to other sites", weight=size_across, most=most_across, site=site)
    for host in off:
        yield Cap(name=f"moves off {host}", weight=vms, most=allowance.moves_out, off=host)
    for host in onto:
        yield Cap(name=f"moves onto {host}", weight=vms_in, most=allowance.moves_in, onto=host)
