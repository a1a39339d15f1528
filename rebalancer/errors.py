"""Every deliberate error of the program, and the exit code that each one ends it with.

    RebalancerError               1   something stopped the work
    ├── UsageError               64   the command line or an environment variable makes no sense
    ├── InvalidFileError         65   a file cannot be used; carries every fault found in it
    ├── ObservationError          7   the cluster could not be observed well enough to decide
    │   └── StaleSnapshotError    7   … because what was observed is too old to act on
    ├── SolverError               1   the solver crashed or answered nonsense
    ├── PausedError               4   an operator wants nothing to be started for now
    ├── HookObjectionError        4   a hook of the operator does not let a drain begin
    ├── PlanRefusedError          5   the plan is stale, foreign, or was applied already
    ├── LockHeldError             6   another rebalancer is at work on this cluster
    └── RolloutError              1   the cluster could not be changed as planned
        ├── JournalError          1   the journal cannot be read or written
        └── UnknownOutcomeError   8   nobody knows where a VM runs; `rebalancer recover` finds out

A message says what happened, to what, and what to do. What can happen on a healthy day (nothing
to do, an infeasible policy, a time limit, a migration that did not converge) is a value and not
an error, so it is not here. A broken promise inside the program is an `assert` or a
`ValueError`: a bug, so let it be loud.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

FAULTS_SHOWN = 20
"""How many faults of a file are printed: more than that scroll the first ones away."""


class ExitCode(IntEnum):
    """What the `rebalancer` command tells the shell, whatever the subcommand."""

    SUCCESS = 0
    ERROR = 1
    CHANGES_PRESENT = 2
    """Only with `--detailed-exitcode`: all went well, and the plan is not empty."""
    PARTIAL = 3
    """Some of the plan was carried out, and the rest safely was not."""
    BLOCKED = 4
    """A hard rule stays broken, a host stays promised more memory than it has, or the drain cannot
    be finished, though other VMs may move."""
    REFUSED = 5
    LOCKED = 6
    NOT_OBSERVED = 7
    UNKNOWN_OUTCOME = 8
    USAGE = 64
    INVALID_FILE = 65
    INTERRUPTED = 130
    """Stopped cleanly by SIGINT."""
    TERMINATED = 143
    """Stopped cleanly by SIGTERM."""


class RebalancerError(Exception):
    """Something stopped the work; the message says what to do about it."""

    exit_code: ClassVar[ExitCode] = ExitCode.ERROR


class UsageError(RebalancerError):
    """The command line or an environment variable asks for something that makes no sense."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong in a file, worded so that an operator can mend it."""

    file: str
    where: str = ""
    """`line 12`, `line 12, column 5`, or a path such as `$.vms[3].host`; empty: the whole file."""
    key: str = ""
    """The key and the keys around it, such as `goals[0].weight`; empty: no key in particular."""
    problem: str
    expected: str = ""
    """What would be right: `expected 0 or more`, `did you mean "weight"?`."""

    def __str__(self) -> str:
        """Return one line, in the `file:line:` form that editors and grep know."""
        place = self.file
        subject = f"{self.key}: " if self.key else ""
        if at := re.fullmatch(r"line (\d+)(?:, column (\d+))?", self.where):
            place = ":".join([self.file, *filter(None, at.groups())])
        elif self.where:
            subject = f"{self.where}: "
        return f"{place}: {subject}{'; '.join(filter(None, [self.problem, self.expected]))}"


class InvalidFileError(RebalancerError):
    """A file cannot be used. Carries every fault found in it, so that one look mends them all."""

    exit_code = ExitCode.INVALID_FILE

    def __init__(self, faults: Sequence[Fault], stopped_early: bool = False) -> None:
        """Take the faults in reading order; `stopped_early` when reading on was no use."""
        assert faults, "an invalid file has at least one fault"
        super().__init__(tuple(faults), stopped_early)
        self.faults = tuple(faults)
        self.stopped_early = stopped_early

    def __str__(self) -> str:
        """Return one line for each fault, the first `FAULTS_SHOWN` of them."""
        lines = [str(fault) for fault in self.faults[:FAULTS_SHOWN]]
        unshown = len(self.faults) - len(lines)
        if self.stopped_early:
            lines.append("… and more: the rest of the file was not checked")
        elif unshown:
            lines.append(f"… and {unshown} more")
        return "\n".join(lines)


class ObservationError(RebalancerError):
    """The cluster could not be observed, or not completely enough to decide anything."""

    exit_code = ExitCode.NOT_OBSERVED


class StaleSnapshotError(ObservationError):
    """What was observed is too old to act on."""


class SolverError(RebalancerError):
    """The solver crashed or answered nonsense. "Infeasible" is an answer, and never this."""


class PlanRefusedError(RebalancerError):
    """The plan does not fit this cluster, or no longer does, or was applied already."""

    exit_code = ExitCode.REFUSED


class PausedError(RebalancerError):
    """An operator wants nothing to be started in this cluster for the time being."""

    exit_code = ExitCode.BLOCKED


class HookObjectionError(RebalancerError):
    """A command of the operator, asked beforehand, does not want this to begin."""

    exit_code = ExitCode.BLOCKED


class LockHeldError(RebalancerError):
    """Another rebalancer is changing this cluster; two at once would undo each other's work."""

    exit_code = ExitCode.LOCKED


class RolloutError(RebalancerError):
    """The cluster could not be changed as planned."""


class JournalError(RolloutError):
    """The journal cannot be read or written; without a journal nothing may be changed."""


class UnknownOutcomeError(RolloutError):
    """Nobody knows where a VM runs now, so nothing else may be done with it before `recover`."""

    exit_code = ExitCode.UNKNOWN_OUTCOME
