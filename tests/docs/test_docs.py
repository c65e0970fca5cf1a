"""The documentation and the code say the same, and every link leads somewhere."""

import re
from collections.abc import Iterator
from typing import Final, get_args

import click
import msgspec
import pytest
from prometheus_client.metrics import MetricWrapperBase

import gateway
import gateway.client
from gateway import metrics
from gateway.api.operations import AnyOperation
from gateway.api.problems import STATUS
from gateway.api.routes import ALL_OPERATIONS
from gateway.api.wire import frames
from gateway.api.wire.live_frames import PoolNotice
from gateway.cli import main as callgate
from gateway.domain.admission import RefusalReason
from gateway.domain.errors import UnknownType
from gateway.live.pictures import HappeningKind
from gateway.pool.keys import ACCOUNT_KEYS, SHARD_KEYS
from gateway.sessions.close_codes import CloseCode
from gateway.settings import SETTINGS, environment_name
from tests.docs.pages import ROOT, Page, page, pages

ALL: Final = list(pages())
HTTP: Final = page("docs/http.md")
WEBSOCKET: Final = page("docs/websocket.md")
OPERATIONS: Final = page("docs/operations.md")

# Variables that are no settings of a gateway.
RETRIED: Final = (
    "alarms.failed",
    "alarms.not_all_seen_to",
    "calls.not_forgotten",
    "cluster.out_of_reach",
    "control.lost",
    "control.not_told",
    "feeds.not_read",
    "notices.not_looked_for",
    "pool.not_supplied",
    "revocations.unknown",
    "shards.away",
    "subscriptions.lost",
    "subscriptions.no_owner",
    "webhook.failed",
    "webhooks.wait",
)
"""Logged when something could not be done and is tried again: the page says that of all of them at once."""
OTHER_VARIABLES: Final = {"CALLGATE_CONFIG", "CALLGATE_URL", "CALLGATE_TOKEN", "CALLGATE_REQUIRE_PEERS"}


def _quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# Links.


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_link_leads_somewhere(one: Page) -> None:
    broken = []
    for target in one.links:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (one.path.parent / path).resolve() if path else one.path
        if not file.exists() or (anchor and anchor not in page(str(file.relative_to(ROOT))).anchors):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_readme() -> None:
    readme = page("README.md")
    assert {str(one) for one in ALL} - {"README.md"} <= set(readme.links)


# HTTP.


@pytest.mark.parametrize("operation", ALL_OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
def test_every_address_is_documented_with_all_it_takes(operation: AnyOperation) -> None:
    assert f"{operation.method} {operation.path}" in HTTP.code
    for field in msgspec.structs.fields(operation.query):
        assert f"?{field.encode_name}=" in HTTP.code
    for field in msgspec.structs.fields(operation.body) if operation.body else ():
        assert re.search(rf"[`\"]{field.encode_name}[`\"]", HTTP.text), field.encode_name


def test_every_documented_address_exists() -> None:
    there = {f"{one.method} {one.path}" for one in ALL_OPERATIONS} | {"GET /openapi.json"}
    for one in ALL:
        for code in one.code:
            if re.match(r"(GET|PUT|POST|DELETE|PATCH) /", code):
                assert code in there, f"{one} names {code}"


def test_every_code_is_documented_with_its_status() -> None:
    documented = {
        code: status for first, status, *_ in HTTP.section("Errors").rows for code in _quoted(first)
    }
    expected = {error.code: str(status) for error, status in STATUS.items()} | {UnknownType.code: "–"}
    assert documented == expected


def test_every_reason_of_a_refusal_is_documented_in_its_order() -> None:
    reasons = [reason.value for reason in RefusalReason]
    table = [cells[0].strip("`") for cells in page("docs/rules.md").section("When a call may start").rows]
    assert [cell for cell in table if cell in reasons] == reasons
    assert set(reasons) <= set(HTTP.section("Calls").code)


# The WebSocket.


def _frame_shapes() -> dict[str, type[msgspec.Struct]]:
    shapes = [value for value in vars(frames).values() if isinstance(value, type)]
    return {
        str(shape.__struct_config__.tag): shape
        for shape in shapes
        if issubclass(shape, msgspec.Struct) and shape.__module__ == frames.__name__
    }


def _documented_frames() -> dict[str, Page]:
    headings = re.findall(r"^### `([a-z.]+)`$", WEBSOCKET.text, re.MULTILINE)
    return {kind: WEBSOCKET.section(f"`{kind}`") for kind in headings}


def test_every_frame_is_documented_and_nothing_else_is() -> None:
    assert _documented_frames().keys() == _frame_shapes().keys()


@pytest.mark.parametrize("kind", sorted(_frame_shapes()))
def test_every_field_of_a_frame_is_documented(kind: str) -> None:
    code = set(_documented_frames()[kind].code)
    # What every request and every answer carries is said once for all of them.
    fields = set(_frame_shapes()[kind].__struct_fields__) - {"id", "re"}
    assert fields <= code


def test_every_field_and_kind_of_a_pool_s_notices_is_documented() -> None:
    code = set(WEBSOCKET.section("Dashboards").code)
    assert set(PoolNotice.__struct_fields__) - {"message"} <= code
    assert set(get_args(HappeningKind)) <= code


def test_every_close_code_is_documented() -> None:
    documented = {
        int(cells[0]) for cells in WEBSOCKET.section("How a connection ends").rows if cells[0].isdecimal()
    }
    assert documented == {int(code) for code in CloseCode}


# Operations.


def _metrics() -> dict[str, MetricWrapperBase]:
    found = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            found[family.name + ("_total" if family.type == "counter" else "")] = metric
    return found


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = {cells[0].strip("`"): cells for cells in OPERATIONS.section("Metrics").rows if len(cells) == 3}
    documented = {name: cells for name, cells in rows.items() if name.startswith("callgate_")}
    assert documented.keys() == _metrics().keys()
    for name, metric in _metrics().items():
        (family,) = metric.describe()
        assert documented[name][1] == family.type
        assert set(metric._labelnames) <= set(_quoted(documented[name][2]))


def test_no_page_names_a_metric_that_does_not_exist() -> None:
    known = {name + suffix for name in _metrics() for suffix in ("", "_bucket", "_count", "_sum")}
    for one in ALL:
        for name in re.findall(r"\bcallgate_[a-z_]*[a-z]\b", one.text):
            assert name in known, f"{one} names {name}"


def test_every_documented_event_is_logged() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    for cells in OPERATIONS.section("Logs").rows:
        for event in _quoted(cells[0]):
            assert f'"{event}"' in source, event


def test_every_logged_event_is_documented_unless_it_tells_of_a_retry() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gateway").rglob("*.py"))
    logged = re.findall(r'log\.(info|warning|error|exception|critical)\(\s*"([a-z_.]+)"', source)
    documented = {event for cells in OPERATIONS.section("Logs").rows for event in _quoted(cells[0])}
    undocumented = {event: level for level, event in logged if event not in documented}
    assert undocumented == dict.fromkeys(RETRIED, "warning")


# Settings, commands, targets.


def test_every_variable_that_is_named_exists() -> None:
    known = {environment_name(setting) for setting in SETTINGS.values()} | OTHER_VARIABLES
    deployed = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
    for path in (*(one.path for one in ALL), *deployed):
        for name in re.findall(r"\bCALLGATE_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")):
            assert name in known, f"{path.name} names {name}"


def _command_lines(one: Page) -> Iterator[str]:
    for block in one.blocks:
        if block.language in ("sh", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?(?:[\w./]*/)?(callgate .*)", line):
                    yield found[1]
    yield from (code for code in one.code if code.startswith("callgate "))


def _resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and what follows it."""
    command: click.Command = callgate
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found, f"there is no command {words[0]}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("one", ALL, ids=str)
def test_every_command_that_is_shown_exists_with_its_flags(one: Page) -> None:
    for line in _command_lines(one):
        command, rest = _resolve(line.split()[1:])
        options = {
            flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        flags = {word.partition("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        assert flags <= options | {"--help", "--version"}, line


def _commands(command: click.Command, name: str) -> Iterator[str]:
    yield name
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found
            yield from _commands(found, f"{name} {each}")


def test_every_command_is_documented() -> None:
    documented = {"callgate"}
    for cells in page("docs/command-line.md").rows:
        # "`callgate plan` `put` · `show`": the words behind the first are its subcommands, or its neighbours.
        first, *others = _quoted(cells[0])
        documented.add(first)
        parent = (
            first if isinstance(_resolve(first.split()[1:])[0], click.Group) else first.rpartition(" ")[0]
        )
        documented |= {f"{parent} {other}" for other in others}
    assert documented == set(_commands(callgate, "callgate"))


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for one in ALL:
        for code in (*one.code, *(block.text for block in one.blocks if block.language == "console")):
            for target in re.findall(r"\bmake ([a-z]+)\b", code):
                assert target in targets, f"{one} names make {target}"


# The rules, the inside, the client, the version.


def test_every_rule_that_is_cited_is_in_the_rulebook() -> None:
    rules = set(re.findall(r"\*\*(R\d+)\b", page("docs/rulebook.md").text))
    assert rules == {f"R{number}" for number in range(1, 31)}
    folders = {"gateway": "*.py", "lua": "*.lua", "tests": "*.py", "docs": "*.md"}
    for folder, pattern in folders.items():
        for path in (ROOT / folder).rglob(pattern):
            for cited in re.findall(r"\bR\d{1,2}\b(?![-.]?\d)", path.read_text(encoding="utf-8")):
                assert cited in rules, f"{path} cites {cited}"


def test_the_keys_of_the_live_pool_are_documented() -> None:
    cells = [cells[0].strip("`") for cells in page("docs/how-it-works.md").section("The live pool").rows]
    shown = [cell.removeprefix("cg:{17}:") for cell in cells if cell.startswith("cg:{17}:")]
    assert sorted(shown) == sorted([*SHARD_KEYS, *(f"{name}:<account>" for name in ACCOUNT_KEYS)])


def test_everything_that_the_client_offers_is_documented() -> None:
    words = set(re.findall(r"\w+", page("docs/python-client.md").text))
    assert set(gateway.client.__all__) <= words


def test_the_changelog_knows_this_version() -> None:
    assert re.search(rf"^## \[{re.escape(gateway.__version__)}\]", page("CHANGELOG.md").text, re.MULTILINE)
