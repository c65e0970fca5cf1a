"""A real browser before real gateways: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from gateway.api.pages import DIST
from tests.browser.looking import Look, OpenLook
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator, operating
from tests.support.peers import missing_peer

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing_peer("Chromium", "install it with: sudo make peers")
    if not (DIST / "index.html").is_file():
        pytest.fail("the dashboard was not built: make web", pytrace=False)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, chromium_sandbox=False, args=FLAGS
        )
        yield browser
        await browser.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway under a billing clock of its own, for the tests of one file."""
    gateway = GatewayProcess(tmp_path_factory.mktemp("gateway"), "--simulate", "--lease-seconds", "600")
    try:
        yield gateway.start()
    finally:
        gateway.end()


@pytest_asyncio.fixture(loop_scope="module")
async def operator(gateway: GatewayProcess) -> AsyncIterator[Operator]:
    async with operating(gateway) as operator:
        yield operator


@pytest.fixture
def account(request: pytest.FixtureRequest) -> str:
    """The id of an account of the test's own."""
    return re.sub(r"[^a-z0-9_]+", "-", str(request.node.name))


@pytest_asyncio.fixture(loop_scope="module")
async def look(browser: Browser) -> AsyncIterator[OpenLook]:
    """A factory `await look(url, path="/", errors=False, **context)` of windows, each of a person of its own.

    `errors` says that failures of the network are expected.

    At the end none may have asked another host for anything, met the Content-Security-Policy, or failed.
    """
    looks: list[Look] = []

    async def open_look(url: str, path: str = "/", *, errors: bool = False, **context: Any) -> Look:
        window = await browser.new_context(**context)
        look = Look(await window.new_page(), url, errors=errors)
        looks.append(look)
        await look.page.goto(url + path)
        return look

    yield open_look
    for look in looks:
        await look.page.context.close()
    for look in looks:
        look.check()


@pytest.fixture(scope="session")
def output() -> Path:
    """Where pictures are kept for people."""
    folder = Path(__file__).parents[2] / "test-output" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway to be killed, which comes back at the same address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    gateway = GatewayProcess(tmp_path_factory.mktemp("killed"), "--port", port)
    try:
        yield gateway.start()
    finally:
        gateway.end()
