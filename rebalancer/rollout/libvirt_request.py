"""What libvirt is asked when a VM is to migrate: flags and parameters, in its own units.

All migrations are peer to peer and have a limit to their bandwidth. The flag that would let
libvirt migrate what it takes for unsafe is not known here, and neither is a way without
encryption where that was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rebalancer.rollout.driver import Migrate

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """For `virDomainMigrateToURI3`."""

    flags: int
    parameters: dict[str, Any] = field(default_factory=dict)


def migration_request(
    lv: Any,  # noqa: ANN401  libvirt has no types
    command: Migrate,
    *,
    tls: bool,
    parallel_connections: int | None,
    migration_uri: str | None,
) -> Request:
    """How a running VM is to be migrated."""
    # QEMU before 10.1 refuses post-copy over several streams.
    streams = None if command.post_copy else parallel_connections
    flags = (
        lv.VIR_MIGRATE_LIVE
        | lv.VIR_MIGRATE_PEER2PEER
        | lv.VIR_MIGRATE_ABORT_ON_ERROR
        | (lv.VIR_MIGRATE_AUTO_CONVERGE if command.auto_converge else 0)
        | (lv.VIR_MIGRATE_POSTCOPY if command.post_copy else 0)
        | (lv.VIR_MIGRATE_TLS if tls else 0)
        | (lv.VIR_MIGRATE_PARALLEL if streams else 0)
        | (lv.VIR_MIGRATE_NON_SHARED_DISK if command.disks else 0)
    )
    if command.persistent:
        flags |= lv.VIR_MIGRATE_PERSIST_DEST | lv.VIR_MIGRATE_UNDEFINE_SOURCE
    speed = mib_per_second(command.bytes_per_second)
    parameters: dict[str, Any] = {lv.VIR_MIGRATE_PARAM_BANDWIDTH: speed}
    if command.post_copy:
        parameters[lv.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY] = speed
    if command.disks:
        # Without this list libvirt would copy disks that both hosts reach onto themselves.
        parameters[lv.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = list(command.disks)
    if streams:
        parameters[lv.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = streams
    if migration_uri:
        parameters[lv.VIR_MIGRATE_PARAM_URI] = migration_uri
    return Request(flags=flags, parameters=parameters)


def definition_request(lv: Any) -> Request:  # noqa: ANN401
    """How the definition of a VM that does not run is to be moved."""
    flags = (
        lv.VIR_MIGRATE_OFFLINE
        | lv.VIR_MIGRATE_PEER2PEER
        | lv.VIR_MIGRATE_PERSIST_DEST
        | lv.VIR_MIGRATE_UNDEFINE_SOURCE
    )
    return Request(flags=flags)


def milliseconds(seconds: float) -> int:
    """At least one: libvirt takes 0 for a pause that cannot be."""
    return max(1, round(seconds * 1000))


def mib_per_second(bytes_per_second: float) -> int:
    """Round down, so that the grant is kept; never to 0, which libvirt takes for "no limit"."""
    return max(1, int(bytes_per_second // MIB))
