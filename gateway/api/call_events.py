"""One log line for each thing that happens to a call.

Numbers are masked on their way out (`observability`).
"""

from __future__ import annotations

from typing import Final

import structlog

from gateway.domain.answers import Admitted, Answer, Refused, Resumed, Settled
from gateway.domain.asks import Answered, Ask, End, Resume, Start
from gateway.domain.errors import CallgateError, DatabaseUnavailable, EngineUnavailable

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_ASKED: Final[dict[type[Ask], str]] = {
    Start: "start",
    Answered: "answered",
    End: "end",
    Resume: "resume",
}
_OURS: Final = (EngineUnavailable, DatabaseUnavailable)


def log_answer(ask: Ask, answer: Answer | CallgateError) -> None:
    """Write what became of an ask."""
    if isinstance(answer, CallgateError):
        # What the client did wrong is the client's news; that nobody could be asked is the operator's.
        write = log.warning if isinstance(answer, _OURS) else log.info
        write(
            "call.failed",
            account=ask.account,
            call_id=ask.call_id,
            asked=_ASKED[type(ask)],
            code=answer.code,
        )
    elif isinstance(ask, Start):
        _log_decision(ask, answer)
    elif isinstance(answer, Settled):
        log.info(
            "call.settled",
            account=ask.account,
            call_id=answer.call_id,
            duration_ms=answer.duration_ms,
            billed_seconds=answer.billed_seconds,
            ended_by=answer.ended_by,
            revision=answer.revision,
            replayed=answer.replayed,
        )
    elif isinstance(answer, Resumed):
        log.info(
            "call.resumed",
            account=ask.account,
            call_id=answer.call_id,
            staff=answer.call.staff,
            device=answer.call.device,
            late=answer.late,
        )
    else:
        log.info("call.answered", account=ask.account, call_id=answer.call_id)


def _log_decision(ask: Start, answer: Answer) -> None:
    if isinstance(answer, Admitted):
        log.info(
            "call.admitted",
            account=ask.account,
            call_id=answer.call_id,
            staff=ask.staff,
            device=ask.device,
            to=ask.to,
            replayed=answer.replayed,
            emergency=answer.emergency,
            **({"admitted_offline": True} if answer.admitted_offline else {}),
        )
    elif isinstance(answer, Refused):
        log.info(
            "call.refused",
            account=ask.account,
            call_id=answer.call_id,
            staff=ask.staff,
            device=ask.device,
            to=ask.to,
            reason=answer.reason.value,
        )
