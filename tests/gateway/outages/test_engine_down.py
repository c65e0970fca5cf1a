"""The engine is away, killed or hanging: no decision is made up, and all comes back by itself."""

from __future__ import annotations

from tests.gateway.outages.deployments import Deployment, events, problem, readiness, ready_again, timed
from tests.support.devices import Device, connected
from tests.support.operators import Operator
from tests.support.waiting import wait_until

ANSWERED_WITHIN_SECONDS = 2.0


async def test_a_call_is_not_admitted_but_told_that_nobody_could_be_asked(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    asked = {"account": account, "staff": "ana", "device": "desk", "call_id": "c-1", "to": "+14155550100"}
    deployment.take_engine_away()

    frame, seconds = await timed(device.start("c-1"))
    assert (frame["type"], frame["code"]) == ("error", "engine_unavailable")
    assert seconds < ANSWERED_WITHIN_SECONDS

    answer, seconds = await timed(operator.http.post("/v1/calls", json=asked))
    assert problem(answer) == (503, "engine_unavailable")
    assert seconds < ANSWERED_WITHIN_SECONDS


async def test_calls_in_progress_go_on(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """R11."""
    admitted = await device.start("c-1")
    deployment.take_engine_away()
    assert (await device.answered("c-1"))["code"] == "engine_unavailable"
    deployment.give_engine_back()
    await ready_again(deployment.gateway)

    call = await operator.call("c-1", account)
    assert (call["state"], call["admitted_at_ms"]) == ("in_progress", admitted["admitted_at_ms"])
    assert (await device.answered("c-1"))["type"] == "call.noted"
    settled = await device.end("c-1")
    assert (settled["type"], settled["replayed"]) == ("call.settled", False)


async def test_an_end_that_could_not_be_told_is_told_again_and_counts_once(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """R17. Whether an engine that hangs has heard of it when it goes on, nobody can know beforehand."""
    await device.start("c-1")
    deployment.take_engine_away()
    frame, seconds = await timed(device.end("c-1"))
    assert (frame["type"], frame["code"]) == ("error", "engine_unavailable")
    assert seconds < ANSWERED_WITHIN_SECONDS
    answer = await operator.http.post(f"/v1/calls/c-1/end?account={account}")
    assert problem(answer) == (503, "engine_unavailable")
    deployment.give_engine_back()
    await ready_again(deployment.gateway)

    settled = await device.end("c-1")
    assert (settled["type"], settled["revision"]) == ("call.settled", 1)
    assert (await operator.pool(account))["calls_in_progress"] == 0

    async def recorded() -> bool:
        return [record["call_id"] for record in await operator.calls(account)] == ["c-1"]

    await wait_until(recorded)


async def test_admission_works_again_by_itself_on_the_same_connection(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    deployment.take_engine_away()
    assert (await device.start("c-1"))["code"] == "engine_unavailable"
    deployment.give_engine_back()

    async def admitted() -> bool:
        return bool((await device.start("c-1"))["type"] == "call.admitted")

    await wait_until(admitted, 20)
    assert (await operator.pool(account))["calls_in_progress"] == 1


async def test_what_was_asked_before_it_came_back_in_time_is_answered(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """An outage shorter than a client's patience is none."""
    deployment.take_engine_away()
    asked = [await device.ask("call.start", call_id=f"c-{number}", to="+14155550100") for number in range(3)]
    deployment.give_engine_back()
    assert [(await answer)["type"] for answer in asked] == ["call.admitted"] * 3
    assert (await operator.pool(account))["calls_in_progress"] == 3


async def test_a_device_can_connect_meanwhile(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """Else devices would try again and again, all at once."""
    token = await operator.token(account, "ana", "laptop")
    deployment.take_engine_away()
    async with connected(deployment.gateway, token) as laptop:
        welcome = await laptop.welcome()
        assert (welcome["remaining_seconds"], welcome["calls"]) == (None, [])
        assert (await laptop.start("c-2"))["code"] == "engine_unavailable"
        deployment.give_engine_back()
        await ready_again(deployment.gateway)
        assert (await laptop.start("c-2"))["type"] == "call.admitted"


async def test_an_admin_change_reaches_neither_sql_nor_the_pool(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    deployment.take_engine_away()
    refused = await operator.http.put(f"/v1/accounts/{account}", json={"status": "suspended"})
    assert problem(refused) == (503, "engine_unavailable")
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    assert (await operator.http.get(f"/v1/accounts/{account}")).json()["status"] == "active"
    assert (await device.start("c-1"))["type"] == "call.admitted"


async def test_records_can_be_read_meanwhile(
    deployment: Deployment, operator: Operator, device: Device, account: str
) -> None:
    """Lists may lag: what is in SQL is shown, with the instant as of which it is complete."""
    await device.start("c-1")
    await device.end("c-1")

    async def recorded() -> bool:
        return len(await operator.calls(account)) == 1

    await wait_until(recorded)
    deployment.take_engine_away()
    page = (await operator.http.get(f"/v1/accounts/{account}/calls")).json()
    assert [record["call_id"] for record in page["calls"]] == ["c-1"]
    assert page["as_of_ms"] > 0
    assert problem(await operator.http.get(f"/v1/accounts/{account}/pool")) == (503, "engine_unavailable")


async def test_it_stays_ready_and_says_what_is_amiss(deployment: Deployment, operator: Operator) -> None:
    """No balancer may cut all devices off because one part is away."""
    failures = await operator.metric("callgate_engine_failures_total")
    deployment.take_engine_away()

    async def degraded() -> bool:
        status, said = await readiness(deployment.gateway)
        assert status == 200
        return said == {"status": "degraded", "engine": "down", "database": "ok"}

    await wait_until(degraded)
    assert (await operator.http.get("/healthz")).status_code == 200
    status = (await operator.http.get("/v1/status")).json()
    assert (status["engine"], status["database"], status["gateways"]) == ("down", "ok", [])
    assert status["warnings"]
    assert problem(
        await operator.http.post(
            "/v1/calls",
            json={"account": "x", "staff": "ana", "device": "desk", "call_id": "c-1", "to": "+14155550100"},
        )
    ) == (503, "engine_unavailable")
    assert await operator.metric("callgate_engine_failures_total") > failures
    deployment.give_engine_back()
    await ready_again(deployment.gateway)
    changes = [(line["engine"], line["level"]) for line in events(deployment.gateway, "health.changed")]
    assert changes[-2:] == [("down", "warning"), ("ok", "warning")]
    (failed, *_) = [line for line in events(deployment.gateway, "call.failed") if line["account"] == "x"]
    assert (failed["call_id"], failed["code"], failed["level"]) == ("c-1", "engine_unavailable", "warning")
