"""Valid nouns with sensible defaults: a test names only what matters to it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Host, HostId, Snapshot, Vm, VmId
from rebalancer.cluster.policy import (
    Goal,
    Headroom,
    Limits,
    MigrationPermissions,
    Overcommit,
    Policy,
)
from rebalancer.cluster.rules import Rule
from rebalancer.cluster.sites import Link, Site

GIB = 1024**3
MIB = 1024**2
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def a_host(name: str = "h1", **changed: Any) -> Host:
    """A host of 16 cores and 64 GiB that is up."""
    facts: dict[str, Any] = {"cpu_cores": 16.0, "memory_bytes": 64 * GIB}
    return Host(id=HostId(name), name=name, **(facts | changed))


def a_vm(name: str = "vm1", on: str = "h1", **changed: Any) -> Vm:
    """A running VM of 2 vCPUs and 4 GiB that uses half a core and dirties 1 MiB/s."""
    facts: dict[str, Any] = {
        "vcpus": 2,
        "memory_bytes": 4 * GIB,
        "cpu_used_cores": 0.5,
        "dirty_bytes_per_second": 1.0 * MIB,
        "working_set_bytes": 64 * MIB,
    }
    return Vm(id=VmId(name), name=name, host=HostId(on), **(facts | changed))


IMAGES = "/var/lib/libvirt/images"
"""Where disks are that only their host reaches."""


def a_disk(target: str = "vda", capacity_bytes: int = 20 * GIB, **changed: Any) -> LocalDisk:
    """A qcow2 file of a host's own."""
    facts: dict[str, Any] = {"path": f"{IMAGES}/{target}.qcow2", "format": "qcow2"}
    return LocalDisk(target=target, capacity_bytes=capacity_bytes, **(facts | changed))


def with_disks(*disks: LocalDisk, writes: float | None = 0.0) -> dict[str, Any]:
    """What `a_vm` has to be told of local disks, and of what is written to them a second."""
    return {
        "local_disks": disks,
        "local_disk_bytes": sum(disk.capacity_bytes for disk in disks),
        "disk_write_bytes_per_second": writes,
    }


def a_snapshot(
    hosts: Iterable[Host] = (),
    vms: Iterable[Vm] = (),
    *,
    sites: Iterable[Site] = (),
    links: Iterable[Link] = (),
    cluster: str = "test",
) -> Snapshot:
    """A snapshot of two empty hosts unless told otherwise."""
    return Snapshot(
        cluster=cluster,
        taken_at=NOON,
        hosts=tuple(hosts) or (a_host("h1"), a_host("h2")),
        vms=tuple(vms),
        sites=tuple(sites),
        links=tuple(links),
    )


def a_policy(*rules: Rule, goals: tuple[Goal, ...] | None = None, **changed: Any) -> Policy:
    """A policy without headroom, trigger or cap on moves, so that only the rules speak."""
    facts: dict[str, Any] = {
        "headroom": Headroom(cpu_ratio=0.0, memory_ratio=0.0, host_failures=0),
        "overcommit": Overcommit(),
        "trigger": None,
        "limits": Limits(migrations=None),
        "migration": MigrationPermissions(),
    }
    if goals is not None:
        facts["goals"] = goals
    return Policy(name="test", rules=rules, **(facts | changed))
