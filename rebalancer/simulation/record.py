"""What really happened: who ran where and when, and what hosts and links had to carry.

The record sees the truth, faults included, and not what a controller could find out. Tests
ask it for what must never happen: a VM running twice, memory or a link overfilled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rebalancer.cluster.inventory import HostId, VmId
from rebalancer.simulation.network import Carrier

_ROUNDING_RATIO = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A VM's state on one host became another one."""

    at_seconds: float
    vm: VmId
    host: HostId
    what: str
    """In words: `running (migrated)`, `shutoff (crashed)`, `gone`."""
    runs: bool
    """Whether its CPUs run on this host from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From when to when a VM ran on `hosts`: none, one, or, as must never be, two of them."""

    vm: VmId
    hosts: tuple[HostId, ...]
    begin_seconds: float
    end_seconds: float | None
    """`None`: until now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """More was put on a host or link than it has."""

    at_seconds: float
    what: str
    used: float
    capacity: float


class Record:
    """The log of a simulation, written as it goes."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.changes: list[Change] = []
        self.overloads: list[Overload] = []
        self.corrupted: list[str] = []
        """Guests that went on with memory older than their disks, in words."""
        self.carried_bytes: dict[Carrier, float] = defaultdict(float)
        self.peak_bytes_per_second: dict[Carrier, float] = defaultdict(float)
        self.peak_granted_bytes_per_second: dict[Carrier, float] = defaultdict(float)
        """Largest sum of the bandwidths granted to the transfers that shared a carrier."""
        self.peak_memory_bytes: dict[HostId, int] = defaultdict(int)
        """Largest memory that guests held at once, incoming copies included."""
        self.peak_out: dict[HostId, int] = defaultdict(int)
        self.peak_in: dict[HostId, int] = defaultdict(int)
        self.peak_migrations = 0
        self._running: dict[VmId, set[HostId]] = defaultdict(set)
        self._spans: dict[VmId, list[tuple[float, tuple[HostId, ...]]]] = defaultdict(list)

    def note(self, at_seconds: float, vm: VmId, host: HostId, what: str, *, runs: bool) -> None:
        """Write down a change of state."""
        change = Change(at_seconds=at_seconds, vm=vm, host=host, what=what, runs=runs)
        self.changes.append(change)
        (self._running[vm].add if runs else self._running[vm].discard)(host)
        hosts = tuple(sorted(self._running[vm]))
        spans = self._spans[vm]
        if spans and spans[-1][0] == at_seconds:
            # Of what changes at one instant only the last counts: a switch-over is no gap.
            spans.pop()
        if not spans or spans[-1][1] != hosts:
            spans.append((at_seconds, hosts))

    def overload(self, at_seconds: float, what: str, used: float, capacity: float) -> None:
        """Write down that something was overfilled, if it was."""
        if used > capacity * (1 + _ROUNDING_RATIO):
            self.overloads.append(
                Overload(at_seconds=at_seconds, what=what, used=used, capacity=capacity)
            )

    def spans(self, vm: VmId) -> tuple[Span, ...]:
        """Return where the VM ran, without gaps, from the beginning until now."""
        spans = self._spans.get(vm, [])
        ends = [*(begin for begin, _ in spans[1:]), None]
        return tuple(
            Span(vm=vm, hosts=hosts, begin_seconds=begin, end_seconds=end)
            for (begin, hosts), end in zip(spans, ends, strict=False)
        )

    def running_on(self, vm: VmId) -> tuple[HostId, ...]:
        """Return where the VM's CPUs run now: one host, if all is well."""
        return tuple(sorted(self._running.get(vm, ())))

    def doubled(self) -> tuple[Span, ...]:
        """Return every time that a VM ran on two hosts at once."""
        return tuple(
            span for vm in tuple(self._spans) for span in self.spans(vm) if len(span.hosts) > 1
        )

    def hosts_at(
        self, vm: VmId, begin_seconds: float, end_seconds: float
    ) -> set[tuple[HostId, ...]]:
        """Return everything that was true of where the VM ran within a stretch of time."""
        return {
            span.hosts
            for span in self.spans(vm)
            if span.begin_seconds <= end_seconds
            and (span.end_seconds is None or span.end_seconds >= begin_seconds)
        }

    def outages(self, vm: VmId) -> tuple[Span, ...]:
        """Return every time that the VM ran nowhere."""
        return tuple(span for span in self.spans(vm) if not span.hosts)

    def violations(self) -> tuple[str, ...]:
        """Say in words everything that should never have happened."""
        doubled = [
            f"{span.vm} ran on {' and '.join(span.hosts)} from second {span.begin_seconds:.1f} "
            + ("on" if span.end_seconds is None else f"to {span.end_seconds:.1f}")
            for span in self.doubled()
        ]
        overloads = [
            f"{load.what} had to carry {load.used:,.0f} of {load.capacity:,.0f} "
            f"at second {load.at_seconds:.1f}"
            for load in self.overloads
        ]
        return (*doubled, *overloads, *self.corrupted)

    def note_rates(self, granted: Mapping[Carrier, float], used: Mapping[Carrier, float]) -> None:
        """Keep the peaks of what was granted on each carrier, and of what flowed."""
        _raise_peaks(self.peak_granted_bytes_per_second, granted)
        _raise_peaks(self.peak_bytes_per_second, used)

    def note_memory(self, host: HostId, used_bytes: int) -> None:
        """Keep the peak of what guests held of a host's memory."""
        self.peak_memory_bytes[host] = max(self.peak_memory_bytes[host], used_bytes)

    def note_concurrency(self, out: Mapping[HostId, int], into: Mapping[HostId, int]) -> None:
        """Keep the peaks of how many migrations were under way at once."""
        _raise_peaks(self.peak_out, out)
        _raise_peaks(self.peak_in, into)
        self.peak_migrations = max(self.peak_migrations, sum(out.values()))


def _raise_peaks[K, N: (int, float)](peaks: dict[K, N], values: Mapping[K, N]) -> None:
    for key, value in values.items():
        peaks[key] = max(peaks[key], value)
