"""A call's lease: who vouches for it, until when, and when it was last known alive (R12-R15).

Leases run on real time, whatever the billing clock shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Renewed(StrEnum):
    """What becomes of a renewal. None of them is an error: a gateway renews many calls at a time."""

    RENEWED = "renewed"
    NEWER_OWNER = "newer_owner"
    """A later connection vouches for the call: this one's words of it are refused (R12)."""
    ABSENT = "absent"
    """It was settled in its absence, and may still come back (R15)."""
    ENDED = "ended"
    UNKNOWN = "unknown"
    UNDECIDED = "undecided"
    """The engine is being compared with what it had answered, or made anew: it has to be asked again."""
    UNREADABLE = "unreadable"
    """What the engine holds of the call is damaged: nothing was done, nor is when it is asked again."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a call lives with nobody vouching for it, and how long it may come back after that.

    `lease_ms` and `grace_ms` are real time, `late_resume_ms` is billing time.
    """

    lease_ms: int = 15_000
    grace_ms: int = 30_000
    late_resume_ms: int = 12 * 3_600_000


@dataclass(frozen=True, slots=True)
class Lease:
    """Who vouches for a call in progress: the connection `owner`, or whoever sends keepalives (0).

    From `reap_at_ms` on (real time) it may be settled in its absence. `alive_ms` is when it was last known
    alive: real time while it is vouched for, billing time once its connection is `lost`. `returned` if the
    call was made again for a device that came back with it, and nothing was heard of it since (R28).
    """

    owner: int
    lost: bool
    reap_at_ms: int
    alive_ms: int
    returned: bool = False

    def hears(self, connection: int) -> bool:
        """Whether the call listens to this connection: no later one took it over. It does to HTTP (0)."""
        return connection == 0 or connection >= self.owner

    def may_be_renewed_by(self, connection: int) -> bool:
        """Whether this connection may vouch for the call. Keepalives (0) do while no connection does."""
        return self.owner == 0 or self.lost if connection == 0 else connection >= self.owner

    def renewed(self, terms: Terms, connection: int, real_ms: int, heard_ago_ms: int = 0) -> Lease:
        """Return the lease after a vouching by someone who may; last known alive never goes back."""
        heard_ms = real_ms - heard_ago_ms
        return Lease(
            owner=connection,
            lost=False,
            reap_at_ms=real_ms + terms.lease_ms + terms.grace_ms,
            alive_ms=heard_ms if self.lost else max(self.alive_ms, heard_ms),
        )

    def after_loss(self, terms: Terms, connection: int, real_ms: int, alive_billing_ms: int) -> Lease:
        """Return the lease after its connection was lost: the grace begins (R13)."""
        return replace(
            self,
            owner=connection,
            lost=True,
            reap_at_ms=real_ms + terms.grace_ms,
            alive_ms=alive_billing_ms,
            returned=False,
        )


def new_lease(terms: Terms, connection: int, real_ms: int) -> Lease:
    """Return the lease of a call that this connection just started or brought back: a full one."""
    return Lease(connection, False, real_ms + terms.lease_ms + terms.grace_ms, real_ms)


def lease_of_told(terms: Terms, connection: int, real_ms: int, alive_ms: int) -> Lease:
    """Return the lease of a call that was let through without the engine, or lost: it may be over by now.

    It is as if its connection was lost when it was last known alive (billing time), or else when it was
    admitted; whoever has it may still come back for as long as if somebody had vouched for it now.
    """
    return Lease(connection, True, real_ms + terms.lease_ms + terms.grace_ms, alive_ms)
