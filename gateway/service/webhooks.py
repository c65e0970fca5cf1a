"""Sending webhooks: what lies in the outbox goes to the receiver, from one gateway at a time.

At least once: an event counts as sent when the receiver has answered with 2xx and that is written down. An
event that fails is tried again later, and stands in no other's way: up to `AT_ONCE` are under way at any
time, in no strict order, none for longer than `TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

import httpx2
import structlog

from gateway import __version__, metrics, turns
from gateway.domain.errors import DatabaseUnavailable
from gateway.domain.webhooks import GIVE_UP_SECONDS, retry_seconds, secret_key, signatures
from gateway.records.exclusive import Exclusive
from gateway.records.outbox import DueEvent, Outcome
from gateway.records.store import Records

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

AT_ONCE: Final = 20
"""How many events are under way at most."""
TIMEOUT_SECONDS: Final = 20.0
"""How long the receiver may take for one, connecting included."""
LOOK_SECONDS: Final = 0.5
"""How often the outbox is looked into while nothing is due."""
STANDBY_SECONDS: Final = 2.0
"""How often another gateway than the one that sends tries to take over; how often that one makes sure."""
COUNT_SECONDS: Final = 5.0
TIDY_SECONDS: Final = 3600.0
BACK_AFTER_MS: Final = 60_000
"""A receiver that failed for so long and now takes an event gets all that wait at once."""
THROTTLED: Final = frozenset({429, 502, 503, 504})
"""Answers of a receiver that has too much to do: nothing more is sent to it for a while."""
PAUSE_SECONDS: Final = (5.0, 3600.0)
"""For how long, if it does not say, and at most."""
READ_AT_MOST: Final = 65_536
GONE: Final = 410


class Reply(NamedTuple):
    """What an attempt came to: sent without `error`; `why` it failed in a word, for the metric.

    `retry_after` is how long the receiver asked to wait, in seconds.
    """

    status: int | None = None
    why: str = ""
    error: str | None = None
    retry_after: float | None = None


class Receiver:
    """Where webhooks are sent, and what signs them."""

    def __init__(self, url: str, secrets: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._keys = [secret_key(secret) for secret in secrets]
        self._timeout_seconds = timeout_seconds
        parts = urlsplit(url)
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": f"Callgate/{__version__}", "Content-Type": "application/json"},
            timeout=timeout_seconds,
            # Without TLS no certificates are loaded, which takes time and memory.
            verify=ssl.create_default_context() if parts.scheme == "https" else False,
            # A proxy of the surroundings is used, but for what is on this machine.
            trust_env=parts.hostname not in {"localhost", "127.0.0.1", "::1"},
            # Receivers close idle connections after 5 s and more: one that is used just then would fail.
            limits=httpx2.Limits(max_connections=AT_ONCE, keepalive_expiry=2.0),
            follow_redirects=False,
        )

    async def send(self, event_id: str, body: str) -> Reply:
        """Send an event once. Whatever becomes of it is answered, never raised."""
        content, timestamp = body.encode(), int(time.time())
        headers = {
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures(self._keys, event_id, timestamp, content),
        }
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                self._client.stream("POST", self._url, content=content, headers=headers) as response,
            ):
                read = 0
                async for piece in response.aiter_raw():  # so that the connection can be used again
                    read += len(piece)
                    if read > READ_AT_MOST:
                        break
        except (TimeoutError, httpx2.TimeoutException):
            return Reply(None, "timeout", f"no answer within {self._timeout_seconds:g} s")
        except (httpx2.TransportError, httpx2.InvalidURL, OSError) as failure:
            return Reply(None, "connection", type(failure).__name__)  # its text may have the address
        if response.is_success:
            return Reply(response.status_code)
        return Reply(
            response.status_code,
            "status",
            f"HTTP {response.status_code}",
            _seconds_until(response.headers.get("retry-after")),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


class WebhookSender:
    """Sends what lies in the outbox while this gateway has the lock, and stands by otherwise."""

    def __init__(self, records: Records, receiver: Receiver) -> None:
        self._database = records.database
        self._outbox = records.outbox
        self._receiver = receiver
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._outcomes: list[Outcome] = []
        self._failing_since_ms: int | None = None
        self._failing_for = ""
        self._told_failing: int | None = None
        self._is_back = False
        self._is_gone = self._has_to_note_gone = False
        self._paused_until = 0.0
        self._holds = False
        self._asked_lock_at = self._counted_at = self._tidied_at = float("-inf")

    async def run(self) -> NoReturn:
        """Send, until cancelled. While the database is away nothing is sent."""
        turns.finished("webhooks")
        async with self._database.exclusive("webhooks") as lock:
            try:
                while True:
                    try:
                        await self._turn(lock)
                    except DatabaseUnavailable as failure:
                        log.warning("webhooks.wait", because=failure.code)
                        self._holds = False
                        await asyncio.sleep(STANDBY_SECONDS)
                    else:
                        turns.finished("webhooks")
            finally:
                await self._stop()

    async def _turn(self, lock: Exclusive) -> None:
        now = time.monotonic()
        if not self._holds or now - self._asked_lock_at >= STANDBY_SECONDS:
            held, self._asked_lock_at = self._holds, now
            self._holds = await lock.acquire()
            if self._holds and not held:
                await self._begin()
        await self._note()
        if not self._holds:
            metrics.WEBHOOKS_WAITING.set(0)
            await asyncio.sleep(STANDBY_SECONDS)
            return
        if now - self._counted_at >= COUNT_SECONDS:
            self._counted_at = now
            state = await self._outbox.state()
            if not self._has_to_note_gone:
                self._is_gone = state.gone  # until a gateway starts anew
            metrics.WEBHOOKS_WAITING.set(state.waiting)
        if now - self._tidied_at >= TIDY_SECONDS:
            self._tidied_at = now
            if unsent := await self._outbox.delete_old(_now_ms()):
                metrics.WEBHOOKS_GIVEN_UP.inc(unsent)
                log.error("webhooks.dropped", events=unsent)
        began = not self._is_gone and now >= self._paused_until and await self._send_due()
        if self._under_way:
            # Whatever ends makes room for the next; what began says nothing of whether more is due.
            await asyncio.wait(
                self._under_way.values(), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        elif not began:
            await asyncio.sleep(LOOK_SECONDS)

    async def _begin(self) -> None:
        """Go on where another gateway stopped."""
        state = await self._outbox.state()
        self._failing_since_ms = self._told_failing = state.failing_since_ms
        self._failing_for = state.error or ""
        self._is_gone = state.gone
        log.info("webhooks.sending")

    async def _send_due(self) -> bool:
        """Begin to send what is due, as much as there is room for; tell whether anything was."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return False
        # Those under way are still due.
        due = await self._outbox.due(_now_ms(), AT_ONCE + len(self._under_way))
        new = [event for event in due if event.event_id not in self._under_way][:room]
        for event in new:
            self._under_way[event.event_id] = asyncio.create_task(self._send(event))
        return bool(new)

    async def _send(self, event: DueEvent) -> None:
        tried_at_ms = _now_ms()
        reply = await self._receiver.send(event.event_id, event.body)
        said = {"event_id": event.event_id, "type": event.type, "account": event.account}
        next_at_ms = None
        if reply.error is None:
            metrics.WEBHOOKS_SENT.labels(type=event.type).inc()
            log.debug("webhook.sent", **said, failures=event.failures)
            if self._failing_since_ms is not None:
                self._is_back |= _now_ms() - self._failing_since_ms >= BACK_AFTER_MS
                self._failing_since_ms = None
                log.info("webhooks.received_again")
        else:
            next_at_ms = self._after_failure(event, reply, tried_at_ms)
            metrics.WEBHOOKS_FAILED.labels(why=reply.why).inc()
            if next_at_ms is None:
                metrics.WEBHOOKS_GIVEN_UP.inc()
                log.error("webhook.given_up", **said, failures=event.failures + 1, error=reply.error)
            else:
                wait_s = (next_at_ms - _now_ms()) // 1000
                log.warning(
                    "webhook.failed", **said, failures=event.failures + 1, error=reply.error, wait_s=wait_s
                )
        self._outcomes.append(Outcome(event.event_id, tried_at_ms, reply.error, next_at_ms))

    def _after_failure(self, event: DueEvent, reply: Reply, tried_at_ms: int) -> int | None:
        """When to try an event again that failed; None: never."""
        now_ms = _now_ms()
        if self._failing_since_ms is None:
            self._failing_since_ms = now_ms
        self._failing_for = reply.error or ""
        wait = retry_seconds(event.failures + 1, random.random())  # noqa: S311 - no secret
        if reply.retry_after is not None:
            wait = max(wait, min(reply.retry_after, PAUSE_SECONDS[1]))
        if reply.status in THROTTLED:
            pause = PAUSE_SECONDS[0] if reply.retry_after is None else reply.retry_after
            self._paused_until = time.monotonic() + min(pause, PAUSE_SECONDS[1])
        if reply.status == GONE:
            self._is_gone = self._has_to_note_gone = True
            return now_ms  # for whoever takes its place
        first_ms = tried_at_ms if event.first_tried_at_ms is None else event.first_tried_at_ms
        next_at_ms = now_ms + int(wait * 1000)
        return next_at_ms if next_at_ms - first_ms <= GIVE_UP_SECONDS * 1000 else None

    async def _note(self) -> None:
        """Write down what became of the attempts that ended, and how the receiver is."""
        ended = [event_id for event_id, task in self._under_way.items() if task.done()]
        outcomes = list(self._outcomes)  # more may come while these are written down
        if outcomes:
            await self._outbox.note(outcomes)
            del self._outcomes[: len(outcomes)]
        for event_id in ended:
            self._under_way.pop(event_id).result()
        if self._has_to_note_gone:
            await self._outbox.gone()
            self._has_to_note_gone = False
            log.error("webhooks.gone")
        if self._failing_since_ms != self._told_failing:
            self._told_failing = self._failing_since_ms
            await self._outbox.failing(self._failing_since_ms, self._failing_for)
        if self._is_back:
            self._is_back = False
            await self._outbox.hurry(_now_ms())

    async def _stop(self) -> None:
        """Give up what is under way: whoever sends next sends it again."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)
        with contextlib.suppress(DatabaseUnavailable, TimeoutError):
            async with asyncio.timeout(STANDBY_SECONDS):
                if self._outcomes:
                    await self._outbox.note(self._outcomes)
        await self._receiver.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _seconds_until(retry_after: str | None) -> float | None:
    """How long a receiver asks to wait: in seconds, or until an instant of HTTP's."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(int(retry_after)))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
