"""A database that does not answer, as SQLite on a disk that hangs: the status says so, and does not wait."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.api.app import create_app
from gateway.service import open_callgate
from gateway.service import status as status_module
from gateway.settings import Settings
from tests.support.engines import EngineServer

ADMIN_KEY = "k" * 32

# So many rows take seconds to count, and then it is over: the gateway waits for it when it stops.
_SLOW = """
CREATE VIEW dead_letters AS
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT 20000000)
SELECT n FROM numbers
"""


async def test_the_status_is_told_while_the_database_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valkey: EngineServer
) -> None:
    monkeypatch.setattr(status_module, "ASK_DATABASE_SECONDS", 0.1)
    settings = Settings(
        data_dir=tmp_path, redis_url=valkey.url, admin_key=ADMIN_KEY, token_secrets=("s" * 32,)
    )
    async with open_callgate(settings) as service:
        with closing(sqlite3.connect(tmp_path / "callgate.db", timeout=30)) as other:
            other.execute("ALTER TABLE dead_letters RENAME TO refused")
            other.execute(_SLOW)
        app = httpx.ASGITransport(create_app(service, settings))
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        async with httpx.AsyncClient(transport=app, base_url="http://gateway", headers=headers) as http:
            status = (await http.get("/v1/status")).raise_for_status().json()
    said = "The database has not answered for 0.1 s: refused records and waiting webhooks are not known."
    assert said in status["warnings"]
    assert status["webhooks"] is None
