"""The reports of all hosts -> one snapshot.

Pure. The difficult part is that a VM may be known to several hosts: as the incoming copy of a
migration, as a definition that was left behind, and, when a link broke at the worst moment,
really running twice. One of them becomes the VM; what is doubtful becomes a blocker, so that
nothing touches it before a human has looked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime

from rebalancer.cluster.inventory import (
    ACTIVE_VM_STATES,
    Host,
    HostId,
    HostState,
    Snapshot,
    Vm,
    VmState,
)
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.collect.domain_reader import at_state
from rebalancer.collect.hypervisor import (
    JobOperation,
    PausedReason,
    RunningReason,
    ShutoffReason,
    Stats,
)
from rebalancer.collect.observations import DomainReport, HostReport, LibvirtHost, NoReport
from rebalancer.collect.storage_identity import files_at, local_folders
from rebalancer.collect.vm_facts import vm_from

_GIB = 1024**3
_POWERED_OFF = {HostState.ASLEEP, HostState.DOWN}
_NOT_THE_OWNER = {
    PausedReason.MIGRATION,
    PausedReason.STARTING_UP,
    PausedReason.POSTCOPY,
    PausedReason.POSTCOPY_FAILED,
}
"""Paused on one side of a migration: incoming, or standing still for the switch-over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What one host has of a VM."""

    at: HostReport
    domain: DomainReport

    @property
    def is_active(self) -> bool:
        """Whether it has a process."""
        return self.domain.state in ACTIVE_VM_STATES

    @property
    def may_be_the_owner(self) -> bool:
        """Whether the guest runs here, as far as this host alone can tell."""
        paused = self.domain.state is VmState.PAUSED
        return self.is_active and not (paused and self.domain.reason in _NOT_THE_OWNER)

    @property
    def host_name(self) -> str:
        """Where it is."""
        return self.at.host.name


def assemble(
    reports: Sequence[HostReport | NoReport],
    *,
    cluster: str,
    taken_at: datetime,
    sites: Sequence[Site] = (),
    links: Sequence[Link] = (),
    racks: Sequence[Rack] = (),
) -> Snapshot:
    """Put the reports of all hosts together."""
    reports = _without_repeated(reports)
    answered = [report for report in reports if isinstance(report, HostReport)]
    unseen = [r.host.name for r in reports if isinstance(r, NoReport) and _may_run_vms(r)]
    vms = [_vm(copies, unseen) for copies in copies_by_uuid(answered).values()]
    vms.sort(key=lambda vm: (vm.host, vm.name, vm.id))
    used: dict[str, float] = defaultdict(float)
    for vm in vms:
        used[vm.host] += vm.cpu_used_cores
    disks = {disk.path: vm.host for vm in vms for disk in vm.local_disks if disk.path}
    shared = {d.path for vm in vms for d in vm.local_disks if disks.get(d.path) != vm.host}
    return Snapshot(
        cluster=cluster,
        taken_at=taken_at,
        hosts=tuple(
            replace(
                _host(report, used[report.host.name]), disk_files=_in_the_way(report, disks, shared)
            )
            for report in reports
        ),
        vms=tuple(vms),
        sites=tuple(sites),
        links=tuple(links),
        racks=tuple(racks),
    )


def _in_the_way(
    report: HostReport | NoReport, disks: Mapping[str, HostId], shared: Set[str]
) -> frozenset[str]:
    """Files of a host that have the paths of other hosts' disks.

    `disks` says for each path on which host a VM has it, `shared` which are on several.
    """
    if isinstance(report, NoReport):
        return frozenset()
    elsewhere = (p for p, host in disks.items() if host != report.host.name or p in shared)
    return files_at(elsewhere, report.facts.pools)


def copies_by_uuid(reports: Iterable[HostReport]) -> Mapping[str, list[Copy]]:
    """Return what each host has of each VM."""
    found: dict[str, list[Copy]] = defaultdict(list)
    for report in reports:
        for domain in report.domains:
            found[domain.uuid].append(Copy(at=report, domain=domain))
    return found


def ask_again_about(
    reports: Iterable[HostReport | NoReport],
) -> Mapping[str, frozenset[str]]:
    """Return which VMs seem to run on several hosts, as UUIDs by the name of those hosts."""
    answered = [report for report in reports if isinstance(report, HostReport)]
    found: dict[str, set[str]] = defaultdict(set)
    for uuid, copies in copies_by_uuid(answered).items():
        owners = [copy for copy in copies if copy.may_be_the_owner]
        for copy in owners if len(owners) > 1 else ():
            found[copy.host_name].add(uuid)
    return {host: frozenset(uuids) for host, uuids in found.items()}


def corrected(
    report: HostReport, doubtful: frozenset[str], stats: Mapping[str, Stats]
) -> HostReport:
    """Return a report with the doubtful VMs as they were at a second look; gone ones left out."""
    return replace(
        report,
        domains=tuple(
            at_state(domain, stats[domain.uuid]) if domain.uuid in doubtful else domain
            for domain in report.domains
            if domain.uuid not in doubtful or domain.uuid in stats
        ),
    )


def _without_repeated(
    reports: Sequence[HostReport | NoReport],
) -> list[HostReport | NoReport]:
    """Set aside hosts that are one machine under two names: its VMs would all be there twice.

    Boards of one make may share a UUID by mistake; then at least their host names differ.
    """
    seen: dict[tuple[str, str], str] = {}
    result: list[HostReport | NoReport] = []
    for report in reports:
        if isinstance(report, HostReport) and report.facts.host_uuid:
            machine = (report.facts.host_uuid, report.facts.hostname)
            if (other := seen.setdefault(machine, report.host.name)) != report.host.name:
                why = (
                    f"{report.host.uri} leads to the same machine as {other} "
                    f"(host name {machine[1]}, UUID {machine[0]}); remove one of the two"
                )
                result.append(NoReport(host=report.host, why=why))
                continue
        result.append(report)
    return result


def _may_run_vms(report: NoReport) -> bool:
    """Whether a host that said nothing may have VMs, for all that we know."""
    return _state_of_silent(report) is HostState.UNKNOWN


def _state_of_silent(report: NoReport) -> HostState:
    """A host that the operator declared to be out of use need not answer."""
    state = report.host.state
    out_of_use = state in _POWERED_OFF or state is HostState.MAINTENANCE
    return state if state is not None and out_of_use else HostState.UNKNOWN


def _host(report: HostReport | NoReport, guests_use_cores: float) -> Host:
    host = _configured(report.host)
    if isinstance(report, NoReport):
        return replace(host, state=_state_of_silent(report), state_reason=report.why)
    facts, configured = report.facts, report.host
    memory_bytes = configured.memory_bytes or facts.memory_bytes
    use = guests_use_cores if configured.cpu_from_guests else facts.cpu_used_cores
    networks = configured.networks if configured.networks is not None else facts.networks
    return replace(
        host,
        cpu_cores=configured.cpu_cores or facts.cpu_cores,
        memory_bytes=memory_bytes,
        reserved_memory_bytes=_reserved_bytes(configured, memory_bytes),
        cpu_used_cores=use,
        cpu_model=facts.cpu_model,
        cpu_models=facts.cpu_models,
        cpu_features=facts.cpu_features,
        arch=facts.arch,
        machine_types=facts.machine_types,
        storage=_storage(report),
        networks=networks,
        disk_pools=local_folders(facts.pools, configured.storage),
        # Cells say nothing about a host that was declared to have another size than it tells.
        numa_nodes=None if configured.memory_bytes or configured.cpu_cores else facts.numa_nodes,
        hugepages=facts.hugepages,
        devices={name: len(members) for name, members in facts.device_pools.items()}
        | dict(configured.devices),
        tsc_hertz=facts.tsc_hertz,
        tsc_scales=facts.tsc_scales,
    )


def _configured(host: LibvirtHost) -> Host:
    """What is known of a host without asking it; capacity 0 where that is nothing."""
    facts = Host(
        id=HostId(host.name),
        name=host.name,
        cpu_cores=host.cpu_cores or 0.0,
        memory_bytes=host.memory_bytes or 0,
        reserved_memory_bytes=_reserved_bytes(host, host.memory_bytes or 0),
        site=host.site,
        rack=host.rack,
        state=host.state or HostState.UP,
        state_reason="set by the operator" if host.state else "",
        labels=dict(host.labels),
        networks=host.networks,
        devices=dict(host.devices),
        idle_watts=host.idle_watts,
        max_watts=host.max_watts,
    )
    if host.nic_bytes_per_second is None:
        return facts
    return replace(facts, nic_bytes_per_second=host.nic_bytes_per_second)


def _reserved_bytes(host: LibvirtHost, memory_bytes: int) -> int:
    if host.reserved_memory_bytes is not None:
        return min(host.reserved_memory_bytes, memory_bytes)
    if host.memory_bytes is not None:
        return 0
    return min(max(4 * _GIB, memory_bytes // 20), memory_bytes // 4)


def _storage(report: HostReport) -> frozenset[str] | None:
    """Return all shared storage that the host reaches; `None` when nobody can tell."""
    pools, configured = report.facts.pools, frozenset(report.host.storage)
    if pools is None:
        return configured or None
    return configured | {pool.identity for pool in pools if pool.identity}


def _vm(copies: list[Copy], unseen: Sequence[str]) -> Vm:
    owner = min(copies, key=_precedence)
    others = [copy for copy in copies if copy is not owner]
    vm = vm_from(owner.at, owner.domain, _storage(owner.at))
    if owner.domain.job is JobOperation.MIGRATION_OUT:
        arriving = [HostId(c.host_name) for c in others if c.is_active and _is_incoming(c)]
        vm = replace(
            vm,
            is_migrating=True,
            migrating_to=min(arriving, default=None),
            migrating_bytes_per_second=owner.domain.job_bytes_per_second,
        )
    doubts = _doubts(owner, others, unseen)
    return replace(vm, blockers=(*vm.blockers, *doubts)) if doubts else vm


def _precedence(copy: Copy) -> tuple[bool, bool, bool, bool, str]:
    """Sort the copy that is the VM to the front.

    Running before paused; and when a link broke at the switch-over, the source goes on as
    "migration canceled" although the target has resumed the guest: then the target is right,
    for it ran on while the source stood still.
    """
    domain = copy.domain
    return (
        not copy.may_be_the_owner,
        not copy.is_active or _is_incoming(copy),
        domain.state is not VmState.RUNNING
        or domain.reason in {RunningReason.MIGRATION_CANCELED, RunningReason.POSTCOPY_FAILED},
        domain.state is VmState.SHUTOFF and domain.reason == ShutoffReason.MIGRATED,
        copy.host_name,
    )


def _is_incoming(copy: Copy) -> bool:
    return copy.domain.job is JobOperation.MIGRATION_IN or (
        copy.domain.state is VmState.PAUSED
        and copy.domain.job is not JobOperation.MIGRATION_OUT
        and copy.domain.reason in {PausedReason.MIGRATION, PausedReason.STARTING_UP}
    )


def _doubts(owner: Copy, others: Sequence[Copy], unseen: Sequence[str]) -> Iterable[str]:
    """Return what is odd about where the VM is; whoever reads it keeps off the VM."""
    rivals = [copy for copy in others if copy.may_be_the_owner]
    active = [copy for copy in others if copy.is_active and copy not in rivals]
    doubts = []
    if rivals:
        hosts = ", ".join(sorted(copy.host_name for copy in (owner, *rivals)))
        doubts.append(f"it runs on two hosts: {hosts}; stop one of the two by hand")
    if active:
        where = ", ".join(sorted(copy.host_name for copy in active))
        doubts.append(f"a migration is under way, or ended badly: {where} has a paused copy of it")
    if owner.is_active and not owner.may_be_the_owner and not active:
        doubts.append("it stands still for a migration whose other side was not seen")
    if not owner.is_active and others:
        hosts = ", ".join(sorted(copy.host_name for copy in (owner, *others)))
        doubts.append(f"it is off, and defined on two hosts: {hosts}; undefine one of the two")
    if not owner.is_active and unseen:
        doubts.append(f"it is off here, but may run on {', '.join(unseen)}: no answer from there")
    return doubts
