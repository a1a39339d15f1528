"""The journal's database: opened so that a commit is on disk, and errors that say what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError


def connect(url: sa.URL) -> sa.Engine:
    """Make an engine for `url`; with SQLite, its folder too."""
    is_sqlite = url.get_backend_name() == "sqlite"
    if is_sqlite:
        _make_folder(url)
    engine = sa.create_engine(url)
    if is_sqlite:
        _set_up_sqlite(engine)
    return engine


def _make_folder(url: sa.URL) -> None:
    if url.database not in (None, "", ":memory:"):
        assert url.database is not None
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _set_up_sqlite(engine: sa.Engine) -> None:
    """Make SQLite keep its promises: durable commits, and writers that wait for each other."""

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the transactions are ours, not the module's
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begins(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later could fail half-way when another
        # process wrote meanwhile; one that takes the lock at once waits instead.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_ADVICE: tuple[tuple[str, str], ...] = (
    ("full", "the disk is full: make room; nothing was changed that is not written down"),
    ("locked", "another process keeps it locked: end that one, then try again"),
    ("readonly", "it cannot be written: check the owner and mode of the file and its folder"),
    ("unable to open", "it cannot be opened: check that its folder exists and may be written"),
    ("not a database", "it is not a journal, or it is damaged: restore it or move it away"),
    ("malformed", "it is damaged: restore it or move it away, then look at all VMs yourself"),
)


def advice(error: SQLAlchemyError) -> str:
    """Say what a database error means and what to do about it."""
    said = str(error.orig) if isinstance(error, DatabaseError) else str(error)
    for sign, advice in _ADVICE:
        if sign in said:
            return f"{advice} ({said})"
    return said
