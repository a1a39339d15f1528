"""A large cluster drawn at random: the same one for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rebalancer.files import FileModel
from rebalancer.simulation.scenario_file import (
    GeneratedHosts,
    GeneratedVms,
    GenerateSection,
    HostSection,
    HostTraits,
    VmSection,
    VmTraits,
)

_MOST_FULL_RATIO = 0.92
"""No host is filled further with memory or CPU, so that something can move at all."""


def generate(section: GenerateSection) -> tuple[tuple[HostSection, ...], tuple[VmSection, ...]]:
    """Draw hosts and VMs, and put the VMs on hosts, more on some than on others.

    The hosts' attraction is log-normal with σ = `crowding`; a VM goes to a host drawn by
    attraction that still has room for it. Raises `ValueError` when the VMs do not fit.
    """
    rng = np.random.default_rng(section.seed)
    hosts = tuple(host for group in section.hosts for host in _hosts(group))
    drawn = [vm for group in section.vms for vm in _draw_vms(group, rng)]
    attraction = rng.lognormal(0.0, section.crowding, len(hosts))
    free_memory = np.array([(h.memory - h.reserved_memory) * _MOST_FULL_RATIO for h in hosts])
    free_cores = np.array([h.cpu_cores * _MOST_FULL_RATIO for h in hosts])
    vms = []
    for index in rng.permutation(len(drawn)):
        vm = drawn[index]
        assert isinstance(vm.cpu, int | float), "generated VMs have constant use"
        weights = attraction * (free_memory >= vm.memory) * (free_cores >= vm.cpu)
        if not weights.any():
            raise ValueError(f"the generated VMs do not fit on the hosts, such as {vm.name}")
        host = int(rng.choice(len(hosts), p=weights / weights.sum()))
        free_memory[host] -= vm.memory
        free_cores[host] -= vm.cpu
        vms.append(vm.model_copy(update={"on": hosts[host].name}))
    return hosts, tuple(sorted(vms, key=lambda vm: vm.name))


def _hosts(group: GeneratedHosts) -> Sequence[HostSection]:
    width = len(str(group.count))
    traits = _traits(group, HostTraits)
    return [
        HostSection(
            **{
                **traits,
                "name": f"{group.name}{number:0{width}d}",
                "rack": f"r{number % group.racks + 1}" if group.racks else group.rack,
            }
        )
        for number in range(1, group.count + 1)
    ]


def _draw_vms(group: GeneratedVms, rng: np.random.Generator) -> Sequence[VmSection]:
    width = len(str(group.count))
    vcpus = rng.choice(group.vcpus, group.count)
    memory = rng.choice(group.memory, group.count)
    busy = rng.uniform(*group.cpu, group.count)
    dirty = rng.uniform(*group.dirty, group.count)
    hot = rng.uniform(*group.working_set, group.count)
    traits = _traits(group, VmTraits)
    return [
        VmSection(
            **traits,
            name=f"{group.name}{number + 1:0{width}d}",
            on="?",
            vcpus=int(vcpus[number]),
            memory=int(memory[number]),
            cpu=round(float(busy[number] * vcpus[number]), 3),
            dirty=float(int(dirty[number])),
            working_set=int(hot[number] * memory[number]),
        )
        for number in range(group.count)
    ]


def _traits(section: FileModel, traits: type[FileModel]) -> dict[str, Any]:
    return {key: getattr(section, key) for key in traits.model_fields}
