"""What the owner of a cluster wants: goals, rules, and limits on what may be done for them.

A *goal* is wanted as far as possible, a *rule* must hold (or, when soft, costs something to
break), a *limit* caps what one plan may do. Rules live in `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import Priority
from rebalancer.cluster.rules import Rule
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.windows import Window


class GeographyCriterion(StrEnum):
    """What makes one site better than another for a VM."""

    LATENCY = "latency"
    ENERGY_PRICE = "energy_price"
    CARBON = "carbon"
    WAN_COST = "wan_cost"
    """What it costs to send it there over the links between sites."""


class BalancedResource(StrEnum):
    """What load is measured in."""

    CPU = "cpu"
    MEMORY = "memory"


class MovementMeasure(StrEnum):
    """What makes one move dearer than another."""

    LINK_SECONDS = "link_seconds"
    """How long it keeps the slowest link on its way busy, dirtied pages included."""
    DISTURBANCE = "disturbance"
    """That it is moved at all, and for how long, a quarter each; and half what it does meanwhile,
    by the CPU that it uses now: on its way a VM runs slower."""
    MEMORY = "memory"
    """The memory of the VM, wherever it goes."""
    COUNT = "count"
    """Nothing: every VM that is disturbed counts the same, as one of mean memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceGoal:
    """Even out relative load over hosts, CPU and memory together."""

    tier: int = 1
    weight: float = 1.0
    cpu_weight: float = 1.0
    memory_weight: float = 0.3
    guard: frozenset[BalancedResource] = frozenset()
    """What may not become less even than it is, however little it weighs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelieveGoal:
    """Bring the hosts above a band down to it; a host within the band is left alone."""

    tier: int = 1
    weight: float = 1.0
    cpu_ratio: float | None = 0.75
    """Upper end of the band: load relative to the host's cores. `None`: CPU does not matter."""
    memory_ratio: float | None = None
    """The same for memory promised to VMs, relative to what guests may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerGoal:
    """Use as few watts as possible by emptying hosts that can then sleep."""

    tier: int = 1
    weight: float = 1.0
    min_awake: int = 2
    """Never plan for fewer hosts with power than this."""
    spare_ratio: float = 0.0
    """Share of what the hosts that stay on could take, headroom off, that is left free over all
    of them, so that not every rise in load has to wait until a host has booted."""
    payback_seconds: float | None = None
    """A host is emptied only if it saves more energy in this time than its moves, and a power
    cycle, cost. `None`: that is not asked."""
    boot_seconds: float = 300.0
    """How long a host that goes to sleep and comes back is busy with nothing else."""
    wear_joules: float = 360e3
    """What a power cycle takes off a host's life, as energy; the default is 0.1 kWh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeographyGoal:
    """Prefer sites that are near the users, cheap, or clean."""

    tier: int = 1
    weight: float = 1.0
    criterion: GeographyCriterion = GeographyCriterion.LATENCY
    users: str | None = None
    """With `LATENCY`: the site or group of users to be near to."""
    vms: VmSelector | None = None
    """The VMs that it is about. `None`: all of them."""
    payback_seconds: float = 21600.0
    """With `ENERGY_PRICE` and `CARBON`: in this time a move over a link that costs something has
    to pay for itself, so it is the time over which energy is reckoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementGoal:
    """Move as little as possible: each move costs its bytes on the link."""

    tier: int = 1
    weight: float = 0.1
    measure: MovementMeasure = MovementMeasure.LINK_SECONDS
    dear: VmSelector | None = None
    """VMs that cost `dear_times` as much to move, as their pause matters more."""
    dear_times: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainGoal:
    """Empty the draining hosts. Implied in tier 0 as soon as a host drains."""

    tier: int = 0
    weight: float = 1.0
    evacuate: HostSelector | None = None
    """Hosts that are to be emptied as if they were draining: those of a site, say."""


type Goal = BalanceGoal | RelieveGoal | PowerGoal | GeographyGoal | MovementGoal | DrainGoal


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


class OverloadMeasure(StrEnum):
    """By what a host is found to be short of CPU, so that VMs leave it at once."""

    PEAK = "peak"
    """Its foreseen peak passes what may be used of it."""
    NOW = "now"
    """What its VMs use now does; the foreseen peak only decides what may be moved to a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """How demand is foreseen, and how sure hosts are to have enough of CPU."""

    horizon_seconds: float = 1800.0
    """How far ahead: migrations take minutes, and the next plan comes soon."""
    peak_quantile: float = 0.95
    """What capacity is judged on: of each VM, or of all VMs of a host together."""
    is_pooled: bool = False
    """Whether that is asked of the sum over a host's VMs, whose errors partly cancel out, and
    not of each VM by itself."""
    overload: OverloadMeasure = OverloadMeasure.PEAK


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
    migrations_ratio: float | None = None
    """The same as a share of the VMs that the policy looks after; the smaller of the two counts."""
    moved_bytes: int | None = None
    """Memory, and local disks, of the VMs that one plan moves; drains and repairs are not held
    to it."""
    moves_out_of_host: int | None = None
    """Moves off any one host in one plan."""
    moves_into_host: int | None = None
    """Moves onto any one host in one plan."""
    moves_between_sites: int | None = None
    """Moves in one plan that lead to another site."""
    bytes_between_sites: int | None = None
    """Memory of the VMs that one plan moves to another site."""
    migrations_per_day: int | None = None
    """Moves for balance within any 24 hours; drains and repairs neither count nor are held."""
    moved_bytes_per_day: int | None = None
    """Memory of the VMs that are moved for balance within any 24 hours."""
    per_host_out: int = 2
    per_host_in: int = 2
    cluster: int = 5
    link_share: float = 0.7
    """The share of a NIC's or link's bandwidth that migrations may use together."""
    cooldown_seconds: float = 1800.0
    """A VM that was moved stays for this long, unless a drain or a broken rule needs it."""
    reverse_ban_seconds: float = 21600.0
    """A VM moved for balance is not moved back to where it came from for this long."""

    def most_migrations(self, vm_count: int) -> int | None:
        """Moves that one plan may make where the policy looks after so many VMs.

        A share allows one move at least, or small clusters would be cut off.
        """
        if self.migrations_ratio is None:
            return self.migrations
        share = max(1, int(self.migrations_ratio * vm_count))
        return share if self.migrations is None else min(share, self.migrations)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationPermissions:
    """Which modes a plan may use and what they may cost the guest."""

    allow: frozenset[Mode] = frozenset({Mode.OFFLINE, Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND})
    max_downtime_seconds: float = 0.5
    """The longest pause at the switch-over of a live migration."""
    max_suspend_seconds: float = 5.0
    """The longest pause when a migration is finished by suspending the guest."""
    max_duration_seconds: float = 1800.0
    save_to: str | None = None
    """Shared storage that a guest's memory may be saved to when it is moved cold, by the name
    that hosts call it; `None`: guests that are moved cold are shut down."""
    save_bytes_per_second: float = 100.0 * 1024 * 1024
    """What that storage writes, and reads back: 1 GbE carries 112 MiB/s."""
    local_disks: bool = False
    """Whether VMs may be moved that have disks only their host reaches: these are copied first."""
    windows: tuple[Window, ...] = ()
    """The hours in which moves are made that can wait; empty: any time."""
    windows_for: frozenset[Priority] = frozenset({Priority.BALANCE})
    """The moves that are held to that."""

    def keeps_to_windows(self, priority: Priority) -> bool:
        """Whether such a move may be made in maintenance windows only."""
        return bool(self.windows) and priority in self.windows_for


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
    forecast: Foresight = field(default_factory=Foresight)
    trigger: Trigger | None = field(default_factory=Trigger)
    """`None`: always act."""
    limits: Limits = field(default_factory=Limits)
    migration: MigrationPermissions = field(default_factory=MigrationPermissions)
    fingerprint: str = ""
    """Hash of the file it was read from; a plan made under another policy is refused."""
