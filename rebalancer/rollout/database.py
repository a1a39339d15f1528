"""The journal's database: SQLite by default, PostgreSQL by its address.

This is the only module that knows which of the two it is. Both are set up to keep the same
promises: a commit that has returned is on disk, one transaction writes at a time and the others
wait for it, and an error says what to do.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from rebalancer.errors import JournalError
from rebalancer.rollout import schema

WAIT_FOR_WRITERS_MS = 10_000
"""How long SQLite waits for another process's write, which takes milliseconds."""

_POSTGRESQL = "postgresql"
_PATIENCE = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
"""A server that is gone is noticed in seconds, and of several hosts the one that may write is
taken (libpq, 34.1.2). What the address says itself counts more."""

_SESSION = (
    "SET lock_timeout = '5s'",
    "SET statement_timeout = '10s'",
    # A machine that lost power in a transaction must not keep its successor waiting.
    "SET idle_in_transaction_session_timeout = '5s'",
    # Somebody may have set it to less for the whole server; to more is welcome.
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')",
)
_ONE_WRITER = "SELECT pg_advisory_xact_lock(7232562253)"
"""The number is any that nobody else takes: `rebal` on a telephone."""


_users: Counter[sa.Engine] = Counter()
_counting = threading.Lock()
"""Parts of the journal that are open at once share connections."""


class Database:
    """A journal's database, open and of the version that this program reads."""

    def __init__(self, engine: sa.Engine, shown_url: str) -> None:
        """Take an engine whose tables are made; `shown_url` has no password in it."""
        self.engine = engine
        self._shown_url = shown_url
        with _counting:
            _users[engine] += 1

    @classmethod
    def open(cls, url: str) -> Self:
        """Open it at an SQLAlchemy URL, such as `sqlite:////var/lib/rebalancer/journal.db`.

        Makes what is not there, and converts what an older program made. Raises `JournalError`
        when it cannot be used.
        """
        try:
            parsed = sa.make_url(url)
        except SQLAlchemyError as error:
            raise JournalError(
                "cannot open the journal: its address makes no sense; expected such as "
                "sqlite:////var/lib/rebalancer/journal.db or postgresql://user@host/rebalancer"
            ) from error
        shown = shown_address(parsed)
        try:
            engine = _connect(parsed)
        except ImportError as error:
            raise JournalError(
                f"cannot open the journal {shown}: {error}; for PostgreSQL install "
                "vm-rebalancer[postgresql]"
            ) from error
        except (SQLAlchemyError, OSError) as error:
            raise JournalError(f"cannot open the journal {shown}: {error}") from error
        database = cls(engine, shown)
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Let go of it; the last one to do so closes its connections."""
        with _counting:
            _users[self.engine] -= 1
            if _users[self.engine] > 0:
                return
            del _users[self.engine]
        self.engine.dispose()

    @property
    def is_shared(self) -> bool:
        """Whether processes on several machines may use it."""
        return self.engine.dialect.name == _POSTGRESQL

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Look things up."""
        with self._translated(), self.engine.connect() as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, the only one that writes; it is on disk when this ends."""
        with self._translated(), self.engine.connect() as plain:
            db = plain.execution_options(writes=True)
            with db.begin():
                yield db

    def _prepare(self) -> None:
        with self.reading() as db:
            if schema.version_of(db) == schema.VERSION:
                return
        with self.writing() as db:
            if why := schema.prepare(db):
                raise JournalError(f"the journal {self._shown_url} {why}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise JournalError(f"journal {self._shown_url}: {advice(error)}") from error


def shown_address(url: sa.URL) -> str:
    """Return the address as people may see it: without passwords, those of its query included."""
    query = {key: "hidden" if "password" in key else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def _connect(url: sa.URL) -> sa.Engine:
    """Make an engine, or take the one that was made: it remembers how statements are written."""
    return _fresh(url) if url.database in (None, "", ":memory:") else _known(url)


@functools.lru_cache(maxsize=8)
def _known(url: sa.URL) -> sa.Engine:
    return _fresh(url)


def _fresh(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == _POSTGRESQL:
        return _postgresql(url)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    raise OSError(f"{url.get_backend_name()} is neither sqlite nor postgresql")


def _sqlite(url: sa.URL) -> sa.Engine:
    """Make SQLite keep its promises: durable commits, and writers that wait for each other."""
    if url.database not in (None, "", ":memory:"):
        assert url.database is not None
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url)

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the transactions are ours, not the module's
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={WAIT_FOR_WRITERS_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begins(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later could fail half-way when another
        # process wrote meanwhile; one that takes the lock at once waits instead.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    """Make PostgreSQL behave as SQLite does: one writer at a time, and no endless waiting."""
    psycopg = url.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(
        psycopg,
        # What is read after the advisory lock was waited for has to be what is there by then.
        isolation_level="READ COMMITTED",
        connect_args={key: value for key, value in _PATIENCE.items() if key not in url.query},
        pool_pre_ping=True,  # the server may have been started anew since
        pool_size=2,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:  # noqa: ANN401  psycopg is an extra
        connection.autocommit = True
        for statement in _SESSION:
            connection.execute(statement)
        connection.autocommit = False

    @event.listens_for(engine, "begin")
    def _begins(connection: sa.Connection) -> None:
        # What is read after this was committed before it, and stays so until the commit: the
        # lease that a write is checked against, too.
        if _writes(connection):
            connection.exec_driver_sql(_ONE_WRITER)

    return engine


def _writes(connection: sa.Connection) -> bool:
    return bool(connection.get_execution_options().get("writes", False))


_ADVICE: tuple[tuple[str, str], ...] = (
    ("is full", "the disk is full: make room; nothing was changed that is not written down"),
    ("No space left", "the disk is full: make room; nothing was changed that is not written down"),
    ("locked", "another process keeps it locked: end that one, then try again"),
    ("lock timeout", "another process keeps it locked: end that one, then try again"),
    ("readonly", "it cannot be written: check the owner and mode of the file and its folder"),
    ("read-only", "it cannot be written: the server is a replica, name the primary"),
    ("unable to open", "it cannot be opened: check that its folder exists and may be written"),
    ("not a database", "it is not a journal, or it is damaged: restore it or move it away"),
    ("malformed", "it is damaged: restore it or move it away, then look at all VMs yourself"),
    ("authentication failed", "it does not let us in: check user and password"),
    ("permission denied", "it does not let us in: the user must own the database"),
    ("does not exist", "it is not there: create the database and its user first"),
    ("connection", "the server cannot be reached: nothing new is begun until it can be"),
    ("the database system is", "the server cannot be reached: nothing new is begun until it can"),
)


def advice(error: SQLAlchemyError) -> str:
    """Say in one line what a database error means and what to do about it."""
    text = str(error.orig) if isinstance(error, DatabaseError) else str(error)
    said = " ".join(text.split())
    for sign, advice in _ADVICE:
        if sign in said:
            return f"{advice} ({said})"
    return said
