"""kill -9 of the controller, in each stage of a migration and of a cold move, and recovery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rebalancer.cluster.inventory import Mode
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.records import RecordKind
from tests.lab.command import Rebalancer
from tests.lab.controller import kill_a_controller
from tests.lab.shape import MIB
from tests.lab.site import a_move, assert_ran_through, assert_runs_once, hosts_from
from tests.unit.rollout.plans import a_plan

if TYPE_CHECKING:
    from tests.lab.cluster import Lab
    from tests.lab.guest import LabGuest
    from tests.lab.site import Site

pytestmark = pytest.mark.lab

S = MigrationState


@pytest.mark.parametrize(
    ("stage", "arrives", "state", "said"),
    [
        (S.PREPARE, False, S.SKIPPED, "nothing had been asked of its hosts"),
        (S.REQUEST, False, S.FAILED_SAFE, "nothing came of it"),
        (S.TRANSFER, True, S.COMPLETE, "is on"),
        (S.FINISH, True, S.COMPLETE, "is on"),
        (S.COMPLETE, True, S.COMPLETE, "is on"),
    ],
)
def test_a_controller_killed_in_any_stage_leaves_one_vm_that_recover_accounts_for(
    lab: Lab,
    site: Site,
    guest: LabGuest,
    tmp_path: Path,
    stage: S,
    arrives: bool,
    state: S,
    said: str,
) -> None:
    source, target, _ = hosts_from(guest)
    rebalancer = Rebalancer.configured(lab, tmp_path, sampling_seconds=1)
    guest.heartbeat.mark()
    # 4 MiB/s: the transfer is under way for long enough to be found by whoever comes next.
    rate = (4.0 if stage is S.TRANSFER else 50.0) * MIB
    move = a_move(guest, source, target, bytes_per_second=rate)
    # In the request stage it dies between the record of its intent and the act itself.
    stops = {"stops_before": "Migrate"} if stage is S.REQUEST else {"stops_in": stage}
    plan = a_plan(move, cluster=lab.shape.prefix)
    kill_a_controller(site, plan, site.snapshot(guest, source), **stops)

    tree = json.loads(rebalancer("recover", "--yes", "-o", "json"))

    outcome: dict[str, Any] = tree["rollouts"][0]["migrations"][0]["outcome"]
    assert outcome["state"] == state
    assert said in outcome["text"]
    assert_runs_once(guest, on=target if arrives else source)
    assert_ran_through(guest)
    notes = [r.payload["text"] for r in site.journal.records(1) if r.kind is RecordKind.NOTE]
    assert any(note.startswith("adopted") for note in notes) is (stage is S.TRANSFER)
    assert site.journal.unfinished(lab.shape.prefix) == ()


@pytest.mark.parametrize("command", ["CopyDefinition", "Start"])
def test_a_guest_that_is_down_for_a_cold_move_is_started_again_when_the_controller_died(
    site: Site, guest: LabGuest, command: str
) -> None:
    source, target, _ = hosts_from(guest)
    snapshot = site.snapshot(guest, source)
    guest.heartbeat.mark()
    cold = a_plan(a_move(guest, source, target, mode=Mode.COLD))
    kill_a_controller(site, cold, snapshot, stops_before=command)
    assert guest.hosts_running() == ()

    outcome = site.recover(snapshot)

    assert outcome.state is S.FAILED_SAFE, outcome
    restarted = "It was shut down for the move and started again."
    assert outcome.text.startswith(f"{guest.name} runs on {source.name}. {restarted}")
    assert_runs_once(guest, on=source)
    guest.heartbeat.wait_for_beat(within_seconds=120)
    assert guest.heartbeat.report().boots == 2  # what it did before, and once more
