"""The ids that clients choose: accounts, staff, devices, channels, plans and calls."""

from __future__ import annotations

import re
from typing import Final

MAX_ID_LENGTH: Final = 128
ID_PATTERN: Final = rf"^[A-Za-z0-9._~:@+\-]{{1,{MAX_ID_LENGTH}}}$"
"""A JSON Schema pattern of an id; `valid_id` decides by the same one."""

_ID = re.compile(ID_PATTERN.removeprefix("^").removesuffix("$"), re.ASCII)


def valid_id(value: str) -> bool:
    """Tell whether `value` is 1 to 128 characters of ``A-Z a-z 0-9 . _ ~ : @ + -``."""
    return _ID.fullmatch(value) is not None
