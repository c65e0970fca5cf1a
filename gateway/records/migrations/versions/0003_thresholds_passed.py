"""The thresholds that live use has passed in a cycle (R29)."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INT: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Go up to this revision."""
    for percent in (50, 80, 100):
        op.add_column("statements", sa.Column(f"passed_{percent}_ms", INT))
