"""One host's domains: their definitions, their state, and how much CPU they use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from rebalancer.cluster.compatibility import HOST_CPU
from rebalancer.cluster.inventory import ACTIVE_VM_STATES, VmState
from rebalancer.collect.domain_xml import DomainFacts, read_domain
from rebalancer.collect.host_xml import bare_cpu_xml, cpu_features
from rebalancer.collect.hypervisor import (
    DomainRecord,
    DomainState,
    HypervisorConnection,
    HypervisorError,
    Stats,
)
from rebalancer.collect.observations import DomainReport
from rebalancer.collect.xml_text import UnreadableXmlError

_KIB = 1024
_NANOSECONDS = 1e-9
_DELAY = re.compile(r"vcpu\.\d+\.delay")

# libvirt lets a name contain tabs; terminals and snapshot files do not.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")

_STATES: Mapping[int, VmState] = {
    DomainState.NOSTATE: VmState.RUNNING,
    DomainState.RUNNING: VmState.RUNNING,
    DomainState.BLOCKED: VmState.RUNNING,
    DomainState.PAUSED: VmState.PAUSED,
    DomainState.SHUTDOWN: VmState.RUNNING,
    DomainState.SHUTOFF: VmState.SHUTOFF,
    DomainState.CRASHED: VmState.CRASHED,
    DomainState.PMSUSPENDED: VmState.SUSPENDED,
}


def read_domains(
    connection: HypervisorConnection, arch: str | None, stats: Mapping[str, Stats]
) -> tuple[DomainReport, ...]:
    """Read all domains of a host; their state and use are those of `stats`, until sampled."""
    reports = [_report(record, stats.get(record.uuid, {})) for record in connection.domains()]
    models = {report.facts.cpu.model for report in reports if report.facts}
    features = _features_of_models(connection, arch, models)
    return tuple(
        replace(
            report,
            disk_bytes=_disk_bytes(connection, report, stats.get(report.uuid, {})),
            allocated_disk_bytes=dict(_of_disks(stats.get(report.uuid, {}), ("physical",))),
            cpu_model_features=features.get(report.facts.cpu.model) if report.facts else None,
        )
        for report in reports
    )


def with_sample(
    report: DomainReport,
    before: Stats,
    after: Stats,
    elapsed_seconds: float,
    *,
    counts_waiting: bool = False,
) -> DomainReport:
    """Return a domain as it was at the second of two samples, with its use between them.

    `counts_waiting`: what it would have used, had its vCPUs not waited for a processor.
    """
    sampled = at_state(report, after)
    if sampled.state not in ACTIVE_VM_STATES:
        return sampled  # some versions of libvirt go on telling a counter
    used = cpu_used_cores(before, after, elapsed_seconds)
    if not counts_waiting:
        return replace(sampled, cpu_used_cores=used)
    # QEMU's own threads may use more than the vCPUs have, but a guest does not want more.
    vcpus = float(_number(after, "vcpu.current") or sampled.vcpus or 1)
    waited = cpu_waited_cores(before, after, elapsed_seconds)
    wanted = max(used, min(vcpus, used + waited))
    return replace(sampled, cpu_used_cores=wanted, cpu_waited_cores=wanted - used)


def at_state(report: DomainReport, stats: Stats) -> DomainReport:
    """Return a domain in the state that newer statistics tell."""
    state = vm_state(stats, report.state)
    return replace(report, state=state, reason=_number(stats, "state.reason") or 0)


def vm_state(stats: Stats, otherwise: VmState) -> VmState:
    """Return the state that the statistics tell."""
    number = _number(stats, "state.state")
    return otherwise if number is None else _STATES.get(number, otherwise)


def cpu_used_cores(before: Stats, after: Stats, elapsed_seconds: float) -> float:
    """Return the mean use over a window, from two readings of the CPU time counter.

    A counter that is smaller than before, or was not there, has started anew within the window
    (a reboot, a migration): then the guest used what it shows now. It may have been there all
    along and only not been told, so in that case nobody uses more than all of its vCPUs.
    """
    time_after = _number(after, "cpu.time")
    if time_after is None or elapsed_seconds <= 0:
        return 0.0
    time_before = _number(before, "cpu.time")
    if time_before is not None and time_after >= time_before:
        return (time_after - time_before) * _NANOSECONDS / elapsed_seconds
    most = float(_number(after, "vcpu.current") or _number(before, "vcpu.current") or 1)
    return min(most, time_after * _NANOSECONDS / elapsed_seconds)


def cpu_waited_cores(before: Stats, after: Stats, elapsed_seconds: float) -> float:
    """Return how many vCPUs were ready to run and waited for a processor, on average.

    libvirt's `vcpu.N.delay`, in nanoseconds: what the kernel tells of the thread's time in the run
    queue (`/proc/PID/task/TID/schedstat`), and the guest sees as stolen. 0 where it is not told.
    """
    if elapsed_seconds <= 0:
        return 0.0
    waits = (
        (_number(after, key) or 0) - (_number(before, key) or 0)
        for key in after
        if _DELAY.fullmatch(key) and key in before
    )
    return sum(max(0, wait) for wait in waits) * _NANOSECONDS / elapsed_seconds


def _report(record: DomainRecord, stats: Stats) -> DomainReport:
    facts, unreadable = _definition(record)
    inactive = VmState.RUNNING if record.is_active else VmState.SHUTOFF
    return DomainReport(
        uuid=record.uuid,
        name=_CONTROL_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", record.name),
        state=vm_state(stats, inactive),
        reason=_number(stats, "state.reason") or 0,
        facts=facts,
        unreadable=unreadable,
        vcpus=_number(stats, "vcpu.current"),
        memory_bytes=_bytes_of_kib(stats, "balloon.maximum"),
        resident_bytes=_bytes_of_kib(stats, "balloon.rss"),
        job=record.job.operation if record.job is not None else None,
        job_bytes_per_second=record.job.bytes_per_second if record.job is not None else None,
        autostart=record.autostart,
        persistent=record.persistent,
        has_snapshots=record.has_snapshots,
        has_checkpoints=record.has_checkpoints,
        has_saved_state=record.has_saved_state,
    )


def _definition(record: DomainRecord) -> tuple[DomainFacts | None, str]:
    """Read a definition, or say why it cannot be: one odd VM does not hide its host."""
    if record.xml is None:
        return None, "libvirt does not tell it"
    try:
        return read_domain(record.xml), ""
    except UnreadableXmlError as error:
        return None, str(error)


def _features_of_models(
    connection: HypervisorConnection, arch: str | None, models: Iterable[str | None]
) -> Mapping[str | None, frozenset[str]]:
    """Ask what the CPU models in use imply: a handful, however many VMs there are."""
    found: dict[str | None, frozenset[str]] = {}
    for model in {model for model in models if model and model != HOST_CPU and arch}:
        try:
            expanded = connection.expanded_cpu_xml(bare_cpu_xml(arch or "", model))
            found[model] = cpu_features(expanded)
        except (HypervisorError, UnreadableXmlError):
            continue
    return found


def _disk_bytes(
    connection: HypervisorConnection, report: DomainReport, stats: Stats
) -> Mapping[str, int]:
    sizes = dict(_of_disks(stats, ("capacity", "physical")))
    return {**sizes, **_sizes_not_told(connection, report, sizes)}


def _of_disks(stats: Stats, fields: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield a number of each disk by its target: the first of `fields` that is told."""
    for index in range(min(_number(stats, "block.count") or 0, 1000)):
        target = stats.get(f"block.{index}.name")
        told = (_number(stats, f"block.{index}.{field}") for field in fields)
        if isinstance(target, str) and (size := next((n for n in told if n), None)):
            yield target, size


def _sizes_not_told(
    connection: HypervisorConnection, report: DomainReport, told: Mapping[str, int]
) -> Mapping[str, int]:
    """Ask for disks of VMs that do not run; only those in files and devices have a size here."""
    sizes: dict[str, int] = {}
    is_off = report.state in {VmState.SHUTOFF, VmState.CRASHED}
    for disk in report.facts.disks if report.facts and is_off else ():
        if disk.target in told or disk.is_removable or disk.images[0].network:
            continue
        try:
            sizes[disk.target] = connection.disk_bytes(report.uuid, disk.target)
        except HypervisorError:
            continue
    return sizes


def _number(stats: Stats, key: str) -> int | None:
    value = stats.get(key)
    return int(value) if isinstance(value, int | float) and value >= 0 else None


def _bytes_of_kib(stats: Stats, key: str) -> int | None:
    number = _number(stats, key)
    return number * _KIB if number is not None else None
