"""Who is measured before a move, what is remembered, and what is not believed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rebalancer.cluster.inventory import Snapshot, Vm, VmId, VmState
from rebalancer.cluster.plan import Objective, Placement, SolveStatus
from rebalancer.collect.sources import DirtyRate
from rebalancer.service.cycle import Request, measured
from rebalancer.service.dirty_rates import Measurement, RememberedRates, checked, with_rates
from rebalancer.service.telemetry_format import DirtyRateSettings
from tests.builders import GIB, MIB, NOON, a_snapshot, a_vm

DB, WEB = VmId("db"), VmId("web")


def a_rate(mib: float, error_mib: float = 0.0, minutes_ago: float = 0.0) -> DirtyRate:
    return DirtyRate(
        bytes_per_second=mib * MIB,
        working_set_bytes=64 * MIB,
        measured_at=NOON - timedelta(minutes=minutes_ago),
        error_bytes_per_second=error_mib * MIB,
    )


class Probe:
    """Finds 10 MiB/s everywhere, and notes whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[VmId] = []

    def probe(self, vms: Collection[VmId]) -> Mapping[VmId, DirtyRate]:
        self.asked += vms
        return {vm: a_rate(10) for vm in vms}


class Bench:
    """A measurement with a journal of its own."""

    def __init__(self, folder: Path, at_least: Mapping[VmId, float] | None = None) -> None:
        self.probe = Probe()
        self.said: list[str] = []
        self.url = f"sqlite:///{folder}/journal.db"
        self.measurement = Measurement(
            cluster="test",
            settings=DirtyRateSettings(),
            now=NOON,
            probe=lambda: self.probe,
            url=self.url,
            past=lambda: at_least or {},
            say=self.said.append,
        )

    def measure(self, snapshot: Snapshot, *vms: VmId, anew: bool = False) -> Mapping[VmId, Vm]:
        return self.measurement.of(snapshot, vms, anew=anew).vm_by_id

    def remember(self, **rates: DirtyRate) -> None:
        with RememberedRates.open(self.url) as remembered:
            remembered.keep(
                "test", {VmId(vm): rate for vm, rate in rates.items()}, oldest=NOON - timedelta(30)
            )


def test_only_those_that_are_to_move_are_measured_and_those_with_most_memory_first(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    vms = [a_vm("db", memory_bytes=GIB), a_vm("web", memory_bytes=8 * GIB)]
    vms.append(a_vm("other", dirty_bytes_per_second=None))

    found = bench.measure(a_snapshot(vms=vms), DB, WEB)

    assert bench.probe.asked == [WEB, DB]
    assert found[DB].dirty_bytes_per_second == 10 * MIB
    assert found[VmId("other")].dirty_bytes_per_second is None
    assert bench.said == ["measuring how fast 2 VMs write: 7.0 s or so"]


def test_what_is_fresh_is_not_measured_again_unless_somebody_asks(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.remember(db=a_rate(3, minutes_ago=10), web=a_rate(3, minutes_ago=40))
    snapshot = a_snapshot(vms=[a_vm("db"), a_vm("web")])

    bench.measure(snapshot, DB, WEB)
    assert bench.probe.asked == [WEB]
    bench.measure(snapshot, DB, WEB)
    assert bench.probe.asked == [WEB]
    bench.measure(snapshot, DB, WEB, anew=True)
    assert bench.probe.asked == [WEB, DB, WEB]


def test_guests_that_stand_still_or_are_busy_with_something_are_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    paused = replace(a_vm("db"), state=VmState.PAUSED)
    busy = replace(a_vm("web"), blockers=("it is being migrated",))

    bench.measure(a_snapshot(vms=[paused, busy]), DB, WEB)

    assert bench.probe.asked == []


def test_what_was_measured_long_ago_counts_as_uncertain_by_half() -> None:
    snapshot = a_snapshot(vms=[a_vm("db"), a_vm("web")])
    rates = {DB: a_rate(8, error_mib=1, minutes_ago=10), WEB: a_rate(8, 1, minutes_ago=90)}

    found = with_rates(snapshot, rates, NOON, fresh_seconds=1800).vm_by_id

    assert found[DB].dirty_error_bytes_per_second == 1 * MIB
    assert found[WEB].dirty_error_bytes_per_second == 4 * MIB
    assert found[WEB].dirty_bytes_per_second == 8 * MIB


def test_a_rate_far_below_what_a_vm_was_seen_to_write_is_not_believed() -> None:
    seen = {DB: 100.0 * MIB, WEB: 100.0 * MIB}

    found = checked({DB: a_rate(0, error_mib=1), WEB: a_rate(70, error_mib=5)}, seen)

    assert found[WEB] == a_rate(70, error_mib=5)
    assert found[DB].bytes_per_second == 100 * MIB
    assert found[DB].working_set_bytes is None


def test_a_journal_from_before_has_nothing_to_say(tmp_path: Path) -> None:
    with RememberedRates.open(f"sqlite:///{tmp_path}/journal.db") as remembered:
        assert remembered.of("test", since=NOON - timedelta(30)) == {}


def test_rates_of_other_clusters_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    with RememberedRates.open(f"sqlite:///{tmp_path}/journal.db") as remembered:
        remembered.keep("test", {DB: a_rate(1, minutes_ago=100)}, oldest=NOON - timedelta(30))
        remembered.keep("other", {WEB: a_rate(2)}, oldest=NOON - timedelta(hours=1))

        assert remembered.of("test", since=NOON - timedelta(30)) == {}
        assert set(remembered.of("other", since=NOON - timedelta(30))) == {WEB}


def test_a_cycle_asks_for_the_vms_that_its_placement_moves_and_no_others() -> None:
    asked: list[VmId] = []

    def measure(snapshot: Snapshot, vms: Collection[VmId]) -> Snapshot:
        asked.extend(vms)
        return snapshot

    snapshot = a_snapshot(vms=[a_vm("db"), a_vm("web")])
    placement = Placement(
        assignment={**snapshot.assignment, DB: snapshot.hosts[1].id},
        objective=Objective(
            before=1.0, after=0.5, bound=0.5, status=SolveStatus.OPTIMAL, solve_seconds=0.0
        ),
    )
    request = Request(
        plan_id="p",
        creator="ada",
        now=NOON,
        ttl_seconds=60.0,
        solve_seconds=1.0,
        seconds_passed=lambda: 0.0,
        uris={},
        measure=measure,
    )

    measured(snapshot, placement, request)

    assert asked == [DB]
