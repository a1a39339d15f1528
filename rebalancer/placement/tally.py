"""How the VMs of a group are spread over its domains as things stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rebalancer.placement.arrays import Bools, Floats, Ints
from rebalancer.placement.groups import Group, SpreadGroup


@dataclass(slots=True, kw_only=True, eq=False)
class Tally:
    """A group with its VMs per domain, and what it may come to."""

    group: Group
    weight: float
    counts: Ints
    limit: Ints | float
    """Hard spread: VMs per domain. Hard together and presence: the excess."""

    def cost(self) -> float:
        """What the group costs as it is."""
        return self.weight * self.group.excess_of(self.counts)

    def within(self) -> bool:
        """Whether the group is no worse than it may be."""
        if not self.group.hard:
            return True
        if isinstance(self.group, SpreadGroup):
            return bool((self.counts <= self.limit).all())
        return bool(self.group.excess_of(self.counts) <= self.limit)

    def verdict(self, multiplicity: int, source: int) -> tuple[Bools, Floats]:
        """For moving a member off host `source`: allowed and extra cost on each host, `(H,)`."""
        domain, home = self.group.domain, self.group.domain[source]
        counts = self.counts.copy()
        counts[home] -= multiplicity
        after = self.group.excess_after(counts, multiplicity)
        if isinstance(self.group, SpreadGroup):
            allowed = counts + multiplicity <= self.limit
        else:
            allowed = after <= self.limit
        cost = after - after[home]
        if not self.group.hard:
            allowed = np.ones(len(counts), bool)
        allowed[home] = True
        return allowed[domain], self.weight * cost[domain]
