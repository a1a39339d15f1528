"""The tables of the journal. Instants are ISO 8601 text in UTC, details are JSON text."""

from __future__ import annotations

import sqlalchemy as sa

VERSION = 1
"""Raised with every change of a table, together with a step that converts older ones. A table
that is new is made where it is missing, and older programs do not mind it."""

metadata = sa.MetaData()

schema_version = sa.Table(
    "schema_version", metadata, sa.Column("version", sa.Integer, nullable=False)
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("plan_id", sa.String, nullable=False, unique=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.Column("text", sa.Text, nullable=False),
)

migrations = sa.Table(
    "migrations",
    metadata,
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("migration", sa.String, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("vm", sa.String, nullable=False, index=True),
    sa.Column("written", sa.Text, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("changed_at", sa.String),
    sa.Column("outcome", sa.Text),
)

records = sa.Table(
    "records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), nullable=False, index=True),
    sa.Column("migration", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
)

drains = sa.Table(
    "drains",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("wanted", sa.String, nullable=False),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

wishes = sa.Table(
    "wishes",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("paused_at", sa.String),
    sa.Column("paused_by", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("stop_rollout", sa.Integer),
    sa.Column("stop_by_aborting", sa.Boolean, nullable=False),
    sa.Column("at_once", sa.Integer),
    sa.Column("link_share", sa.Float),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("heartbeat_at", sa.String, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
)
