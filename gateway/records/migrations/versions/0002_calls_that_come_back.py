"""Calls that come back (R15), calls admitted without the engine, and the epochs of the engine's shards."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INT: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLAG: Final = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go up to this revision."""
    for flag in ("admitted_offline", "reopened"):
        op.add_column("call_records", sa.Column(flag, FLAG, nullable=False, server_default=sa.false()))
    op.create_index(
        "call_records_reopened",
        "call_records",
        ["account", "cycle_start_ms"],
        postgresql_where=sa.text("reopened"),
        sqlite_where=sa.text("reopened = 1"),
    )
    if op.get_context().dialect.name == "postgresql":  # in SQLite it includes nothing
        op.drop_index("call_records_by_cycle", "call_records")
        op.create_index(
            "call_records_by_cycle",
            "call_records",
            ["account", "cycle_start_ms", sa.text("admitted_at_ms DESC"), "call_id"],
            postgresql_include=["billed_seconds", "counted", "reopened"],
        )
    for column in ("epoch", "record_number"):
        op.add_column(
            "recorder_positions", sa.Column(column, INT, nullable=False, server_default=sa.text("0"))
        )
