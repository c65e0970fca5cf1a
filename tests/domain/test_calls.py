from __future__ import annotations

import pytest

from gateway.domain.calls import TRANSITIONS, CallEvent, CallState, next_state


def test_a_call_is_admitted_answered_and_ended() -> None:
    state = CallState.UNKNOWN
    for event in (CallEvent.ADMITTED, CallEvent.ANSWERED, CallEvent.ENDED):
        state = next_state(state, event)
    assert state is CallState.ENDED


def test_a_call_settled_in_its_absence_may_come_back_or_end() -> None:
    """R15, R17."""
    absent = next_state(CallState.IN_PROGRESS, CallEvent.CONNECTION_LOST)
    assert next_state(absent, CallEvent.RESUMED) is CallState.IN_PROGRESS
    assert next_state(absent, CallEvent.ENDED) is CallState.ENDED


def test_a_call_that_was_away_too_long_does_not_come_back() -> None:
    """R15."""
    ended = next_state(CallState.SETTLED_IN_ABSENCE, CallEvent.RETURN_EXPIRED)
    with pytest.raises(ValueError, match="a call that is ended cannot be resumed"):
        next_state(ended, CallEvent.RESUMED)


def test_a_call_that_the_engine_lost_comes_back_by_its_receipt() -> None:
    """R28."""
    assert next_state(CallState.UNKNOWN, CallEvent.RESUMED) is CallState.IN_PROGRESS


def test_a_call_that_hung_up_does_not_come_back() -> None:
    """R17."""
    with pytest.raises(ValueError, match="a call that is ended cannot be resumed"):
        next_state(CallState.ENDED, CallEvent.RESUMED)


def test_nothing_ends_a_call_but_its_client_or_its_absence() -> None:
    """R11."""
    endings = {
        event
        for (state, event), to in TRANSITIONS.items()
        if state is CallState.IN_PROGRESS and to is not state
    }
    assert endings == {CallEvent.ENDED, CallEvent.CONNECTION_LOST, CallEvent.LEASE_EXPIRED}


def test_every_state_and_every_event_can_happen() -> None:
    assert {state for state, _ in TRANSITIONS} == set(CallState)
    assert {event for _, event in TRANSITIONS} == set(CallEvent)
    assert set(TRANSITIONS.values()) == set(CallState)
