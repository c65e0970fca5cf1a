"""A receiver of webhooks, as an operator would run one: an HTTP server that verifies what it gets.

with Receiver() as receiver:
    ... receiver.url, receiver.secret ...
    receiver.answers.append(500)     # what the next requests are answered, one after another; then 204
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from standardwebhooks import Webhook

SECRET: Final = "whsec_" + base64.b64encode(b"what the receiver signs by").decode()


@dataclass(frozen=True)
class Delivery:
    """One request, verified by the library that receivers use."""

    event_id: str
    content: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    at: float
    status: int

    @property
    def type(self) -> str:
        """The event's type."""
        return str(self.content["type"])

    @property
    def data(self) -> dict[str, Any]:
        """The event's data."""
        found: dict[str, Any] = self.content["data"]
        return found


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a sender that is gone."""


class Receiver:
    """Listens on a port of its own. `deliveries` are all requests, whatever they were answered."""

    def __init__(self, secret: str = SECRET) -> None:
        self.secret = secret
        self.deliveries: list[Delivery] = []
        self.answers: deque[int | Callable[[], int]] = deque()
        self.headers: dict[str, str] = {}
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, or did."""
        return f"http://127.0.0.1:{self._port}/hooks"

    @property
    def taken(self) -> list[Delivery]:
        """The requests that were answered with 2xx."""
        return [each for each in list(self.deliveries) if 200 <= each.status < 300]

    def ids(self, type_: str | None = None) -> list[str]:
        """Return the ids of what was taken, in order of their coming."""
        return [each.event_id for each in self.taken if type_ in (None, each.type)]

    def start(self) -> Self:
        """Listen, on the same port as before if it did."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        content = Webhook(self.secret).verify(body, headers)
        assert content == json.loads(body)
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            answer = self.answers.popleft() if self.answers else 204
        status = answer() if callable(answer) else answer
        with self._lock:
            self.at_once -= 1
        # Kept before it is answered: whoever was answered is in it.
        self.deliveries.append(Delivery(headers["webhook-id"], content, headers, body, time.time(), status))
        try:
            request.send_response(status)
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.send_header("Content-Length", "0")
            request.end_headers()
        except OSError:
            pass  # the sender is gone

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
