"""The ways of moving a VM that rollouts are tried with: every mode, and cold by either means."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from rebalancer.cluster.inventory import Mode, VmState
from tests.builders import MIB

STORAGE = "vmstore"
"""What hosts call the storage that memory is saved to."""


class Way(StrEnum):
    """A mode; of the cold one, whether the guest is shut down or saved."""

    LIVE = "live"
    AUTO_CONVERGE = "auto_converge"
    SUSPEND = "suspend"
    POST_COPY = "post_copy"
    COLD = "cold"
    SAVED = "saved"
    OFFLINE = "offline"

    @property
    def plan(self) -> dict[str, Any]:
        """What a migration of a plan says of it."""
        if self is Way.SAVED:
            return {"mode": Mode.COLD, "saved_to": STORAGE}
        return {"mode": Mode(self.value)}


_HOT: dict[str, Any] = {"dirty_bytes_per_second": 300.0 * MIB, "working_set_bytes": 256 * MIB}

FACTS: Mapping[Way, dict[str, Any]] = {
    Way.LIVE: {},
    Way.AUTO_CONVERGE: {},
    Way.SUSPEND: _HOT,
    Way.POST_COPY: _HOT,
    Way.COLD: {"persistent": True},
    Way.SAVED: {"persistent": True},
    Way.OFFLINE: {"persistent": True, "state": VmState.SHUTOFF},
}
"""What a VM must be like to be moved so."""
