"""Which tokens a revocation refuses."""

from gateway.sessions.revocations import Revocation, Revocations


def test_nothing_is_revoked_at_first() -> None:
    assert Revocations().revoked_until_ms("acme", "ana", "desk") == -1


def test_an_account_s_revocation_covers_its_staff_and_their_devices() -> None:
    revocations = Revocations()
    revocations.add(Revocation("acme", None, None, 1_000))

    assert revocations.revoked_until_ms("acme", None, None) == 1_000
    assert revocations.revoked_until_ms("acme", "ana", None) == 1_000
    assert revocations.revoked_until_ms("acme", "ana", "desk") == 1_000
    assert revocations.revoked_until_ms("other", "ana", "desk") == -1


def test_a_device_s_revocation_covers_that_device_alone() -> None:
    revocations = Revocations()
    revocations.add(Revocation("acme", "ana", "desk", 1_000))

    assert revocations.revoked_until_ms("acme", "ana", "desk") == 1_000
    assert revocations.revoked_until_ms("acme", "ana", "mobile") == -1
    assert revocations.revoked_until_ms("acme", "bob", "desk") == -1
    assert revocations.revoked_until_ms("acme", "ana", None) == -1


def test_the_latest_of_all_that_cover_a_device_counts() -> None:
    revocations = Revocations()
    revocations.add(Revocation("acme", None, None, 1_000))
    revocations.add(Revocation("acme", "ana", None, 3_000))
    revocations.add(Revocation("acme", "ana", "desk", 2_000))

    assert revocations.revoked_until_ms("acme", "ana", "desk") == 3_000


def test_what_was_known_or_is_older_is_heard_of_once() -> None:
    revocations = Revocations()
    heard: list[Revocation] = []
    revocations.on_revoked(heard.append)
    newest = Revocation("acme", "ana", None, 2_000)

    for revocation in (newest, newest, Revocation("acme", "ana", None, 1_000)):
        revocations.add(revocation)

    assert heard == [newest]
    assert revocations.revoked_until_ms("acme", "ana", "desk") == 2_000


def test_a_revocation_refuses_what_was_issued_until_its_very_millisecond() -> None:
    revocation = Revocation("acme", "ana", None, 2_000)

    assert revocation.covers("acme", "ana", "desk", 2_000)
    assert not revocation.covers("acme", "ana", "desk", 2_001)
    assert not revocation.covers("acme", "bob", "desk", 2_000)
    assert not revocation.covers("acme", None, None, 2_000)
