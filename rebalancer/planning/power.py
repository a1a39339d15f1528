"""Which hosts can sleep once the migrations of a plan are over, and which must be woken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot, Vm, VmId
from rebalancer.cluster.plan import Migration, PowerAction, PowerStep
from rebalancer.cluster.policy import Policy, PowerGoal
from rebalancer.cluster.power import (
    AwakeNeed,
    awake_needs,
    cycle_joules,
    idle_watts,
    migration_joules,
    power_goal,
)
from rebalancer.cluster.violations import hard_violations, worsened
from rebalancer.planning.wording import in_bytes, in_seconds


def power_steps(
    snapshot: Snapshot, demand: Demand, policy: Policy, migrations: Sequence[Migration]
) -> tuple[PowerStep, ...]:
    """Say which hosts to wake and which to put to sleep; nothing without a power goal.

    A host may sleep when nothing runs on it after the migrations and the others have everything
    that must be awake: `cluster.power.awake_needs`. One is woken when half of what is to be
    spare is used up, or the rest is not met; so that what was put to sleep is not woken at once.
    """
    goal = power_goal(policy)
    if goal is None:
        return ()
    needs = awake_needs(snapshot, policy, goal, demand)
    awake = {host.id for host in snapshot.hosts if host.state is HostState.UP}
    hosts = [host for host in snapshot.hosts if policy.applies.matches(host)]
    tight = awake_needs(snapshot, policy, replace(goal, spare_ratio=goal.spare_ratio / 2), demand)
    if not _are_met(tight, awake):
        return tuple(_wake(hosts, needs, awake))
    return tuple(_sleep(snapshot, demand, policy, hosts, goal, needs, awake, migrations))


def _are_met(needs: Sequence[AwakeNeed], awake: set[HostId]) -> bool:
    return all(need.surplus(awake) >= 0 for need in needs)


def _wake(
    hosts: Sequence[Host], needs: Sequence[AwakeNeed], awake: set[HostId]
) -> Iterator[PowerStep]:
    """Hosts that sleep, those that draw least first, until everything is met or none is left."""
    asleep = [host for host in hosts if host.state is HostState.ASLEEP]
    for host in sorted(asleep, key=lambda host: (idle_watts(host), host.name)):
        missing = [need.what for need in needs if need.surplus(awake) < 0]
        if not missing:
            return
        yield PowerStep(
            host=host.id,
            action=PowerAction.WAKE,
            reason=f"the hosts that are awake are too few for {'; '.join(missing)}; "
            "the next plan can use it",
            saved_watts=-idle_watts(host),
        )
        awake.add(host.id)


def _sleep(
    snapshot: Snapshot,
    demand: Demand,
    policy: Policy,
    hosts: Sequence[Host],
    goal: PowerGoal,
    needs: Sequence[AwakeNeed],
    awake: set[HostId],
    migrations: Sequence[Migration],
) -> Iterator[PowerStep]:
    """Empty hosts, those that draw most first, as long as the others are enough."""
    moved = {migration.vm: migration.target for migration in migrations}
    left = _left_on(snapshot, moved)
    empty = [
        host
        for host in hosts
        if host.state is HostState.UP and not any(vm.is_active for vm in left[host.id])
    ]
    candidates = []
    for host in sorted(empty, key=lambda host: (-idle_watts(host), host.name)):
        if _are_met(needs, awake - {host.id}):
            awake.discard(host.id)
            candidates.append(host)
    for host in candidates[: _how_many(snapshot, demand, policy, moved, candidates)]:
        yield _step(host, goal, left[host.id], migrations)


def _how_many(
    snapshot: Snapshot,
    demand: Demand,
    policy: Policy,
    moved: Mapping[VmId, HostId],
    candidates: Sequence[Host],
) -> int:
    """How many of the first candidates may sleep by the oracle, which also looks at single VMs.

    More hosts that sleep never mend anything, so the number is found by halving.
    """
    placed = replace(
        snapshot,
        vms=tuple(replace(vm, host=moved.get(vm.id, vm.host)) for vm in snapshot.vms),
    )
    # Without a goal the oracle goes by the state of an empty host, and supposes nothing.
    plain = replace(policy, goals=())
    before = hard_violations(placed, plain, demand, placed.assignment)

    def breaks_nothing(count: int) -> bool:
        sleeping = {host.id for host in candidates[:count]}
        hosts = tuple(
            replace(host, state=HostState.ASLEEP) if host.id in sleeping else host
            for host in snapshot.hosts
        )
        then = replace(placed, hosts=hosts)
        return not worsened(before, hard_violations(then, plain, demand, then.assignment))

    fine, most = 0, len(candidates)
    while fine < most:
        # All at once first: nearly always that is the answer.
        count = most if most == len(candidates) and fine == 0 else (fine + most + 1) // 2
        if breaks_nothing(count):
            fine = count
        else:
            most = count - 1
    return fine


def _left_on(snapshot: Snapshot, moved: Mapping[VmId, HostId]) -> Mapping[HostId, list[Vm]]:
    left: defaultdict[HostId, list[Vm]] = defaultdict(list)
    for vm in snapshot.vms:
        left[moved.get(vm.id, vm.host)].append(vm)
    return left


def _step(
    host: Host, goal: PowerGoal, shut_off: Sequence[Vm], migrations: Sequence[Migration]
) -> PowerStep:
    leaving = [migration for migration in migrations if migration.source == host.id]
    sent = sum(migration.predicted.transfer_bytes for migration in leaving)
    joules = cycle_joules(goal, host)
    joules += sum(migration_joules(migration.predicted.transfer_bytes) for migration in leaving)
    watts = idle_watts(host)
    payback = joules / watts if watts > 0 else None
    return PowerStep(
        host=host.id,
        action=PowerAction.SLEEP,
        reason="; ".join(_reasons(leaving, sent, watts, payback, shut_off)),
        depends_on=tuple(
            migration.id
            for migration in migrations
            if host.id in (migration.source, migration.target)
        ),
        vms=len(leaving),
        moved_bytes=sent,
        saved_watts=watts,
        payback_seconds=payback,
    )


def _reasons(
    leaving: Sequence[Migration],
    sent_bytes: float,
    watts: float,
    payback_seconds: float | None,
    shut_off: Sequence[Vm],
) -> Iterator[str]:
    if leaving:
        yield f"empty once {len(leaving)} VMs have left it, {in_bytes(sent_bytes)}"
    else:
        yield "nothing runs on it"
    if payback_seconds is not None:
        yield (
            f"saves {watts:,.0f} W, and after {in_seconds(payback_seconds)} has saved what the "
            "moves and a power cycle cost"
        )
    if shut_off:
        yield f"{len(shut_off)} VMs that are shut off on it cannot be started meanwhile"
