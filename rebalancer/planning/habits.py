"""How migrations between two hosts go, whatever guest is moved: what is assumed, then learned.

The cost model of `cost` is about memory and bandwidth. What it cannot know is how long this
cluster's hosts take to start a process, how much of a granted bandwidth really carries memory,
and how far off its own predictions are. `calibration` learns that from finished migrations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rebalancer.cluster.inventory import HostId
from rebalancer.planning.parts import UNLEARNED, PartHabits
from rebalancer.planning.safety import Safety

SETUP_SECONDS = 1.3
"""Start of QEMU on the target, connection, begin of the job: no bytes flow meanwhile.

With `SWITCHOVER_SECONDS` the 1.4 s by which real jobs on shaped links of 11 to 45 MiB/s took
longer than their bytes (libvirt 9.0, QEMU 7.2)."""

SWITCHOVER_SECONDS = 0.1
"""Device state, start of the CPUs on the target, announcement of the address: 50 to 150 ms."""

FEW_ROUNDS = 6
"""Guests that pre-copy is done with in so many rounds are calm; predictions for the others are
less certain, as each round builds on the one before."""


_ASSUMED_SAFETY = Safety()


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How migrations go between two hosts."""

    setup_seconds: float = SETUP_SECONDS
    switchover_seconds: float = SWITCHOVER_SECONDS
    efficiency_ratio: float = 1.0
    """The share of the granted bandwidth that memory really travels at."""
    calm: Safety = _ASSUMED_SAFETY
    """Of guests that are done in a few rounds."""
    restless: Safety = _ASSUMED_SAFETY
    migrations: int = 0
    """From so many it was learned; 0: assumed."""

    def safety(self, rounds: int) -> Safety:
        """The band for a guest that takes so many rounds."""
        return self.calm if rounds <= FEW_ROUNDS else self.restless


ASSUMED = Habits()
"""What is believed before anything was learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The habits of one pair of hosts, to be shown."""

    source: HostId | None
    """`None`: of all pairs together."""
    target: HostId | None
    habits: Habits


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learned, by pair of hosts."""

    everywhere: Habits = ASSUMED
    pairs: Mapping[tuple[HostId, HostId], Habits] = field(default_factory=dict)
    parts: PartHabits = UNLEARNED
    """What takes its time beside memory: cold moves, local disks."""

    def of(self, source: HostId, target: HostId) -> Habits:
        """The habits of one pair; those of the cluster where the pair has no past."""
        return self.pairs.get((source, target), self.everywhere)

    def listed(self) -> tuple[Learned, ...]:
        """What is believed of the cluster as a whole, then of each pair by name."""
        everywhere = Learned(source=None, target=None, habits=self.everywhere)
        pairs = sorted(self.pairs.items())
        return everywhere, *(Learned(source=s, target=t, habits=h) for (s, t), h in pairs)
