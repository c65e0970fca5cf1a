"""Sending one text to many WebSockets with as little work for each as there can be."""

from __future__ import annotations

from typing import Protocol


class Direct(Protocol):
    """A WebSocket as our server has it. Nothing here waits."""

    def framed(self, text: str) -> bytes:
        """Return the bytes of a frame with this text: the same for all WebSockets of the server."""

    def send_now(self, frame: bytes) -> bool:
        """Send a frame's bytes if nothing is in the way of it, such as a peer that does not read.

        Tells whether it did. Not to be called while the ASGI `send` of the same WebSocket is waiting.
        """
