"""Which version the journal's tables have, and how older ones become newer ones.

A program reads one version. It converts what is older, in one transaction, and leaves alone what
is newer: whoever wrote that knows more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError

from rebalancer.rollout import tables

VERSION = 4
"""Raised with every change of a table, together with a step in `_STEPS`."""


def version_of(db: sa.Connection) -> int | None:
    """Return the version that the tables have; `None`: there are none."""
    query = sa.select(tables.schema_version.c.version)
    try:
        with db.begin_nested():
            found = db.execute(query).scalar()
    except (OperationalError, ProgrammingError):
        if not sa.inspect(db).has_table(tables.schema_version.name):
            return None
        raise
    return int(found) if found is not None else None


def prepare(db: sa.Connection) -> str:
    """Make or convert the tables; return why that cannot be, after the words `the journal …`."""
    found = version_of(db)
    if found is not None and found > VERSION:
        return (
            f"has version {found}, this program reads version {VERSION}: install the rebalancer "
            "that wrote it, or move it away after `recover`"
        )
    tables.metadata.create_all(db)
    if found is None:
        db.execute(sa.insert(tables.schema_version).values(version=VERSION))
        return ""
    for version in range(found, VERSION):
        _STEPS[version](db)
    db.execute(sa.update(tables.schema_version).values(version=VERSION))
    return ""


def _name_policies(db: sa.Connection) -> None:
    """From 1 to 2: a rollout says which policy it was for, so that budgets can be counted."""
    db.exec_driver_sql("ALTER TABLE rollouts ADD COLUMN policy VARCHAR NOT NULL DEFAULT ''")
    table = tables.rollouts
    for number, plan in db.execute(sa.select(table.c.id, table.c.plan)).all():
        db.execute(sa.update(table).where(table.c.id == number).values(policy=_policy_in(plan)))


def _policy_in(plan: str) -> str:
    try:
        return str(json.loads(plan).get("policy", ""))
    except (ValueError, AttributeError):  # begun without the plan's text
        return ""


def _only_new_tables(_: sa.Connection) -> None:
    """From 2 to 3: commands of rolling maintenance, and silent locks that are watched.

    An older program must not work beside this one: it would run such a command a second time.
    """


def _parts_of_migrations(_: sa.Connection) -> None:
    """From 3 to 4: what is written of migrations may say how long their parts took.

    No table is another one, but an older program could not read such a row when it recovers.
    """


_STEPS: Mapping[int, Callable[[sa.Connection], None]] = {
    1: _name_policies,
    2: _only_new_tables,
    3: _parts_of_migrations,
}
"""By the version that each starts from."""
