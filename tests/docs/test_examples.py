"""What the documentation shows can be done as it is shown, and answers as it says."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.docs.examples import Shell, carry_out
from tests.docs.exchanges import exchange, steps_of
from tests.docs.pages import Block, page
from tests.support.gateways import GatewayProcess
from tests.support.operators import operating

SHOWN_URL: Final = "http://127.0.0.1:8080"
SHOWN_START_MS: Final = 1_795_391_940_000
# Real time, secrets, processes, and how often a pool was written: nobody can foresee them.
VARYING: Final = frozenset({"token", "expires_at_ms", "gateway", "version", "as_of_ms", "tasks"})
# On a real clock also this.
VARYING_IN_TIME: Final = VARYING | {
    "admitted_at_ms",
    "at_ms",
    "created_at_ms",
    "duration_ms",
    "empty_at_ms",
    "billing_date",
    "cycle",
}


def test_the_http_page_shows_what_a_gateway_answers(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    gateway = start_gateway("--simulate", "--lease-seconds", "3600", data_dir=tmp_path / "data")
    with Shell(tmp_path, {SHOWN_URL: gateway.url}) as shell:
        assert carry_out(page("docs/http.md").blocks, shell, VARYING) > 20


async def test_the_websocket_page_shows_what_a_gateway_answers(
    start_gateway: Callable[..., GatewayProcess],
) -> None:
    gateway = start_gateway("--simulate")
    async with operating(gateway) as operator:
        await operator.at(SHOWN_START_MS)
        await operator.account(minutes=1000)
        await operator.http.put("/v1/accounts/acme/channels/main")
        token = await operator.token()
        async with connect(
            f"{gateway.websocket_url}/v1/device",
            subprotocols=[Subprotocol("callgate.v1"), Subprotocol(f"bearer.{token}")],
            proxy=None,
        ) as connection:
            steps = steps_of(page("docs/websocket.md").blocks)
            assert await exchange(steps, connection, operator.pass_by, VARYING) > 10


def test_the_command_line_page_shows_what_the_commands_say(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    gateway = start_gateway("--simulate", data_dir=tmp_path / "data")
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLGATE_URL": gateway.url,
        "CALLGATE_DATA_DIR": str(gateway.data_dir),
    }
    with Shell(tmp_path, {}, environ) as shell:
        assert carry_out(page("docs/command-line.md").blocks, shell, VARYING) == 3


def test_the_first_call_of_the_readme_can_be_made(
    start_gateway: Callable[..., GatewayProcess], tmp_path: Path
) -> None:
    gateway = start_gateway(data_dir=tmp_path / "data")
    readme = page("README.md")
    with Shell(tmp_path, {SHOWN_URL: gateway.url}) as shell:
        assert carry_out(readme.blocks, shell, VARYING_IN_TIME) == 3
        token = shell.run(Block("sh", "echo $TOKEN")).strip()
        (program,) = (block.text for block in readme.blocks if block.language == "python")
        ran = subprocess.run(
            [sys.executable, "-c", program.replace(SHOWN_URL, gateway.url)],
            env={**os.environ, "TOKEN": token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == "billed 0 s, 60000 s remain\n"
