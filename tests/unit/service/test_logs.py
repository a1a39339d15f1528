from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest

from rebalancer.service.logs import LogFormat, set_up_logs

type LogTo = Callable[[LogFormat, Mapping[str, str]], io.StringIO]
JOURNALD = {"JOURNAL_STREAM": "8:1"}


@pytest.fixture
def log_to() -> Iterator[LogTo]:
    """Set the logs up for a test, and back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def set_up(wanted: LogFormat, environment: Mapping[str, str]) -> io.StringIO:
        stream = io.StringIO()
        set_up_logs(wanted, stream, environment)
        return stream

    yield set_up
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_on_a_terminal_is_for_people(log_to: LogTo) -> None:
    said = log_to(LogFormat.AUTO, {})

    logging.getLogger("x").info("cycle", extra={"policy": "night", "verdict": 'a "b"\nc'})

    time, rest = said.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO cycle policy=night verdict="a \\"b\\" c"\n'


def test_a_line_for_journald_is_json_and_leaves_the_time_to_it(log_to: LogTo) -> None:
    said = log_to(LogFormat.AUTO, JOURNALD)

    logging.getLogger("x").warning("cycle", extra={"policy": "night", "migrations": 2})

    line = json.loads(said.getvalue())
    assert line == {"level": "warning", "event": "cycle", "policy": "night", "migrations": 2}


def test_json_without_journald_has_the_time(log_to: LogTo) -> None:
    said = log_to(LogFormat.JSON, {})

    logging.getLogger("x").info("cycle")

    assert set(json.loads(said.getvalue())) == {"time", "level", "event"}


def test_the_trace_of_a_bug_stays_in_its_line(log_to: LogTo) -> None:
    said = log_to(LogFormat.JSON, JOURNALD)

    try:
        int("ouch")
    except ValueError:
        logging.getLogger("x").exception("cycle_failed")

    (line,) = said.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]
