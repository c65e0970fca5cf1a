"""Where a phone's tokens come from."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

from gateway.client.errors import TokenRefused

TokenSource = str | Callable[[], str | Awaitable[str]]
"""A token, or what gives a good one: called at first, and again whenever the gateway no longer takes it."""


class Tokens:
    """The token that a phone goes by."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._current: str | None = source if isinstance(source, str) else None
        self._refused: str | None = None
        self._why: str | None = None

    def replace(self, token: str) -> None:
        """Go by this token from now on."""
        self._current = token

    def refuse(self, why: str | None = None) -> None:
        """Note that the gateway does not take the present one, and what it said to that."""
        self._refused, self._why = self._current, why
        if not isinstance(self._source, str):
            self._current = None

    @property
    def exhausted(self) -> bool:
        """Whether there is none but the one refused."""
        return self._current is not None and self._current == self._refused

    async def current(self) -> str:
        """Return the token to connect with. Raises TokenRefused if there is none but the one refused."""
        if self._current is None:
            assert not isinstance(self._source, str)
            given = self._source()
            self._current = await given if inspect.isawaitable(given) else given
        if self.exhausted:
            raise TokenRefused(self._why)
        return self._current
