"""Whether this daemon acts, or stands by for another one that does.

Time is measured here, never compared between machines: a leader is taken for dead when its row
has not changed for `silent_seconds` of our own clock, and a leader that has not renewed its row
for `acts_seconds` of its own, which is less, does nothing before it has. So at most one acts,
however wrong the clocks are set and however long a process was suspended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from rebalancer.errors import JournalError, LockHeldError
from rebalancer.rollout.driver import Command, HypervisorDriver, Reply, Ticket
from rebalancer.rollout.leaders import Leader, Leaders
from rebalancer.rollout.lease import Owner, is_dead, this_process
from rebalancer.rollout.power import PowerCommand, PowerDriver, PowerReply
from rebalancer.service.change_access import ChangeAccess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often is looked and renewed, and when a silent leader is given up."""

    look_seconds: float
    renew_seconds: float
    acts_seconds: float
    silent_seconds: float


SHARED = Pace(look_seconds=1.0, renew_seconds=2.0, acts_seconds=6.0, silent_seconds=9.0)
"""With PostgreSQL: a standby on another machine leads within 15 s of a leader's death."""

LOCAL = Pace(look_seconds=2.0, renew_seconds=30.0, acts_seconds=90.0, silent_seconds=120.0)
"""With SQLite both are on one machine, where the kernel tells at once who is dead; only a process
in another container is waited for. A disk that could rest is not kept awake."""


class Role(StrEnum):
    """What a daemon is to its cluster."""

    LEADS = "leads"
    STANDS_BY = "stands by"
    UNSURE = "unsure"
    """The journal cannot be read, so nobody knows; nothing is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where this daemon stands, and the sentence that says so."""

    role: Role
    text: str


def _clock() -> float:
    """Seconds that go on while the machine sleeps, or is itself a VM that is moved."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leadership:
    """Takes the lead when nobody else has it, keeps it, and says whether it does."""

    def __init__(
        self,
        open_leaders: Callable[[], Leaders],
        cluster: str,
        on_change: Callable[[Standing], None] = lambda _: None,
        *,
        owner: Owner | None = None,
        seconds_passed: Callable[[], float] = _clock,
    ) -> None:
        """Ask nothing yet; `on_change` is told of every new standing."""
        self._open_leaders = open_leaders
        self._cluster = cluster
        self._on_change = on_change
        self._owner = owner or this_process()
        self._seconds_passed = seconds_passed
        self._leaders: Leaders | None = None
        self._mine: Leader | None = None
        self._acts_until = 0.0
        self._other: Leader | None = None
        self._other_seen_at = 0.0
        self._standing = Standing(role=Role.UNSURE, text="nobody has looked yet who leads")
        self._stepping = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="leadership", daemon=True)

    @property
    def standing(self) -> Standing:
        """Where this daemon stands."""
        return self._standing

    def step(self) -> float:
        """Look once, and return in how many seconds to look again."""
        with self._stepping:
            try:
                standing, wait = self._looked()
            except JournalError as error:
                standing, wait = Standing(role=Role.UNSURE, text=str(error)), SHARED.renew_seconds
        if standing != self._standing:
            self._standing = standing
            level = logging.ERROR if standing.role is Role.UNSURE else logging.INFO
            log.log(level, "standing", extra={"cluster": self._cluster, "text": standing.text})
            self._on_change(standing)
        return wait

    def confirm(self) -> None:
        """Raise `LockHeldError` unless it is certain that this daemon leads."""
        if self._is_certain():
            return
        self.step()
        if not self._is_certain():
            raise LockHeldError(
                f"this process does not lead any more ({self._standing.text}), so it stops; "
                "migrations under way go on by themselves"
            )

    def start(self) -> None:
        """Look once, then go on looking in a thread."""
        self.step()
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and let another daemon lead."""
        self._is_over.set()
        with self._stepping:
            if self._leaders is None:
                return
            try:
                if self._mine is not None:
                    self._leaders.resign(self._cluster, self._mine)
            except JournalError as error:
                log.warning("not_resigned", extra={"error": str(error)})
            self._leaders.close()
            self._leaders, self._mine = None, None

    def _is_certain(self) -> bool:
        return self._mine is not None and self._seconds_passed() < self._acts_until

    def _watch(self) -> None:
        while not self._is_over.wait(self.step()):
            pass

    def _looked(self) -> tuple[Standing, float]:
        if self._is_over.is_set():
            return self._standing, 0.0
        self._leaders = leaders = self._leaders or self._open_leaders()
        pace = SHARED if leaders.is_shared else LOCAL
        began = self._seconds_passed()
        if self._mine is not None:
            if leaders.renew(self._cluster, self._mine):
                self._acts_until = began + pace.acts_seconds
                return self._leading(self._mine), pace.renew_seconds
            self._mine = None
        found = leaders.of(self._cluster)
        if found is None or self._has_ended(found, began, pace):
            mine = leaders.follow(self._cluster, found, self._owner)
            if mine is not None:
                self._mine, self._acts_until = mine, began + pace.acts_seconds
                return self._leading(mine), pace.renew_seconds
            found = leaders.of(self._cluster)
        said = f"standing by: {found}" if found is not None else "standing by"
        return Standing(role=Role.STANDS_BY, text=said), pace.look_seconds

    def _leading(self, mine: Leader) -> Standing:
        return Standing(role=Role.LEADS, text=str(mine))

    def _has_ended(self, leader: Leader, now: float, pace: Pace) -> bool:
        if leader != self._other:
            self._other, self._other_seen_at = leader, now
        is_silent = now - self._other_seen_at >= pace.silent_seconds
        dead = is_dead(leader.owner, may_be_elsewhere=pace is SHARED)
        return leader.resigned or is_silent or dead or leader.owner == self._owner


class FencedDriver:
    """Issues nothing that changes a host unless it is certain, right then, that we lead.

    Between the journal's record and the command a process may be suspended, for as long as a VM
    with the daemon in it is being moved, say. Meanwhile another one may have taken over.
    """

    def __init__(self, driver: HypervisorDriver, confirm: Callable[[], None]) -> None:
        """Hand everything to `driver` that `confirm` does not raise an error for."""
        self._driver = driver
        self._confirm = confirm

    def issue(self, command: Command) -> Ticket:
        """Begin a command."""
        if command.changes:
            self._confirm()
        return self._driver.issue(command)

    def poll(self, ticket: Ticket) -> Reply:
        """Tell what became of it."""
        return self._driver.poll(ticket)

    def close(self) -> None:
        """Let go of the hypervisors."""
        self._driver.close()


class FencedPower:
    """The same for hosts' power."""

    def __init__(self, driver: PowerDriver, confirm: Callable[[], None]) -> None:
        """Hand everything to `driver` that `confirm` does not raise an error for."""
        self._driver = driver
        self._confirm = confirm

    def issue(self, command: PowerCommand) -> Ticket:
        """Begin a command."""
        if command.changes:
            self._confirm()
        return self._driver.issue(command)

    def poll(self, ticket: Ticket) -> PowerReply:
        """Tell what became of it."""
        return self._driver.poll(ticket)


def fenced(access: ChangeAccess, confirm: Callable[[], None]) -> ChangeAccess:
    """The same access, for as long as this daemon leads."""
    power = access.power
    return replace(
        access,
        driver=FencedDriver(access.driver, confirm),
        power=FencedPower(power, confirm) if power is not None else None,
    )
