"""The first tables."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INT: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLAG: Final = sa.Boolean().with_variant(sa.Integer(), "sqlite")
DAY: Final = sa.Date().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    """Go up to this revision."""
    _plans_and_accounts()
    _call_records()
    _statements()
    _recorder()
    op.create_table(
        "revocations",
        sa.Column("account", ID, nullable=False),
        sa.Column("staff", ID, nullable=False),
        sa.Column("device", ID, nullable=False),
        sa.Column("until_ms", INT, nullable=False),
        sa.Column("number", INT, nullable=False),
        sa.PrimaryKeyConstraint("account", "staff", "device", name="pk_revocations"),
        sa.UniqueConstraint("number", name="uq_revocations_number"),
        sqlite_strict=True,
    )
    op.create_table(
        "deployment",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_deployment"),
        sqlite_strict=True,
    )


def _plans_and_accounts() -> None:
    op.create_table(
        "plans",
        sa.Column("plan", ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("minutes", INT, nullable=False),
        sa.Column("connected_channels", INT, nullable=False),
        sa.Column("staff_seats", INT, nullable=False),
        sa.Column("max_concurrent_calls", INT),
        sa.Column("price_amount", sa.Text),
        sa.Column("price_currency", sa.Text),
        sa.PrimaryKeyConstraint("plan", name="pk_plans"),
        sa.CheckConstraint(
            "minutes >= 0 AND connected_channels >= 0 AND staff_seats >= 0", name="ck_plans_limits"
        ),
        sa.CheckConstraint("(price_amount IS NULL) = (price_currency IS NULL)", name="ck_plans_price"),
        sqlite_strict=True,
    )
    op.create_table(
        "accounts",
        sa.Column("account", ID, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("search_text", sa.Text, nullable=False),
        sa.Column("plan", ID),
        sa.Column("pending_plan", ID),
        sa.Column("pending_from_ms", INT),
        sa.Column("billing_date", DAY, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("created_at_ms", INT, nullable=False),
        sa.Column("revision", INT, nullable=False),
        sa.Column("applied_revision", INT, nullable=False),
        sa.PrimaryKeyConstraint("account", name="pk_accounts"),
        sa.ForeignKeyConstraint(["plan"], ["plans.plan"], name="fk_accounts_plan"),
        sa.ForeignKeyConstraint(["pending_plan"], ["plans.plan"], name="fk_accounts_pending_plan"),
        sa.CheckConstraint("status IN ('active', 'suspended')", name="ck_accounts_status"),
        sa.CheckConstraint("(pending_plan IS NULL) = (pending_from_ms IS NULL)", name="ck_accounts_pending"),
        sqlite_strict=True,
    )
    op.create_index("accounts_by_plan", "accounts", ["plan"])
    op.create_index("accounts_by_pending_plan", "accounts", ["pending_plan"])
    unapplied = sa.text("applied_revision < revision")
    op.create_index(
        "accounts_unapplied", "accounts", ["account"], postgresql_where=unapplied, sqlite_where=unapplied
    )
    op.create_table(
        "staff",
        sa.Column("account", ID, nullable=False),
        sa.Column("staff", ID, nullable=False),
        sa.Column("name", sa.Text),
        sa.PrimaryKeyConstraint("account", "staff", name="pk_staff"),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name="fk_staff_account"),
        sqlite_strict=True,
    )
    op.create_table(
        "channels",
        sa.Column("account", ID, nullable=False),
        sa.Column("channel", ID, nullable=False),
        sa.Column("label", sa.Text),
        sa.Column("number", sa.Text),
        sa.PrimaryKeyConstraint("account", "channel", name="pk_channels"),
        sa.ForeignKeyConstraint(["account"], ["accounts.account"], name="fk_channels_account"),
        sqlite_strict=True,
    )


def _call_records() -> None:
    op.create_table(
        "call_records",
        sa.Column("account", ID, nullable=False),
        sa.Column("call_id", ID, nullable=False),
        sa.Column("admitted_at_ms", INT, nullable=False),
        sa.Column("staff", ID, nullable=False),
        sa.Column("device", ID, nullable=False),
        sa.Column("channel", ID),
        sa.Column("to", sa.Text, nullable=False),
        sa.Column("answered_at_ms", INT),
        sa.Column("ended_at_ms", INT, nullable=False),
        sa.Column("settled_at_ms", INT, nullable=False),
        sa.Column("duration_ms", INT, nullable=False),
        sa.Column("billed_seconds", INT, nullable=False),
        sa.Column("counted", FLAG, nullable=False),
        sa.Column("ended_by", sa.Text, nullable=False),
        sa.Column("emergency", FLAG, nullable=False),
        sa.Column("cycle_start_ms", INT, nullable=False),
        sa.Column("revision", INT, nullable=False),
        sa.Column("free_seconds", INT, nullable=False),
        sa.Column("increment_seconds", INT, nullable=False),
        sa.Column("hold_seconds", INT, nullable=False),
        sa.Column("count_from", sa.Text, nullable=False),
        sa.Column("shard", INT, nullable=False),
        sa.Column("record_number", INT, nullable=False),
        sa.PrimaryKeyConstraint("account", "call_id", "admitted_at_ms", name="pk_call_records"),
        sqlite_strict=True,
    )
    newest_first: list[str | sa.TextClause] = [sa.text("admitted_at_ms DESC"), "call_id"]
    op.create_index("call_records_by_admission", "call_records", ["account", *newest_first])
    op.create_index("call_records_by_staff", "call_records", ["account", "staff", *newest_first])
    op.create_index(
        "call_records_by_cycle",
        "call_records",
        ["account", "cycle_start_ms", *newest_first],
        postgresql_include=["billed_seconds", "counted"],
    )
    in_absence = sa.text("ended_by <> 'hangup'")
    op.create_index(
        "call_records_settled_in_absence",
        "call_records",
        ["account", "cycle_start_ms", "ended_at_ms"],
        postgresql_where=in_absence,
        sqlite_where=in_absence,
    )


def _statements() -> None:
    op.create_table(
        "statements",
        sa.Column("account", ID, nullable=False),
        sa.Column("cycle_start_ms", INT, nullable=False),
        sa.Column("cycle_end_ms", INT, nullable=False),
        sa.Column("cycle_index", INT, nullable=False),
        sa.Column("plan", ID),
        sa.Column("allocated_seconds", INT, nullable=False),
        sa.Column("closed_at_ms", INT),
        sa.Column("used_seconds", INT),
        sa.Column("calls_counted", INT),
        sa.Column("calls_free", INT),
        sa.PrimaryKeyConstraint("account", "cycle_start_ms", name="pk_statements"),
        sa.CheckConstraint(
            "(closed_at_ms IS NULL) = (used_seconds IS NULL) "
            "AND (closed_at_ms IS NULL) = (calls_counted IS NULL) "
            "AND (closed_at_ms IS NULL) = (calls_free IS NULL)",
            name="ck_statements_closed",
        ),
        sqlite_strict=True,
    )
    is_open = sa.text("closed_at_ms IS NULL")
    op.create_index(
        "statements_open",
        "statements",
        ["cycle_end_ms", "account"],
        postgresql_where=is_open,
        sqlite_where=is_open,
    )


def _recorder() -> None:
    op.create_table(
        "recorder_positions",
        sa.Column("shard", INT, nullable=False, autoincrement=False),
        sa.Column("entry_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("shard", name="pk_recorder_positions"),
        sqlite_strict=True,
    )
    op.create_table(
        "dead_letters",
        sa.Column("shard", INT, nullable=False, autoincrement=False),
        sa.Column("entry_id", sa.Text, nullable=False),
        sa.Column("index", INT, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("at_ms", INT, nullable=False),
        sa.PrimaryKeyConstraint("shard", "entry_id", "index", name="pk_dead_letters"),
        sqlite_strict=True,
    )
