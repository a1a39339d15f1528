"""A VM as pre-copy sees it: what was measured of its memory, and what is assumed if nothing was."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rebalancer.cluster.inventory import Vm, VmState
from rebalancer.cluster.prediction import Confidence
from rebalancer.planning.wording import MIB

DEFAULT_DIRTY_BYTES_PER_SECOND_PER_VCPU = 25 * MIB
DEFAULT_DIRTY_SHARE_PER_SECOND = 0.01
"""Unknown is not zero: 25 MiB/s a vCPU is a busy application server. But no guest is assumed
to rewrite more than 1 % of its memory a second, which keeps small guests small."""

PROBE_SECONDS = 1.0
SATURATED_PROBE_RATIO = 0.9
"""A probe of one second that found nine tenths of the working set dirty says that the set is
written at least once a second, not how often."""

DIRTY_SAFETY = 1.1
"""A measured dirty rate is this uncertain even as a median of several samples, and so near to
its bandwidth pre-copy may take any time: what decides is 10 % more than was measured."""


NINE_OF_TEN = 1.28
"""So many standard errors above what was measured nine of ten true values are below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A VM as pre-copy sees it."""

    memory_bytes: float
    """What has to be sent at least once: memory that is backed and not zero."""
    dirty_bytes_per_second: float
    working_set_bytes: float
    dirty_error_bytes_per_second: float = 0.0
    """One standard error of the measurement."""
    confidence: Confidence = Confidence.HIGH


def guest_of(vm: Vm) -> Guest:
    """Take from a VM what pre-copy needs to know, and assume what nobody measured.

    A working set that is unknown is the whole memory; a dirty rate that is unknown is that of
    a busy guest of the VM's size. A guest that stands still writes nothing.
    """
    memory = float(vm.memory_bytes if vm.resident_bytes is None else vm.resident_bytes)
    if vm.state is not VmState.RUNNING:
        return Guest(memory_bytes=memory, dirty_bytes_per_second=0.0, working_set_bytes=0.0)
    rate = vm.dirty_bytes_per_second
    working_set = memory if vm.working_set_bytes is None else float(vm.working_set_bytes)
    return Guest(
        memory_bytes=memory,
        dirty_bytes_per_second=_assumed_dirty_rate(vm) if rate is None else rate,
        working_set_bytes=min(working_set, memory),
        dirty_error_bytes_per_second=0.0 if rate is None else vm.dirty_error_bytes_per_second,
        confidence=_confidence(rate, vm.working_set_bytes),
    )


def _assumed_dirty_rate(vm: Vm) -> float:
    return min(
        float(DEFAULT_DIRTY_BYTES_PER_SECOND_PER_VCPU * vm.vcpus),
        DEFAULT_DIRTY_SHARE_PER_SECOND * vm.memory_bytes,
    )


def _confidence(rate: float | None, working_set: int | None) -> Confidence:
    if rate is None:
        return Confidence.LOW
    if working_set is None:
        return Confidence.MEDIUM
    saturated = rate * PROBE_SECONDS >= SATURATED_PROBE_RATIO * working_set > 0
    return Confidence.LOW if saturated else Confidence.HIGH


def more_active(guest: Guest) -> Guest:
    """The guest as it may be, given how well dirty rates are known.

    What was seen of few pages may be off by more than a tenth, and so may the size of the set
    that they belong to.
    """
    rate, error = guest.dirty_bytes_per_second, NINE_OF_TEN * guest.dirty_error_bytes_per_second
    larger = 1 + error / rate if rate > 0 else 1.0
    return replace(
        guest,
        dirty_bytes_per_second=max(DIRTY_SAFETY * rate, rate + error),
        working_set_bytes=max(
            guest.working_set_bytes, min(larger * guest.working_set_bytes, guest.memory_bytes)
        ),
    )
