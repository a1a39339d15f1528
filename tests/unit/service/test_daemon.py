"""The daemon in a simulated datacentre, on virtual time: what it does, and what it leaves."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Limits, Schedule
from rebalancer.errors import UsageError
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import RolloutStatus
from rebalancer.rollout.steps import StopRequest
from rebalancer.service import daemon as daemon_module
from rebalancer.service.api_notices import CycleResult
from rebalancer.service.config import RunMode
from rebalancer.service.cycle_history import CycleHistory
from rebalancer.service.daemon import Daemon, LeavingError
from rebalancer.service.duty import Duty, rhythm_of
from rebalancer.service.notify import Notifier, watchdog_seconds
from rebalancer.service.pulse import Pulse
from rebalancer.service.recommendations import Recommendations
from rebalancer.service.setup import Setup
from rebalancer.service.timetable import trigger_of
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.simulated_source import SimulatedSource
from tests.builders import NOON, a_policy
from tests.unit.rollout.errands import ScriptedHooks
from tests.unit.service.daemon_world import INTERVAL_SECONDS, MakeWorld, World


def test_it_waits_until_unevenness_has_lasted_then_moves_then_rests(make_world: MakeWorld) -> None:
    world = make_world()

    verdicts = [world.cycle() for _ in range(5)]

    assert [verdict.split(":")[0] for verdict in verdicts[:2]] == ["waiting", "waiting"]
    assert "seen in 2 of 3 cycles in a row" in verdicts[1]
    assert verdicts[2].startswith("moved 2 VMs, peak CPU 94 % → 56 %")
    assert [verdict.split(":")[0] for verdict in verdicts[3:]] == ["balanced", "balanced"]


def test_hooks_are_asked_only_when_something_is_going_to_be_moved(make_world: MakeWorld) -> None:
    hooks = ScriptedHooks()
    world = make_world(hooks=hooks)
    world.cycle()
    world.cycle()
    assert hooks.asked == []

    world.cycle()

    moments = [call["moment"] for call in hooks.asked]
    assert (moments[0], moments[-1]) == ("before_plan", "after_plan")
    assert moments.count("before_migration") == moments.count("after_migration") == 2


def test_the_verdict_has_the_words_of_a_hook_that_objects(make_world: MakeWorld) -> None:
    world = make_world(hooks=ScriptedHooks(objections={"before_plan": "change freeze"}))

    verdicts = [world.cycle() for _ in range(3)]

    assert "change freeze" in verdicts[2]
    assert world.moves() == ()


def test_recommending_moves_nothing(make_world: MakeWorld) -> None:
    world = make_world(mode=RunMode.RECOMMEND)

    verdicts = [world.cycle() for _ in range(4)]

    assert verdicts[2].startswith("recommended: move 2 VMs")
    assert verdicts[3].startswith("recommended: move 2 VMs")
    assert world.moves() == ()


def test_a_day_s_budget_ends_the_moving_and_says_so(make_world: MakeWorld) -> None:
    limits = Limits(migrations_per_day=1, cooldown_seconds=0.0, reverse_ban_seconds=0.0)
    world = make_world(policy=a_policy(limits=limits))

    verdicts = [world.cycle() for _ in range(2)]
    world.datacentre.advance(86_400.0)
    next_day = world.cycle()

    assert verdicts[0].startswith("moved 1 VM")
    assert verdicts[1].startswith(
        "no gain: the budget for 24 hours is spent (1 of 1 migration); some of it is free again in"
    )
    assert next_day.startswith("moved 1 VM")


def test_patience_survives_a_restart_of_the_daemon(make_world: MakeWorld) -> None:
    world = make_world()
    world.cycle()
    world.cycle()
    again = make_world()
    again.datacentre.advance(2 * INTERVAL_SECONDS)

    assert again.cycle().startswith("moved 2 VMs")


def test_the_last_verdict_is_kept_for_status(make_world: MakeWorld) -> None:
    world = make_world()
    world.cycle()

    with CycleHistory.open(world.url) as history:
        (record,) = history.latest("dc")

    assert record.policy == "test"
    assert record.verdict.startswith("waiting: seen in 1 of 3")


def test_every_cycle_is_one_line_that_ends_in_its_verdict(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()
    with caplog.at_level(logging.INFO, logger="rebalancer"):
        verdict = world.cycle()

    (line,) = [record for record in caplog.records if record.getMessage() == "cycle"]
    assert line.__dict__["verdict"] == verdict
    assert line.__dict__["policy"] == "test"


def test_a_lock_that_somebody_holds_is_a_verdict_with_their_name(make_world: MakeWorld) -> None:
    world = make_world(policy=a_policy())
    with (
        Journal.open(world.url, VirtualClock(world.datacentre)) as journal,
        journal.hold("dc"),
    ):
        verdict = world.cycle()

    assert verdict.startswith(f"waiting: process {os.getpid()} on {socket.gethostname()}")
    assert world.moves() == ()


def test_what_cannot_be_observed_moves_nothing_and_the_loop_goes_on(make_world: MakeWorld) -> None:
    world = make_world(policy=a_policy())
    silence = world.datacentre.seconds + INTERVAL_SECONDS
    for host in world.datacentre.hosts.values():
        host.unreachable_until = silence

    first, second = world.cycle(), world.cycle()

    assert first.startswith("blocked: none of the 2 hosts of dc answered")
    assert second.startswith("moved")


def test_a_bug_in_a_cycle_is_its_verdict_and_not_the_end(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(policy=a_policy())

    def broken(*_: object) -> None:
        raise ZeroDivisionError("ouch")

    with monkeypatch.context() as patched:
        patched.setattr(daemon_module, "tour", broken)
        assert world.cycle() == "failed: ZeroDivisionError: ouch"
    assert world.cycle().startswith("moved")


def test_a_journal_that_is_no_database_moves_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(policy=a_policy())
    (tmp_path / "journal.db").write_text("this is a text and not a database\n" * 100)

    assert "not a journal, or it is damaged" in world.cycle()


def test_it_leaves_transfers_running_and_the_next_start_adopts_them(make_world: MakeWorld) -> None:
    calls = []

    def leave() -> StopRequest:
        calls.append(1)
        if len(calls) > 40:
            raise LeavingError("stopped while VMs were being moved")
        return StopRequest.NO

    world = make_world(policy=a_policy(), should_stop=leave)
    assert world.cycle() == "stopped while VMs were being moved"
    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal:
        assert len(journal.unfinished("dc")) == 1

    patient = Daemon(
        lambda: world.daemon._setup,
        world.daemon._setup,
        Notifier({}),
        lambda settings: replace(
            world.daemon._reach(settings),
            should_stop=lambda: StopRequest.NO,
        ),
    )
    patient.run_due("test")

    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal:
        assert journal.unfinished("dc") == ()
    where = {vm.id: vm.host for vm in SimulatedSource(world.datacentre).observe().vms}
    assert len(where) == 5


def test_a_bad_reload_keeps_the_old_settings(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world()

    def typo() -> Setup:
        raise UsageError("mdoe: no such setting")

    daemon = Daemon(typo, world.daemon._setup, Notifier({}))
    before = daemon._setup

    assert not daemon.reload()

    assert daemon._setup is before
    assert "mdoe: no such setting" in caplog.records[-1].__dict__["error"]


@dataclass(kw_only=True)
class Manager:
    """Listens as systemd does."""

    listener: socket.socket
    environment: Mapping[str, str]

    def heard(self) -> str:
        return self.listener.recv(4096).decode()


@pytest.fixture
def manager(tmp_path: Path) -> Any:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        yield Manager(listener=listener, environment={"NOTIFY_SOCKET": str(path)})


def test_systemd_hears_everything_it_wants_to_know(manager: Manager) -> None:
    notifier = Notifier(manager.environment)

    notifier.ready("up\nand running")
    notifier.reloading()
    notifier.alive()
    notifier.stopping("bye")

    assert manager.heard() == "READY=1\nSTATUS=up and running"
    assert manager.heard().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert manager.heard() == "WATCHDOG=1"
    assert manager.heard() == "STOPPING=1\nSTATUS=bye"


def test_a_service_manager_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).alive()


def test_the_watchdog_of_another_process_is_not_ours() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000"}) == pytest.approx(30.0)
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_seconds({}) is None


def test_a_worker_that_is_stuck_has_no_pulse() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    now[0] = 100.0

    assert not pulse.is_stuck(60.0), "it has nothing to do"
    pulse.busy = True
    assert pulse.is_stuck(60.0)
    pulse.beat()
    assert not pulse.is_stuck(60.0)


def test_a_policy_with_hours_of_its_own_keeps_to_them() -> None:
    duty = Duty(
        name="test",
        policy=a_policy(active=Schedule(cron="0 3 * * sun")),
        mode=RunMode.AUTO,
        rhythm=rhythm_of(a_policy(), 300),
    )

    due = trigger_of(duty, 300.0, 0.1).get_next_fire_time(None, NOON)

    assert due is not None
    assert (due.strftime("%a"), due.hour, due.minute) == ("Sun", 3, 0)


# Approval ------------------------------------------------------------------------------------


def approve(world: World) -> str:
    """Approve what the daemon recommended last."""
    seen = world.daemon.notices.policies["test"].seen
    assert seen is not None
    now = world.datacentre.now
    with Recommendations.open(world.url) as kept:
        kept.approve("dc", seen.plan.id, "by anna", now)
    return seen.plan.id


def recommending(make_world: MakeWorld, **changed: Any) -> World:
    """A daemon that has just recommended to move VMs."""
    world = make_world(mode=RunMode.RECOMMEND, policy=a_policy(), **changed)
    assert world.cycle().startswith("recommended: move 2 VMs")
    return world


def test_a_plan_that_was_approved_is_carried_out_once(make_world: MakeWorld) -> None:
    world = recommending(make_world)
    plan = approve(world)

    verdicts = [world.cycle() for _ in range(3)]

    assert verdicts[0].startswith("moved 2 VMs")
    assert verdicts[0].endswith(f"plan {plan} was approved by anna")
    assert [verdict.split(":")[0] for verdict in verdicts[1:]] == ["balanced", "balanced"]
    assert len(world.moves()) == 2


def test_an_approved_plan_that_no_longer_fits_moves_nothing(make_world: MakeWorld) -> None:
    world = recommending(make_world)
    approve(world)
    world.datacentre.put_to_sleep(HostId("h2"))

    refused, later = world.cycle(), world.cycle()

    assert refused.startswith("blocked: plan")
    assert "its target h2 is asleep now" in refused
    assert not later.startswith("moved")
    assert world.moves() == ()


def test_an_approved_plan_waits_while_the_cluster_is_paused(make_world: MakeWorld) -> None:
    world = recommending(make_world)
    approve(world)
    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal:
        journal.wish("dc", lambda wishes: replace(wishes, paused_at=NOON, paused_by="bob"))
    paused = world.cycle()
    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal:
        journal.wish("dc", lambda wishes: replace(wishes, paused_at=None))
    resumed = world.cycle()

    assert paused.startswith("paused by bob")
    assert resumed.startswith("moved 2 VMs")


def test_an_approval_does_not_last_for_ever(make_world: MakeWorld) -> None:
    world = recommending(make_world)
    approve(world)
    world.datacentre.advance(2 * 3600.0)

    verdicts = [world.cycle(), world.cycle()]

    assert verdicts[0].startswith("blocked: plan")
    assert "too long ago" in verdicts[0]
    assert verdicts[1].startswith("recommended")
    assert world.moves() == ()


def test_a_daemon_that_acts_by_itself_asks_nobody(make_world: MakeWorld) -> None:
    world = make_world(policy=a_policy())

    assert world.cycle().startswith("moved 2 VMs")

    with Recommendations.open(world.url) as kept:
        assert kept.waiting("dc", "test") is None


# Notices -------------------------------------------------------------------------------------


def test_what_a_cycle_saw_and_came_to_is_put_up_for_the_api(make_world: MakeWorld) -> None:
    world = make_world()
    before = world.daemon.notices
    verdict = world.cycle()
    notice = world.daemon.notices.policies["test"]

    assert before.policies == {}
    assert (notice.verdict, notice.mode) == (verdict, "auto")
    assert notice.seen is not None
    assert notice.seen.snapshot.usage is None
    assert len(notice.seen.plan.migrations) == 2
    assert world.daemon.notices.running == ""


def test_a_cycle_that_has_to_wait_is_put_up_too(make_world: MakeWorld) -> None:
    world = make_world(policy=a_policy())
    with Journal.open(world.url, VirtualClock(world.datacentre)) as journal, journal.hold("dc"):
        world.cycle()

    notice = world.daemon.notices.policies["test"]
    assert notice.result is CycleResult.WAITING
    assert notice.next_at is not None


def test_a_plan_that_was_applied_meanwhile_is_not_carried_out_again(make_world: MakeWorld) -> None:
    world = recommending(make_world)
    approve(world)
    seen = world.daemon.notices.policies["test"].seen
    assert seen is not None
    with (
        Journal.open(world.url, VirtualClock(world.datacentre)) as journal,
        journal.hold("dc") as lease,
    ):
        number = journal.begin(seen.plan, lease)
        journal.end(number, RolloutStatus.STOPPED, "on request", lease)

    refused, later = world.cycle(), world.cycle()

    assert refused.endswith("was applied already")
    assert later.startswith("recommended")
    assert world.moves() == ()
