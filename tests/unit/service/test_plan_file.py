from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer.cluster.inventory import HostId, HostState, Mode, VmId
from rebalancer.cluster.plan import (
    HostOutlook,
    Migration,
    Objective,
    Plan,
    PowerAction,
    PowerStep,
    Priority,
    SolveStatus,
    Unmoved,
    Verdict,
    VerdictKind,
)
from rebalancer.cluster.prediction import Confidence, Part, PredictedPart, Prediction
from rebalancer.cluster.rules import Violation
from rebalancer.errors import InvalidFileError, UsageError
from rebalancer.service.plan_file import plan_of_text, plan_to_json, read_plan, write_plan
from tests.builders import NOON
from tests.unit.service.samples import a_migration, a_plan, a_prediction

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)
names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
amounts = st.floats(0, 1e12)
unbounded = st.one_of(amounts, st.just(math.inf))
numbers = st.floats(-1e12, 1e12)
counts = st.integers(0, 2**50)
instants = st.timedeltas(timedelta(0), timedelta(days=30_000)).map(lambda later: NOON + later)
predictions = st.builds(
    Prediction,
    start_seconds=amounts,
    duration_seconds=amounts,
    duration_upper_seconds=unbounded,
    downtime_seconds=amounts,
    downtime_upper_seconds=unbounded,
    transfer_bytes=amounts,
    confidence=st.sampled_from(Confidence),
    parts=st.lists(
        st.builds(
            PredictedPart,
            part=st.sampled_from(Part),
            seconds=amounts,
            upper_seconds=unbounded,
            ideal_seconds=amounts,
            learned_from=counts,
        ),
        max_size=2,
    ).map(tuple),
)
violations = st.lists(
    st.builds(
        Violation,
        rule=texts,
        text=texts,
        vms=st.lists(names.map(VmId), max_size=2).map(tuple),
        hosts=st.lists(names.map(HostId), max_size=2).map(tuple),
        severity=numbers,
    ),
    max_size=2,
).map(tuple)
shares = st.dictionaries(names, numbers, max_size=2)


@st.composite
def migrations(draw: st.DrawFn) -> tuple[Migration, ...]:
    """Some migrations, each of which may wait for those before it."""
    ids = [f"m{number}" for number in range(1, draw(st.integers(0, 4)) + 1)]
    return tuple(
        Migration(
            id=this,
            vm=VmId(draw(names)),
            vm_name=draw(texts),
            source=HostId("from " + draw(texts)),
            target=HostId("to " + draw(texts)),
            mode=draw(st.sampled_from(Mode)),
            mode_reason=draw(texts),
            reason=draw(texts),
            priority=draw(st.sampled_from(Priority)),
            wave=draw(st.integers(1, 9)),
            depends_on=tuple(earlier for earlier in ids[:index] if draw(st.booleans())),
            bytes_per_second=draw(st.floats(1, 1e12)),
            max_downtime_seconds=draw(amounts),
            memory_bytes=draw(counts),
            predicted=draw(predictions),
        )
        for index, this in enumerate(ids)
    )


plans = st.builds(
    Plan,
    id=names,
    cluster=texts,
    creator=texts,
    created_at=instants,
    expires_at=instants,
    policy=texts,
    policy_fingerprint=texts,
    snapshot_fingerprint=texts,
    snapshot_taken_at=instants,
    verdict=st.builds(Verdict, kind=st.sampled_from(VerdictKind), text=texts),
    objective=st.none()
    | st.builds(
        Objective,
        before=numbers,
        after=numbers,
        bound=numbers,
        status=st.sampled_from(SolveStatus),
        solve_seconds=amounts,
        terms_before=shares,
        terms_after=shares,
    ),
    hosts=st.lists(
        st.builds(
            HostOutlook,
            host=names.map(HostId),
            name=texts,
            state=st.sampled_from(HostState),
            cpu_ratio_before=amounts,
            cpu_ratio_after=amounts,
            memory_ratio_before=amounts,
            memory_ratio_after=amounts,
            vms_before=counts,
            vms_after=counts,
        ),
        max_size=2,
    ).map(tuple),
    migrations=migrations(),
    unmoved=st.lists(
        st.builds(
            Unmoved,
            vm=names.map(VmId),
            vm_name=texts,
            reasons=st.lists(texts, max_size=2).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    power=st.lists(
        st.builds(
            PowerStep,
            host=names.map(HostId),
            action=st.sampled_from(PowerAction),
            reason=texts,
            depends_on=st.just(()),
        ),
        max_size=2,
    ).map(tuple),
    makespan_seconds=amounts,
    makespan_lower_bound_seconds=amounts,
    commands=st.dictionaries(names, st.lists(texts, max_size=2).map(tuple), max_size=2),
    violations_before=violations,
    violations_after=violations,
)


@given(plan=plans)
@settings(max_examples=60, deadline=None)
def test_a_plan_that_is_written_and_read_again_is_the_same(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plans") / "plan.json"

    write_plan(plan, path)

    assert asdict(read_plan(path)) == asdict(plan)


def test_a_plan_can_be_read_from_text_that_is_at_hand() -> None:
    assert plan_of_text(plan_to_json(a_plan()), "plan p1 in the journal").id == "plan-1"

    with pytest.raises(InvalidFileError, match="plan p1 in the journal"):
        plan_of_text("{", "plan p1 in the journal")


def written(plan: Plan) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(plan_to_json(plan))
    return tree


def test_derived_values_are_written_and_not_believed(tmp_path: Path) -> None:
    tree = written(a_plan())
    assert tree["objective"]["gap_ratio"] == pytest.approx(0.05)
    assert tree["objective"]["captured_ratio"] == pytest.approx(2 / 2.1)
    assert tree["migrations"][0]["predicted"]["finish_seconds"] == 40.0

    tree["objective"]["gap_ratio"] = 0.0
    tree["migrations"][0]["predicted"]["finish_seconds"] = 1.0
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(tree), encoding="utf-8")

    plan = read_plan(path)
    assert plan.objective is not None
    assert plan.objective.gap_ratio == pytest.approx(0.05)
    assert plan.migrations[0].predicted.finish_seconds == 40.0


def test_a_duration_without_an_upper_end_is_null() -> None:
    endless = a_migration(predicted=a_prediction(duration_upper_seconds=math.inf))

    tree = written(a_plan(migrations=(endless,)))

    assert tree["migrations"][0]["predicted"]["duration_upper_seconds"] is None


def test_nan_never_gets_into_a_plan_file() -> None:
    broken = a_migration(predicted=a_prediction(duration_seconds=math.nan))

    with pytest.raises(ValueError, match="not JSON compliant"):
        plan_to_json(a_plan(migrations=(broken,)))


def test_saving_replaces_the_old_plan_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(a_plan(), path)

    write_plan(a_plan(id="plan-2"), path)

    assert read_plan(path).id == "plan-2"
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_that_cannot_be_saved_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()

    with pytest.raises(UsageError, match="cannot save the plan"):
        write_plan(a_plan(), tmp_path / "plan.json")

    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot save the plan"):
        write_plan(a_plan(), tmp_path / "no" / "plan.json")


def only_fault(path: Path) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read_plan(path)
    (fault,) = caught.value.faults
    return str(fault)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_plan_cut_short_is_told_in_one_line(tmp_path: Path, share: float) -> None:
    text = plan_to_json(a_plan()).rstrip()
    path = tmp_path / "plan.json"
    path.write_text(text[: int(len(text) * share)], encoding="utf-8")

    assert str(path) in only_fault(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x7fELF\x02\x01\x01\xff\xfe", "not text"),
        (b"hello", "not valid JSON"),
        (b"{}", "not a plan"),
        (b'{"schema_version": 1, "hosts": [], "vms": [], "cluster": "x"}', "this is a snapshot"),
        (b'{"format_version": "1.2", "resource_changes": []}', "not a plan"),
        (b'{"schema_version": 2, "migrations": []}', "version 2"),
    ],
)
def test_what_is_no_plan_is_told_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)

    assert said in only_fault(path)


def with_migrations(tmp_path: Path, *changed: Migration) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(plan_to_json(a_plan(migrations=changed, commands={})), encoding="utf-8")
    return path


def test_migrations_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    path = with_migrations(
        tmp_path, a_migration(1, depends_on=("m2",)), a_migration(2, depends_on=("m1",))
    )

    assert "wait for each other" in only_fault(path)


def test_waiting_for_a_migration_that_is_not_in_the_plan_is_refused(tmp_path: Path) -> None:
    path = with_migrations(tmp_path, a_migration(1, depends_on=("m7",)))

    assert "no migration is called m7" in only_fault(path)


def test_two_migrations_of_one_name_are_refused(tmp_path: Path) -> None:
    path = with_migrations(tmp_path, a_migration(1), a_migration(1))

    assert "m1 occurs twice" in only_fault(path)


def test_a_migration_to_where_the_vm_is_is_refused(tmp_path: Path) -> None:
    path = with_migrations(tmp_path, a_migration(target=HostId("h1")))

    assert "is the source" in only_fault(path)


def test_a_plan_of_five_thousand_migrations_is_read(tmp_path: Path) -> None:
    many = tuple(
        replace(a_migration(n), depends_on=(f"m{n - 1}",) if n else ()) for n in range(5000)
    )

    path = with_migrations(tmp_path, *many)

    assert len(read_plan(path).migrations) == 5000


def test_instants_keep_their_meaning_in_other_zones(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    text = plan_to_json(a_plan()).replace("2026-11-23T12:00:00+00:00", "2026-11-23T21:00:00+09:00")
    path.write_text(text, encoding="utf-8")

    plan = read_plan(path)

    assert plan.created_at == a_plan().created_at
    assert plan.expires_at - plan.created_at == timedelta(days=1)


@pytest.mark.parametrize("mode", [Mode.COLD, Mode.OFFLINE])
def test_what_sends_no_memory_needs_no_bandwidth(mode: Mode) -> None:
    plan = a_plan(migrations=(a_migration(mode=mode, bytes_per_second=0.0),))

    assert plan_of_text(plan_to_json(plan), "p.json").migrations == plan.migrations


def test_a_plan_keeps_where_memory_is_saved_to() -> None:
    saved = a_migration(mode=Mode.COLD, bytes_per_second=0.0, saved_to="vmstore")
    plan = a_plan(migrations=(saved,))

    assert plan_of_text(plan_to_json(plan), "p.json").migrations == (saved,)


def test_what_sends_memory_needs_bandwidth(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan(a_plan(migrations=(a_migration(bytes_per_second=0.0),)), path)

    assert "migrations[0].bytes_per_second: 0 is too little for live" in only_fault(path)
