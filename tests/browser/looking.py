"""What a browser window shows, and what went over its network."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Error, Locator, Page, Request, WebSocket

from tests.support.waiting import wait_until

Figures = tuple[int, int, int]
OpenLook = Callable[..., Awaitable["Look"]]


class Look:
    """One page. `sent` and `heard` are the frames of its WebSockets, oldest first."""

    def __init__(self, page: Page, url: str, *, errors: bool = False) -> None:
        self.page = page
        self.url = url
        self.sent: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self._complaints: list[str] = []
        self._expects_errors = errors
        page.on("websocket", self._on_websocket)
        page.on("console", self._on_console)
        page.on("pageerror", self._on_page_error)
        page.on("request", lambda request: self.requests.append(request))

    # What is shown.

    async def figures(self) -> Figures:
        """Allocated, used and remaining seconds, as they are shown at one moment."""
        found = await self.page.evaluate(
            """() => ["allocated", "used", "remaining"].map((id) =>
                Number(document.querySelector(`#${id} .number`).dataset.seconds))"""
        )
        return (found[0], found[1], found[2])

    async def shows(
        self, *, used: int | None = None, remaining: int | None = None, seconds: float = 5
    ) -> None:
        """Wait until these figures are shown."""
        await self.page.wait_for_selector("#remaining .number")

        async def shown() -> bool:
            _, is_used, is_remaining = await self.figures()
            assert used in (None, is_used), f"used is {is_used}"
            assert remaining in (None, is_remaining), f"remaining is {is_remaining}"
            return True

        await wait_until(shown, seconds, interval=0.02)

    async def state(self, state: str, seconds: float = 15) -> None:
        """Wait until the live indicator says so."""
        await self.page.wait_for_selector(f'#live[data-state="{state}"]', timeout=seconds * 1000)

    async def watch_used(self) -> None:
        """Take down every figure that is shown as used from now on."""
        await self.page.evaluate(
            """() => {
                const figure = document.querySelector("#used .number");
                window.shown = [Number(figure.dataset.seconds)];
                new MutationObserver(() => window.shown.push(Number(figure.dataset.seconds)))
                    .observe(figure, { attributes: true, attributeFilter: ["data-seconds"] });
            }"""
        )

    async def used_shown(self) -> list[int]:
        """The figures taken down since `watch_used`."""
        return list(await self.page.evaluate("() => window.shown"))

    def call(self, call_id: str) -> Locator:
        """The row of a call in progress."""
        return self.page.locator(f'#calls tr[data-call="{call_id}"]')

    async def text(self, selector: str) -> str:
        """What an element says, spaces as one."""
        return " ".join((await self.page.inner_text(selector)).split())

    async def says(self, selector: str, text: str, seconds: float = 10) -> None:
        """Wait until an element says this, among other things."""

        async def said() -> bool:
            return text in await self.text(selector)

        await self.page.wait_for_selector(selector)
        await wait_until(said, seconds, interval=0.05)

    # What went over the network.

    def pools(self) -> list[dict[str, Any]]:
        """The pools that it was sent."""
        return [frame for frame in self.heard if frame["type"] == "pool"]

    def check(self) -> None:
        """Fail if it asked another host, met the Content-Security-Policy, or failed by itself."""
        own = urlsplit(self.url).netloc
        foreign = [
            each.url
            for each in self.requests
            if urlsplit(each.url).netloc != own and not each.url.startswith(("blob:", "data:"))
        ]
        assert not foreign, foreign
        assert not self._complaints, self._complaints

    def _on_websocket(self, socket: WebSocket) -> None:
        assert urlsplit(socket.url).netloc == urlsplit(self.url).netloc, socket.url
        socket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))
        socket.on("framereceived", lambda frame: self.heard.append(json.loads(frame)))

    def _on_console(self, message: ConsoleMessage) -> None:
        network = "Failed to load resource" in message.text or "WebSocket connection to" in message.text
        if message.type in ("error", "warning") and not (network and self._expects_errors):
            self._complaints.append(message.text)

    def _on_page_error(self, error: Error) -> None:
        self._complaints.append(str(error))
