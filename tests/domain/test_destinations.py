from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.destinations import is_destination, is_emergency, mask

NUMBERS = frozenset({"112", "911", "999", "000", "110", "119"})
NO_DOMAINS: frozenset[str] = frozenset()
DOMAINS = frozenset({"pbx.example.com"})


@pytest.mark.parametrize(
    "to",
    [
        "+14155550100",
        "+12345",
        "+123456789012345",
        "11",
        "123456",
        "tel:+14155550100",
        "tel:+1-415-555-0100",
        "tel:+1(415)555.0100;ext=12",
        "TEL:+14155550100",
        "tel:911",
        "tel:7042;phone-context=example.com",
        "sip:ana@example.com",
        "sips:ana@example.com:5061",
        "SIP:ana@example.com",
        "sip:+14155550100@example.com;user=phone",
        "sip:%61na@example.com",
        "sip:ana:secret@example.com",
        "sip:ana@192.0.2.1",
        "sip:ana@[2001:db8::1]:5060;transport=tls",
        "sip:example.com",
        "sip:ana@example.com?subject=hello",
    ],
)
def test_numbers_short_codes_and_uris_can_be_called(to: str) -> None:
    assert is_destination(to)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "1",
        "1234567",
        "+1234",
        "+1234567890123456",
        "14155550100",
        "+1 415 555 0100",
        "+1415555010a",
        "+١٢٣٤٥٦",
        "١١٢",
        " 112",
        "112\n",
        "ana@example.com",
        "mailto:ana@example.com",
        "tel:",
        "tel:+",
        "tel:+1234",
        "tel:1",
        "tel:1234567890123456",
        "tel:ana",
        "tel:911;",
        "sip:",
        "sip:@example.com",
        "sip:ana@",
        "sip:ana@exa mple.com",
        "sip:ana@example.com:0",
        "sip:ana@example.com:65536",
        "sip:ana@-example.com",
        "sip:ana@example.com\r\nX: y",
        "sip:a%zz@example.com",
        "sip:" + "a" * 300 + "@example.com",
    ],
)
def test_anything_else_cannot(to: str) -> None:
    assert not is_destination(to)


@pytest.mark.parametrize(
    "to",
    ["112", "911", "9-1-1", "(911)", " 9 1 1 ", "1.1.2", "tel:112", "TEL:9-1-1", "tel:112;phone-context=+49"],
)
def test_emergency_numbers_are_found_however_written(to: str) -> None:
    """R30."""
    assert is_emergency(to, NUMBERS, NO_DOMAINS)


@pytest.mark.parametrize(
    "to",
    ["1120", "9911", "+112", "+1911", "91", "", "tel:", "tel:9110", "sip:911@pbx.example.com", "911@", "٩١١"],
)
def test_nothing_is_matched_by_prefix_or_likeness(to: str) -> None:
    """R30."""
    assert not is_emergency(to, NUMBERS, NO_DOMAINS)


@pytest.mark.parametrize(
    "to",
    [
        "sip:911@pbx.example.com",
        "sips:911@PBX.Example.com:5061;transport=tls",
        "SIP:112@pbx.example.com",
        "sip:112;phone-context=+49@pbx.example.com;user=phone",
        "sip:%39%31%31@pbx.example.com",
    ],
)
def test_the_user_of_a_sip_uri_is_compared_where_the_host_is_ours(to: str) -> None:
    """R30."""
    assert is_emergency(to, NUMBERS, DOMAINS)
    assert is_emergency(to, NUMBERS, frozenset({"PBX.example.COM"}))


@pytest.mark.parametrize(
    "to",
    [
        "sip:911@example.org",
        "sip:911@evil.pbx.example.com",
        "sip:9110@pbx.example.com",
        "sip:pbx.example.com",
    ],
)
def test_elsewhere_it_is_an_ordinary_call(to: str) -> None:
    """R30."""
    assert not is_emergency(to, NUMBERS, DOMAINS)


@pytest.mark.parametrize(
    ("to", "shown"),
    [
        ("+14155550100", "+1•••••••0100"),
        ("+493012345678", "+4•••••••5678"),
        ("+12345", "+•••••••45"),
        ("123456", "•••••••456"),
        ("911", "•••••••1"),
        ("tel:+1-415-555-0100;ext=1234", "tel:+1•••••••0100"),
        ("sip:+14155550100@example.com;user=phone", "sip:+1•••••••0100@example.com"),
        ("sips:ana@example.com:5061", "sips:•••••••@example.com:5061"),
        ("sip:ana:secret@example.com", "sip:•••••••@example.com"),
        ("sip:example.com", "sip:example.com"),
        ("call me", "•••••••"),
        ("", "•••••••"),
    ],
)
def test_a_masked_number_shows_its_last_digits_at_most(to: str, shown: str) -> None:
    assert mask(to) == shown


@given(st.from_regex(r"\+[0-9]{5,15}|[0-9]{2,6}", fullmatch=True))
def test_something_of_every_number_stays_hidden(to: str) -> None:
    digits = [character for character in mask(to) if character.isdigit()]
    assert len(digits) < len(to.removeprefix("+"))


@given(st.text(max_size=300))
def test_no_text_is_too_odd_to_be_looked_at(to: str) -> None:
    is_destination(to)
    is_emergency(to, NUMBERS, DOMAINS)
    mask(to)
