"""The command that `drain --rolling --then` runs for a group of hosts, and what is known of it.

It reboots machines, so it is never run a second time for a host without anybody having said so:
not while the first one may still be at work, and not when nobody knows how far that came. The
journal (`maintenance_journal`) says what was begun and how it ended.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from rebalancer.cluster.inventory import HostId
from rebalancer.errors import JournalError, LockHeldError, UnknownOutcomeError, UsageError
from rebalancer.rollout.lease import Lease, child_process
from rebalancer.rollout.maintenance_journal import (
    MaintenanceJournal,
    MaintenancePhase,
    MaintenanceRun,
)
from rebalancer.service.clock import SystemClock
from rebalancer.service.config import journal_url
from rebalancer.service.session import Session
from rebalancer.service.wording import when_text


class IfBegun(StrEnum):
    """What an operator wants for hosts for which a command was begun before."""

    SKIP = "skip"
    """It is done for them: the round goes on with what follows it."""
    RERUN = "rerun"
    """It is run for them once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceCommand:
    """What is to be run for each group, and what if it was begun for a host before."""

    text: str
    """As a shell would take it apart; nothing of it is expanded. Empty: there is none."""
    if_begun: IfBegun | None = None
    """`None`: nobody has said, so that it is asked."""

    @property
    def words(self) -> list[str]:
        """The program and its first arguments; raise `UsageError` if it cannot be taken apart."""
        try:
            return shlex.split(self.text)
        except ValueError as error:
            raise UsageError(f"--then {self.text!r} cannot be taken apart: {error}") from error

    def skipped_among(
        self, hosts: Sequence[HostId], runs: Iterable[MaintenanceRun]
    ) -> tuple[HostId, ...]:
        """Hosts for which it was begun before and is not run again: the operator said so."""
        if self.if_begun is not IfBegun.SKIP:
            return ()
        done = {
            host
            for run in runs
            if run.command == self.text and not run.failure
            for host in run.hosts
        }
        return tuple(host for host in hosts if host in done)


@contextmanager
def maintenance_journal(session: Session) -> Iterator[MaintenanceJournal]:
    """Open the part of the journal that is about such commands."""
    with MaintenanceJournal.open(journal_url(session.settings), SystemClock()) as journal:
        yield journal


def runs_of(session: Session, cluster: str, hosts: Iterable[HostId]) -> tuple[MaintenanceRun, ...]:
    """Commands that were begun for these hosts, which nobody has let be used again since."""
    if not session.has_journal:  # looking does not leave a file behind
        return ()
    wanted = set(hosts)
    with maintenance_journal(session) as journal:
        return tuple(run for run in journal.not_over(cluster) if wanted & set(run.hosts))


def refuse_if_begun(
    session: Session, cluster: str, hosts: Sequence[HostId], command: MaintenanceCommand
) -> None:
    """Raise an error that tells every run of a command that speaks against running it now.

    `LockHeldError` while one is at work, whatever the operator said; `UnknownOutcomeError` when
    one may have been, or has been, and the operator did not say what that means.
    """
    if not command.text:
        return
    runs = runs_of(session, cluster, hosts)
    if at_work := [described(run) for run in runs if run.runs]:
        raise LockHeldError(f"{'; '.join(at_work)}: wait for its end, or end it")
    if command.if_begun is not None:
        return
    unclear = [run for run in runs if _needs_a_word(run, command)]
    if unclear:
        names = " ".join(dict.fromkeys(host for run in unclear for host in run.hosts))
        raise UnknownOutcomeError(
            f"{'; '.join(map(described, unclear))}. Look at {names}; then say --if-begun skip "
            "if the command is done for them, --if-begun rerun to run it once more, or "
            f"rebalancer undrain {names} to use them again"
        )


def _needs_a_word(run: MaintenanceRun, command: MaintenanceCommand) -> bool:
    """Whether only a human can say if the command may be run: it failed, or it is another one."""
    if run.phase is MaintenancePhase.BEGUN:
        return True
    return not run.failure and run.command == command.text


def described(run: MaintenanceRun) -> str:
    """Say in a sentence without its full stop what is known of a command."""
    hosts, since = ", ".join(run.hosts), when_text(run.begun_at)
    begun = f"the command {run.command!r} was begun for {hosts} at {since} by {run.owner}"
    if run.phase is MaintenancePhase.ENDED:
        at = when_text(run.ended_at) if run.ended_at else since
        how = run.failure or "ended well"
        return f"the command {run.command!r} for {hosts} {how} at {at}"
    if run.runs:
        what = f" as process {run.process.pid}" if run.process is not None else ""
        return f"{begun}, and runs{what}"
    if run.is_cut_short(may_be_elsewhere=False):
        return f"{begun}, which died: nobody knows whether it was run to its end"
    return f"{begun}, and whether it still runs can only be seen there"


def begun_for(
    session: Session, hosts: Sequence[HostId], command: MaintenanceCommand, lease: Lease
) -> str:
    """Write down that it is going to be run; return what the journal calls that."""
    with maintenance_journal(session) as journal:
        return journal.begin(hosts, command.text, lease)


def run_for(
    session: Session,
    name: str,
    hosts: Sequence[HostId],
    command: MaintenanceCommand,
    say: Callable[[str], None],
) -> bool:
    """Run it for hosts, write down how it ended, and return whether it ended well."""
    words = [*command.words, *hosts]
    say(f"running: {shlex.join(words)}")
    with maintenance_journal(session) as journal:
        failure = _ended(words, journal, name, say)
        if failure:
            say(f"{words[0]} {failure}; still drained: {', '.join(hosts)}")
        journal.ended(name, failure)
    return not failure


def _ended(
    words: Sequence[str], journal: MaintenanceJournal, name: str, say: Callable[[str], None]
) -> str:
    """Run words; return how that failed, or nothing."""
    try:
        # What it prints is for whoever watches, and none of our results.
        process = subprocess.Popen(words, stdout=2, stdin=subprocess.DEVNULL)
    except OSError as error:
        return f"could not be run: {error.strerror}"
    with process:
        try:
            journal.started(name, child_process(process.pid))
        except JournalError as error:
            # It is in the journal that it was begun; this only helps to find it after a crash.
            say(f"the journal does not know that it is process {process.pid}: {error}")
        code = process.wait()
    return f"ended with {code}" if code else ""


def maintenance_texts(session: Session) -> tuple[str, ...]:
    """What `status` and `recover` tell: commands at work, unclear, or ended and not followed up."""
    if not session.has_journal:
        return ()
    with maintenance_journal(session) as journal:
        runs = journal.not_over(session.settings.cluster)
    return tuple(f"{described(run)}{_what_to_do(run)}" for run in runs)


def _what_to_do(run: MaintenanceRun) -> str:
    names = " ".join(run.hosts)
    if run.runs:
        return ""
    if run.phase is MaintenancePhase.ENDED:
        return f"; to use them again: rebalancer undrain {names}"
    return (
        f". Look at {names}; then: rebalancer undrain {names}, or the same drain --rolling with "
        "--if-begun skip or --if-begun rerun"
    )


def is_maintenance_unclear(session: Session) -> bool:
    """Whether a command was cut short, so that nobody knows how far it came."""
    if not session.has_journal:
        return False
    with maintenance_journal(session) as journal:
        runs = journal.not_over(session.settings.cluster)
        return any(run.is_cut_short(may_be_elsewhere=journal.is_shared) for run in runs)
