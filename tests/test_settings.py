"""The settings: one schema, three places to write them, and the sentence for each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.limits import Limits, Timeouts
from gateways.server.address import Address
from gateways.settings import SETTINGS, Settings, load_settings


def load(environ: Mapping[str, str] | None = None, **arguments: object) -> Settings:
    return load_settings({"app": "shop:app", **arguments}, environ or {})


def tcp(port: int) -> Address:
    return Address("tcp", "127.0.0.1", port)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "gateways.toml"


# The schema


def test_every_field_has_a_setting_and_every_setting_a_field() -> None:
    keys = {setting.key for setting in SETTINGS}
    expected = {entry.name for entry in fields(Settings)} - {"listeners", "limits", "timeouts", "sources"}
    expected |= {"fastcgi", "scgi", "uwsgi", "http", "auto"}
    expected |= {f"max_{entry.name}" for entry in fields(Limits)}
    expected |= {f"{entry.name}_timeout" for entry in fields(Timeouts)}
    assert keys == expected


def test_every_setting_has_a_help_and_the_names_that_follow_from_it() -> None:
    for setting in SETTINGS:
        assert setting.help, setting.name
        assert setting.group
        assert re.fullmatch(r"[a-z][a-z0-9-]*", setting.name)
    head = next(setting for setting in SETTINGS if setting.key == "head_timeout")
    assert (head.name, head.option, head.variable) == ("head-timeout", "--head-timeout", "GATEWAYS_HEAD_TIMEOUT")


def test_the_default_that_the_help_shows_is_the_default() -> None:
    for setting in SETTINGS:
        if setting.shown and setting.name != "chdir":
            assert setting.parse(setting.shown) == setting.default, setting.name


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings == Settings("shop:app", chdir=str(tmp_path))
    assert settings.listeners == (("auto", tcp(8000)),)
    assert settings.limits == Limits()
    assert settings.timeouts == Timeouts()
    assert settings.sources["app"] == "APP"
    assert set(settings.sources.values()) == {"APP", "default"}


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAYS_APP", "shop:env")
    assert load_settings().app == "shop:env"


def test_no_application() -> None:
    with pytest.raises(ConfigError, match=r"no application given: .* gateways serve shop.wsgi:application"):
        load_settings({}, {})


# Precedence


def test_command_line_over_environment_over_file_over_default(config: Path) -> None:
    config.write_text("workers = 2\nthreads = 2\nbacklog = 2\n")
    settings = load({"GATEWAYS_WORKERS": "3", "GATEWAYS_THREADS": "3"}, workers="4", config=str(config))
    assert (settings.workers, settings.threads, settings.backlog) == (4, 3, 2)
    assert settings.sources["workers"] == "--workers"
    assert settings.sources["threads"] == "GATEWAYS_THREADS"
    assert settings.sources["backlog"] == f"backlog in {config}"
    assert settings.sources["mount"] == "default"


def test_the_file_may_be_named_by_the_environment(config: Path, tmp_path: Path) -> None:
    config.write_text("workers = 2")
    assert load({"GATEWAYS_CONFIG": str(config)}).workers == 2
    (tmp_path / "other").write_text("workers = 3")
    assert load({"GATEWAYS_CONFIG": str(config)}, config=str(tmp_path / "other")).workers == 3


def test_each_protocol_of_the_command_line_replaces_its_own_only(config: Path) -> None:
    config.write_text('fastcgi = ["9000", "/run/a.sock"]\nscgi = 4000\n')
    settings = load(config=str(config), scgi=("4001",), http=("8000", "8001"))
    assert settings.listeners == (
        ("fastcgi", tcp(9000)),
        ("fastcgi", Address("unix", path="/run/a.sock")),
        ("scgi", tcp(4001)),
        ("http", tcp(8000)),
        ("http", tcp(8001)),
    )


def test_an_option_that_was_not_given_counts_for_nothing() -> None:
    settings = load({"GATEWAYS_UWSGI": "3031"}, uwsgi=(), workers=None)
    assert settings.listeners == (("uwsgi", tcp(3031)),)


def test_a_switch_may_be_turned_off_again() -> None:
    assert load({"GATEWAYS_UWSGI_MODIFIER30": "yes"}).uwsgi_modifier30 is True
    assert load({"GATEWAYS_UWSGI_MODIFIER30": "yes"}, uwsgi_modifier30=False).uwsgi_modifier30 is False


# The file


def test_toml_has_its_own_types_and_both_spellings(config: Path) -> None:
    config.write_text(
        'app = "shop.wsgi:application"\n'
        'fastcgi = "127.0.0.1:9000"\n'
        'socket-mode = "600"\n'
        'socket-owner = ":www-data"\n'
        "uwsgi-modifier30 = true\n"
        "head-timeout = 2.5\n"
        'body_timeout = "500ms"\n'
        'max-body-bytes = "1M"\n'
        "max_params_bytes = 4096\n"
        'log-level = "debug"\n'
    )
    settings = load_settings({"config": str(config)}, {})
    assert settings.app == "shop.wsgi:application"
    assert settings.listeners == (("fastcgi", tcp(9000)),)
    assert settings.socket_mode == 0o600
    assert settings.socket_owner == ":www-data"
    assert settings.uwsgi_modifier30 is True
    assert (settings.timeouts.head, settings.timeouts.body) == (2.5, 0.5)
    assert (settings.limits.body_bytes, settings.limits.params_bytes) == (1_048_576, 4096)
    assert settings.log_level == "debug"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("wrokers = 2", r"'wrokers' in .*gateways.toml is no setting \(did you mean workers\?\)"),
        ("head_timout = 2", r"\(did you mean head-timeout\?\)"),
        ("xyzzy = 2", "'xyzzy' in .* is no setting; correct it or remove it"),
        ("[limits]\nbody = 2", "'limits' in .* is no setting"),
        ("config = 'x'", "'config' in .* is no setting"),
        ("head-timeout = 2\nhead_timeout = 3", "'head-timeout' is given twice"),
        ("workers = true", "workers in .*: True is not a whole number from 1 to 1024"),
        ("workers = 2.0", "not a whole number"),
        ("max-body-bytes = true", "not a size"),
        ("head-timeout = true", "not a time"),
        ("head-timeout = inf", "not a time"),
        ("head-timeout = []", "not a time"),
        ("socket-mode = 440", "440 is not a file mode; write three octal digits as text"),
        ("app = 5", "app in .*: 5 is not a text"),
        ("http = [true]", "True is not an address"),
        ("http = {a = 1}", "is not an address"),
        ("workers = x\nthreads = 1", "is not valid TOML: .*line 1"),
        ("app = '\udcff'", "is not valid TOML"),
    ],
)
def test_mistakes_in_the_file(config: Path, text: str, sentence: str) -> None:
    config.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=sentence):
        load_settings({"config": str(config)}, {})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*no.toml: No such file or directory"):
        load(config=str(tmp_path / "no.toml"))


# The environment


@pytest.mark.parametrize("text", ["9000,/run/a.sock", "9000 /run/a.sock", " 9000, /run/a.sock,"])
def test_lists_in_the_environment(text: str) -> None:
    settings = load({"GATEWAYS_FASTCGI": text})
    assert settings.listeners == (("fastcgi", tcp(9000)), ("fastcgi", Address("unix", path="/run/a.sock")))


def test_an_empty_variable_is_absent() -> None:
    assert load({"GATEWAYS_WORKERS": "", "GATEWAYS_CONFIG": "", "GATEWAYS_HTTP": ""}) == load()


@pytest.mark.parametrize("name", ["GATEWAYS_EXPECT_BUILD", "GATEWAYS_SECRET", "GATEWAYS_TEST_VENV", "GATEWAY_WORKERS"])
def test_variables_that_are_none_of_ours(name: str) -> None:
    assert load({name: "x"}) == load()


def test_an_unknown_variable() -> None:
    with pytest.raises(ConfigError, match=r"GATEWAYS_WORKER is no setting \(did you mean GATEWAYS_WORKERS\?\)"):
        load({"GATEWAYS_WORKER": "2"})
    with pytest.raises(ConfigError, match="GATEWAYS_XYZZY is no setting; correct it or unset it"):
        load({"GATEWAYS_XYZZY": "2"})


def test_a_mistake_in_the_environment_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"^GATEWAYS_WORKERS: 'two' is not a whole number"):
        load({"GATEWAYS_WORKERS": "two"})


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.25", 0.25), ("500ms", 0.5), ("30s", 30), ("2m", 120), ("1H", 3600), ("24h", 86_400)],
)
def test_times(text: str, seconds: float) -> None:
    assert load(head_timeout=text).timeouts.head == seconds


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "nan", "1 s", "1d", "25h", "0", "0ms", "٣"])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--head-timeout: .* is not a time"):
        load(head_timeout=text)


def test_some_waits_may_be_none() -> None:
    timeouts = load(keepalive_timeout="0", drain_timeout="0", graceful_timeout="0").timeouts
    assert (timeouts.keepalive, timeouts.drain, timeouts.graceful) == (0, 0, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("64k", 65_536), ("64KiB", 65_536), ("1M", 1_048_576), ("2mb", 2_097_152), ("1g", 2**30)],
)
def test_sizes(text: str, size: int) -> None:
    assert load(max_params_bytes=text).limits.params_bytes == size


@pytest.mark.parametrize("text", ["", "-1", "1.5k", "1t", "k", "1 k", "1_0", "0"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-params-bytes: "):
        load(max_params_bytes=text)


def test_no_limit() -> None:
    assert load(max_body_bytes="0").limits.body_bytes == 0


@pytest.mark.parametrize(
    ("text", "mount"), [("/", ""), ("//", ""), ("shop", "/shop"), ("/shop/", "/shop"), ("/a/b", "/a/b"), ("/é", "/é")]
)
def test_mount(text: str, mount: str) -> None:
    assert load(mount=text).mount == mount


@pytest.mark.parametrize("text", ["", "/a?b", "/a#b", "/a b", "/a//b", "/a\n"])
def test_no_mount(text: str) -> None:
    with pytest.raises(ConfigError, match="--mount: "):
        load(mount=text)


@pytest.mark.parametrize(("text", "mode"), [("660", 0o660), ("0660", 0o660), ("0o660", 0o660), ("000", 0)])
def test_mode(text: str, mode: int) -> None:
    assert load(socket_mode=text).socket_mode == mode


@pytest.mark.parametrize("text", ["", "66", "888", "1660", "0x1f", "rw-rw----"])
def test_no_mode(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--socket-mode: .* is not a file mode"):
        load(socket_mode=text)


@pytest.mark.parametrize("text", ["0", "-1", "1025", "1.0", "x", "", "9" * 5000])
def test_no_count(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--workers: .* is not a whole number from 1 to 1024"):
        load(workers=text)
    with pytest.raises(ConfigError, match=r"--backlog: .* is not a whole number from 1 up"):
        load(backlog=text if text != "1025" else "0")


@pytest.mark.parametrize(("text", "value"), [("on", True), ("TRUE", True), ("1", True), ("no", False), ("off", False)])
def test_switches(text: str, value: bool) -> None:
    assert load({"GATEWAYS_UWSGI_MODIFIER30": text}).uwsgi_modifier30 is value


def test_no_switch() -> None:
    with pytest.raises(ConfigError, match="'maybe' is neither true nor false"):
        load({"GATEWAYS_UWSGI_MODIFIER30": "maybe"})


def test_log_level() -> None:
    assert load(log_level="WARNING").log_level == "warning"
    with pytest.raises(ConfigError, match="'loud' is none of debug, info, warning, error"):
        load(log_level="loud")


def test_chdir_is_absolute_and_keeps_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "current").symlink_to("release")
    monkeypatch.chdir(tmp_path)
    assert load(chdir="current").chdir == str(tmp_path / "current")
    with pytest.raises(ConfigError, match="--chdir: 'no' is not a directory"):
        load(chdir="no")


def test_started_in_a_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="the current directory does not exist any more"):
        load()
    assert load(chdir=str(tmp_path)).chdir == str(tmp_path)


def test_an_address_is_listened_on_once() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9000 is given twice, for fastcgi and for scgi; .*--auto"):
        load(fastcgi=("9000",), scgi=("127.0.0.1:9000",))
    assert len(load(http=("0", "0")).listeners) == 2


def test_a_mistake_in_an_address_names_its_option() -> None:
    with pytest.raises(ConfigError, match=r"^--http: 'x' is not an address: there is no port in it"):
        load(http=("x",))
