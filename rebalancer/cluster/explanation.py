"""Why a plan is as it is: what its moves are worth, what was not done, and what stands in the way.

All of it is for people and for those who read plans with `jq`; nothing acts on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebalancer.cluster.inventory import HostId, VmId


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one move of a placement is worth: the objective without it less that with it.

    Moves that pay only together, such as the two of a swap, are worth less one by one than
    together, or even less than nothing.
    """

    vm: VmId
    total: float
    by_goal: Mapping[str, float] = field(default_factory=dict)
    """The same by goal; what is negative is what the move costs (`movement`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedMove:
    """A move that would serve the goals and is not made."""

    vm: VmId
    vm_name: str
    source: HostId
    target: HostId
    benefit: float
    """What the objective would fall by if moving cost nothing."""
    price: float
    """What moving it costs in the same unit (goal `movement`)."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedHost:
    """A host that no VM may be moved to, with every reason."""

    host: HostId
    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """Something that could be given up, and what that would make possible."""

    text: str
    """One sentence with its numbers."""
    met: int
    """How many more of the wishes of the conflict could be met."""
    unlocks: bool
    """Whether all of them could."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Wishes that cannot be met, and what stands against them.

    Where `is_minimal`, this was checked: together wishes and members are impossible, and
    without any single one of them the rest is possible.
    """

    text: str
    """All of it in one sentence."""
    wishes: tuple[str, ...]
    """What is wanted and cannot be had together: `db1 leaves h1`."""
    members: tuple[str, ...]
    """Rules, limits and facts that stand against it: `spread web`, `memory of h3`."""
    is_minimal: bool
    assumption: str = ""
    """What was taken as given: in a large cluster, that the other VMs stay where they are."""
    relaxations: tuple[Relaxation, ...] = ()
    """What would help, the least sacrifice first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the VMs need of one resource, beside what may be used of it under the policy."""

    resource: str
    """`memory` (bytes), `cpu` (cores) or `vcpus`."""
    needed: float
    usable: float
    """Over all hosts, headroom and what `host_failures` keeps free taken off."""

    @property
    def ratio(self) -> float:
        """The share that is needed; more than 1 where there is too little."""
        return self.needed / self.usable if self.usable > 0 else (1.0 if self.needed <= 0 else 9.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityAdvice:
    """How many hosts a cluster has too few, or could do without, under its policy."""

    uses: tuple[Use, ...]
    """By resource, the tightest first."""
    short: int
    """Hosts of the mean size that are missing at least; 0 where the sums fit."""
    spare: tuple[HostId, ...]
    """Hosts that were shown to be dispensable, all of them at once: a placement was found."""
    text: str

    @property
    def binding(self) -> str:
        """The resource that runs out first; empty without hosts."""
        return self.uses[0].resource if self.uses else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Everything that a placement says about itself."""

    gains: tuple[Gain, ...] = ()
    rejected_moves: tuple[RejectedMove, ...] = ()
    """The best ones, best first."""
    rejected_hosts: tuple[RejectedHost, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    capacity: CapacityAdvice | None = None
    """Of the cluster as the plan leaves it; `None` where nobody worked it out."""
    notes: tuple[str, ...] = ()
    """What an operator should know about the policy or the answer: a goal that means nothing."""
