"""The law of the journal: another process reads what this one wrote, whatever it was."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.cluster.inventory import HostId, Mode, VmId
from rebalancer.cluster.plan import (
    Confidence,
    Migration,
    MigrationState,
    Outcome,
    Prediction,
    Priority,
)
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.records import Entry, RecordKind, RolloutStatus, state_entry
from tests.builders import NOON
from tests.property.laws import law
from tests.unit.rollout.plans import a_plan

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

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
predictions = st.builds(
    Prediction,
    start_seconds=amounts,
    duration_seconds=amounts,
    duration_upper_seconds=amounts,
    downtime_seconds=amounts,
    downtime_upper_seconds=amounts,
    transfer_bytes=amounts,
    confidence=st.sampled_from(Confidence),
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
            assert [record.payload for record in records] == [e.payload for e in (*said, *ended)]
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
