"""What the service keeps in the journal's database beside rollouts: a table each."""

from __future__ import annotations

from typing import Self

from rebalancer.rollout.database import Database


class JournalTable:
    """A table that one class reads and writes. Use it from one thread."""

    def __init__(self, database: Database) -> None:
        """Work on a database that is open, and close it in the end."""
        self._database = database

    @classmethod
    def open(cls, url: str) -> Self:
        """Open it at the journal's SQLAlchemy URL; `JournalError` if that cannot be."""
        return cls(Database.open(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
