"""What a process that was killed may have left behind besides migrations.

Hooks around drains that nobody was told the end of, and hosts on their way between on and off.
Both are in the journal before they are begun. Of commands of rolling maintenance, which only
people can judge, `maintenance_command` tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.rollout.power_executor import PowerTools, settle
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import IN_TRANSIT
from rebalancer.service import hooks
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import journal_url
from rebalancer.service.power_switches import (
    can_switch,
    census_taker,
    power_driver,
    power_times,
)
from rebalancer.service.power_view import power_marks
from rebalancer.service.session import Session, observe
from rebalancer.service.work import Work


def left_behind(session: Session) -> tuple[str, ...]:
    """Say what is to be looked after; for those who only look."""
    settings = session.settings
    with session.existing_journal() as journal:
        if journal is None:
            return ()
    owed = hooks.owed_texts(settings, settings.cluster, SystemClock())
    marks = power_marks(settings, settings.cluster).values()
    on_their_way = (
        f"{mark.host} is {mark.phase} since {mark.since:%Y-%m-%d %H:%M:%S} UTC: to be looked at"
        for mark in marks
        if mark.phase in IN_TRANSIT
    )
    return (*owed, *on_their_way)


def look_after_the_rest(work: Work) -> tuple[str, ...]:
    """Run the hooks that are owed, look at hosts on their way; return a sentence about each."""
    session, read = work.session, work.access.read
    with hooks.drain_desk(session.settings, work.access.hooks, work.lease, read.clock) as desk:
        told = desk.tell_for_the_dead(lambda: observe(session, read))
    return (*told, *_settled(work))


def _settled(work: Work) -> Iterator[str]:
    """Look once at every host that was told to wake or to sleep. Nothing is told to any."""
    session, access = work.session, work.access
    settings = session.settings
    if not access.read.is_real or access.read.facts is None or not can_switch(settings):
        return
    clock = access.read.clock
    with PowerJournal.open(journal_url(settings), clock) as journal:
        tools = PowerTools(
            driver=access.power or power_driver(settings, clock),
            census=access.census or census_taker(settings),
            journal=journal,
            lease=work.lease,
            clock=clock,
            times=power_times(settings),
        )
        for outcome in settle(tools):
            yield f"{outcome.host}: {outcome.text}"
