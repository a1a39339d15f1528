"""Rolling maintenance: when a host counts as back, and when a command may be run for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import LockHeldError, UnknownOutcomeError
from rebalancer.rollout.lease import Owner, child_process, this_process
from rebalancer.rollout.maintenance_journal import MaintenanceJournal, MaintenancePhase
from rebalancer.service.access import ReadAccess
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import journal_url, load_settings
from rebalancer.service.maintenance_command import (
    IfBegun,
    MaintenanceCommand,
    maintenance_texts,
    refuse_if_begun,
    runs_of,
)
from rebalancer.service.rolling import STEADY_SECONDS, not_back_in_time
from rebalancer.service.session import Session
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import a_host, a_snapshot
from tests.unit.rollout.crashes import a_dead_owner

H1, H2 = HostId("h1"), HostId("h2")
PATCH = MaintenanceCommand(text="patch --reboot")

# When a host counts as back -----------------------------------------------------------------------


def a_cluster(*faults: Fault) -> ReadAccess:
    datacentre = Datacentre.of(a_snapshot([a_host("h1"), a_host("h2")], []), faults=faults)
    return ReadAccess(
        cluster="test",
        host_names=("h1", "h2"),
        source=SimulatedSource(datacentre),
        clock=VirtualClock(datacentre),
        uris={},
    )


def silent(at_seconds: float, for_seconds: float) -> Fault:
    return Fault(
        kind=FaultKind.HOST_UNREACHABLE,
        host=H1,
        at_seconds=at_seconds,
        duration_seconds=for_seconds,
    )


def waited(read: ReadAccess, *, within: float = 1800.0, steady: float = STEADY_SECONDS) -> float:
    began = read.clock.now()
    away = not_back_in_time(
        read, (H1,), within_seconds=within, steady_seconds=steady, is_stopped=lambda: False
    )
    assert not away
    return (read.clock.now() - began).total_seconds()


def test_a_host_that_was_told_to_reboot_and_is_not_down_yet_does_not_count_as_back() -> None:
    rebooting = silent(at_seconds=35.0, for_seconds=300.0)

    assert waited(a_cluster(rebooting)) >= 335.0 + STEADY_SECONDS


def test_a_host_that_never_went_away_counts_as_back_after_a_while() -> None:
    assert STEADY_SECONDS <= waited(a_cluster()) <= STEADY_SECONDS + 10.0


def test_whoever_undrains_a_host_has_looked() -> None:
    assert waited(a_cluster(), steady=0.0) == 0.0


def test_a_host_that_does_not_come_back_is_given_up() -> None:
    gone = a_cluster(silent(at_seconds=20.0, for_seconds=1e6))

    away = not_back_in_time(
        gone, (H1, H2), within_seconds=600.0, steady_seconds=60.0, is_stopped=lambda: False
    )

    assert away == (H1,)


# When a command may be run ------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Session:
    flags = {"cluster": "test", "journal": f"sqlite:///{tmp_path}/journal.db"}
    settings = load_settings(flags=flags, system_config=Path("/nonexistent"))
    return Session(settings=settings, out=Console(), err=Console())


@pytest.fixture
def kept(session: Session) -> Iterator[MaintenanceJournal]:
    with MaintenanceJournal.open(journal_url(session.settings), SystemClock()) as journal:
        yield journal


def begun(session: Session, kept: MaintenanceJournal, owner: Owner | None = None) -> str:
    """What a process has written that is going to run the command for two hosts."""
    with session.journal() as journal:
        for host in (H1, H2):
            journal.mark_drain("test", host)
        lease = journal.acquire("test", owner or a_dead_owner())
        name = kept.begin([H1, H2], PATCH.text, lease)
        journal.release(lease)
    return name


def undrain(session: Session, *hosts: HostId) -> None:
    with session.journal() as journal:
        for host in hosts:
            journal.unmark_drain("test", host)


def test_a_command_that_may_have_run_is_not_run_again_before_somebody_says_so(
    session: Session, kept: MaintenanceJournal
) -> None:
    begun(session, kept)

    with pytest.raises(UnknownOutcomeError, match="nobody knows whether it was run") as refused:
        refuse_if_begun(session, "test", [H2, HostId("h3")], PATCH)

    assert "'patch --reboot' was begun for h1, h2 at" in str(refused.value)
    assert "rebalancer undrain h1 h2" in str(refused.value)
    for word in IfBegun:
        refuse_if_begun(session, "test", [H2], replace(PATCH, if_begun=word))
    refuse_if_begun(session, "test", [HostId("h3")], PATCH)


def test_which_hosts_it_is_not_run_for_again(session: Session, kept: MaintenanceJournal) -> None:
    begun(session, kept)
    group = (H1, HostId("h3"))
    runs = runs_of(session, "test", group)

    assert replace(PATCH, if_begun=IfBegun.SKIP).skipped_among(group, runs) == (H1,)
    assert replace(PATCH, if_begun=IfBegun.RERUN).skipped_among(group, runs) == ()
    another = MaintenanceCommand(text="firmware", if_begun=IfBegun.SKIP)
    assert another.skipped_among(group, runs) == (), "that one was not run for it"


def test_a_command_that_ended_well_is_not_run_again_while_its_hosts_are_kept_empty(
    session: Session, kept: MaintenanceJournal
) -> None:
    kept.ended(begun(session, kept))

    with pytest.raises(UnknownOutcomeError, match="for h1, h2 ended well at"):
        refuse_if_begun(session, "test", [H1], PATCH)
    refuse_if_begun(session, "test", [H1], MaintenanceCommand(text="another one"))

    undrain(session, H1, H2)
    refuse_if_begun(session, "test", [H1], PATCH)
    assert maintenance_texts(session) == ()


def test_a_command_that_failed_may_be_run_again(session: Session, kept: MaintenanceJournal) -> None:
    kept.ended(begun(session, kept), "ended with 1")

    refuse_if_begun(session, "test", [H1], PATCH)

    (text,) = maintenance_texts(session)
    assert "'patch --reboot' for h1, h2 ended with 1 at" in text


@pytest.mark.parametrize("word", [None, *IfBegun])
def test_a_command_at_work_is_waited_for_whatever_is_said(
    session: Session, kept: MaintenanceJournal, word: IfBegun | None
) -> None:
    """The process that began it died; what it started did not."""
    kept.started(begun(session, kept), child_process(this_process().pid))

    with pytest.raises(LockHeldError, match=f"and runs as process {this_process().pid}"):
        refuse_if_begun(session, "test", [H1], replace(PATCH, if_begun=word))
    undrain(session, H1, H2)
    assert [run.phase for run in kept.not_over("test")] == [MaintenancePhase.BEGUN]


def test_of_a_command_on_another_machine_only_people_know_whether_it_runs(
    session: Session, kept: MaintenanceJournal
) -> None:
    begun(session, kept, Owner(host="mgmt2", pid=7))

    with pytest.raises(UnknownOutcomeError, match="process 7 on mgmt2, and whether it still runs"):
        refuse_if_begun(session, "test", [H1], PATCH)
    refuse_if_begun(session, "test", [H1], replace(PATCH, if_begun=IfBegun.RERUN))


def test_a_host_that_is_used_again_is_no_concern_of_the_command_any_more(
    session: Session, kept: MaintenanceJournal
) -> None:
    begun(session, kept)
    undrain(session, H1)

    (run,) = kept.not_over("test")
    assert run.hosts == (H2,)
    refuse_if_begun(session, "test", [H1], PATCH)


def test_a_host_that_is_taken_back_while_the_command_runs_is_over_with_when_that_ends(
    session: Session, kept: MaintenanceJournal
) -> None:
    name = begun(session, kept, this_process())
    undrain(session, H1)
    assert [run.hosts for run in kept.not_over("test")] == [(H1, H2)]

    kept.ended(name)

    assert [run.hosts for run in kept.not_over("test")] == [(H2,)]
