"""Where a call goes: what can be called, what is an emergency (R30), and how a number is shown."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from typing import Final
from urllib.parse import unquote

MAX_DESTINATION_LENGTH: Final = 256
EMERGENCY_NUMBERS: Final = frozenset({"112", "911", "999", "000", "110", "119"})
"""Those that gateways and phones go by unless they are told others: they have to agree (R30)."""

_SEPARATORS: Final = str.maketrans("", "", "-.() ")

_E164 = re.compile(r"\+[0-9]{5,15}")
_SHORT_CODE = re.compile(r"[0-9]{2,6}")

_PARAMETERS = r"(?:;[A-Za-z0-9!$&'()*+\-./:=_~%\[\]]+)*"
# RFC 3966: separators stand for nothing, and the digits of a global number begin with "+".
_TEL = re.compile(rf"tel:(?P<number>\+?[0-9*#.()\-]+){_PARAMETERS}", re.IGNORECASE)

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])"
# RFC 3261 section 25.1: an optional user (and password), a host, port, parameters and headers.
_USERINFO = (
    r"(?P<user>(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/]|%[0-9A-Fa-f]{2})+)"
    r"(?::(?:[A-Za-z0-9\-_.!~*'()&=+$,]|%[0-9A-Fa-f]{2})*)?@"
)
_HEADERS = r"\?[A-Za-z0-9\[\]/?:+$\-_.!~*'()%&=]+"
_SIP = re.compile(
    rf"(?P<scheme>sips?):(?:{_USERINFO})?"
    rf"(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?{_PARAMETERS}(?:{_HEADERS})?",
    re.IGNORECASE,
)

_MASK: Final = "•" * 7
"""Always as many, so that the length of what is hidden does not show."""
_DIGITS_SHOWN: Final = 4


def is_destination(to: str) -> bool:
    """Tell whether `to` can be called.

    That is an E.164 number (``+`` and 5 to 15 digits), a short code (2 to 6 digits), a ``tel:`` URI of a
    number of 2 to 15 digits (RFC 3966), or a ``sip:`` or ``sips:`` URI (RFC 3261); at most 256 characters.
    """
    if len(to) > MAX_DESTINATION_LENGTH:
        return False
    if _E164.fullmatch(to) or _SHORT_CODE.fullmatch(to):
        return True
    if tel := _TEL.fullmatch(to):
        number = tel["number"].translate(_SEPARATORS)
        return _E164.fullmatch(number) is not None or re.fullmatch(r"[0-9*#]{2,15}", number) is not None
    sip = _SIP.fullmatch(to)
    return sip is not None and (sip["port"] is None or 0 < int(sip["port"]) < 65536)


def is_emergency(to: str, numbers: AbstractSet[str], sip_domains: AbstractSet[str]) -> bool:
    """Tell whether `to` is an emergency number (R30); nothing is matched by prefix.

    Compared with `numbers` is `to` without ``tel:`` and separators, or the user part of a SIP URI whose host
    is one of `sip_domains`. Neither the parameters of a URI (as in ``tel:112;phone-context=+49``) nor its
    escapes belong to the number, and scheme and host are compared as URIs are: whatever their case.
    """
    number = to
    if to[:4].lower() == "tel:":
        number = to[4:].partition(";")[0]
    elif sip := _SIP.fullmatch(to):
        if sip["host"].lower() not in {domain.lower() for domain in sip_domains}:
            return False
        number = unquote(sip["user"] or "").partition(";")[0]
    return number.translate(_SEPARATORS) in numbers


def mask(to: str) -> str:
    """Return `to` as those may see it who may not see whole numbers: ``+1•••••••0100`` for ``+14155550100``.

    Of a number the last four digits stay, and the first of a full E.164 one; of a short one fewer, so that
    something stays hidden, and of a SIP URI its host. Parameters go, for they can hold numbers, too.
    """
    if tel := _TEL.fullmatch(to):
        return "tel:" + _mask_number(tel["number"].translate(_SEPARATORS))
    if sip := _SIP.fullmatch(to):
        port = f":{sip['port']}" if sip["port"] else ""
        user = f"{_mask_number(unquote(sip['user']).partition(';')[0])}@" if sip["user"] else ""
        return f"{sip['scheme'].lower()}:{user}{sip['host']}{port}"
    return _mask_number(to)


def _mask_number(number: str) -> str:
    match = re.fullmatch(r"(?P<plus>\+?)(?P<digits>[0-9*#]+)", number.translate(_SEPARATORS))
    if match is None:
        return _MASK
    plus, digits = match.groups()
    first = digits[0] if plus and len(digits) >= 2 * _DIGITS_SHOWN else ""
    return f"{plus}{first}{_MASK}{digits[-min(_DIGITS_SHOWN, len(digits) // 2) :]}"
