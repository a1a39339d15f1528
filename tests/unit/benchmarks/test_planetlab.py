"""The PlanetLab benchmark shares CPU, moves, counts and decides as CloudSim's power examples do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planetlab import POLICY_FILES, main
from benchmarks.planetlab_accounts import Result, share_above
from benchmarks.planetlab_baselines import (
    Draft,
    added,
    dvfs,
    first_fit,
    is_overloaded_soon,
    least_power,
    line_through,
    thr_mmt,
)
from benchmarks.planetlab_hardware import migration_seconds, watts
from benchmarks.planetlab_world import Move, Rules, Traces, World, simulate

BIG, LARGE, MIDDLE, SMALL = range(4)
"""With four VMs there is one of each kind: 2500, 2000, 1000 and 500 MIPS."""
G4, G5 = 0, 1


def a_world(
    *rows: Sequence[int], on: Sequence[int], hosts: int = 4, rules: Rules | None = None
) -> World:
    """Give each VM a host, and a row of per cents for each time."""
    traces = Traces.of([f"vm{n}" for n in range(len(on))], rows)
    world = World(traces, rules or Rules(), hosts)
    for vm, host in enumerate(on):
        world.create(vm, host)
    return world


def at(world: World, seconds: float) -> World:
    world.advance(seconds)
    return world


def test_demand_lies_on_a_line_between_samples() -> None:
    traces = Traces.of(["a"], [[10], [20], [40]])

    shares = [float(traces.at(seconds)[0]) for seconds in (0.0, 300.0, 450.0, 900.0)]

    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_watts_lie_on_lines_between_tenths_of_load() -> None:
    drawn = watts(np.array([G4, G4, G5, G5]), np.array([0.0, 0.05, 0.1, 1.0]))

    assert drawn.tolist() == pytest.approx([86.0, 87.7, 97.0, 135.0])


def test_memory_decides_how_long_a_migration_takes() -> None:
    assert migration_seconds(870) == pytest.approx(13.92)


def test_a_vm_gets_no_more_than_one_core_of_its_host() -> None:
    world = at(a_world([100] * 4, [100] * 4, [100] * 4, on=[0, 1, 1, 1]), 300.0)

    assert world.given[BIG] == 1860.0
    assert world.given[LARGE] == 2000.0


def test_a_host_that_is_asked_for_too_much_cuts_everybody_by_the_same_share() -> None:
    world = at(a_world([100] * 4, [100] * 4, [100] * 4, on=[1, 1, 1, 3]), 300.0)

    scale = 5320 / 5500
    assert world.given[:3].tolist() == [float(int(mips * scale)) for mips in (2500, 2000, 1000)]


def test_a_vm_on_its_way_takes_a_tenth_on_the_target_and_loses_a_tenth() -> None:
    world = at(a_world([50] * 4, [50] * 4, [50] * 4, on=[1, 1, 1, 1]), 300.0)

    world.begin([(MIDDLE, 3)])

    assert world.given[MIDDLE] == pytest.approx(450.0)
    assert world.host_given[3] == pytest.approx(50.0)
    assert world.host_given[1] == pytest.approx(3000.0)


def test_moves_arrive_in_groups_the_smallest_memory_first() -> None:
    world = at(a_world([50] * 4, [50] * 4, [50] * 4, on=[1, 1, 1, 1]), 300.0)

    arrivals = world.begin([(LARGE, 3), (BIG, 3), (MIDDLE, 3), (SMALL, 3)])

    assert [moves for _, moves in arrivals] == [
        [(SMALL, 3)],
        [(BIG, 3)],
        [(LARGE, 3), (MIDDLE, 3)],
    ]


def test_a_vm_that_was_sent_twice_ends_on_the_last_host() -> None:
    world = at(a_world([50] * 4, [50] * 4, [50] * 4, on=[1, 1, 1, 1]), 300.0)

    ((when, moves),) = world.begin([(SMALL, 3), (SMALL, 0)])
    world.advance(when)
    world.arrive(moves)

    assert world.lists == [[SMALL], [BIG, LARGE, MIDDLE], [], []]


def test_a_vm_that_asks_for_nothing_is_deleted_unless_the_rules_keep_it() -> None:
    rows = ([50] * 4, [50, 50, 50, 0], [50, 50, 50, 0])

    deleted = at(a_world(*rows, on=[1, 1, 1, 0]), 300.0)
    kept = at(a_world(*rows, on=[1, 1, 1, 0], rules=Rules(keeps_idle_vms=True)), 300.0)

    assert deleted.is_alive.tolist() == [True, True, True, False]
    assert kept.is_alive.all()
    assert deleted.is_on().tolist() == [False, True, False, False]
    assert kept.is_on().tolist() == [True, True, False, False]


def test_the_share_of_time_above_a_limit_goes_by_where_the_line_crosses_it() -> None:
    begin, end = np.array([0.0, 4.0, 3.0, 1.0]), np.array([4.0, 0.0, 4.0, 1.0])

    assert share_above(begin, end, np.full(4, 2.0)).tolist() == [0.5, 0.5, 1.0, 0.0]


def a_quiet_day(*, moves: Sequence[Move] = (), rules: Rules | None = None) -> Result:
    """Let every VM use half of itself; `moves` are made at the first of three decisions."""
    world = a_world(*[[50] * 4] * 4, on=[1, 1, 1, 1], rules=rules)
    return simulate(world, lambda world: moves if world.now < 400 else ())


def test_energy_counts_from_the_first_decision_to_the_last() -> None:
    result = a_quiet_day()

    load = 3000 / 5320
    drawn = 116 + (121 - 116) * (load - 0.5) * 10
    assert result.energy_kwh == pytest.approx(drawn * 600 / 3.6e6)
    assert result.shutdowns == 3
    assert result.mean_hosts_on == 1


def test_a_migration_violates_its_target_for_as_long_as_it_takes() -> None:
    result = a_quiet_day(moves=[(SMALL, 3)])

    assert result.migrations == 1
    assert result.slatah == pytest.approx(9.808 / 1200)
    assert result.pdm == pytest.approx(25 * 9.808 / (3000 * 600))
    assert result.slav == pytest.approx(result.slatah * result.pdm)
    assert result.overload_event == 0


def test_true_overload_is_what_running_vms_ask_for_beyond_their_host() -> None:
    world = a_world([50] * 4, [50] * 4, [100] * 4, on=[1, 1, 1, 1])

    result = simulate(world, dvfs)

    assert result.overload_event == 0
    assert result.overload_sampled == 0.5
    # From 3000 to 6000 MIPS, all but the bit of the rise that the clock shows early.
    assert result.overload_continuous == pytest.approx(1 - 2320 / 3000, abs=1e-3)


def test_too_much_memory_on_a_host_is_told() -> None:
    assert a_quiet_day().memory_violations == 1.0


def test_first_fit_fills_hosts_from_the_front() -> None:
    world = World(Traces.of(["a", "b", "c", "d"], [[50] * 4] * 3), Rules(), 4)

    first_fit(world)

    assert world.where.tolist() == [1, 1, 0, 0]


def test_least_power_spreads_as_it_takes_every_host_for_idle() -> None:
    world = World(Traces.of(["a", "b", "c", "d"], [[50] * 4] * 3), Rules(), 6)

    least_power(world)

    assert len(set(world.where.tolist())) == 4


def test_a_vm_that_fits_nowhere_is_named() -> None:
    world = World(Traces.of(["a", "b", "c", "d"], [[50] * 4] * 3), Rules(), 1)

    with pytest.raises(ValueError, match="VM 0"):
        first_fit(world)


def test_numbers_are_added_from_the_left_and_rounded_each_time() -> None:
    assert added([1e16, 1.0, 1.0]) == 1e16


def test_a_line_is_found_again() -> None:
    intercept, slope = line_through([2.0 + 0.5 * x for x in range(1, 11)])

    assert (intercept, slope) == pytest.approx((2.0, 0.5))


@pytest.mark.parametrize(("step", "is_over"), [(0, False), (7, True)])
def test_the_line_foresees_an_overload_that_is_not_there_yet(step: int, is_over: bool) -> None:
    world = a_world(*([30 + step * k] * 4 for k in range(12)), on=[1, 1, 3, 3])
    world.history = [world.traces.at(300.0 * k) for k in range(1, 11)]

    draft = Draft(at(world, 3000.0))

    assert is_overloaded_soon(draft, 1) == is_over


def test_the_least_loaded_host_is_emptied_onto_one_that_is_on() -> None:
    world = at(a_world([20] * 4, [20] * 4, [20] * 4, on=[1, 1, 1, 3]), 300.0)

    assert thr_mmt(world) == [(SMALL, 1)]


def test_memory_keeps_a_host_from_being_emptied_where_it_counts() -> None:
    rules = Rules(keeps_idle_vms=True, respects_memory=True)
    world = at(a_world([20] * 4, [20] * 4, [20] * 4, on=[1, 1, 3, 3], rules=rules), 300.0)
    # 870 + 1740 MB are on host 1 and 1740 + 613 MB on host 3, of 4096 MB each.

    assert thr_mmt(world) == []


def test_the_vm_with_the_least_memory_leaves_an_overloaded_host() -> None:
    world = at(a_world([75] * 4, [75] * 4, [75] * 4, on=[1, 1, 1, 1]), 300.0)

    assert thr_mmt(world)[0][0] == SMALL


# The program --------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [[20, 30, 40, 50], [25, 30, 35, 50], [20, 30, 40, 55], [20, 30, 40, 50]]
    lines = ["a,b,c,d", *(",".join(map(str, row)) for row in rows)]
    with gzip.open(tmp_path / "20110303.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return tmp_path


def test_every_number_is_in_the_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(data), "--day", "20110303", "--policy", "thr-mmt", "--json"]

    assert main(given) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["day"], found["track"], found["policy"]) == ("20110303", "A", "thr-mmt")
    assert found["migrations"] > 0
    assert {"energy_kwh", "slatah", "pdm", "slav", "esv", "shutdowns"} < found.keys()
    assert "memory counts at creation only" in found["rules"]


def test_our_own_day_tells_its_rules_its_policy_and_its_pace(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--day", "20110303", "--policy", "ours", "--track", "B"]

    assert main(given) == 0

    said = capsys.readouterr().out
    assert "track B, ours (idle VMs stay and keep their host on; memory counts)" in said
    assert "cycles             median" in said
    assert "policy             planetlab-memory.yaml" in said


def test_another_policy_file_can_be_taken_on_either_track(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--day", "20110303", "--policy", "ours"]
    other = ["--track", "B", "--policy-file", str(POLICY_FILES["A"])]

    assert main(given) == 0
    assert main([*given, *other]) == 0

    assert capsys.readouterr().out.count("policy             planetlab.yaml") == 2


def test_only_the_beginning_of_a_day_can_be_run(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--day", "20110303", "--policy", "dvfs", "--samples"]

    assert main([*given, "2"]) == 64
    assert "3 are needed" in capsys.readouterr().out
    assert main([*given, "3"]) == 0


def test_a_day_that_is_not_there_is_told_with_those_that_are(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(data), "--day", "2011", "--policy", "dvfs"]

    assert main(given) == 64

    assert "expected 20110303" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n5,6\n", "line 3: 1 values for 2 VMs"),
        ("a,b\n1,2\n3,x\n5,6\n", "line 3: 'x' is not a whole per cent"),
        ("a,b\n1,2\n3,101\n5,6\n", "line 3: '101' is not a whole per cent"),
        ("a,b\n1,2\n", "1 samples, 3 are needed"),
        ("", "0 samples"),
    ],
)
def test_a_table_that_is_not_right_is_refused_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    with gzip.open(tmp_path / "20110303.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)

    assert main(["--data", str(tmp_path), "--day", "20110303", "--policy", "dvfs"]) == 64

    assert said in capsys.readouterr().out


def test_a_file_that_is_not_compressed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "20110303.csv.gz").write_text("a,b")

    assert main(["--data", str(tmp_path), "--day", "20110303", "--policy", "dvfs"]) == 64

    assert "gzip" in capsys.readouterr().out
