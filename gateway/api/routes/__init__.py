"""The HTTP addresses, a module a subject. Each lists its operations as `OPERATIONS`."""

from __future__ import annotations

from typing import Final

from gateway.api.operations import AnyOperation
from gateway.api.routes import accounts, calls, deployment, health, members, plans, profiles, records, tokens

ALL_OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    *plans.OPERATIONS,
    *accounts.OPERATIONS,
    *profiles.OPERATIONS,
    *members.OPERATIONS,
    *calls.OPERATIONS,
    *records.OPERATIONS,
    *tokens.OPERATIONS,
    *deployment.OPERATIONS,
    *health.OPERATIONS,
)
"""Every operation, in the order in which `/openapi.json` describes and the router tries them."""
