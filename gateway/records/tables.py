"""The tables, as the newest migration leaves them. `_ms` are instants in milliseconds UTC."""

from __future__ import annotations

from datetime import date
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class Flag(TypeDecorator[bool]):
    """True or false: a boolean, and in SQLite's strict tables, which have none, 1 or 0."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type."""
        return Integer() if dialect.name == "sqlite" else Boolean()

    def process_result_value(self, value: Any, dialect: Dialect) -> bool | None:
        """Read it as a bool from either."""
        return None if value is None else bool(value)


class Day(TypeDecorator[date]):
    """A calendar date, and in SQLite's strict tables, which have none, its ISO 8601 text."""

    impl = Date
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type."""
        return Text() if dialect.name == "sqlite" else Date()

    def process_bind_param(self, value: date | None, dialect: Dialect) -> Any:
        """Write it as the column wants it."""
        return value.isoformat() if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> date | None:
        """Read it as a date from either."""
        return date.fromisoformat(value) if isinstance(value, str) else value


ID: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""An id, compared byte by byte: pages come in the same order from both databases, and faster."""

INT: Final = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits in both."""

NO: Final = false()
"""The default of a flag."""

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# Strict: SQLite then refuses a text where an integer belongs, as PostgreSQL does.
plans = Table(
    "plans",
    metadata,
    Column("plan", ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("minutes", INT, nullable=False),
    Column("connected_channels", INT, nullable=False),
    Column("staff_seats", INT, nullable=False),
    Column("max_concurrent_calls", INT),
    Column("price_amount", Text),  # decimal text, exactly as given: money is never a float
    Column("price_currency", Text),
    CheckConstraint("minutes >= 0 AND connected_channels >= 0 AND staff_seats >= 0", name="limits"),
    CheckConstraint("(price_amount IS NULL) = (price_currency IS NULL)", name="price"),
    sqlite_strict=True,
)

accounts = Table(
    "accounts",
    metadata,
    Column("account", ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("search_text", Text, nullable=False),
    Column("plan", ID, ForeignKey(plans.c.plan)),
    Column("pending_plan", ID, ForeignKey(plans.c.plan)),
    Column("pending_from_ms", INT),
    Column("billing_date", Day, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at_ms", INT, nullable=False),
    Column("revision", INT, nullable=False),
    Column("applied_revision", INT, nullable=False),
    CheckConstraint("status IN ('active', 'suspended')", name="status"),
    CheckConstraint("(pending_plan IS NULL) = (pending_from_ms IS NULL)", name="pending"),
    sqlite_strict=True,
)
Index("accounts_by_plan", accounts.c.plan)
Index("accounts_by_pending_plan", accounts.c.pending_plan)
_unapplied = text("applied_revision < revision")
Index("accounts_unapplied", accounts.c.account, postgresql_where=_unapplied, sqlite_where=_unapplied)

staff = Table(
    "staff",
    metadata,
    Column("account", ID, ForeignKey(accounts.c.account), primary_key=True),
    Column("staff", ID, primary_key=True),
    Column("name", Text),
    sqlite_strict=True,
)

channels = Table(
    "channels",
    metadata,
    Column("account", ID, ForeignKey(accounts.c.account), primary_key=True),
    Column("channel", ID, primary_key=True),
    Column("label", Text),
    Column("number", Text),
    sqlite_strict=True,
)

# No foreign key: an emergency call is recorded whatever its account (R30), and a record is never refused.
call_records = Table(
    "call_records",
    metadata,
    Column("account", ID, primary_key=True),
    Column("call_id", ID, primary_key=True),
    Column("admitted_at_ms", INT, primary_key=True),
    Column("staff", ID, nullable=False),
    Column("device", ID, nullable=False),
    Column("channel", ID),
    Column("to", Text, nullable=False),
    Column("answered_at_ms", INT),
    Column("ended_at_ms", INT, nullable=False),
    Column("settled_at_ms", INT, nullable=False),
    Column("duration_ms", INT, nullable=False),
    Column("billed_seconds", INT, nullable=False),
    Column("counted", Flag, nullable=False),
    Column("ended_by", Text, nullable=False),
    Column("emergency", Flag, nullable=False),
    Column("cycle_start_ms", INT, nullable=False),
    Column("revision", INT, nullable=False),
    # The policy that it was billed under.
    Column("free_seconds", INT, nullable=False),
    Column("increment_seconds", INT, nullable=False),
    Column("hold_seconds", INT, nullable=False),
    Column("count_from", Text, nullable=False),
    # Together the order of settling within a shard (R26).
    Column("shard", INT, nullable=False),
    Column("record_number", INT, nullable=False),
    # The defaults are for gateways of the version before, which may still record while others are updated.
    Column("admitted_offline", Flag, nullable=False, server_default=NO),
    # It came back (R15): the call is in progress again, and its record counts in no sum.
    Column("reopened", Flag, nullable=False, server_default=NO),
    sqlite_strict=True,
)
Index(
    "call_records_by_admission",
    call_records.c.account,
    call_records.c.admitted_at_ms.desc(),
    call_records.c.call_id,
)
Index(
    "call_records_by_staff",
    call_records.c.account,
    call_records.c.staff,
    call_records.c.admitted_at_ms.desc(),
    call_records.c.call_id,
)
Index(
    "call_records_by_cycle",
    call_records.c.account,
    call_records.c.cycle_start_ms,
    call_records.c.admitted_at_ms.desc(),
    call_records.c.call_id,
    postgresql_include=["billed_seconds", "counted", "reopened"],
)
_in_absence = text("ended_by <> 'hangup'")
Index(
    "call_records_settled_in_absence",
    call_records.c.account,
    call_records.c.cycle_start_ms,
    call_records.c.ended_at_ms,
    postgresql_where=_in_absence,
    sqlite_where=_in_absence,
)

Index(
    "call_records_reopened",
    call_records.c.account,
    call_records.c.cycle_start_ms,
    postgresql_where=text("reopened"),
    sqlite_where=text("reopened = 1"),
)

statements = Table(
    "statements",
    metadata,
    Column("account", ID, primary_key=True),
    Column("cycle_start_ms", INT, primary_key=True),
    Column("cycle_end_ms", INT, nullable=False),
    Column("cycle_index", INT, nullable=False),
    Column("plan", ID),
    Column("allocated_seconds", INT, nullable=False),
    # Null while it is open: then they are summed from the records.
    Column("closed_at_ms", INT),
    Column("used_seconds", INT),
    Column("calls_counted", INT),
    Column("calls_free", INT),
    # When live use passed each threshold (R29); null: it has not.
    Column("passed_50_ms", INT),
    Column("passed_80_ms", INT),
    Column("passed_100_ms", INT),
    CheckConstraint(
        "(closed_at_ms IS NULL) = (used_seconds IS NULL) "
        "AND (closed_at_ms IS NULL) = (calls_counted IS NULL) "
        "AND (closed_at_ms IS NULL) = (calls_free IS NULL)",
        name="closed",
    ),
    sqlite_strict=True,
)
_open = text("closed_at_ms IS NULL")
Index(
    "statements_open",
    statements.c.cycle_end_ms,
    statements.c.account,
    postgresql_where=_open,
    sqlite_where=_open,
)

recorder_positions = Table(
    "recorder_positions",
    metadata,
    Column("shard", INT, primary_key=True, autoincrement=False),
    Column("entry_id", Text, nullable=False),
    # The engine's epoch that the position belongs to: what was read under an older one is refused.
    Column("epoch", INT, nullable=False, server_default=text("0")),
    # The highest number of an item saved.
    Column("record_number", INT, nullable=False, server_default=text("0")),
    sqlite_strict=True,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("shard", INT, primary_key=True),
    Column("entry_id", Text, primary_key=True),
    Column("index", INT, primary_key=True),
    Column("body", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("at_ms", INT, nullable=False),
    sqlite_strict=True,
)

# Events for webhooks. Its times are real ones, of sending; when an event happened is in its body.
webhook_events = Table(
    "webhook_events",
    metadata,
    Column("event_id", ID, primary_key=True),
    Column("type", Text, nullable=False),
    Column("account", ID, nullable=False),
    Column("body", Text, nullable=False),
    # The cycle whose figures are still to be filled into the body.
    Column("figures_of_ms", INT),
    Column("created_at_ms", INT, nullable=False),
    Column("first_tried_at_ms", INT),
    Column("failures", INT, nullable=False),
    # Null once it was sent, or given up.
    Column("next_at_ms", INT),
    Column("done_at_ms", INT),
    Column("sent", Flag, nullable=False),
    Column("last_error", Text),
    CheckConstraint("(next_at_ms IS NULL) = (done_at_ms IS NOT NULL)", name="done"),
    sqlite_strict=True,
)
_waits = text("next_at_ms IS NOT NULL")
Index(
    "webhook_events_waiting",
    webhook_events.c.next_at_ms,
    webhook_events.c.event_id,
    postgresql_where=_waits,
    sqlite_where=_waits,
)
Index("webhook_events_by_creation", webhook_events.c.created_at_ms)

revocations = Table(
    "revocations",
    metadata,
    Column("account", ID, primary_key=True),
    Column("staff", ID, primary_key=True),  # "" is everybody
    Column("device", ID, primary_key=True),  # "" is every device
    Column("until_ms", INT, nullable=False),
    Column("number", INT, nullable=False),
    UniqueConstraint("number"),
    sqlite_strict=True,
)

deployment = Table(
    "deployment",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_strict=True,
)
