from __future__ import annotations

import re

import pytest

from gateway.domain.identifiers import ID_PATTERN, valid_id


@pytest.mark.parametrize("value", ["a", "c-1", "ana.smith", "A_b~c:d@e+f-g", "0" * 128])
def test_ids_are_up_to_128_plain_characters(value: str) -> None:
    assert valid_id(value)
    assert re.search(ID_PATTERN, value)


@pytest.mark.parametrize(
    "value", ["", "0" * 129, "a b", "a/b", "a\n", "\na", "é", "٣", "a{b}", "a%20", "a\0"]
)
def test_anything_else_is_no_id(value: str) -> None:
    assert not valid_id(value)
