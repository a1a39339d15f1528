"""What the PlanetLab benchmark counts: energy, moves, broken promises and true overload.

The first numbers are CloudSim's. As its SLATAH mostly measures that a host receives a VM, the time
in which running VMs really ask for more than their host has is counted as well, in three ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.planetlab_hardware import Bools, Floats, Ints, watts

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A day in numbers. Shares are not per cents."""

    energy_kwh: float
    migrations: int
    slatah: float
    """Share of the time of active hosts in which they give less than their VMs ask for; a VM that
    arrives asks for all and is given a tenth."""
    pdm: float
    """Share of all demand that was not met while a VM was on its way."""
    slav: float
    """SLATAH · PDM."""
    esv: float
    """Energy in kWh · SLAV."""
    unmet: float
    """Share of all demand that was not met."""
    shutdowns: int
    """Switches off as CloudSim counts them: a host that is off at the first look is one."""
    switches_on: int
    """Switches on after the first decision."""
    overload_event: float
    """Share of active time in which running VMs asked for more than there is at the last event."""
    overload_event_moving: float
    """The part of it that lies between a decision and the last arrival of its moves."""
    overload_continuous: float
    """The same with demand on a line between events."""
    overload_sampled: float
    """Share of the active hosts that decisions found overloaded."""
    memory_violations: float
    """Share of the active hosts, at decisions, whose VMs have more memory than the host."""
    mean_hosts_on: float
    vms_at_end: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """How things are at one instant; hosts (H,), VMs (V,), CPU in MIPS."""

    seconds: float
    kind: Ints
    mips: Floats
    is_on: Bools
    load: Floats
    given: Floats
    requested: Floats
    """What all VMs ask for, those on their way here included."""
    real: Floats
    """What the VMs that run here ask for."""
    memory_short: Bools
    is_alive: Bools
    is_moving: Bools
    vm_asked: Floats
    vm_given: Floats


def share_above(begin: Floats, end: Floats, limit: Floats) -> Floats:
    """For how much of the way from `begin` to `end`, on a straight line, the limit is passed."""
    high, low = np.maximum(begin, end), np.minimum(begin, end)
    steep = np.where(high > low, high - low, 1.0)
    part = (high - limit) / steep
    return np.where(high > limit, np.where(low > limit, 1.0, part), 0.0)


class Accounts:
    """Adds up what happens from one look to the next."""

    def __init__(self) -> None:
        """Begin with no look taken: time counts from the first one on."""
        self.last: Look | None = None
        self.was_on: Bools | None = None
        """Which hosts were on at the look before the last; at first all of them count as on."""
        self.migrations = self.decisions = 0
        self.shutdowns = self.switches_on = 0
        self.joules = self.active_seconds = self.violated_seconds = 0.0
        self.asked = self.given = self.lost = 0.0
        self.event_seconds = self.moving_seconds = self.continuous_seconds = 0.0
        self.pairs = self.overloaded_pairs = self.memory_pairs = 0

    def take(self, look: Look) -> None:
        """Charge the time since the last look; one at the same time replaces the last."""
        if self.last is not None and look.seconds > self.last.seconds:
            self._charge(self.last, look)
            self._switch(self.last)
        self.last = look

    def _switch(self, look: Look) -> None:
        """Count the hosts that were switched since the look before this one."""
        before = np.ones_like(look.is_on) if self.was_on is None else self.was_on
        self.shutdowns += int((before & ~look.is_on).sum())
        self.switches_on += int((look.is_on & ~before).sum())
        self.was_on = look.is_on

    def decide(self, look: Look, migrations: int) -> None:
        """Count the moves of a decision, and what it found."""
        self.decisions += 1
        self.migrations += migrations
        self.pairs += int(look.is_on.sum())
        self.overloaded_pairs += int((look.is_on & (look.real > look.mips)).sum())
        self.memory_pairs += int((look.is_on & look.memory_short).sum())

    def _charge(self, last: Look, look: Look) -> None:
        seconds = look.seconds - last.seconds
        before, after = watts(last.kind, last.load), watts(look.kind, look.load)
        drawn = (before + (after - before) / 2) * seconds
        self.joules += float(drawn[last.is_on].sum())
        self.active_seconds += seconds * int(last.is_on.sum())
        self.violated_seconds += seconds * int((last.is_on & (last.given < last.requested)).sum())
        # A VM that was deleted has no state any more, and asked for nothing when it was.
        alive = last.is_alive
        self.asked += seconds * float(last.vm_asked[alive].sum())
        self.given += seconds * float(last.vm_given[alive].sum())
        lacking = alive & last.is_moving & (last.vm_given < last.vm_asked)
        self.lost += seconds * float((last.vm_asked - last.vm_given)[lacking].sum())
        overloaded = seconds * int((last.is_on & (last.real > last.mips)).sum())
        self.event_seconds += overloaded
        self.moving_seconds += overloaded if last.is_moving.any() else 0.0
        above = share_above(last.real, look.real, last.mips)
        self.continuous_seconds += seconds * float(above[last.is_on].sum())

    def result(self) -> Result:
        """Take the last look for the end, and report the sums."""
        if self.last is not None:
            self._switch(self.last)
        active = self.active_seconds or 1.0
        asked = self.asked or 1.0
        kwh = self.joules / JOULES_PER_KWH
        slatah, pdm = self.violated_seconds / active, self.lost / asked
        return Result(
            energy_kwh=kwh,
            migrations=self.migrations,
            slatah=slatah,
            pdm=pdm,
            slav=slatah * pdm,
            esv=kwh * slatah * pdm,
            unmet=(self.asked - self.given) / asked,
            shutdowns=self.shutdowns,
            switches_on=self.switches_on,
            overload_event=self.event_seconds / active,
            overload_event_moving=self.moving_seconds / active,
            overload_continuous=self.continuous_seconds / active,
            overload_sampled=self.overloaded_pairs / max(1, self.pairs),
            memory_violations=self.memory_pairs / max(1, self.pairs),
            mean_hosts_on=self.pairs / max(1, self.decisions),
            vms_at_end=0 if self.last is None else int(self.last.is_alive.sum()),
        )
