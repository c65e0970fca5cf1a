"""What a device sends and is answered, frame by frame."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Acme, end, start


async def test_a_call_from_its_admission_to_its_settlement(acme: Acme) -> None:
    async with acme.device() as device:
        admitted = await device.ask(start(channel="main"))
        admitted_at_ms = admitted.pop("admitted_at_ms")
        assert admitted.pop("receipt").startswith("r1.")
        assert admitted == {
            "type": "call.admitted",
            "re": 1,
            "call_id": "c-1",
            "remaining_seconds": 6000,
            "replayed": False,
        }
        clock = acme.admin.post("/v1/simulation/clock", json={"advance_ms": 5_000}).json()
        assert clock["now_ms"] - admitted_at_ms == 5_000

        noted = await device.ask({"type": "call.answered", "id": "a", "call_id": "c-1"})
        assert noted == {"type": "call.noted", "re": "a", "call_id": "c-1"}

        acme.admin.post("/v1/simulation/clock", json={"advance_ms": 85_000}).raise_for_status()
        settled = {
            "type": "call.settled",
            "re": 2,
            "call_id": "c-1",
            "duration_ms": 90_000,
            "billed_seconds": 90,
            "counted": True,
            "ended_by": "hangup",
            "revision": 1,
            "replayed": False,
            "remaining_seconds": 5910,
        }
        assert await device.ask(end()) == settled
        assert await device.ask(end(id=3)) == settled | {"re": 3, "replayed": True}


async def test_requests_are_carried_out_in_the_order_sent(acme: Acme) -> None:
    async with acme.device() as device:
        requests = [
            frame for i in range(50) for frame in (start(f"c-{i}", id=2 * i), end(f"c-{i}", id=2 * i + 1))
        ]

        await device.send(*requests)
        answers = {answer["re"]: answer for answer in [await device.hear() for _ in requests]}

    assert [answers[i]["type"] for i in range(100)] == ["call.admitted", "call.settled"] * 50


async def test_more_requests_than_may_be_pending_are_all_answered(acme: Acme) -> None:
    async with acme.device() as device:
        await device.send(*({"type": "ping", "id": i} for i in range(1_500)))
        await device.send(*(end("unknown", id=i) for i in range(1_500, 3_000)))

        answered = {(await device.hear())["re"] for _ in range(3_000)}

    assert answered == set(range(3_000))


async def test_a_refusal_names_the_reason(acme: Acme) -> None:
    async with acme.device() as device:
        for frame, reason in (
            (start(to="nowhere"), "destination_invalid"),
            (start(to=""), "destination_invalid"),
            (start(channel="another"), "channel_unknown"),
        ):
            refused = await device.ask(frame)
            assert (refused["type"], refused["reason"]) == ("call.refused", reason)
            assert refused["message"]
            assert refused["remaining_seconds"] == 6000


async def test_a_removed_staff_member_s_token_ends_calls_and_starts_none(acme: Acme) -> None:
    async with acme.device() as device:
        await device.ask(start())
        acme.admin.delete(f"{acme.url}/staff/ana").raise_for_status()

        assert (await device.ask(start("c-2")))["reason"] == "staff_unknown"
        assert (await device.ask(end()))["type"] == "call.settled"


async def test_another_device_s_call_is_unknown(acme: Acme) -> None:
    async with acme.device() as desk, acme.device(acme.token(device="mobile")) as mobile:
        await desk.ask(start())

        for frame in (end(), {"type": "call.answered", "id": 2, "call_id": "c-1"}):
            error = await mobile.ask(frame)
            assert (error["type"], error["re"], error["code"]) == ("error", 2, "call_unknown")
        assert (await mobile.ask(start()))["code"] == "call_id_conflict"
        assert (await desk.ask(end()))["type"] == "call.settled"
        assert (await mobile.ask(start()))["code"] == "call_id_used"


async def test_an_emergency_call_passes_whatever_is_wrong_with_it(acme: Acme) -> None:
    acme.admin.put(acme.url, json={"status": "suspended"}).raise_for_status()
    async with acme.device() as device:
        assert (await device.ask(start()))["reason"] == "account_suspended"
        for frame in (
            start("e-1", to="112"),
            start("e-2", to="tel:911", channel="another"),
            start("e 3", to="112", channel=5),
            {"type": "call.start", "to": "112"},
        ):
            admitted = await device.ask(frame)
            assert (admitted["type"], admitted["emergency"]) == ("call.admitted", True)
            assert admitted["re"] == frame.get("id")
        used = await device.ask(start("e-1", to="911"))
        assert used["type"] == "call.admitted"
        assert used["call_id"] != "e-1"


async def test_a_ping_is_answered_with_the_billing_time(acme: Acme) -> None:
    async with acme.device() as device:
        now_ms = acme.admin.get("/v1/simulation/clock").json()["now_ms"]

        pong = await device.ask({"type": "ping", "id": 6})

        assert pong == {"type": "pong", "re": 6, "server_time_ms": now_ms}


@pytest.mark.parametrize(
    ("frame", "re", "code"),
    [
        ("{", None, "bad_json"),
        ("", None, "bad_json"),
        ("[1]", None, "bad_json"),
        ('{"id":1,"type":"ping","x":' + "[" * 60_000, None, "bad_json"),
        ({"type": "call.hold", "id": 7}, 7, "unknown_type"),
        ({"type": "welcome", "id": 7}, 7, "unknown_type"),
        ({"id": 7}, 7, "invalid_field"),
        ({"type": "ping"}, None, "invalid_field"),
        ({"type": "ping", "id": 1.5}, None, "invalid_field"),
        ({"type": "call.start", "id": 7, "call_id": "c 1", "to": "1"}, 7, "invalid_field"),
        ({"type": "call.start", "id": 7, "call_id": "c-1", "to": "1" * 257}, 7, "invalid_field"),
        ({"type": "call.end", "id": 7, "call_id": "c-1", "ended_ago_ms": "5"}, 7, "invalid_field"),
        ({"type": "call.end", "id": 7, "call_id": "never-heard-of"}, 7, "call_unknown"),
        ({"type": "auth.refresh", "id": 7, "token": "nonsense"}, 7, "unauthorized"),
        ({"type": "auth.refresh", "id": 7, "token": 5}, 7, "invalid_field"),
    ],
)
async def test_what_is_wrong_is_answered_and_the_connection_stays(
    acme: Acme, frame: dict[str, Any] | str, re: int | None, code: str
) -> None:
    async with acme.device() as device:
        error = await device.ask(frame)

        assert (error["type"], error["re"], error["code"]) == ("error", re, code)
        assert error["message"]
        assert ("errors" in error) == (code == "invalid_field")
        assert (await device.ask({"type": "ping", "id": 8}))["type"] == "pong"


async def test_a_frame_of_64_kib_is_read_and_a_larger_one_closes(acme: Acme) -> None:
    ping = '{"type":"ping","id":1,"padding":"%s"}'
    largest = ping % ("x" * (65_536 - len(ping) + 2))
    async with acme.device() as device:
        assert len(largest) == 65_536
        assert (await device.ask(largest))["type"] == "pong"
        await device.send(largest + " ")
        assert await device.close_code() == 1009


async def test_a_binary_frame_closes(acme: Acme) -> None:
    async with acme.device() as device:
        await device.send(b'{"type":"ping","id":1}')
        assert await device.close_code() == 1003


async def test_a_newer_token_keeps_the_connection(acme: Acme) -> None:
    async with acme.device(acme.token(ttl_seconds=2)) as device:
        newer = acme.token(ttl_seconds=60)
        refreshed = await device.ask({"type": "auth.refresh", "id": 5, "token": newer})
        assert (refreshed["type"], refreshed["re"]) == ("auth.refreshed", 5)

        shorter = acme.token(ttl_seconds=1)
        assert (await device.ask({"type": "auth.refresh", "id": 6, "token": shorter}))["re"] == 6
        assert await device.close_code() == 4401


async def test_a_connection_is_not_kept_by_another_s_token(acme: Acme) -> None:
    async with acme.device() as device:
        for token in (
            acme.token(device="mobile"),
            acme.token(staff="bob"),
            acme.token("watch"),
            acme.gateway.admin_key,
        ):
            error = await device.ask({"type": "auth.refresh", "id": 5, "token": token})
            assert (error["re"], error["code"]) == (5, "forbidden")
