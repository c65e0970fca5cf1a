"""The admin key and the token secret: made on loopback, demanded elsewhere, readable by their owner only."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.domain.errors import SettingsError, StartRefused
from gateway.secrets import ensure_secrets, is_loopback, kept_admin_key
from gateway.settings import Settings, load_settings

SECRET = "0123456789abcdef0123456789abcdef"


def settings_in(data_dir: Path, **flags: str) -> Settings:
    return load_settings({"data_dir": str(data_dir), **flags}, {})


def test_on_loopback_both_are_made_and_kept_for_their_owner_only(tmp_path: Path) -> None:
    kept = ensure_secrets(settings_in(tmp_path / "new" / "data"))
    assert kept.settings.admin_key
    assert len(kept.settings.admin_key) >= 40
    assert len(kept.settings.token_secrets[0].encode()) >= 32
    for path in (kept.admin_key_path, kept.token_secret_path):
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert kept_admin_key(tmp_path / "new" / "data") == kept.settings.admin_key


def test_the_next_start_finds_the_same_ones(tmp_path: Path) -> None:
    first = ensure_secrets(settings_in(tmp_path)).settings
    second = ensure_secrets(settings_in(tmp_path)).settings
    assert (first.admin_key, first.token_secrets) == (second.admin_key, second.token_secrets)


def test_gateways_that_start_at_once_agree_on_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: ensure_secrets(settings_in(tmp_path)).settings, range(32)))
    assert len({(each.admin_key, each.token_secrets) for each in found}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["admin.key", "token.secret"]


def test_given_ones_are_taken_and_nothing_is_written(tmp_path: Path) -> None:
    kept = ensure_secrets(settings_in(tmp_path, admin_key="given", token_secret=SECRET, host="0.0.0.0"))
    assert kept.settings.admin_key == "given"
    assert kept.settings.token_secrets == (SECRET,)
    assert (kept.admin_key_path, kept.token_secret_path) == (None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_another_host_is_refused_without_them_even_if_some_were_kept(host: str, tmp_path: Path) -> None:
    ensure_secrets(settings_in(tmp_path))
    with pytest.raises(SettingsError, match="CALLGATE_ADMIN_KEY and CALLGATE_TOKEN_SECRET must be set"):
        ensure_secrets(settings_in(tmp_path, host=host))
    with pytest.raises(SettingsError, match=r"^CALLGATE_TOKEN_SECRET must be set"):
        ensure_secrets(settings_in(tmp_path, host=host, admin_key="given"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_these_hosts_are_loopback(host: str) -> None:
    assert is_loopback(host)


def test_a_kept_secret_that_others_could_read_is_refused(tmp_path: Path) -> None:
    kept = ensure_secrets(settings_in(tmp_path))
    assert kept.admin_key_path is not None
    kept.admin_key_path.chmod(0o640)
    with pytest.raises(StartRefused, match=r"admin\.key can be read by other users \(mode 0640\)"):
        ensure_secrets(settings_in(tmp_path))


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    kept = ensure_secrets(settings_in(tmp_path))
    assert kept.token_secret_path is not None
    kept.token_secret_path.write_text("\n")
    with pytest.raises(StartRefused, match="is empty"):
        ensure_secrets(settings_in(tmp_path))


def test_a_data_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match="cannot be written"):
        ensure_secrets(settings_in(tmp_path / "file" / "data"))


def test_nothing_is_kept_before_it_is_made(tmp_path: Path) -> None:
    assert kept_admin_key(tmp_path) is None
