"""The simulation finds what it is there to find: each of these mistakes, made in the text of the scripts."""

from __future__ import annotations

import pytest

from tests.simulation.engine import InconsistentError
from tests.simulation.playing import play
from tests.simulation.scripts import scripts_with
from tests.support.engines import EngineServer

HISTORIES = 400

MISTAKES = {
    "a call is reaped within its grace": {
        "if real_now_ms < c.reap_at_ms or": "if real_now_ms < c.reap_at_ms - grace_ms or",
    },
    "calls are reaped though nobody could renew them": {"not is_steady(a.m) or": ""},
    "a call whose connection was lost gets no grace": {
        "c.lost, c.reap_at_ms = 1, real_now_ms + grace_ms": "c.lost, c.reap_at_ms = 1, real_now_ms",
    },
    "a renewal does not extend the lease": {
        "  c.owner, c.lost = tonumber(connection), 0\n  c.reap_at_ms = real_now_ms + lease_ms + grace_ms": (
            "  c.owner, c.lost = tonumber(connection), 0"
        ),
    },
    "a call is settled as of when somebody noticed": {
        "if ago_ms then ended_at_ms =": "ago_ms = ago_ms or 0 if ago_ms then ended_at_ms =",
    },
    "a settlement is made anew by every repeated end": {
        "return ended_by ~= 1 and a.now_ms - ended_at_ms <= late_ms": "return true",
    },
    "the revision does not rise": {
        "ended_value(blob, ended_by, revision + 1,": "ended_value(blob, ended_by, max(revision, 1),",
    },
    "a late return leaves the settled sum as it was": {
        "p.settled_seconds = p.settled_seconds - billed_before": "",
    },
    "SQL is not told of a late return": {"  add_reopened(items, field, c)\n  return": "  return"},
    "a late return has no lease": {
        "leases_given = leases_given + 1\n  leased[leases_given] = field": (
            "leases_given = leases_given + 1\n  leased[leases_given] = 'acme/nobody'"
        ),
    },
    "a settlement told again is added again": {
        "if known >= revision and not is_first_end or": "if",
    },
    "an older connection is heard": {
        "return connection ~= '0' and tonumber(connection) < owner and not has_hung_up(blob)": "return false",
    },
    "the loss of a connection is not placed among the leases": {"if #lost > 0 then": "if false then"},
    "the count of calls in progress drifts": {
        "m.in_progress + leases_given - calls_left": "m.in_progress + leases_given - calls_ended",
    },
    "a call of an older cycle is billed to this one": {
        "if c.emergency == 0 and c.admitted_at_ms >= a.cycle_start_ms then rebill": (
            "if c.emergency == 0 then rebill"
        ),
    },
    "an ended call stays among those that count": {"p.calls = p.calls - 1": ""},
    "an end that overtook its start does not refuse it": {
        "return now_ms - overtaken_at(blob) <= 60000": "return false",
    },
    "a late renewal brings a lost call back": {"if is_late or not may_vouch": "if not may_vouch"},
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(valkey: EngineServer, mistake: str) -> None:
    with pytest.raises(InconsistentError):
        play(valkey, scripts_with(MISTAKES[mistake]), range(1, HISTORIES + 1))
