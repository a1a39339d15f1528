"""`rebalancer migrate VM [HOST]`: one VM goes elsewhere because somebody wants it to.

It is planned, checked and carried out like any other move: the same rules, limits and modes.
Only the question where to is not the solver's. Without a host it is the one that is emptiest
with the VM on it, of those that may take it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, Snapshot, Vm
from rebalancer.cluster.plan import Plan, Verdict, VerdictKind
from rebalancer.cluster.policy import Policy
from rebalancer.cluster.violations import LEAVABLE_STATES
from rebalancer.errors import ExitCode, UsageError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.planning.obstacles import obstacles
from rebalancer.service import exit_codes, options
from rebalancer.service.access import ReadAccess, Where, open_for_reading
from rebalancer.service.cycle import Request, plan_towards
from rebalancer.service.naming import host_called, vm_called
from rebalancer.service.permissions import with_cold
from rebalancer.service.report import Format, render_outcomes, render_plan
from rebalancer.service.session import (
    Session,
    observe,
    open_session,
    policy_for,
    request_for,
    who_is_asking,
)
from rebalancer.service.verdict import stay
from rebalancer.service.work import at_work, nothing_was_changed

HOSTS_TRIED = 12
"""Hosts for which a whole plan is made when none was named, emptiest first."""


def migrate(
    vm: Annotated[str, typer.Argument(help="Name or id of the VM.")],
    host: Annotated[
        str | None, typer.Argument(help="Where to; the emptiest that may take it if not given.")
    ] = None,
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    policy: options.PolicyFile = None,
    output: options.Output = Format.TABLE,
    probe: options.Probe = False,
    allow_cold: options.AllowCold = False,
    yes: options.Yes = False,
) -> ExitCode:
    """Move one VM, under the same rules and limits as everything else."""
    session = open_session(config)
    where = Where(scenario=scenario, snapshot=snapshot)
    wish = _Wish(vm=vm, host=host, policy=policy, allow_cold=allow_cold, probe=probe)
    if not yes:
        access = open_for_reading(session.settings, where)
        plan, _, _ = _planned(session, access, wish, acts=False)
        render_plan(plan, output, session.out)
        return nothing_was_changed(session, exit_codes.for_plan(plan))
    with at_work(session, where) as work:
        plan, seen, in_force = _planned(session, work.access.read, wish, acts=True)
        if not plan.migrations:
            render_plan(plan, output, session.out)
            return exit_codes.for_plan(plan)
        carried = work.carry_out(plan, seen, in_force)
    render_outcomes(plan, carried.result.outcomes, output, session.out)
    return carried.exit_code


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What was asked for on the command line."""

    vm: str
    host: str | None
    policy: Path | None
    allow_cold: bool
    probe: bool


def _planned(
    session: Session, access: ReadAccess, wish: _Wish, *, acts: bool
) -> tuple[Plan, Snapshot, Policy]:
    policy = policy_for(session, access, wish.policy)
    policy = with_cold(policy) if wish.allow_cold else policy
    snapshot = observe(session, access)
    vm = vm_called(snapshot, wish.vm)
    targets = (host_called(snapshot, wish.host).id,) if wish.host else None
    request = request_for(session, access, probe=wish.probe, acts=acts)
    if request.measure is not None:
        snapshot = request.measure(snapshot, [vm.id])
    plan = plan_one_move(snapshot, policy, request, vm, targets)
    return plan, snapshot, policy


def plan_one_move(
    snapshot: Snapshot,
    policy: Policy,
    request: Request,
    vm: Vm,
    targets: tuple[HostId, ...] | None = None,
) -> Plan:
    """Plan to move one VM to the first of `targets` that will do, or to the emptiest host."""
    if targets == (vm.host,):
        raise UsageError(f"{vm.name} is on {vm.host} already")
    demand = forecast_demand(snapshot, policy)
    choice = targets or tuple(_emptiest_first(snapshot, policy, demand, vm))
    plans = (_plan_to(snapshot, policy, demand, request, vm, target) for target in choice)
    tried = []
    for plan in plans:
        tried.append(plan)
        if plan.migrations:
            break
    if not tried:
        return _nowhere(snapshot, policy, demand, request, vm)
    return tried[-1] if tried[-1].migrations else tried[0]


def _emptiest_first(snapshot: Snapshot, policy: Policy, demand: Demand, vm: Vm) -> list[HostId]:
    """Hosts that nothing about the VM itself speaks against."""
    source = snapshot.host_by_id[vm.host]
    fitting = [
        host
        for host in snapshot.hosts
        if host.id != vm.host
        and policy.applies.matches(host)
        and not obstacles(vm, source, host, policy)
    ]
    fitting.sort(key=lambda host: (_fullness(snapshot, demand, host, vm), host.id))
    return [host.id for host in fitting[:HOSTS_TRIED]]


def _fullness(snapshot: Snapshot, demand: Demand, host: Host, vm: Vm) -> float:
    """The fuller of CPU and memory with the VM on it, as shares of what the host has."""
    there = [*snapshot.vms_by_host[host.id], vm]
    cores = demand.host_base_cores[host.id] + sum(
        demand.vm_cpu_cores[each.id] for each in there if each.is_active
    )
    memory = sum(each.memory_bytes for each in there if each.is_active)
    return max(cores / host.cpu_cores, memory / max(1.0, host.guest_memory_bytes))


def _plan_to(
    snapshot: Snapshot,
    policy: Policy,
    demand: Demand,
    request: Request,
    vm: Vm,
    target: HostId,
) -> Plan:
    placement = replace(
        stay(snapshot),
        assignment={**snapshot.assignment, vm.id: target},
        reasons={vm.id: f"{who_is_asking()} wants it on {snapshot.host_by_id[target].name}"},
    )
    return _judged(plan_towards(placement, snapshot, demand, policy, request), vm)


def _nowhere(snapshot: Snapshot, policy: Policy, demand: Demand, request: Request, vm: Vm) -> Plan:
    """The plan that moves nothing, because no host at all could take the VM."""
    plan = plan_towards(stay(snapshot), snapshot, demand, policy, request)
    home = snapshot.host_by_id[vm.host]
    why = f"; {home.name} is {home.state}" if home.state not in LEAVABLE_STATES else ""
    text = (
        f"blocked: no host could take {vm.name}{why}; "
        "rebalancer migrate with a host says what speaks against that one"
    )
    return replace(plan, verdict=Verdict(kind=VerdictKind.BLOCKED, text=text), objective=None)


def _judged(plan: Plan, vm: Vm) -> Plan:
    """Say in one sentence what comes of the wish."""
    if plan.migrations:
        steps = " → ".join([vm.host, *(migration.target for migration in plan.migrations)])
        verdict = Verdict(kind=VerdictKind.MOVES, text=f"move {vm.name} as asked: {steps}")
    else:
        why = "; ".join(reason for one in plan.unmoved for reason in one.reasons)
        verdict = Verdict(kind=VerdictKind.BLOCKED, text=f"blocked: {vm.name} stays: {why}")
    return replace(plan, verdict=verdict, objective=None)
