"""The data centre of the PlanetLab benchmark: hosts, VMs, CPU sharing, migrations and accounts.

It follows the power examples of CloudSim 3.0.3 (Beloglazov and Buyya, CCPE 24(13), 2012), quirks
included, and adds numbers in their order: decisions there hang on comparisons of sums. What is to
be moved, others decide (`planetlab_baselines`, `planetlab_product`); every 300 s they are asked.

MIPS are the unit of CPU, seconds of time. Host and VM are numbers; a VM's list position counts.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.planetlab_accounts import Accounts, Look, Result
from benchmarks.planetlab_hardware import (
    HOST_MEMORY_MB,
    HOST_MIPS,
    HOST_PE_MIPS,
    VM_MEMORY_MB,
    VM_MIPS,
    Bools,
    Floats,
    Ints,
    migration_seconds,
)

type Move = tuple[int, int]
"""A VM and the host that it is to go to."""

HOSTS = 800
INTERVAL_SECONDS = 300.0
FIRST_SECONDS = 0.1
"""The clock of the examples is this much off the samples, which lets each see a bit of the next."""
HISTORY_SAMPLES = 30
LEAST_SAMPLES = 3
"""With fewer there is one decision at most, and no time to account for."""
OUTGOING_SHARE, INCOMING_SHARE = 0.9, 0.1
"""Of its request, what a VM gets on its old host while it moves, and what it takes on the new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """In what the two tracks differ."""

    keeps_idle_vms: bool = False
    """Otherwise a VM is deleted as soon as it asks for nothing, as CloudSim does."""
    respects_memory: bool = False
    """Otherwise memory only counts when VMs are created, as CloudSim has it."""


TRACKS = {
    "A": Rules(),
    "B": Rules(keeps_idle_vms=True, respects_memory=True),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traces:
    """Demand of a day: per cent of a VM, one sample every 300 s."""

    names: tuple[str, ...]
    share: Floats
    """Shape (V, T + 1): as a share of the VM; the last sample is repeated once."""

    @classmethod
    def read(cls, file: Path) -> Traces:
        """Read a compressed table: names, then one line of per cents for each time."""
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            names = tuple(next(lines, "").strip().split(","))
            rows = [
                _per_cents(line, len(names), f"{file.name}, line {number}")
                for number, line in enumerate(lines, start=2)
                if line.strip()
            ]
        if len(rows) < LEAST_SAMPLES:
            raise ValueError(f"{file.name} has {len(rows)} samples, {LEAST_SAMPLES} are needed")
        return cls.of(names, rows)

    @classmethod
    def of(cls, names: Sequence[str], rows: Sequence[Sequence[int]]) -> Traces:
        """Take per cents by time, then VM."""
        share = np.array(rows, dtype=np.float64).T / 100.0
        return cls(names=tuple(names), share=np.hstack([share, share[:, -1:]]))

    def first(self, samples: int | None) -> Traces:
        """The beginning of the day: so many samples, the last of them repeated once."""
        if samples is None or samples + 1 >= self.share.shape[1]:
            return self
        share = self.share[:, :samples]
        return Traces(names=self.names, share=np.hstack([share, share[:, -1:]]))

    @property
    def decisions(self) -> int:
        """How often somebody is asked what to move."""
        return self.share.shape[1] - 2

    def at(self, seconds: float) -> Floats:
        """Demand of each VM, as a share of it, between the samples on a line."""
        before = int(seconds // INTERVAL_SECONDS)
        low = self.share[:, before]
        if seconds % INTERVAL_SECONDS == 0:
            return low
        delta = (self.share[:, before + 1] - low) / INTERVAL_SECONDS
        return np.asarray(low + delta * (seconds - before * INTERVAL_SECONDS))


def _per_cents(line: str, count: int, place: str) -> list[int]:
    cells = line.strip().split(",")
    if len(cells) != count:
        raise ValueError(f"{place}: {len(cells)} values for {count} VMs")
    if wrong := [cell for cell in cells if not cell.isdecimal() or int(cell) > 100]:
        raise ValueError(f"{place}: {wrong[0]!r} is not a whole per cent from 0 to 100")
    return [int(cell) for cell in cells]


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """Every VM on every host, by host and then by its place in that host's list; shape (E,).

    A VM that is on its way is there twice.
    """

    host: Ints
    vm: Ints
    is_incoming: Bools


class World:
    """Where VMs run, what they get, and what it costs."""

    def __init__(self, traces: Traces, rules: Rules, hosts: int = HOSTS) -> None:
        """Begin at time 0 with no VM placed."""
        self.traces, self.rules = traces, rules
        count = len(traces.names)
        self.kind = np.arange(hosts) % 2
        self.pe_mips = HOST_PE_MIPS[self.kind]
        self.mips = HOST_MIPS[self.kind]
        vm_kind = np.arange(count) // -(-count // len(VM_MIPS))
        self.vm_mips, self.vm_memory_mb = VM_MIPS[vm_kind], VM_MEMORY_MB[vm_kind]
        self.lists: list[list[int]] = [[] for _ in range(hosts)]
        """VMs of each host in the order in which they came, those on their way included."""
        self.incoming: list[set[int]] = [set() for _ in range(hosts)]
        self.where = np.full(count, -1, dtype=np.intp)
        """Host of each VM; -1 once it was deleted."""
        self.is_moving = np.zeros(count, dtype=bool)
        self.now = 0.0
        self.demand = np.zeros(count)
        """MIPS that each VM asks for."""
        self.given = np.zeros(count)
        """MIPS that each VM got on the host that it runs on."""
        self.host_given = np.zeros(hosts)
        self.load = np.zeros(hosts)
        """Share of its MIPS that each host gives."""
        self.history: list[Floats] = []
        """Demand of each VM as a share of it, at the decisions so far, oldest first."""
        self.accounts = Accounts()

    @property
    def is_alive(self) -> Bools:
        """Which VMs have not been deleted; shape (V,)."""
        return self.where >= 0

    def presence(self) -> Presence:
        """Everything that is on hosts."""
        sizes = [len(vms) for vms in self.lists]
        host = np.repeat(np.arange(len(sizes)), sizes)
        vm = np.fromiter((vm for vms in self.lists for vm in vms), dtype=np.intp)
        return Presence(host, vm, host != self.where[vm])

    def sum_by_host(self, presence: Presence, values: Floats) -> Floats:
        """Add values up by host, in the order of its list."""
        return np.bincount(presence.host, weights=values, minlength=len(self.lists))

    def create(self, vm: int, host: int) -> None:
        """Start a VM."""
        self.lists[host].append(vm)
        self.where[vm] = host

    def advance(self, seconds: float) -> None:
        """Let time pass until then, and delete the VMs that ask for nothing any more."""
        self.now = seconds
        self.share()
        self.accounts.take(self.look())
        if not self.rules.keeps_idle_vms:
            for vm in np.flatnonzero(self.is_alive & ~self.is_moving & (self.demand == 0)).tolist():
                self.lists[self.where[vm]].remove(vm)
                self.where[vm] = -1

    def share(self) -> None:
        """Give every VM what its host can."""
        self.demand = self.traces.at(self.now) * self.vm_mips
        on = self.presence()
        request = np.minimum(self.demand[on.vm], self.pe_mips[on.host])
        counted = np.where(on.is_incoming, request * INCOMING_SHARE, request)
        asked = self.sum_by_host(on, counted)
        full = self._is_overcommitted(on, counted, asked)
        leaves = self.is_moving[on.vm] & ~on.is_incoming
        scale = np.ones(len(self.mips))
        np.divide(self.mips, asked, out=scale, where=full)
        scaled = scale[on.host]
        cut = np.where(
            on.is_incoming,
            request * INCOMING_SHARE * scaled,
            np.where(leaves, request * scaled * OUTGOING_SHARE, request * scaled),
        )
        plain = np.where(leaves, request * OUTGOING_SHARE, counted)
        given = np.where(full[on.host], np.floor(cut), plain)
        self.given[on.vm[~on.is_incoming]] = given[~on.is_incoming]
        self.host_given = self.sum_by_host(on, np.where(leaves, given / OUTGOING_SHARE, given))
        self.load = self.host_given / self.mips
        self.load[(self.load > 1) & (self.load < 1.01)] = 1.0

    def _is_overcommitted(self, on: Presence, counted: Floats, asked: Floats) -> Bools:
        """Where the VMs ask for more than there is; the last bit is found as CloudSim finds it."""
        full = asked > self.mips
        for host in np.flatnonzero(np.abs(asked - self.mips) < 1e-6).tolist():
            left = float(self.mips[host])
            full[host] = False
            for request in counted[on.host == host].tolist():
                full[host] |= left < request
                left -= request
        return full

    def look(self) -> Look:
        """How things are now, for the accounts."""
        on = self.presence()
        runs = np.where(on.is_incoming, 0.0, self.demand[on.vm])
        memory = self.sum_by_host(on, self.vm_memory_mb[on.vm].astype(np.float64))
        return Look(
            seconds=self.now,
            kind=self.kind,
            mips=self.mips,
            is_on=self.is_on(),
            load=self.load,
            given=self.host_given,
            requested=self.sum_by_host(on, self.demand[on.vm]),
            real=self.sum_by_host(on, runs),
            memory_short=memory > HOST_MEMORY_MB,
            is_alive=self.is_alive,
            is_moving=self.is_moving.copy(),
            vm_asked=self.demand,
            vm_given=self.given.copy(),
        )

    def is_on(self) -> Bools:
        """Which hosts have power: those that work, or, where idle VMs stay, those with VMs."""
        if self.rules.keeps_idle_vms:
            return np.array([bool(vms) for vms in self.lists])
        return self.load > 0

    def begin(self, moves: Sequence[Move]) -> list[tuple[float, list[Move]]]:
        """Send VMs on their way; return when they arrive, in groups."""
        arrivals: dict[float, list[Move]] = {}
        for vm, host in moves:
            if vm not in self.incoming[host]:
                self.incoming[host].add(vm)
                self.lists[host].append(vm)
            self.is_moving[vm] = True
            at = self.now + migration_seconds(float(self.vm_memory_mb[vm]))
            arrivals.setdefault(at, []).append((vm, host))
        if moves:
            self.share()
            self.accounts.take(self.look())
        return sorted(arrivals.items())

    def arrive(self, moves: Sequence[Move]) -> None:
        """Let VMs run on their new hosts; one that was sent twice ends on the last."""
        for vm, host in moves:
            self.lists[self.where[vm]].remove(vm)
            if vm in self.incoming[host]:
                self.incoming[host].discard(vm)
                self.lists[host].remove(vm)
            self.lists[host].append(vm)
            self.where[vm] = host
            self.is_moving[vm] = False
        self.advance(self.now)


type Decide = Callable[[World], Sequence[Move]]


def simulate(world: World, decide: Decide) -> Result:
    """Run through the day: ask `decide` every 300 s, and carry out at once what it says."""
    for _ in decisions(world, decide):
        pass
    return world.accounts.result()


def decisions(world: World, decide: Decide) -> Iterator[int]:
    """Run through the day, decision by decision."""
    at = FIRST_SECONDS
    for number in range(1, world.traces.decisions + 1):
        at += INTERVAL_SECONDS
        world.advance(at)
        world.history.append(world.traces.at(at))
        found, moves = world.look(), list(decide(world))
        world.accounts.decide(found, len(moves))
        for when, arriving in world.begin(moves):
            world.advance(when)
            world.arrive(arriving)
        yield number
