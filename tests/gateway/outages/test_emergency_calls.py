"""Emergency calls pass while the engine is away, and are in the books afterwards (R30)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.gateway.outages.deployments import Deployment, problem, ready_again, real_time_ms, timed
from tests.support.devices import Device, connect_device, connected
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
from tests.support.waiting import wait_until

WITHIN_SECONDS = 0.3
CLOCKS_APART_MS = 1000
"""How far a gateway's reckoning of the engine's clock may be off."""

CONNECTIONS = 8
"""Enough that two workers get some of them: the system deals them out."""


class HttpPhone:
    """Asks over HTTP, by its token."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def start(self, call_id: str, to: str) -> Json:
        """Ask for a call."""
        return await self._post("/v1/calls", {"call_id": call_id, "to": to})

    async def answered(self, call_id: str) -> Json:
        """Tell that a call was answered."""
        return await self._post(f"/v1/calls/{call_id}/answered", {})

    async def end(self, call_id: str) -> Json:
        """End a call."""
        return await self._post(f"/v1/calls/{call_id}/end", {})

    async def _post(self, address: str, body: Json) -> Json:
        answer: Json = (await self._http.post(address, json=body)).json()
        return answer


class SwitchedOnPhone:
    """Connects anew for every call, and asks without waiting for the welcome."""

    def __init__(self, gateway: GatewayProcess, token: str) -> None:
        self._gateway = gateway
        self._token = token
        self.device: Device | None = None

    async def start(self, call_id: str, to: str) -> Json:
        """Connect, and ask for a call."""
        self.device = await connect_device(self._gateway, self._token)
        return await self.device.start(call_id, to)

    async def answered(self, call_id: str) -> Json:
        """Tell that a call was answered."""
        assert self.device is not None
        return await self.device.answered(call_id)

    async def end(self, call_id: str) -> Json:
        """End a call."""
        assert self.device is not None
        return await self.device.end(call_id)


Phone = HttpPhone | Device | SwitchedOnPhone


@pytest.fixture(params=["http", "websocket", "new websocket"])
async def phone(
    request: pytest.FixtureRequest, deployment: Deployment, operator: Operator, account: str
) -> AsyncIterator[Phone]:
    """A phone of ana's, asking in each way."""
    await operator.account(account)
    token = await operator.token(account)
    if request.param == "http":
        async with httpx.AsyncClient(
            base_url=deployment.gateway.url, headers={"Authorization": f"Bearer {token}"}
        ) as http:
            yield HttpPhone(http)
    elif request.param == "websocket":
        async with connected(deployment.gateway, token) as device:
            yield device
    else:
        switched_on = SwitchedOnPhone(deployment.gateway, token)
        yield switched_on
        if switched_on.device is not None:
            await switched_on.device.close()


async def test_they_are_admitted_and_ended_while_the_engine_is_away(
    deployment: Deployment, operator: Operator, phone: Phone, account: str
) -> None:
    began_ms = real_time_ms()
    deployment.take_engine_away()

    took = []
    for call_id in ("help-0", "help-1", "help-2"):
        answer, seconds = await timed(phone.start(call_id, "911"))
        assert (answer["type"], answer["emergency"], answer["replayed"]) == ("call.admitted", True, False)
        assert answer["remaining_seconds"] is None
        took.append(seconds)
    assert min(took) < WITHIN_SECONDS

    assert (await phone.answered("help-2"))["type"] == "call.noted"
    settled = await phone.end("help-2")
    assert (settled["billed_seconds"], settled["counted"], settled["replayed"]) == (0, False, False)
    again = await phone.end("help-2")
    assert (again["replayed"], again["duration_ms"]) == (True, settled["duration_ms"])

    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    record = await recorded(operator, account, "help-2")
    assert (record["emergency"], record["billed_seconds"], record["counted"]) == (True, 0, False)
    assert (record["ended_by"], record["revision"]) == ("hangup", 1)
    assert record["admitted_at_ms"] <= record["answered_at_ms"] <= record["ended_at_ms"]
    assert began_ms - CLOCKS_APART_MS < record["admitted_at_ms"]
    assert record["ended_at_ms"] < real_time_ms() + CLOCKS_APART_MS

    pool = await operator.pool(account)
    assert {call["call_id"] for call in pool["calls"]} == {"help-0", "help-1"}
    assert all(call["emergency"] and not call["counts"] for call in pool["calls"])
    assert (pool["used_seconds"], pool["held_seconds"]) == (0, 0)
    for call_id in ("help-0", "help-1"):
        assert (await phone.end(call_id))["billed_seconds"] == 0
        await recorded(operator, account, call_id)
    assert len(await operator.calls(account)) == 3


async def test_asking_again_gets_the_same_admission(
    deployment: Deployment, operator: Operator, phone: Phone, account: str
) -> None:
    """R9, while the engine is away and when it is back."""
    deployment.take_engine_away()
    first = await phone.start("help", "112")
    again = await phone.start("help", "112")
    assert (again["replayed"], again["admitted_at_ms"]) == (True, first["admitted_at_ms"])
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    await wait_until(lambda: in_progress(operator, account, "help"))
    assert (await phone.start("help", "112"))["replayed"]
    assert (await operator.pool(account))["calls_in_progress"] == 1


async def test_the_books_have_the_instants_that_the_caller_was_told(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """Also where an engine that hung carries out the starts that it had been sent, once it goes on."""
    deployment.take_engine_away()
    admitted = {call_id: (await device.start(call_id, "911"))["admitted_at_ms"] for call_id in ("a", "b")}
    settled = await device.end("b")
    deployment.give_engine_back()
    await ready_again(deployment.gateway)

    record = await recorded(operator, account, "b")
    assert record["admitted_at_ms"] == admitted["b"]
    assert abs(record["duration_ms"] - settled["duration_ms"]) < CLOCKS_APART_MS
    await wait_until(lambda: in_progress(operator, account, "a"))
    assert (await operator.call("a", account))["admitted_at_ms"] == admitted["a"]


async def test_one_under_a_used_call_id_is_recorded_under_a_fresh_one(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    await device.start("c-1")
    await device.end("c-1")
    deployment.take_engine_away()
    assert (await device.start("c-1", "911"))["type"] == "call.admitted"
    assert (await device.end("c-1"))["type"] == "call.settled"
    deployment.give_engine_back()

    async def both_are_recorded() -> bool:
        records = await operator.calls(account)
        assert len(records) == 2
        fresh, used = records
        assert (used["call_id"], used["emergency"]) == ("c-1", False)
        return bool(fresh["emergency"] and fresh["call_id"] != "c-1")

    await wait_until(both_are_recorded, 20)
    assert (await operator.pool(account))["calls_in_progress"] == 0


async def test_they_pass_whatever_else_would_refuse_them(
    deployment: Deployment, operator: Operator, account: str
) -> None:
    """A suspended account, a staff member and a channel that there are not, an account that there is not."""
    await operator.account(account)
    await operator.suspend(account)
    deployment.take_engine_away()
    for asked in ({"staff": "nobody", "channel": "none"}, {"account": "no-such-account"}):
        answer = await operator.start("help", **({"account": account, "to": "tel:9-1-1"} | asked))
        assert (answer["type"], answer["emergency"]) == ("call.admitted", True)
    for each in (account, "no-such-account"):
        assert (await operator.end("help", each))["type"] == "call.settled"
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    assert (await recorded(operator, account, "help"))["staff"] == "nobody"
    assert (await operator.call("help", "no-such-account"))["state"] == "ended"


async def test_the_operator_sees_what_waits_to_be_told(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    deployment.take_engine_away()
    await device.start("help", "911")
    assert await operator.metric("callgate_emergency_journal_entries") == 1
    deployment.give_engine_back()

    async def nothing_waits() -> bool:
        return await operator.metric("callgate_emergency_journal_entries") == 0

    await wait_until(nothing_waits, 20)
    assert await in_progress(operator, account, "help")
    assert '"911"' not in deployment.gateway.log()


async def test_any_worker_can_end_one(
    start_engine: Callable[..., EngineServer], start_gateway: Callable[..., GatewayProcess]
) -> None:
    """The next request of a server-side client may reach another process than the one that admitted."""
    engine = start_engine(persistent=True)
    gateway = await asyncio.to_thread(start_gateway, "--workers", "2", redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
    engine.kill()
    starts, ends = [], []
    for _ in range(CONNECTIONS):
        async with operating(gateway) as operator:
            starts.append(await operator.start("help", to="911"))
    for _ in range(CONNECTIONS):
        async with operating(gateway) as operator:
            ends.append(await operator.end("help"))
    for answers in (starts, ends):
        assert [answer["replayed"] for answer in answers] == [False] + [True] * (CONNECTIONS - 1)
    assert len({answer["admitted_at_ms"] for answer in starts}) == 1
    assert len({answer["duration_ms"] for answer in ends}) == 1
    engine.start()
    await ready_again(gateway)
    async with operating(gateway) as operator:
        record = await recorded(operator, "acme", "help")
        assert record["admitted_at_ms"] == starts[0]["admitted_at_ms"]
        await wait_until(lambda: no_journal(gateway))
        assert await operator.calls() == [record]
        assert (await operator.pool())["calls_in_progress"] == 0


async def test_a_gateway_that_is_killed_meanwhile_forgets_none(
    start_engine: Callable[..., EngineServer], start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    """What was answered is in the data directory, and whoever is started there next goes on from it."""
    engine = start_engine(persistent=True)
    gateway = await asyncio.to_thread(start_gateway, data_dir=tmp_path, redis_url=engine.url)
    async with operating(gateway) as operator:
        await operator.account()
        engine.kill()
        admitted = {call_id: await operator.start(call_id, to="911") for call_id in ("help-0", "help-1")}
        ended = await operator.end("help-0")
    gateway.kill()
    (journal,) = (tmp_path / "emergencies").iterdir()
    with journal.open("ab") as half_a_line:
        half_a_line.write(b'{"what":"start","account":"ac')

    gateway = await asyncio.to_thread(start_gateway, data_dir=tmp_path, redis_url=engine.url)
    async with operating(gateway) as operator:
        assert (await operator.start("help-2", to="911"))["type"] == "call.admitted"
        assert await operator.end("help-0") == ended | {"replayed": True}
        later = await operator.end("help-1")
        assert (later["type"], later["replayed"]) == ("call.settled", False)
        assert problem(await operator.http.get("/v1/accounts/acme/pool")) == (503, "engine_unavailable")
        engine.start()
        await ready_again(gateway)
        for call_id, settled in (("help-0", ended), ("help-1", later)):
            record = await recorded(operator, "acme", call_id)
            assert record["admitted_at_ms"] == admitted[call_id]["admitted_at_ms"]
            assert abs(record["duration_ms"] - settled["duration_ms"]) < CLOCKS_APART_MS
        await wait_until(lambda: in_progress(operator, "acme", "help-2"))
        assert (await operator.pool())["calls_in_progress"] == 1
        assert len(await operator.calls()) == 2
    await wait_until(lambda: no_journal(gateway))


async def recorded(operator: Operator, account: str, call_id: str) -> Json:
    """Wait until a call that ended is in SQL, and return its record."""

    async def found() -> Json | None:
        for record in await operator.calls(account):
            if record["call_id"] == call_id:
                return record
        return None

    record: Json = await wait_until(found, 20)
    assert await operator.call(call_id, account) == record
    return record


def no_journal(gateway: GatewayProcess) -> bool:
    """Tell whether everything was told."""
    return not list((gateway.data_dir / "emergencies").iterdir())


async def in_progress(operator: Operator, account: str, call_id: str) -> bool:
    """Tell whether a call is in progress in its pool."""
    return call_id in [call["call_id"] for call in (await operator.pool(account))["calls"]]
