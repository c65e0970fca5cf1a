"""Reading problem documents (RFC 9457): from an HTTP answer that is an error to the error it tells of."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from gateway.client.errors import UnexpectedAnswer, error_of
from gateway.domain.errors import CallgateError, Unauthorized

_OWN_MEMBERS: Final = ("limit", "in_use", "errors")


def problem_error(status: int, body: bytes | None) -> CallgateError:
    """Return the error that an HTTP answer of this status tells of, whether its body is a problem or not."""
    problem: Any = None
    try:
        problem = msgspec.json.decode(body or b"")
    except msgspec.DecodeError:
        pass
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        members = {name: problem[name] for name in _OWN_MEMBERS if name in problem}
        message = problem.get("detail") or problem.get("title") or problem["code"]
        return error_of(problem["code"], str(message), members)
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthorized()
    return UnexpectedAnswer(
        f"The answer was HTTP {status}{_phrase(status)}, without a reason.", status=status
    )


def _phrase(status: int) -> str:
    try:
        return f" ({HTTPStatus(status).phrase})"
    except ValueError:
        return ""
