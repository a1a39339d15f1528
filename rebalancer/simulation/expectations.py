"""What a scenario expects of a plan and its rollout, and whether that came true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rebalancer.cluster.inventory import Host, HostState, Mode, Snapshot
from rebalancer.cluster.plan import (
    Migration,
    MigrationState,
    Outcome,
    Plan,
    PowerAction,
    VerdictKind,
)

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A number from `at_least` to `at_most`; `None` is no upper end."""

    at_least: int = 0
    at_most: int | None = None

    def holds(self, number: int) -> bool:
        """Whether `number` is in the range."""
        return self.at_least <= number and (self.at_most is None or number <= self.at_most)

    def __str__(self) -> str:
        """Return it in words."""
        if self.at_least == self.at_most:
            return f"{self.at_least}"
        if self.at_most is None:
            return f"{self.at_least} or more"
        return f"{self.at_least} to {self.at_most}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What should come of a scenario. Names are names of VMs and hosts; `None` asks nothing."""

    verdict: VerdictKind | None = None
    exit_code: int | None = None
    migrations: Between | None = None
    modes: Mapping[str, Mode] = field(default_factory=dict)
    """VM -> how it is to be moved."""
    mode_counts: Mapping[Mode, Between] = field(default_factory=dict)
    all_complete: bool = True
    """Every migration ends as complete, but for those named in `outcomes`."""
    outcomes: Mapping[str, MigrationState] = field(default_factory=dict)
    """VM -> how its (last) migration ends."""
    unmoved: tuple[str, ...] = ()
    """VMs that the plan lists as ones that ought to move and cannot."""
    stay: tuple[str, ...] = ()
    """VMs that are where they were."""
    on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """VM -> the hosts that it may be on afterwards."""
    apart: tuple[tuple[str, ...], ...] = ()
    """Groups of VMs, no two of which share a host afterwards."""
    hottest_host_cpu_ratio: float | None = None
    """No host uses more of its CPU than this afterwards."""
    cpu_spread_ratio: float | None = None
    """No host that is up is farther from their mean CPU use than this afterwards."""
    empty_hosts: tuple[str, ...] = ()
    hosts_free_to_sleep: Between | None = None
    """How many hosts are up and without any VM, or planned to sleep."""
    hosts_asleep: Between | None = None
    """How many hosts sleep after the power steps of the plan."""
    two_step_moves: Between | None = None
    """How many VMs move more than once."""
    longest_downtime_seconds: float | None = None
    makespan_seconds: float | None = None
    """The plan predicts to be through by then."""
    makespan_error_ratio: float | None = None
    """The rollout takes no more and no less than the plan predicts, within this share of it."""
    no_violations: bool = True
    """Nothing is broken after the plan."""


def check(
    expectations: Expectations,
    plan: Plan,
    outcomes: Sequence[Outcome],
    before: Snapshot,
    after: Snapshot,
    *,
    exit_code: int | None = None,
    rollout_seconds: float | None = None,
) -> tuple[str, ...]:
    """Return every expectation that was not met, in words; none is a success.

    Outcomes are not judged where there are none although the plan has migrations: that was a
    dry run. The exit code and how long the rollout took are judged only if they are given.
    """
    return (
        *_unmet_by_plan(expectations, plan),
        *_unmet_by_moves(expectations, plan),
        *_unmet_by_rollout(expectations, plan, outcomes),
        *_unmet_by_places(expectations, before, after),
        *_unmet_by_load(expectations, plan, after),
        *_unmet_by_pace(expectations, plan, rollout_seconds),
        *_unmet_by_exit_code(expectations, exit_code),
    )


def _unmet_by_pace(
    expected: Expectations, plan: Plan, rollout_seconds: float | None
) -> Iterator[str]:
    error, planned = expected.makespan_error_ratio, plan.makespan_seconds
    if error is None or rollout_seconds is None:
        return
    if abs(rollout_seconds - planned) > error * planned + _ROUNDING:
        yield (
            f"the rollout took {rollout_seconds:.0f} s, expected {planned:.0f} s "
            f"as planned, give or take {error:.0%}"
        )


def _unmet_by_exit_code(expected: Expectations, exit_code: int | None) -> Iterator[str]:
    if exit_code is not None and expected.exit_code not in (None, exit_code):
        yield f"exit code {exit_code}, expected {expected.exit_code}"


def _unmet_by_plan(expected: Expectations, plan: Plan) -> Iterator[str]:
    if expected.verdict not in (None, plan.verdict.kind):
        yield (
            f'verdict "{plan.verdict.kind}" ({plan.verdict.text}), expected "{expected.verdict}"'
        )
    if expected.no_violations:
        for violation in plan.violations_after:
            yield f"broken after the plan: {violation.text}"
    listed = {unmoved.vm for unmoved in plan.unmoved}
    for name in expected.unmoved:
        if name not in listed:
            yield f"{name} is not listed as unmoved"
    makespan = expected.makespan_seconds
    if makespan is not None and plan.makespan_seconds > makespan:
        yield f"the plan takes {plan.makespan_seconds:.0f} s, expected at most {makespan:.0f} s"


def _unmet_by_moves(expected: Expectations, plan: Plan) -> Iterator[str]:
    moves = len(plan.migrations)
    if expected.migrations is not None and not expected.migrations.holds(moves):
        yield f"{moves} migrations ({_moves(plan.migrations)}), expected {expected.migrations}"
    modes = Counter(migration.mode for migration in plan.migrations)
    for mode, wanted in expected.mode_counts.items():
        if not wanted.holds(modes[mode]):
            yield f"{modes[mode]} migrations are {mode}, expected {wanted}"
    by_name = {migration.vm_name: migration for migration in plan.migrations}
    for name, wanted_mode in expected.modes.items():
        migration = by_name.get(name)
        if migration is None:
            yield f"{name} does not move, expected {wanted_mode}"
        elif migration.mode is not wanted_mode:
            yield (
                f"{name} moves {migration.mode} ({migration.mode_reason}), expected {wanted_mode}"
            )
    times = Counter(migration.vm for migration in plan.migrations)
    twice = sum(count > 1 for count in times.values())
    if expected.two_step_moves is not None and not expected.two_step_moves.holds(twice):
        yield f"{twice} VMs move in two steps, expected {expected.two_step_moves}"


def _unmet_by_rollout(
    expected: Expectations, plan: Plan, outcomes: Sequence[Outcome]
) -> Iterator[str]:
    names = {migration.id: migration.vm_name for migration in plan.migrations}
    last = {names.get(outcome.migration, outcome.migration): outcome for outcome in outcomes}
    for name, wanted in expected.outcomes.items():
        found = last.get(name)
        if found is None or found.state is not wanted:
            is_now = f"{found.state} ({found.text})" if found else "not there"
            yield f"the migration of {name} is {is_now}, expected {wanted}"
    if expected.all_complete and outcomes:
        for name, outcome in last.items():
            if name not in expected.outcomes and outcome.state is not MigrationState.COMPLETE:
                yield f"the migration of {name} is {outcome.state}: {outcome.text}"
        for missing in sorted(set(names.values()) - set(last)):
            yield f"the migration of {missing} has no outcome"
    longest = expected.longest_downtime_seconds
    for name, outcome in last.items():
        downtime = outcome.downtime_seconds
        if longest is not None and downtime is not None and downtime > longest:
            yield f"{name} stood still for {downtime:.2f} s, expected at most {longest:.2f} s"


def _unmet_by_places(expected: Expectations, before: Snapshot, after: Snapshot) -> Iterator[str]:
    was, is_now = _places(before), _places(after)
    for name in expected.stay:
        if is_now.get(name) != was.get(name):
            yield f"{name} is on {is_now.get(name)}, expected it to stay on {was.get(name)}"
    for name, hosts in expected.on.items():
        if is_now.get(name) not in hosts:
            yield f"{name} is on {is_now.get(name)}, expected on {' or '.join(hosts)}"
    for group in expected.apart:
        counts = Counter(is_now.get(name) for name in group)
        for host, count in counts.items():
            if count > 1:
                yield f"{count} of {', '.join(group)} share {host}, expected apart"
    for empty in after.hosts:
        if empty.name in expected.empty_hosts and (left := after.vms_by_host[empty.id]):
            yield f"{empty.name} still has {', '.join(vm.name for vm in left)}, expected none"


def _unmet_by_load(expected: Expectations, plan: Plan, after: Snapshot) -> Iterator[str]:
    ratios = {
        host.name: _cpu_ratio(host) for host in after.hosts if host.cpu_used_cores is not None
    }
    hottest = max(ratios, key=lambda name: ratios[name], default=None)
    limit = expected.hottest_host_cpu_ratio
    if limit is not None and hottest is not None and ratios[hottest] > limit + _ROUNDING:
        yield f"{hottest} uses {ratios[hottest]:.1%} of its CPU, expected at most {limit:.1%}"
    up = [ratios[host.name] for host in after.hosts if host.may_receive and host.name in ratios]
    mean = sum(up) / len(up) if up else 0.0
    spread = max((abs(ratio - mean) for ratio in up), default=0.0)
    if expected.cpu_spread_ratio is not None and spread > expected.cpu_spread_ratio + _ROUNDING:
        yield f"CPU spread {spread:.1%}, expected at most {expected.cpu_spread_ratio:.1%}"
    free = len(_free_to_sleep(plan, after))
    if expected.hosts_free_to_sleep is not None and not expected.hosts_free_to_sleep.holds(free):
        yield f"{free} hosts are free to sleep, expected {expected.hosts_free_to_sleep}"
    asleep = sum(host.state is HostState.ASLEEP for host in after.hosts)
    if expected.hosts_asleep is not None and not expected.hosts_asleep.holds(asleep):
        yield f"{asleep} hosts are asleep, expected {expected.hosts_asleep}"


def _free_to_sleep(plan: Plan, after: Snapshot) -> set[str]:
    empty = {
        host.id
        for host in after.hosts
        if host.state is HostState.UP and not after.vms_by_host[host.id]
    }
    return empty | {step.host for step in plan.power if step.action is PowerAction.SLEEP}


def _cpu_ratio(host: Host) -> float:
    return (host.cpu_used_cores or 0.0) / host.cpu_cores


def _places(snapshot: Snapshot) -> dict[str, str]:
    return {vm.name: snapshot.host_by_id[vm.host].name for vm in snapshot.vms}


def _moves(migrations: Sequence[Migration]) -> str:
    shown = [f"{m.vm_name}: {m.source} to {m.target}" for m in migrations[:10]]
    return "; ".join(shown) + ("; …" if len(migrations) > len(shown) else "") or "none"
