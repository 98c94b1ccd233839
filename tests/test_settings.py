"""The settings: one schema, three places to write them, and the sentence for each mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.limits import Limits, ScriptLimits, Timeouts
from gateways.script_settings import NOT_FOR_SCRIPTS, SCRIPT_SETTINGS, Scripts
from gateways.server import inherited
from gateways.server.address import Address
from gateways.settings import SCRIPTS, SETTINGS, Settings, load_settings


def load(environ: Mapping[str, str] | None = None, **arguments: object) -> Settings:
    return load_given(arguments, environ)


def load_given(arguments: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    return load_settings({"app": "shop:app", **arguments}, environ or {})


def tcp(port: int) -> Address:
    return Address("tcp", "127.0.0.1", port)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "gateways.toml"


# The schema


def test_every_field_has_a_setting_and_every_setting_a_field() -> None:
    keys = {setting.key for setting in SETTINGS}
    expected = {entry.name for entry in fields(Settings)}
    expected -= {"listeners", "limits", "timeouts", "sources", "scripts", "unused"}
    expected |= {"fastcgi", "scgi", "uwsgi", "http", "auto"}
    expected |= {f"max_{name}" for name in Limits._fields}
    expected |= {f"{name}_timeout" for name in Timeouts._fields}
    assert keys == expected


def test_every_field_of_scripts_has_a_setting_and_every_setting_a_field() -> None:
    names = {setting.name for setting in SCRIPTS}
    assert len(names) == len(SCRIPTS)
    assert names - {setting.name for setting in SETTINGS} | {"mount"} == {setting.name for setting in SCRIPT_SETTINGS}
    assert {setting.name for setting in SETTINGS} >= NOT_FOR_SCRIPTS
    assert names & NOT_FOR_SCRIPTS == {"mount"}
    expected = {entry.name for entry in fields(Scripts)} - {"limits", "passed"} | set(ScriptLimits._fields)
    assert {setting.key for setting in SCRIPT_SETTINGS} == expected | {"mount"}


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
        (f"workers = {'[' * 5000}", "is nested too deep; settings are names and values"),
        (f"workers = {'{a=' * 5000}", "is nested too deep"),
        (f"workers{'.a' * 5000} = 1", "a table is not a whole number|is nested too deep"),  # old tomli: the latter
        (f"workers = 0x{'f' * 50_000}", "workers in .*: so long a number is not a whole number"),
        (f"http = [{'[' * 200}{']' * 200}]", "http in .*: a list is not an address"),
        ('socket-owner = "a\\u0000b"', r"socket-owner in .*: 'a\\x00b' holds a NUL"),
        ("max-rss = false", "max-rss in .*: False is not a size"),
        ("preload = 2", "preload in .*: 2 is neither true nor false"),
        ("umask = 22", "umask in .*: 22 is not a file mode"),
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


@pytest.mark.parametrize(
    "name", ["GATEWAYS_EXPECT_BUILD", "GATEWAYS_HANDOVER", "GATEWAYS_TEST_VENV", "GATEWAY_WORKERS"]
)
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


# Each setting of its own, from each of the three places

NEW: dict[str, tuple[str, object]] = {
    # name: what is written, and the value
    "preload": ("yes", True),
    "reload": ("true", True),
    "pool": ("Dynamic", "dynamic"),
    "min-workers": ("3", 3),
    "worker-idle": ("1m", 60.0),
    "rolling": ("on", True),
    "max-requests": ("1000", 1000),
    "max-age": ("7d", 604_800.0),
    "max-rss": ("200M", 200 << 20),
    "warm-up": ("/healthz?a", ("http", "localhost", "/healthz?a")),
    "request-timeout": ("30", 30.0),
    "slow-request": ("500ms", 0.5),
    "allow-from": ("10.0.0.0/8", (ip_network("10.0.0.0/8"),)),
    "allow-user": ("www-data", ("www-data",)),
    "proxy-from": ("::1", (ip_network("::1"),)),
    "secret": ("correct-horse", "correct-horse"),
    "user": ("www-data", "www-data"),
    "group": ("33", "33"),
    "umask": ("027", 0o027),
    "chroot": ("/", "/"),
    "access-log": ("syslog:daemon", "syslog:daemon"),
    "access-format": ("json", "json"),
    "error-log": ("/var/log/shop", "/var/log/shop"),
    "slow-log": ("/var/log/slow", "/var/log/slow"),
    "log-level": ("Debug", "debug"),
    "control": ("/run/shop/control", "/run/shop/control"),
    "metrics": ("9100", tcp(9100)),
    "pid-file": ("/run/shop.pid", "/run/shop.pid"),
}
MANY = [setting.name for setting in SETTINGS if setting.many]


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("place", ["argument", "environment", "file"])
def test_each_setting_from_each_place(config: Path, name: str, place: str) -> None:
    written, value = NEW[name]
    key = name.replace("-", "_")
    more = {"workers": "3"}  # for min-workers
    if place == "argument":
        settings = load_given({key: (written,) if name in MANY else written, **more})
        source = f"--{name}"
    elif place == "environment":
        source = f"GATEWAYS_{key.upper()}"
        settings = load_given(more, {source: written})
    else:
        config.write_text(f'{name} = "{written}"')
        settings = load_given({"config": str(config), **more})
        source = f"{name} in {config}"
    assert getattr(settings, key) == value
    assert settings.sources[name] == source
    assert load().sources[name] == "default"


@pytest.mark.parametrize(
    ("name", "written", "sentence"),
    [
        ("preload", "maybe", "'maybe' is neither true nor false"),
        ("reload", "", "'' is neither true nor false"),
        ("pool", "prefork", "'prefork' is none of static, dynamic, ondemand"),
        ("min-workers", "0", "'0' is not a whole number from 1 to 1024"),
        ("min-workers", "1025", "'1025' is not a whole number from 1 to 1024"),
        ("worker-idle", "0", "'0' is not a time above 0 to 1d"),
        ("max-requests", "-1", "'-1' is not a whole number from 0 up"),
        ("max-requests", "2147483648", "'2147483648' is not a whole number from 0 up"),
        ("max-age", "366d", "'366d' is not a time of 0 to 365d"),
        (
            "warm-up",
            "healthz",
            "'healthz' is no URL; write a path, as in /healthz, or http:",
        ),
        ("max-rss", "200", "'200' is less than any worker has; write the unit too, as in 200M"),
        ("max-rss", "1023k", "'1023k' is less than any worker has"),
        ("max-rss", "1.5G", "'1.5G' is not a size; write bytes, or a number with k, M or G"),
        ("request-timeout", "25h", "'25h' is not a time of 0 to 1d"),
        ("slow-request", "soon", "'soon' is not a time; write seconds"),
        ("allow-from", ("127.0.0.1", "10.1.2.3/8"), "'10.1.2.3/8' is not a network .*: it has bits beyond its prefix"),
        ("proxy-from", ("localhost",), "'localhost' is not a network"),
        ("allow-user", ("",), "'' is not a text"),
        ("secret", "hunter2\n", "^--secret: this is no secret: write printable ASCII characters"),
        ("user", "", "'' is not a text"),
        ("umask", "22", "'22' is not a file mode; write three octal digits"),
        ("chroot", "/no/such/directory", "'/no/such/directory' is not a directory"),
        ("access-log", "logs/", "'logs/' names no file"),
        ("access-format", "", "'' is not a text"),
        ("slow-log", ".", r"'\.' names no file"),
        ("log-level", "loud", "'loud' is none of debug, info, warning, error"),
        ("control", "run/", "'run/' names no file"),
        ("control", "-", "'-' names no file"),
        ("metrics", "fd:3", "'fd:3' is neither HOST:PORT nor a path"),
        ("metrics", "localhost", "'localhost' is not an address: there is no port in it"),
        ("pid-file", "-", "'-' names no file"),
    ],
)
def test_each_setting_has_a_sentence_for_a_mistake(name: str, written: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_given({name.replace("-", "_"): written})
    assert str(caught.value).startswith(f"--{name}: ")


@pytest.mark.parametrize("name", ["max-requests", "max-age", "max-rss", "request-timeout", "slow-request"])
def test_what_is_off_is_written_so_or_as_zero(name: str) -> None:
    key = name.replace("-", "_")
    for written in ("off", "0"):
        assert getattr(load_given({key: written}), key) == getattr(load(), key) == 0


def test_lists_hold_several(config: Path) -> None:
    config.write_text('allow-from = ["127.0.0.1", "10.0.0.0/8"]\nallow-user = ["a", "b"]')
    settings = load({"GATEWAYS_PROXY_FROM": "127.0.0.1, ::1"}, config=str(config))
    assert [str(each) for each in settings.allow_from] == ["127.0.0.1/32", "10.0.0.0/8"]
    assert settings.allow_user == ("a", "b")
    assert [str(each) for each in settings.proxy_from] == ["127.0.0.1/32", "::1/128"]


def test_the_control_socket_may_be_off() -> None:
    assert load(control="off").control == "off"
    assert load(control="./off").control == str(Path.cwd() / "off")


def test_a_dynamic_pool_has_fewer_at_least_than_at_most() -> None:
    with pytest.raises(ConfigError, match="--min-workers 3 is more than --workers 2, the most there may be"):
        load(pool="dynamic", min_workers="3", workers="2")
    assert load(pool="dynamic", min_workers="2", workers="2").min_workers == 2
    assert load(pool="static", min_workers="3", workers="2").workers == 2


def test_the_metrics_have_an_address_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9100 is given twice, for http and for metrics"):
        load(http=("9100",), metrics="9100")


SECRET = "correct-horse-battery"


def test_the_secret_is_not_shown(config: Path) -> None:
    assert SECRET not in repr(load({"GATEWAYS_SECRET": SECRET}))
    assert SECRET not in repr(load({"GATEWAYS_SECRET": SECRET}).sources)
    config.write_text(f'secret = ["{SECRET}"]')
    with pytest.raises(ConfigError) as caught:
        load(config=str(config))
    assert SECRET not in str(caught.value)


def test_the_secret_is_the_only_one() -> None:
    assert [setting.name for setting in SETTINGS if setting.hidden_value] == ["secret"]


# Sockets that the process was started with

ACTIVATED = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "scgi:fastcgi-main"}


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The descriptors that count as listening sockets."""
    found: set[int] = set()

    def passed(environ: Mapping[str, str], pid: int, protocols: Sequence[str]) -> list[tuple[str, Address]]:
        return original(environ, pid, protocols, found.__contains__)

    original = inherited.passed
    monkeypatch.setattr(inherited, "passed", passed)
    return found


def test_sockets_of_systemd(listening: set[int]) -> None:
    listening |= {3, 4}
    settings = load(ACTIVATED)
    assert settings.listeners == (("fastcgi", Address("fd", fd=4)), ("scgi", Address("fd", fd=3)))
    assert (settings.sources["fastcgi"], settings.sources["scgi"]) == ("systemd", "systemd")
    assert settings.sources["http"] == "default"


def test_descriptor_0(listening: set[int]) -> None:
    listening.add(0)
    settings = load()
    assert settings.listeners == (("fastcgi", Address("fd", fd=0)),)
    assert settings.sources["fastcgi"] == "descriptor 0"


@pytest.mark.parametrize("place", ["argument", "environment", "file"])
def test_a_listener_that_is_named_counts_alone(listening: set[int], config: Path, place: str) -> None:
    listening |= {0, 3, 4}
    config.write_text("http = 8000" if place == "file" else "")
    environ = {**ACTIVATED, **({"GATEWAYS_HTTP": "8000"} if place == "environment" else {})}
    settings = load(environ, config=str(config), http=("8000",) if place == "argument" else ())
    assert settings.listeners == (("http", tcp(8000)),)
    assert load(ACTIVATED, fastcgi=("fd:3",)).listeners == (("fastcgi", Address("fd", fd=3)),)


def test_a_socket_of_systemd_that_cannot_be_served(listening: set[int]) -> None:
    listening.add(3)
    with pytest.raises(ConfigError, match="descriptor 4, called 'fastcgi-main', and it is not a stream socket"):
        load(ACTIVATED)


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.25", 0.25), ("500ms", 0.5), ("30s", 30), ("2m", 120), ("1H", 3600), ("1d", 86_400)],
)
def test_times(text: str, seconds: float) -> None:
    assert load(head_timeout=text).timeouts.head == seconds


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "nan", "1 s", "1w", "25h", "2d", "0", "0ms", "٣", "off"])
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


def test_paths_are_of_the_directory_in_which_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets as all others, whatever --chdir says; where it says nothing they stay short."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path)
    for chdir in ("shop", str(tmp_path / "shop")):
        found = load(
            chdir=chdir,
            fastcgi=("run/f", "/run/g"),
            scgi=("@s", "4000"),
            metrics="run/m",
            control="run/c",
            pid_file="run/p",
        )
        assert [address.path for _, address in found.listeners] == [f"{tmp_path}/run/f", "/run/g", "s", ""]
        assert str(found.metrics) == f"{tmp_path}/run/m"
        assert (found.control, found.pid_file) == (f"{tmp_path}/run/c", f"{tmp_path}/run/p")
    for chdir in (".", str(tmp_path)):
        found = load(chdir=chdir, fastcgi=("run/f",), metrics="./m")
        assert (found.listeners[0][1].path, str(found.metrics)) == ("run/f", "./m")


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
