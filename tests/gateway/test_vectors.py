"""The running gateway against the worked examples: every history, step by step, by HTTP and by WebSocket.

All histories are played once, before the tests look at what came of them. Each has an account of its own for
each way of placing calls. A policy is one for a deployment and a billing clock only moves forward, so the
histories are spread over deployments, in each of which one policy follows another.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from gateway.domain.plans import Plan
from gateway.domain.policy import Policy
from tests.support.devices import Device, connect_device
from tests.support.engines import EngineServer, engine_binary
from tests.support.gateways import GatewayProcess
from tests.support.operators import Json, Operator, operating
from tests.support.vectors import History, Step, histories
from tests.support.waiting import wait_until

HISTORIES = histories()
WAYS = ("http", "websocket")
AT_ONCE = 3
"""How many deployments run at a time."""


@dataclass(frozen=True)
class Played:
    """What came of one history, played one way: each step's answer, the pool at its end, and its books."""

    answers: list[Json] = field(default_factory=list)
    statements: list[Json] = field(default_factory=list)
    records: list[Json] = field(default_factory=list)
    csv_lines: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    pool: Json = field(default_factory=dict)


Results = dict[tuple[str, str], Played]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every history, played both ways."""
    engine = EngineServer(engine_binary("valkey"))
    try:
        engine.start()
        return asyncio.run(play_all(engine, tmp_path_factory.mktemp("deployments")))
    finally:
        engine.discard()


pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
everything = pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
both_ways = pytest.mark.parametrize("way", WAYS)


@both_ways
@everything
def test_every_answer_is_the_one_of_the_history(history: History, way: str, results: Results) -> None:
    for number, (step, answer) in enumerate(
        zip(history.steps, results[history.name, way].answers, strict=True)
    ):
        assert {name: answer[name] for name in step.expect} == step.expect, f"step {number}: {step}"


@both_ways
@everything
def test_every_admitted_call_has_one_record(history: History, way: str, results: Results) -> None:
    """R26."""
    played = results[history.name, way]
    admitted = Counter(
        step.call_id
        for step, answer in zip(history.steps, played.answers, strict=True)
        if answer.get("decision") == "admitted" and not answer["replayed"]
    )
    assert Counter(record["call_id"] for record in played.records) == admitted


@both_ways
@everything
def test_the_books_are_the_sums_of_the_records(history: History, way: str, results: Results) -> None:
    """R27: used = Σ billed, for every cycle; of the last one that is what its pool had settled."""
    played = results[history.name, way]
    for statement in played.statements:
        start = statement["cycle"]["start"]
        records = [record for record in played.records if record["cycle_start"] == start]
        used = sum(record["billed_seconds"] for record in records)
        assert statement["used_seconds"] == used
        assert statement["overrun_seconds"] == max(0, used - statement["allocated_seconds"])
        assert statement["calls_counted"] == sum(record["counted"] for record in records)
        assert statement["calls_free"] == sum(not record["counted"] for record in records)
        lines = [(line["call_id"], int(line["billed_seconds"])) for line in played.csv_lines[start]]
        assert lines == [(record["call_id"], record["billed_seconds"]) for record in reversed(records)]
    assert sum(map(len, played.csv_lines.values())) == len(played.records)


@both_ways
@everything
def test_the_pool_has_settled_what_the_statement_says(history: History, way: str, results: Results) -> None:
    """R4, R27: once no call is in progress, used = settled = Σ billed of the cycle's records."""
    played = results[history.name, way]
    pool = played.pool
    assert pool["calls_in_progress"] == pool["held_seconds"] == 0
    (statement,) = (each for each in played.statements if each["cycle"] == pool["cycle"])
    assert statement["used_seconds"] == pool["settled_seconds"] == pool["used_seconds"]
    assert statement["allocated_seconds"] == pool["allocated_seconds"]


# Playing.


@dataclass
class Group:
    """Histories of one policy that are played together, and the instant at which the last one ends."""

    policy: Policy
    histories: list[History]
    until_ms: int


def deployments() -> list[list[Group]]:
    """Spread the histories: in a deployment the spans of two policies do not overlap."""
    spread: list[list[Group]] = []
    for history in sorted(HISTORIES, key=lambda history: history.steps[0].at_ms):
        begin_ms, end_ms = history.steps[0].at_ms, history.steps[-1].at_ms
        for groups in spread:
            last = groups[-1]
            if last.policy == history.policy:
                last.histories.append(history)
                last.until_ms = max(last.until_ms, end_ms)
                break
            if last.until_ms + 1 < begin_ms:
                groups.append(Group(history.policy, [history], end_ms))
                break
        else:
            spread.append([Group(history.policy, [history], end_ms)])
    return spread


async def play_all(engine: EngineServer, directory: Path) -> Results:
    """Play every deployment, each with a database of its own on one engine."""
    results: Results = {}
    limiter = asyncio.Semaphore(AT_ONCE)

    async def play_one(number: int, groups: list[Group]) -> None:
        async with limiter:
            environ = {"CALLGATE_REDIS_URL": f"{engine.url}?db={number}", **settings(groups[0].policy)}
            gateway = GatewayProcess(directory / str(number), "--simulate", environ=environ)
            await asyncio.to_thread(gateway.start)
            try:
                async with operating(gateway) as operator:
                    for group in groups:
                        await play_group(gateway, operator, group, results)
            finally:
                await asyncio.to_thread(gateway.end)

    async with asyncio.TaskGroup() as tasks:
        for number, groups in enumerate(deployments()):
            tasks.create_task(play_one(number, groups))
    return results


def settings(policy: Policy) -> dict[str, str]:
    """Name a policy in the environment."""
    return {f"CALLGATE_{name.upper()}": str(value) for name, value in asdict(policy).items()}


async def play_group(gateway: GatewayProcess, operator: Operator, group: Group, results: Results) -> None:
    """Play histories side by side, on one clock."""
    in_force = await operator.http.put("/v1/policy", json=asdict(group.policy))
    assert in_force.status_code == 200, in_force.text
    players = [
        Player(gateway, operator, f"{way}-{HISTORIES.index(history)}", history, way)
        for history in group.histories
        for way in WAYS
    ]
    steps = [(step, player) for player in players for step in player.history.steps]
    now_ms = 0
    for step, player in sorted(steps, key=lambda each: each[0].at_ms):
        if step.at_ms != now_ms:
            now_ms = step.at_ms
            await operator.at(now_ms)
        await player.play(step)
    await operator.at(group.until_ms + 1)
    for player in players:
        results[player.history.name, player.way] = await player.close()


class Player:
    """Plays one history with an account of its own."""

    def __init__(
        self, gateway: GatewayProcess, operator: Operator, account: str, history: History, way: str
    ) -> None:
        self.history = history
        self.way = way
        self._gateway = gateway
        self._operator = operator
        self._account = account
        self._device: Device | None = None
        self._played = Played()

    async def play(self, step: Step) -> None:
        """Carry out the next step, at its instant. The first makes the account, the last ends all calls."""
        played, history = self._played, self.history
        if not played.answers:
            await self._make()
        played.answers.append(await self._do(step))
        if len(played.answers) == len(history.steps):
            for call in (await self._operator.pool(self._account))["calls"]:
                await self._ask("end", call["call_id"])
            played.pool.update(await self._operator.pool(self._account))

    async def close(self) -> Played:
        """Read the account's books once everything is in them."""
        if self._device is not None:
            await self._device.close()
        account, operator, played = self._account, self._operator, self._played
        await wait_until(self._all_is_recorded)
        played.statements.extend(await operator.statements(account))
        played.records.extend(await operator.calls(account))
        for statement in played.statements:
            start = statement["cycle"]["start"]
            text = await operator.http.get(f"/v1/accounts/{account}/statements/{start}.csv")
            played.csv_lines[start] = list(csv.DictReader(io.StringIO(text.raise_for_status().text)))
        return played

    async def _all_is_recorded(self) -> bool:
        page = await self._operator.http.get(f"/v1/accounts/{self._account}/calls", params={"limit": 1})
        return bool(page.json()["as_of_ms"] > self.history.steps[-1].at_ms)

    async def _make(self) -> None:
        history = self.history
        await self._make_plan(history.plan)
        await self._operator.account(
            self._account,
            plan=history.plan.plan,
            billing_date=history.billing_date.isoformat(),
            time_zone=history.time_zone,
        )
        if self.way == "websocket":
            token = await self._operator.token(self._account)
            self._device = await connect_device(self._gateway, token)

    async def _make_plan(self, plan: Plan) -> None:
        limit = plan.max_concurrent_calls
        await self._operator.plan(plan.plan, minutes=plan.minutes, max_concurrent_calls=limit)

    async def _do(self, step: Step) -> Json:
        operator, account = self._operator, self._account
        match step.do:
            case "pool":
                return await operator.pool(account)
            case "suspend":
                await operator.suspend(account, suspended=step.suspended)
                return {}
            case "plan":
                assert step.plan is not None
                await self._make_plan(step.plan)
                changed = await operator.move_to(account, step.plan.plan)
                pool = await operator.pool(account)
                assert (changed["plan"], changed["pending"]) == (pool["plan"], pool["pending_plan"])
                return pool | {"applied": "now" if changed["pending"] is None else "next_cycle"}
            case _:
                return await self._ask(step.do, step.call_id)

    async def _ask(self, what: str, call_id: str) -> Json:
        """Ask about a call; the answer's fields are named as the histories name them."""
        asked: Json = {"call_id": call_id, "to": "+14155550100"} if what == "start" else {}
        if self._device is not None:
            answer = await self._device.request(f"call.{what}", **{"call_id": call_id, **asked})
        elif what == "start":
            caller = {"account": self._account, "staff": "ana", "device": "desk"}
            answer = (await self._operator.http.post("/v1/calls", json=caller | asked)).json()
        else:
            address = f"/v1/calls/{call_id}/{what}?account={self._account}"
            answer = (await self._operator.http.post(address)).json()
        if "code" in answer:
            return {"error": answer["code"]}
        kind, _, decision = answer["type"].partition(".")
        assert kind == "call"
        return answer | {"decision": decision}
