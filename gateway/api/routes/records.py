"""Call records of an account, and its statements (R26, R27)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType
from starlette.responses import Response, StreamingResponse

from gateway.api.csv_export import csv_lines
from gateway.api.operations import NO_QUERY, AnyOperation, Exchange, Operation, Plain, Reply
from gateway.api.wire import rendering, resources
from gateway.api.wire.requests import CallsPage, Nothing, Page, UsageOf
from gateway.domain.cycles import parse_rfc3339
from gateway.domain.errors import DatabaseUnavailable, EngineUnavailable, NotFound

if TYPE_CHECKING:
    from gateway.records.statements import Statement


def _statement(statement: Statement, as_of_ms: int | UnsetType = UNSET) -> resources.Statement:
    return resources.Statement(
        account=statement.account,
        plan=statement.plan,
        cycle=rendering.cycle_span(statement.cycle),
        closed=statement.closed,
        closed_at_ms=statement.closed_at_ms,
        allocated_seconds=statement.allocated_seconds,
        used_seconds=statement.used_seconds,
        overrun_seconds=statement.overrun_seconds,
        calls_counted=statement.calls_counted,
        calls_free=statement.calls_free,
        as_of_ms=UNSET if statement.closed else as_of_ms,
    )


async def list_calls(exchange: Exchange[CallsPage, Nothing]) -> Reply:
    """Read a page of call records, newest admitted first."""
    query = exchange.query
    found, after, as_of_ms = await exchange.api.service.list_calls(
        exchange.path["account"],
        cycle_start_ms=None if isinstance(query.cycle, UnsetType) else parse_rfc3339(query.cycle),
        staff=None if isinstance(query.staff, UnsetType) else query.staff,
        after=query.after or None,
        limit=query.limit,
    )
    calls = [rendering.call(each.call, each.at_ms, each.policy, exchange.identity) for each in found]
    return Reply(resources.Calls(calls, after, as_of_ms))


async def get_call(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read the newest call of an id, in progress or ended."""
    path = exchange.path
    found = await exchange.api.service.find_call(path["account"], path["call_id"])
    return Reply(rendering.call(found.call, found.at_ms, found.policy, exchange.identity))


async def list_statements(exchange: Exchange[Page, Nothing]) -> Reply:
    """Read a page of statements, newest first."""
    query = exchange.query
    statements, after, as_of_ms = await exchange.api.service.list_statements(
        exchange.path["account"], query.after or None, query.limit
    )
    content = [_statement(statement) for statement in statements]
    return Reply(resources.Statements(content, after, as_of_ms))


async def get_statement(exchange: Exchange[Nothing, Nothing]) -> Reply:
    """Read the statement of one cycle."""
    path = exchange.path
    statement, as_of_ms = await exchange.api.service.get_statement(
        path["account"], parse_rfc3339(path["cycle_start"])
    )
    return Reply(_statement(statement, as_of_ms))


async def get_statement_csv(exchange: Exchange[Nothing, Nothing]) -> Response:
    """Read the calls of one cycle as CSV, a line a call."""
    path = exchange.path
    cycle_start_ms = parse_rfc3339(path["cycle_start"])
    # What is not there is a 404, which could not be said any more once the first line is sent.
    await exchange.api.service.get_statement(path["account"], cycle_start_ms)
    records = exchange.api.service.statement_calls(path["account"], cycle_start_ms)
    name = f"{path['account']}-{path['cycle_start'][:10]}.csv"
    return StreamingResponse(
        csv_lines(records, exchange.identity),
        media_type="text/csv; charset=utf-8; header=present",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def get_usage(exchange: Exchange[UsageOf, Nothing]) -> Reply:
    """Read how a cycle's minutes were used up over time."""
    query = exchange.query
    found = await exchange.api.service.usage(
        exchange.path["account"],
        None if isinstance(query.cycle, UnsetType) else parse_rfc3339(query.cycle),
        query.step,
    )
    return Reply(
        resources.Usage(
            account=found.account,
            name=found.name,
            time_zone=found.time_zone,
            cycle=rendering.cycle_span(found.cycle),
            step=query.step,
            points=[resources.UsagePoint(*each) for each in found.points],
            as_of_ms=found.as_of_ms,
        )
    )


OPERATIONS: Final[tuple[AnyOperation, ...]] = (
    Operation(
        method="GET",
        path="/v1/accounts/{account}/calls",
        handler=list_calls,
        access="watch",
        tag="Records",
        summary="List call records",
        description=(
            "Calls that ended, newest admitted first; one that came back is in progress until it ends again. "
            "The list may lag by the recorder (`as_of_ms`)."
        ),
        query=CallsPage,
        answers={200: resources.Calls},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/calls/{call_id}",
        handler=get_call,
        access="watch",
        tag="Records",
        summary="Read one call",
        description="Found from its admission on; of several calls with this id the newest.",
        query=NO_QUERY,
        answers={200: resources.Call},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/statements",
        handler=list_statements,
        access="watch",
        tag="Records",
        summary="List statements",
        query=Page,
        answers={200: resources.Statements},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/statements/{cycle_start}.csv",
        handler=get_statement_csv,
        access="watch",
        tag="Records",
        summary="Read a cycle's calls as CSV",
        query=NO_QUERY,
        answers={200: Plain("text/csv", "A header of the call record's field names, then a line a call.")},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/statements/{cycle_start}",
        handler=get_statement,
        access="watch",
        tag="Records",
        summary="Read a statement",
        query=NO_QUERY,
        answers={200: resources.Statement},
        errors=(NotFound, DatabaseUnavailable),
    ),
    Operation(
        method="GET",
        path="/v1/accounts/{account}/usage",
        handler=get_usage,
        access="watch",
        tag="Records",
        summary="Read how a cycle's minutes were used up",
        description=(
            "A running total at the start of the cycle (by default the running one), at each hour or day of "
            "the account's time zone, and at last as of when it is; a call counts at its end."
        ),
        query=UsageOf,
        answers={200: resources.Usage},
        errors=(NotFound, EngineUnavailable, DatabaseUnavailable),
    ),
)
