"""Frames that have more to say over HTTP, where no connection vouches for a call."""

from __future__ import annotations

from gateway.api.wire.frames import CallAdmitted


class AdmittedOverHttp(CallAdmitted, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The call may be placed, and is vouched for during `lease_seconds`: then keepalives must (R12).

    `emergency` is there, and true, for an emergency call only (R30), `admitted_offline` for one that was let
    through without asking the engine.
    """

    lease_seconds: int
