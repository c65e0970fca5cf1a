"""docs/settings.md and the code say the same."""

import re
from pathlib import Path

import pytest

from gateway.setting_kinds import Choice, Integer
from gateway.settings import SETTINGS, Settings, environment_name, load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = {
    row[1]: (row[2].strip(), row[3].strip())
    for row in re.finditer(r"^\| `(CALLGATE_[A-Z_]+)` \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
}
# Their defaults are described in words there: they depend on the machine, or are made.
IN_WORDS = {"data_dir", "admin_key", "token_secrets"}


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert ROWS.keys() == {environment_name(setting) for setting in SETTINGS.values()}


@pytest.mark.parametrize("field", sorted(SETTINGS.keys() - IN_WORDS))
def test_the_documented_default_is_the_default(field: str) -> None:
    documented, _ = ROWS[environment_name(SETTINGS[field])]
    default = getattr(Settings(), field)
    if default is None or default in (frozenset(), ()):
        assert documented.startswith("none")
    elif default is False:
        assert documented == "no"
    else:
        assert SETTINGS[field].kind.read(documented.strip("`")) == default


@pytest.mark.parametrize(
    "field", [name for name, setting in SETTINGS.items() if isinstance(setting.kind, Integer)]
)
def test_the_documented_range_is_the_range(field: str) -> None:
    kind = SETTINGS[field].kind
    assert isinstance(kind, Integer)
    assert f"{kind.least}–{kind.most}" in ROWS[environment_name(SETTINGS[field])][1]


@pytest.mark.parametrize(
    "field", [name for name, setting in SETTINGS.items() if isinstance(setting.kind, Choice)]
)
def test_every_choice_is_documented(field: str) -> None:
    kind = SETTINGS[field].kind
    assert isinstance(kind, Choice)
    for word in kind.words:
        assert f"`{word}`" in ROWS[environment_name(SETTINGS[field])][1]


def test_the_example_file_is_accepted(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "callgate.toml"
    file.write_text(example, encoding="utf-8")
    assert load_settings(config_path=file).workers == 4
