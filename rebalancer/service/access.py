"""Where a command's cluster comes from: libvirt hosts, a scenario, or a snapshot file.

A command that only looks gets a `ReadAccess`, in which there is nothing to change a host with.
What can change one is in `change_access`, and is not even loaded by such a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rebalancer.cluster.inventory import HostId
from rebalancer.cluster.policy import Policy
from rebalancer.collect.dirty_rate_probe import LibvirtDirtyRateProbe
from rebalancer.collect.libvirt_source import LibvirtSource
from rebalancer.collect.remembered_use import UseMemory
from rebalancer.collect.snapshot_file import SnapshotFile
from rebalancer.collect.sources import DirtyRateProbe, InventorySource
from rebalancer.errors import UsageError
from rebalancer.rollout.driver import Clock
from rebalancer.service.clock import SteadyClock, SystemClock
from rebalancer.service.config import Settings
from rebalancer.service.configured import (
    libvirt_hosts,
    links_of,
    migration_uris,
    racks_of,
    sites_of,
    with_history,
)
from rebalancer.service.file_kind import FileKind, expecting
from rebalancer.service.power_view import known_asleep, power_marks


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """What the operator named; nothing at all means the configured hosts."""

    scenario: Path | None = None
    snapshot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAccess:
    """A cluster that can be looked at."""

    cluster: str
    host_names: tuple[str, ...]
    """Names known without asking any host."""
    source: InventorySource
    clock: Clock
    uris: Mapping[HostId, str]
    """Where hosts reach each other's hypervisor, for printed commands."""
    own_policy: Policy | None = None
    """A scenario brings its policy with it."""
    probe: Callable[[], DirtyRateProbe] | None = None
    """Opens what measures dirty rates; `None` where there are no guests to measure."""
    facts: InventorySource | None = None
    """Tells the same without the past, while VMs are moved; it may take its time. `None`: the
    source itself answers at once."""
    is_real: bool = True
    """Whether hosts that are drained according to the journal are drained in here too."""
    has_past: bool = True
    """Whether what the journal tells of its VMs has happened to them: a scenario begins anew each
    time, so that what an earlier rehearsal moved has not been moved in it."""

    def for_a_rollout(self) -> ReadAccess:
        """The same, by a clock that nobody can set while VMs are moved."""
        return replace(self, clock=SteadyClock()) if type(self.clock) is SystemClock else self


def open_for_reading(
    settings: Settings, where: Where, memory: UseMemory | None = None
) -> ReadAccess:
    """Reach the cluster without any means to change it; `memory` keeps what was used before."""
    if where.scenario is not None and where.snapshot is not None:
        raise UsageError("give --scenario or --snapshot, not both: a plan is for one cluster")
    if where.scenario is not None:
        # Nobody who looks at hosts, or at a file, should wait for a datacentre to be loaded.
        from rebalancer.service.rehearsed_access import rehearse_for_reading

        return rehearse_for_reading(settings, where.scenario)
    if where.snapshot is not None:
        return _saved(where.snapshot)
    return configured(settings, memory)


def _saved(file: Path) -> ReadAccess:
    source = SnapshotFile(file)
    with expecting(FileKind.SNAPSHOT, file):
        snapshot = source.observe()
    return ReadAccess(
        cluster=snapshot.cluster,
        host_names=tuple(host.name for host in snapshot.hosts),
        source=source,
        clock=SystemClock(),
        uris={},
        is_real=False,
    )


def configured(settings: Settings, memory: UseMemory | None) -> ReadAccess:
    """Look at the hosts that the settings list."""
    hosts = known_asleep(libvirt_hosts(settings), power_marks(settings, settings.cluster))
    if not hosts:
        raise UsageError(
            "no hosts are configured: list them in a file and name it with --config "
            "(config/rebalancer.yaml explains every key), or look at a --scenario or --snapshot"
        )
    clock = SystemClock()
    source = LibvirtSource(
        hosts,
        cluster=settings.cluster,
        now=clock.now,
        sites=sites_of(settings),
        links=links_of(settings),
        racks=racks_of(settings),
        sampling_seconds=settings.collect.sampling_seconds,
        counts_waiting=settings.collect.count_waiting,
        timeout_seconds=settings.collect.timeout_seconds,
    )
    return ReadAccess(
        cluster=settings.cluster,
        host_names=tuple(host.name for host in hosts),
        source=with_history(settings, source, clock.now, memory),
        facts=source,
        clock=clock,
        uris=migration_uris(settings),
        probe=lambda: LibvirtDirtyRateProbe(
            hosts, now=clock.now, plan=settings.dirty_rates.probe_plan()
        ),
    )
