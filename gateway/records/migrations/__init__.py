"""The history of the tables, for alembic. Revisions are numbered; a released one is never changed."""
