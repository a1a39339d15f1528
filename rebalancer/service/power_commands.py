"""`rebalancer power`: which hosts are on, and switching them by hand with the same care.

Dry until `--yes`; without it nothing that could switch a host is even made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import ExitCode, UsageError
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.power import Census, NoCensus, PowerState
from rebalancer.rollout.power_executor import (
    PowerOutcome,
    PowerTools,
    note_asleep,
    read_power,
    settle,
    sleep,
    wake,
)
from rebalancer.rollout.power_guard import (
    PowerScene,
    reasons_not_to_wake,
    reasons_to_stay_awake,
)
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import PowerMark
from rebalancer.service import options
from rebalancer.service.access import ReadAccess, Where, open_for_reading
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.naming import names_text
from rebalancer.service.power_switches import (
    can_switch,
    census_taker,
    power_driver,
    power_gauge,
    power_times,
)
from rebalancer.service.power_view import power_marks
from rebalancer.service.session import Session, drain_marks, observe, open_session, policy_for
from rebalancer.service.signals import StopSwitch
from rebalancer.service.wording import count_text
from rebalancer.service.work import (
    nothing_was_changed,
    refuse_if_paused,
    refuse_if_unrecovered,
)

ASKED_AT_ONCE = 32
"""Hosts that sleep take the whole time limit to say nothing."""

Named = Annotated[list[str], typer.Argument(metavar="HOST...")]


def status(
    hosts: Annotated[list[str] | None, typer.Argument(metavar="HOST...")] = None,
    config: options.Config = None,
) -> ExitCode:
    """Ask hosts' power and libvirt, and say what is known of each; all hosts by default."""
    session = open_session(config)
    settings = session.settings
    marks = power_marks(settings, settings.cluster)
    gauge, census = power_gauge(settings), census_taker(settings)
    names = _known(settings, hosts or [host.name for host in settings.hosts])
    with ThreadPoolExecutor(ASKED_AT_ONCE) as asking:
        looked = asking.map(lambda name: (*gauge.state(name), census(name)), names)
        for name, (power, why, guests) in zip(names, looked, strict=True):
            said = [f"power {power}{f' ({why})' if why else ''}", _guests_text(guests)]
            _say(session, name, "; ".join([*said, *_mark_texts(marks.get(name))]))
    return ExitCode.SUCCESS


def wake_hosts(hosts: Named, config: options.Config = None, yes: options.Yes = False) -> ExitCode:
    """Switch hosts on and wait until their libvirt answers; that ends a quarantine, too."""
    session = open_session(config)
    names = _switchable(session.settings, hosts)
    if not yes:
        for name in names:
            _say(session, name, "would be woken")
        return nothing_was_changed(session, ExitCode.SUCCESS)
    with _at_work(session) as tools:

        def one(host: HostId) -> PowerOutcome:
            marks = tools.journal.marks(tools.lease.cluster)
            return wake(host, tools, reasons_not_to_wake(host, marks, (), by_operator=True))

        return _one_by_one(session, names, one)


def sleep_hosts(
    hosts: Named,
    config: options.Config = None,
    policy: options.PolicyFile = None,
    drained: Annotated[
        bool, typer.Option("--drained", help="Hosts that are drained may be switched off, too.")
    ] = False,
    yes: options.Yes = False,
) -> ExitCode:
    """Ask empty hosts to shut down, if the others are enough, and wait until they are off.

    A host that is off already is noted, so that it is woken when it is needed.
    """
    session = open_session(config)
    names = _switchable(session.settings, hosts)
    task = _Sleeping(session=session, policy=policy, allow_drained=drained)
    if not yes:
        return nothing_was_changed(session, _say_who_could_sleep(task, names))
    with _at_work(session) as tools:
        return _one_by_one(session, names, lambda host: task.put_to_sleep(host, tools))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sleeping:
    """What an operator asked for: each host is judged by a new look at the cluster."""

    session: Session
    policy: Path | None
    allow_drained: bool

    def scene(self) -> PowerScene:
        session = self.session
        read = open_for_reading(session.settings, Where())
        snapshot = observe(session, read)
        policy = policy_for(session, read, self.policy)
        return PowerScene(
            snapshot=snapshot,
            demand=forecast_demand(snapshot, policy),
            policy=policy,
            marks=power_marks(session.settings, snapshot.cluster),
            drained=frozenset(drain_marks(session, snapshot.cluster)),
            allow_autostart=session.settings.power.allow_autostart,
            allow_drained=self.allow_drained,
        )

    def put_to_sleep(self, host: HostId, tools: PowerTools) -> PowerOutcome:
        scene = self.scene()
        seen = scene.snapshot.host_by_id[host]
        power, _ = read_power(host, tools)
        if power is PowerState.OFF:
            return note_asleep(seen, tools)

        def judge(guests: Census | NoCensus) -> Sequence[str]:
            return reasons_to_stay_awake(seen, scene, guests)

        return sleep(seen, tools, judge)


def _say_who_could_sleep(task: _Sleeping, names: Sequence[HostId]) -> ExitCode:
    scene, census = task.scene(), census_taker(task.session.settings)
    code = ExitCode.SUCCESS
    for name in names:
        against = reasons_to_stay_awake(scene.snapshot.host_by_id[name], scene, census(name))
        if against:
            code = ExitCode.BLOCKED
        said = f"stays as it is: {'; '.join(against)}" if against else "would be put to sleep"
        _say(task.session, name, said)
    return code


@contextmanager
def _at_work(session: Session) -> Iterator[PowerTools]:
    """Take the lock of the cluster, and reach what switches its hosts."""
    settings = session.settings
    read: ReadAccess = open_for_reading(settings, Where())
    with (
        session.journal() as journal,
        journal.hold(read.cluster) as lease,
        PowerJournal.open(journal_url(settings), read.clock) as power,
        StopSwitch() as stop,
    ):
        refuse_if_paused(journal, read.cluster)
        refuse_if_unrecovered(journal, read.cluster)
        tools = PowerTools(
            driver=power_driver(settings, read.clock),
            census=census_taker(settings),
            journal=power,
            lease=lease,
            clock=read.clock,
            times=power_times(settings),
            cuts_power=settings.power.cut_power,
            should_stop=stop.request,
        )
        for outcome in settle(tools):  # what a command or daemon that died had begun
            _say(session, outcome.host, outcome.text)
        yield tools


def _one_by_one(
    session: Session, names: Sequence[HostId], one: Callable[[HostId], PowerOutcome]
) -> ExitCode:
    """Switch one host after the other; the first that fails ends it."""
    done = 0
    for name in names:
        outcome = one(name)
        _say(session, name, outcome.text)
        if not outcome.done:
            break
        done += 1
    if done == len(names):
        return ExitCode.SUCCESS
    return ExitCode.PARTIAL if done else ExitCode.BLOCKED


def history(
    config: options.Config = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 50,
) -> ExitCode:
    """List what was done to hosts' power, by whom, and what came of it."""
    session = open_session(config)
    with session.existing_journal() as journal:
        if journal is None:
            return ExitCode.SUCCESS
    with PowerJournal.open(journal_url(session.settings), SystemClock()) as power:
        records = power.records(session.settings.cluster, limit)
    for record in records:
        said = f"{record.text} ({record.owner})"
        _say(session, record.host, f"{record.at:%Y-%m-%d %H:%M:%S} UTC: {said}")
    return ExitCode.SUCCESS


def _known(settings: Settings, names: Sequence[str]) -> tuple[HostId, ...]:
    known = {host.name for host in settings.hosts}
    if missing := [name for name in names if name not in known]:
        raise UsageError(
            f"no host called {', '.join(missing)} is configured; there are {names_text(known)}"
        )
    return tuple(HostId(name) for name in dict.fromkeys(names))


def _switchable(settings: Settings, names: Sequence[str]) -> tuple[HostId, ...]:
    found = _known(settings, names)
    if cannot := sorted(set(found) - can_switch(settings)):
        raise UsageError(
            f"the settings do not say how {', '.join(cannot)} is switched: give it `power`, "
            "with redfish or a wake_command (docs/configuration.md)"
        )
    return found


def _guests_text(guests: Census | NoCensus) -> str:
    if isinstance(guests, NoCensus):
        return f"libvirt does not answer ({guests.why})"
    return f"libvirt answers, {count_text(len(guests.active), 'VM')} with a process"


def _mark_texts(mark: PowerMark | None) -> Iterator[str]:
    if mark is not None:
        why = f": {mark.reason}" if mark.reason else ""
        yield f"{mark.phase} since {mark.since:%Y-%m-%d %H:%M:%S} UTC{why}"


def _say(session: Session, host: HostId, text: str) -> None:
    session.out.print(f"{host}: {text}", highlight=False, markup=False)
