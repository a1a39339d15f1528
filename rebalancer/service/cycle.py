"""One pass through the stages, in order: forecast, place, plan.

This is the only module that knows the order. It changes nothing: it has no driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.explanation import Explanation
from rebalancer.cluster.inventory import HostId, Snapshot, VmId
from rebalancer.cluster.plan import Placement, Plan, Unsolved, Verdict, VerdictKind
from rebalancer.cluster.policy import BalanceGoal, DrainGoal, MovementGoal, Policy
from rebalancer.cluster.pools import relocated
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.budget import Budget
from rebalancer.placement.explain.capacity import advise_on_capacity
from rebalancer.placement.imbalance import imbalance
from rebalancer.placement.incumbent import Incumbent
from rebalancer.placement.solver import place
from rebalancer.placement.workers import IN_THIS_PROCESS, Workers
from rebalancer.planning.habits import Calibration
from rebalancer.planning.planner import make_plan
from rebalancer.service.evacuation import with_evacuation
from rebalancer.service.notes import notes_on
from rebalancer.service.second_look import (
    LEAST_SHARE,
    MOST_SEARCHES,
    Impossible,
    impossible_moves,
    second_look_note,
    with_impossible,
    without_bans,
    without_impossible,
)
from rebalancer.service.staleness import out_of_hours
from rebalancer.service.verdict import is_quiet, judge, stay, stuck_on_draining

# First everything leaves, then as little as possible moves, then what moves goes to the
# emptiest hosts: a drain does not take the opportunity to rearrange the rest.
DRAIN_GOALS = (DrainGoal(tier=0), MovementGoal(tier=1, weight=1.0), BalanceGoal(tier=2))

DOES_LESS = (
    "not everything that would be best can be carried out (see Not moved), so nothing is said "
    "of how near to the best possible the plan comes; the loads in the reasons of its steps are "
    "those with all of it carried out, the loads in the table those of the plan"
)

type Measure = Callable[[Snapshot, Collection[VmId]], Snapshot]
"""Finds out how fast VMs write, before their migrations are planned."""

ADVICE_SHARE, ADVICE_SECONDS = 0.05, 1.5
"""Of the solver's time, and at most, to find out how many hosts there are to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What goes into a plan besides the cluster and the policy."""

    plan_id: str
    creator: str
    now: datetime
    ttl_seconds: float
    solve_seconds: float
    seconds_passed: Callable[[], float]
    """Monotonic time, by which the solver keeps to `solve_seconds`."""
    uris: Mapping[HostId, str]
    """Where each host's hypervisor is reached, for the commands that a plan prints."""
    calibration: Calibration = field(default_factory=Calibration)
    """What earlier migrations taught about the hosts."""
    workers: Workers = IN_THIS_PROCESS
    """Who solves models for the search."""
    tell: Callable[[Incumbent], None] | None = None
    """Told of the placements that the search finds on the way."""
    deadline_seconds: float | None = None
    """By when everything has to be over, counted from the start of the rollout."""
    measure: Measure | None = None
    """Told which VMs are to move, when that is known. `None`: what the snapshot says will do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cycle:
    """Everything that one pass found out, stage by stage."""

    snapshot: Snapshot
    demand: Demand
    placement: Placement | Unsolved
    plan: Plan


def run_cycle(snapshot: Snapshot, policy: Policy, request: Request) -> Cycle:
    """Take a snapshot through forecast, placement and planning."""
    snapshot = with_evacuation(snapshot, policy)
    demand = forecast_demand(snapshot, policy)
    load = imbalance(snapshot, demand, policy)
    quiet = is_quiet(snapshot, demand, policy, load)
    found = _searched(snapshot, demand, policy, request, quiet=quiet)
    snapshot, placement, plan = found.snapshot, found.placement, found.plan
    answer = found.answer
    too_late = bool(plan.breaks_deadline)
    is_followed = {**snapshot.assignment, **plan.final_assignment} == dict(answer.assignment)
    has_objective = is_followed and not quiet and isinstance(placement, Placement)
    explanation = explained(answer, plan, snapshot, demand, policy, request)
    closed = out_of_hours(plan, policy, request.now)
    notes = (
        *notes_on(snapshot, policy),
        *explanation.notes,
        *((f"the moves are for the next maintenance window: {closed}",) if closed else ()),
        *((found.note,) if found.note else ()),
        *(() if is_followed else (DOES_LESS,)),
    )
    plan = replace(
        plan,
        verdict=plan.verdict if too_late else judge(snapshot, policy, load, placement, plan),
        objective=answer.objective if has_objective else None,
        explanation=replace(explanation, notes=notes),
    )
    return Cycle(snapshot=snapshot, demand=demand, placement=placement, plan=plan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """What a search came to, and the plan that leads there."""

    snapshot: Snapshot
    placement: Placement | Unsolved
    plan: Plan
    note: str = ""

    @property
    def answer(self) -> Placement:
        return stay(self.snapshot) if isinstance(self.placement, Unsolved) else self.placement


def _searched(
    snapshot: Snapshot, demand: Demand, policy: Policy, request: Request, *, quiet: bool
) -> _Found:
    """Search until the plan does what was found, without what turns out to be impossible."""
    if quiet:
        plan = plan_towards(stay(snapshot), snapshot, demand, policy, request)
        return _Found(snapshot=snapshot, placement=stay(snapshot), plan=plan)
    ends_at = request.seconds_passed() + request.solve_seconds
    found = best = _tried(snapshot, demand, policy, policy, request)
    given_up: dict[tuple[VmId, str], Impossible] = {}
    for count in range(1, MOST_SEARCHES):
        more = impossible_moves(found.answer, found.plan, found.snapshot)
        left = ends_at - request.seconds_passed()
        if not more or (count > 1 and left <= 0):
            break
        given_up |= {(vm, move.place): move for vm, move in more.items()}
        again = replace(request, solve_seconds=max(left, LEAST_SHARE * request.solve_seconds))
        wanted = without_impossible(policy, given_up)
        found = _tried(found.snapshot, demand, policy, wanted, again)
        if isinstance(found.placement, Unsolved):
            break
        does_something_else = found.plan.final_assignment != best.plan.final_assignment
        if does_something_else and _undone(found) <= _undone(best):
            best = replace(
                found,
                placement=without_bans(found.placement, policy, wanted),
                plan=with_impossible(found.plan, found.snapshot, given_up),
                note=second_look_note(found.snapshot, given_up),
            )
    return best


def _undone(found: _Found) -> tuple[int, int]:
    """What must be done and is not: VMs left on draining hosts, promises that stay broken."""
    return len(stuck_on_draining(found.snapshot, found.plan.unmoved)), len(
        found.plan.violations_after
    )


def _tried(
    snapshot: Snapshot, demand: Demand, policy: Policy, wanted: Policy, request: Request
) -> _Found:
    """Place as `wanted` says, and plan under the policy itself."""
    placement = _placed(snapshot, demand, wanted, request)
    answer = stay(snapshot) if isinstance(placement, Unsolved) else placement
    snapshot = measured(snapshot, answer, request)
    plan = plan_towards(answer, snapshot, demand, policy, request)
    return _Found(snapshot=snapshot, placement=placement, plan=plan)


def measured(snapshot: Snapshot, placement: Placement, request: Request) -> Snapshot:
    """The snapshot with what is found out about the VMs that a placement moves."""
    if request.measure is None:
        return snapshot
    moves = [vm for vm, host in placement.assignment.items() if snapshot.assignment[vm] != host]
    return request.measure(snapshot, moves) if moves else snapshot


def plan_towards(
    placement: Placement, snapshot: Snapshot, demand: Demand, policy: Policy, request: Request
) -> Plan:
    """Plan the migrations that lead to a placement; what to think of it is not said yet."""
    return make_plan(
        snapshot,
        demand,
        policy,
        placement,
        plan_id=request.plan_id,
        creator=request.creator,
        created_at=request.now,
        expires_at=request.now + timedelta(seconds=request.ttl_seconds),
        verdict=Verdict(kind=VerdictKind.BALANCED, text=""),
        uris=request.uris,
        deadline_seconds=request.deadline_seconds,
        calibration=request.calibration,
    )


def _placed(
    snapshot: Snapshot, demand: Demand, policy: Policy, request: Request
) -> Placement | Unsolved:
    return place(
        snapshot,
        demand,
        policy,
        time_limit_seconds=request.solve_seconds,
        clock=request.seconds_passed,
        workers=request.workers,
        tell=request.tell,
    )


def explained(
    placement: Placement,
    plan: Plan,
    snapshot: Snapshot,
    demand: Demand,
    policy: Policy,
    request: Request,
) -> Explanation:
    """What the placement says of itself as far as the plan follows it, and what hosts are left."""
    moved = plan.final_assignment
    clock, share = request.seconds_passed, ADVICE_SHARE * request.solve_seconds
    ends_at = clock() + min(ADVICE_SECONDS, share)
    budget = Budget(clock=clock, ends_at=ends_at, workers=request.workers)
    after = relocated(snapshot, moved)
    return replace(
        placement.explanation,
        gains=tuple(gain for gain in placement.explanation.gains if gain.vm in moved),
        capacity=advise_on_capacity(after, demand, policy, budget),
    )


def for_draining(policy: Policy) -> Policy:
    """The same rules and limits, with nothing but a drain as the goal."""
    return replace(policy, goals=DRAIN_GOALS, trigger=None)
