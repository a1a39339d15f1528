"""What keeps a loop that runs for a year from moving VMs to and fro.

Everything in here is a pure function of what was seen and done before: VMs that were moved stay
for a while and do not go straight back, hosts that come and go receive nothing, unevenness has
to last, and a plan has to be worth what its migrations cost. Placement knows nothing of it: it
is given a snapshot and a policy in which these things are written as what it knows already,
obstacles of VMs, states of hosts, and rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from glob import escape

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.cluster.plan import Plan, Priority
from rebalancer.cluster.policy import (
    BalanceGoal,
    Limits,
    MovementGoal,
    OverloadMeasure,
    Policy,
    RelieveGoal,
)
from rebalancer.cluster.rules import Ban
from rebalancer.cluster.selection import HostSelector, VmSelector
from rebalancer.cluster.violations import cpu_capacity_cores, hard_violations
from rebalancer.rollout.records import Move
from rebalancer.service.wording import count_text, seconds_text

GIB = 1024**3

DAMPING_CYCLES = 3
"""A host must have answered in so many cycles in a row before it receives VMs again."""

TRANSFER_CORES = 2.0
"""What a transfer costs: about a core for QEMU's migration thread, on either side."""

LEAST_PAYBACK_SECONDS = 600.0
"""A plan may take this long to pay back even where VMs have no cool-down at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCycle:
    """As much of an earlier cycle of the same policy as later ones must know."""

    at: datetime
    wanted: bool
    """Whether load was uneven enough for the policy to act, or a better placement was found."""
    acted: bool
    """Whether VMs were moved."""
    silent_hosts: frozenset[HostId] = frozenset()
    """Hosts that did not answer, or were down."""


# What must not move -------------------------------------------------------------------------


def look_back_seconds(limits: Limits) -> float:
    """How far back moves matter."""
    return max(limits.cooldown_seconds, limits.reverse_ban_seconds)


def steadied(
    snapshot: Snapshot,
    policy: Policy,
    demand: Demand,
    *,
    moves: Iterable[Move],
    past: Sequence[PastCycle],
    now: datetime,
) -> tuple[Snapshot, Policy]:
    """Return the cluster and the policy with everything in them that must hold still.

    VMs of a draining host, and those that a broken rule is about, are left free: a drain and
    the repair of a rule do not wait.
    """
    moves = tuple(moves)
    free = urgent_vms(snapshot, policy, demand) if moves else frozenset()
    cooling = cooling_vms(policy.limits, moves, now)
    free |= cornered_vms(snapshot, policy, cooling)
    restless = restless_hosts(snapshot, past)
    held = replace(
        snapshot,
        hosts=tuple(_damped(host, restless) for host in snapshot.hosts),
        vms=tuple(
            _held(vm, cooling[vm.id]) if vm.id in cooling and vm.id not in free else vm
            for vm in snapshot.vms
        ),
    )
    bans = reverse_bans(snapshot, policy.limits, moves, now, free=free)
    return held, replace(policy, rules=(*policy.rules, *bans))


def cornered_vms(snapshot: Snapshot, policy: Policy, cooling: Collection[VmId]) -> frozenset[VmId]:
    """VMs that do not rest as their host is short of CPU now, and those that may leave are too few.

    Only where the policy has such hosts relieved at once (`forecast: {overload: now}`): after a
    plan that moved nearly everything, nothing could be done otherwise until the cool-down is over.
    """
    found: set[VmId] = set()
    if policy.forecast.overload is not OverloadMeasure.NOW or not cooling:
        return frozenset()
    for host in snapshot.hosts:
        there = [vm for vm in snapshot.vms_by_host[host.id] if vm.is_active]
        stays = sum(vm.cpu_used_cores for vm in there if vm.id in cooling or not vm.can_move)
        if stays > cpu_capacity_cores(host, policy):
            found.update(vm.id for vm in there)
    return frozenset(found)


def urgent_vms(snapshot: Snapshot, policy: Policy, demand: Demand) -> frozenset[VmId]:
    """VMs that may have to move whatever happened before: for a drain, or for a broken rule.

    A host that is short of CPU does not count: that passes, and to relieve it by moving the same
    VM again is just what a cool-down is there to prevent. Memory that is short does not pass.
    """
    broken = hard_violations(snapshot, policy, demand, snapshot.assignment)
    lasting = [violation for violation in broken if not violation.rule.startswith("cpu of ")]
    repaired = {vm for violation in lasting for vm in violation.vms}
    leaving = {
        vm.id
        for host in snapshot.hosts
        if host.state is HostState.DRAINING
        for vm in snapshot.vms_by_host[host.id]
    }
    return frozenset(repaired | leaving)


def cooling_vms(limits: Limits, moves: Iterable[Move], now: datetime) -> Mapping[VmId, str]:
    """VMs that were moved too recently to be moved again, each with the reason."""
    latest = {move.vm: move.at for move in sorted(moves, key=lambda move: move.at)}
    rest = timedelta(seconds=limits.cooldown_seconds)
    return {
        vm: f"it was moved {_ago(now - at)} ago and stays for {_ago(rest)}"
        for vm, at in latest.items()
        if now - at < rest
    }


def reverse_bans(
    snapshot: Snapshot,
    limits: Limits,
    moves: Iterable[Move],
    now: datetime,
    *,
    free: Collection[VmId] = frozenset(),
) -> tuple[Ban, ...]:
    """Rules that keep VMs from going back to where they were moved from for balance.

    What a drain moved away may come back when the drain is over. One rule for each host.
    """
    kept_away: dict[HostId, set[VmId]] = {}
    rest = timedelta(seconds=limits.reverse_ban_seconds)
    for move in moves:
        vm = snapshot.vm_by_id.get(move.vm)
        is_recent = now - move.at < rest
        is_elsewhere = vm is not None and vm.host != move.source
        if is_recent and is_elsewhere and move.priority is Priority.BALANCE:
            kept_away.setdefault(move.source, set()).add(move.vm)
    return tuple(
        Ban(
            name=f"no way back to {host} within {_ago(rest)}",
            vms=VmSelector(names=tuple(sorted(escape(vm) for vm in vms - set(free)))),
            hosts=HostSelector(names=(escape(host),)),
        )
        for host, vms in sorted(kept_away.items())
        if vms - set(free) and host in snapshot.host_by_id
    )


def rests_ignored(
    plan: Plan, snapshot: Snapshot, limits: Limits, moves: Iterable[Move], now: datetime
) -> str:
    """Say which moves of a plan that was made on request the daemon would not make yet.

    Somebody who asks for a plan gets the best one there is, rests or not, and is told; empty if
    no VM of it is resting.
    """
    moves = tuple(moves)
    cooling = cooling_vms(limits, moves, now)
    bans = reverse_bans(snapshot, limits, moves, now)
    said = []
    for migration in plan.migrations:
        vm, target = snapshot.vm_by_id[migration.vm], snapshot.host_by_id[migration.target]
        banned = [ban.name for ban in bans if ban.vms.matches(vm) and ban.hosts.matches(target)]
        if migration.priority is not Priority.BALANCE:
            continue
        if why := cooling.get(vm.id) or "".join(banned[:1]):
            said.append(f"{vm.name}: {why}")
    if not said:
        return ""
    return (
        "cool-downs and reverse bans were not looked at, as this plan was asked for; the daemon "
        f"would not move {count_text(len(said), 'VM')} of it yet ({'; '.join(said[:5])})"
    )


def restless_hosts(
    snapshot: Snapshot, past: Sequence[PastCycle], cycles: int = DAMPING_CYCLES
) -> Mapping[HostId, str]:
    """Hosts that are up now and were silent a moment ago, each with the reason.

    `past` has the newest cycle last. A host whose agent comes and goes would otherwise be
    filled and emptied with each of its turns.
    """
    found: dict[HostId, str] = {}
    for age, cycle in enumerate(reversed(past[-cycles:]), start=1):
        for host in cycle.silent_hosts:
            if host in snapshot.host_by_id and snapshot.host_by_id[host].state is HostState.UP:
                when = "in the last cycle" if age == 1 else f"{age} cycles ago"
                found.setdefault(
                    host,
                    f"it did not answer {when}; nothing is moved to or off it until it has "
                    f"answered in {cycles} in a row",
                )
    return found


def _damped(host: Host, restless: Mapping[HostId, str]) -> Host:
    # In maintenance a host neither receives nor gives, and does not count in the mean.
    if host.id not in restless:
        return host
    return replace(host, state=HostState.MAINTENANCE, state_reason=restless[host.id])


def _held(vm: Vm, why: str) -> Vm:
    return replace(vm, blockers=(*vm.blockers, why))


# What a day allows --------------------------------------------------------------------------

DAY_SECONDS = 86400.0
"""Any 24 hours and not a date: at midnight nothing begins anew."""


def within_day(policy: Policy, moves_of_a_day: Iterable[Move]) -> Policy:
    """Return the policy with what is left of its daily budgets as limits of its next plan.

    Only moves for balance count, and only they are held to it: a drain or the repair of a rule
    does not wait for tomorrow.
    """
    limits, spent = policy.limits, _for_balance(moves_of_a_day)
    bytes_spent = sum(move.memory_bytes for move in spent)
    return replace(
        policy,
        limits=replace(
            limits,
            migrations=_left(limits.migrations, limits.migrations_per_day, len(spent)),
            moved_bytes=_left(limits.moved_bytes, limits.moved_bytes_per_day, bytes_spent),
        ),
    )


def day_is_spent(limits: Limits, moves_of_a_day: Iterable[Move], now: datetime) -> str:
    """Say that a daily budget is spent, and when a part of it is free again; empty: it is not."""
    spent = _for_balance(moves_of_a_day)
    bytes_spent = sum(move.memory_bytes for move in spent)
    said = []
    if (most := limits.migrations_per_day) is not None and len(spent) >= most:
        said.append(f"{len(spent)} of {count_text(most, 'migration')}")
    if (most := limits.moved_bytes_per_day) is not None and bytes_spent >= most:
        said.append(f"{bytes_spent / GIB:.1f} of {most / GIB:.1f} GiB")
    if not said:
        return ""
    first = min((move.at for move in spent), default=now)
    free_again = max(0.0, DAY_SECONDS - (now - first).total_seconds())
    when = f"; some of it is free again in {seconds_text(free_again)}" if spent else ""
    return f"the budget for 24 hours is spent ({', '.join(said)}){when}"


def _for_balance(moves: Iterable[Move]) -> tuple[Move, ...]:
    return tuple(move for move in moves if move.priority is Priority.BALANCE)


def _left(per_plan: int | None, per_day: int | None, spent: int) -> int | None:
    if per_day is None:
        return per_plan
    left = max(0, per_day - spent)
    return left if per_plan is None else min(per_plan, left)


# When it is worth it ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How far apart the cycles of a policy are, to tell whether they followed each other."""

    at_least_seconds: float
    """Cycles closer together see the same unevenness once: a daemon was restarted, or a hasty
    operator ran one by hand."""
    at_most_seconds: float
    """After a longer silence nobody knows what happened meanwhile."""


def cycles_wanted(past: Sequence[PastCycle], now: datetime, rhythm: Rhythm) -> int:
    """How many of the last cycles, without a break, wanted to move VMs and did not.

    `past` has the newest cycle last.
    """
    count, later = 0, now
    for cycle in reversed(past):
        apart_seconds = (later - cycle.at).total_seconds()
        is_break = apart_seconds > rhythm.at_most_seconds
        if is_break or cycle.acted or not cycle.wanted:
            break
        if apart_seconds >= rhythm.at_least_seconds:
            count, later = count + 1, cycle.at
    return count


def is_urgent(plan: Plan) -> bool:
    """Whether a plan empties a host or mends a rule: that does not wait for anything."""
    return any(migration.priority is not Priority.BALANCE for migration in plan.migrations)


def reason_to_wait(plan: Plan, policy: Policy, waited_cycles: int) -> str:
    """Why a plan has to wait because unevenness may pass; empty if it need not.

    `waited_cycles` is the number of earlier cycles in a row that wanted to move something.
    """
    needed = policy.trigger.for_cycles if policy.trigger is not None else 1
    if is_urgent(plan) or waited_cycles + 1 >= needed:
        return ""
    return f"waiting: seen in {waited_cycles + 1} of {needed} cycles in a row"


def reason_not_worth_it(plan: Plan, snapshot: Snapshot, policy: Policy) -> str:
    """Why a plan costs more than it brings; empty if it does not.

    Only plans for balance are judged: what watts or a better site are worth their own goals say.
    """
    for_balance = BalanceGoal | RelieveGoal | MovementGoal
    is_for_balance = all(isinstance(goal, for_balance) for goal in policy.goals)
    if not plan.migrations or is_urgent(plan) or not is_for_balance:
        return ""
    patience = max(policy.limits.cooldown_seconds, LEAST_PAYBACK_SECONDS)
    seconds = payback_seconds(plan, snapshot)
    if seconds <= patience:
        return ""
    moves = count_text(len(plan.migrations), "migration")
    after = f"only after {seconds_text(seconds)}" if math.isfinite(seconds) else "never"
    return f"no gain: {moves} would pay back {after}, {seconds_text(patience)} are allowed"


def payback_seconds(plan: Plan, snapshot: Snapshot) -> float:
    """How long the cluster has to stay as it is for a plan to have been worth it.

    Cost and gain are both core seconds. A migration costs `TRANSFER_CORES` for as long as it
    takes, on both hosts together. What a plan gains every second is the load that it takes off
    hosts above the mean: Σ_h c[h]·(max(0, u[h] − ū) − max(0, u'[h] − ū)), u and u' being the
    load of host h before and after, ū its mean over hosts, c the cores; for memory alike, as if
    its shares were shares of cores; the better of the two counts. Infinite without any gain.
    """
    cost = sum(TRANSFER_CORES * m.predicted.duration_seconds for m in plan.migrations)
    hosts = [host for host in plan.hosts if host.state is HostState.UP]
    cores = [snapshot.host_by_id[host.host].cpu_cores for host in hosts]
    relief = max(
        _relief(cores, [(h.cpu_ratio_before or 0.0, h.cpu_ratio_after or 0.0) for h in hosts]),
        _relief(
            cores, [(h.memory_ratio_before or 0.0, h.memory_ratio_after or 0.0) for h in hosts]
        ),
    )
    return cost / relief if relief > 1e-9 else math.inf


def _relief(cores: Sequence[float], loads: Sequence[tuple[float, float]]) -> float:
    if not cores:
        return 0.0
    sized = tuple(zip(cores, loads, strict=True))
    mean = sum(size * before for size, (before, _) in sized) / sum(cores)
    return sum(
        size * (max(0.0, before - mean) - max(0.0, after - mean)) for size, (before, after) in sized
    )


def _ago(span: timedelta) -> str:
    return seconds_text(max(0.0, span.total_seconds()))
