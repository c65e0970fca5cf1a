"""The outbox of webhooks."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INT: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLAG: Final = sa.Boolean().with_variant(sa.Integer(), "sqlite")
ID: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Go up to this revision."""
    op.create_table(
        "webhook_events",
        sa.Column("event_id", ID, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("account", ID, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("figures_of_ms", INT),
        sa.Column("created_at_ms", INT, nullable=False),
        sa.Column("first_tried_at_ms", INT),
        sa.Column("failures", INT, nullable=False),
        sa.Column("next_at_ms", INT),
        sa.Column("done_at_ms", INT),
        sa.Column("sent", FLAG, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("event_id", name="pk_webhook_events"),
        sa.CheckConstraint("(next_at_ms IS NULL) = (done_at_ms IS NOT NULL)", name="ck_webhook_events_done"),
        sqlite_strict=True,
    )
    waits = sa.text("next_at_ms IS NOT NULL")
    op.create_index(
        "webhook_events_waiting",
        "webhook_events",
        ["next_at_ms", "event_id"],
        postgresql_where=waits,
        sqlite_where=waits,
    )
    op.create_index("webhook_events_by_creation", "webhook_events", ["created_at_ms"])
