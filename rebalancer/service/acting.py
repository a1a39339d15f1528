"""The commands that change things: VMs with a driver, and what the journal says is wanted.

All are dry until `--yes` (or `mode: auto`) is given. The order is always the same: take the
cluster's lock, look at the cluster, judge, write to the journal, act, look again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostId, Mode, Snapshot
from rebalancer.cluster.plan import Plan
from rebalancer.cluster.policy import Policy
from rebalancer.errors import (
    ExitCode,
    PausedError,
    PlanRefusedError,
    UnknownOutcomeError,
    UsageError,
)
from rebalancer.rollout.executor import RolloutResult, execute
from rebalancer.rollout.executor import Settings as RolloutSettings
from rebalancer.rollout.executor import recover as recover_rollouts
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import Lease
from rebalancer.service import configured, daemon, duty, exit_codes, hooks, options
from rebalancer.service.access import (
    ChangeAccess,
    ReadAccess,
    Where,
    open_for_change,
    open_for_reading,
)
from rebalancer.service.config import RunMode
from rebalancer.service.cycle import for_draining
from rebalancer.service.lookout import watching
from rebalancer.service.plan_file import plan_of_text, plan_to_json, read_plan, write_plan
from rebalancer.service.progress import display_for
from rebalancer.service.report import Format, render_outcomes, render_plan, render_recovery
from rebalancer.service.session import (
    Session,
    apply_command,
    drain_marks,
    hosts_named,
    observe,
    open_session,
    plan_for,
    policy_for,
)
from rebalancer.service.signals import StopSwitch
from rebalancer.service.staleness import refuse_if_unfit
from rebalancer.service.verdict import stuck_on_draining


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A cluster that this process holds the lock of, and may change."""

    session: Session
    access: ChangeAccess
    journal: Journal
    lease: Lease

    def carry_out(self, plan: Plan, snapshot: Snapshot, policy: Policy) -> Carried:
        """Roll a plan out, showing how it goes."""
        read = self.access.read
        with (
            StopSwitch() as stop,
            display_for(self.session.err) as display,
            watching(read, snapshot) as newest,
        ):
            result = execute(
                plan,
                driver=self.access.driver,
                clock=read.clock,
                journal=self.journal,
                snapshot=newest,
                settings=rollout_settings(self.session, self.access, policy),
                lease=self.lease,
                plan_text=plan_to_json(plan),
                on_event=display.show,
                should_stop=stop.request,
                hooks=self.access.hooks,
            )
        worst = exit_codes.for_rollout(result.outcomes, is_stopped=bool(result.stopped))
        return Carried(result=result, exit_code=exit_codes.after_stop(worst, stop.exit_code))

    def ask_before_drain(self, hosts: tuple[HostId, ...]) -> None:
        """Raise `HookObjectionError` if a hook does not let these hosts be drained."""
        read = self.access.read
        hooks.before_drain(self.access.hooks, read.cluster, hosts, read.clock, self._stay_alive)

    def tell_after_drain(self, snapshot: Snapshot, hosts: tuple[HostId, ...]) -> None:
        """Tell hooks what is left on these hosts."""
        read = self.access.read
        left = {host: [vm.name for vm in snapshot.vms_by_host[host]] for host in hosts}
        wrong = hooks.after_drain(
            self.access.hooks, read.cluster, left, read.clock, self._stay_alive
        )
        if wrong:
            self.session.err.print(f"after_drain: {wrong}", highlight=False, markup=False)

    def _stay_alive(self) -> None:
        self.journal.heartbeat(self.lease)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A rollout and the exit code that it leads to."""

    result: RolloutResult
    exit_code: ExitCode


@contextmanager
def at_work(session: Session, where: Where, *, recovering: bool = False) -> Iterator[Work]:
    """Take the lock of a cluster, and reach it with a driver.

    Raises `LockHeldError` if somebody else is at work, and `UnknownOutcomeError` if an earlier
    rollout was cut short and nobody has looked after its VMs since.
    """
    access = open_for_change(session.settings, where)
    try:
        with session.journal() as journal, journal.hold(access.read.cluster) as lease:
            if not recovering:
                refuse_if_paused(journal, access.read.cluster)
                refuse_if_unrecovered(journal, access.read.cluster)
            yield Work(session=session, access=access, journal=journal, lease=lease)
    finally:
        access.close()


def rollout_settings(session: Session, access: ChangeAccess, policy: Policy) -> RolloutSettings:
    """Put together what the policy and the settings say about rollouts."""
    return configured.rollout_settings(session.settings, policy, access.read.uris)


def refuse_if_paused(journal: Journal, cluster: str) -> None:
    """Raise `PausedError` while an operator wants nothing to be started."""
    if why := journal.wishes(cluster).why_paused:
        raise PausedError(f"cluster {cluster} is paused {why}; to go on: rebalancer resume")


def refuse_if_unrecovered(journal: Journal, cluster: str) -> None:
    """Raise `UnknownOutcomeError` while VMs of an earlier rollout have to be looked after."""
    if rollouts := journal.unfinished(cluster):
        plans = ", ".join(row.plan_id for row in rollouts)
        raise UnknownOutcomeError(
            f"the rollout of plan {plans} was cut short or left a VM that nobody could find; "
            "run `rebalancer recover --yes` first: it looks at every host and tidies up what is "
            "proved to be safe"
        )


def apply(
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="As `plan --out` saved it.")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    policy: options.PolicyFile = None,
    allow_cold: options.AllowCold = False,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
) -> ExitCode:
    """Carry out exactly this plan, if it still fits the cluster."""
    session = open_session(config)
    plan, where = read_plan(plan_file), Where(scenario=scenario)
    if not yes:
        access = open_for_reading(session.settings, where)
        with session.existing_journal() as journal:
            refuse_if_applied(journal, plan)
        snapshot = observe(session, access)
        in_force = with_cold_if(allow_cold, policy_for(session, access, policy))
        _refuse_if_unfit(session, plan, snapshot, in_force, access)
        render_plan(plan, output, session.out)
        return nothing_was_changed(session, exit_codes.for_plan(plan))
    with at_work(session, where) as work:
        refuse_if_applied(work.journal, plan)
        read = work.access.read
        in_force = with_cold_if(allow_cold, policy_for(session, read, policy))
        snapshot = observe(session, read)
        _refuse_if_unfit(session, plan, snapshot, in_force, read)
        carried = work.carry_out(plan, snapshot, in_force)
    render_outcomes(plan, carried.result.outcomes, output, session.out)
    return carried.exit_code


def _refuse_if_unfit(
    session: Session, plan: Plan, snapshot: Snapshot, policy: Policy, access: ReadAccess
) -> None:
    ttl = session.settings.plan.ttl_seconds
    refuse_if_unfit(plan, snapshot, policy, access.clock.now(), ttl_seconds=ttl)


def refuse_if_applied(journal: Journal | None, plan: Plan) -> None:
    """Raise `PlanRefusedError` for a plan that was rolled out before, completely or not."""
    if journal is not None and journal.applied(plan.id):
        raise PlanRefusedError(
            f"plan {plan.id} was applied already; `rebalancer show {plan.id}` says how it went, "
            "`rebalancer plan` makes a new one"
        )


def run(
    config: options.Config = None,
    scenario: options.FromScenario = None,
    policy: options.PolicyFile = None,
    once: Annotated[bool, typer.Option("--once", help="One cycle, shown, then end.")] = False,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
    probe: options.Probe = False,
) -> ExitCode:
    """Keep the cluster as its policies say, until stopped; carry plans out if `auto` or --yes."""
    if not once:
        if scenario is not None:
            raise UsageError("the daemon looks after the configured hosts; add --once to rehearse")
        return daemon.run(config, policy, auto=yes)
    session = open_session(config)
    where = Where(scenario=scenario)
    if not yes and session.settings.mode is not RunMode.AUTO:
        access = open_for_reading(session.settings, where)
        snapshot = observe(session, access, probe=probe)
        plan = plan_for(session, access, snapshot, policy_for(session, access, policy)).plan
        render_plan(plan, output, session.out)
        return nothing_was_changed(session, exit_codes.for_plan(plan))
    with at_work(session, where) as work:
        return _one_cycle(work, policy, output, probe=probe, at_once=yes, has_past=not scenario)


def _one_cycle(
    work: Work, named: Path | None, output: Format, *, probe: bool, at_once: bool, has_past: bool
) -> ExitCode:
    """Do what the daemon does once, and show it; a rehearsal on a scenario has no past."""
    session, read = work.session, work.access.read
    policy = policy_for(session, read, named)
    snapshot = observe(session, read, probe=probe)
    if not has_past:
        plan = plan_for(session, read, snapshot, policy).plan
        _show_before(session, plan, output, acts=bool(plan.migrations))
        carried = work.carry_out(plan, snapshot, policy) if plan.migrations else None
    else:
        task = duty.duty_of(session.settings, policy)
        considered = duty.consider(session, task, read, snapshot, work.journal, at_once=at_once)
        plan = considered.cycle.plan
        _show_before(session, plan, output, acts=considered.decision.act)
        carried = work.carry_out(plan, snapshot, policy) if considered.decision.act else None
        result = carried.result if carried is not None else None
        verdict = duty.keep(session, task, considered, snapshot, result)
        session.err.print(f"verdict: {verdict}", highlight=False, markup=False)
    if carried is None:
        return exit_codes.for_plan(plan)
    render_outcomes(plan, carried.result.outcomes, output, session.out)
    return carried.exit_code


def _show_before(session: Session, plan: Plan, output: Format, *, acts: bool) -> None:
    # Who reads JSON reads one document: of a plan that is carried out, how it went.
    if not (acts and output is Format.JSON):
        render_plan(plan, output, session.out)


def drain(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    snapshot: options.FromSnapshot = None,
    policy: options.PolicyFile = None,
    out: options.PlanOut = None,
    output: options.Output = Format.TABLE,
    probe: options.Probe = False,
    allow_cold: options.AllowCold = False,
    deadline: options.Deadline = None,
    yes: options.Yes = False,
) -> ExitCode:
    """Empty hosts before maintenance, and keep VMs off them until `undrain`."""
    session = open_session(config)
    where = Where(scenario=scenario, snapshot=snapshot)
    if not yes:
        access = open_for_reading(session.settings, where)
        in_force = _draining_policy(policy_for(session, access, policy), allow_cold=allow_cold)
        seen = observe(session, access, probe=probe, also_drain=hosts)
        plan = plan_for(session, access, seen, in_force, deadline_seconds=deadline).plan
        if out is not None:
            write_plan(plan, out)
        flags = ("--allow-cold",) if allow_cold else ()
        command = apply_command(out, *flags, config=config, scenario=scenario, policy=policy)
        render_plan(plan, output, session.out, apply_with=command)
        left = len(stuck_on_draining(seen, plan.unmoved))
        return nothing_was_changed(
            session, exit_codes.for_drain(exit_codes.for_plan(plan), left=left)
        )
    with at_work(session, where) as work:
        return _drain(
            work, hosts, policy, output, allow_cold=allow_cold, probe=probe, deadline=deadline
        )


def _drain(
    work: Work,
    hosts: list[str],
    policy: Path | None,
    output: Format,
    *,
    allow_cold: bool,
    probe: bool,
    deadline: float | None,
) -> ExitCode:
    session, read = work.session, work.access.read
    in_force = _draining_policy(policy_for(session, read, policy), allow_cold=allow_cold)
    seen = observe(session, read, probe=probe, also_drain=hosts)
    emptied = hosts_named(seen, hosts)
    plan = plan_for(session, read, seen, in_force, deadline_seconds=deadline).plan
    acts = bool(plan.migrations) and not plan.breaks_deadline
    _show_before(session, plan, output, acts=acts)
    if plan.breaks_deadline:
        session.err.print("nothing was changed: the deadline cannot be promised", highlight=False)
        return ExitCode.BLOCKED
    work.ask_before_drain(emptied)
    for host in emptied:
        work.journal.mark_drain(seen.cluster, host, reason="rebalancer drain")
    code = exit_codes.for_plan(plan)
    if plan.migrations:
        carried = work.carry_out(plan, seen, in_force)
        render_outcomes(plan, carried.result.outcomes, output, session.out)
        code = carried.exit_code
    afterwards = observe(session, read, also_drain=hosts)
    left = _say_what_is_left(session, afterwards, emptied)
    work.tell_after_drain(afterwards, emptied)
    return exit_codes.for_drain(code, left=left)


def _say_what_is_left(session: Session, snapshot: Snapshot, hosts: tuple[HostId, ...]) -> int:
    """Tell of each drained host whether it is empty; return how many VMs are left in all."""
    left = 0
    for host in hosts:
        vms = snapshot.vms_by_host[host]
        left += len(vms)
        name = snapshot.host_by_id[host].name
        if vms:
            names = ", ".join(sorted(vm.name for vm in vms))
            session.err.print(f"{name} still has {names}", highlight=False, markup=False)
        else:
            session.err.print(
                f"{name} is empty and will be kept so until: rebalancer undrain {name}",
                highlight=False,
                markup=False,
            )
    return left


def _draining_policy(policy: Policy, *, allow_cold: bool) -> Policy:
    return with_cold_if(allow_cold, for_draining(policy))


def with_cold_if(allowed: bool, policy: Policy) -> Policy:
    """The policy, as `--allow-cold` of a command changes it."""
    return with_cold(policy) if allowed else policy


def with_cold(policy: Policy) -> Policy:
    """The same policy, which also permits to shut VMs down and start them elsewhere."""
    allowed = policy.migration.allow | {Mode.COLD}
    return replace(policy, migration=replace(policy.migration, allow=allowed))


def undrain(
    hosts: Annotated[list[str], typer.Argument(metavar="HOST...")],
    config: options.Config = None,
    scenario: options.FromScenario = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Not needed: this moves nothing by itself.")
    ] = False,
) -> ExitCode:
    """Let VMs be placed on these hosts again. Nothing moves by that alone."""
    del yes
    session = open_session(config)
    access = open_for_reading(session.settings, Where(scenario=scenario))
    marked = drain_marks(session, access.cluster)
    known = {*access.host_names, *marked}
    if missing := sorted(set(hosts) - known):
        raise UsageError(
            f"no host called {', '.join(missing)} in cluster {access.cluster}; "
            f"it has {', '.join(sorted(known)[:20])}"
        )
    with session.journal() as journal:
        for name in hosts:
            journal.unmark_drain(access.cluster, HostId(name), reason="rebalancer undrain")
            was = "may be used again" if name in marked else "was not being drained"
            session.out.print(f"{name} {was}", highlight=False, markup=False)
    return ExitCode.SUCCESS


def recover(
    config: options.Config = None,
    policy: options.PolicyFile = None,
    yes: options.Yes = False,
    output: options.Output = Format.TABLE,
) -> ExitCode:
    """Look after every VM of a rollout that was cut short: adopt, finish, or say what to do."""
    session = open_session(config)
    if not yes:
        with session.existing_journal() as journal:
            rows = journal.unfinished(session.settings.cluster) if journal is not None else ()
        for row in rows:
            session.out.print(f"plan {row.plan_id} of {row.owner}: to be looked after")
        if not rows:
            session.out.print("nothing has to be recovered")
            return ExitCode.SUCCESS
        return nothing_was_changed(session, ExitCode.UNKNOWN_OUTCOME)
    with at_work(session, Where(), recovering=True) as work, StopSwitch() as stop:
        read = work.access.read
        seen = observe(session, read)
        with display_for(session.err) as display, watching(read, seen) as newest:
            results = recover_rollouts(
                cluster=read.cluster,
                driver=work.access.driver,
                clock=read.clock,
                journal=work.journal,
                snapshot=newest,
                settings=rollout_settings(session, work.access, policy_for(session, read, policy)),
                lease=work.lease,
                on_event=display.show,
                should_stop=stop.request,
                hooks=work.access.hooks,
            )
        plans = [_plan_of(work.journal, result.rollout) for result in results]
    recovered = [(plan, result.outcomes) for plan, result in zip(plans, results, strict=True)]
    render_recovery(recovered, output, session.out)
    return exit_codes.for_recovery([outcome for _, outcomes in recovered for outcome in outcomes])


def _plan_of(journal: Journal, rollout: int) -> Plan:
    text = journal.plan_text(rollout)
    return plan_of_text(text, origin=f"rollout {rollout} in the journal")


def nothing_was_changed(session: Session, code: ExitCode) -> ExitCode:
    """Say so after a command that only showed what it would do."""
    session.err.print("nothing was changed: add --yes to do it", highlight=False)
    return code
