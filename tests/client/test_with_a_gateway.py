"""The client and a real gateway, together."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.client import (
    AdminClient,
    CallRefused,
    CallsClient,
    Replaced,
    Softphone,
    Timing,
    TokenRefused,
)
from gateway.client.resources import Price
from gateway.domain.errors import (
    CallIdConflict,
    CallIdUsed,
    CallUnknown,
    ChannelLimit,
    EngineUnavailable,
    Forbidden,
    ImmutableField,
    InvalidField,
    NotFound,
    PlanInUse,
    SeatLimit,
    Unauthorized,
)
from tests.client.businesses import client, make_business
from tests.support.engines import EngineServer
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until

TO = "+14155550100"
REAL_MS = 500
"""A phone says in real time how long ago something was, which may be more than 0 by a clock that stands."""
StartGateway = Callable[..., GatewayProcess]


async def token_of(admin: AdminClient, account: str, device: str = "desk") -> str:
    return (await admin.issue_token(account, staff="ana", device=device)).token


async def test_a_call_bills_what_the_clock_says(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "bills")
        await admin.put_channel("bills", "main")
        async with Softphone(gateway.url, await token_of(admin, "bills")) as phone:
            assert phone.remaining_seconds == 600
            call = await phone.start(TO, channel="main")
            await admin.move_clock(advance_ms=8_000)
            await call.answered()
            await admin.move_clock(advance_ms=82_000)
            settlement = await call.end()
            assert settlement.billed_seconds == 90
            assert 0 <= 90_000 - settlement.duration_ms < REAL_MS
            assert settlement.remaining_seconds == phone.remaining_seconds == 510
        record = await admin.get_call("bills", call.call_id)
        assert record.state == "ended"
        assert record.answered_at_ms is not None
        assert 0 <= record.admitted_at_ms + 8_000 - record.answered_at_ms < REAL_MS
        assert (record.billed_seconds, record.channel, record.to) == (90, "main", TO)
        pool = await admin.pool("bills")
        assert (pool.used_seconds, pool.calls_in_progress) == (90, 0)


async def test_many_requests_are_in_flight_at_once(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "flight")
        async with Softphone(gateway.url, await token_of(admin, "flight")) as phone:
            asked = [phone.start(TO, call_id=f"c-{number}") for number in range(50)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        admitted = [each for each in answers if not isinstance(each, BaseException)]
        refused = [each for each in answers if isinstance(each, CallRefused)]
        assert (len(admitted), len(refused)) == (10, 40)  # R7: each call holds one of ten minutes
        assert {each.reason for each in refused} == {"minutes_held"}
        await wait_until(lambda: all(call.settlement for call in admitted))
        assert (await admin.pool("flight")).calls_in_progress == 0


async def test_errors_are_told_apart(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "errors")
        token = await token_of(admin, "errors")
        async with Softphone(gateway.url, token) as phone:
            call = await phone.start(TO, call_id="c-1")
            assert (await phone.start(TO, call_id="c-1")).admission is not None
            with pytest.raises(CallIdConflict):
                await phone.start("+14155550199", call_id="c-1")
            await call.end()
            with pytest.raises(CallIdUsed):
                await phone.start(TO, call_id="c-1")
            with pytest.raises(InvalidField) as invalid:
                await phone.start("1" * 300)
            assert [each.field for each in invalid.value.errors] == ["to"]
            with pytest.raises(Unauthorized):
                await phone.refresh("not a token")
            with pytest.raises(Forbidden):
                await phone.refresh(await token_of(admin, "errors", device="another"))
            assert await phone.refresh(await token_of(admin, "errors")) > 0
            assert await phone.ping() > 0


async def test_the_same_call_started_twice_is_one_call(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "twice")
        async with Softphone(gateway.url, await token_of(admin, "twice")) as phone:
            first = await phone.start(TO, call_id="c-1")
            again = await phone.start(TO, call_id="c-1")
            assert first.admitted_at_ms == again.admitted_at_ms
            assert again.admission is not None
            assert again.admission.replayed
            assert (await admin.pool("twice")).calls_in_progress == 1
            settlement = await first.end()
            replayed = await again.end()
            assert replayed.replayed
            assert replayed.duration_ms == settlement.duration_ms


async def test_an_emergency_call_passes_a_suspended_account(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "emergency")
        await admin.put_account("emergency", status="suspended")
        async with Softphone(gateway.url, await token_of(admin, "emergency")) as phone:
            with pytest.raises(CallRefused) as refused:
                await phone.start(TO)
            assert refused.value.reason == "account_suspended"
            call = await phone.start("112")
            assert (await call.admitted()).remaining_seconds is not None
            assert (await call.end()).billed_seconds == 0


async def test_the_same_device_connecting_again_ends_the_older(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "replaced")
        token = await token_of(admin, "replaced")
        async with (
            Softphone(gateway.url, token, hang_up_on_exit=False) as older,
            Softphone(gateway.url, token) as newer,
        ):
            assert isinstance(await older.wait_ended(), Replaced)
            assert newer.connected


async def test_a_revoked_token_ends_a_phone_unless_it_gets_another(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "revoked")

        async def issue() -> str:
            return await token_of(admin, "revoked", device="renewing")

        async with (
            Softphone(gateway.url, await token_of(admin, "revoked")) as phone,
            Softphone(gateway.url, issue, hang_up_on_exit=False) as renewing,
        ):
            call = await renewing.start(TO)
            await admin.revoke_tokens("revoked")
            assert isinstance(await phone.wait_ended(), TokenRefused)
            await renewing.wait_connected(connected=False)
            await renewing.wait_connected()
            assert (await call.end()).ended_by == "hangup"


async def test_what_is_not_a_devices_token_is_refused(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "refused")
        watching = (await admin.issue_token("refused", scopes=["watch"])).token
        with pytest.raises(Forbidden):
            async with Softphone(gateway.url, watching):
                raise AssertionError("entered")
        with pytest.raises(Forbidden):
            async with Softphone(gateway.url, gateway.admin_key):
                raise AssertionError("entered")
        with pytest.raises(TokenRefused):
            async with Softphone(gateway.url, "no token"):
                raise AssertionError("entered")


async def test_a_crash_of_the_gateway_loses_no_call(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--simulate")
    port = gateway.url.rpartition(":")[2]
    patient = Timing(answer_seconds=60, close_seconds=20, backoff_most_seconds=0.5)
    async with client(gateway) as admin:
        await make_business(admin, "acme")
        token = await token_of(admin, "acme")
        async with Softphone(gateway.url, token, timing=patient) as phone:
            call = await phone.start(TO)
            await admin.move_clock(advance_ms=90_000)
            gateway.kill()
            await phone.wait_connected(connected=False)
            ending = asyncio.ensure_future(call.end())
            starting = asyncio.ensure_future(phone.start("+14155550101"))
            await asyncio.to_thread(start_gateway, "--simulate", "--port", port, data_dir=gateway.data_dir)
            settlement = await ending
            # It was alive when the clock was moved, and so it ended no earlier than where that stands (R16).
            assert settlement.billed_seconds == 90
            assert (await starting).admission is not None
        assert (await admin.pool("acme")).calls_in_progress == 0


async def test_a_restart_in_good_order_is_hardly_noticed(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    port = gateway.url.rpartition(":")[2]
    notices: list[str] = []
    async with client(gateway) as admin:
        await make_business(admin, "acme")
        phone = Softphone(
            gateway.url,
            await token_of(admin, "acme"),
            timing=Timing(answer_seconds=60, backoff_most_seconds=0.5),
            on_notice=lambda notice: notices.append(notice.kind),
        )
        async with phone:
            call = await phone.start(TO)
            await asyncio.to_thread(gateway.stop)
            await wait_until(lambda: notices == ["going_away"])
            await asyncio.to_thread(start_gateway, "--port", port, data_dir=gateway.data_dir)
            await phone.wait_connected()
            assert phone.welcome is not None
            assert [each.call_id for each in phone.welcome.calls] == [call.call_id]
            assert (await call.end()).counted is False


async def test_a_program_that_starts_again_ends_the_calls_of_its_earlier_run(
    gateway: GatewayProcess,
) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "adopts")
        token = await token_of(admin, "adopts")
        async with Softphone(gateway.url, token, hang_up_on_exit=False) as phone:
            call = await phone.start(TO)
        await admin.move_clock(advance_ms=40_000)
        async with Softphone(gateway.url, token) as phone:
            assert phone.welcome is not None
            (found,) = phone.welcome.calls
            adopted = phone.adopt(found)
            assert (adopted.call_id, adopted.admitted_at_ms) == (call.call_id, call.admitted_at_ms)
            assert (await adopted.end()).billed_seconds == 40


async def test_a_server_side_client_places_a_call(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "pbx")
        async with CallsClient(gateway.url, gateway.admin_key, account="pbx") as calls:
            call = await calls.start("c-1", TO, staff="ana", device="pbx")
            assert (call.call_id, call.remaining_seconds) == ("c-1", 600)
            await admin.move_clock(advance_ms=8_000)
            await calls.answered("c-1")
            await admin.move_clock(advance_ms=32_000)
            assert (await calls.end("c-1")).billed_seconds == 40
            with pytest.raises(CallRefused) as refused:
                await calls.start("c-2", TO, staff="nobody", device="pbx")
            assert refused.value.reason == "staff_unknown"
        record = await admin.get_call("pbx", "c-1")
        assert record.answered_at_ms == record.admitted_at_ms + 8_000


async def test_an_engine_that_is_away_is_waited_for(
    start_gateway: StartGateway, start_engine: Callable[..., EngineServer]
) -> None:
    engine = start_engine(persistent=True)
    gateway = start_gateway(redis_url=engine.url)
    async with client(gateway) as admin:
        await make_business(admin, "acme")
        token = await token_of(admin, "acme")
        async with Softphone(gateway.url, token, timing=Timing(answer_seconds=30)) as phone:
            first = await phone.start(TO)
            engine.kill()
            with pytest.raises(EngineUnavailable):
                await phone.start(TO, call_id="given-up", timeout_seconds=3)
            starting = asyncio.ensure_future(phone.start(TO))
            ending = asyncio.ensure_future(first.end())
            await asyncio.to_thread(engine.start)
            assert (await starting).admission is not None
            assert (await ending).billed_seconds == 0
            with pytest.raises(CallIdUsed):  # its end overtook it, so that it cannot come up by mistake
                await phone.start(TO, call_id="given-up")


# HTTP.


async def test_plans_accounts_and_members(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        plan = await admin.put_plan(
            "priced",
            name="Priced",
            minutes=5,
            connected_channels=1,
            staff_seats=1,
            max_concurrent_calls=2,
            monthly_price=Price("49.00", "USD"),
        )
        assert await admin.get_plan("priced") == plan
        assert plan in [each async for each in admin.plans()]
        account = await admin.put_account("members", name="Members", plan="priced", time_zone="Asia/Tokyo")
        assert await admin.get_account("members") == account
        with pytest.raises(PlanInUse):
            await admin.put_plan("priced", minutes=6)
        with pytest.raises(ImmutableField):
            await admin.put_account("members", plan="ten")
        with pytest.raises(InvalidField) as invalid:
            await admin.put_account("members", time_zone="Mars/Olympus")
        assert [each.field for each in invalid.value.errors] == ["time_zone"]
        assert (await admin.put_staff("members", "ana", name="Ana")).name == "Ana"
        assert (await admin.put_staff("members", "ana", name=None)).name is None
        with pytest.raises(SeatLimit) as seats:
            await admin.put_staff("members", "ben")
        assert (seats.value.limit, seats.value.in_use) == (1, 1)
        await admin.put_channel("members", "a/b".replace("/", ":"), label="A")
        with pytest.raises(ChannelLimit):
            await admin.put_channel("members", "second")
        assert [each.channel async for each in admin.channels("members")] == ["a:b"]
        await admin.remove_channel("members", "a:b")
        await admin.remove_staff("members", "ana")
        assert [each async for each in admin.staff("members")] == []
        with pytest.raises(NotFound):
            await admin.get_account("nobody")
        found = [each async for each in admin.accounts(q="MEMB")]
        assert [(each.account, each.allocated_seconds) for each in found] == [("members", 300)]


async def test_lists_are_read_page_after_page(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        for number in range(120):
            name = f"page-{number:03}"
            await admin.put_plan(name, name=name, minutes=number, connected_channels=0, staff_seats=0)
        found = [each.plan async for each in admin.plans() if each.plan.startswith("page-")]
        assert found == [f"page-{number:03}" for number in range(120)]


async def test_records_statements_and_their_csv(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "records")
        async with Softphone(gateway.url, await token_of(admin, "records")) as phone:
            call = await phone.start(TO)
            await admin.move_clock(advance_ms=31_000)
            await call.end()
        start = (await admin.pool("records")).cycle.start

        async def recorded() -> list[str]:
            return [each.call_id async for each in admin.calls("records", cycle=start)]

        found: list[str] = await wait_until(recorded)
        assert found == [call.call_id]
        assert [each async for each in admin.calls("records", staff="ben")] == []
        statement = await admin.get_statement("records", start)
        assert (statement.used_seconds, statement.calls_counted, statement.closed) == (31, 1, False)
        assert [each.cycle.start async for each in admin.statements("records")] == [start]
        header, line = (await admin.get_statement_csv("records", start)).decode().splitlines()
        assert header.split(",")[0] == "call_id"
        assert line.startswith(call.call_id)
        with pytest.raises((NotFound, CallUnknown)):
            await admin.get_call("records", "none")


async def test_a_token_reads_its_own_account_and_no_other(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        await make_business(admin, "own")
        await make_business(admin, "other")
        token = await admin.issue_token("own", scopes=["watch"], ttl_seconds=60)
    async with AdminClient(gateway.url, token.token) as watching:
        assert (await watching.pool("own")).account == "own"
        with pytest.raises(Forbidden):
            await watching.pool("other")
        with pytest.raises(Forbidden):
            await watching.get_account("own")


async def test_the_deployment_is_asked(gateway: GatewayProcess) -> None:
    async with client(gateway) as admin:
        assert (await admin.readiness()).status == "ok"
        assert (await admin.status()).engine == "ok"
        policy = await admin.policy()
        assert await admin.set_policy(hold_seconds=policy.hold_seconds) == policy
        clock = await admin.clock()
        assert (clock.speed, await admin.move_clock(advance_ms=5)) == (
            0,
            type(clock)(clock.now_ms + 5, 0),
        )
