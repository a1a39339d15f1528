"""Hypothesis strategies for the nouns. What they draw is valid, and otherwise as odd as may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import (
    Host,
    HostId,
    HostState,
    HugepagePool,
    Mode,
    NumaNode,
    Snapshot,
    UsageHistory,
    Vm,
    VmId,
    VmState,
)
from rebalancer.cluster.sites import Link, Site

GIB = 1024**3

type Strategy[T] = st.SearchStrategy[T]

# Strategies are made once, here: making them takes longer than drawing from them.

_NAMES = st.text("abcxyz019-_.", min_size=1, max_size=6) | st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=3
)
_NAME_SETS = st.frozensets(_NAMES, max_size=2)
_NAME_TUPLES = st.lists(_NAMES, max_size=2).map(tuple)
_LABELS = st.dictionaries(
    st.sampled_from(["app", "env"]), st.sampled_from(["db", "web"])
) | st.dictionaries(_NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=3))
_CORES = st.floats(min_value=0.0, max_value=128.0)
_AMOUNTS = st.floats(min_value=0.0, max_value=1e12)
_SAMPLES = _CORES | st.just(float("nan"))
_BYTES = st.integers(0, 512 * GIB)
_INSTANTS = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone itself)
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
_HUGEPAGES = st.tuples(
    st.sampled_from([2**21, 2**30]), st.integers(0, 4096), st.integers(0, 4096)
).map(
    lambda drawn: HugepagePool(
        page_bytes=drawn[0], total_pages=max(drawn[1:]), free_pages=min(drawn[1:])
    )
)
_NUMBERS = st.integers(0, 70)
_NUMA_NODES = st.builds(
    NumaNode,
    cpu_cores=st.sampled_from([1.0, 8.0, 64.0]),
    memory_bytes=st.integers(0, 64 * GIB),
    number=st.none() | _NUMBERS,
    hugepages=st.lists(_HUGEPAGES, max_size=1).map(tuple),
    host_nodes=st.lists(_NUMBERS, max_size=2).map(tuple),
)
_DEVICES = st.dictionaries(_NAMES, st.integers(0, 3), max_size=2)

_LOCAL_DISKS = st.builds(
    LocalDisk,
    target=_NAMES,
    capacity_bytes=_BYTES,
    path=st.just("/var/lib/libvirt/images/a.qcow2"),
    format=st.sampled_from(["qcow2", "raw"]),
    allocated_bytes=st.none() | _BYTES,
    obstacle=st.sampled_from(["", "it is encrypted"]),
)

_HOST_FACTS: Strategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "cpu_cores": st.floats(0.1, 1024.0),
        "memory_bytes": st.integers(1, 4096 * GIB),
        "state": st.sampled_from(HostState),
    },
    # Left out: the noun's default
    optional={
        "rack": _NAMES,
        "state_reason": st.just("no answer within 15 s"),
        "cpu_used_cores": _CORES,
        "cpu_model": st.sampled_from(["EPYC-Milan", "Nehalem"]),
        "cpu_models": _NAME_TUPLES,
        "cpu_features": _NAME_SETS,
        "arch": st.sampled_from(["x86_64", "aarch64"]),
        "machine_types": _NAME_TUPLES,
        "nic_bytes_per_second": st.floats(1.0, 1e11),
        "labels": _LABELS,
        "storage": _NAME_SETS,
        "networks": _NAME_SETS,
        "idle_watts": st.floats(0.0, 100.0),
        "max_watts": st.floats(100.0, 1000.0),
        "numa_nodes": st.lists(_NUMA_NODES, max_size=2).map(tuple),
        "hugepages": st.lists(_HUGEPAGES, max_size=2).map(tuple),
        "devices": _DEVICES,
        "disk_pools": st.dictionaries(_NAMES, _BYTES, max_size=2),
        "disk_files": st.frozensets(_NAMES, max_size=2),
        "tsc_hertz": st.floats(1e9, 5e9),
        "tsc_scales": st.booleans(),
    },
)

_VM_FACTS: Strategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "name": _NAMES,
        "memory_bytes": st.integers(1, 512 * GIB),
        "vcpus": st.integers(1, 128),
        "state": st.sampled_from(VmState),
        "cpu_used_cores": _CORES,
    },
    optional={
        "resident_bytes": _BYTES,
        "dirty_bytes_per_second": _AMOUNTS,
        "working_set_bytes": _BYTES,
        "labels": _LABELS,
        "storage": _NAME_SETS,
        "networks": _NAME_SETS,
        "local_disk_bytes": _BYTES,
        "local_disks": st.lists(_LOCAL_DISKS, max_size=2).map(tuple),
        "disk_write_bytes_per_second": _AMOUNTS,
        "cpu_model": _NAMES,
        "cpu_features": _NAME_SETS,
        "arch": st.sampled_from(["x86_64", "aarch64"]),
        "machine_type": _NAMES,
        "numa_nodes": st.lists(_NUMA_NODES, max_size=2).map(tuple),
        "hugepage_bytes": st.sampled_from([2**21, 2**30]),
        "devices": _DEVICES,
        "tsc_hertz": st.floats(1e9, 5e9),
        "pinned_cpus": st.frozensets(_NUMBERS, max_size=2),
        "movable": st.booleans(),
        "blockers": _NAME_TUPLES,
        "autostart": st.booleans(),
        "persistent": st.booleans(),
        "allowed_modes": st.frozensets(st.sampled_from(Mode)),
        "max_downtime_seconds": st.floats(0.0, 60.0),
    },
)

_BY_HOUR = st.just(()) | st.tuples(*[st.sampled_from([0.0, 0.1, 0.25, 400.0])] * 24)

_SITE_FACTS: Strategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "energy_price_per_kwh": st.floats(0.0, 10.0),
        "energy_price_per_kwh_by_hour": _BY_HOUR,
        "carbon_g_per_kwh": st.floats(0.0, 2000.0),
        "carbon_g_per_kwh_by_hour": _BY_HOUR,
        # Whole microseconds, as anybody would measure them
        "latency_seconds": st.dictionaries(
            _NAMES, st.integers(0, 10**7).map(lambda us: us / 1_000_000), max_size=2
        ),
    },
)


def names() -> Strategy[str]:
    """Names that a file may hold: any printable text, and quotes, spaces and signs too."""
    return _NAMES


def labels() -> Strategy[dict[str, str]]:
    """A few labels, often the same ones, so that selectors find something."""
    return _LABELS


@st.composite
def hosts(
    draw: st.DrawFn, /, *, name: str | None = None, sites: Sequence[str] = (), **fixed: Any
) -> Host:
    """A host; `fixed` facts are taken as they are. One that works has CPU and memory."""
    facts = draw(_HOST_FACTS) | fixed
    if facts["state"] is HostState.UNKNOWN and draw(st.booleans()):
        facts |= {"cpu_cores": 0.0, "memory_bytes": 0}
    facts.setdefault("site", draw(st.none() | st.sampled_from(list(sites))) if sites else None)
    facts.setdefault(
        "reserved_memory_bytes", draw(st.sampled_from([0, facts["memory_bytes"] // 4]))
    )
    identity = name if name is not None else draw(_NAMES)
    return Host(**({"id": HostId(identity), "name": identity} | facts))


@st.composite
def vms(draw: st.DrawFn, /, *, name: str | None = None, on: str = "h1", **fixed: Any) -> Vm:
    """A VM on host `on`; `fixed` facts are taken as they are."""
    facts = draw(_VM_FACTS) | ({} if name is None else {"name": name}) | fixed
    return Vm(**({"id": VmId(facts["name"]), "host": HostId(on)} | facts))


@st.composite
def usage_histories(
    draw: st.DrawFn, snapshot_vms: Sequence[Vm], snapshot_hosts: Sequence[Host], ends_by: datetime
) -> UsageHistory:
    """A history of some of the VMs and hosts, with samples missing here and there."""
    length = draw(st.integers(0, 4))
    samples = st.lists(_SAMPLES, min_size=length, max_size=length)

    def series() -> NDArray[np.float64]:
        return np.array(draw(samples), dtype=float)

    interval_seconds = draw(st.floats(1.0, 86400.0))
    return UsageHistory(
        start=ends_by - timedelta(seconds=math.ceil(length * interval_seconds)),
        interval_seconds=interval_seconds,
        vm_cpu_cores={vm.id: series() for vm in snapshot_vms if draw(st.booleans())},
        host_cpu_cores={host.id: series() for host in snapshot_hosts if draw(st.booleans())},
    )


@st.composite
def snapshots(draw: st.DrawFn, *, max_hosts: int = 4, max_vms: int = 8) -> Snapshot:
    """A consistent snapshot: ids are unique, VMs are on hosts, links join sites."""
    site_names = draw(st.lists(_NAMES, unique=True, max_size=3))
    host_names = draw(st.lists(_NAMES, unique=True, min_size=1, max_size=max_hosts))
    vm_ids = draw(st.lists(_NAMES, unique=True, max_size=max_vms))
    all_hosts = [draw(hosts(name=name, sites=site_names)) for name in host_names]
    places = st.sampled_from(host_names)
    all_vms = [draw(vms(on=draw(places), id=VmId(identity))) for identity in vm_ids]
    pairs = [(a, b) for i, a in enumerate(site_names) for b in site_names[i + 1 :]]
    taken_at = draw(_INSTANTS)
    return Snapshot(
        cluster=draw(_NAMES),
        taken_at=taken_at,
        hosts=tuple(all_hosts),
        vms=tuple(all_vms),
        sites=tuple(Site(name=name, **draw(_SITE_FACTS)) for name in site_names),
        links=tuple(
            Link(
                name=f"wan{i}",
                bytes_per_second=draw(st.floats(1.0, 1e11)),
                between=pair,
                price_per_gib=draw(st.sampled_from([0.0, 0.02])),
                carbon_g_per_gib=draw(st.sampled_from([0.0, 5.0])),
            )
            for i, pair in enumerate(pairs)
        ),
        usage=draw(usage_histories(all_vms, all_hosts, taken_at)) if draw(st.booleans()) else None,
    )
