"""What `doctor` makes of the cluster as a whole: facts -> findings, pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rebalancer.cluster.compatibility import HOST_CPU, misfits
from rebalancer.cluster.inventory import Host, HostState, Snapshot, Vm
from rebalancer.cluster.policy import Policy
from rebalancer.collect.host_check import HostCheck
from rebalancer.collect.hypervisor import DomainRecord
from rebalancer.service.doctor_checks import listed
from rebalancer.service.doctor_facts import Facts, Finding, Level
from rebalancer.service.idle_rules import idle_rules
from rebalancer.service.overpromise import WHAT_THREATENS, named, overpromised_now
from rebalancer.service.wording import count_text, ratio_text

_OFF = {HostState.ASLEEP, HostState.DOWN, HostState.UNKNOWN}
_REASONS_SHOWN = 10


def cluster_findings(facts: Facts) -> Iterator[Finding]:
    """Everything that takes more than one host to see."""
    yield from definition_findings(facts.hosts)
    if facts.snapshot is None:
        yield Finding(
            level=Level.ERROR,
            area="cluster",
            about=facts.cluster,
            text=f"cannot be observed: {facts.snapshot_fault}",
            todo="see the hosts above",
        )
    else:
        hosts = [host for host in facts.snapshot.hosts if host.state not in _OFF]
        yield from _cpu(hosts, facts.snapshot.vms)
        vms = facts.snapshot.vms
        yield from _shared("storage", "storage", hosts, vms, _storage_of, lambda vm: vm.storage)
        yield from _shared("network", "networks", hosts, vms, _networks_of, lambda vm: vm.networks)
        yield from _unmovable(facts.snapshot, hosts)
        yield from _promised_memory(facts.snapshot, facts.in_force)
        yield from _idle_rules(facts.snapshot, facts.in_force)
    yield from _telemetry(facts)
    yield from _untold(facts)


def _idle_rules(snapshot: Snapshot, policies: Mapping[str, Policy]) -> Iterator[Finding]:
    """Rules that protect nothing, most often for a slip in a name or label."""
    for file, policy in policies.items():
        for idle in idle_rules(snapshot, policy):
            yield Finding(
                level=Level.NOTE if idle.is_general else Level.WARNING,
                area="policy",
                about=file,
                text=f"rule {idle.rule} protects nothing: {idle.text}",
                todo=f"correct rule {idle.rule}, or name and label what it is to be about",
            )


def _promised_memory(snapshot: Snapshot, policies: Mapping[str, Policy]) -> Iterator[Finding]:
    """Hosts that have promised guests more memory than they have."""
    found = overpromised_now(snapshot, policies)
    for level, those, allowed in (
        (Level.WARNING, [one for one in found if not one.is_allowed], ""),
        (Level.NOTE, [one for one in found if one.is_allowed], ", as a policy allows"),
    ):
        if those:
            hosts = named([(one.host, one.ratio) for one in those])
            yield Finding(
                level=level,
                area="memory",
                about="promised",
                text=f"more is promised to guests than there is on {hosts}{allowed}",
                todo=WHAT_THREATENS if level is Level.WARNING else "",
            )
    if not found:
        text = "no host that answered has promised guests more than it has"
        yield Finding(level=Level.OK, area="memory", about="promised", text=text)


# Definitions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    host: str
    domain: DomainRecord


def definition_findings(hosts: Sequence[HostCheck]) -> Iterator[Finding]:
    """VMs that more than one host knows, and names that mean two VMs."""
    by_uuid: dict[str, list[_Known]] = defaultdict(list)
    by_name: dict[str, dict[str, str]] = defaultdict(dict)
    for host in hosts:
        for domain in host.domains:
            by_uuid[domain.uuid].append(_Known(host=host.name, domain=domain))
            by_name[domain.name].setdefault(domain.uuid, host.name)
    doubtful = 0
    for known in by_uuid.values():
        for finding in _twice(known):
            doubtful += 1
            yield finding
    for name, uuids in by_name.items():
        if len(uuids) > 1:
            doubtful += 1
            yield Finding(
                level=Level.WARNING,
                area="definitions",
                about=name,
                text=f"is what different VMs are called on {listed(list(uuids.values()))}; "
                "a host cannot take one of them while it has another",
                todo="virsh domrename on one of the hosts, while it is shut off",
            )
    if not doubtful and hosts:
        total = count_text(len(by_uuid), "VM")
        silent = sum(host.was_asked and not host.answered for host in hosts)
        unsure = f", as far as hosts answered ({silent} did not)" if silent else ""
        text = f"{total}, each known to one host only{unsure}"
        yield Finding(level=Level.OK, area="definitions", about="VMs", text=text)


def _twice(known: Sequence[_Known]) -> Iterator[Finding]:
    """Findings about one VM by what every host has of it."""
    if len(known) < 2:
        return
    name = known[0].domain.name
    active = [k for k in known if k.domain.is_active]
    if len(active) > 1:
        # A job on one of them: it is just being migrated, and both have a process.
        if any(k.domain.job is not None for k in active):
            return
        yield Finding(
            level=Level.ERROR,
            area="definitions",
            about=name,
            text=f"is active on {listed([k.host for k in active])}: two copies may run and write "
            "to the same disk",
            todo=f"virsh domstate --reason {name} on each; look at it before anything else, and "
            "run rebalancer recover",
        )
    starts = [k.host for k in known if k.domain.autostart and k.domain.persistent]
    if len(starts) > 1:
        yield Finding(
            level=Level.ERROR,
            area="definitions",
            about=name,
            text=f"{listed(starts)} would each start it when they boot",
            todo=f"virsh autostart --disable {name} on all of them but one",
        )
    left = [k for k in known if not k.domain.is_active]
    # Where it is off everywhere nobody can say which definition is the good one.
    owner = active[0].host if active else ""
    if left and (active or len(left) > 1):
        stale = [k.host for k in left]
        where = f"runs on {owner}" if owner else "is off"
        what = f"{where}, and {listed(stale)} {'has' if len(stale) == 1 else 'have'} a definition"
        yield Finding(
            level=Level.WARNING,
            area="definitions",
            about=name,
            text=f"{what} of it, too: it can be started twice, and cannot migrate there"
            if owner
            else f"{what} of it each: it can be started twice",
            todo=f"virsh undefine {name} where it is left over (virsh dumpxml it first)",
        )


# What hosts have ----------------------------------------------------------------------------


def _cpu(hosts: Sequence[Host], vms: Sequence[Vm]) -> Iterator[Finding]:
    models: dict[str, list[str]] = defaultdict(list)
    for host in hosts:
        models[f"{host.cpu_model or 'unknown'} ({host.arch or 'unknown'})"].append(host.name)
    bound = sum(vm.cpu_model == HOST_CPU for vm in vms)
    if len(models) < 2:
        if models:
            text = f"{next(iter(models))} everywhere"
            yield Finding(level=Level.OK, area="CPU", about="model", text=text)
        return
    text = "; ".join(f"{model} on {listed(models[model])}" for model in sorted(models))
    yield Finding(
        level=Level.WARNING if bound else Level.NOTE,
        area="CPU",
        about="model",
        text=f"{text}; {count_text(bound, 'VM')} with {HOST_CPU} can move between equal ones only",
        todo="give VMs a model that all hosts have: virsh hypervisor-cpu-baseline finds it",
    )


def _storage_of(host: Host) -> frozenset[str] | None:
    return host.storage


def _networks_of(host: Host) -> frozenset[str] | None:
    return host.networks


def _shared(
    what: str,
    key: str,
    hosts: Sequence[Host],
    vms: Sequence[Vm],
    has: Callable[[Host], frozenset[str] | None],
    needs: Callable[[Vm], frozenset[str]],
) -> Iterator[Finding]:
    """Storage or networks that VMs need and that some hosts lack."""
    telling = {host.name: found for host in hosts if (found := has(host)) is not None}
    wanted = Counter(name for vm in vms for name in needs(vm))
    differing = 0
    for name in sorted(wanted):
        lacking = [host for host, found in telling.items() if name not in found]
        if lacking:
            differing += 1
            yield Finding(
                level=Level.WARNING,
                area=what,
                about=name,
                text=f"is not on {listed(lacking)}, so its {count_text(wanted[name], 'VM')} "
                "cannot go there",
                todo=f"set it up there; if it is there, say so under hosts, {key}",
            )
    if not differing and telling:
        text = f"all that VMs need ({len(wanted)}) is on {count_text(len(telling), 'host')}"
        yield Finding(level=Level.OK, area=what, about="all", text=text)
    if silent := [host.name for host in hosts if host.name not in telling]:
        text = f"{listed(silent)} did not tell what there is; taken for fitting"
        yield Finding(level=Level.NOTE, area=what, about="untold", text=text)


# VMs ----------------------------------------------------------------------------------------


def _unmovable(snapshot: Snapshot, hosts: Sequence[Host]) -> Iterator[Finding]:
    reasons = why_not(snapshot, hosts)
    total = sum(len(names) for names in reasons.values())
    movable = len(snapshot.vms) - len({name for names in reasons.values() for name in names})
    text = f"{movable} of {count_text(len(snapshot.vms), 'VM')} can move to some host"
    yield Finding(level=Level.OK, area="VMs", about="movable", text=text)
    most = sorted(reasons.items(), key=lambda found: (-len(found[1]), found[0]))
    for reason, names in most[:_REASONS_SHOWN]:
        owner = reason == _OWNERS_WISH
        yield Finding(
            level=Level.NOTE if owner else Level.WARNING,
            area="VMs",
            about=count_text(len(names), "VM"),
            text=f"cannot move: {reason} ({listed(names)})",
            todo="" if owner else "rebalancer explain VM tells more",
        )
    if len(most) > _REASONS_SHOWN:
        rest = sum(len(names) for _, names in most[_REASONS_SHOWN:])
        text = f"{rest} more of {total} cannot move, for {len(most) - _REASONS_SHOWN} reasons more"
        yield Finding(level=Level.NOTE, area="VMs", about="more", text=text)


_OWNERS_WISH = "its owner does not want it to"


def why_not(snapshot: Snapshot, hosts: Sequence[Host]) -> Mapping[str, list[str]]:
    """Names of the VMs that can go nowhere, by reason; the first obstacle of each counts."""
    found: dict[str, list[str]] = defaultdict(list)
    for vm in snapshot.vms:
        source = snapshot.host_by_id[vm.host]
        if source.state in _OFF:
            continue
        if not vm.movable:
            found[_OWNERS_WISH].append(vm.name)
        elif vm.blockers:
            found[vm.blockers[0]].append(vm.name)
        elif reason := _fits_nowhere(vm, source, hosts):
            found[reason].append(vm.name)
    return found


def _fits_nowhere(vm: Vm, source: Host, hosts: Sequence[Host]) -> str:
    counted: Counter[str] = Counter()
    for host in hosts:
        if host.id == source.id:
            continue
        against = misfits(vm, source, host)
        if not against:
            return ""
        counted[against[0]] += 1
    if not counted:
        return "there is no other host"
    reason, times = counted.most_common(1)[0]
    return f"no other host will do: {reason}" + (f" ({times} times)" if times > 1 else "")


# Telemetry, and what nobody tells ----------------------------------------------------------------


def _telemetry(facts: Facts) -> Iterator[Finding]:
    area = "Prometheus"
    if not facts.prometheus_url:
        text = "none is configured: plans go by what libvirt measured just now"
        yield Finding(
            level=Level.NOTE, area=area, about="url", text=text, todo="set prometheus.url"
        )
        return
    snapshot = facts.snapshot
    if snapshot is None:
        return
    found = ""
    if facts.coverage is not None:
        coverage = facts.coverage
        found = (
            f"knows {ratio_text(coverage.vm_ratio)} of the running VMs and "
            f"{ratio_text(coverage.host_ratio)} of the hosts; newest sample "
            f"{coverage.newest_age_seconds:.0f} s old"
        )
    if snapshot.usage_fault:
        text = "; ".join(filter(None, [snapshot.usage_fault, found]))
        yield Finding(
            level=Level.WARNING,
            area=area,
            about=facts.prometheus_url,
            text=text,
            todo="docs/telemetry.md; until then nothing is carried out unasked",
        )
    else:
        yield Finding(level=Level.OK, area=area, about=facts.prometheus_url, text=found)


def _untold(facts: Facts) -> Iterator[Finding]:
    """What libvirt tells nobody, with the commands that do."""
    if not facts.hosts:
        return
    yield Finding(
        level=Level.NOTE,
        area="disk locks",
        about="all hosts",
        text="whether sanlock or virtlockd guards disks stands in qemu.conf, which libvirt does "
        "not show; without them QEMU's own image locks are all that stops a second copy",
        todo="on every host: grep ^lock_manager /etc/libvirt/qemu.conf",
    )
    yield Finding(
        level=Level.NOTE,
        area="clocks",
        about="all hosts",
        text="libvirt does not tell the time of its host; clocks that differ spoil telemetry and "
        "jump in guests that migrate",
        todo="on every host: chronyc tracking, or timedatectl",
    )
