"""The demo's softphones: each calls, talks and hangs up, over the real WebSocket, with the real client."""

from __future__ import annotations

import random
from typing import Final

import anyio

from gateway.cli.demo.company import ACCOUNT, CHANNELS, NUMBERS
from gateway.cli.demo.events import Story
from gateway.client import AdminClient, Call, CallRefused, PhoneEnded, Softphone
from gateway.domain.errors import CallgateError

# Seconds of billing time, as (least, most).
PAUSE: Final = (2.0, 10.0)
PAUSE_AFTER_REFUSAL: Final = (4.0, 9.0)
LEAST_PAUSE: Final = 0.7
"""Real seconds between two refusals of one phone."""
RING: Final = (2.0, 6.0)
RING_IN_VAIN: Final = (12.0, 25.0)
TALK: Final = (35.0, 110.0)
IN_VAIN_PERCENT: Final = 20


class DemoPhone:
    """One softphone and who holds it. `speed` is how fast billing time passes."""

    def __init__(
        self, url: str, admin: AdminClient, staff: str, device: str, speed: int, story: Story
    ) -> None:
        self._url = url
        self._admin = admin
        self._staff = staff
        self._device = device
        self._speed = speed
        self._story = story
        self._random = random.Random(f"{staff}/{device}")  # noqa: S311 - a made-up day, the same each time
        self.who = f"{staff}/{device}"

    async def run(self, after_seconds: float) -> None:
        """Place call after call until cancelled; what is still up then is hung up."""
        await self._wait(after_seconds)
        still_up: tuple[Call, ...] = ()
        try:
            async with Softphone(self._url, self._token) as phone:
                try:
                    while True:
                        await self._one_call(phone)
                finally:
                    still_up = phone.calls
        finally:
            for call in still_up:
                if call.settlement is not None:
                    self._story.settled(self.who, call.settlement)

    async def _token(self) -> str:
        return (await self._admin.issue_token(ACCOUNT, staff=self._staff, device=self._device)).token

    async def _one_call(self, phone: Softphone) -> None:
        """Place one call, and pause."""
        to = self._random.choice(NUMBERS)
        try:
            call = await phone.start(to, channel=self._random.choice(list(CHANNELS)))
        except CallRefused as refusal:
            self._story.refused(self.who, to, refusal)
            await self._pause_after_refusal()
            return
        except PhoneEnded:
            raise
        except CallgateError as error:
            self._story.failed(self.who, error)
            await self._pause_after_refusal()
            return
        self._story.admitted(self.who, call)
        await self._hold(call)
        try:
            self._story.settled(self.who, await call.end())
        except PhoneEnded:
            raise
        except CallgateError as error:
            self._story.failed(self.who, error)
        await self._wait(self._random.uniform(*PAUSE))

    async def _pause_after_refusal(self) -> None:
        # However fast the clock goes: somebody is to read what is said.
        await self._wait(max(self._random.uniform(*PAUSE_AFTER_REFUSAL), LEAST_PAUSE * self._speed))

    async def _hold(self, call: Call) -> None:
        if self._random.randrange(100) < IN_VAIN_PERCENT:
            await self._wait(self._random.uniform(*RING_IN_VAIN))
            return
        await self._wait(self._random.uniform(*RING))
        call.answered()
        await self._wait(self._random.uniform(*TALK))

    async def _wait(self, seconds: float) -> None:
        await anyio.sleep(seconds / self._speed)
