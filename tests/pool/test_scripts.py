"""The scripts as texts, and what they share with the Python that calls them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from time import monotonic

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.domain.answers import Admitted, Noted, Settled
from gateway.domain.asks import Answered, Ask, End, Reap, Resume, Retell, Start
from gateway.domain.calls import CallInProgress, CallRecord, CycleOpened
from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from gateway.live.gateways import Gateways, Heartbeat
from gateway.pool.codes import ERRORS, REFUSALS, UNDECIDED, Code
from gateway.pool.inspection import Inspection
from gateway.pool.keys import ACCOUNT_KEYS, SHARD_KEYS
from gateway.pool.leases import Vouching
from gateway.pool.operations import ANSWER_WIDTHS, Operation
from gateway.pool.packed import unpack_pool
from gateway.pool.scripts import ALLOW_OOM, assemble, script, script_folder
from tests.support.engines import EngineServer
from tests.support.pool_model import ANA, T0, a_plan
from tests.support.pools import LiveAccounts, live_accounts

A_RECORD = CallRecord(
    account="acme",
    call_id="c",
    staff="ana",
    device="desk",
    channel=None,
    to="+14155550100",
    admitted_at_ms=T0,
    answered_at_ms=None,
    ended_at_ms=T0 + 90_000,
    settled_at_ms=T0 + 90_000,
    duration_ms=90_000,
    billed_seconds=90,
    counted=True,
    ended_by="hangup",
    emergency=False,
    cycle_start_ms=T0 - 1000,
    revision=1,
    policy=Policy(),
)

FOLDER = Path(str(script_folder()))
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))
FRAGMENTS = sorted(path.stem for path in (FOLDER / "lib").glob("*.lua"))
CONSTANT = re.compile(r"^local ([A-Z][A-Z0-9_]+) = (-?\d+|'[^'\n]*')(?: --.*)?$", re.MULTILINE)
DECLARED = re.compile(r"^local (?:function )?([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*)", re.MULTILINE)


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def header(name: str) -> list[str]:
    """The lines of the comment that a script begins with, without their dashes."""
    lines: list[str] = []
    for line in source(name).splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].removeprefix(" "))
    return lines


def section(name: str, title: str) -> str:
    """One part of a header, on one line."""
    lines = header(name)
    first = next(n for n, line in enumerate(lines) if re.match(rf"{title}\s", line))
    following = (n for n in range(first + 1, len(lines)) if not lines[n].startswith("  "))
    part = [lines[first].removeprefix(title), *lines[first + 1 : next(following, len(lines))]]
    return " ".join(" ".join(part).split())


def code(text: str) -> str:
    """A script's text without comments and without what stands in quotes."""
    return re.sub(r"--.*", "", re.sub(r"'(?:\\.|[^'\\\n])*'", "''", text))


def declared(text: str) -> list[str]:
    """The names that a text declares for those who include it."""
    return [name for names in DECLARED.findall(code(text)) for name in names.split(", ")]


def included(name: str) -> list[str]:
    return re.findall(r"^-- @include (\w+)$", source(name), re.MULTILINE)


def table(fragment: str, name: str) -> dict[str, int]:
    """A table of letters and numbers: `local NAME = { S = 3, ... }`."""
    found = re.search(rf"^local {name} = \{{([^}}]*)\}}", source(fragment), re.MULTILINE)
    assert found is not None
    return {letter: int(number) for letter, number in re.findall(r"(\w) = (\d+)", found[1])}


def constants(*names: str) -> dict[str, int]:
    return {
        name: int(value)
        for text in map(source, names)
        for name, value in CONSTANT.findall(text)
        if not value.startswith("'")
    }


# Texts


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_its_purpose_keys_arguments_and_reply(name: str) -> None:
    lines = header(name)
    assert lines[0].endswith((".", ":", ",")) or lines[0][0].isupper()
    assert not lines[0].startswith(("KEYS", "ARGV", "Reply", "@"))
    titles = [line.split()[0] for line in lines if re.match(r"(KEYS|ARGV|Reply|Rules)\s", line)]
    assert titles[:3] == ["KEYS", "ARGV", "Reply"]
    assert titles[3:] in ([], ["Rules"])
    assert all(section(name, title) for title in titles)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_begins_by_saying_what_it_is_about(fragment: str) -> None:
    assert header(f"lib/{fragment}")


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_includes_is_there_and_includes_nothing_itself(name: str) -> None:
    assert set(included(name)) <= set(FRAGMENTS)
    assert not [fragment for fragment in included(name) if included(f"lib/{fragment}")]
    assert re.match(r"#!lua( flags=[a-z-]+)?\n", assemble(name))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"job.lua": "-- @include gone\n"}, "job.lua includes gone, which is not in lib/"),
        ({"job.lua": "-- @include one\n-- @include one\n", "lib/one.lua": ""}, "includes a fragment twice"),
        ({"job.lua": "-- @include one\n", "lib/one.lua": "-- @include one\n"}, "the fragment one includes"),
    ],
)
def test_a_script_is_not_put_together_from_what_is_missing_or_goes_in_circles(
    tmp_path: Path, files: dict[str, str], complaint: str
) -> None:
    (tmp_path / "lib").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=complaint):
        assemble("job", tmp_path)


def test_no_script_is_carried_out_by_a_primary_that_was_demoted() -> None:
    """One that says that it writes nothing would be, and its gateway stay with that."""
    flags = {name: re.findall(r"^-- @flags (.+)$", source(name), re.MULTILINE) for name in SCRIPTS}
    assert {tuple(named) for named in flags.values()} == {(), (ALLOW_OOM,)}


def test_every_script_stands_in_the_list_of_what_there_is() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8").partition("## Conventions")[0]
    assert sorted(re.findall(r"`(\w+)`(?=[^|]*\|[^|]*\|$)", listed, re.MULTILINE)) == SCRIPTS


def test_every_fragment_is_included_by_some_script() -> None:
    assert {fragment for name in SCRIPTS for fragment in included(name)} == set(FRAGMENTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_something_of_each_fragment_that_it_includes(name: str) -> None:
    """What it does not use is made anew at each call all the same."""
    for fragment in included(name):
        others = "\n".join(
            code(source(other))
            for other in (name, *(f"lib/{each}" for each in included(name) if each != fragment))
        )
        names = declared(source(f"lib/{fragment}"))
        assert any(re.search(rf"\b{each}\b", others) for each in names), f"nothing of {fragment}"


def test_nothing_is_declared_that_nobody_uses() -> None:
    texts = [code(source(name)) for name in (*SCRIPTS, *(f"lib/{fragment}" for fragment in FRAGMENTS))]
    everything = "\n".join(texts)
    names = {name for text in texts for name in declared(text)} - {"_"}
    assert [name for name in sorted(names) if len(re.findall(rf"\b{name}\b", everything)) < 2] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_constants_are_folded_into_the_text(name: str) -> None:
    """Lua 5.1 has none: each would be one more local to look through for every function, at each call."""
    parts = [source(name), *(source(f"lib/{fragment}") for fragment in included(name))]
    values = [constant for part in parts for constant in CONSTANT.findall(part)]
    assert len(dict(values)) == len(values), "declared twice"
    left = code(assemble(name))
    assert [constant for constant, _ in values if re.search(rf"\b{constant}\b", left)] == []
    assert not re.search(
        r"-(?:" + "|".join(constant for constant, _ in values) + r")\b", "\n".join(map(code, parts))
    ), "a value below zero would make this a comment"


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_name_in_capitals_is_declared(name: str) -> None:
    """One that is not would be found missing only when its line is reached."""
    text = code(assemble(name))
    used = set(re.findall(r"(?<![.\w])[A-Z][A-Z0-9_]+\b(?!\s*=[^=])", text))
    assert used <= {"KEYS", "ARGV", *declared(assemble(name))}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_key_is_made_up_within_a_script(name: str) -> None:
    text = assemble(name).replace("'XINFO', 'STREAM'", "'XINFO'")
    for command, key in re.findall(r"\bcall(?:_variadic)?\(\s*'([A-Z]+)'(?:,\s*([^,()]+))?", text):
        assert command in ("TIME", "INFO") or ("'" not in key and ".." not in key), f"{command} {key}"


# What Lua and Python say alike


def test_codes_are_the_same_in_lua_and_python() -> None:
    assert constants("lib/codes") == {code.name: code.value for code in Code}
    assert len({*Code}) == len(Code.__members__)
    assert not REFUSALS.keys() & ERRORS.keys() & UNDECIDED


def test_keys_stand_in_the_same_order_in_lua_and_python() -> None:
    found = constants("lib/keys")
    assert (found.pop("SHARD_KEYS"), found.pop("ACCOUNT_KEYS")) == (len(SHARD_KEYS), len(ACCOUNT_KEYS))
    assert found == {
        f"{name.upper()}_KEY": number
        for names in (SHARD_KEYS, ACCOUNT_KEYS)
        for number, name in enumerate(names, 1)
    }


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "keys" in included(name)])
def test_a_header_names_the_keys_in_their_order(name: str) -> None:
    assert ", ".join(SHARD_KEYS) in section(name, "KEYS")
    assert ", ".join(ACCOUNT_KEYS) in section(name, "KEYS")


def operations() -> Iterator[Operation]:
    """One of every kind, with a pool and without."""
    asks: list[Ask] = [
        Start("acme", *ANA, "c", "+14155550100"),
        Start("acme", *ANA, "c", "+14155550100", "main"),
        Start("acme", *ANA, "c", "nowhere", destination_valid=False),
        Start("acme", *ANA, "c", "nowhere", "main", destination_valid=False),
        Start("acme", *ANA, "c", "112", emergency=True, fresh_call_id="f"),
        Start("acme", *ANA, "c", "112", emergency=True, fresh_call_id="f", admitted_at_ms=T0),
        Answered("acme", "c", ANA),
        Answered("acme", "c", None, 5),
        End("acme", "c", ANA),
        End("acme", "c", None, 5),
        Resume("acme", "c", ANA),
        Reap("acme", "c"),
        Retell(A_RECORD, saved=False),
    ]
    for ask in asks:
        yield Operation(ask, lambda _: None, monotonic())
        operation = Operation(ask, lambda _: None, monotonic())
        if operation.without_pool():
            yield operation


def test_an_operations_arguments_are_as_many_as_the_script_takes() -> None:
    arguments = table("calls_decide", "ARGUMENTS")
    assert {operation.letter: len(operation.arguments) for operation in operations()} == arguments


def test_an_answer_is_as_long_as_the_script_makes_it() -> None:
    widths = table("lib/reply", "ANSWERS")
    assert widths == ANSWER_WIDTHS
    assert {operation.letter: operation.width for operation in operations()} == widths


def test_the_header_of_the_deciding_script_explains_every_letter() -> None:
    lines = [line.split() for line in header("calls_decide")]
    explained = {word for words in lines for word in words[:4] if len(word) == 1}
    assert explained >= ANSWER_WIDTHS.keys()


# In an engine


async def test_scripts_touch_no_key_that_they_did_not_declare(engine: EngineServer) -> None:
    """A Cluster would refuse it; a single server lets it pass."""
    for name in SCRIPTS:
        engine.client.script_load(script(name).source)
    names = {script(name).sha: name for name in SCRIPTS}
    with engine.client.monitor() as monitor:  # type: ignore[no-untyped-call]  # untyped in redis-py
        async with live_accounts(engine.url, Policy(), shards=2) as accounts:
            await use_every_script(accounts)
        engine.client.echo("finis")
        seen: set[str] = set()
        running, keys = "", frozenset[str]()
        for command in iter(monitor.next_command, None):
            words = str(command["command"]).split(" ")
            if words[0] == "ECHO":
                break
            if words[0] == "EVALSHA":
                running = names[words[1]]
                keys = frozenset(words[3 : 3 + int(words[2])])
                seen.add(running)
            elif words[0] == "EVAL":
                # The one that is sent with its text, each time.
                running, keys = "barrier_write", frozenset(words[-2:-1])
                seen.add(running)
            elif command["client_type"] == "lua" and words[0] not in ("TIME", "INFO"):
                key = words[2] if words[0] == "XINFO" else words[1]
                assert key in keys, f"{running}: {words[:3]}"
    assert seen == set(SCRIPTS)


async def use_every_script(accounts: LiveAccounts) -> None:
    """Whatever can be asked of pools, once."""
    pool = accounts.pool
    await accounts.at(T0)
    for account in ("acme", "acme-2", "globex"):
        await accounts.make(account, billing_date=date(2026, 11, 15), plan=a_plan(10))
        await accounts.ask_all(
            [
                Start(account, *ANA, "c-1", "+14155550100"),
                Start(account, *ANA, "c-2", "+14155550100"),
                Start(account, *ANA, "c-3", "112", emergency=True, fresh_call_id="f-1"),
                Answered(account, "c-1", ANA),
                End(account, "c-1", ANA),
                End(account, "unheard-of", ANA),
            ]
        )
        await accounts.change_plan(account, a_plan(20))
        await pool.find_call(account, "c-1")
        await pool.calls_of_device(account, *ANA)
    await accounts.ask_all([Start("unknown", *ANA, "c-1", "112", emergency=True, fresh_call_id="f-1")])
    await accounts.ask_all([End("unknown", "c-1", ANA)])
    await pool.set_policy(Policy(count_from="answer"))
    await pool.oldest_calls(["acme", "acme-2", "globex"])
    await accounts.at(T0 + 40 * 24 * 3_600_000)
    await pool.read_many(["acme", "acme-2", "globex"])
    await accounts.forget_old_calls()
    await pool.policy()
    await pool.count_calls()
    number = await pool.next_connection("acme")
    await pool.renew([Vouching("acme", "c-2", number, heard_ago_ms=0)])
    await accounts.ask_all([Resume("acme", "c-2", ANA, number), Reap("acme", "c-2")])
    await pool._leases.due()
    inspection = Inspection(pool._engine, pool._keys)
    for shard, named in inspection.by_shard(["acme", "acme-2", "globex"]).items():
        await inspection.count(shard, named)
    await inspection.count_of_accounts(["acme"])
    await pool.records.trim({0: (0, 0, "0-0")})
    await Gateways(accounts.engine.client).beat(Heartbeat("a-gateway", T0, 0, 0))
    waited = accounts.engine.run_script(
        script("clock_read"), accounts.keys.named(0, "meta"), replicas=1, wait_ms=1
    )
    with pytest.raises(RedisTimeoutError):
        await waited
    await pool.renew_epochs()


async def test_scripts_are_sent_anew_to_an_engine_that_lost_them(engine: EngineServer) -> None:
    async with live_accounts(engine.url, Policy()) as accounts:
        await accounts.at(T0)
        await accounts.make("acme", billing_date=date(2026, 11, 15), plan=a_plan(10))
        for number in range(3):
            engine.client.script_flush()
            answer = await accounts.pool.ask(Start("acme", *ANA, f"c-{number}", "+14155550100"))
            assert isinstance(answer, Admitted)
            assert (await accounts.pool.read("acme")).calls_in_progress == number + 1
        assert engine.client.script_exists(script("calls_decide").sha) == [True]


async def test_python_reads_what_the_scripts_wrote(engine: EngineServer) -> None:
    account, staff, device, channel, call_id = (letter * 128 for letter in "aZ9.~")
    to = f"sips:{'u' * 200}:p%7C%2F|@example.org".replace("|", "")
    big = Plan("P" * 128, "big", 10_000_000, 4_000_000_000, 3_999_999_999, max_concurrent_calls=2_000_000)
    small = a_plan(1, plan="p" * 128)
    async with live_accounts(engine.url, Policy(3600, 3600, 3600, "answer")) as accounts:
        now_ms = 7_258_118_400_123  # in the year 2200
        await accounts.at(now_ms)
        await accounts.make(
            account,
            billing_date=date(2024, 2, 29),
            plan=big,
            staff=frozenset({staff}),
            channels=frozenset({channel}),
        )
        await accounts.change_plan(account, small)
        await accounts.change(account, status="suspended")
        await accounts.change(account, status="active")

        ask = Start(account, staff, device, call_id, to, channel)
        answer = await accounts.pool.ask(ask)
        assert isinstance(answer, Admitted)
        assert (answer.admitted_at_ms, answer.remaining_seconds) == (now_ms, 600_000_000)
        assert await accounts.pool.ask(Answered(account, call_id, (staff, device))) == Noted(call_id)

        view = await accounts.pool.read(account)
        assert answer.cycle_start_ms == view.cycle.start_ms
        call = CallInProgress(
            account, call_id, staff, device, channel, to, now_ms, now_ms, view.cycle.start_ms, False, True
        )
        assert view.calls == (call,)
        found = await accounts.pool.find_call(account, call_id)
        assert found is not None
        assert found.call == call
        assert await accounts.pool.calls_of_device(account, staff, device) == [call]

        shard = accounts.keys.shard_of(account)
        packed = engine.client.get(accounts.keys.of_account(account, shard)[0])
        assert isinstance(packed, bytes)
        pool = unpack_pool(packed)
        assert (pool.plan, pool.pending_plan, pool.suspended) == (big.plan, small.plan, False)
        assert (pool.allocated_seconds, pool.settled_seconds) == (600_000_000, 0)
        assert (pool.revision, pool.version) == (4, view.version)
        assert (pool.seats_limit, pool.channels_limit) == (small.staff_seats, small.connected_channels)
        assert (pool.seats_used, pool.channels_used, pool.calls, pool.emergencies) == (1, 1, 1, 0)
        assert view.cycle.end_ms == pool.cycle_end_ms < pool.coming_ends_ms[0] < pool.coming_ends_ms[1]

        await accounts.at(now_ms + 3_600_001)
        settled = await accounts.pool.ask(End(account, call_id, (staff, device)))
        assert isinstance(settled, Settled)
        assert (settled.duration_ms, settled.billed_seconds) == (3_600_001, 7200)
        record = (await accounts.recorded())[-1]
        assert isinstance(record, CallRecord)
        assert (record.account, record.call_id, record.staff, record.device) == (
            account,
            call_id,
            staff,
            device,
        )
        assert (record.channel, record.to, record.policy) == (channel, to, Policy(3600, 3600, 3600, "answer"))
        assert (record.admitted_at_ms, record.answered_at_ms) == (now_ms, now_ms)
        assert (record.ended_at_ms, record.settled_at_ms) == (now_ms + 3_600_001,) * 2
        again = await accounts.pool.find_call(account, call_id)
        assert again is not None
        assert again.call == record
        opened = (await accounts.recorded())[0]
        assert opened == CycleOpened(
            account, view.cycle.start_ms, view.cycle.end_ms, view.cycle.index, big.plan, 600_000_000
        )
