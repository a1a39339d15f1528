"""The law of the journal: another process reads what this one wrote, whatever it was."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import Migration, MigrationState, Outcome, Priority
from rebalancer.cluster.prediction import (
    Confidence,
    MeasuredPart,
    Part,
    PredictedPart,
    Prediction,
)
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.power_journal import PowerJournal
from rebalancer.rollout.power_steps import Phase, PowerMark, Size, Unneeded
from rebalancer.rollout.records import Entry, RecordKind, RolloutStatus, state_entry
from tests.builders import NOON
from tests.property.laws import law
from tests.unit.rollout.crashes import IN_MEMORY
from tests.unit.rollout.plans import a_plan

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
amounts = st.floats(0, 1e15) | st.just(math.inf)
payloads = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e9, 1e9) | texts,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
disks = st.builds(
    LocalDisk,
    target=names,
    capacity_bytes=st.integers(0, 2**60),
    path=texts,
    format=texts,
    allocated_bytes=st.none() | st.integers(0, 2**60),
    obstacle=texts,
)
predicted_parts = st.builds(
    PredictedPart,
    part=st.sampled_from(Part),
    seconds=amounts,
    upper_seconds=amounts,
    ideal_seconds=amounts,
    learned_from=st.integers(0, 99),
)
measured_parts = st.builds(
    MeasuredPart,
    part=st.sampled_from(Part),
    seconds=amounts,
    is_over=st.booleans(),
    transfer_bytes=st.none() | amounts,
)
predictions = st.builds(
    Prediction,
    start_seconds=amounts,
    duration_seconds=amounts,
    duration_upper_seconds=amounts,
    downtime_seconds=amounts,
    downtime_upper_seconds=amounts,
    transfer_bytes=amounts,
    confidence=st.sampled_from(Confidence),
    rounds=st.integers(0, 99),
    switchover_seconds=amounts,
    parts=st.lists(predicted_parts, max_size=2).map(tuple),
)
migrations = st.builds(
    Migration,
    id=names,
    vm=names.map(VmId),
    vm_name=texts,
    source=names.map(HostId),
    target=names.map(HostId),
    mode=st.sampled_from(Mode),
    mode_reason=texts,
    reason=texts,
    priority=st.sampled_from(Priority),
    wave=st.integers(1, 99),
    depends_on=st.lists(names, max_size=2).map(tuple),
    bytes_per_second=amounts,
    max_downtime_seconds=amounts,
    memory_bytes=st.integers(0, 2**60),
    predicted=predictions,
    saved_to=texts,
    disks=st.lists(disks, max_size=2).map(tuple),
)
states = st.sampled_from(MigrationState)
outcomes = st.none() | st.builds(
    Outcome,
    migration=names,
    state=states,
    text=texts,
    **dict.fromkeys(
        ["duration_seconds", "downtime_seconds", "transfer_bytes"], st.none() | amounts
    ),
    iterations=st.none() | st.integers(0, 10**6),
    parts=st.lists(measured_parts, max_size=2).map(tuple),
)
instants = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone itself)
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
marks = st.builds(
    PowerMark,
    host=names.map(HostId),
    phase=st.sampled_from(Phase),
    since=instants,
    reason=texts,
    told=st.booleans(),
    size=st.none()
    | st.builds(
        Size,
        cpu_cores=st.floats(0, 1e6),
        memory_bytes=st.integers(0, 2**60),
        reserved_memory_bytes=st.integers(0, 2**60),
    ),
)


class SteppingClock:
    """Each look at it is a little later, by an amount that fits no round number."""

    def __init__(self) -> None:
        self.at = NOON

    def now(self) -> datetime:
        self.at += timedelta(microseconds=1_234_567)
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@law()
@given(
    moves=st.lists(migrations, min_size=1, max_size=3, unique_by=lambda m: m.id),
    notes=st.lists(payloads, max_size=3),
    ends=st.lists(st.tuples(states, texts, outcomes), max_size=3),
    plan_text=texts,
    drains=st.dictionaries(names.map(HostId), texts, max_size=2),
)
def test_law_9_what_is_written_is_read_back_as_it_was(
    moves: list[Migration],
    notes: list[dict[str, Any]],
    ends: list[tuple[MigrationState, str, Outcome | None]],
    plan_text: str,
    drains: Mapping[HostId, str],
) -> None:
    first = moves[0].id
    said = [Entry(migration=first, kind=RecordKind.NOTE, payload=note) for note in notes]
    ended = [
        state_entry(first, state, text, outcome and replace(outcome, migration=first, state=state))
        for state, text, outcome in ends
    ]
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        url, clock = f"sqlite:///{folder}/journal.db", SteppingClock()
        with Journal.open(url, clock) as journal:
            lease = journal.acquire("test")
            rollout = journal.begin(a_plan(*moves), lease, plan_text=plan_text)
            for entry in (*said, *ended):
                journal.write(rollout, [entry], lease)
            for host, reason in drains.items():
                journal.mark_drain("test", host, reason)
            journal.end(rollout, RolloutStatus.STOPPED, plan_text, lease)

        with Journal.open(url, clock) as other:
            rows, records = other.migrations(rollout), other.records(rollout)
            assert [row.migration for row in rows] == moves
            # Of what is written, tuples are read back as lists.
            payloads = [json.loads(json.dumps(e.payload)) for e in (*said, *ended)]
            assert [record.payload for record in records] == payloads
            assert [r.at for r in records] == sorted(r.at for r in records)
            if ends:
                state, _, outcome = ends[-1]
                assert rows[0].state is state
                assert rows[0].outcome == (
                    outcome and replace(outcome, migration=first, state=state)
                )
            assert other.plan_text(rollout) == plan_text
            (row,) = other.rollouts("test")
            assert (row.status, row.text) == (RolloutStatus.STOPPED, plan_text)
            assert {h: mark.reason for h, mark in other.drains("test").items()} == dict(drains)


@law()
@given(
    kept=st.lists(st.tuples(marks, texts), max_size=4),
    awake=st.sets(names.map(HostId), max_size=2),
    counted=st.dictionaries(
        names.map(HostId),
        st.builds(Unneeded, cycles=st.integers(1, 10**6), at=instants),
        max_size=3,
    ),
)
def test_law_9_what_is_written_about_power_is_read_back_as_it_was(
    kept: list[tuple[PowerMark, str]], awake: set[HostId], counted: Mapping[HostId, Unneeded]
) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        url, clock = f"sqlite:///{folder}/journal.db", SteppingClock()
        with Journal.open(url, clock) as journal, PowerJournal.open(url, clock) as power:
            lease = journal.acquire("test")
            for mark, text in kept:
                power.keep(mark.host, mark, text, lease)
            for host in sorted(awake):
                power.keep(host, None, "awake", lease)
            power.keep_unneeded("test", "policy", counted)

        with PowerJournal.open(url, clock) as other:
            # The last word on each host counts.
            expected = {mark.host: mark for mark, _ in kept if mark.host not in awake}
            assert other.marks("test") == expected
            assert other.unneeded("test", "policy") == dict(counted)
            assert [line.text for line in reversed(other.records("test"))] == [
                *(text for _, text in kept),
                *["awake"] * len(awake),
            ]
            assert other.marks("elsewhere") == {}
