"""How long a client waits, and when it takes a silent connection for dead."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. The defaults fit the gateway's: it pings every 10 s, and a lost device's calls have 30 s."""

    connect_seconds: float = 10.0
    """What one attempt to connect may take, from the name's lookup to the gateway's welcome."""
    answer_seconds: float = 10.0
    """How long an answer is waited for, reconnecting meanwhile if need be."""
    close_seconds: float = 5.0
    """How long leaving the phone may take: hanging up, telling what ended, the closing handshake."""
    ping_after_seconds: float = 4.0
    """After so long a silence the gateway is asked whether it is there."""
    dead_after_seconds: float = 10.0
    """After so long a silence the connection is dead, whatever the operating system says."""
    backoff_seconds: float = 0.5
    """The longest wait before the first attempt to reconnect; it doubles with each that fails."""
    backoff_most_seconds: float = 8.0
    """Up to here it grows: short enough for a few attempts within the grace of a lost device's calls."""
    beat_seconds: float = 5.0
    """How often a phone that keeps its calls in a file notes that it is alive."""
