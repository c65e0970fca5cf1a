"""A bare WebSocket echo of Starlette under the gateway's own server settings:

what a message costs at least.
"""

from __future__ import annotations

import sys

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.cli.server import server_config


async def echo(socket: WebSocket) -> None:
    """Send back every text."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    config = server_config(Starlette(routes=[WebSocketRoute("/", echo)]))
    config.port = int(sys.argv[1])
    uvloop.run(uvicorn.Server(config).serve())
