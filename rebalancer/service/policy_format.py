"""How a policy is written: the sections of the YAML file, their keys, defaults and bounds.

Each section turns itself into its noun. The defaults are the nouns' own, from `cluster.policy`, so
that a short file, a policy made in Python and `docs/policies.md` mean the same. Rules are in
`rule_format`; what more than one field is needed to see is checked in `policy_file`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import Priority
from rebalancer.cluster.policy import (
    BalancedResource,
    BalanceGoal,
    DrainGoal,
    Foresight,
    GeographyCriterion,
    GeographyGoal,
    Goal,
    Headroom,
    Limits,
    MigrationPermissions,
    MovementGoal,
    MovementMeasure,
    Overcommit,
    OverloadMeasure,
    PowerGoal,
    RelieveGoal,
    Trigger,
)
from rebalancer.files import Bytes, BytesPerSecond, FileModel, Ratio, Seconds
from rebalancer.service.rule_format import (
    AtLeastOne,
    HostSelectorSection,
    RuleSection,
    VmSelectorSection,
)
from rebalancer.service.window_format import WindowSection

type Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
type MoveCount = Annotated[int, Field(ge=0, le=1_000_000)]
type Share = Annotated[Ratio, Field(gt=0, le=1)]
type Tier = Annotated[int, Field(ge=0, le=100)]

JOULES_PER_WATT_HOUR = 3600.0

_HEADROOM, _OVERCOMMIT, _TRIGGER = Headroom(), Overcommit(), Trigger()
_LIMITS, _MIGRATION, _FORECAST = Limits(), MigrationPermissions(), Foresight()
_BALANCE, _POWER, _GEOGRAPHY = BalanceGoal(), PowerGoal(), GeographyGoal()
_MOVEMENT, _DRAIN, _RELIEVE = MovementGoal(), DrainGoal(), RelieveGoal()


class AppliesSection(FileModel):
    """What the policy looks after."""

    hosts: HostSelectorSection = HostSelectorSection()
    """Only these hosts and the VMs on them."""


class ActiveSection(FileModel):
    """When the daemon runs the policy."""

    cron: str | None = None
    """Five fields, days of the week by name."""


class BalanceResources(FileModel):
    """How much each resource counts in a host's load."""

    cpu: Weight = _BALANCE.cpu_weight
    """Weight of CPU."""
    memory: Weight = _BALANCE.memory_weight
    """Weight of memory."""


class BalanceSection(FileModel):
    """Even out relative load."""

    goal: Literal["balance"]
    tier: Tier = _BALANCE.tier
    weight: Weight = _BALANCE.weight
    resources: BalanceResources = BalanceResources()
    guard: tuple[BalancedResource, ...] = tuple(sorted(_BALANCE.guard))
    """What may not become less even than it is."""

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return BalanceGoal(
            tier=self.tier,
            weight=self.weight,
            cpu_weight=self.resources.cpu,
            memory_weight=self.resources.memory,
            guard=frozenset(self.guard),
        )


class RelieveSection(FileModel):
    """Bring hosts above a band down to it."""

    goal: Literal["relieve"]
    tier: Tier = _RELIEVE.tier
    weight: Weight = _RELIEVE.weight
    above: Annotated[Ratio, Field(gt=0)] | None = _RELIEVE.cpu_ratio
    """A host is above the band when its CPU load is above this share of its cores."""
    memory_above: Annotated[Ratio, Field(gt=0)] | None = _RELIEVE.memory_ratio
    """The same for the memory of its VMs."""

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return RelieveGoal(
            tier=self.tier,
            weight=self.weight,
            cpu_ratio=self.above,
            memory_ratio=self.memory_above,
        )


class PowerSection(FileModel):
    """Use fewer watts."""

    goal: Literal["power"]
    tier: Tier = _POWER.tier
    weight: Weight = _POWER.weight
    min_awake: AtLeastOne = _POWER.min_awake
    spare: Annotated[Ratio, Field(lt=1)] = _POWER.spare_ratio
    payback: Annotated[Seconds, Field(gt=0)] | None = _POWER.payback_seconds
    boot: Seconds = _POWER.boot_seconds
    wear_watt_hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] = (
        _POWER.wear_joules / JOULES_PER_WATT_HOUR
    )

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return PowerGoal(
            tier=self.tier,
            weight=self.weight,
            min_awake=self.min_awake,
            spare_ratio=self.spare,
            payback_seconds=self.payback,
            boot_seconds=self.boot,
            wear_joules=self.wear_watt_hours * JOULES_PER_WATT_HOUR,
        )


class GeographySection(FileModel):
    """Prefer some sites."""

    goal: Literal["geography"]
    tier: Tier = _GEOGRAPHY.tier
    weight: Weight = _GEOGRAPHY.weight
    criterion: GeographyCriterion = _GEOGRAPHY.criterion
    users: Annotated[str, Field(min_length=1)] | None = _GEOGRAPHY.users
    vms: VmSelectorSection | None = None
    """The VMs that it is about."""
    payback: Annotated[Seconds, Field(gt=0)] = _GEOGRAPHY.payback_seconds
    """In this time a move has to pay for what the links take."""

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return GeographyGoal(
            tier=self.tier,
            weight=self.weight,
            criterion=self.criterion,
            users=self.users,
            vms=None if self.vms is None else self.vms.noun(),
            payback_seconds=self.payback,
        )


class MovementSection(FileModel):
    """Move little."""

    goal: Literal["movement"]
    tier: Tier = _MOVEMENT.tier
    weight: Weight = _MOVEMENT.weight
    measure: MovementMeasure = _MOVEMENT.measure
    dear: VmSelectorSection | None = None
    """VMs that cost more to move than their bytes say."""
    dear_times: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = _MOVEMENT.dear_times
    """So many times as much."""

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return MovementGoal(
            tier=self.tier,
            weight=self.weight,
            measure=self.measure,
            dear=None if self.dear is None else self.dear.noun(),
            dear_times=self.dear_times,
        )


class DrainSection(FileModel):
    """Empty the draining hosts."""

    goal: Literal["drain"]
    tier: Tier = _DRAIN.tier
    weight: Weight = _DRAIN.weight
    evacuate: HostSelectorSection | None = None
    """Hosts that are to be emptied as if they were draining."""

    def noun(self) -> Goal:
        """Return the goal that this means."""
        return DrainGoal(
            tier=self.tier,
            weight=self.weight,
            evacuate=None if self.evacuate is None else self.evacuate.noun(),
        )


type GoalSection = Annotated[
    BalanceSection
    | RelieveSection
    | PowerSection
    | GeographySection
    | MovementSection
    | DrainSection,
    Field(discriminator="goal"),
]


class HeadroomSection(FileModel):
    """What is left free on every host."""

    cpu: Annotated[Ratio, Field(lt=1)] = _HEADROOM.cpu_ratio
    memory: Annotated[Ratio, Field(lt=1)] = _HEADROOM.memory_ratio
    host_failures: Annotated[int, Field(ge=0, le=1000)] = _HEADROOM.host_failures

    def noun(self) -> Headroom:
        """Return the headroom that this means."""
        return Headroom(
            cpu_ratio=self.cpu, memory_ratio=self.memory, host_failures=self.host_failures
        )


class OvercommitSection(FileModel):
    """How much more than it has a host may promise."""

    cpu: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = _OVERCOMMIT.cpu
    memory: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = _OVERCOMMIT.memory

    def noun(self) -> Overcommit:
        """Return the overcommit that this means."""
        return Overcommit(cpu=self.cpu, memory=self.memory)


class ForecastSection(FileModel):
    """How demand is foreseen."""

    horizon: Annotated[Seconds, Field(gt=0)] = _FORECAST.horizon_seconds
    peak: Annotated[Ratio, Field(ge=0.5, lt=1)] = _FORECAST.peak_quantile
    pooled: bool = _FORECAST.is_pooled
    overload: OverloadMeasure = _FORECAST.overload

    def noun(self) -> Foresight:
        """Return the foresight that this means."""
        return Foresight(
            horizon_seconds=self.horizon,
            peak_quantile=self.peak,
            is_pooled=self.pooled,
            overload=self.overload,
        )


class TriggerSection(FileModel):
    """When anything moves at all."""

    spread: Ratio = _TRIGGER.spread_ratio
    hot: Ratio = _TRIGGER.hot_ratio
    for_cycles: AtLeastOne = _TRIGGER.for_cycles
    min_gain: Ratio = _TRIGGER.min_gain_ratio

    def noun(self) -> Trigger:
        """Return the trigger that this means."""
        return Trigger(
            spread_ratio=self.spread,
            hot_ratio=self.hot,
            for_cycles=self.for_cycles,
            min_gain_ratio=self.min_gain,
        )


class LimitsSection(FileModel):
    """Caps on one plan."""

    migrations: Annotated[int, Field(ge=0, le=1_000_000)] | Share | None = _LIMITS.migrations
    moved_memory: Annotated[Bytes, Field(ge=0)] | None = _LIMITS.moved_bytes
    moves_out_of_host: MoveCount | None = _LIMITS.moves_out_of_host
    moves_into_host: MoveCount | None = _LIMITS.moves_into_host
    moves_between_sites: MoveCount | None = _LIMITS.moves_between_sites
    memory_between_sites: Annotated[Bytes, Field(ge=0)] | None = _LIMITS.bytes_between_sites
    migrations_per_day: MoveCount | None = _LIMITS.migrations_per_day
    moved_memory_per_day: Annotated[Bytes, Field(ge=0)] | None = _LIMITS.moved_bytes_per_day
    per_host_out: AtLeastOne = _LIMITS.per_host_out
    per_host_in: AtLeastOne = _LIMITS.per_host_in
    cluster: AtLeastOne = _LIMITS.cluster
    link_share: Annotated[Ratio, Field(gt=0)] = _LIMITS.link_share
    cooldown: Seconds = _LIMITS.cooldown_seconds
    reverse_ban: Seconds = _LIMITS.reverse_ban_seconds

    def noun(self) -> Limits:
        """Return the limits that this means."""
        return Limits(
            migrations=None if isinstance(self.migrations, float) else self.migrations,
            migrations_ratio=self.migrations if isinstance(self.migrations, float) else None,
            moved_bytes=self.moved_memory,
            moves_out_of_host=self.moves_out_of_host,
            moves_into_host=self.moves_into_host,
            moves_between_sites=self.moves_between_sites,
            bytes_between_sites=self.memory_between_sites,
            migrations_per_day=self.migrations_per_day,
            moved_bytes_per_day=self.moved_memory_per_day,
            per_host_out=self.per_host_out,
            per_host_in=self.per_host_in,
            cluster=self.cluster,
            link_share=self.link_share,
            cooldown_seconds=self.cooldown,
            reverse_ban_seconds=self.reverse_ban,
        )


class MigrationSection(FileModel):
    """How VMs may be moved, and what that may cost their guests."""

    allow: tuple[Mode, ...] = tuple(sorted(_MIGRATION.allow))
    max_downtime: Annotated[Seconds, Field(gt=0)] = _MIGRATION.max_downtime_seconds
    max_suspend: Annotated[Seconds, Field(gt=0)] = _MIGRATION.max_suspend_seconds
    max_duration: Annotated[Seconds, Field(gt=0)] = _MIGRATION.max_duration_seconds
    save_to: Annotated[str, Field(min_length=1, max_length=200)] | None = _MIGRATION.save_to
    save_rate: Annotated[BytesPerSecond, Field(gt=0)] = _MIGRATION.save_bytes_per_second
    local_disks: bool = _MIGRATION.local_disks
    windows: tuple[WindowSection, ...] = ()
    windows_for: Annotated[tuple[Priority, ...], Field(min_length=1)] = tuple(
        sorted(_MIGRATION.windows_for)
    )

    def noun(self) -> MigrationPermissions:
        """Return the permissions that this means."""
        # Who lets a running VM be stopped to move it lets a stopped one be moved.
        implied = {Mode.OFFLINE} if Mode.COLD in self.allow else set()
        return MigrationPermissions(
            allow=frozenset(self.allow) | implied,
            max_downtime_seconds=self.max_downtime,
            max_suspend_seconds=self.max_suspend,
            max_duration_seconds=self.max_duration,
            save_to=self.save_to,
            save_bytes_per_second=self.save_rate,
            local_disks=self.local_disks,
            windows=tuple(window.noun() for window in self.windows),
            windows_for=frozenset(self.windows_for),
        )


class PolicyFile(FileModel):
    """A policy as its file says it."""

    schema_version: Literal[1]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    applies: AppliesSection = AppliesSection()
    active: ActiveSection = ActiveSection()
    goals: tuple[GoalSection, ...] = (
        BalanceSection(goal="balance"),
        MovementSection(goal="movement"),
    )
    rules: tuple[RuleSection, ...] = ()
    headroom: HeadroomSection = HeadroomSection()
    overcommit: OvercommitSection = OvercommitSection()
    forecast: ForecastSection = ForecastSection()
    trigger: TriggerSection | None = TriggerSection()
    limits: LimitsSection = LimitsSection()
    migration: MigrationSection = MigrationSection()
