"""Past use from a Prometheus on a real socket, and what an operator is told when it fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest

from rebalancer.cluster.inventory import HostId, UsageHistory, VmId
from rebalancer.collect.prometheus_source import (
    MOST_SAMPLES_AT_ONCE,
    PrometheusSource,
    UsageQueries,
    without_password,
)
from rebalancer.errors import ObservationError
from tests.builders import NOON
from tests.unit.collect.prometheus_server import FakePrometheus, Samples, Series, serving

A, B, H1, H2 = VmId("a"), VmId("b"), HostId("h1"), HostId("h2")
STEP = 60.0
HOUR = timedelta(hours=1)


def at(*minutes_and_values: tuple[int, str]) -> Samples:
    """Samples that end so many minutes after noon."""
    return [(NOON.timestamp() + 60 * minute, value) for minute, value in minutes_and_values]


def of_vm(uuid: str, samples: Samples) -> Series:
    return Series(labels={"uuid": uuid}, samples=samples)


def of_host(instance: str, samples: Samples) -> Series:
    return Series(labels={"instance": instance}, samples=samples)


@pytest.fixture
def prometheus() -> Iterator[FakePrometheus]:
    with serving(FakePrometheus()) as fake:
        yield fake


def a_source(url: str, **changed: object) -> PrometheusSource:
    facts: dict[str, object] = {
        "hosts": {"h1": H1, "h2": H2},
        "queries": UsageQueries(vm_cpu="vm_cpu[$window]", host_cpu="host_cpu[$window]"),
        "step_seconds": STEP,
        "timeout_seconds": 30.0,
    }
    return PrometheusSource(url=url, **(facts | changed))  # type: ignore[arg-type]


def five_minutes(source: PrometheusSource) -> UsageHistory:
    return source.history([A, B], NOON, NOON + timedelta(minutes=5))


def refusal(source: PrometheusSource) -> str:
    with pytest.raises(ObservationError) as caught:
        five_minutes(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_sample_is_of_the_time_before_it(prometheus: FakePrometheus) -> None:
    prometheus.series = {"vm_cpu": [of_vm("a", at((1, "0.5"), (2, "0.25"), (5, "1")))]}

    usage = five_minutes(a_source(prometheus.url))

    assert (usage.start, usage.interval_seconds) == (NOON, STEP)
    np.testing.assert_array_equal(usage.vm_cpu_cores[A], [0.5, 0.25, np.nan, np.nan, 1.0])
    assert prometheus.asked[0]["query"] == "vm_cpu[60s]"


def test_a_vm_of_which_nothing_is_known_has_gaps_only(prometheus: FakePrometheus) -> None:
    usage = five_minutes(a_source(prometheus.url))

    assert np.isnan(usage.vm_cpu_cores[B]).all()
    assert np.isnan(usage.host_cpu_cores[H2]).all()


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-0.5"])
def test_what_is_no_use_of_a_cpu_is_a_gap(prometheus: FakePrometheus, value: str) -> None:
    prometheus.series = {"vm_cpu": [of_vm("a", at((1, value), (2, "1")))]}

    usage = five_minutes(a_source(prometheus.url))

    np.testing.assert_array_equal(usage.vm_cpu_cores[A][:2], [np.nan, 1.0])


@pytest.mark.parametrize("called", ["h1", "h1:9100", "h1.example.org:9100", "h1.example.org"])
def test_a_host_is_known_by_any_form_of_its_name(prometheus: FakePrometheus, called: str) -> None:
    prometheus.series = {"host_cpu": [of_host(called, at((1, "7")))]}

    assert five_minutes(a_source(prometheus.url)).host_cpu_cores[H1][0] == 7.0


def test_a_host_can_be_known_by_its_address(prometheus: FakePrometheus) -> None:
    prometheus.series = {
        "host_cpu": [
            of_host("10.0.0.1:9100", at((1, "7"))),
            of_host("[fd00::2]:9100", at((1, "8"))),
        ]
    }
    source = a_source(prometheus.url, hosts={"10.0.0.1": H1, "fd00::2": H2})

    cores = five_minutes(source).host_cpu_cores

    assert (cores[H1][0], cores[H2][0]) == (7.0, 8.0)


def test_a_host_of_the_same_name_elsewhere_is_not_taken_for_ours(
    prometheus: FakePrometheus,
) -> None:
    prometheus.series = {
        "host_cpu": [
            of_host("h1.elsewhere.org:9100", at((1, "5"))),
            of_host("h1:9100", at((1, "7"))),
        ]
    }

    assert five_minutes(a_source(prometheus.url)).host_cpu_cores[H1][0] == 7.0


def test_two_series_of_one_vm_are_the_parts_of_its_use(prometheus: FakePrometheus) -> None:
    before = Series(labels={"uuid": "a", "instance": "h1"}, samples=at((1, "1"), (2, "0.75")))
    after = Series(labels={"uuid": "a", "instance": "h2"}, samples=at((2, "0.25"), (3, "1")))
    prometheus.series = {"vm_cpu": [before, after]}

    cores = five_minutes(a_source(prometheus.url)).vm_cpu_cores[A]

    np.testing.assert_array_equal(cores[:3], [1.0, 1.0, 1.0])


def test_vms_and_hosts_of_others_are_left_out(prometheus: FakePrometheus) -> None:
    prometheus.series = {
        "vm_cpu": [of_vm("stranger", at((1, "1")))],
        "host_cpu": [of_host("elsewhere", at((1, "1")))],
    }

    usage = five_minutes(a_source(prometheus.url))

    assert set(usage.vm_cpu_cores) == {A, B}
    assert set(usage.host_cpu_cores) == {H1, H2}


def test_hosts_are_not_asked_about_without_a_query(prometheus: FakePrometheus) -> None:
    five_minutes(a_source(prometheus.url, queries=UsageQueries(vm_cpu="vm_cpu", host_cpu=None)))

    assert [asked["query"] for asked in prometheus.asked] == ["vm_cpu"]


def test_a_long_history_of_many_vms_is_asked_in_parts_without_a_seam(
    prometheus: FakePrometheus,
) -> None:
    minutes = 600
    vms = [VmId(f"vm{n}") for n in range(MOST_SAMPLES_AT_ONCE // 250)]
    samples = at(*((minute, "1") for minute in range(1, minutes + 1)))
    prometheus.series = {"vm_cpu": [of_vm("vm0", samples)]}
    source = a_source(prometheus.url, queries=UsageQueries(vm_cpu="vm_cpu", host_cpu=None))

    usage = source.history(vms, NOON, NOON + timedelta(minutes=minutes))

    assert len(prometheus.asked) == 3
    assert (usage.vm_cpu_cores[vms[0]] == 1.0).all()


def test_no_time_is_no_question(prometheus: FakePrometheus) -> None:
    usage = a_source(prometheus.url).history([A], NOON, NOON)

    assert usage.vm_cpu_cores[A].size == 0
    assert prometheus.asked == []


def test_wrong_labels_are_told_with_those_that_there_are(prometheus: FakePrometheus) -> None:
    named = Series(labels={"domain": "web", "instance": "h1"}, samples=at((1, "1")))
    prometheus.series = {"vm_cpu": [named]}

    said = refusal(a_source(prometheus.url))

    assert "prometheus.vm_cpu_query gives series without the label 'uuid'" in said
    assert "it gives domain, instance" in said


def test_the_servers_own_words_are_passed_on(prometheus: FakePrometheus) -> None:
    prometheus.status = 400
    prometheus.body = (
        '{"status":"error","errorType":"bad_data","error":"parse error: unexpected )"}'
    )

    said = refusal(a_source(prometheus.url))

    assert "refused prometheus.vm_cpu_query" in said
    assert "parse error: unexpected )" in said


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_an_http_error_is_one_line(prometheus: FakePrometheus, status: int) -> None:
    prometheus.status, prometheus.body = status, "<html>" + "x" * 5000

    said = refusal(a_source(prometheus.url))

    assert str(status) in said
    assert "<html>" not in said


@pytest.mark.parametrize(
    "body",
    [
        "<html>Grafana</html>",
        "",
        "{}",
        "[]",
        "null",
        '{"status": "success", "data": {"result": [{"metric": {"uuid": "a"}}]}}',
        '{"status": "success", "data": {"result": [{"metric": {"uuid": "a"}, "values": [[1]]}]}}',
        '{"status": "success", "data": {"result": [{"metric": {"uuid": "a"}, '
        '"values": [[1, "x"]]}]}}',
        '{"status": "success", "data": {"result": ["odd"]}}',
    ],
)
def test_something_else_than_a_prometheus_is_told_so(prometheus: FakePrometheus, body: str) -> None:
    prometheus.body = body

    assert "check" in refusal(a_source(prometheus.url))


def test_nobody_there_is_told_with_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    said = refusal(a_source(f"http://127.0.0.1:{port}"))

    assert f"no answer from Prometheus at http://127.0.0.1:{port}" in said


def test_a_server_that_hangs_is_given_up(prometheus: FakePrometheus) -> None:
    prometheus.hold = threading.Event()

    assert "within 0.2 s" in refusal(a_source(prometheus.url, timeout_seconds=0.2))


def test_a_name_that_does_not_exist_is_told() -> None:
    assert "no answer" in refusal(a_source("http://prometheus.invalid:9090"))


def test_a_password_is_not_shown() -> None:
    url = "http://me:secret@127.0.0.1:1"

    said = refusal(a_source(url))

    assert "secret" not in said
    assert without_password(url) == "http://me:***@127.0.0.1:1"
    assert without_password("http://prom:9090") == "http://prom:9090"
