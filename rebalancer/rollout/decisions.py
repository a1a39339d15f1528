"""What can follow from a look at the hosts; which of it does, `reconcile` decides."""

from __future__ import annotations

from dataclasses import dataclass

from rebalancer.rollout.driver import Command
from rebalancer.rollout.endings import Ended
from rebalancer.rollout.sightings import Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class StillMoving:
    """A migration job runs; whoever started it, it is waited for."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAgain:
    """Too little is known now. If it stays like that for long, `then` is the end."""

    text: str
    then: Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What was seen proves that `command` is right. If it does not help, `then` is the end."""

    command: Command
    text: str
    then: Ended


type Decision = Ended | StillMoving | LookAgain | Repair


def when_all_answer(sighting: Sighting, repair: Repair) -> Decision:
    """Do it only while every host that could run the VM answers: it could not be undone."""
    if silent := sighting.unreachable:
        return LookAgain(text=f"{', '.join(silent)} does not answer", then=repair.then)
    return repair
