"""What can be set, from where, what wins, and what a wrong value is told."""

from pathlib import Path

import pytest
import rich.pretty

from gateway.domain.errors import SettingsError
from gateway.domain.policy import Policy
from gateway.settings import (
    SETTINGS,
    Settings,
    as_environment,
    environment_name,
    flag_name,
    load_settings,
    misspelt_variables,
)

SECRET = "0123456789abcdef0123456789abcdef"


def test_without_anything_given_the_defaults_are_the_contracts() -> None:
    settings = load_settings({}, {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.redis_url is None
    assert settings.database_url is None
    assert settings.policy == Policy(30, 1, 60, "admission")
    assert (settings.grace_seconds, settings.lease_seconds) == (30, 15)
    assert (settings.late_resume_hours, settings.call_id_memory_hours) == (12, 48)
    assert (settings.when_engine_down, settings.wait_replicas) == ("refuse", 0)
    assert settings.emergency_numbers == {"112", "911", "999", "000", "110", "119"}
    assert settings.sip_domains == settings.allowed_origins == frozenset()
    assert settings.admin_key is None
    assert settings.token_secrets == ()
    assert not settings.simulate
    assert settings.given == frozenset()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "callgate.toml"
    file.write_text("port = 1\nfree_seconds = 1\nhold_seconds = 1\n")
    settings = load_settings(
        {"port": "3", "hold_seconds": None}, {"CALLGATE_PORT": "2", "CALLGATE_FREE_SECONDS": "2"}, file
    )
    assert (settings.port, settings.free_seconds, settings.hold_seconds) == (3, 2, 1)
    assert settings.given == {"port", "free_seconds", "hold_seconds"}


def test_the_file_takes_toml_types_and_texts_alike(tmp_path: Path) -> None:
    file = tmp_path / "callgate.toml"
    file.write_text(
        'port = "9000"\nsimulate = true\nwait_replicas = "all"\nemergency_numbers = ["112", "1-1-9"]\n'
        f'token_secret = ["{SECRET}", "{SECRET}b"]\nallowed_origins = "https://A.example, http://b.example:80/"\n'
    )
    settings = load_settings(config_path=file)
    assert (settings.port, settings.simulate, settings.wait_replicas) == (9000, True, "all")
    assert settings.emergency_numbers == {"112", "119"}
    assert settings.token_secrets == (SECRET, f"{SECRET}b")
    assert settings.allowed_origins == {"https://a.example", "http://b.example"}


def test_secrets_keep_their_order_for_the_first_one_signs() -> None:
    settings = load_settings({}, {"CALLGATE_TOKEN_SECRET": f"z{SECRET}, a{SECRET}"})
    assert settings.token_secrets == (f"z{SECRET}", f"a{SECRET}")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://gate:secret@s1:26379,s2,[::1]:26381/calls",
        "redis+cluster://n1:7000,n2:7001,n3:7002",
        "rediss://gate:secret@cache:6380/0",
    ],
)
def test_an_engine_s_address_may_name_several_servers_where_it_has_several(url: str) -> None:
    assert load_settings({}, {"CALLGATE_REDIS_URL": url}).redis_url == url


def test_an_empty_variable_is_not_set_but_an_empty_list_is_none() -> None:
    settings = load_settings(
        {}, {"CALLGATE_PORT": "", "CALLGATE_REDIS_URL": "", "CALLGATE_EMERGENCY_NUMBERS": ""}
    )
    assert settings.port == 8080
    assert settings.redis_url is None
    assert settings.emergency_numbers == frozenset()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("host", "not a host"),
        ("host", "http://127.0.0.1"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "80.5"),
        ("port", "eighty"),
        ("port", "٣"),
        ("port", "9" * 5000),
        ("redis_url", "http://cache"),
        ("redis_url", "redis://"),
        ("redis_url", "unix://"),
        ("redis_url", "redis://cache:99999"),
        ("redis_url", "redis://a,b"),
        ("redis_url", "redis+sentinel://a:1,/calls"),
        ("redis_url", "redis+cluster://a:1,b:99999"),
        ("database_url", "mysql://db"),
        ("data_dir", "/dev/null"),
        ("admin_key", "with a space"),
        ("admin_key", "ключ"),
        ("token_secret", "short"),
        ("token_secret", f"{SECRET},short"),
        ("free_seconds", "-1"),
        ("free_seconds", "3601"),
        ("increment_seconds", "0"),
        ("hold_seconds", "1e3"),
        ("count_from", "ringing"),
        ("grace_seconds", "thirty"),
        ("lease_seconds", "0"),
        ("late_resume_hours", "169"),
        ("call_id_memory_hours", "0"),
        ("when_engine_down", "maybe"),
        ("wait_replicas", "some"),
        ("wait_replicas", "-1"),
        ("emergency_numbers", "112,help"),
        ("sip_domains", "pbx.example,/"),
        ("allowed_origins", "desk.example.com"),
        ("allowed_origins", "https://desk.example.com/path"),
        ("webhook_url", "ftp://hooks.example"),
        ("webhook_secret", "whsec_hush"),
        ("webhook_secret", "whsec_aHVzaA=="),
        ("webhook_events", "threshold,birthday"),
        ("workers", "0"),
        ("simulate", "perhaps"),
        ("drain_seconds", "-1"),
        ("log_format", "xml"),
        ("log_level", "loud"),
    ],
)
def test_a_wrong_value_is_refused_and_names_the_setting_where_it_came_from(
    name: str, wrong: str, tmp_path: Path
) -> None:
    variable = f"CALLGATE_{name.upper()}"
    flag = f"--{name.replace('_', '-')}"
    file = tmp_path / "callgate.toml"
    file.write_text(f'{name} = "{wrong}"\n')
    with pytest.raises(SettingsError, match=f"^{variable}: "):
        load_settings({}, {variable: wrong})
    with pytest.raises(SettingsError, match=f"^{flag}: "):
        load_settings({name: wrong}, {})
    with pytest.raises(SettingsError, match=f"^{name} in .*callgate.toml: "):
        load_settings({}, {}, file)


@pytest.mark.parametrize("name", ["port", "simulate", "host", "token_secret", "redis_url", "wait_replicas"])
@pytest.mark.parametrize("wrong", ["1.5", "[1]", "{a = 1}", "2026-01-01"])
def test_a_wrong_type_in_the_file_is_refused(name: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "callgate.toml"
    file.write_text(f"{name} = {wrong}\n")
    with pytest.raises(SettingsError, match=name):
        load_settings(config_path=file)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"CALLGATE_HOLD_SECONDS": "3600"}, "hold_seconds"),
        ({"CALLGATE_LATE_RESUME_HOURS": "100"}, "call_id_memory_hours"),
        ({"CALLGATE_WEBHOOK_URL": "https://hooks.example"}, "webhook_secret"),
    ],
)
def test_values_that_contradict_each_other_are_refused(values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings({}, values)


def test_an_unknown_key_in_the_file_is_refused_with_the_likely_one(tmp_path: Path) -> None:
    file = tmp_path / "callgate.toml"
    file.write_text('redis_ulr = "redis://cache"\n')
    with pytest.raises(SettingsError, match=r"redis_ulr .*no such setting. Did you mean redis_url\?"):
        load_settings(config_path=file)


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port = 1\nport = 2"])
def test_a_file_that_is_no_toml_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "callgate.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="settings file"):
        load_settings(config_path=file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(config_path=tmp_path / "none.toml")


def test_a_port_that_kubernetes_set_is_explained() -> None:
    with pytest.raises(SettingsError, match="enableServiceLinks"):
        load_settings({}, {"CALLGATE_PORT": "tcp://10.0.0.1:80"})


def test_a_variable_misspelt_is_noticed_and_others_are_left_alone() -> None:
    environ = {"CALLGATE_REDIS_ULR": "x", "CALLGATE_TOKEN": "x", "CALLGATE_PORT": "1", "PATH": "/bin"}
    assert misspelt_variables(environ) == [("CALLGATE_REDIS_ULR", "CALLGATE_REDIS_URL")]


def test_no_secret_or_password_is_shown_by_printing_settings_or_by_an_error() -> None:
    settings = load_settings(
        {},
        {
            "CALLGATE_ADMIN_KEY": "hush-admin",
            "CALLGATE_TOKEN_SECRET": f"hush-token{SECRET}",
            "CALLGATE_REDIS_URL": "redis://:hush-redis@cache",
            "CALLGATE_DATABASE_URL": "postgresql://u:hush-sql@db/callgate",
            "CALLGATE_WEBHOOK_URL": "https://u:hush-hook@hooks.example",
            "CALLGATE_WEBHOOK_SECRET": "whsec_hushhushhushhushhushhushhushhush",
        },
    )
    for shown in (repr(settings), str(settings), f"{settings}", rich.pretty.pretty_repr(settings)):
        assert "hush" not in shown
        assert "admin_key" in shown
    for name in ("admin_key", "token_secret", "redis_url", "database_url", "webhook_url", "webhook_secret"):
        with pytest.raises(SettingsError) as refused:
            load_settings({name: "hush://hush:hush@ hush"}, {})
        assert "hush" not in str(refused.value)


def test_settings_survive_the_way_through_the_environment_to_a_worker(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "host": "::1",
            "port": "8080",
            "data_dir": str(tmp_path),
            "token_secret": f"{SECRET},{SECRET}2",
            "emergency_numbers": "",
            "sip_domains": "pbx.example,sip.example",
            "wait_replicas": "all",
            "simulate": True,
            "count_from": "answer",
        },
        {},
    )
    assert load_settings({}, as_environment(settings)) == settings


def test_every_setting_has_a_flag_and_a_variable_of_its_own_and_a_description() -> None:
    assert len({environment_name(setting) for setting in SETTINGS.values()}) == len(SETTINGS)
    assert len({flag_name(setting) for setting in SETTINGS.values()}) == len(SETTINGS)
    assert all(setting.description for setting in SETTINGS.values())


def test_every_default_is_a_value_that_could_have_been_given() -> None:
    defaults = Settings()
    for field, setting in SETTINGS.items():
        default = getattr(defaults, field)
        if default is not None:
            assert setting.kind.read(setting.kind.write(default)) == default, field
