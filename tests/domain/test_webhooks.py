"""Webhooks are signed as the specification has it, and tried again ever more rarely, for days."""

import base64
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from gateway.domain.webhooks import (
    GIVE_UP_SECONDS,
    RETRY_SECONDS,
    retry_seconds,
    secret_key,
    signatures,
)

# The example of the specification's reference implementations.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_signature_is_that_of_the_reference_implementations() -> None:
    assert signatures([secret_key(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, BODY) == SIGNED
    signed = Webhook(SECRET).sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), BODY.decode()
    )
    assert signed == SIGNED


def test_while_secrets_are_changed_receivers_of_either_can_verify() -> None:
    new = "whsec_" + base64.b64encode(b"n" * 64).decode()
    timestamp = int(time.time())
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signatures([secret_key(new), secret_key(SECRET)], "evt_1", timestamp, BODY),
    }
    for secret in (new, SECRET):
        assert Webhook(secret).verify(BODY, headers) == {"test": 2432232314}


@pytest.mark.parametrize("length", [24, 32, 64])
@pytest.mark.parametrize("prefix", ["whsec_", ""])
def test_a_secret_is_base64_with_or_without_its_prefix_and_padding(length: int, prefix: str) -> None:
    encoded = base64.b64encode(bytes(range(length))).decode()
    for text in (encoded, encoded.rstrip("=")):
        assert secret_key(prefix + text) == bytes(range(length))


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_not base64 at all!", *(base64.b64encode(bytes(n)).decode() for n in (23, 65))],
)
def test_what_is_no_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):
        secret_key(secret)


def test_waits_grow_and_have_jitter_and_lead_past_three_days() -> None:
    assert list(RETRY_SECONDS) == sorted(RETRY_SECONDS)
    for failures in range(1, 20):
        wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
        assert wait == retry_seconds(failures, 0) < retry_seconds(failures, 1) == pytest.approx(wait * 1.2)
    assert sum(RETRY_SECONDS[:-1]) < GIVE_UP_SECONDS
    assert GIVE_UP_SECONDS > 3 * 86_400
