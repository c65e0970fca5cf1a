"""The operator's view at `/operator`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.looking import Look, OpenLook
from tests.browser.people import business
from tests.browser.test_page import WIDE, violations
from tests.support.gateways import GatewayProcess
from tests.support.operators import Operator

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]


async def signed_in(look: OpenLook, gateway: GatewayProcess, **context: object) -> Look:
    window = await look(gateway.url, "/operator", errors=True, **context)
    await window.page.fill("#credential", gateway.admin_key)
    await window.page.press("#credential", "Enter")
    await window.page.wait_for_selector("#accounts")
    return window


async def rows(window: Look) -> list[str]:
    found = await window.page.eval_on_selector_all(
        "#accounts tbody tr", "(rows) => rows.map((row) => row.dataset.account)"
    )
    return list(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accounts_come_nearest_to_exhaustion_first_with_health_above(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str, output: Path, scheme: str
) -> None:
    for name, minutes in (("calm", 1000), ("busy", 5), ("tired", 2)):
        await business(operator, f"{account}-{name}", minutes=minutes, name=f"{name.title()} & Sons")
        await operator.start(f"{name}-1", f"{account}-{name}")
    await operator.pass_by(125)
    window = await signed_in(look, gateway, **WIDE, color_scheme=scheme)
    await window.page.fill("input[type=search]", account)

    await window.page.wait_for_selector("#accounts tbody tr:nth-child(3):last-child")
    assert await rows(window) == [f"{account}-{name}" for name in ("tired", "busy", "calm")]
    assert "104 %" in await window.text("#accounts tbody tr:nth-child(1)")
    assert "nothing waits" in await window.text("#health") or "for 0 s" in await window.text("#health")
    assert "1 alive" in await window.text("#health")
    assert await violations(window.page) == []
    await window.page.screenshot(path=output / f"operator-{scheme}.png", full_page=True)


async def test_the_page_of_one_account_is_live_and_shows_whole_numbers(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    await business(operator, account)
    window = await signed_in(look, gateway)
    await window.page.fill("input[type=search]", account)
    await window.page.wait_for_selector("#accounts tbody tr:nth-child(1):last-child")
    await window.page.click("#accounts a")
    await window.state("connected")

    await operator.start("c-1", account)
    await operator.pass_by(50)
    await window.shows(used=50, remaining=3550)
    assert "+14155550100" in await window.call("c-1").inner_text()
    assert await violations(window.page) == []

    await window.page.reload()
    await window.shows(used=50)
    await window.page.click("text=All accounts")
    await window.page.wait_for_selector("#accounts")


async def test_many_accounts_are_paged(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    await operator.plan(f"{account}-plan", minutes=10)
    for number in range(55):
        body = {"name": f"Customer {number}", "plan": f"{account}-plan"}
        (await operator.http.put(f"/v1/accounts/{account}-{number}", json=body)).raise_for_status()
    window = await signed_in(look, gateway)
    # First one alone, so that the list of all is known to be that of the search.
    await window.page.fill("input[type=search]", f"{account}-54")
    await window.page.wait_for_selector("#accounts tbody tr:nth-child(1):last-child")
    await window.page.fill("input[type=search]", f"{account}-")
    await window.page.wait_for_selector("#accounts tbody tr:nth-child(50):last-child")
    first = await rows(window)

    await window.page.click("text=Next page")
    await window.page.wait_for_selector("#accounts tbody tr:nth-child(5):last-child")
    assert len({*first, *await rows(window)}) == 55

    await window.page.click("text=Previous page")
    await window.page.wait_for_selector("#accounts tbody tr:nth-child(50)")
    assert await rows(window) == first


async def test_what_is_no_admin_key_is_refused(
    operator: Operator, look: OpenLook, gateway: GatewayProcess, account: str
) -> None:
    token = await business(operator, account)
    window = await look(gateway.url, "/operator", errors=True)

    await window.page.fill("#credential", "nonsense")
    await window.page.press("#credential", "Enter")
    await window.says("#sign-in-problem", "not the admin key")
    await window.page.fill("#credential", token)
    await window.page.press("#credential", "Enter")
    await window.says("#sign-in-problem", "not a token")
    assert await window.page.evaluate("sessionStorage.length") == 0
