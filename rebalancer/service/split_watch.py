"""Looks between cycles for VMs that run twice, and pauses the older copy at once.

A migration that ended unknown because a host was silent may have left two running copies behind,
which nobody can see before that host answers again. Cycles come too seldom for that, and a daemon
that only recommends never looks after migrations; so the two hosts of each such migration are
asked every few seconds.

In every mode: pausing that copy (which can be undone) is the end of a migration that somebody had
ordered, and takes the proof that the rollout itself would want. Nothing else is done here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rebalancer.errors import LockHeldError, RebalancerError
from rebalancer.rollout.attempt import Attempt
from rebalancer.rollout.chronicle import attempt_from
from rebalancer.rollout.driver import Look, Migrate, Pause, Pending, Returned
from rebalancer.rollout.executor import OpenMigration, recover
from rebalancer.rollout.journal import Journal
from rebalancer.rollout.lease import is_dead
from rebalancer.rollout.reconcile import Repair, reconcile
from rebalancer.rollout.sightings import Sighting
from rebalancer.rollout.stale import StaleCopy, stale_copy_of
from rebalancer.rollout.steps import StopRequest
from rebalancer.service.change_access import ChangeAccess
from rebalancer.service.configured_rollout import rollout_settings
from rebalancer.service.duty import Duty, Reach
from rebalancer.service.session import Session, observe

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What it takes to look and to act."""

    session: Session
    duty: Duty
    """Whose policy says within which limits is acted."""
    reach: Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suspect:
    """A migration that may have left two running copies."""

    rollout: int
    attempt: Attempt

    @property
    def name(self) -> OpenMigration:
        return self.rollout, self.attempt.migration.id


class SplitWatch:
    """Watches in a thread of its own: a cycle may take hours."""

    def __init__(
        self, means: Callable[[], Means | None], every_seconds: float = EVERY_SECONDS
    ) -> None:
        """Ask nothing yet; `means` returns `None` while another daemon acts for the cluster."""
        self._means = means
        self._every_seconds = every_seconds
        self._session: Session | None = None
        self._access: ChangeAccess | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="split watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more. A look that is under way is not waited for."""
        self._is_over.set()

    def look(self) -> tuple[str, ...]:
        """Look once; return what became of each VM that ran twice."""
        means = self._means()
        if means is None or means.session is not self._session:
            self._let_go()  # what was opened with other settings
        if means is None:
            return ()
        self._session = means.session
        with means.session.existing_journal() as journal:
            suspects = tuple(_suspects(journal, means.session.settings.cluster))
        if not suspects:
            self._let_go()
            return ()
        # Kept from look to look: a connection to a silent host takes minutes to fail.
        access = self._access = self._access or means.reach.for_change()
        split = [suspect for suspect in suspects if _runs_twice(suspect, access)]
        return self._paused(split, means, access) if split else ()

    def _paused(self, split: list[_Suspect], means: Means, access: ChangeAccess) -> tuple[str, ...]:
        read = access.read
        for suspect in split:
            migration = suspect.attempt.migration
            extra = {
                "vm": migration.vm_name,
                "host": migration.source,
                "target": migration.target,
                "rollout": suspect.rollout,
            }
            log.error("vm_runs_twice", extra=extra)
        seen = observe(means.session, read)
        with means.session.journal(read.clock) as journal, journal.hold(read.cluster) as lease:
            results = recover(
                cluster=read.cluster,
                driver=access.driver,
                clock=read.clock,
                journal=journal,
                snapshot=seen,
                settings=rollout_settings(means.session.settings, means.duty.policy, read.uris),
                lease=lease,
                should_stop=self._should_stop,
                hooks=access.hooks,
                only={suspect.name for suspect in split},
            )
        texts = tuple(outcome.text for result in results for outcome in result.outcomes)
        for text in texts:
            log.error("vm_ran_twice", extra={"text": text})
        return texts

    def _should_stop(self) -> StopRequest:
        return StopRequest.ABORT if self._is_over.is_set() else StopRequest.NO

    def _let_go(self) -> None:
        if self._access is not None:
            self._access.close()
            self._access = None

    def _watch(self) -> None:
        while not self._is_over.wait(self._every_seconds):
            try:
                self.look()
            except LockHeldError:
                pass  # whoever holds the lock looks after it
            except RebalancerError as error:
                log.warning("split_watch_failed", extra={"error": str(error)})
            except Exception:
                # A bug must not end a watch that nobody watches; its trace goes to the log.
                log.exception("split_watch_failed")


def _suspects(journal: Journal | None, cluster: str) -> Iterator[_Suspect]:
    """Migrations of memory that nobody carries on and nobody knows the end of.

    One whose older copy stands still already only waits for an operator.
    """
    if journal is None:
        return
    holder = journal.holder(cluster)
    if holder is not None and not is_dead(holder.owner):
        return
    for row in journal.unresolved(cluster):
        records = journal.records(row.rollout, row.migration.id)
        attempt = attempt_from(row.migration, records)
        if attempt is None or not attempt.has_issued(Migrate):
            continue
        if not isinstance(stale_copy_of(row.rollout, row.migration, records), StaleCopy):
            yield _Suspect(rollout=row.rollout, attempt=attempt)


def _runs_twice(suspect: _Suspect, access: ChangeAccess) -> bool:
    """Whether both ends say so, and the journal proves which copy is the older one."""
    attempt, driver = suspect.attempt, access.driver
    ticket = driver.issue(Look(vm=attempt.vm, hosts=(attempt.source, attempt.target)))
    while isinstance(reply := driver.poll(ticket), Pending):
        access.read.clock.sleep(_POLL_SECONDS)
    if not (isinstance(reply, Returned) and isinstance(reply.value, Sighting)):
        return False
    decision = reconcile(attempt, reply.value)
    return isinstance(decision, Repair) and isinstance(decision.command, Pause)
