"""How much longer than predicted something may take, before anything was learned."""

from __future__ import annotations

from dataclasses import dataclass

TIME_SAFETY = 1.3
DOWNTIME_SAFETY = 1.5
SETUP_SAFETY = 2.0
"""Starting a process takes twice as long on a busy host; bytes on a capped link do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """How many times the prediction the end of a band is."""

    setup_ratio: float = SETUP_SAFETY
    transfer_ratio: float = TIME_SAFETY
    downtime_ratio: float = DOWNTIME_SAFETY
