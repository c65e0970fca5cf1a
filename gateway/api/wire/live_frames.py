"""The text frames that dashboards alone are sent, beside the pool itself."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType

from gateway.api.wire.resources import CycleSpan


class PoolNotice(Struct, frozen=True, kw_only=True, tag_field="type", tag="notice"):
    """What happened to a pool.

    `percent` is there for a `threshold` only, `plan` for `plan_changed`, `cycle` for `cycle_reset`.
    """

    kind: str
    message: str
    at_ms: int
    percent: int | UnsetType = UNSET
    plan: str | UnsetType | None = UNSET
    cycle: CycleSpan | UnsetType = UNSET
