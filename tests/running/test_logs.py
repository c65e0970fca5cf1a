"""Log lines: structured, of libraries too, and with no secret and no whole phone number in them."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from gateway.observability import REDACTED, configure_logging


@pytest.fixture(autouse=True)
def logging_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)
    root.handlers, root.level = handlers, level


class Lines(io.StringIO):
    """A stream whose content is all that was logged, what still waits to be written included."""

    def __init__(self, log_format: str, level: str) -> None:
        super().__init__()
        self._flush = configure_logging(log_format, level, self)  # type: ignore[arg-type]

    def getvalue(self) -> str:
        self._flush()
        return super().getvalue()


def lines(log_format: str = "json", level: str = "info") -> Lines:
    return Lines(log_format, level)


def test_an_event_is_one_json_object_a_line() -> None:
    stream = lines()
    log = structlog.get_logger("gateway.test")
    log.info("call.admitted", account="acme", call_id="c-1", remaining_seconds=5, replayed=False)
    log.info("call.settled", account="acme")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("timestamp").endswith("Z")
    assert first == {
        "event": "call.admitted",
        "level": "info",
        "logger": "gateway.test",
        "account": "acme",
        "call_id": "c-1",
        "remaining_seconds": 5,
        "replayed": False,
    }
    assert second["event"] == "call.settled"


def test_what_libraries_log_comes_out_the_same_way() -> None:
    stream = lines()
    logging.getLogger("some.library").warning("to %s", "+14155550100", extra={"password": "hush"})
    line = json.loads(stream.getvalue())
    assert line["event"] == "to +1•••••••0100"
    assert line["logger"] == "some.library"
    assert line["password"] == REDACTED


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_gets_into_a_line(log_format: str) -> None:
    stream = lines(log_format)
    jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJl"
    log = structlog.get_logger("gateway.test")
    log.info("a", token=jwt, token_secrets=("hush",), admin_key="hush", receipt="hush", key="hush")
    log.info("b", headers={"Authorization": "hush", "cookie": ["hush"]}, url="redis://u:hush@cache/0")
    log.info("c", text=f"said Bearer {jwt}", protocols=["callgate.v1", f"bearer.{jwt}"])
    log.info(f"token {jwt} refused")
    log.warning("d", error=ValueError(f"connecting to postgresql://u:hush@db/x with {jwt}"))
    try:
        raise RuntimeError(f"hidden {jwt} postgresql://u:hush@db")
    except RuntimeError:
        log.exception("e")
    assert "hush" not in stream.getvalue()
    assert jwt not in stream.getvalue()
    assert stream.getvalue().count(REDACTED) >= 12


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_whole_phone_number_gets_into_a_line(log_format: str) -> None:
    stream = lines(log_format)
    log = structlog.get_logger("gateway.test")
    log.info("call.admitted", to="+14155550100", channel="+14155550100", ask={"to": "tel:+14155550100"})
    log.info("call.admitted", to="sip:14155550100@pbx.example", message="to +14155550100, please")
    try:
        raise ValueError("+14155550100")
    except ValueError:
        log.exception("failed")
    assert "4155550" not in stream.getvalue()
    assert "+1•••••••0100" in stream.getvalue()


def test_lines_below_the_level_are_not_written() -> None:
    stream = lines(level="warning")
    structlog.get_logger("gateway.test").info("unseen")
    logging.getLogger("some.library").info("unseen")
    assert stream.getvalue() == ""


def test_a_stream_that_fails_does_not_fail_what_is_logged() -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    flush = configure_logging("json", "info", Full())
    structlog.get_logger("gateway.test").info("lost")
    flush()


def test_console_is_for_terminals_only_unless_asked_for() -> None:
    stream = lines("auto")
    structlog.get_logger("gateway.test").info("event")
    assert json.loads(stream.getvalue())["event"] == "event"
    stream = lines("console")
    structlog.get_logger("gateway.test").info("event")
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())
