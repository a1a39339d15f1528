"""Laws of switching hosts, for machines that misbehave and processes that die."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from rebalancer.cluster.demand import Demand
from rebalancer.cluster.inventory import Host, HostId, HostState, Snapshot
from rebalancer.cluster.policy import PowerGoal
from rebalancer.cluster.power import awake_needs
from rebalancer.forecast.demand import forecast_demand
from rebalancer.rollout.power import Census, CutPower, NoCensus, PowerState
from rebalancer.rollout.power_executor import settle, sleep, wake
from rebalancer.rollout.power_guard import PowerScene, reasons_to_stay_awake
from rebalancer.rollout.power_steps import (
    TRANSITIONS,
    Phase,
    PowerMark,
    PowerSight,
    PowerTimes,
    Unneeded,
    counted,
    next_mark,
)
from tests.builders import NOON, a_host, a_policy, a_snapshot, a_vm
from tests.machines import Crash, Machine, a_room
from tests.property.laws import law

H1 = HostId("h1")
TIMES = PowerTimes(boot_seconds=300, shutdown_seconds=300)

guests = st.sampled_from([NoCensus(host=H1, why="silent"), Census(host=H1)])
sights = st.builds(PowerSight, power=st.sampled_from(PowerState), guests=guests)
marks = st.builds(
    PowerMark,
    host=st.just(H1),
    phase=st.sampled_from(Phase),
    since=st.just(NOON),
    told=st.booleans(),
)
ages = st.floats(0, 1000, allow_nan=False)


@given(mark=marks, sight=sights, age=ages)
def test_a_look_leads_only_where_the_table_allows(
    mark: PowerMark, sight: PowerSight, age: float
) -> None:
    after = next_mark(mark, sight, NOON + timedelta(seconds=age), TIMES)

    phase = after.phase if after is not None else None
    assert phase is mark.phase or phase in TRANSITIONS[mark.phase]


@given(mark=marks, sight=sights, age=ages)
def test_a_host_is_awake_only_if_its_libvirt_answers(
    mark: PowerMark, sight: PowerSight, age: float
) -> None:
    after = next_mark(mark, sight, NOON + timedelta(seconds=age), TIMES)

    assert after is not None or sight.answers


@given(mark=marks, sight=sights, age=ages)
def test_a_host_falls_asleep_only_if_its_power_is_off_and_its_libvirt_silent(
    mark: PowerMark, sight: PowerSight, age: float
) -> None:
    after = next_mark(mark, sight, NOON + timedelta(seconds=age), TIMES)

    if after is not None and after.phase is Phase.ASLEEP and mark.phase is not Phase.ASLEEP:
        assert sight.power is PowerState.OFF
        assert not sight.answers


@given(mark=marks, sight=sights)
def test_nobody_waits_for_ever(mark: PowerMark, sight: PowerSight) -> None:
    after = next_mark(mark, sight, NOON + timedelta(seconds=300), TIMES)

    assert after is None or after.phase in (Phase.ASLEEP, Phase.QUARANTINED, Phase.WAKING)
    if mark.phase in (Phase.WAKING, Phase.FALLING_ASLEEP):
        assert after is None or after.phase in (Phase.ASLEEP, Phase.QUARANTINED)


@given(mark=marks, guests=guests, age=st.floats(0, 299))
def test_a_host_on_its_way_up_that_answers_before_it_is_said_to_be_on_is_looked_at_again(
    mark: PowerMark, guests: Census | NoCensus, age: float
) -> None:
    """Power is asked first: the host may have come up between the two questions."""
    waking = replace(mark, phase=Phase.WAKING)
    sight = PowerSight(power=PowerState.OFF, guests=guests)

    assert next_mark(waking, sight, NOON + timedelta(seconds=age), TIMES) == waking


machines = st.builds(
    Machine,
    boots=st.booleans(),
    shuts_down=st.booleans(),
    takes_commands=st.booleans(),
    tells_power=st.booleans(),
    libvirt_hangs=st.booleans(),
    guests=st.sampled_from([[], ["db1"]]).map(list),
    busy=st.sampled_from([[], ["db1"]]).map(list),
)


@law(0.8)
@example(
    machine=Machine(
        boots=False,
        shuts_down=True,
        takes_commands=True,
        tells_power=True,
        libvirt_hangs=False,
        guests=[],
        busy=[],
    ),
    acts=["sleep", "wake", "start"],
    dies_at=4,
    cuts=False,
)
@given(
    machine=machines,
    acts=st.lists(st.sampled_from(["sleep", "wake", "settle", "wait", "start"]), max_size=6),
    dies_at=st.integers(0, 25),
    cuts=st.booleans(),
)
def test_no_guest_loses_its_power_and_every_host_ends_in_a_named_state(
    machine: Machine, acts: list[str], dies_at: int, cuts: bool
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        a_room(Path(folder), h1=replace(machine)) as room,
    ):
        left = [dies_at]

        def die(_: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Crash

        room.machines.before_each = die
        room.journal.before_each = die
        tools = room.tools(cuts_power=cuts)

        def only_the_empty(found: Census | NoCensus) -> tuple[str, ...]:
            is_empty = isinstance(found, Census) and found.is_empty
            return () if is_empty else ("it may not be empty",)

        def start_a_guest() -> None:
            # What is placed by us never goes to a host with a mark.
            if room.phase("h1") == "awake" and room.machines["h1"].is_on:
                room.machines["h1"].guests.append("new")

        do: dict[str, Callable[[], object]] = {
            "sleep": lambda: sleep(a_host("h1"), tools, only_the_empty),
            "wake": lambda: wake(H1, tools),
            "settle": lambda: settle(tools),
            "wait": lambda: room.clock.sleep(400),
            "start": start_a_guest,
        }
        for act in acts:
            with suppress(Crash):
                do[act]()

        left[0] = 0
        for _ in range(3):
            settle(tools)
            room.clock.sleep(400)
        assert room.machines["h1"].lost == []
        assert room.phase("h1") in ("awake", "asleep", "quarantined")
        if not cuts:
            assert CutPower(host=H1) not in room.machines.told


states = st.sampled_from(
    [HostState.UP, HostState.UP, *HostState]  # mostly up
)


@given(
    states=st.lists(states, min_size=1, max_size=6),
    marked=st.sets(st.integers(0, 5)),
    min_awake=st.integers(1, 4),
    vms=st.lists(st.integers(0, 5), max_size=8),
    at=st.integers(0, 5),
)
def test_minimum_awake_is_never_undercut_and_hosts_in_doubt_count_for_nothing(
    states: list[HostState], marked: set[int], min_awake: int, vms: list[int], at: int
) -> None:
    hosts = [a_host(f"h{n}", state=state) for n, state in enumerate(states)]
    on = [f"h{n % len(hosts)}" for n in vms]
    snapshot = a_snapshot(hosts, [a_vm(f"vm{n}", on=host) for n, host in enumerate(on)])
    scene = _scene(snapshot, forecast_demand(snapshot), min_awake, marked)
    host = hosts[at % len(hosts)]

    if reasons_to_stay_awake(host, scene, Census(host=host.id)):
        return

    left = {
        h.id
        for h in hosts
        if h.state is HostState.UP and h.id != host.id and h.id not in scene.marks
    }
    assert host.state is HostState.UP
    assert host.id not in scene.marks
    assert len(left) >= min_awake
    assert not any(vm.host == host.id for vm in snapshot.vms)
    goal = PowerGoal(min_awake=min_awake)
    needs = awake_needs(snapshot, scene.policy, goal, scene.demand)
    assert all(need.surplus(left) >= 0 for need in needs)


def _scene(snapshot: Snapshot, demand: Demand, min_awake: int, marked: set[int]) -> PowerScene:
    known: list[Host] = [host for host in snapshot.hosts if int(host.id[1:]) in marked]
    return PowerScene(
        snapshot=snapshot,
        demand=demand,
        policy=a_policy(goals=(PowerGoal(min_awake=min_awake),)),
        marks={
            host.id: PowerMark(host=host.id, phase=Phase.QUARANTINED, since=NOON) for host in known
        },
    )


@given(gaps=st.lists(st.floats(0, 5000, allow_nan=False), max_size=12))
def test_cycles_are_counted_only_in_a_row_and_not_twice(gaps: list[float]) -> None:
    now, kept = NOON, dict[HostId, Unneeded]()
    for gap in gaps:
        now += timedelta(seconds=gap)
        kept = counted(kept, [H1], now, at_least_seconds=150, at_most_seconds=3600)

    if gaps:
        broken = max((n for n, gap in enumerate(gaps) if gap > 3600), default=0)
        span = sum(gaps[broken + 1 :])
        assert 1 <= kept[H1].cycles <= 1 + span / 150
    assert counted(kept, [], now, at_least_seconds=150, at_most_seconds=3600) == {}
