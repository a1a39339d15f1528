"""Whether budgets and hard rules were kept at every instant of a run."""

from __future__ import annotations

from collections.abc import Iterator

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.simulation.faults import FaultKind
from tests.faults.played import Played
from tests.faults.scripts import LIMITS

K = FaultKind

MOVES_GUESTS = frozenset({K.MIGRATED_BY_SOMEBODY})
TAKES_MEMORY = frozenset({K.MEMORY_TAKEN, K.MEMORY_GROWS, K.MIGRATED_BY_SOMEBODY})


def budgets_are_kept(played: Played) -> Iterator[str]:
    """I16: concurrency and bandwidth; I14: memory, with what is on its way counted."""
    record, kinds = played.world.record, played.script.kinds
    others = bool(kinds & MOVES_GUESTS)
    for which, peaks, limit in (
        ("out of", record.peak_out, LIMITS.per_host_out + others),
        ("into", record.peak_in, LIMITS.per_host_in + others),
        ("in", {"the cluster": record.peak_migrations}, LIMITS.cluster + others),
    ):
        for where, most in peaks.items():
            if most > limit:
                yield f"{most} migrations {which} {where} at once, {limit} are allowed"
    if not others:
        nic = played.script.snapshot.hosts[0].nic_bytes_per_second
        for carrier, granted in record.peak_granted_bytes_per_second.items():
            if granted > LIMITS.link_share * nic * (1 + 1e-9):
                yield f"{granted:,.0f} bytes/s were granted on {carrier}"
    if kinds & TAKES_MEMORY:
        return
    for host in played.script.snapshot.hosts:
        used = record.peak_memory_bytes[host.id]
        if used > host.guest_memory_bytes:
            yield f"guests held {used:,} of the {host.guest_memory_bytes:,} bytes of {host.id}"


def rules_are_kept(played: Played) -> Iterator[str]:
    """I15: no hard rule is broken more than at the start, at any instant."""
    if played.script.kinds & MOVES_GUESTS:
        return
    snapshot = played.script.snapshot
    where = {vm.id: vm.host for vm in snapshot.vms}
    rules = [rule for rule in played.script.policy.rules if rule.hard and not rule.is_final]
    worst = {rule.name: _severity(rule, snapshot, where) for rule in rules}
    for change in played.world.record.changes:
        if not change.runs:
            continue
        where[change.vm] = change.host
        for rule in rules:
            now = _severity(rule, snapshot, where)
            if now > worst[rule.name]:
                yield f"rule {rule.name} was broken at second {change.at_seconds:.1f}"
                worst[rule.name] = now


def _severity(rule: object, snapshot: object, where: dict[VmId, HostId]) -> float:
    found = rule.violations(snapshot, where)  # type: ignore[attr-defined]
    return float(sum(violation.severity for violation in found))
