"""What `doctor` makes of this machine and of every host by itself: facts -> findings, pure."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address

from rebalancer.collect.host_check import HostCheck
from rebalancer.service.doctor_facts import AddressFacts, Facts, Finding, Level
from rebalancer.service.wording import count_text

GIB = 1024**3
LEAST_FREE_BYTES = GIB // 4
"""Less than this may be gone by the end of a large rollout."""
SCARCE_FREE_BYTES = 2 * GIB
EXPIRES_SOON_SECONDS = 30 * 86_400.0
_SHOWN = 5


def machine_findings(facts: Facts) -> Iterator[Finding]:
    """Settings, policies, journal, hooks: what is on this machine."""
    area = "settings"
    asked = count_text(len(facts.hosts), "host")
    yield _ok(area, facts.cluster, f"{asked}, mode {facts.mode}, tested as {facts.user}")
    if facts.is_root:
        yield Finding(
            level=Level.NOTE,
            area=area,
            about="user",
            text="this is what root may do; the daemon's own user has other keys and rights",
            todo="sudo -u rebalancer rebalancer doctor",
        )
    for name, fault in facts.policies.items():
        if fault:
            yield _error(
                "policy", name, fault, "mend the file; rebalancer validate FILE tells more"
            )
        else:
            yield _ok("policy", name, "valid")
    yield from _journal(facts)
    for hook in facts.hooks:
        if not hook.fault:
            yield _ok("hooks", hook.moment, f"{hook.command} can be run")
        elif hook.may_object:
            text = f"{hook.command} {hook.fault}, so nothing would start"
            yield _error("hooks", hook.moment, text, "mend or remove it under hooks")
        else:
            yield _warning("hooks", hook.moment, f"{hook.command} {hook.fault}", "mend it")


def _journal(facts: Facts) -> Iterator[Finding]:
    journal, area = facts.journal, "journal"
    if journal.fault:
        yield _error(area, journal.url, journal.fault, "nothing can be changed without a journal")
    else:
        text = "can be written" if journal.exists else "will be made when it is first needed"
        yield _ok(area, journal.url, text)
    if journal.free_bytes is not None:
        free = f"{journal.free_bytes / GIB:.1f} GiB are free on its disk"
        todo = "make room: a rollout stops before the next step when the journal cannot be written"
        if journal.free_bytes < LEAST_FREE_BYTES:
            yield _error(area, "disk", free, todo)
        elif journal.free_bytes < SCARCE_FREE_BYTES:
            yield _warning(area, "disk", free, todo)
        else:
            yield _ok(area, "disk", free)
    for plan in journal.unfinished:
        text = "its rollout was cut short, or left a VM that nobody could find"
        if journal.busy:
            yield _note(area, f"plan {plan}", f"under way, or {text}", "rebalancer status")
        else:
            yield _error(area, f"plan {plan}", text, "rebalancer recover --yes")
    if journal.busy:
        yield _note(area, "lock", f"{journal.busy} is changing the cluster", "wait for it")
    if journal.paused:
        text = f"the cluster is paused {journal.paused}"
        yield _warning(area, "pause", text, "rebalancer resume")


# Every host by itself -----------------------------------------------------------------------


def host_findings(facts: Facts) -> Iterator[Finding]:
    """Whether each can be looked at and changed, and whether they run the same versions."""
    if not facts.hosts:
        todo = "list them under hosts; config/rebalancer.yaml explains every key"
        yield _error("hosts", "hosts", "none is configured", todo)
    for host in facts.hosts:
        yield from _host(host)
    yield from _versions(facts.hosts)
    known = {host.name: host for host in facts.hosts}
    for seen in facts.snapshot.hosts if facts.snapshot else ():
        # It answers by itself, and still nothing is known of it: one machine under two names.
        asked = known.get(seen.name)
        if asked is not None and asked.answered and seen.state == "unknown":
            yield _error("hosts", seen.name, seen.state_reason, "see above")


def _host(host: HostCheck) -> Iterator[Finding]:
    area, name = "hosts", host.name
    if not host.was_asked:
        yield _note(area, name, f"set to {host.stated} in the settings, so it was not asked")
        return
    todo = f"virsh -c '{host.uri}' hostname"
    level = Level.WARNING if host.stated == "maintenance" else Level.ERROR
    if host.read_error:
        text = f"cannot be looked at: {host.read_error}"
        yield Finding(level=level, area=area, about=name, text=text, todo=f"{todo} shows the same")
    elif host.write_error:
        todo = "let this user write: group libvirt or polkit there, auth_tcp, tls_allowed_dn_list"
        text = f"can be looked at, not changed: {host.write_error}"
        yield Finding(level=level, area=area, about=name, text=text, todo=todo)
    else:
        running = sum(domain.is_active for domain in host.domains)
        text = f"can be looked at and changed; {count_text(running, 'VM')} active"
        yield _ok(area, name, f"{text}; {_versions_text(host)}")


def _versions(hosts: Sequence[HostCheck]) -> Iterator[Finding]:
    kinds: tuple[tuple[str, Mapping[str, int | None], str], ...] = (
        (
            "QEMU",
            {host.name: host.hypervisor_version for host in hosts},
            "VMs started under the newer one may not migrate to the older; upgrade, newest last",
        ),
        (
            "libvirt",
            {host.name: host.libvirt_version for host in hosts},
            "mixed versions work as a rule; upgrade the others when you can",
        ),
    )
    for what, versions, todo in kinds:
        groups: dict[int, list[str]] = defaultdict(list)
        for name, version in versions.items():
            if version is not None:
                groups[version].append(name)
        if len(groups) > 1:
            text = "; ".join(f"{version_text(v)} on {listed(groups[v])}" for v in sorted(groups))
            yield _warning("versions", what, text, todo)
        elif groups:
            yield _ok("versions", what, f"{version_text(next(iter(groups)))} everywhere")


def _versions_text(host: HostCheck) -> str:
    found = (("libvirt", host.libvirt_version), ("QEMU", host.hypervisor_version))
    return ", ".join(f"{what} {version_text(v)}" for what, v in found if v is not None)


def version_text(version: int) -> str:
    """Write a version as people do: libvirt numbers 9.1.0 as 9,001,000."""
    return f"{version // 1_000_000}.{version // 1_000 % 1_000}.{version % 1_000}"


# From host to host --------------------------------------------------------------------------


def path_findings(facts: Facts) -> Iterator[Finding]:
    """What can be said from here about hosts reaching each other, and what cannot."""
    targets = [facts.addresses[h.name] for h in facts.hosts if h.name in facts.addresses]
    if len(targets) > 1:
        for address in targets:
            yield from _address(address)
            yield from _certificate(address.host, address.certificate_ends_at, facts.now)
            if address.transport == "tls" and address.certificate_ends_at is None:
                text = "its certificate could not be seen from here"
                file = "/etc/pki/libvirt/servercert.pem"
                todo = f"on {address.host}: openssl x509 -noout -enddate -in {file}"
                yield _note("TLS", address.host, text, todo)
        yield from _proof(facts, targets)
    yield from _certificate(
        "this machine's certificate", facts.client_certificate_ends_at, facts.now
    )
    if facts.tls and targets:
        files = "/etc/pki/qemu/server-cert.pem"
        yield _note(
            "TLS",
            "QEMU's certificates",
            "memory is encrypted with certificates of QEMU's own, which libvirt does not show",
            f"on every host: openssl x509 -noout -enddate -in {files}",
        )


def _address(address: AddressFacts) -> Iterator[Finding]:
    area, host = "migration path", address.host
    if not address.peer_name:
        text = f"{address.peer_uri} is a local address: other hosts reach themselves by it"
        yield _error(area, host, text, f"set peer_uri of {host}, as qemu+ssh://root@{host}/system")
        return
    fault = _name_fault(address.peer_name, address.peer_addresses)
    if fault:
        yield _warning(area, host, fault, "write what other hosts can use into peer_uri")
    elif address.peer_port_error:
        text = f"{address.peer_uri}: no connection from here: {address.peer_port_error}"
        yield _warning(area, host, text, "other hosts may get through: see the commands below")
    else:
        yield _ok(area, host, f"{address.peer_uri} opens from here")
    yield from _memory(address)


def _memory(address: AddressFacts) -> Iterator[Finding]:
    """Where guests' memory is sent: libvirt's own answer is the target's host name."""
    area, host = "migration path", address.host
    fault = _name_fault(address.memory_name, address.memory_addresses)
    if not fault or not address.memory_name or address.memory_name == address.peer_name:
        return
    if address.is_memory_stated:
        yield _warning(area, host, fault, "mend migration_uri")
    else:
        text = f"it calls itself {address.memory_name}, where memory is sent to: {fault}"
        todo = "set migration_uri, or migration_host in its qemu.conf, if other hosts see the same"
        yield _note(area, host, text, todo)


def _name_fault(name: str, addresses: Sequence[str]) -> str:
    if not addresses:
        return f"the name {name} means nothing on this machine; the other hosts must know it"
    if all(_is_loopback(address) for address in addresses):
        return f"{name} means {addresses[0]} here, which is whatever machine asks"
    return ""


def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _proof(facts: Facts, targets: Sequence[AddressFacts]) -> Iterator[Finding]:
    """Each source connects to the target itself, with its own keys: only it can prove that."""
    there = {address.host for address in targets}
    proved = {(a, b) for a, b in facts.journal.moved if a in there and b in there}
    pairs = len(targets) * (len(targets) - 1)
    text = (
        f"{len(proved)} of {pairs} pairs of hosts are proved by a migration of the last 90 days; "
        "of the others nobody knows from here whether the source's libvirt may log in at the "
        "target, nor whether memory gets through (TCP 49152 to 49215)"
    )
    level = Level.OK if len(proved) == pairs else Level.NOTE
    area = "source to target"
    yield Finding(level=level, area=area, about=f"{pairs} pairs", text=text)
    for source in targets:
        left = [t for t in targets if t is not source and (source.host, t.host) not in proved]
        if left:
            yield _note(
                area,
                source.host,
                f"not proved: to {listed([target.host for target in left])}",
                proof_command(source, left),
            )


def proof_command(source: AddressFacts, targets: Sequence[AddressFacts]) -> str:
    """The command, to be run on a source as root, that shows whether it may log in at targets."""
    uris = " ".join(shlex.quote(target.peer_uri) for target in targets)
    loop = f'for u in {uris}; do virsh -c "$u" hostname; done'
    if source.transport == "ssh":
        return f"ssh root@{source.peer_name} {shlex.quote(loop)}"
    return f"on {source.host}, as root: {loop}"


def _certificate(about: str, ends_at: datetime | None, now: datetime) -> Iterator[Finding]:
    if ends_at is None:
        return
    days = (ends_at - now).total_seconds() / 86_400
    text = f"valid until {ends_at:%Y-%m-%d}, {days:.0f} days from now"
    if days < 0:
        yield _error("TLS", about, f"its certificate expired on {ends_at:%Y-%m-%d}", "renew it")
    elif days * 86_400 < EXPIRES_SOON_SECONDS:
        yield _warning("TLS", about, text, "renew it")
    else:
        yield _ok("TLS", about, text)


# Making findings ----------------------------------------------------------------------------


def listed(names: Sequence[str]) -> str:
    """Name the first few, and count the rest."""
    shown = sorted(names)[:_SHOWN]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def _ok(area: str, about: str, text: str) -> Finding:
    return Finding(level=Level.OK, area=area, about=about, text=text)


def _note(area: str, about: str, text: str, todo: str = "") -> Finding:
    return Finding(level=Level.NOTE, area=area, about=about, text=text, todo=todo)


def _warning(area: str, about: str, text: str, todo: str) -> Finding:
    return Finding(level=Level.WARNING, area=area, about=about, text=text, todo=todo)


def _error(area: str, about: str, text: str, todo: str) -> Finding:
    return Finding(level=Level.ERROR, area=area, about=about, text=text, todo=todo)
