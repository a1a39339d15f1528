"""All tables of the journal's database. Instants are ISO 8601 text in UTC, details are JSON text.

Which version of them a database has, and how it is converted, is `schema`'s.
"""

from __future__ import annotations

import sqlalchemy as sa

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
    # An older program that has the journal open does not know of it.
    sa.Column("policy", sa.String, nullable=False, server_default=""),
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

left_over_removals = sa.Table(
    "left_over_removals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False, index=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("vm", sa.String, nullable=False),
    sa.Column("rollout", sa.ForeignKey("rollouts.id"), nullable=False),
    sa.Column("migration", sa.String, nullable=False),
    sa.Column("keep", sa.String, nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("asked_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String),
    sa.Column("outcome", sa.String),
    sa.Column("text", sa.Text, nullable=False),
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

drain_hooks = sa.Table(
    "drain_hooks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False, index=True),
    sa.Column("hosts", sa.Text, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

maintenance = sa.Table(
    "maintenance",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("run", sa.String, nullable=False, index=True),
    sa.Column("command", sa.Text, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("begun_at", sa.String, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("process", sa.Text),
    sa.Column("ended_at", sa.String),
    sa.Column("failure", sa.Text, nullable=False),
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

lease_watches = sa.Table(
    "lease_watches",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("machine", sa.String, primary_key=True),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("heartbeat_at", sa.String, nullable=False),
    sa.Column("since_seconds", sa.Float, nullable=False),
)

leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("heartbeat_at", sa.String, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
)

cycles = sa.Table(
    "cycles",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False, index=True),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("wanted", sa.Boolean, nullable=False),
    sa.Column("acted", sa.Boolean, nullable=False),
    sa.Column("silent_hosts", sa.Text, nullable=False),
)

recommendations = sa.Table(
    "recommendations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False),
    sa.Column("plan_id", sa.String, nullable=False, unique=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("expires_at", sa.String, nullable=False),
    sa.Column("approved_at", sa.String),
    sa.Column("approved_by", sa.String, nullable=False),
    sa.Column("ended", sa.Text),
)

dirty_rates = sa.Table(
    "dirty_rates",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("vm", sa.String, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("bytes_per_second", sa.Float, nullable=False),
    sa.Column("working_set_bytes", sa.BigInteger),
    sa.Column("error_bytes_per_second", sa.Float, nullable=False),
)

power_marks = sa.Table(
    "power_marks",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("told", sa.Boolean, nullable=False),
    sa.Column("size", sa.Text),
)

power_records = sa.Table(
    "power_records",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.String, nullable=False, index=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

power_unneeded = sa.Table(
    "power_unneeded",
    metadata,
    sa.Column("cluster", sa.String, primary_key=True),
    sa.Column("policy", sa.String, primary_key=True),
    sa.Column("host", sa.String, primary_key=True),
    sa.Column("cycles", sa.Integer, nullable=False),
    sa.Column("at", sa.String, nullable=False),
)
