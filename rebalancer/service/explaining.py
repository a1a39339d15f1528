"""The command `explain`: why a VM is where a plan has it, and why not elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Assignment, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.plan import Plan, Priority
from rebalancer.cluster.policy import Policy
from rebalancer.errors import ExitCode
from rebalancer.forecast.demand import forecast_demand
from rebalancer.placement.arrays import Ints
from rebalancer.placement.explain.possibility import in_terms_of
from rebalancer.placement.explain.rejected import Objections
from rebalancer.placement.explain.spent import Besides
from rebalancer.placement.explain.why_here import Alternative, WhyHere, unit_of, why_here
from rebalancer.placement.objectives import Tier, find_tiers, is_necessary
from rebalancer.placement.problem import PlacementProblem, placement_problem
from rebalancer.planning.modes import Choice, choose
from rebalancer.planning.network import Network
from rebalancer.service import options
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.naming import host_called, vm_called
from rebalancer.service.plan_edits import AS_MADE
from rebalancer.service.plan_file import read_plan
from rebalancer.service.report import Format, render_why
from rebalancer.service.session import Session, observe, open_session, plan_for, policy_for
from rebalancer.service.why_report import Journey, WhyReport


def explain(
    vm: Annotated[str, typer.Argument(metavar="VM", help="Its name or id.")],
    host: Annotated[
        str | None,
        typer.Argument(metavar="[HOST]", help="Say why it is not there, or what that would do."),
    ] = None,
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    policy: options.PolicyFile = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="Explain this saved plan instead of making one."),
    ] = None,
    output: options.Output = Format.TABLE,
    wide: options.Wide = False,
    solver_time: options.SolveTime = None,
) -> ExitCode:
    """Say why a VM is where the plan has it, and what keeps it off other hosts."""
    session = open_session(config, placement__time_limit_seconds=solver_time)
    access = open_for_reading(session.settings, Where(scenario=scenario, snapshot=snapshot))
    in_force = policy_for(session, access, policy)
    seen = observe(session, access)
    which = vm_called(seen, vm)
    asked = host_called(seen, host).id if host is not None else None
    if plan is None:
        cycle = plan_for(session, access, seen, in_force)
        view = _View(cycle.snapshot, cycle.demand, in_force, cycle.plan)
    else:
        view = _View(seen, forecast_demand(seen, in_force), in_force, read_plan(plan))
        _warn_if_it_is_about_something_else(session, view)
    render_why(view.report(which, asked), output, session.out, wide=wide)
    return ExitCode.SUCCESS


@dataclass(frozen=True, slots=True)
class _View:
    """A plan with what it is about."""

    snapshot: Snapshot
    demand: Demand
    policy: Policy
    plan: Plan

    def report(self, vm: Vm, asked: HostId | None) -> WhyReport:
        """Find out everything about one VM, and about a host if one is asked about."""
        problem = placement_problem(self.snapshot, self.demand, self.policy)
        tiers = find_tiers(problem)
        x = in_terms_of(problem, self.assignment())
        x = problem.start if x is None else x
        besides = self.besides(problem, x)
        why = why_here(problem, tiers, x, self.snapshot.vm_by_id[vm.id], besides)
        stays = why.planned == why.present
        other = next((one for one in (*why.possible, *why.impossible) if one.host == asked), None)
        journey = self.journey(vm, other) if other is not None else ()
        return WhyReport(
            why=why,
            host_names={host.id: host.name for host in self.snapshot.hosts},
            policy=self.policy.name,
            verdict=self.plan.verdict.text,
            reason=self.reason(vm.id),
            stays_as=self.stays_as(problem, tiers, x, why, besides) if stays else (),
            asked=other,
            is_there=asked == why.planned,
            journey=journey if isinstance(journey, Journey) else None,
            no_journey=() if isinstance(journey, Journey) else journey,
        )

    def reason(self, vm: VmId) -> str:
        """Why the plan moves a VM; empty if it does not."""
        found = next((m.reason for m in self.plan.migrations if m.vm == vm), "")
        return f"{found} (so the plan that was made)" if found and self.plan.is_edited else found

    def stays_as(
        self,
        problem: PlacementProblem,
        tiers: Sequence[Tier],
        x: Ints,
        why: WhyHere,
        besides: Besides,
    ) -> tuple[str, ...]:
        """Why a VM stays: what holds it, or that no host that could take it is better."""
        unmoved = [reason for u in self.plan.unmoved if u.vm == why.vm.id for reason in u.reasons]
        if unmoved or why.keeps:
            return tuple(dict.fromkeys((*why.keeps, *unmoved)))
        if not why.possible:
            return ("no other host can take it",)
        best = why.possible[0]
        if best.change.total >= 0:
            return (f"no host that could take it is better; the best of them is {best.name}",)
        if self.plan.objective is None:
            return (f"{best.name} would be better, but {self.plan.verdict.text}",)
        goals = [tier for tier in tiers if not is_necessary(tier)]
        column = problem.host_ids.index(best.host)
        objections = Objections(problem, goals, x, besides).against(
            unit_of(problem, why.vm), column, best.change.benefit, best.change.price
        )
        return tuple(f"{best.name} would be better, but {text}" for text in objections)

    def besides(self, problem: PlacementProblem, x: Ints) -> Besides:
        """What the plan may move besides what has to be: what empties a host or mends a rule."""
        urgent = {m.vm for m in self.plan.migrations if m.priority is not Priority.BALANCE}
        has_to = [any(vm.id in urgent for vm in unit) for unit in problem.units]
        return Besides.what_is_needed(problem, np.where(has_to, x, problem.start))

    def assignment(self) -> Assignment:
        """Where the plan has every VM."""
        known = self.snapshot.host_by_id
        moved = {vm: to for vm, to in self.plan.final_assignment.items() if to in known}
        return {vm.id: moved.get(vm.id, vm.host) for vm in self.snapshot.vms}

    def journey(self, vm: Vm, to: Alternative) -> Journey | tuple[str, ...]:
        """What moving the VM there would take; with the reasons where no mode would do."""
        if to.host == vm.host:
            return ()
        path = Network(self.snapshot, self.policy.limits).path(vm.host, to.host)
        choice = choose(vm, path, self.policy.migration)
        if not isinstance(choice, Choice):
            return choice.reasons
        estimate = choice.estimate(choice.most_bytes_per_second)
        return Journey(
            mode=choice.mode.value,
            duration_seconds=estimate.duration_seconds,
            downtime_seconds=estimate.downtime_seconds,
            transfer_bytes=estimate.transfer_bytes,
        )


def _warn_if_it_is_about_something_else(session: Session, view: _View) -> None:
    plan, remarks = view.plan, []
    if plan.is_edited:
        remarks.append(f"plan {plan.id} was edited since it was made: {AS_MADE}")
    if plan.snapshot_fingerprint != view.snapshot.fingerprint:
        remarks.append(f"the cluster is not as it was when plan {plan.id} was made")
    if plan.policy_fingerprint != view.policy.fingerprint:
        remarks.append(f"plan {plan.id} was made under another policy, or another version of it")
    for remark in remarks:
        session.err.print(remark, markup=False, soft_wrap=True)
