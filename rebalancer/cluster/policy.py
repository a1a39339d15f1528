"""What the owner of a cluster wants: goals, rules, and limits on what may be done for them.

A *goal* is wanted as far as possible, a *rule* must hold (or, when soft, costs something to
break), a *limit* caps what one plan may do. Rules live in `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.rules import Rule
from rebalancer.cluster.selection import HostSelector


class GeographyCriterion(StrEnum):
    """What makes one site better than another for a VM."""

    LATENCY = "latency"
    ENERGY_PRICE = "energy_price"
    CARBON = "carbon"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceGoal:
    """Even out relative load over hosts, CPU and memory together."""

    tier: int = 1
    weight: float = 1.0
    cpu_weight: float = 1.0
    memory_weight: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerGoal:
    """Use as few watts as possible by emptying hosts that can then sleep."""

    tier: int = 1
    weight: float = 1.0
    min_awake: int = 2
    """Never plan for fewer hosts with power than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeographyGoal:
    """Prefer sites that are near the users, cheap, or clean."""

    tier: int = 1
    weight: float = 1.0
    criterion: GeographyCriterion = GeographyCriterion.LATENCY
    users: str | None = None
    """With `LATENCY`: the site or group of users to be near to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementGoal:
    """Move as little as possible: each move costs its bytes on the link."""

    tier: int = 1
    weight: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainGoal:
    """Empty the draining hosts. Implied in tier 0 as soon as a host drains."""

    tier: int = 0
    weight: float = 1.0


type Goal = BalanceGoal | PowerGoal | GeographyGoal | MovementGoal | DrainGoal


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What is left free on every host."""

    cpu_ratio: float = 0.10
    memory_ratio: float = 0.05
    host_failures: int = 0
    """The cluster must be able to restart the VMs of this many failed hosts, whichever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overcommit:
    """How much more than it has a host may promise: vCPUs per core, memory per memory."""

    cpu: float = 4.0
    memory: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When a cluster is uneven enough, and a plan good enough, for anything to move.

    Hosts that drain and rules that are broken need no trigger.
    """

    spread_ratio: float = 0.15
    """Largest distance of a host's load from the mean, CPU or memory."""
    hot_ratio: float = 0.85
    """A host above this is hot, whatever the others do."""
    for_cycles: int = 3
    """So many cycles in a row must be uneven before the daemon acts."""
    min_gain_ratio: float = 0.10
    """The plan must lower the objective by this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps on what one plan does, and how fast. `None` is no cap."""

    migrations: int | None = 10
    """Moves in one plan; a drain and the repair of rules are not held to it."""
    per_host_out: int = 2
    per_host_in: int = 2
    cluster: int = 5
    link_share: float = 0.7
    """The share of a NIC's or link's bandwidth that migrations may use together."""
    cooldown_seconds: float = 1800.0
    """A VM that was moved stays for this long, unless a drain or a broken rule needs it."""
    reverse_ban_seconds: float = 21600.0
    """A VM moved for balance is not moved back to where it came from for this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPermissions:
    """Which modes a plan may use and what they may cost the guest."""

    allow: frozenset[Mode] = frozenset({Mode.OFFLINE, Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND})
    max_downtime_seconds: float = 0.5
    """The longest pause at the switch-over of a live migration."""
    max_suspend_seconds: float = 5.0
    """The longest pause when a migration is finished by suspending the guest."""
    max_duration_seconds: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When the daemon runs the policy: a cron expression, `None` for the daemon's interval."""

    cron: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that one policy file says."""

    name: str
    applies: HostSelector = field(default_factory=HostSelector)
    """The hosts that it looks after, with their VMs; all of them by default."""
    active: Schedule = field(default_factory=Schedule)
    goals: tuple[Goal, ...] = (BalanceGoal(), MovementGoal())
    rules: tuple[Rule, ...] = ()
    headroom: Headroom = field(default_factory=Headroom)
    overcommit: Overcommit = field(default_factory=Overcommit)
    trigger: Trigger | None = field(default_factory=Trigger)
    """`None`: always act."""
    limits: Limits = field(default_factory=Limits)
    migration: MigrationPermissions = field(default_factory=MigrationPermissions)
    fingerprint: str = ""
    """Hash of the file it was read from; a plan made under another policy is refused."""
