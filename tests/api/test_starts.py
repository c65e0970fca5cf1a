"""What a start asks of the pool: destinations (R8) and emergencies (R30)."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.starts import Numbering, asks_for_emergency, salvaged_emergency, start_ask
from gateway.domain.calls import Caller
from gateway.domain.identifiers import valid_id

NUMBERING = Numbering(frozenset({"112", "911"}), frozenset({"sip.example.com"}))
ANA = Caller("acme", "ana", "desk")


def test_a_start_asks_for_its_device_s_call() -> None:
    ask = start_ask(ANA, "c-1", "+14155550100", "main", NUMBERING)

    assert (ask.account, ask.staff, ask.device) == ("acme", "ana", "desk")
    assert (ask.call_id, ask.to, ask.channel) == ("c-1", "+14155550100", "main")
    assert ask.destination_valid
    assert not ask.emergency
    assert ask.fresh_call_id == ""


def test_a_destination_that_is_none_is_the_pool_s_to_refuse() -> None:
    assert not start_ask(ANA, "c-1", "nowhere", None, NUMBERING).destination_valid


@pytest.mark.parametrize("to", ["112", "tel:911", "1-1-2", "sip:112@sip.example.com"])
def test_an_emergency_call_has_a_fresh_id_in_case_its_own_is_taken(to: str) -> None:
    first, second = (start_ask(ANA, "c-1", to, None, NUMBERING) for _ in range(2))

    assert first.emergency
    assert first.destination_valid
    assert first.call_id == "c-1"
    assert valid_id(first.fresh_call_id)
    assert first.fresh_call_id != second.fresh_call_id


@pytest.mark.parametrize("to", ["1120", "+112", "sip:112@elsewhere.example", 112, None, ["112"], "1" * 300])
def test_other_starts_are_no_emergencies(to: Any) -> None:
    assert not asks_for_emergency({"to": to}, NUMBERING)
    assert not asks_for_emergency({}, NUMBERING)


@pytest.mark.parametrize("rest", [{}, {"call_id": 5, "channel": 7}, {"call_id": "c 1", "channel": ""}])
def test_an_emergency_call_is_asked_for_whatever_else_is_wrong(rest: dict[str, Any]) -> None:
    raw = {"to": "112"} | rest
    assert asks_for_emergency(raw, NUMBERING)

    ask = salvaged_emergency(ANA, raw, NUMBERING)

    assert ask.emergency
    assert ask.to == "112"
    assert valid_id(ask.call_id)
    assert ask.channel is None


def test_what_is_right_of_a_malformed_emergency_call_is_kept() -> None:
    ask = salvaged_emergency(ANA, {"to": "112", "call_id": "c-1", "channel": "main", "id": []}, NUMBERING)

    assert (ask.call_id, ask.channel) == ("c-1", "main")
