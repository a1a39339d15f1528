"""What a cluster consists of, and what in it an operator should know before any plan does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rebalancer.cluster.inventory import Host, HostState, Snapshot, Vm
from rebalancer.service.layout import Bar, Block, Cell, Column, Line, Table, Tone, abridged
from rebalancer.service.overpromise import named, overpromised_now
from rebalancer.service.plan_report import HOT_RATIO, NOT_KNOWN, SIZE_UNKNOWN, natural
from rebalancer.service.wording import (
    bytes_text,
    count_text,
    ratio_text,
    when_text,
)

HOSTS_SHOWN = 40

_NOTHING = "–"
"""In a cell for which there is no value."""


def snapshot_blocks(snapshot: Snapshot, *, wide: bool = False) -> Iterator[Block]:
    """Lay out what a cluster consists of."""
    yield Line(text=snapshot_text(snapshot), tone=Tone.STRONG)
    yield from (Line(text=text, tone=Tone.WARN) for text in _doubts(snapshot))
    hosts = sorted(snapshot.hosts, key=lambda host: natural(host.name))
    shown, left_out = abridged(hosts, None if wide else HOSTS_SHOWN)
    yield Table(
        title="Hosts",
        columns=(
            Column(title="host"),
            Column(title="state"),
            Column(title="site"),
            Column(title="cores", right=True),
            Column(title="CPU"),
            Column(title="memory", right=True),
            Column(title="promised"),
            Column(title="VMs", right=True),
            Column(title="why", prose=True),
        ),
        rows=tuple(_host_row(host, snapshot.vms_by_host[host.id]) for host in shown),
        more=f"{count_text(left_out, 'host')} more" if left_out else "",
    )


def snapshot_text(snapshot: Snapshot) -> str:
    """Sum a cluster up in one sentence."""
    active = [vm for vm in snapshot.vms if vm.is_active]
    capacity = sum(host.guest_memory_bytes for host in snapshot.hosts)
    promised = sum(vm.memory_bytes for vm in active)
    cores = sum(host.cpu_cores for host in snapshot.hosts)
    used = sum(vm.cpu_used_cores for vm in active)
    return (
        f"{snapshot.cluster} at {when_text(snapshot.taken_at)}: "
        f"{count_text(len(snapshot.hosts), 'host')}, {count_text(len(snapshot.vms), 'VM')} "
        f"({len(active)} active), guests use {used:.1f} of {cores:g} cores and were promised "
        f"{bytes_text(promised)} of {bytes_text(capacity)}"
    )


def _doubts(snapshot: Snapshot) -> Iterator[str]:
    """What is not known, or in the way: an operator should see it before a plan says so."""
    silent = [host for host in snapshot.hosts if host.state is HostState.UNKNOWN]
    if silent:
        names = ", ".join(sorted(host.name for host in silent)[:10])
        yield f"{count_text(len(silent), 'host')} did not answer: {names}"
    if snapshot.usage_fault:
        yield snapshot.usage_fault
    if over := overpromised_now(snapshot, {}):
        hosts = named([(one.host, one.ratio) for one in over])
        yield f"more memory is promised to guests than there is on {hosts}"
    unmeasured = sum(vm.is_active and vm.dirty_bytes_per_second is None for vm in snapshot.vms)
    if unmeasured:
        yield f"dirty rate unknown for {count_text(unmeasured, 'VM')}; predictions will be guesses"
    stuck = sum(not vm.can_move for vm in snapshot.vms)
    if stuck:
        yield f"{count_text(stuck, 'VM')} cannot be moved just now"


def _host_row(host: Host, vms: Sequence[Vm]) -> tuple[Cell, ...]:
    active = [vm for vm in vms if vm.is_active]
    used = host.cpu_used_cores
    # Nobody has seen anything of it, and that is not the same as nothing.
    is_unseen = host.state is HostState.UNKNOWN and not vms
    cores = sum(vm.cpu_used_cores for vm in active) if used is None else used
    promised = sum(vm.memory_bytes for vm in active)
    return (
        host.name,
        host.state.value,
        host.site or _NOTHING,
        f"{host.cpu_cores:g}" if host.cpu_cores > 0 else _NOTHING,
        NOT_KNOWN if is_unseen else _bar(cores, host.cpu_cores),
        bytes_text(host.guest_memory_bytes) if host.memory_bytes > 0 else _NOTHING,
        NOT_KNOWN if is_unseen else _bar(promised, host.guest_memory_bytes),
        "?" if is_unseen else str(len(vms)),
        host.state_reason,
    )


def _bar(used: float, capacity: float) -> Cell:
    if capacity <= 0:
        return SIZE_UNKNOWN
    ratio = used / capacity
    return Bar(ratio=ratio, text=ratio_text(ratio), hot=ratio > HOT_RATIO)
