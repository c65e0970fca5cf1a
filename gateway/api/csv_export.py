"""Call records as CSV (RFC 4180): the names of the fields that every record has, then a line a call."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Any, Final

from gateway.api.auth import Identity
from gateway.api.wire import rendering
from gateway.api.wire.resources import Call
from gateway.domain.calls import CallRecord

_LINES_AT_ONCE: Final = 200
_FIELDS: Final = [each for each in Call.__struct_fields__ if each != "admitted_offline"]


async def csv_lines(records: AsyncIterator[CallRecord], reader: Identity) -> AsyncIterator[str]:
    """Yield the text in pieces. What is not known is empty; true and false are as in JSON."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(_FIELDS)
    lines = 1
    async for record in records:
        call = rendering.call_record(record, reader)
        writer.writerow([_cell(getattr(call, field)) for field in _FIELDS])
        lines += 1
        if lines % _LINES_AT_ONCE == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value  # the writer makes None an empty cell
