"""The worked examples of `tests/vectors`, as typed data, and how answers are compared with them.

They bind whatever computes minutes: the plain model, the scripts in a real engine, the gateway as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

from gateway.domain.answers import Admitted, PoolView, Refused, Settled
from gateway.domain.errors import CallgateError
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy

VECTORS = Path(__file__).parent.parent / "vectors"

Expectation = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to a pool, at an instant, and what its answer must hold."""

    at_ms: int
    do: Literal["start", "answered", "end", "pool", "plan", "suspend"]
    call_id: str = ""
    plan: Plan | None = None
    suspended: bool = False
    expect: Expectation = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """What happens to the pool of one account, which is made at the first step's instant."""

    name: str
    rules: tuple[str, ...]
    policy: Policy
    plan: Plan
    billing_date: date
    time_zone: str
    cycle_boundaries_ms: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Boundary:
    """One line of `cycles.json`: the k-th cycle boundary of a billing date in a time zone, as RFC 3339."""

    billing_date: date
    time_zone: str
    k: int
    at: str


def histories() -> list[History]:
    """Return every history: the worked examples and the random ones."""
    return [
        _history(raw)
        for name in ("pool_worked.json", "pool_random.json")
        for raw in json.loads((VECTORS / name).read_text())
    ]


def boundaries() -> list[Boundary]:
    """Return every line of `cycles.json`."""
    return [
        Boundary(date.fromisoformat(raw["billing_date"]), raw["time_zone"], line["k"], line["at"])
        for raw in json.loads((VECTORS / "cycles.json").read_text())
        for line in raw["boundaries"]
    ]


def vector_fields(answer: Admitted | Refused | Settled | PoolView | CallgateError) -> dict[str, object]:
    """Return an answer under the names that the expectations of the vectors use."""
    match answer:
        case CallgateError():
            return {"error": answer.code}
        case Admitted():
            return {"decision": "admitted", **asdict(answer)}
        case Refused():
            return {"decision": "refused", **asdict(answer)}
        case _:
            return asdict(answer)


def _history(raw: dict[str, Any]) -> History:
    return History(
        name=raw["name"],
        rules=tuple(raw["rules"]),
        policy=Policy(**raw["policy"]),
        plan=_plan(raw["plan"]),
        billing_date=date.fromisoformat(raw["billing_date"]),
        time_zone=raw["time_zone"],
        cycle_boundaries_ms=tuple(raw["cycle_boundaries_ms"]),
        steps=tuple(
            Step(**{**step, "plan": _plan(step["plan"])} if "plan" in step else step) for step in raw["steps"]
        ),
    )


def _plan(raw: dict[str, Any]) -> Plan:
    """Make a plan with seats and channels to spare: the vectors are about minutes and calls."""
    limit = raw.get("max_concurrent_calls")
    plan_id = f"minutes-{raw['minutes']}" + (f"-calls-{limit}" if limit is not None else "")
    return Plan(
        plan=plan_id,
        name=plan_id,
        minutes=raw["minutes"],
        connected_channels=100,
        staff_seats=100,
        max_concurrent_calls=limit,
    )
