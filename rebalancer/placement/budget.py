"""What a search may spend: time, moves, and processors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rebalancer.placement.arrays import Bools, Ints
from rebalancer.placement.workers import IN_THIS_PROCESS, Workers

if TYPE_CHECKING:
    from rebalancer.placement.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long a search may take, by the caller's clock, and how much it may move."""

    clock: Callable[[], float]
    ends_at: float
    moves: int | None = None
    """Units that may be away from where they started; `None`: any number."""
    exempt: Bools | None = None
    """`(U,)`: units that do not count, as they have to move."""
    workers: Workers = IN_THIS_PROCESS
    """Who solves models for it."""
    found: Callable[[Ints], None] | None = None
    """Told of placements on the way, each of which could be taken."""

    def tell(self, x: Ints) -> None:
        """Say that a placement was found."""
        if self.found is not None:
            self.found(x)

    @property
    def is_spent(self) -> bool:
        """Whether time is up."""
        return self.clock() >= self.ends_at

    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.ends_at - self.clock())

    def moves_of(self, layout: Layout) -> int:
        """How many units count as moved."""
        moved = layout.x != layout.problem.start
        return int((moved if self.exempt is None else moved & ~self.exempt).sum())

    def allows_first_move_of(self, layout: Layout, units: Ints) -> Bools:
        """Which of the units may move now, given how many have moved already."""
        if self.moves is None or self.moves_of(layout) < self.moves:
            return np.ones(len(units), bool)
        free = self.exempt[units] if self.exempt is not None else np.zeros(len(units), bool)
        return np.asarray(free | (layout.x[units] != layout.problem.start[units]), bool)
