"""Finds out what `doctor` judges: asks hosts, the journal, name servers and this machine.

Everything is looked at, nothing is changed: no journal is made, no host is written to.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa

from rebalancer.cluster.inventory import Mode, Snapshot
from rebalancer.cluster.policy import Policy
from rebalancer.collect.host_check import HostCheck, check_hosts
from rebalancer.collect.past_use import Coverage, coverage_of
from rebalancer.collect.patience import Abandoned, Patience
from rebalancer.collect.prometheus_source import without_password
from rebalancer.errors import JournalError, RebalancerError
from rebalancer.rollout.database import shown_address
from rebalancer.rollout.hooks import Moment
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import is_dead
from rebalancer.rollout.records import MigrationRow
from rebalancer.service import doctor_certificate
from rebalancer.service.access import Where, open_for_reading
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import Settings, journal_url
from rebalancer.service.config_format import HostSettings
from rebalancer.service.configured import libvirt_hosts
from rebalancer.service.doctor_facts import AddressFacts, Facts, HookFacts, JournalFacts
from rebalancer.service.policy_file import read_policy
from rebalancer.service.session import Session, observe, who_is_asking

PORTS: Mapping[str, int] = {"ssh": 22, "libssh": 22, "libssh2": 22, "tls": 16514, "tcp": 16509}
"""Where libvirt's transports listen unless the URI says otherwise; without one it is TLS."""
_PATIENCE_SECONDS = 10.0
_PORT_SECONDS = 5.0
_MIGRATIONS_READ = 10_000
_PROOF_AGE = timedelta(days=90)
"""Keys and firewalls change; a migration of last year proves nothing."""
_PEER_TO_PEER = frozenset({Mode.LIVE, Mode.AUTO_CONVERGE, Mode.SUSPEND, Mode.POST_COPY})
"""In the other modes only this machine speaks to the hosts."""


def examine(session: Session, policy: Path | None) -> Facts:
    """Ask everybody."""
    settings = session.settings
    checks = check_hosts(
        libvirt_hosts(settings), timeout_seconds=max(settings.collect.timeout_seconds, 1.0)
    )
    snapshot, fault = _snapshot(session, checks)
    now = SystemClock().now()
    policies = dict(_policies(settings, policy))
    return Facts(
        now=now,
        cluster=settings.cluster,
        mode=str(settings.mode),
        user=who_is_asking(),
        is_root=os.geteuid() == 0,
        tls=settings.rollout.tls,
        policies={name: "" if isinstance(p, Policy) else p for name, p in policies.items()},
        in_force={name: p for name, p in policies.items() if isinstance(p, Policy)},
        journal=journal_facts(session),
        hosts=checks,
        addresses=_addresses(settings.hosts, {check.name: check for check in checks}),
        client_certificate_ends_at=_client_certificate(settings.hosts),
        snapshot=snapshot,
        snapshot_fault=fault,
        prometheus_url=without_password(settings.prometheus.url or ""),
        coverage=_coverage(settings, snapshot),
        hooks=tuple(hook_facts(settings)),
    )


def _snapshot(session: Session, checks: Sequence[HostCheck]) -> tuple[Snapshot | None, str]:
    if not any(check.answered for check in checks):
        return None, "no host can be looked at"
    try:
        return observe(session, open_for_reading(session.settings, Where())), ""
    except RebalancerError as error:
        return None, str(error)


def _coverage(settings: Settings, snapshot: Snapshot | None) -> Coverage | None:
    if snapshot is None or snapshot.usage is None:
        return None
    limit_seconds = settings.prometheus.max_age_seconds
    return coverage_of(snapshot.usage, snapshot, SystemClock().now(), limit_seconds)


def _policies(settings: Settings, named: Path | None) -> Iterator[tuple[str, Policy | str]]:
    """Each policy, or what is wrong with its file; of the default one there is nothing to say."""
    main = named or settings.policy
    files = [*([main] if main is not None else []), *(entry.file for entry in settings.policies)]
    if main is None and not files:
        yield "the default policy", ""
    for file in files:
        try:
            yield str(file), read_policy(file)
        except (RebalancerError, OSError) as error:
            yield str(file), str(error)


# The journal --------------------------------------------------------------------------------


def journal_facts(session: Session) -> JournalFacts:
    """Look at the journal without making one."""
    url = sa.make_url(journal_url(session.settings))
    shown = shown_address(url)
    file = _file_of(url)
    free_bytes = _free_bytes(file) if file is not None else None
    try:
        # Opening one takes a transaction that writes, so this shows that it can be written.
        with session.existing_journal() as journal:
            if journal is None:
                assert file is not None
                fault = _why_not_made(file)
                return JournalFacts(url=shown, exists=False, fault=fault, free_bytes=free_bytes)
            now = SystemClock().now()
            return _journal(journal, session.settings.cluster, shown, free_bytes, now)
    except (JournalError, OSError) as error:
        return JournalFacts(url=shown, fault=str(error), free_bytes=free_bytes)


def _journal(
    journal: Journal, cluster: str, url: str, free_bytes: int | None, now: datetime
) -> JournalFacts:
    holder = journal.holder(cluster)
    is_held = holder is not None and holder.heartbeat_at.year > 1 and not is_dead(holder.owner)
    return JournalFacts(
        url=url,
        free_bytes=free_bytes,
        unfinished=tuple(row.plan_id for row in journal.unfinished(cluster)),
        busy=str(holder.owner) if holder is not None and is_held else "",
        paused=journal.wishes(cluster).why_paused,
        moved=frozenset(_proved(journal.completed(cluster, _MIGRATIONS_READ), now)),
    )


def _proved(rows: Iterable[MigrationRow], now: datetime) -> Iterator[tuple[str, str]]:
    """Pairs of hosts of which the source's libvirt sent memory to the target's of late."""
    for row in rows:
        is_recent = row.changed_at is not None and now - row.changed_at <= _PROOF_AGE
        if is_recent and row.migration.mode in _PEER_TO_PEER:
            yield row.migration.source, row.migration.target


def _file_of(url: sa.URL) -> Path | None:
    is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
    return Path(str(url.database)).absolute() if is_file else None


def _nearest_folder(file: Path) -> Path:
    return next(folder for folder in file.parents if folder.is_dir())


def _free_bytes(file: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest_folder(file)).free
    except OSError:
        return None


def _why_not_made(file: Path) -> str:
    folder = _nearest_folder(file)
    if os.access(folder, os.W_OK | os.X_OK):
        return ""
    return f"it is not there yet, and this user may not write to {folder}"


# Ways between hosts -------------------------------------------------------------------------


def _addresses(
    hosts: Sequence[HostSettings], checks: Mapping[str, HostCheck]
) -> Mapping[str, AddressFacts]:
    """Look names up and try ports, all at once: each may take its time."""
    patience = Patience(monotonic=time.monotonic)
    found = patience.run(
        {host.name: partial(address_facts, host, checks[host.name].hostname) for host in hosts},
        timeout_seconds=2 * _PATIENCE_SECONDS,
    )
    return {name: facts for name, facts in found.items() if not isinstance(facts, Abandoned)}


def address_facts(
    host: HostSettings,
    hostname: str,
    resolve: Callable[[str], tuple[str, ...]] | None = None,
) -> AddressFacts:
    """What this machine can tell of the way to a host that the others take."""
    resolve = resolve or _addresses_of
    uri = host.peer_uri or host.uri
    transport, name, port = way_of(uri)
    stated = _name_in(host.migration_uri) if host.migration_uri else ""
    memory = stated or hostname
    addresses = resolve(name) if name else ()
    return AddressFacts(
        host=host.name,
        peer_uri=uri,
        transport=transport,
        peer_name=name,
        peer_addresses=addresses,
        peer_port_error=_port_error(name, port) if addresses and port else "",
        memory_name=memory if name else "",
        memory_addresses=resolve(memory) if memory and name else (),
        is_memory_stated=bool(stated),
        certificate_ends_at=(
            doctor_certificate.of_server(name, port, _PORT_SECONDS)
            if transport == "tls" and addresses
            else None
        ),
    )


def way_of(uri: str) -> tuple[str, str, int]:
    """Transport, host and port of a libvirt URI; no transport and no host for a local one."""
    name = _name_in(uri)
    scheme = uri.partition(":")[0]
    if not name:
        return "", "", 0
    transport = scheme.partition("+")[2] or "tls"
    try:
        port = urlsplit(uri).port
    except ValueError:
        port = None
    return transport, name, port or PORTS.get(transport, 0)


def _name_in(uri: str) -> str:
    try:
        return urlsplit(uri).hostname or ""
    except ValueError:
        return ""


def _addresses_of(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _port_error(name: str, port: int) -> str:
    try:
        socket.create_connection((name, port), timeout=_PORT_SECONDS).close()
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    return ""


def _client_certificate(hosts: Sequence[HostSettings]) -> datetime | None:
    if not any(way_of(host.uri)[0] == "tls" for host in hosts):
        return None
    ends = (doctor_certificate.of_file(file) for file, _ in doctor_certificate.CLIENT_FILES)
    return next((end for end in ends if end is not None), None)


# Hooks --------------------------------------------------------------------------------------


def hook_facts(settings: Settings) -> Iterator[HookFacts]:
    """Whether each configured command is there."""
    for moment in Moment:
        for entry in getattr(settings.hooks, moment):
            program = Path(entry.command[0])
            yield HookFacts(
                moment=str(moment),
                command=str(program),
                fault=_why_not_run(program),
                may_object=moment.may_object,
            )


def _why_not_run(program: Path) -> str:
    try:
        if not program.exists():
            return "is not there"
        if not program.is_file():
            return "is no file"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    return "" if os.access(program, os.X_OK) else "may not be run by this user"
