"""What a cycle came to, in one sentence: an operator reads it first, and often only it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import HostState, Snapshot
from rebalancer.cluster.plan import (
    AboveBand,
    Objective,
    Placement,
    Plan,
    SolveStatus,
    Unmoved,
    Unsolved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.policy import (
    BalanceGoal,
    DrainGoal,
    MovementGoal,
    Policy,
    RelieveGoal,
    Trigger,
)
from rebalancer.cluster.rules import Pin
from rebalancer.cluster.violations import hard_violations
from rebalancer.placement.imbalance import Imbalance
from rebalancer.service.overpromise import left_overpromised, named
from rebalancer.service.wording import count_text, ratio_text

GIB = 1024**3
BROKEN_NAMED = 3


def is_quiet(snapshot: Snapshot, demand: Demand, policy: Policy, load: Imbalance) -> bool:
    """Whether nothing calls for a plan: nothing drains, no rule is broken, load is even enough.

    Only balance and relief have a threshold: a policy with another goal is always worth a solve.
    """
    with_threshold = BalanceGoal | RelieveGoal | MovementGoal
    return (
        policy.trigger is not None
        and all(isinstance(goal, with_threshold) for goal in policy.goals)
        and not drains(snapshot)
        and not exceeds(load, policy)
        and not hard_violations(snapshot, policy, demand, snapshot.assignment)
    )


def exceeds(load: Imbalance, policy: Policy) -> bool:
    """Whether load is uneven or high enough for the policy to want a plan; not without a trigger.

    A policy that only relieves does not mind unevenness, and only looks at what has a band: from
    `hot` on, hosts are brought down to it. `hot` above the band is what keeps it from acting on
    every host that passes the band by a little.
    """
    if (trigger := policy.trigger) is None:
        return False
    reliefs = [goal for goal in policy.goals if isinstance(goal, RelieveGoal)]
    if reliefs and not any(isinstance(goal, BalanceGoal) for goal in policy.goals):
        return any(
            band is not None and hottest > trigger.hot_ratio
            for goal in reliefs
            for band, hottest in (
                (goal.cpu_ratio, load.hottest_cpu_ratio),
                (goal.memory_ratio, load.hottest_memory_ratio),
            )
        )
    spread = max(load.spread_cpu_ratio, load.spread_memory_ratio)
    return spread > trigger.spread_ratio or load.hottest_ratio > trigger.hot_ratio


def drains(snapshot: Snapshot) -> bool:
    """Whether a draining host still has VMs."""
    return any(
        host.state is HostState.DRAINING and snapshot.vms_by_host[host.id]
        for host in snapshot.hosts
    )


def stay(snapshot: Snapshot) -> Placement:
    """The placement that leaves everything where it is, for when nobody asked the solver."""
    nothing = Objective(
        before=0.0, after=0.0, bound=0.0, status=SolveStatus.UNCHANGED, solve_seconds=0.0
    )
    return Placement(assignment=snapshot.assignment, objective=nothing)


def judge(
    snapshot: Snapshot, policy: Policy, load: Imbalance, placement: Placement | Unsolved, plan: Plan
) -> Verdict:
    """Put the outcome of a cycle into a sentence with numbers.

    A promise that stays broken is in it whatever else there is to say: for many it is all they
    read. Memory that is promised twice comes first, and is never called balanced. That a host is
    short of CPU is not in it: how full the fullest one is they are told anyway.
    """
    found = _judge(snapshot, policy, load, placement, plan)
    over = left_overpromised(plan)
    rest = _limits_broken(plan, policy, {f"memory of {host.name}" for host in over})
    if not over:
        return replace(found, text=found.text + rest)
    hosts = named([(host.name, host.memory_ratio_after or 0.0) for host in over])
    if plan.migrations:
        stays = f"; more memory stays promised than there is on {hosts}"
        return replace(found, text=found.text + stays + rest, is_unmet=True)
    said = f"more memory is promised than there is on {hosts}, and no move was found that mends it"
    if found.kind is VerdictKind.BLOCKED:
        return replace(found, text=f"{found.text}; {said}{rest}")
    return Verdict(kind=VerdictKind.BLOCKED, text=f"blocked: {said}; {found.text}{rest}")


def _judge(
    snapshot: Snapshot, policy: Policy, load: Imbalance, placement: Placement | Unsolved, plan: Plan
) -> Verdict:
    if isinstance(placement, Unsolved):
        why = "; ".join(conflict.text for conflict in placement.conflicts)
        return Verdict(kind=VerdictKind.BLOCKED, text=f"blocked: {why}")
    stuck = stuck_on_draining(snapshot, plan.unmoved)
    if plan.migrations:
        broken = _still_broken(plan, policy)
        text = _moves(plan) + _but(snapshot, stuck) + _broken(broken) + _above(plan.above_band)
        return Verdict(kind=VerdictKind.MOVES, text=text, is_unmet=bool(stuck or broken))
    if plan.unmoved and not stuck and all(one.waits_for_window for one in plan.unmoved):
        names = _names(snapshot, plan.unmoved)
        text = f"no move is over before the maintenance window closes; {names} would gain from one"
        return Verdict(kind=VerdictKind.NO_GAIN, text=text)
    if stuck or plan.unmoved:
        names = _names(snapshot, stuck or plan.unmoved)
        return Verdict(kind=VerdictKind.BLOCKED, text=f"blocked: cannot move {names}")
    if not any(host.may_receive and policy.applies.matches(host) for host in snapshot.hosts):
        return Verdict(kind=VerdictKind.BLOCKED, text=f"blocked: {_unusable(snapshot)}")
    if plan.above_band:
        text = f"no gain: no host can be relieved{_above(plan.above_band)}"
        return Verdict(kind=VerdictKind.NO_GAIN, text=text)
    if why := _why_nothing_may_move(snapshot, policy):
        return Verdict(kind=VerdictKind.NO_GAIN, text=f"nothing may move: {why}")
    trigger = policy.trigger
    if unrelated := _goals_without_load(policy):
        text = f"no move was found that gains anything for {unrelated}"
        return Verdict(kind=VerdictKind.BALANCED, text=text)
    if trigger is None or not exceeds(load, policy) or drains(snapshot):
        return Verdict(kind=VerdictKind.BALANCED, text=f"balanced: {_load(load)}")
    gain = f"gains {ratio_text(trigger.min_gain_ratio)} or more"
    if _is_proved_good(placement.objective, trigger):
        text = f"balanced as far as can be: {_load(load)}; it is proved that no placement {gain}"
        return Verdict(kind=VerdictKind.BALANCED, text=text)
    text = f"no gain: {_load(load)}, and no placement was found that {gain}"
    return Verdict(kind=VerdictKind.NO_GAIN, text=text)


def _still_broken(plan: Plan, policy: Policy) -> list[str]:
    """The policy's hard rules that the plan leaves broken: they cannot be mended."""
    hard = {rule.name for rule in policy.rules if rule.hard}
    return sorted({found.rule for found in plan.violations_after} & hard)


def _broken(rules: Sequence[str]) -> str:
    """`; rule web-apart stays broken`."""
    if not rules:
        return ""
    several = len(rules) > 1
    which = f"rules {', '.join(rules)} stay" if several else f"rule {rules[0]} stays"
    return f"; {which} broken"


def _limits_broken(plan: Plan, policy: Policy, told: Set[str]) -> str:
    """`; still broken: memory of h1, host failures`: limits of hosts that nothing mends."""
    names = {rule.name for rule in policy.rules} | told
    found = sorted(
        {
            violation.rule
            for violation in plan.violations_after
            if violation.rule not in names
            and not violation.rule.startswith(("cpu of ", "vcpus of "))
        }
    )
    if not found:
        return ""
    more = f" and {len(found) - BROKEN_NAMED} more" if len(found) > BROKEN_NAMED else ""
    return f"; still broken: {', '.join(found[:BROKEN_NAMED])}{more}"


def _why_nothing_may_move(snapshot: Snapshot, policy: Policy) -> str:
    """What keeps every VM where it is, whatever it would gain; empty if any may move."""
    vms = [vm for vm in snapshot.vms if policy.applies.matches(snapshot.host_by_id[vm.host])]
    if not vms:
        return ""
    limits = policy.limits
    caps = (
        ("migrations", limits.most_migrations(len(vms))),
        ("moved_memory", limits.moved_bytes),
        ("moves_out_of_host", limits.moves_out_of_host),
        ("moves_into_host", limits.moves_into_host),
    )
    if shut := [name for name, most in caps if most == 0]:
        return f"the policy's limits allow no move ({', '.join(shut)}: 0)"
    pins = [rule for rule in policy.rules if isinstance(rule, Pin) and rule.hard]
    if all(not vm.can_move or any(pin.vms.matches(vm) for pin in pins) for vm in vms):
        return "each VM is pinned or cannot be moved"
    receiving = [h for h in snapshot.hosts if h.may_receive and policy.applies.matches(h)]
    if len(receiving) == 1 and all(vm.host == receiving[0].id for vm in vms):
        return f"there is no host but {receiving[0].name} that VMs could be on"
    return ""


def _goals_without_load(policy: Policy) -> str:
    """Name the goals of a policy that does not look at load; empty where it does."""
    if not policy.goals or any(isinstance(g, BalanceGoal | RelieveGoal) for g in policy.goals):
        return ""
    names = {
        type(goal).__name__.removesuffix("Goal").lower()
        for goal in policy.goals
        if not isinstance(goal, MovementGoal | DrainGoal)
    }
    return " and ".join(sorted(names))


def _unusable(snapshot: Snapshot) -> str:
    states = Counter(str(host.state) for host in snapshot.hosts)
    found = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"no host that the policy is about can be used ({found or 'there is none'})"


def _is_proved_good(objective: Objective, trigger: Trigger) -> bool:
    """Whether the bound leaves less to be gained than the policy would move VMs for."""
    possible = objective.before - objective.bound
    return possible <= trigger.min_gain_ratio * objective.before


def stuck_on_draining(snapshot: Snapshot, unmoved: Iterable[Unmoved]) -> tuple[Unmoved, ...]:
    """Those of the unmoved VMs that should leave a draining host."""
    return tuple(
        one
        for one in unmoved
        if snapshot.host_by_id[snapshot.vm_by_id[one.vm].host].state is HostState.DRAINING
    )


def _load(load: Imbalance) -> str:
    return (
        f"the fullest host is at {ratio_text(load.hottest_ratio)}, hosts are up to "
        f"{ratio_text(load.spread_cpu_ratio)} (CPU) and {ratio_text(load.spread_memory_ratio)} "
        "(memory) off the mean"
    )


def amount_text(plan: Plan) -> str:
    """Count what a plan moves: `move 2 VMs (8.0 GiB)`."""
    moved = len({migration.vm for migration in plan.migrations})
    gib = sum(each.memory_bytes + each.disk_bytes for each in plan.migrations) / GIB
    vms = "1 VM" if moved == 1 else f"{moved} VMs"
    return f"move {vms} ({gib:.1f} GiB)"


def _moves(plan: Plan) -> str:
    return f"{amount_text(plan)}, {peak_text(plan)}"


def peak_text(plan: Plan) -> str:
    """`peak CPU 91 % → 73 %`: the fullest host before and after."""
    before = max((host.cpu_ratio_before or 0.0 for host in plan.hosts), default=0.0)
    after = max((host.cpu_ratio_after or 0.0 for host in plan.hosts), default=0.0)
    return f"peak CPU {ratio_text(before)} → {ratio_text(after)}"


def _but(snapshot: Snapshot, stuck: tuple[Unmoved, ...]) -> str:
    return f"; {_names(snapshot, stuck)} cannot leave" if stuck else ""


def _above(hosts: Sequence[AboveBand]) -> str:
    """The hosts that stay above their band, the first with its reasons."""
    if not hosts:
        return ""
    first, *others = hosts
    more = f" (and {count_text(len(others), 'other host')} above the band)" if others else ""
    why = "; ".join(first.reasons)
    return (
        f"; {first.name} stays at {ratio_text(first.ratio)} {first.resource}, above "
        f"{ratio_text(first.band_ratio)}{f': {why}' if why else ''}{more}"
    )


def _names(snapshot: Snapshot, unmoved: Iterable[Unmoved], shown: int = 5) -> str:
    names = sorted(snapshot.vm_by_id[one.vm].name for one in unmoved)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
