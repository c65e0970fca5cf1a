"""Records that wait for SQL in ever greater number: the gateway warns, goes on, and drops none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.api.app import create_app
from gateway.domain.asks import End, Start
from gateway.service import callgate, open_callgate
from gateway.settings import Settings
from tests.support.engines import EngineServer
from tests.support.waiting import wait_until

ADMIN_KEY = "k" * 32
MANY = 3


async def test_many_waiting_records_are_warned_of_until_they_are_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: EngineServer
) -> None:
    monkeypatch.setattr(callgate, "MANY_WAITING", MANY)
    settings = Settings(
        data_dir=tmp_path, redis_url=engine.url, admin_key=ADMIN_KEY, token_secrets=("s" * 32,)
    )
    async with open_callgate(settings) as service:
        app = httpx.ASGITransport(create_app(service, settings))
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(transport=app, base_url="http://gateway", headers=headers) as http:
            plan = {"name": "Ten", "minutes": 10, "connected_channels": 1, "staff_seats": 1}
            (await http.put("/v1/plans/ten", json=plan)).raise_for_status()
            (await http.put("/v1/accounts/acme", json={"name": "Acme", "plan": "ten"})).raise_for_status()
            (await http.put("/v1/accounts/acme/staff/ana")).raise_for_status()

            async def place(call_id: str) -> None:
                await service.ask(Start("acme", "ana", "desk", call_id, "+14155550100"))
                await service.ask(End("acme", call_id))

            async def warned() -> tuple[int, list[str], list[str]]:
                ready = await http.get("/readyz")
                status = (await http.get("/v1/status")).json()
                about = [each for each in status["warnings"] if "wait to be saved" in each]
                return ready.status_code, ready.json().get("warnings", []), about

            async def all_is_saved() -> bool:
                saved = (await http.get("/v1/accounts/acme/calls")).json()["calls"]
                return len(saved) == MANY + 1 and await warned() == (200, [], [])

            await service._recorder.drain()  # what the account has begun with is no record of a call
            with closing(sqlite3.connect(tmp_path / "callgate.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                for number in range(MANY):
                    await place(f"c-{number}")
                await wait_until(lambda: service._recorder.status().waiting_entries == MANY, 60)
                assert await warned() == (200, [], [])
                await place(f"c-{MANY}")
                sentence = f"{MANY + 1} records wait to be saved: they fill the engine's memory."
                await wait_until(lambda: service.health().warnings, 60)
                assert await warned() == (200, [sentence], [sentence])
                other.execute("ROLLBACK")
            await wait_until(all_is_saved, 60)
