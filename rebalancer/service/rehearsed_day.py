"""A day of a scenario: its policy is looked after as the daemon does, on virtual time.

The cycles are those of the daemon, with its journal, its persistence and its care about power;
only the hypervisors, the switches and the time are simulated.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rebalancer.cluster.inventory import HostId
from rebalancer.rollout.power import Sleep, Wake
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.config import RunMode, journal_url
from rebalancer.service.config_format import HostSettings
from rebalancer.service.duty import Duty, Reach, rhythm_of
from rebalancer.service.power_format import HostPowerSettings
from rebalancer.service.rehearsed_access import policy_of, simulated
from rebalancer.service.rehearsed_power import note_sleepers
from rebalancer.service.session import Session
from rebalancer.service.touring import tour
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.day import (
    CycleTold,
    Day,
    DayResult,
    broken_guests,
    energy_joules,
)
from rebalancer.simulation.scenario import Scenario
from rebalancer.simulation.simulated_driver import SimulatedDriver
from rebalancer.simulation.simulated_power import SimulatedPower


def rehearse_day(session: Session, scenario: Scenario, day: Day) -> DayResult:
    """Go through all cycles of a scenario's day, and return what came of it."""
    datacentre = scenario.build()
    power = SimulatedPower(datacentre)
    policy = policy_of(scenario)
    with _own_journal(session, datacentre, day) as inside:
        duty = Duty(
            name=policy.name,
            policy=policy,
            mode=RunMode.AUTO,
            rhythm=rhythm_of(policy, day.every_seconds),
        )
        cycles, next_at = [], 0.0
        while datacentre.seconds < day.lasts_seconds:
            report = tour(inside, duty, _reach(scenario, datacentre, power))
            _break_what_sleeps(day, datacentre, power)
            awake = sum(host.powered for host in datacentre.hosts.values())
            at = datacentre.now
            cycles.append(CycleTold(at=at, verdict=report.verdict, awake=awake))
            if not report.woke:  # else the daemon looks again at once
                next_at += day.every_seconds
            datacentre.advance(max(1.0, next_at - datacentre.seconds))
        quarantined = _quarantined(inside, datacentre)
    taken, all_on = energy_joules(datacentre, power)
    return DayResult(
        cycles=tuple(cycles),
        slept=sum(isinstance(command, Sleep) for command in power.told),
        woken=sum(isinstance(command, Wake) for command in power.told),
        joules=taken,
        joules_all_on=all_on,
        quarantined=quarantined,
        lost=broken_guests(datacentre),
    )


@contextmanager
def _own_journal(session: Session, datacentre: Datacentre, day: Day) -> Iterator[Session]:
    """Work with a journal that is gone afterwards, in a cluster whose hosts can be switched."""
    settings = session.settings
    switch = HostPowerSettings(wake_command="true")
    hosts = tuple(
        HostSettings(name=host, uri=f"test:///{host}", power=switch) for host in datacentre.hosts
    )
    with tempfile.TemporaryDirectory(prefix="rebalancer-day-") as folder:
        changed = {
            "cluster": datacentre.spec.cluster,
            "journal": f"sqlite:///{Path(folder) / 'journal.db'}",
            "mode": RunMode.AUTO,
            "hosts": hosts,
            "power": settings.power.model_copy(
                update={"switch": True, "sleep_after_cycles": day.sleep_after_cycles}
            ),
        }
        inside = replace(session, settings=settings.model_copy(update=changed))
        with (
            inside.journal(VirtualClock(datacentre)) as journal,
            journal.hold(datacentre.spec.cluster) as lease,
        ):
            note_sleepers(journal_url(inside.settings), lease, datacentre)
        with _quiet():
            yield inside


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the lines of a daemon's log off the terminal; the verdicts say what they would."""
    log = logging.getLogger("rebalancer")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _reach(scenario: Scenario, datacentre: Datacentre, power: SimulatedPower) -> Reach:
    read = simulated(scenario, datacentre)
    return Reach(
        for_reading=lambda: read,
        for_change=lambda: ChangeAccess(
            read=read,
            driver=SimulatedDriver(datacentre),
            power=power,
            census=power.census,
            switchable=frozenset(datacentre.hosts),
        ),
        on_event=lambda _: None,
        should_stop=lambda: StopRequest.NO,
    )


def _break_what_sleeps(day: Day, datacentre: Datacentre, power: SimulatedPower) -> None:
    asleep = {host for host in day.cannot_wake if not datacentre.hosts[HostId(host)].powered}
    power.broken |= asleep


def _quarantined(session: Session, datacentre: Datacentre) -> tuple[str, ...]:
    url = journal_url(session.settings)
    with PowerJournal.open(url, VirtualClock(datacentre)) as journal:
        marks = journal.marks(datacentre.spec.cluster).values()
    return tuple(sorted(mark.host for mark in marks if mark.phase is Phase.QUARANTINED))
