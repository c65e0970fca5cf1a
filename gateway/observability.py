"""Logs: structured lines on standard error, with no secret and no whole phone number in them.

`configure_logging` is called once by each process. Modules log through
`structlog.get_logger("gateway.…")`: an event's name and its values, `log.info("call.admitted", account=…,
call_id=…, to=…)`. What libraries say through the standard `logging` comes out the same way.
"""

import functools
import logging
import re
import sys
import threading
import types
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from gateway.domain.destinations import mask
from gateway.settings import LogFormat, LogLevel

REDACTED: Final = "[redacted]"

_SECRET_KEY = re.compile(
    r"token|secret|password|passwd|authorization|cookie|receipt|admin_key|api_key|^key$", re.IGNORECASE
)
_JWT = re.compile(r"\beyJ[\w-]*\.[\w-]+\.[\w-]*")
_BEARER = re.compile(r"(bearer[ .]+)[!-~]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@", re.IGNORECASE)
_PHONE_NUMBER = re.compile(r"(?<![\w+.-])\+[0-9]{5,15}\b")

# Libraries that tell at INFO what is no news to an operator, or would repeat what a client sent.
_QUIET: Final = ("uvicorn", "websockets", "alembic", "sqlalchemy", "asyncio", "httpx")


def configure_logging(
    log_format: LogFormat = "auto", level: LogLevel = "info", stream: TextIO | None = None
) -> None:
    """Send all log lines to `stream` (standard error), as JSON or for a person at a terminal.

    `auto` is `console` on a terminal, else `json`.
    """
    stream = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    # Tracebacks become text before `redact`, so that it sees them.
    closing: list[structlog.typing.Processor] = [structlog.processors.format_exc_info, redact, renderer]
    lock = threading.Lock()
    structlog.configure(
        processors=[*processors, *closing],
        logger_factory=lambda *name: _Lines(name[0] if name else "gateway", stream, lock),
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *closing],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))


def log_uncaught() -> None:
    """Have what ends this process unforeseen logged as one event, as everything else is."""

    def log(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        else:
            structlog.get_logger("gateway").critical("process.failed", exc_info=(kind, error, traceback))

    sys.excepthook = log


class _Lines:
    """What structlog writes through: whole lines to a stream, under a name."""

    def __init__(self, name: str, stream: TextIO, lock: threading.Lock) -> None:
        self.name = name
        self._stream = stream
        self._lock = lock

    def msg(self, line: str) -> None:
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe behind the log must not fail the call that is being logged.
            return

    debug = info = warning = error = critical = exception = fatal = warn = log = msg


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take out of a log event what must not be in a log; a structlog processor.

    Values under a key that names a secret go, also in nested mappings; `to` is masked (`+1•••••••0100`);
    tokens, passwords in URLs and phone numbers go from all other text, tracebacks included.
    """
    for key, value in event.items():
        event[key] = _clean(key, value)
    return event


def _clean(key: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _is_secret(key):
        return REDACTED
    if isinstance(value, str):
        return mask(value) if key == "to" else _clean_text(value)
    if isinstance(value, Mapping):
        return {inner: _clean(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, item) for item in value]
    return _clean_text(
        f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else repr(value)
    )


@functools.lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _clean_text(text: str) -> str:
    # There is a line for each call: most values are short ids, which the plain searches let through at once.
    if "eyJ" in text:
        text = _JWT.sub(REDACTED, text)
    if "earer" in text or "EARER" in text:
        text = _BEARER.sub(rf"\1{REDACTED}", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    if "+" in text:
        text = _PHONE_NUMBER.sub(lambda number: mask(number[0]), text)
    return text


def _json(event: Mapping[str, Any], **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()
