"""What a setting may hold: every parser with what it takes, its bounds and the sentence for all else."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gateways import values
from gateways.errors import ConfigError
from gateways.server.address import Address

Parse = Callable[[object], object]

PARSERS: dict[str, Parse] = {
    "text": values.text,
    "url": values.url,
    "secret": values.secret_text,
    "switch": values.switch,
    "count": values.count(0),
    "size": values.size(0),
    "duration": values.duration(zero=True),
    "mode": values.octal_mode,
    "mount": values.mount_point,
    "directory": values.directory,
    "level": values.level,
    "listener": values.listener,
    "listening": values.listening,
    "choice": values.choice("one", "two"),
    "network": values.network,
    "file": values.file_name,
    "log": values.log_target,
}


def nested(depth: int) -> object:
    """A value so deep that neither str() nor repr() can take it."""
    found: object = 1
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [[1]],
        nested(100_000),
        [nested(100_000)],
        None,
        date(2026, 1, 1),
        math.inf,
        math.nan,
        -1,
        1 << 100_000,
        -(1 << 100_000),
        "",
        "\0",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_setting_holds_is_one_short_sentence(name: str, value: object) -> None:
    with pytest.raises((ValueError, ConfigError)) as caught:
        PARSERS[name](value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["switch", "count", "size", "duration", "mode", "directory", "level", "network"])
def test_a_long_text_is_not_repeated_whole(name: str) -> None:
    with pytest.raises(ValueError, match=r"^'x{80}'\.\.\. is n") as caught:
        PARSERS[name]("x" * 10_000)
    assert len(str(caught.value)) < 400


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.binary())
def test_a_parser_returns_or_raises_its_own(value: object) -> None:
    for parse in PARSERS.values():
        with contextlib.suppress(ValueError, ConfigError):
            parse(value)


# How a sentence names what was written


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a", "'a'"),
        (5, "5"),
        (True, "True"),
        ([1], "a list"),
        ({}, "a table"),
        (1 << 64, "so long a number"),
        ("x" * 81, "'" + "x" * 80 + "'..."),
        ("x" * 80, "'" + "x" * 80 + "'"),
    ],
)
def test_shown(value: object, words: str) -> None:
    assert values.shown(value) == words


# Texts


def test_text() -> None:
    assert values.text("shop:app") == "shop:app"
    with pytest.raises(ValueError, match="'' is not a text"):
        values.text("")
    with pytest.raises(ValueError, match=r"'a\\x00b' holds a NUL"):
        values.text("a\0b")


@pytest.mark.parametrize("text", ["x", "correct horse battery staple", "!~", "a" * 500])
def test_secret(text: str) -> None:
    assert values.secret_text(text) == text


@pytest.mark.parametrize("value", ["", " hunter2", "hunter2 ", "hunter2\n", "hünter2", "hunter2\0", 123456])
def test_no_secret_and_its_sentence_does_not_tell_it(value: object) -> None:
    with pytest.raises(ValueError, match="this is no secret: write printable ASCII characters") as caught:
        values.secret_text(value)
    assert "unter2" not in str(caught.value)
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize("value", ["true", "Yes", "ON", "1", True, 1])
def test_on(value: object) -> None:
    assert values.switch(value) is True


@pytest.mark.parametrize("value", ["false", "No", "OFF", "0", False, 0])
def test_off(value: object) -> None:
    assert values.switch(value) is False


# Numbers


def test_count() -> None:
    parse = values.count(2, 4)
    assert [parse(value) for value in ("2", 3, "4")] == [2, 3, 4]
    for value in ("1", 5, "3.0", 3.0, True, "", "off"):
        with pytest.raises(ValueError, match="is not a whole number from 2 to 4"):
            parse(value)
    with pytest.raises(ValueError, match="from 0 up"):
        values.count(0)(-1)
    assert values.count(0)(str(values.MAXIMUM_COUNT)) == values.MAXIMUM_COUNT
    with pytest.raises(ValueError, match="is not a whole number"):
        values.count(0)(values.MAXIMUM_COUNT + 1)


def test_off_is_zero_where_zero_may_be() -> None:
    assert values.count(0)("off") == 0
    assert values.size(0)("OFF") == 0
    assert values.duration(zero=True)("off") == 0.0
    for parse in (values.count(1), values.size(1), values.duration(zero=False)):
        with pytest.raises(ValueError, match="'off' is not a "):
            parse("off")


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [(65_536, 65_536), ("64k", 65_536), ("64KiB", 65_536), ("1M", 1 << 20), ("2mb", 2 << 20), ("1g", 1 << 30)],
)
def test_size(text: object, bytes_: int) -> None:
    assert values.size(0)(text) == bytes_


@given(st.integers(0, 10**18))
def test_a_size_is_read_as_it_was_written(value: int) -> None:
    assert values.size(0)(values.size_text(value)) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(30, 30), (2.5, 2.5), ("500ms", 0.5), ("30S", 30), ("2m", 120), ("1h", 3600), ("1d", 86_400), ("24h", 86_400)],
)
def test_duration(text: object, seconds: float) -> None:
    assert values.duration(zero=False)(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e3", "nan", "1 s", "1w", "٣", True])
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="is not a time; write seconds, or a number with ms, s, m, h or d"):
        values.duration(zero=True)(text)


def test_the_bounds_of_a_duration() -> None:
    for text in ("25h", "2d", "86400.001", "0", "0ms"):
        with pytest.raises(ValueError, match=f"'{text}' is not a time above 0 to 1d"):
            values.duration(zero=False)(text)
    assert values.duration(zero=True)("0") == 0
    week = values.duration(zero=True, longest=7 * 86_400.0)
    assert week("7d") == 604_800
    with pytest.raises(ValueError, match="'8d' is not a time of 0 to 7d"):
        week("8d")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (0.5, "0.5s"), (0.001, "0.001s"), (75.0, "75s"), (60.0, "60s"), (7200.0, "2h"), (604_800.0, "7d")],
)
def test_time_text(seconds: float, text: str) -> None:
    assert values.time_text(seconds) == text


@given(st.integers(0, 86_400_000))
def test_a_time_is_read_as_it_was_written(milliseconds: int) -> None:
    value = milliseconds / 1000
    assert values.duration(zero=True)(values.time_text(value)) == value


def test_mode() -> None:
    assert [values.octal_mode(text) for text in ("660", "0660", "0o660", "000")] == [0o660, 0o660, 0o660, 0]
    for value in (660, "66", "888", "1660", "rw-rw----"):
        with pytest.raises(ValueError, match="is not a file mode; write three octal digits as text, as in '660'"):
            values.octal_mode(value)


# Words


def test_choice_and_level() -> None:
    assert values.choice("static", "dynamic")("DYNAMIC") == "dynamic"
    with pytest.raises(ValueError, match="'prefork' is none of static, dynamic"):
        values.choice("static", "dynamic")("prefork")
    assert values.level("WARNING") == "warning"
    with pytest.raises(ValueError, match="'loud' is none of debug, info, warning, error"):
        values.level("loud")


# Addresses and networks


def test_listener() -> None:
    assert values.listener(8000) == values.listener("8000") == Address("tcp", "127.0.0.1", 8000)
    wrong: tuple[object, ...] = (True, 2.5, [], -1)
    for value in wrong:
        with pytest.raises(ValueError, match="is not an address"):
            values.listener(value)


def test_listening_is_no_descriptor_and_no_abstract_name() -> None:
    assert values.listening("9100").port == 9100
    assert values.listening("/run/metrics.sock").kind == "unix"
    for text in ("fd:3", "@metrics"):
        with pytest.raises(ValueError, match=f"'{text}' is neither HOST:PORT nor a path"):
            values.listening(text)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8", "0.0.0.0/0"])
def test_network(text: str) -> None:
    assert values.network(text) == ipaddress.ip_network(text)


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0", "", 5])
def test_no_network(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not a network such as 10\.0\.0\.0/8 or ::1"):
        values.network(value)


def test_a_network_with_an_address_in_it() -> None:
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1/8' is not a network .* or ::1: it has bits beyond its prefix"):
        values.network("10.0.0.1/8")


# Paths


def test_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert values.file_name("log") == str(tmp_path / "log")
    assert values.file_name("/var/log/x") == "/var/log/x"
    for text in ("-", "logs/", "/", ".", "..", "logs/.."):
        with pytest.raises(ValueError, match=f"'{text}' names no file"):
            values.file_name(text)


def test_log_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [values.log_target(text) for text in ("-", "syslog", "syslog:daemon")] == ["-", "syslog", "syslog:daemon"]
    assert values.log_target("syslogs") == str(tmp_path / "syslogs")
    assert values.log_target("./syslog") == str(tmp_path / "syslog")


def test_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert values.directory("there") == os.path.join(tmp_path, "there")
    for text in ("no", "file"):
        with pytest.raises(ValueError, match=f"'{text}' is not a directory"):
            values.directory(text)


@pytest.mark.parametrize(
    "written",
    [
        "", "x", "/a b", "/a#b", "/é", "//\n", "ftp://a/", "http://", "http:///a", "http://a:b/", "http://a:99999/",
        "http://u:p@a/", "http://a/ b", "http://[::1/a", "http://a/#b", True, 7,
    ],
)  # fmt: skip
def test_what_is_no_url(written: object) -> None:
    with pytest.raises(ValueError, match=r"is no URL; write a path, as in /healthz, or http://HOST/PATH|is not a text"):
        values.url(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("/", ("http", "localhost", "/")),
        ("//a", ("http", "localhost", "//a")),
        ("/caf%C3%A9?a=%20b&c", ("http", "localhost", "/caf%C3%A9?a=%20b&c")),
        ("https://shop.example", ("https", "shop.example", "/")),
        ("http://shop.example:8080/a?b", ("http", "shop.example:8080", "/a?b")),
        ("https://[::1]:8443/a", ("https", "[::1]:8443", "/a")),
    ],
)
def test_url(written: str, expected: tuple[str, str, str]) -> None:
    found = values.url(written)
    assert found == expected
    assert values.url(str(found)) == found
