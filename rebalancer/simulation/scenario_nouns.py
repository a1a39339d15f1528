"""Sections of a scenario file -> the values that a datacentre is built from.

One section may stand for several hosts or VMs; whether what they name exists is judged in
`scenario`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import cycle

from rebalancer.cluster.disks import LocalDisk
from rebalancer.cluster.inventory import Host, HostId, Vm, VmId
from rebalancer.cluster.sites import Link, Rack, Site
from rebalancer.simulation.day import Day, DayExpectations
from rebalancer.simulation.expectations import Between, Expectations
from rebalancer.simulation.faults import Fault
from rebalancer.simulation.names import expand
from rebalancer.simulation.scenario_file import (
    Cpu,
    DaySection,
    ExpectSection,
    FaultSection,
    HostSection,
    LinkSection,
    RackSection,
    Range,
    RangeSection,
    SamplesSection,
    SiteSection,
    StepsSection,
    VmSection,
    WaveSection,
)
from rebalancer.simulation.specification import GuestSpec, HostSpec, memory_use_of
from rebalancer.simulation.traces import Constant, CpuTrace, Recorded, Steps, Wave

_HOUR_SECONDS = 3600.0
FOLDER = "/var/lib/libvirt/images"
"""Where simulated hosts have the files of local disks."""


def site(section: SiteSection) -> Site:
    """Return the noun."""
    return Site(
        name=section.name,
        energy_price_per_kwh=section.energy_price_per_kwh,
        energy_price_per_kwh_by_hour=section.energy_price_per_kwh_by_hour,
        carbon_g_per_kwh=section.carbon_g_per_kwh,
        carbon_g_per_kwh_by_hour=section.carbon_g_per_kwh_by_hour,
        latency_seconds=section.latency,
    )


def link(section: LinkSection) -> Link:
    """Return the noun."""
    return Link(
        name=section.name,
        bytes_per_second=section.bandwidth,
        between=section.between,
        price_per_gib=section.price_per_gib,
        carbon_g_per_gib=section.carbon_g_per_gib,
    )


def rack(section: RackSection) -> Rack:
    """Return the noun."""
    return Rack(name=section.name, uplink_bytes_per_second=section.uplink)


def host_specs(section: HostSection, start: datetime) -> Iterator[HostSpec]:
    """Yield the host, or the hosts, that a section stands for."""
    for name in expand(section.name):
        yield HostSpec(
            host=Host(
                id=HostId(name),
                name=name,
                cpu_cores=section.cpu_cores,
                memory_bytes=section.memory,
                reserved_memory_bytes=section.reserved_memory,
                site=section.site,
                rack=section.rack,
                state=section.state,
                cpu_model=section.cpu_model,
                cpu_models=section.cpu_models,
                arch=section.arch,
                nic_bytes_per_second=section.nic,
                labels=section.labels,
                storage=_known(section.storage),
                networks=_known(section.networks),
                disk_pools=None if section.disk_room is None else {FOLDER: section.disk_room},
                devices=section.devices,
                idle_watts=section.idle_watts,
                max_watts=section.max_watts,
            ),
            base_cpu=trace(section.cpu, start),
        )


def guest_specs(section: VmSection, start: datetime) -> Iterator[GuestSpec]:
    """Yield the VM, or the VMs, that a section stands for, dealt to its hosts in turn."""
    hosts = cycle(expanded([section.on] if isinstance(section.on, str) else section.on))
    for name, host in zip(expand(section.name), hosts, strict=False):
        vm = _vm(section, name, host)
        yield GuestSpec(
            vm=vm,
            cpu=trace(section.cpu, start),
            memory=memory_use_of(vm, section.writes),
            dirty_rate_known=section.dirty_known,
            shutdown_seconds=section.shutdown,
        )


def _vm(section: VmSection, name: str, host: str) -> Vm:
    modes = section.allowed_modes
    return Vm(
        id=VmId(name),
        name=name,
        host=HostId(host),
        memory_bytes=section.memory,
        vcpus=section.vcpus,
        state=section.state,
        resident_bytes=section.memory if section.resident is None else section.resident,
        dirty_bytes_per_second=section.dirty,
        working_set_bytes=section.working_set,
        labels=section.labels,
        storage=frozenset(section.storage),
        networks=frozenset(section.networks),
        devices=section.devices,
        local_disk_bytes=section.local_disk,
        local_disks=_local_disks(section, name),
        disk_write_bytes_per_second=section.disk_writes if section.local_disk else None,
        cpu_model=section.cpu_model,
        arch=section.arch,
        machine_type=section.machine_type,
        movable=section.movable,
        blockers=section.blockers,
        autostart=section.autostart,
        persistent=section.persistent,
        allowed_modes=None if modes is None else frozenset(modes),
        max_downtime_seconds=section.max_downtime,
    )


def _local_disks(section: VmSection, name: str) -> tuple[LocalDisk, ...]:
    if not section.local_disk:
        return ()
    path, size = f"{FOLDER}/{name}.qcow2", section.local_disk
    return (LocalDisk(target="vda", capacity_bytes=size, path=path, format="qcow2"),)


def trace(cpu: Cpu, start: datetime) -> CpuTrace:
    """Return the CPU use that `cpu` describes, from `start` on."""
    match cpu:
        case WaveSection():
            midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
            peak = cpu.peak_hour * _HOUR_SECONDS - (start - midnight).total_seconds()
            return Wave(mean_cores=cpu.mean, amplitude_cores=cpu.amplitude, peak_seconds=peak)
        case StepsSection():
            return Steps(steps=tuple(sorted(cpu.steps)))
        case SamplesSection():
            return Recorded(interval_seconds=cpu.every, cores=cpu.samples)
        case _:
            return Constant(cores=cpu)


def fault(section: FaultSection) -> Fault:
    """Return the fault; raise `ValueError` if it could never strike."""
    return Fault(
        kind=section.kind,
        vm=None if section.vm is None else VmId(section.vm),
        host=None if section.host is None else HostId(section.host),
        link=section.link,
        stage=section.stage,
        at_seconds=section.at,
        after_seconds=section.after,
        duration_seconds=section.duration,
        factor=section.factor,
        operation=section.operation,
        code=section.code,
        text=section.text,
    )


def expectations(section: ExpectSection) -> Expectations:
    """Return what is expected."""
    return Expectations(
        verdict=section.verdict,
        exit_code=section.exit_code,
        migrations=_between(section.migrations),
        modes={name: mode for each, mode in section.modes.items() for name in expand(each)},
        mode_counts={
            mode: wanted
            for mode, numbers in section.mode_counts.items()
            if (wanted := _between(numbers)) is not None
        },
        all_complete=section.all_complete,
        outcomes={n: state for each, state in section.outcomes.items() for n in expand(each)},
        unmoved=expanded(section.unmoved),
        stay=expanded(section.stay),
        on=_places(section.on),
        apart=tuple(expanded(group) for group in section.apart),
        hottest_host_cpu_ratio=section.hottest_host_cpu,
        cpu_spread_ratio=section.cpu_spread,
        empty_hosts=expanded(section.empty_hosts),
        hosts_free_to_sleep=_between(section.hosts_free_to_sleep),
        hosts_asleep=_between(section.hosts_asleep),
        two_step_moves=_between(section.two_step_moves),
        longest_downtime_seconds=section.longest_downtime,
        makespan_seconds=section.makespan,
        makespan_error_ratio=section.makespan_error,
        no_violations=section.no_violations,
    )


def day(section: DaySection | None) -> Day | None:
    """Return how long the policy is looked after, and what should come of that."""
    if section is None:
        return None
    return Day(
        every_seconds=section.every,
        lasts_seconds=section.lasts,
        sleep_after_cycles=section.sleep_after_cycles,
        cannot_wake=expanded(section.cannot_wake),
        expect=DayExpectations(
            slept=_between(section.expect.slept),
            woken=_between(section.expect.woken),
            energy_saved_ratio=section.expect.energy_saved,
            fewest_awake=_between(section.expect.fewest_awake),
            quarantined=expanded(section.expect.quarantined),
        ),
    )


def expanded(names: Iterable[str]) -> tuple[str, ...]:
    """Return all names that these patterns stand for."""
    return tuple(name for each in names for name in expand(each))


def _places(on: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {
        name: expanded([hosts] if isinstance(hosts, str) else hosts)
        for each, hosts in on.items()
        for name in expand(each)
    }


def _between(numbers: Range | None) -> Between | None:
    if numbers is None:
        return None
    if isinstance(numbers, RangeSection):
        return Between(at_least=numbers.at_least, at_most=numbers.at_most)
    return Between(at_least=numbers, at_most=numbers)


def _known(names: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
