"""Settings as a person would write them: what is written is read as the same value."""

from __future__ import annotations

import pytest

from gateways.server.address import Address
from gateways.settings import SETTINGS, Setting, Settings, load_settings
from gateways.written import Row, rows, values_of, written

BY_NAME = {setting.name: setting for setting in SETTINGS}
SAMPLES: dict[str, tuple[str, ...]] = {
    "": ("true", "false"),
    "APP": ("shop:app", "shop:create_app()"),
    "PREFIX": ("/", "/shop"),
    "DIR": ("/", "/usr"),
    "ADDR": ("127.0.0.1:9000", "/run/shop.sock", "@shop", "fd:3", "[::1]:80", ":80"),
    "MODE": ("660", "007"),
    "OWNER": (":www-data",),
    "N": ("1", "1000"),
    "KIND": ("static", "ondemand"),
    "TIME": ("1s", "500ms", "90s", "2h"),
    "URL": ("/healthz", "https://shop.example/?a=%20"),
    "SIZE": ("1", "64k", "1500", "2G"),
    "CIDR": ("10.0.0.0/8", "::1"),
    "USER": ("shop",),
    "GROUP": ("33",),
    "TEXT": ("correct-horse",),
    "FILE": ("/var/log/x",),
    "FORMAT": ("%h %r",),
    "LEVEL": ("debug",),
    "PATH": ("/run/control", "off"),
}


def row(settings: Settings, name: str) -> Row:
    return next(row for row in rows(settings) if row.setting.name == name)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_what_is_written_is_read_as_the_same(setting: Setting) -> None:
    for sample in SAMPLES[setting.metavar]:
        if setting.name == "metrics" and sample.startswith(("@", "fd")):
            continue
        if setting.name == "max-rss" and sample != "2G":
            continue
        value = setting.parse(sample)
        assert setting.parse(written(setting, value)) == value


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_the_value_of_each_setting_is_found(setting: Setting) -> None:
    sample = "1" if setting.metavar == "N" else SAMPLES[setting.metavar][-1 if setting.name == "max-rss" else 0]
    given: object = True if not setting.metavar else (sample,) if setting.many else sample
    settings = load_settings({"app": "shop:app", setting.key: given}, {})
    assert values_of(settings, setting) == [setting.parse(sample)]


def test_every_setting_is_there_in_order_with_its_source() -> None:
    settings = load_settings({"app": "shop:app", "http": ("8000", "8001")}, {"GATEWAYS_MAX_AGE": "7d"})
    found = rows(settings)
    assert [each.setting for each in found] == list(SETTINGS)
    assert row(settings, "http") == Row(BY_NAME["http"], ("127.0.0.1:8000", "127.0.0.1:8001"), "--http")
    assert row(settings, "max-age") == Row(BY_NAME["max-age"], ("7d",), "GATEWAYS_MAX_AGE")
    assert row(settings, "workers") == Row(BY_NAME["workers"], ("1",), "default")


def test_what_is_unset_has_no_value() -> None:
    settings = load_settings({"app": "shop:app"}, {})
    unset = {each.setting.name for each in rows(settings) if not each.texts}
    assert {"mount", "fastcgi", "umask", "metrics", "secret", "user", "allow-from", "access-log"} <= unset
    assert {"workers", "max-rss", "auto", "chdir", "error-log", "preload"}.isdisjoint(unset)
    assert row(load_settings({"app": "shop:app", "mount": "/"}, {}), "mount").texts == ("/",)


def test_a_secret_is_stars() -> None:
    settings = load_settings({"app": "shop:app", "secret": "correct-horse"}, {})
    assert row(settings, "secret").texts == ("***",)
    assert "correct-horse" not in repr(rows(settings))


def test_settings_that_were_not_loaded_have_defaults_too() -> None:
    settings = Settings("shop:app", (("scgi", Address("tcp", "127.0.0.1", 4000)),))
    assert row(settings, "scgi") == Row(BY_NAME["scgi"], ("127.0.0.1:4000",), "default")


def test_a_setting_that_settings_do_not_have() -> None:
    setting = Setting("no-such", "Control", "N", "", str)
    with pytest.raises(AttributeError, match="no_such"):
        values_of(Settings("shop:app"), setting)
