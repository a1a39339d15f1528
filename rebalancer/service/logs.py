"""How log lines look: `key=value` for people, JSON under systemd; always on standard output.

An event is logged as its name with its context: `log.info("cycle", extra={"verdict": …})`. The
journal of systemd stamps lines itself, so that ours carry the time only elsewhere.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

from rebalancer.service.wording import one_line


class LogFormat(StrEnum):
    """What a log line is."""

    AUTO = "auto"
    """JSON under systemd, text elsewhere."""
    TEXT = "text"
    JSON = "json"


# What every record has; everything else was given by whoever logged.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class TextLines(logging.Formatter):
    """`2026-11-23T12:00:00Z INFO cycle policy=balance verdict="balanced: …"`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        at = datetime.fromtimestamp(record.created, UTC)
        head = f"{at:%Y-%m-%dT%H:%M:%SZ} {record.levelname} {one_line(record.getMessage())}"
        pairs = [f"{key}={_value(value)}" for key, value in fields_of(record).items()]
        lines = [" ".join([head, *pairs])]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One JSON object a line: level, event, then the context."""

    def __init__(self, *, with_time: bool) -> None:
        """Give lines a time of their own if nobody else stamps them."""
        super().__init__()
        self._with_time = with_time

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        line: dict[str, Any] = {}
        if self._with_time:
            line["time"] = datetime.fromtimestamp(record.created, UTC).isoformat()
        line |= {"level": record.levelname.lower(), "event": record.getMessage()}
        line |= fields_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the context that an event was logged with."""
    return {key: value for key, value in vars(record).items() if key not in _OWN}


def set_up_logs(
    wanted: LogFormat,
    stream: TextIO | None = None,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Send every log line of the process to standard output, in the form that is wanted."""
    handler = logging.StreamHandler(stream or sys.stdout)
    under_systemd = "JOURNAL_STREAM" in environment
    is_json = wanted is LogFormat.JSON or (wanted is LogFormat.AUTO and under_systemd)
    handler.setFormatter(JsonLines(with_time=not under_systemd) if is_json else TextLines())
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # It tells of every job that it runs; we tell what came of it.
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def _value(value: object) -> str:
    text = one_line(str(value))
    plain = text and not any(char in ' "=' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
