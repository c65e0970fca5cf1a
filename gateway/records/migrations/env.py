"""Run by alembic: puts the migrations through the connection that `gateway.records.schema` hands over."""

from __future__ import annotations

from alembic import context

# The connection is in a transaction already: all migrations of one start are saved together, or none is.
context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
