"""Two copies of a VM: what proves which is the older one, and that nothing else ends a copy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rebalancer.cluster.inventory import HostId, Mode, VmState
from rebalancer.cluster.plan import MigrationState
from rebalancer.rollout.attempt import Attempt, command_from_json, command_to_json
from rebalancer.rollout.chronicle import attempt_from
from rebalancer.rollout.driver import Command, EndStaleCopy, Migrate, Pause, Resume
from rebalancer.rollout.executor import RolloutResult, execute, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.reconcile import Decision, Ended, LookAgain, Repair, reconcile
from rebalancer.rollout.records import Record, RecordKind, sighting_to_json
from rebalancer.rollout.sightings import Absent, DomainView, HostView, JobKind, StateReason
from rebalancer.rollout.stale import StaleCopy, StaleProof, proof_in, stale_copy_of, why_not_end
from rebalancer.simulation.clock import VirtualClock
from rebalancer.simulation.datacentre import Datacentre
from rebalancer.simulation.faults import Fault, FaultKind, Stage
from rebalancer.simulation.simulated_driver import SimulatedDriver
from tests.builders import GIB, MIB, NOON, a_host, a_snapshot, a_vm
from tests.unit.rollout.crashes import KilledError, MortalJournal, a_dead_owner
from tests.unit.rollout.plans import a_migration, a_plan
from tests.unit.rollout.sightings import (
    ABSENT,
    SILENT,
    a_sighting,
    a_view,
    paused,
    running,
)

S, R = MigrationState, StateReason
MOVE = a_migration()
H1, H2 = HostId("h1"), HostId("h2")
MIGRATE = Migrate(
    vm=MOVE.vm,
    host=H1,
    target=H2,
    bytes_per_second=1e8,
    max_downtime_seconds=0.5,
    persistent=True,
)
PAUSE = Pause(vm=MOVE.vm, host=H1)
BEFORE = {
    "state": "running",
    "persistent": True,
    "autostart": False,
    "memory_bytes": 4 * GIB,
    "target_had_definition": False,
}
PROOF = StaleProof(
    asked=1,
    asked_at=NOON,
    seen=3,
    seen_at=NOON,
    source_was="running (migration canceled, no job)",
    target_was="running (migrated, no job)",
)
VIEWS: list[HostView] = [
    ABSENT,
    SILENT,
    *(
        a_view(state, reason, job)
        for state in VmState
        for reason in StateReason
        for job in (None, JobKind.MIGRATION_OUT, JobKind.OTHER)
    ),
]


def lines(*happened: Command | tuple[HostView, HostView], **before: Any) -> list[Record]:
    """A journal: commands that were announced, and looks at both hosts."""
    records = []
    for number, what in enumerate(happened, start=1):
        if isinstance(what, tuple):
            kind = RecordKind.OBSERVED
            sighting = sighting_to_json(a_sighting(*what))
            payload: dict[str, Any] = {"to": "Look", "sighting": sighting}
        else:
            kind = RecordKind.INTENT
            payload = {
                "command": command_to_json(what),
                "before": BEFORE | before,
                "stale_on_source": isinstance(what, Pause),
            }
        records.append(
            Record(
                number=number,
                rollout=1,
                migration=MOVE.id,
                at=NOON + timedelta(seconds=number),
                kind=kind,
                payload=payload,
            )
        )
    return records


TWO_RUN = (running(R.MIGRATION_CANCELED), running(R.MIGRATED))
LOCKED = (paused(R.MIGRATION), running(R.MIGRATED))
PAUSED_BY_US = (paused(R.USER), running(R.MIGRATED))


# What proves it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [TWO_RUN, LOCKED])
def test_our_request_and_two_looks_in_a_row_are_the_proof(
    pair: tuple[HostView, HostView],
) -> None:
    proof = proof_in(MOVE, lines(MIGRATE, pair, pair))

    assert proof is not None
    assert (proof.asked, proof.seen) == (1, 3)
    assert proof.target_was == "running (migrated, no job)"


def test_a_guest_that_we_paused_to_finish_is_proof_as_well() -> None:
    proof = proof_in(MOVE, lines(MIGRATE, PAUSE, PAUSED_BY_US, PAUSED_BY_US))

    assert proof is not None


@pytest.mark.parametrize(
    "happened",
    [
        [TWO_RUN, TWO_RUN],
        [MIGRATE, TWO_RUN],
        [TWO_RUN, MIGRATE, TWO_RUN],
        [MIGRATE, LOCKED, (paused(R.MIGRATION), SILENT), LOCKED],
        [MIGRATE, PAUSED_BY_US, PAUSED_BY_US],
        [replace(MIGRATE, target=HostId("h3")), TWO_RUN, TWO_RUN],
        [replace(MIGRATE, host=H2, target=H1), TWO_RUN, TWO_RUN],
        [MIGRATE, TWO_RUN, TWO_RUN, Resume(vm=MOVE.vm, host=H1)],
        [MIGRATE, TWO_RUN, TWO_RUN, (running(R.OTHER), running(R.MIGRATED))],
        [MIGRATE, TWO_RUN, TWO_RUN, (running(R.USER), paused(R.USER))],
    ],
)
def test_less_than_that_proves_nothing(happened: list[Any]) -> None:
    assert proof_in(MOVE, lines(*happened)) is None


def test_a_vm_that_did_not_run_before_proves_nothing() -> None:
    assert proof_in(MOVE, lines(MIGRATE, LOCKED, LOCKED, state="paused")) is None


def test_no_other_pair_of_views_is_ever_proof() -> None:
    for source, target in product(VIEWS, VIEWS):
        pair = (source, target)
        proof = proof_in(MOVE, lines(MIGRATE, pair, pair))
        if proof is not None:
            assert isinstance(source, DomainView)
            assert isinstance(target, DomainView)
            assert (target.state, target.reason, target.job) == (VmState.RUNNING, R.MIGRATED, None)
            assert (source.state, source.reason, source.job) in (
                (VmState.RUNNING, R.MIGRATION_CANCELED, None),
                (VmState.PAUSED, R.MIGRATION, None),
            )


def test_a_third_copy_voids_the_proof() -> None:
    records = lines(MIGRATE, TWO_RUN, TWO_RUN)
    for record in records[1:]:
        record.payload["sighting"]["views"]["h3"] = {"state": "running", "reason": "other"}

    assert proof_in(MOVE, records) is None


# What it leads to --------------------------------------------------------------------------------


def an_attempt(*issued: Command, proof: StaleProof | None = PROOF, may_end: bool = True) -> Attempt:
    attempt = attempt_from(MOVE, lines(MIGRATE, *issued))
    assert attempt is not None
    return replace(
        attempt,
        stale_proof=proof,
        may_end_stale=may_end,
        stale_on_source=PAUSE in issued,
    )


def decide(source: HostView, target: HostView, attempt: Attempt, **others: HostView) -> Decision:
    return reconcile(attempt, a_sighting(source, target, others=others))


def test_with_proof_and_the_operators_word_the_paused_copy_is_ended() -> None:
    for pair, attempt in ((LOCKED, an_attempt()), (PAUSED_BY_US, an_attempt(PAUSE))):
        decision = decide(*pair, attempt)

        assert isinstance(decision, Repair)
        assert decision.command == EndStaleCopy(
            vm=MOVE.vm,
            host=H1,
            keep=H2,
            stale_reason=pair[0].reason,
            kept_reason=R.MIGRATED,
            proof=3,
        )
        assert decision.then.state is S.UNKNOWN


def test_a_guest_that_was_rebooted_since_is_kept_all_the_same() -> None:
    decision = decide(paused(R.MIGRATION), running(R.OTHER), an_attempt())

    assert isinstance(decision, Repair)


def test_without_the_operators_word_it_is_named_and_kept() -> None:
    decision = decide(*LOCKED, an_attempt(may_end=False))

    assert isinstance(decision, Ended)
    assert "recover --yes --end-stale-copies" in decision.text
    assert "virsh -c qemu+ssh://h1/system destroy vm1" in decision.text


@pytest.mark.parametrize(
    ("pair", "attempt", "why"),
    [
        (LOCKED, an_attempt(proof=None), "does not prove"),
        (PAUSED_BY_US, an_attempt(), "somebody else paused"),
        ((paused(R.MIGRATION, job=JobKind.OTHER), running(R.MIGRATED)), an_attempt(), "a job runs"),
        ((paused(R.MIGRATION), running(R.MIGRATION_CANCELED)), an_attempt(), "proves nothing"),
    ],
)
def test_a_copy_that_may_not_be_ended_is_kept_with_the_reason(
    pair: tuple[HostView, HostView], attempt: Attempt, why: str
) -> None:
    decision = decide(*pair, attempt)

    assert isinstance(decision, Ended)
    assert decision.state is S.UNKNOWN
    assert why in decision.text


def test_nothing_is_ended_while_any_host_is_silent_or_has_a_copy() -> None:
    assert isinstance(decide(*LOCKED, an_attempt(), h3=SILENT), LookAgain)
    assert isinstance(decide(*LOCKED, an_attempt(), h3=running()), Ended)


def test_somebody_who_decided_for_the_older_copy_is_not_contradicted() -> None:
    decision = decide(running(), paused(R.USER), an_attempt(PAUSE))

    assert isinstance(decision, Ended)
    assert decision.state is S.UNKNOWN
    assert "never ran" not in decision.text


def test_no_pair_of_views_ever_ends_a_copy_without_proof() -> None:
    attempts = [
        an_attempt(*issued, proof=proof, may_end=may_end)
        for issued in ((), (PAUSE,), (PAUSE, Resume(vm=MOVE.vm, host=H1)))
        for proof in (None, PROOF)
        for may_end in (False, True)
    ]
    ended = 0
    for source, target in product(VIEWS, VIEWS):
        for attempt in attempts:
            decision = decide(source, target, attempt)
            if isinstance(decision, Repair) and isinstance(decision.command, EndStaleCopy):
                ended += 1
                assert attempt.stale_proof is not None
                assert attempt.may_end_stale
                assert (decision.command.host, decision.command.keep) == (H1, H2)
                assert isinstance(source, DomainView)
                assert isinstance(target, DomainView)
                assert (source.state, source.job) == (VmState.PAUSED, None)
                assert source.reason is R.MIGRATION or (
                    source.reason is R.USER and attempt.paused_by_us
                )
                assert (target.state, target.job) == (VmState.RUNNING, None)
                assert target.reason in (R.MIGRATED, R.USER, R.OTHER)
    assert ended == 3 * (1 + 2 + 1)


def test_a_driver_refuses_all_but_what_it_was_told_to_expect() -> None:
    command = EndStaleCopy(
        vm=MOVE.vm, host=H1, keep=H2, stale_reason=R.USER, kept_reason=R.MIGRATED, proof=3
    )

    harmless = [
        (stale, kept)
        for stale, kept in product(VIEWS, VIEWS)
        if not why_not_end(command, stale, kept)
    ]

    assert harmless == [(paused(R.USER), running(R.MIGRATED))]


def test_a_command_that_names_what_no_stale_copy_shows_is_refused_for_any_view() -> None:
    for stale_reason, kept_reason in product(StateReason, StateReason):
        command = EndStaleCopy(
            vm=MOVE.vm,
            host=H1,
            keep=H2,
            stale_reason=stale_reason,
            kept_reason=kept_reason,
            proof=3,
        )
        for stale, kept in product(VIEWS, VIEWS):
            if not why_not_end(command, stale, kept):
                assert stale_reason in (R.USER, R.MIGRATION)
                assert kept_reason in (R.MIGRATED, R.USER, R.OTHER)


def test_the_command_is_read_back_from_the_journal_as_it_was_written() -> None:
    command = EndStaleCopy(
        vm=MOVE.vm, host=H1, keep=H2, stale_reason=R.USER, kept_reason=R.MIGRATED, proof=3
    )

    assert command_from_json(command_to_json(command)) == command


# What an operator is shown -----------------------------------------------------------------------


def test_what_is_shown_comes_from_the_journal() -> None:
    shown = stale_copy_of(1, MOVE, lines(MIGRATE, TWO_RUN, TWO_RUN, PAUSE, PAUSED_BY_US))

    assert isinstance(shown, StaleCopy)
    assert shown.proof.source_was == "running (migration canceled, no job)"
    assert shown.source_is == "paused (user, no job)"
    assert shown.target_is == "running (migrated, no job)"
    assert shown.looked_at == NOON + timedelta(seconds=5)


@pytest.mark.parametrize(
    ("happened", "why"),
    [
        ([MIGRATE, TWO_RUN], "does not prove"),
        ([MIGRATE, TWO_RUN, TWO_RUN], "on h1 it was running"),
        ([MIGRATE, LOCKED, LOCKED, (paused(R.MIGRATION), SILENT)], "h2 it was silent"),
        ([MIGRATE, LOCKED, LOCKED, (paused(R.MIGRATION), ABSENT)], "h2 it was absent"),
        ([MIGRATE, LOCKED, LOCKED, (paused(R.IO_ERROR), running())], "on h1 it was paused (I/O"),
    ],
)
def test_what_cannot_be_ended_is_not_offered(happened: list[Any], why: str) -> None:
    refused = stale_copy_of(1, MOVE, lines(*happened))

    assert not isinstance(refused, StaleCopy)
    assert why in "; ".join(refused)


# From the cut to the end -------------------------------------------------------------------------


class Split:
    """A datacentre in which a migration's link broke just after the target resumed."""

    def __init__(self, folder: Path, *, disk: bool, persistent: bool = True) -> None:
        storage = frozenset({"nfs"}) if disk else frozenset()
        vm = a_vm("vm1", persistent=persistent, autostart=persistent, storage=storage)
        self.snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [vm])
        split = Fault(kind=FaultKind.SPLIT_BRAIN, vm=vm.id)
        self.datacentre = Datacentre.of(self.snapshot, faults=[split])
        self.clock = VirtualClock(self.datacentre)
        self.url = f"sqlite:///{folder}/journal.db"
        with Journal.open(self.url, self.clock) as journal:
            self.first = execute(a_plan(MOVE), journal=journal, **self.means)

    @property
    def means(self) -> dict[str, Any]:
        return {
            "driver": SimulatedDriver(self.datacentre),
            "clock": self.clock,
            "snapshot": self.snapshot,
        }

    def recover(self, **options: Any) -> RolloutResult:
        with Journal.open(self.url, self.clock) as journal:
            return recover(cluster="test", journal=journal, **self.means, **options)[0]

    def end_it(self) -> RolloutResult:
        return self.recover(only={(1, MOVE.id)}, may_end_stale=True)

    def issued(self) -> list[str]:
        with Journal.open(self.url, self.clock) as journal:
            return [
                record.payload["command"]["do"]
                for record in journal.records(1)
                if record.kind is RecordKind.INTENT
            ]

    def views(self) -> tuple[HostView, HostView]:
        hosts = self.datacentre.hosts
        return hosts[H1].view(MOVE.vm), hosts[H2].view(MOVE.vm)


@pytest.fixture(params=[False, True], ids=["two copies run", "locked disk"])
def split(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    return Split(tmp_path, disk=request.param)


def test_a_stale_copy_survives_every_recover_that_was_not_told_to_end_it(split: Split) -> None:
    assert split.first.outcomes[0].state is S.UNKNOWN

    again = split.recover()

    assert again.outcomes[0].state is S.UNKNOWN
    assert "EndStaleCopy" not in split.issued()
    here, _ = split.views()
    assert isinstance(here, DomainView)
    assert here.state is VmState.PAUSED


def test_the_operators_word_ends_it_and_leaves_one_copy_defined_once(split: Split) -> None:
    result = split.end_it()

    assert result.outcomes[0].state is S.COMPLETE, result
    assert "older copy" in result.outcomes[0].text
    assert "operator's word" in result.outcomes[0].text
    here, there = split.views()
    assert isinstance(here, Absent)
    assert isinstance(there, DomainView)
    assert (there.state, there.persistent, there.autostart) == (VmState.RUNNING, True, True)
    assert split.issued().count("EndStaleCopy") == 1
    with Journal.open(split.url, split.clock) as journal:
        assert journal.unfinished("test") == ()


def test_a_transient_vm_leaves_nothing_behind(tmp_path: Path) -> None:
    split = Split(tmp_path, disk=False, persistent=False)

    result = split.end_it()

    assert result.outcomes[0].state is S.COMPLETE
    assert isinstance(split.views()[0], Absent)


def test_what_changed_since_it_was_shown_is_not_ended(split: Split) -> None:
    driver = SimulatedDriver(split.datacentre)
    driver.issue(Resume(vm=MOVE.vm, host=H1))
    split.datacentre.hosts[H2].set_state(MOVE.vm, VmState.PAUSED, R.USER)
    split.datacentre.advance(5.0)

    result = split.end_it()

    assert result.outcomes[0].state is S.UNKNOWN
    assert "EndStaleCopy" not in split.issued()


def test_ending_takes_the_names_of_what_was_shown(split: Split) -> None:
    with pytest.raises(ValueError, match="name the migrations"):
        split.recover(may_end_stale=True)

    with Journal.open(split.url, split.clock) as journal:
        means = split.means
        assert recover(cluster="test", journal=journal, **means, only=(), may_end_stale=True) == ()


def test_a_controller_killed_at_any_record_of_it_loses_nothing(tmp_path: Path) -> None:
    for number, disk in product(range(1, 16), (False, True)):
        folder = tmp_path / f"{number}-{disk}"
        folder.mkdir()
        split = Split(folder, disk=disk)
        with MortalJournal.open(split.url, split.clock) as journal:
            journal.death = replace(journal.death, after_record=number)
            try:
                recover(
                    cluster="test",
                    journal=journal,
                    lease=journal.acquire("test", a_dead_owner()),
                    only={(1, MOVE.id)},
                    may_end_stale=True,
                    **split.means,
                )
            except KilledError:
                split.datacentre.advance(3.0)
                with Journal.open(split.url, split.clock) as found:
                    is_open = bool(found.unfinished("test"))
                if is_open and split.recover().outcomes[0].state is S.UNKNOWN:
                    assert split.end_it().outcomes[0].state is S.COMPLETE
        assert split.datacentre.record.running_on(MOVE.vm) == (H2,)
        here, there = split.views()
        assert isinstance(here, Absent)
        assert isinstance(there, DomainView)
        assert there.persistent


def test_a_migration_that_nobody_named_keeps_its_state(tmp_path: Path) -> None:
    split = Split(tmp_path, disk=False)

    with Journal.open(split.url, split.clock) as journal:
        before = journal.rollout(1)
        split.recover(only={(1, MOVE.id)})
        after = journal.rollout(1)

    assert before is not None
    assert after is not None
    assert (after.status, after.text) == (before.status, before.text)


def test_a_split_that_shows_while_the_rollout_goes_on_is_ended_at_once(tmp_path: Path) -> None:
    """The rollout gave up on vm1 at second 300, and has hours of work left."""
    silent_seconds = 900.0
    vm = a_vm("vm1", persistent=True)
    snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [vm, a_vm("vm2")])
    silent = Fault(
        kind=FaultKind.HOST_UNREACHABLE,
        vm=vm.id,
        host=H2,
        stage=Stage.FINISH,
        duration_seconds=silent_seconds,
    )
    split = Fault(kind=FaultKind.SPLIT_BRAIN, vm=vm.id)
    datacentre = Datacentre.of(snapshot, faults=[split, silent])
    clock = VirtualClock(datacentre)
    slow = a_migration("vm2", "h1", "h3", id="m2", bytes_per_second=3.0 * MIB)
    patient = replace(slow, predicted=replace(slow.predicted, duration_seconds=1500.0))
    with Journal.open(f"sqlite:///{tmp_path}/journal.db", clock) as journal:
        result = execute(
            a_plan(MOVE, patient),
            journal=journal,
            driver=SimulatedDriver(datacentre),
            clock=clock,
            snapshot=snapshot,
        )
        gave_up = [
            (record.at - NOON).total_seconds()
            for record in journal.records(1, MOVE.id)
            if record.payload.get("state") == S.UNKNOWN
        ]

    assert [outcome.state for outcome in result.outcomes] == [S.UNKNOWN, S.COMPLETE]
    (span,) = datacentre.record.doubled()
    assert span.end_seconds is not None
    assert gave_up[0] < silent_seconds < span.end_seconds < silent_seconds + 60.0
    assert len(gave_up) == 2
    assert datacentre.record.running_on(vm.id) == (H2,)


def test_an_older_copy_that_could_not_be_paused_is_tried_again_while_the_rollout_goes_on(
    tmp_path: Path,
) -> None:
    vm = a_vm("vm1", persistent=True)
    snapshot = a_snapshot([a_host("h1"), a_host("h2"), a_host("h3")], [vm, a_vm("vm2")])
    split = Fault(kind=FaultKind.SPLIT_BRAIN, vm=vm.id)
    hangs = Fault(kind=FaultKind.CALL_HANGS, vm=vm.id, operation="Pause")
    datacentre = Datacentre.of(snapshot, faults=[split, *4 * [hangs]])
    clock = VirtualClock(datacentre)
    slow = a_migration("vm2", "h1", "h3", id="m2", bytes_per_second=3.0 * MIB)
    patient = replace(slow, predicted=replace(slow.predicted, duration_seconds=1500.0))
    with Journal.open(f"sqlite:///{tmp_path}/journal.db", clock) as journal:
        execute(
            a_plan(MOVE, patient),
            journal=journal,
            driver=SimulatedDriver(datacentre),
            clock=clock,
            snapshot=snapshot,
        )
        gave_up = [
            (record.at - NOON).total_seconds()
            for record in journal.records(1, MOVE.id)
            if record.payload.get("state") == S.UNKNOWN
        ]

    (span,) = datacentre.record.doubled()
    assert span.end_seconds is not None
    assert gave_up[0] < span.end_seconds < 600.0
    assert datacentre.record.running_on(vm.id) == (H2,)


def test_modes_that_move_no_memory_prove_nothing() -> None:
    cold = replace(MOVE, mode=Mode.COLD)

    assert proof_in(cold, lines(LOCKED, LOCKED)) is None
