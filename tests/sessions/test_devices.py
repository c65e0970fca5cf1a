"""Which devices are connected to this process, and how they are sent away."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from gateway.domain.calls import Caller
from gateway.sessions.close_codes import CloseCode
from gateway.sessions.devices import DeviceConnections, MinutesNotice
from gateway.sessions.revocations import Revocation

ANA = Caller("acme", "ana", "desk")
BOB = Caller("acme", "bob", "desk")
EVE = Caller("other", "eve", "desk")


@dataclass(eq=False)
class Device:
    """A connection that keeps what was done to it, and goes when the test says."""

    caller: Caller
    token_issued_at_ms: int = 0
    closed: list[CloseCode] = field(default_factory=list)
    drained: bool = False
    superseded_by: list[int] = field(default_factory=list)
    number: int = 1
    calls: set[str] = field(default_factory=set)
    heard_ms_ago: int = 0
    notices: list[MinutesNotice] = field(default_factory=list)

    def heard_ago_ms(self) -> int:
        return self.heard_ms_ago

    def give_up(self, call_id: str) -> None:
        self.calls.discard(call_id)

    def notify(self, kind: MinutesNotice) -> None:
        self.notices.append(kind)

    def close(self, code: CloseCode, reason: str) -> None:
        assert reason
        self.closed.append(code)

    def supersede(self, number: int) -> None:
        self.superseded_by.append(number)

    def drain(self) -> None:
        self.drained = True


def test_a_device_that_connects_again_replaces_its_older_connection() -> None:
    devices = DeviceConnections()
    older, newer = Device(ANA), Device(ANA)

    devices.add(older)
    devices.add(newer)

    assert older.closed == [CloseCode.REPLACED]
    assert newer.closed == []
    assert list(devices) == [newer]
    assert len(devices) == 1


def test_the_end_of_a_replaced_connection_leaves_the_newer_one() -> None:
    devices = DeviceConnections()
    older, newer = Device(ANA), Device(ANA)
    devices.add(older)
    devices.add(newer)

    devices.remove(older)
    assert list(devices) == [newer]

    devices.remove(newer)
    assert list(devices) == []
    assert len(devices) == 0


def test_devices_of_one_name_of_different_people_are_different_devices() -> None:
    devices = DeviceConnections()
    for caller in (ANA, BOB, EVE):
        devices.add(Device(caller))

    assert len(devices) == 3
    assert not any(device.closed for device in devices if isinstance(device, Device))


def test_a_connection_hears_of_the_same_device_s_connection_elsewhere() -> None:
    devices = DeviceConnections()
    ana, bob = Device(ANA), Device(BOB)
    devices.add(ana)
    devices.add(bob)

    devices.close_replaced(ANA, 7)
    devices.close_replaced(EVE, 8)

    assert ana.superseded_by == [7]
    assert bob.superseded_by == []


def test_a_revocation_closes_the_connections_whose_tokens_it_refuses() -> None:
    devices = DeviceConnections()
    old, renewed = Device(ANA, token_issued_at_ms=1_000), Device(BOB, token_issued_at_ms=3_000)
    elsewhere = Device(EVE, token_issued_at_ms=1_000)
    for device in (old, renewed, elsewhere):
        devices.add(device)

    devices.close_revoked(Revocation("acme", None, None, 2_000))

    assert old.closed == [CloseCode.TOKEN_ENDED]
    assert renewed.closed == []
    assert elsewhere.closed == []


async def test_a_drain_ends_as_soon_as_the_last_device_is_gone() -> None:
    devices = DeviceConnections()
    connected = [Device(ANA), Device(BOB)]
    for device in connected:
        devices.add(device)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(devices.drain, 60.0)
        await anyio.lowlevel.checkpoint()
        assert devices.draining
        assert all(device.drained for device in connected)
        for device in connected:
            devices.remove(device)

    assert not any(device.closed for device in connected)


async def test_a_drain_closes_devices_that_do_not_go_by_themselves() -> None:
    devices = DeviceConnections()
    stubborn = Device(ANA)
    devices.add(stubborn)

    await devices.drain(0.0)

    assert stubborn.closed == [CloseCode.RESTARTING]


async def test_a_drain_with_nobody_connected_is_done_at_once() -> None:
    devices = DeviceConnections()

    await devices.drain(60.0)

    assert devices.draining


class Calling:
    """Two devices of acme, of which the first has a call, and one of another account."""

    def __init__(self) -> None:
        self.devices = DeviceConnections()
        self._all = [Device(ANA, calls={"c-1"}), Device(BOB), Device(EVE, calls={"c-2"})]
        for each in self._all:
            self.devices.add(each)

    @property
    def told(self) -> list[list[MinutesNotice]]:
        """What each has been told."""
        return [each.notices for each in self._all]

    def see(self, *, exhausted: bool) -> None:
        self.devices.minutes_seen("acme", exhausted=exhausted, before=self.devices.before_looking("acme"))


def test_who_calls_is_told_that_minutes_ran_out_and_all_that_they_are_back() -> None:
    """R11."""
    calling = Calling()
    for exhausted in (True, True, False, False, True):
        calling.devices.minutes_changed("acme", exhausted=exhausted)
    calling.devices.minutes_changed("nobody's", exhausted=True)
    ran_out, back = "minutes_exhausted", "minutes_restored"
    assert calling.told == [[ran_out, back, ran_out], [back], []]


def test_what_was_missed_is_told_when_it_is_seen_and_never_twice() -> None:
    calling = Calling()
    calling.see(exhausted=False)
    assert calling.told == [[], [], []]
    calling.see(exhausted=True)
    calling.devices.minutes_changed("acme", exhausted=True)
    calling.see(exhausted=True)
    assert calling.told == [["minutes_exhausted"], [], []]
    calling.see(exhausted=False)
    calling.devices.minutes_changed("acme", exhausted=False)
    assert calling.told == [["minutes_exhausted", "minutes_restored"], ["minutes_restored"], []]


def test_what_was_seen_before_something_was_heard_counts_no_more() -> None:
    calling = Calling()
    before = calling.devices.before_looking("acme")
    calling.devices.minutes_changed("acme", exhausted=True)
    calling.devices.minutes_seen("acme", exhausted=False, before=before)
    assert calling.told == [["minutes_exhausted"], [], []]
