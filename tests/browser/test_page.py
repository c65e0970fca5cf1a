"""How the page looks and reads: for everybody, on any screen, at every state of a pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.async_api import Page

from tests.browser.looking import Look, OpenLook
from tests.browser.people import business
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]

AXE = Path(AXE_FILE_PATH).read_text(encoding="utf-8")
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
WIDE = {"viewport": {"width": 1440, "height": 900}}


async def violations(page: Page) -> list[str]:
    """What axe finds."""
    await page.evaluate(AXE)
    found = await page.evaluate("() => axe.run(document)")
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found["violations"]]


async def busy_account(operator: Operator, account: str) -> str:
    """An account with calls of every kind in progress, and some behind it."""
    token = await business(operator, account, minutes=60)
    channel = f"/v1/accounts/{account}/channels/main"
    (await operator.http.put(channel, json={"label": "Main line"})).raise_for_status()
    for number, seconds in enumerate((340, 25, 410, 90)):
        await operator.start(f"done-{number}", account)
        await operator.pass_by(seconds)
        await operator.end(f"done-{number}", account)
        await operator.pass_by(9000)
    await operator.start("long", account, channel="main")
    await operator.pass_by(1200)
    await operator.start("help", account, staff="ben", device="cell", to="112")
    await operator.start("short", account, staff="ben", device="cell")
    await operator.pass_by(12)
    return token


async def opened(look: OpenLook, gateway: GatewayProcess, token: str, **context: object) -> Look:
    window = await look(gateway.url, f"/#token={token}", **context)
    await window.state("connected")
    await window.page.wait_for_selector("#records")
    await window.page.wait_for_selector("cg-chart canvas")
    return window


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("light", {**WIDE, "color_scheme": "light"}),
        ("dark", {**WIDE, "color_scheme": "dark"}),
        ("phone", {**PHONE, "color_scheme": "light"}),
        ("phone-dark", {**PHONE, "color_scheme": "dark"}),
        ("tablet", {"viewport": {"width": 820, "height": 1180}}),
    ],
)
async def test_it_fits_every_screen_and_axe_finds_nothing(
    operator: Operator,
    look: OpenLook,
    gateway: GatewayProcess,
    account: str,
    output: Path,
    name: str,
    context: dict[str, object],
) -> None:
    window = await opened(look, gateway, await busy_account(operator, account), **context)

    assert await violations(window.page) == []
    assert await window.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "scrolls sideways"
    )
    await window.page.screenshot(path=output / f"page-{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_at_zero_it_says_what_that_means(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, output: Path, scheme: str
) -> None:
    token = await business(operator, account, minutes=2)
    await operator.start("first", account)
    await operator.pass_by(40)
    await operator.end("first", account)
    await operator.start("long", account)
    await operator.pass_by(95)
    window = await opened(look, gateway, token, **WIDE, color_scheme=scheme)

    assert await window.figures() == (120, 135, 0)
    assert "0:15 min beyond the plan" in await window.text("#remaining")
    assert await window.text("#by-pace") == "All minutes are used up."
    assert "goes on" in await window.text(".banner")
    assert await violations(window.page) == []
    await window.page.screenshot(path=output / f"used-up-{scheme}.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_sign_in_is_for_everybody(
    look: OpenLook, gateway: GatewayProcess, output: Path, scheme: str
) -> None:
    window = await look(gateway.url, color_scheme=scheme)

    await window.page.fill("#credential", "nonsense")
    await window.page.keyboard.press("Enter")
    await window.says("#sign-in-problem", "not a token")
    assert await violations(window.page) == []
    await window.page.screenshot(path=output / f"sign-in-{scheme}.png")


async def test_calls_say_who_whether_they_count_and_no_whole_number(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await opened(look, gateway, await busy_account(operator, account), **WIDE)

    assert "Counting, 20:12" in await window.call("long").inner_text()
    assert "Main line" in await window.call("long").inner_text()
    assert "Free, 18 s left" in await window.call("short").inner_text()
    assert "Emergency, never counts" in await window.call("help").inner_text()
    page = await window.page.inner_text("body")
    assert "+1•••••••0100" in page
    assert "4155550100" not in page
    assert await window.text("#seats dd") == "2 of 5"
    assert await window.text("#channels dd") == "1 of 2"


async def test_a_plan_that_is_coming_is_shown(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await busy_account(operator, account)
    await operator.plan(f"{account}-small", minutes=10, staff_seats=5, name="Small")
    window = await opened(look, gateway, token)

    await operator.move_to(account, f"{account}-small")

    await window.says("#pending-plan", "Small, 10 minutes a cycle")
    assert "From Dec 15" in await window.text("#pending-plan")


async def test_a_statement_is_downloaded_by_keyboard_and_is_the_gateways(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await busy_account(operator, account)
    window = await opened(look, gateway, token)
    await window.page.wait_for_selector("#statements button")

    await window.page.focus("#statements button")
    async with window.page.expect_download() as waiting:
        await window.page.keyboard.press("Enter")
    download = await waiting.value

    start = (await operator.pool(account))["cycle"]["start"]
    assert download.suggested_filename == f"calls-{account}-{start[:10]}.csv"
    csv = await operator.http.get(
        f"/v1/accounts/{account}/statements/{start}.csv", headers={"Authorization": f"Bearer {token}"}
    )
    assert (await download.path()).read_bytes() == csv.content
    assert csv.text.count("\n") == 5


async def test_everything_is_reached_by_keyboard(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await opened(look, gateway, await busy_account(operator, account))
    reached = set()
    for _ in range(12):
        await window.page.keyboard.press("Tab")
        reached.add(await window.page.evaluate("document.activeElement.textContent.trim().slice(0, 8)"))

    assert {"CSV", "Sign out"} <= reached


async def test_what_happens_is_said_politely_and_seconds_are_not(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    window = await opened(look, gateway, await busy_account(operator, account))
    assert await window.page.get_attribute("#said", "aria-live") == "polite"
    assert await window.page.locator(".figures [aria-live], .figures [role=status]").count() == 0
    said = await window.text("#said")

    await operator.pass_by(3)
    await window.page.wait_for_selector('#calls [data-billed="1215"]')
    assert await window.text("#said") == said

    await operator.plan(f"{account}-bigger", minutes=100)
    await operator.move_to(account, f"{account}-bigger")
    await window.says("#said", "The plan changed. 100 minutes are allocated.")


async def test_nothing_moves_for_those_who_asked_for_that(look: OpenLook, gateway: GatewayProcess) -> None:
    window = await look(gateway.url, reduced_motion="reduce")
    moving = await window.page.evaluate(
        """() => [...document.querySelectorAll("*")].map((each) => getComputedStyle(each))
            .filter((style) => style.animationName !== "none" || style.transitionDuration !== "0s").length"""
    )
    assert moving == 0
