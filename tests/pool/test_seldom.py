"""What goes on for long is logged once a minute."""

from __future__ import annotations

import pytest

from gateway.pool import seldom
from gateway.pool.seldom import AGAIN_SECONDS, Seldom


class Time:
    """`monotonic`, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(seldom, "monotonic", lambda: self.now)


def test_it_is_said_at_first_and_again_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    time, said = Time(monkeypatch), Seldom()
    assert [said.is_time("a"), said.is_time("b"), said.is_time("a")] == [True, True, False]
    time.now += AGAIN_SECONDS - 1
    assert not said.is_time("a")
    time.now += 1
    assert [said.is_time("a"), said.is_time("a")] == [True, False]


def test_what_ended_is_said_at_once_when_it_comes_again() -> None:
    said = Seldom()
    assert not said.ended("a")
    assert said.is_time("a")
    assert [said.ended("a"), said.ended("a")] == [True, False]
    assert said.is_time("a")


def test_of_too_many_things_those_said_longest_ago_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seldom, "AT_MOST", 3)
    said = Seldom()
    assert [said.is_time(thing) for thing in "abcd"] == [True] * 4
    assert [said.is_time(thing) for thing in "dcb"] == [False] * 3
    assert said.is_time("a")
