"""Metrics for Prometheus: what the daemon last saw and came to, and what the journal says.

Series are made when they are asked for, from the noticeboard and the journal, so that a host or
VM that is gone is gone from here too. What every metric means stands in `docs/api.md`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import rebalancer
from rebalancer.cluster.inventory import HostState, Vm
from rebalancer.cluster.plan import Objective
from rebalancer.rollout.journal import Journal
from rebalancer.service.api_notices import CycleResult, Notice, Noticeboard, Notices, Seen
from rebalancer.service.metrics_journal import Standing, Tally, standing_families, standing_of

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one daemon. Any thread may ask for them; one at a time is answered."""

    def __init__(self, board: Noticeboard, cluster: str, max_vm_series: int) -> None:
        """Tell what is on `board`; rollouts are counted from now on."""
        self._cluster = cluster
        self._registry = CollectorRegistry()
        self._tally = Tally(self._registry, now=time.time)
        self._standing: Standing | None = None
        self._asking = threading.Lock()
        self._registry.register(
            _Families(
                lambda: _families(board.read(), cluster, max_vm_series, self._standing),
            )
        )
        ProcessCollector(registry=self._registry)

    def text(self, journal: Journal | None, *, is_readable: bool = True) -> bytes:
        """Write them all; without a journal, those that come from it stay away or stand still."""
        with self._asking:
            self._standing = standing_of(journal, self._cluster) if is_readable else None
            if journal is not None:
                self._tally.follow(journal, self._cluster)
            return generate_latest(self._registry)


class _Families(Collector):
    """Hands the registry whatever `make` makes."""

    def __init__(self, make: Callable[[], Iterable[Metric]]) -> None:
        self._make = make

    def collect(self) -> Iterable[Metric]:
        return self._make()


def _families(
    notices: Notices, cluster: str, max_vm_series: int, standing: Standing | None
) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "rebalancer_info", "Always 1; says who this is.", labels=["cluster", "version"]
    )
    info.add_metric([cluster, rebalancer.__version__], 1)
    yield info
    yield GaugeMetricFamily(
        "rebalancer_leader",
        "1: this daemon leads; 0: it stands by, or does not know.",
        value=float(notices.role == "leads"),
    )
    yield from _cycle_families(notices)
    yield from _plan_families(notices)
    if (seen := notices.newest) is not None:
        yield from _host_families(seen)
        yield from _vm_families(seen, max_vm_series)
    yield from standing_families(standing)


def _per_policy(
    notices: Notices, name: str, says: str, value: Callable[[Notice], float | None]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=["policy"])
    for policy, notice in notices.policies.items():
        found = value(notice)
        if found is not None:
            family.add_metric([policy], found)
    return family


def _cycle_families(notices: Notices) -> Iterator[Metric]:
    cycles = CounterMetricFamily(
        "rebalancer_cycles", "Cycles by what they came to.", labels=["policy", "result"]
    )
    verdict = GaugeMetricFamily(
        "rebalancer_verdict",
        "1 for what the policy's last cycle came to, 0 for the rest.",
        labels=["policy", "result"],
    )
    for policy, notice in notices.policies.items():
        for result in CycleResult:
            cycles.add_metric([policy, result], notice.cycles.get(result, 0))
            verdict.add_metric([policy, result], float(notice.result is result))
    yield from (cycles, verdict)
    yield _per_policy(
        notices,
        "rebalancer_cycle_last_timestamp_seconds",
        "When the policy's last cycle ended.",
        lambda notice: notice.ended_at.timestamp() if notice.ended_at else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_cycle_next_timestamp_seconds",
        "When the policy's next cycle is due, as was foreseen when its last one ended.",
        lambda notice: notice.next_at.timestamp() if notice.next_at else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_cycle_duration_seconds",
        "How long the policy's last cycle took, its rollout included.",
        lambda notice: notice.took_seconds if notice.ended_at else None,
    )
    running = GaugeMetricFamily(
        "rebalancer_cycle_running_since_timestamp_seconds",
        "Since when the policy's cycle is under way; there only while it is.",
        labels=["policy"],
    )
    if notices.running and notices.running_since is not None:
        running.add_metric([notices.running], notices.running_since.timestamp())
    yield running
    automatic = "1: the policy carries its plans out by itself; 0: it recommends them."
    yield _per_policy(
        notices, "rebalancer_policy_automatic", automatic, lambda notice: notice.mode == "auto"
    )


def _plan_families(notices: Notices) -> Iterator[Metric]:
    planned = CounterMetricFamily(
        "rebalancer_planned_migrations",
        "Migrations in the plans of all cycles, carried out or not.",
        labels=["policy"],
    )
    for policy, notice in notices.policies.items():
        planned.add_metric([policy], notice.planned_migrations)
    yield planned
    yield _per_policy(
        notices,
        "rebalancer_plan_migrations",
        "Migrations in the last plan.",
        lambda notice: len(notice.seen.plan.migrations) if notice.seen else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_plan_gap_ratio",
        "How far the last placement may be from the best one.",
        lambda notice: o.gap_ratio if (o := _objective(notice)) else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_plan_captured_ratio",
        "Share of the improvement that may be possible which the last plan makes.",
        lambda notice: o.captured_ratio if (o := _objective(notice)) else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_plan_solve_seconds",
        "How long the last placement was searched for.",
        lambda notice: o.solve_seconds if (o := _objective(notice)) else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_forecast_error_cores",
        "Mean absolute error of the forecast of VMs' CPU use, judged at the next cycle.",
        lambda notice: e.mean_cores if (e := notice.forecast_error) else None,
    )
    yield _per_policy(
        notices,
        "rebalancer_forecast_exceeded_ratio",
        "Share of VMs that used more CPU than the upper quantile foreseen for them.",
        lambda notice: e.exceeded_ratio if (e := notice.forecast_error) else None,
    )


def _objective(notice: Notice) -> Objective | None:
    return notice.seen.plan.objective if notice.seen else None


def _host_families(seen: Seen) -> Iterator[Metric]:
    snapshot, demand = seen.snapshot, seen.demand
    at = GaugeMetricFamily(
        "rebalancer_snapshot_timestamp_seconds",
        "When the hosts and VMs below were looked at.",
        value=snapshot.taken_at.timestamp(),
    )
    fault = GaugeMetricFamily(
        "rebalancer_usage_fault",
        "1: past use is missing or too poor to act on.",
        value=float(bool(snapshot.usage_fault)),
    )
    state = GaugeMetricFamily(
        "rebalancer_host_state", "1 for the state that the host is in.", labels=["host", "state"]
    )
    silent = sum(host.state is HostState.UNKNOWN for host in snapshot.hosts)
    silent_hosts = GaugeMetricFamily(
        "rebalancer_hosts_silent", "Hosts that did not answer.", value=silent
    )
    used = _by_host("rebalancer_host_cpu_used_cores", "CPU use of the host, all that runs there.")
    expected = _by_host(
        "rebalancer_host_cpu_expected_cores", "CPU use foreseen if nothing is moved."
    )
    cores = _by_host("rebalancer_host_cpu_capacity_cores", "Cores of the host.")
    promised = _by_host("rebalancer_host_memory_promised_bytes", "Memory of its active VMs.")
    capacity = _by_host("rebalancer_host_memory_capacity_bytes", "Memory that guests may get.")
    vms = _by_host("rebalancer_host_vms", "VMs of the host, inactive ones included.")
    for host in snapshot.hosts:
        here = snapshot.vms_by_host[host.id]
        active = [vm for vm in here if vm.is_active]
        state.add_metric([host.name, host.state], 1)
        cores.add_metric([host.name], host.cpu_cores)
        capacity.add_metric([host.name], host.guest_memory_bytes)
        if host.state in (HostState.UNKNOWN, HostState.DOWN):
            continue  # what it runs and uses is not known, and that is not 0
        base = demand.host_base_cores.get(host.id, 0.0)
        measured = sum(vm.cpu_used_cores for vm in active)
        foreseen = base + sum(demand.vm_cpu_cores.get(vm.id, 0.0) for vm in active)
        used.add_metric(
            [host.name], measured if host.cpu_used_cores is None else host.cpu_used_cores
        )
        expected.add_metric([host.name], foreseen)
        promised.add_metric([host.name], sum(vm.memory_bytes for vm in active))
        vms.add_metric([host.name], len(here))
    yield from (at, fault, state, silent_hosts, used, expected, cores, promised, capacity, vms)


def _by_host(name: str, says: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, labels=["host"])


def _vm_families(seen: Seen, most: int) -> Iterator[Metric]:
    labels = ["uuid", "vm", "host"]
    used = GaugeMetricFamily("rebalancer_vm_cpu_used_cores", "CPU use of the VM.", labels=labels)
    memory = GaugeMetricFamily("rebalancer_vm_memory_bytes", "Memory of the VM.", labels=labels)
    active = [vm for vm in seen.snapshot.vms if vm.is_active]
    # By size and not by use: a VM that came and went with its load would be of no use in a graph.
    shown = sorted(active, key=_size, reverse=True)[:most]
    for vm in shown:
        named = [vm.id, vm.name, seen.snapshot.host_by_id[vm.host].name]
        used.add_metric(named, vm.cpu_used_cores)
        memory.add_metric(named, vm.memory_bytes)
    left_out = GaugeMetricFamily(
        "rebalancer_vm_series_left_out",
        "Active VMs that are not shown for api.max_vm_series.",
        value=len(active) - len(shown),
    )
    yield from (used, memory, left_out)


def _size(vm: Vm) -> tuple[float, int, str]:
    return (vm.vcpus, vm.memory_bytes, vm.id)
