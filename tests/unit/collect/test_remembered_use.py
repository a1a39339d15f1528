"""What a Prometheus told before is not asked for again, and is told as if it had been."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.collect.prometheus_source import PrometheusSource, UsageQueries
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.collect.sources import UsageSource
from rebalancer.errors import ObservationError
from tests.builders import NOON
from tests.unit.collect.prometheus_server import FakePrometheus, Samples, Series, serving

A, B, H1 = VmId("a"), VmId("b"), HostId("h1")
STEP, DAY = timedelta(minutes=5), timedelta(days=1)


def a_use(of: int) -> Samples:
    """Two days around noon, with a gap in it, that tell one instant from another."""
    steps = [step for step in range(-400, 400) if step % 50 != of]
    return [((NOON + step * STEP).timestamp(), f"{of + (step + 400) / 1000:.3f}") for step in steps]


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    fake = FakePrometheus(
        series={
            "vm_cpu": [
                Series(labels={"uuid": "a"}, samples=a_use(1)),
                Series(labels={"uuid": "b"}, samples=a_use(2)),
            ],
            "host_cpu": [Series(labels={"instance": "h1"}, samples=a_use(3))],
        }
    )
    with serving(fake):
        yield fake


def a_server(fake: FakePrometheus, **changed: object) -> PrometheusSource:
    facts: dict[str, object] = {
        "hosts": {"h1": H1},
        "queries": UsageQueries(vm_cpu="vm_cpu", host_cpu="host_cpu"),
        "step_seconds": STEP.total_seconds(),
        "timeout_seconds": 30.0,
    }
    return PrometheusSource(url=fake.url, **(facts | changed))  # type: ignore[arg-type]


def a_day(source: UsageSource, until: datetime, *vms: VmId) -> UsageHistory:
    return source.history(vms or (A, B), until - DAY, until)


def asked_seconds(fake: FakePrometheus) -> float:
    """How much time the last question was about."""
    return seconds_of(fake.asked[-1])


def seconds_of(asked: Mapping[str, str]) -> float:
    return float(asked["end"]) - float(asked["start"]) + STEP.total_seconds()


def assert_same(one: UsageHistory, other: UsageHistory) -> None:
    assert (one.start, one.interval_seconds) == (other.start, other.interval_seconds)
    assert one.vm_cpu_cores.keys() == other.vm_cpu_cores.keys()
    assert one.host_cpu_cores.keys() == other.host_cpu_cores.keys()
    for vm, cores in other.vm_cpu_cores.items():
        np.testing.assert_array_equal(one.vm_cpu_cores[vm], cores)
    for host, cores in other.host_cpu_cores.items():
        np.testing.assert_array_equal(one.host_cpu_cores[host], cores)


@pytest.mark.parametrize("steps", [0, 1, 7, 70])
def test_the_past_is_told_in_full_and_asked_for_in_part(
    prometheus: FakePrometheus, steps: int
) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    first = a_day(memory.of(server), NOON)
    kept = first.vm_cpu_cores[A].copy()

    later = a_day(memory.of(server), NOON + steps * STEP)

    assert asked_seconds(prometheus) == (12 + steps) * STEP.total_seconds()
    assert_same(later, a_day(server, NOON + steps * STEP))
    np.testing.assert_array_equal(first.vm_cpu_cores[A], kept)


def test_it_goes_on_from_cycle_to_cycle(prometheus: FakePrometheus) -> None:
    memory, server = UseMemory(), a_server(prometheus)

    told = [a_day(memory.of(server), NOON + step * STEP) for step in range(10)]

    assert asked_seconds(prometheus) == 13 * STEP.total_seconds()
    assert_same(told[-1], a_day(server, NOON + 9 * STEP))


def test_samples_that_come_late_are_seen(prometheus: FakePrometheus) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    everything = prometheus.series["vm_cpu"][0].samples
    late = Series(labels={"uuid": "a"}, samples=everything[:-399])
    prometheus.series["vm_cpu"][0] = late
    assert np.isnan(a_day(memory.of(server), NOON).vm_cpu_cores[A][-5:]).all()
    prometheus.series["vm_cpu"][0] = Series(labels={"uuid": "a"}, samples=everything)

    later = a_day(memory.of(server), NOON + STEP)

    assert_same(later, a_day(server, NOON + STEP))


def test_of_a_vm_that_comes_only_its_own_past_is_read(prometheus: FakePrometheus) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    a_day(memory.of(server), NOON, A)

    later = a_day(memory.of(server), NOON + STEP, A, B)

    _, hosts, of_b, new, _ = prometheus.asked
    assert hosts["query"] == "host_cpu"
    assert '"uuid", "b"' in of_b["query"]
    assert '"uuid", "a"' not in of_b["query"]
    assert new["query"] == "vm_cpu"
    assert seconds_of(new) == 13 * STEP.total_seconds()
    assert_same(later, a_day(server, NOON + STEP, A, B))


def test_it_goes_on_with_vms_that_come_and_go(prometheus: FakePrometheus) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    present = [(A,), (A, B), (B,), (B, A), (A,), (A, B)]

    for step, vms in enumerate(present):
        told = a_day(memory.of(server), NOON + step * STEP, *vms)

        assert told.vm_cpu_cores.keys() == set(vms)
        assert_same(told, a_day(server, NOON + step * STEP, *vms))


def test_of_a_vm_that_the_server_does_not_know_nothing_is_known(
    prometheus: FakePrometheus,
) -> None:
    memory, server, stranger = UseMemory(), a_server(prometheus), VmId("c")
    a_day(memory.of(server), NOON, A)

    told = a_day(memory.of(server), NOON, A, stranger)

    assert_same(told, a_day(server, NOON, A, stranger))
    assert np.isnan(told.vm_cpu_cores[stranger]).all()


@pytest.mark.parametrize(
    "strangers",
    [
        pytest.param([f"vm{number}" for number in range(33)], id="many"),
        pytest.param(['"} or up or {x="'], id="no name for a query"),
    ],
)
def test_for_some_new_vms_all_is_read(prometheus: FakePrometheus, strangers: list[str]) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    a_day(memory.of(server), NOON, A)

    told = a_day(memory.of(server), NOON, A, *map(VmId, strangers))

    assert asked_seconds(prometheus) == DAY.total_seconds()
    assert_same(told, a_day(server, NOON, A, *map(VmId, strangers)))


def test_a_server_that_minds_the_question_for_a_few_is_asked_for_all(
    prometheus: FakePrometheus,
) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    a_day(memory.of(server), NOON, A)
    prometheus.refuses = "label_replace"

    told = a_day(memory.of(server), NOON, A, B)

    assert asked_seconds(prometheus) == DAY.total_seconds()
    assert_same(told, a_day(server, NOON, A, B))


@pytest.mark.parametrize(
    "until",
    [
        pytest.param(NOON + timedelta(hours=6), id="after six hours"),
        pytest.param(NOON - STEP, id="the clock was set back"),
        pytest.param(NOON + STEP / 2, id="another grid"),
        pytest.param(NOON + 3 * DAY, id="nothing known is of the time"),
    ],
)
def test_what_does_not_go_on_is_read_anew(prometheus: FakePrometheus, until: datetime) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    a_day(memory.of(server), NOON)

    later = a_day(memory.of(server), until)

    assert asked_seconds(prometheus) == DAY.total_seconds()
    assert_same(later, a_day(server, until))


def test_what_another_server_or_query_told_is_not_taken(prometheus: FakePrometheus) -> None:
    memory = UseMemory()
    a_day(memory.of(a_server(prometheus)), NOON)
    mended = a_server(prometheus, queries=UsageQueries(vm_cpu="vm_cpu", host_cpu=None))

    later = a_day(memory.of(mended), NOON)

    assert asked_seconds(prometheus) == DAY.total_seconds()
    assert_same(later, a_day(mended, NOON))


def test_a_server_that_was_away_is_asked_from_where_it_left(prometheus: FakePrometheus) -> None:
    memory, server = UseMemory(), a_server(prometheus)
    a_day(memory.of(server), NOON)
    prometheus.status, prometheus.body = 503, "restarting"
    with pytest.raises(ObservationError, match="restarting"):
        a_day(memory.of(server), NOON + 6 * STEP)
    prometheus.status, prometheus.body = 200, None

    later = a_day(memory.of(server), NOON + 24 * STEP)

    assert asked_seconds(prometheus) == 36 * STEP.total_seconds()
    assert_same(later, a_day(server, NOON + 24 * STEP))


def test_a_step_that_does_not_divide_an_hour_is_no_trouble(prometheus: FakePrometheus) -> None:
    seven = timedelta(minutes=7)
    server = a_server(prometheus, step_seconds=seven.total_seconds())
    memory = UseMemory()
    memory.of(server).history([A], NOON - 100 * seven, NOON)

    later = memory.of(server).history([A], NOON - 99 * seven, NOON + seven)

    assert float(prometheus.asked[-1]["start"]) == (NOON - 8 * seven).timestamp()
    assert_same(later, server.history([A], NOON - 99 * seven, NOON + seven))
