"""A datacentre in memory, on a virtual clock.

Time passes only in `advance`. While memory is being sent it passes in short steps, at the
rates that sharing the network allows; idle time is jumped over. What hypervisors do when
asked is in `hypervisors`, one migration's life in `migration`, faults in `faults` and
`fault_effects`, what really happened in `Datacentre.record`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, Self

import numpy as np

from rebalancer.cluster.inventory import (
    HostId,
    HostState,
    Snapshot,
    Vm,
    VmId,
    VmState,
)
from rebalancer.rollout.driver import Command
from rebalancer.rollout.sightings import StateReason, TransferProgress
from rebalancer.simulation import fault_effects, hypervisors
from rebalancer.simulation.calls import Call
from rebalancer.simulation.faults import Fault, FaultScript, Stage
from rebalancer.simulation.hosts import SimulatedHost
from rebalancer.simulation.migration import SimulatedMigration, rng_of
from rebalancer.simulation.network import Carrier, Nic, Uplink, Wan, Way, share_fairly
from rebalancer.simulation.record import Record
from rebalancer.simulation.specification import DatacentreSpec, GuestSpec, specification_of
from rebalancer.simulation.world import SavedImage

_SHORTEST_STEP_SECONDS = 1e-6


class _Event(NamedTuple):
    at_seconds: float
    number: int
    """Events of one instant happen in the order in which they were scheduled."""
    action: Callable[[], None]


class Datacentre:
    """Hosts, guests and links, and everything that is going on between them."""

    def __init__(self, spec: DatacentreSpec) -> None:
        """Start every guest where the specification says it is."""
        self.spec = spec
        self.timings = spec.timings
        self.seconds = 0.0
        """Virtual time since the start."""
        self.record = Record()
        self.guests: dict[VmId, GuestSpec] = {guest.vm.id: guest for guest in spec.guests}
        self.hosts: dict[HostId, SimulatedHost] = {
            host.host.id: SimulatedHost(host, self._note) for host in spec.hosts
        }
        self.migrations: list[SimulatedMigration] = []
        self.results: dict[tuple[HostId, VmId], TransferProgress] = {}
        """Statistics of ended migrations, by the host that keeps them."""
        self.images: dict[tuple[str, str], SavedImage] = {}
        """Guests' memories in files, by storage and name."""
        self.disk_files: set[tuple[HostId, str]] = {
            (guest.vm.host, disk.path) for guest in spec.guests for disk in guest.vm.local_disks
        }
        """Files of disks that only one host reaches."""
        self.made_files: dict[tuple[HostId, str], int] = {}
        """Those of them that were made since the start, with what they may come to take up."""
        self.faults = FaultScript(spec.faults)
        self.paces: dict[VmId, float] = {}
        """How many times as fast as usual a guest writes just now."""
        self._events: list[_Event] = []
        self._event_count = 0
        self._attempts: Counter[VmId] = Counter()
        self._pending_calls: list[Call] = []
        self._map = Snapshot(
            cluster=spec.cluster,
            taken_at=spec.start,
            hosts=tuple(host.host for host in spec.hosts),
            vms=(),
            sites=spec.sites,
            links=spec.links,
            racks=spec.racks,
        )
        self._capacities = _capacities(self._map)
        self._working_shares: dict[Carrier, float] = {}
        self._rates: dict[VmId, float] | None = None
        self._place_guests()
        for fault in self.faults.timed:
            self.schedule(fault.at_seconds or 0.0, partial(fault_effects.strike, self, fault, None))
        self.advance(0.0)

    @classmethod
    def of(cls, snapshot: Snapshot, *, faults: Sequence[Fault] = (), seed: int = 0) -> Self:
        """Make a datacentre that looks like `snapshot`."""
        return cls(specification_of(snapshot, faults=faults, seed=seed))

    @property
    def now(self) -> datetime:
        """The present instant of virtual time."""
        return self.spec.start + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that happens meanwhile."""
        end = self.seconds + seconds
        self._happen()
        while self.seconds < end:
            self._pass_until(min(end, self._next_instant()))
            self._happen()

    def schedule(self, delay_seconds: float, action: Callable[[], None]) -> None:
        """Let `action` happen after a while."""
        self._event_count += 1
        event = _Event(self.seconds + delay_seconds, self._event_count, action)
        heapq.heappush(self._events, event)

    def ask(self, command: Command) -> Call:
        """Issue a call to the hypervisor that `command` is about; the answer comes later."""
        call = Call(command, self.seconds)
        self._pending_calls.append(call)
        hypervisors.receive(self, call)
        return call

    def begin_migration(self, migration: SimulatedMigration) -> None:
        """Know a migration whose target is being set up."""
        self.migrations.append(migration)
        self._attempts[migration.vm] += 1
        self._note_concurrency()
        self.strike(Stage.REQUEST, migration)
        self.schedule(self.timings.request_seconds, migration.begin_transfer)

    def forget(self, migration: SimulatedMigration) -> None:
        """Know an ended migration no more."""
        self.migrations.remove(migration)
        self._rates = None

    def migration_of(self, vm: VmId) -> SimulatedMigration | None:
        """Return the VM's migration, if one is under way."""
        return next((found for found in self.migrations if found.vm == vm), None)

    def pending_calls(self, host: HostId) -> tuple[Call, ...]:
        """Return calls to a host that wait for their answer."""
        self._pending_calls = [call for call in self._pending_calls if call.is_waiting]
        return tuple(
            call for call in self._pending_calls if host in hypervisors.hosts_asked(call.command)
        )

    def strike(self, stage: Stage, migration: SimulatedMigration) -> None:
        """Let faults strike that waited for `migration` to reach `stage`."""
        self._rates = None
        for fault in self.faults.take(stage, migration.vm, migration.hosts):
            self.let_strike(fault, migration)

    def let_strike(self, fault: Fault, migration: SimulatedMigration | None) -> None:
        """Let a fault happen whose time has come, or that long after."""
        effect = partial(fault_effects.strike, self, fault, migration)
        if fault.after_seconds > 0:
            self.schedule(fault.after_seconds, effect)
        else:
            effect()

    def rng_for(self, vm: VmId) -> np.random.Generator:
        """Return random numbers for this attempt at moving the VM."""
        return rng_of(self.spec.seed, vm, self._attempts[vm])

    def rates_changed(self) -> None:
        """Share the network anew: a cap, a link or a path changed."""
        self._rates = None

    def path(self, source: HostId, target: HostId) -> tuple[Carrier, ...]:
        """Return what bytes from one host to another pass."""
        from_host, to_host = self.hosts[source].facts, self.hosts[target].facts
        links = self._map.links_between(from_host, to_host)
        up, down = self._map.uplinks_between(from_host, to_host)
        return (
            Nic(source, Way.OUT),
            *((Uplink(up.name, Way.OUT),) if up is not None else ()),
            *((Uplink(down.name, Way.IN),) if down is not None else ()),
            *(Wan(link.name, from_host.site or "") for link in links),
            Nic(target, Way.IN),
        )

    def set_working_share(self, carriers: tuple[Carrier, ...], share: float) -> None:
        """Let NICs or links carry only a share of what they should; 0 cuts them."""
        was_cut = {id(m) for m in self.migrations if self.is_cut(*m.hosts)}
        for carrier in carriers:
            self._working_shares[carrier] = share
        self.rates_changed()
        for migration in tuple(self.migrations):
            is_cut = self.is_cut(*migration.hosts)
            if is_cut and id(migration) not in was_cut:
                self.schedule(self.timings.keepalive_seconds, migration.keepalive_expired)
            elif not is_cut and id(migration) in was_cut:
                migration.link_is_back()

    def carriers_of(self, host: HostId | None, link: str | None) -> tuple[Carrier, ...]:
        """Return both directions of a host's NIC or of a link."""
        return tuple(
            carrier
            for carrier in self._capacities
            if (isinstance(carrier, Nic) and carrier.host == host)
            or (isinstance(carrier, Wan) and carrier.link == link)
        )

    def is_cut(self, source: HostId, target: HostId) -> bool:
        """Whether nothing gets from one host to the other, or back."""
        both = (*self.path(source, target), *self.path(target, source))
        powered = self.hosts[source].powered and self.hosts[target].powered
        return not powered or any(self._working_shares.get(c, 1.0) == 0 for c in both)

    def state_of(self, host: SimulatedHost) -> HostState:
        """Return the host's state as far as the controller can know it."""
        if host.asleep:
            return HostState.ASLEEP
        if not self.answers(host.id):
            return HostState.UNKNOWN
        # One that slept at the beginning was woken since.
        return HostState.UP if host.facts.state is HostState.ASLEEP else host.facts.state

    def answers(self, host: HostId) -> bool:
        """Whether the controller gets an answer from the host."""
        found = self.hosts[host]
        return found.powered and self.seconds >= found.unreachable_until

    def fits(self, host: SimulatedHost, memory_bytes: int) -> bool:
        """Whether the host has memory for one more guest."""
        return host.used_memory_bytes + memory_bytes <= self._memory_limit(host)

    def is_locked(self, vm: VmId) -> bool:
        """Whether a running copy holds the lock on the VM's shared disk."""
        return bool(self.guests[vm].vm.storage) and bool(self.record.running_on(vm))

    def put_to_sleep(self, host: HostId) -> None:
        """Power an empty host off to save energy."""
        found = self.hosts[host]
        if found.used_memory_bytes:
            raise ValueError(f"{host} still has VMs; powering it off would kill them")
        found.asleep, found.powered = True, False

    def wake(self, host: HostId) -> None:
        """Power a host on; it answers after it has booted."""
        found = self.hosts[host]
        found.asleep, found.powered = False, True
        found.unreachable_until = self.seconds + self.timings.boot_seconds

    def _memory_limit(self, host: SimulatedHost) -> float:
        return host.facts.guest_memory_bytes * self.spec.memory_overcommit

    def _place_guests(self) -> None:
        for guest in self.spec.guests:
            self._place_guest(guest.vm)

    def _place_guest(self, vm: Vm) -> None:
        host = self.hosts[vm.host]
        if vm.persistent:
            host.define(vm.id, vm.memory_bytes, autostart=vm.autostart)
        if vm.is_active:
            host.begin_process(vm.id, vm.memory_bytes, vm.state, StateReason.OTHER)
        elif vm.state is VmState.CRASHED and vm.persistent:
            host.domains[vm.id].off_reason = StateReason.CRASHED

    def _note(self, vm: VmId, host: HostId, what: str, runs: bool) -> None:
        self.record.note(self.seconds, vm, host, what, runs=runs)
        found = self.hosts[host]
        self.record.note_memory(host, found.used_memory_bytes)
        self.record.overload(
            self.seconds,
            f"the memory of {host}",
            found.used_memory_bytes,
            self._memory_limit(found),
        )

    def _happen(self) -> None:
        """Let everything happen that is due."""
        while self._events and self._events[0].at_seconds <= self.seconds:
            heapq.heappop(self._events).action()

    def _next_instant(self) -> float:
        """Return when something happens, or has to be looked at, next."""
        event = self._events[0].at_seconds if self._events else float("inf")
        rates = self._fair_rates()
        steps = (
            migration.flow.longest_step_seconds(rates[migration.vm])
            for migration in self.migrations
            if migration.is_flowing and migration.flow is not None
        )
        step = max(_SHORTEST_STEP_SECONDS, min(steps, default=float("inf")))
        return min(event, self.seconds + step)

    def _pass_until(self, instant: float) -> None:
        step, rates = instant - self.seconds, self._fair_rates()
        flowing = [migration for migration in self.migrations if migration.is_flowing]
        for migration in flowing:
            assert migration.flow is not None, "what flows has begun"
            sent = migration.flow.advance(step, rates[migration.vm])
            for carrier in migration.path:
                self.record.carried_bytes[carrier] += sent
        self.seconds = instant
        for migration in flowing:
            migration.move_on()
            if not migration.is_flowing:
                self._rates = None

    def _fair_rates(self) -> dict[VmId, float]:
        if self._rates is None:
            flowing = [migration for migration in self.migrations if migration.is_flowing]
            caps = {m.vm: self._cap_of(m) for m in flowing}
            paths = {m.vm: m.path for m in flowing}
            capacities = {
                carrier: self._capacities[carrier] * self._working_shares.get(carrier, 1.0)
                for path in paths.values()
                for carrier in path
            }
            self._rates = share_fairly(caps, paths, capacities)
            self._note_rates(caps, paths, capacities)
        return self._rates

    def _cap_of(self, migration: SimulatedMigration) -> float:
        """Return what it may use: nothing on a cut path, and 0 means no cap to libvirt."""
        if self.is_cut(*migration.hosts):
            return 0.0
        return migration.cap_bytes_per_second or float("inf")

    def _note_rates(
        self,
        caps: dict[VmId, float],
        paths: dict[VmId, tuple[Carrier, ...]],
        capacities: dict[Carrier, float],
    ) -> None:
        assert self._rates is not None, "rates were shared"
        granted: dict[Carrier, float] = defaultdict(float)
        used: dict[Carrier, float] = defaultdict(float)
        for vm, path in paths.items():
            for carrier in path:
                granted[carrier] += caps[vm]
                used[carrier] += self._rates[vm]
        self.record.note_rates(granted, used)
        for carrier, rate in used.items():
            self.record.overload(self.seconds, f"{carrier}", rate, capacities[carrier])

    def _note_concurrency(self) -> None:
        self.record.note_concurrency(
            Counter(migration.source.id for migration in self.migrations),
            Counter(migration.target.id for migration in self.migrations),
        )


def _capacities(snapshot: Snapshot) -> dict[Carrier, float]:
    nics: dict[Carrier, float] = {
        Nic(host.id, way): host.nic_bytes_per_second for host in snapshot.hosts for way in Way
    }
    wans: dict[Carrier, float] = {
        Wan(link.name, site): link.bytes_per_second
        for link in snapshot.links
        for site in link.between
    }
    uplinks: dict[Carrier, float] = {
        Uplink(rack.name, way): rack.uplink_bytes_per_second
        for rack in snapshot.racks
        for way in Way
    }
    return nics | wans | uplinks
