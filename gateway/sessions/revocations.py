"""Which tokens are revoked: all that were issued to a subject until some instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_Subject = tuple[str, str | None, str | None]


@dataclass(frozen=True, slots=True)
class Revocation:
    """Refuses tokens issued until `until_ms` (real time, inclusive) to an account, staff member or device.

    `staff` None is everybody of the account, `device` None every device of the staff member.
    """

    account: str
    staff: str | None
    device: str | None
    until_ms: int

    def covers(self, account: str, staff: str | None, device: str | None, issued_at_ms: int) -> bool:
        """Tell whether it refuses a token that was issued at `issued_at_ms` to this subject."""
        return (
            issued_at_ms <= self.until_ms
            and account == self.account
            and self.staff in (None, staff)
            and self.device in (None, device)
        )


class Revocations:
    """All revocations that matter, in memory, so that no request waits to learn whether its token is revoked.

    Whoever keeps them (SQL, and other gateways that revoke) tells them by `add`; `on_revoked` hears of each
    that refuses more than was known.
    """

    def __init__(self) -> None:
        self._until_ms: dict[_Subject, int] = {}
        self._listeners: list[Callable[[Revocation], None]] = []

    def on_revoked(self, listener: Callable[[Revocation], None]) -> None:
        """Have `listener` called with every revocation that is added from now on."""
        self._listeners.append(listener)

    def add(self, revocation: Revocation) -> None:
        """Take a revocation in.

        One that is known, or older than what is known of its subject, changes nothing.
        """
        subject = (revocation.account, revocation.staff, revocation.device)
        if revocation.until_ms <= self._until_ms.get(subject, -1):
            return
        self._until_ms[subject] = revocation.until_ms
        for listener in self._listeners:
            listener(revocation)

    def revoked_until_ms(self, account: str, staff: str | None, device: str | None) -> int:
        """The latest instant until which tokens of this subject are refused, -1 if none is."""
        until_ms = self._until_ms.get((account, None, None), -1)
        if staff is not None:
            until_ms = max(until_ms, self._until_ms.get((account, staff, None), -1))
            if device is not None:
                until_ms = max(until_ms, self._until_ms.get((account, staff, device), -1))
        return until_ms
