"""Whether a phone was there all the time, or for how long it was away or asleep (R13, R15)."""

from __future__ import annotations

from typing import Final

from gateway.client.elapsed import Clock

_SHORTEST_SLEEP_MS: Final = 2_000
"""However short the grace: a program that was only busy for a moment did not sleep."""


class Presence:
    """Since when a phone can't say that its calls are up.

    It was there while it heard its gateway. It was not while its machine or its process was stopped, which
    shows by a gap between the moments at which it looks at the clock, even if the connection outlived that.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._grace_ms = 0
        self._connected = False
        self._slept = False
        self._awake_ms = self._last_ms = clock.elapsed_ms()
        self._last_wall_ms = clock.wall_ms()

    def look(self) -> bool:
        """Look at the clock; do so once a second or oftener. Return whether it slept through the grace."""
        now_ms = self._clock.elapsed_ms()
        if self._connected and now_ms - self._awake_ms > max(self._grace_ms, _SHORTEST_SLEEP_MS):
            self._connected, self._slept = False, True
            self._last_wall_ms = self._clock.wall_at(self._awake_ms)
            self._last_ms = self._awake_ms
        self._awake_ms = now_ms
        return self._slept

    def heard(self) -> None:
        """Note that the gateway was heard."""
        self.look()
        if self._connected:
            self._last_ms, self._last_wall_ms = self._awake_ms, self._clock.wall_ms()

    def lost(self) -> None:
        """Note that the connection is gone."""
        self._connected = False

    def returned(self, grace_ms: int) -> int | None:
        """Note that it is connected again. Return since when it was away if that is longer than the grace.

        The time of day is asked, too: a virtual machine that was stopped may have no other clock that tells.
        """
        now_ms = self._clock.elapsed_ms()
        away_ms = max(now_ms - self._last_ms, self._clock.wall_ms() - self._last_wall_ms)
        self._grace_ms = grace_ms
        self._connected, self._slept = True, False
        self._awake_ms = self._last_ms = now_ms
        self._last_wall_ms = self._clock.wall_ms()
        return now_ms - away_ms if away_ms > grace_ms else None
