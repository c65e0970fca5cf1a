"""Calls let through without the engine, in a cycle that is over when it hears of them (R20, R27)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.gateway.outages.deployments import ready_again
from tests.gateway.outages.test_emergency_calls import no_journal
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import instant, operating
from tests.support.waiting import wait_until


@pytest.mark.parametrize("to", ["+14155550100", "112"])
async def test_one_that_is_resumed_by_its_receipt_bills_to_the_cycle_it_was_admitted_in(
    start_engine: Callable[..., EngineServer], start_twin: Callable[..., GatewayProcess], to: str
) -> None:
    """At another gateway, before its own can tell of it."""
    engine = start_engine(persistent=True)
    flags = ("--simulate", "--when-engine-down", "admit", "--lease-seconds", "3600")
    own = await asyncio.to_thread(start_twin, engine.url, *flags)
    async with operating(own) as operator:
        old = instant("2030-01-15T00:00:00Z")
        await operator.at(instant("2030-02-14T23:59:00Z"))
        await operator.account()
        # A cycle of which nobody knows a call any more closes as soon as it is over (R27).
        await operator.start("goes-on", to="112")
        engine.kill()
        admitted = await operator.start("c-1", to=to)
    assert admitted["type"] == "call.admitted"
    own.kill()
    engine.start()

    other = await asyncio.to_thread(start_twin, engine.url, *flags)
    async with operating(other) as operator:
        now_ms = await operator.pass_by(120)
        resumed = await operator.http.post(
            "/v1/calls/c-1/resume?account=acme", json={"receipt": admitted["receipt"]}
        )
        assert resumed.json()["admitted_at_ms"] == admitted["admitted_at_ms"]
        assert instant((await operator.call("c-1"))["cycle_start"]) == old
        settled = await operator.end("c-1")
        assert settled["duration_ms"] == now_ms - admitted["admitted_at_ms"]

        await asyncio.to_thread(own.start)
        await wait_until(lambda: no_journal(own), 20)
        await ready_again(other)

        async def is_recorded() -> bool:
            (record,) = await operator.calls()  # one, though it was told of twice
            assert instant(record["cycle_start"]) == old
            assert record["billed_seconds"] == settled["billed_seconds"]
            return True

        await wait_until(is_recorded, 20)
        assert (await operator.pool())["used_seconds"] == 0
        (statement,) = [
            each for each in await operator.statements() if instant(each["cycle"]["start"]) == old
        ]
        assert statement["used_seconds"] == settled["billed_seconds"]
        assert statement["calls_counted"] + statement["calls_free"] == 1
