"""Amounts of what hosts have, written with their units."""

from __future__ import annotations

from rebalancer.placement.problem import Resource

GIB = 1024**3

WORDS = {
    Resource.MEMORY: "memory",
    Resource.CPU: "CPU",
    Resource.VCPUS: "vCPUs",
    Resource.CORES: "cpu",
    Resource.VMS: "VMs",
    Resource.NOW: "CPU used now",
}
"""What resources are called in reports."""


def amount_text(resource: Resource, amount: float) -> str:
    """Write an amount of a resource: `4.0 GiB`, `2.5 cores`, `8 vCPUs`."""
    if resource is Resource.MEMORY:
        return f"{amount / GIB:.1f} GiB"
    if resource in (Resource.CPU, Resource.CORES, Resource.NOW):
        return f"{amount:.1f} cores"
    return f"{amount:.0f} vCPUs"


def percent_text(ratio: float) -> str:
    """Write a ratio in per cent: `91 %`."""
    return f"{100 * ratio:.0f} %"
