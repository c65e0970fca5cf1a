"""Logs: structured lines on standard error, with no secret and no whole phone number in them.

`configure_logging` is called once by each process. Modules log through
`structlog.get_logger("gateway.…")`: an event's name and its values, `log.info("call.admitted", account=…,
call_id=…, to=…)`. What libraries say through the standard `logging` comes out the same way.
"""

import atexit
import functools
import logging
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

from gateway.domain.destinations import mask
from gateway.settings import LogFormat, LogLevel

REDACTED: Final = "[redacted]"
FLUSH_SECONDS: Final = 0.05

_SECRET_KEY = re.compile(
    r"token|secret|password|passwd|authorization|cookie|receipt|admin_key|api_key|^key$", re.IGNORECASE
)
_JWT = re.compile(r"\beyJ[\w-]*\.[\w-]+\.[\w-]*")
_BEARER = re.compile(r"(bearer[ .]+)[!-~]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@", re.IGNORECASE)
_PHONE_NUMBER = re.compile(r"(?<![\w+.-])\+[0-9]{5,15}\b")

_encoder: Final = msgspec.json.Encoder(enc_hook=repr)

# Libraries that tell at INFO what is no news to an operator, or would repeat what a client sent.
_QUIET: Final = ("uvicorn", "websockets", "alembic", "sqlalchemy", "asyncio", "httpx")


def configure_logging(
    log_format: LogFormat = "auto", level: LogLevel = "info", stream: TextIO | None = None
) -> Callable[[], None]:
    """Send all log lines to `stream` (standard error), as JSON or for a person at a terminal.

    `auto` is `console` on a terminal, else `json`. Returns what writes out at once the lines that still wait.
    """
    stream = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _Stamp(),
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
    output = _Output(stream)
    structlog.configure(
        processors=[*processors, *closing],
        logger_factory=lambda *name: _Lines(name[0] if name else "gateway", output),
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
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    return output.flush


def _is_news(record: logging.LogRecord) -> bool:
    """A handshake that was refused with an answer is no error of ours, though uvicorn calls it one."""
    return not str(record.msg).startswith("ASGI callable returned without completing handshake")


def log_uncaught() -> None:
    """Have what ends this process unforeseen logged as one event, as everything else is."""

    def log(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        else:
            structlog.get_logger("gateway").critical("process.failed", exc_info=(kind, error, traceback))

    sys.excepthook = log


class _Stamp:
    """Puts the time into an event, as RFC 3339 in UTC. Second and date are made into text once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        second, fraction = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._text, self._second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)), second
        event["timestamp"] = f"{self._text}.{fraction // 1000:06d}Z"
        return event


class _Output:
    """A stream that is written to in pieces: a line for each call would otherwise be a system call for each.

    What is waiting goes out every `FLUSH_SECONDS`, before a warning or worse at once, and when the process
    ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._is_due = threading.Event()
        threading.Thread(target=self._flush_when_due, name="logs", daemon=True).start()
        atexit.register(self.flush)

    def write(self, line: str, *, at_once: bool) -> None:
        self._waiting.append(line)
        if at_once:
            self.flush()
        elif not self._is_due.is_set():
            self._is_due.set()

    def flush(self) -> None:
        try:
            with self._lock:
                waiting, self._waiting = self._waiting, []
                if waiting:
                    self._stream.write("\n".join(waiting) + "\n")
                    self._stream.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe behind the log must not fail the call that is being logged.
            return

    def _flush_when_due(self) -> None:
        while True:
            self._is_due.wait()
            time.sleep(FLUSH_SECONDS)
            self._is_due.clear()
            self.flush()


class _Lines:
    """What structlog writes through: whole lines, under a logger's name."""

    def __init__(self, name: str, output: _Output) -> None:
        self.name = name
        self._output = output

    def msg(self, line: str) -> None:
        self._output.write(line, at_once=False)

    def at_once(self, line: str) -> None:
        self._output.write(line, at_once=True)

    debug = info = log = msg
    warning = error = critical = exception = fatal = warn = at_once


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take out of a log event what must not be in a log; a structlog processor.

    Values under a key that names a secret go, also in nested mappings; `to` is masked (`+1•••••••0100`);
    tokens, passwords in URLs and phone numbers go from all other text, tracebacks included.
    """
    for key, value in event.items():
        # There is a line for each call, and most of its values are numbers and short ids: these pass at once.
        kind = type(value)
        if kind is int or kind is bool or value is None:
            continue
        if kind is not str or key == "to" or _is_secret(key) or _is_suspicious(value):
            event[key] = _clean(key, value)
    return event


def _is_suspicious(text: str) -> bool:
    """Whether a text may hold what `_clean_text` takes out."""
    return "+" in text or "eyJ" in text or "://" in text or "earer" in text or "EARER" in text


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
    if not _is_suspicious(text):
        return text
    text = _JWT.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    text = _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
    return _PHONE_NUMBER.sub(lambda number: mask(number[0]), text)


def _json(event: Mapping[str, Any], **_: object) -> str:
    # When, how bad and what come first, for those who read the lines as they are.
    ordered = {"timestamp": event.get("timestamp"), "level": event.get("level"), "event": event.get("event")}
    return _encoder.encode(ordered | dict(event)).decode()
