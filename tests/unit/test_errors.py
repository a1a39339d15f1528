"""Every deliberate error has a documented exit code, and a file's faults read like a compiler's."""

import pickle
import re
from collections.abc import Iterator

import pytest

from rebalancer import errors
from rebalancer.errors import (
    ExitCode,
    Fault,
    InvalidFileError,
    JournalError,
    LockHeldError,
    ObservationError,
    PlanRefusedError,
    RebalancerError,
    RolloutError,
    SolverError,
    StaleSnapshotError,
    UnknownOutcomeError,
    UsageError,
)


def every_error(root: type[RebalancerError] = RebalancerError) -> Iterator[type[RebalancerError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every_error(child)


def a_fault(line: int = 12) -> Fault:
    return Fault(file="x.yaml", where=f"line {line}", key="limits.cluster", problem="is too small")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RebalancerError, 1),
        (SolverError, 1),
        (RolloutError, 1),
        (JournalError, 1),
        (PlanRefusedError, 5),
        (LockHeldError, 6),
        (ObservationError, 7),
        (StaleSnapshotError, 7),
        (UnknownOutcomeError, 8),
        (UsageError, 64),
        (InvalidFileError, 65),
    ],
)
def test_scripts_can_tell_errors_apart_by_their_exit_code(
    error: type[RebalancerError], code: int
) -> None:
    assert error.exit_code == code


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = dict(re.findall(r"[─ ](\w+Error) +(\d+) ", errors.__doc__ or ""))

    assert drawn == {error.__name__: str(int(error.exit_code)) for error in every_error()}


def test_exit_codes_are_those_that_operators_were_promised() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "SUCCESS": 0,
        "ERROR": 1,
        "CHANGES_PRESENT": 2,
        "PARTIAL": 3,
        "BLOCKED": 4,
        "REFUSED": 5,
        "LOCKED": 6,
        "NOT_OBSERVED": 7,
        "UNKNOWN_OUTCOME": 8,
        "USAGE": 64,
        "INVALID_FILE": 65,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }


def test_a_fault_in_a_line_reads_like_a_compilers() -> None:
    fault = Fault(
        file="policies/x.yaml",
        where="line 12",
        key="goals[0].wieght",
        problem="unknown key",
        expected='did you mean "weight"?',
    )

    assert str(fault) == 'policies/x.yaml:12: goals[0].wieght: unknown key; did you mean "weight"?'


@pytest.mark.parametrize(
    ("where", "key", "text"),
    [
        ("", "", "s.json: no such file"),
        ("line 3, column 7", "", "s.json:3:7: no such file"),
        ("$.vms[3].host", "vms[3].host", "s.json: $.vms[3].host: no such file"),
        ("", "labels", "s.json: labels: no such file"),
    ],
)
def test_a_fault_names_its_place_as_exactly_as_it_is_known(where: str, key: str, text: str) -> None:
    assert str(Fault(file="s.json", where=where, key=key, problem="no such file")) == text


def test_all_faults_of_a_file_are_told_one_to_a_line() -> None:
    error = InvalidFileError([a_fault(line=1), a_fault(line=2)])

    assert str(error).splitlines() == [
        "x.yaml:1: limits.cluster: is too small",
        "x.yaml:2: limits.cluster: is too small",
    ]


def test_only_the_first_of_many_faults_are_shown_and_the_rest_counted() -> None:
    error = InvalidFileError([a_fault(line) for line in range(57)])

    lines = str(error).splitlines()

    assert len(lines) == 21
    assert lines[-1] == "… and 37 more"
    assert len(error.faults) == 57


def test_a_file_that_was_not_read_to_its_end_says_so() -> None:
    error = InvalidFileError([a_fault()], stopped_early=True)

    assert str(error).splitlines()[-1] == "… and more: the rest of the file was not checked"


@pytest.mark.parametrize("stopped_early", [False, True])
def test_an_invalid_file_survives_the_way_back_from_another_process(stopped_early: bool) -> None:
    error = InvalidFileError([a_fault()], stopped_early=stopped_early)

    copy = pickle.loads(pickle.dumps(error))

    assert copy.faults == error.faults
    assert str(copy) == str(error)
