"""The server's own log: one line a fact, whatever a peer or an application puts into it."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gateways.body import RequestBody
from gateways.codecs.events import Event, Request
from gateways.server.errorlog import ErrorLog, configure, escape, set_in
from gateways.server.logfiles import LogTarget, open_target

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[\d+\] ([A-Z]+) (.*)")


class NoMore:
    def pull(self, body: RequestBody) -> None:
        body.end()


@dataclass
class FakeExchange:
    """What the log asks of a request."""

    request: Request
    body: RequestBody
    protocol: str = "fastcgi"
    client: str = "10.0.0.9:4711"
    line: str = "- "
    error_output: bool = False

    def send(self, event: Event) -> None:
        raise AssertionError

    def send_head(self, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False) -> None:
        raise AssertionError

    def send_body(self, data: bytes) -> None:
        raise AssertionError

    def send_file(self, fd: int, offset: int, count: int) -> None:
        raise AssertionError

    def abandon(self) -> None:
        raise AssertionError


def exchange_of(client: str = "10.0.0.9:4711", line: str = "- ") -> FakeExchange:
    return FakeExchange(Request(1, {}), RequestBody(-1, NoMore()), client=client, line=line)


class Stderr(io.StringIO):
    """Stands for stderr. Only within a test: pytest gives its phases a new one each."""

    def configure(self, level: str) -> None:
        with contextlib.redirect_stderr(self):
            configure(level)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """Give the logger; afterwards logging is as it was."""
    logger = logging.getLogger("gateways")
    before = logger.handlers[:], logger.propagate, logger.level
    yield logger
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def stderr(logger: logging.Logger) -> Stderr:
    """Configure the log onto a stderr of its own."""
    stream = Stderr()
    stream.configure("info")
    return stream


class Writes:
    """A target that keeps each write(2) apart, as datagrams are."""

    def __init__(self) -> None:
        ours, self._end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for sock in (ours, self._end):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._end.setblocking(False)
        self.target = LogTarget(ours.detach(), "error")

    def next(self) -> bytes:
        return self._end.recv(1 << 20)

    def only(self) -> bytes:
        """Return what the one write wrote."""
        data = self.next()
        with pytest.raises(BlockingIOError):
            self._end.recv(1)
        return data

    def close(self) -> None:
        self.target.close()
        self._end.close()


@pytest.fixture
def writes(logger: logging.Logger) -> Iterator[Writes]:
    made = Writes()
    configure("info", made.target)
    yield made
    made.close()


def lines(stderr: Stderr) -> list[tuple[str, str]]:
    """Return level and message of each line; fails where one does not start as the log's lines do."""
    found = []
    for line in stderr.getvalue().splitlines():
        match = STAMP.fullmatch(line)
        assert match is not None, line
        found.append((match[1], match[2]))
    return found


# -- escape -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", ""),
        ("GET /a?b=c d", "GET /a?b=c d"),
        ("a\nb", "a\\x0ab"),
        ("a\r\n2026-01-01 00:00:00 [1] ERROR b", "a\\x0d\\x0a2026-01-01 00:00:00 [1] ERROR b"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\0\t\x7f", "\\x00\\x09\\x7f"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("a\\x0ab", "a\\x5cx0ab"),
        ("caf\xc3\xa9", "caf\xc3\\xa9".replace("\\xa9", "\xa9")),
        ("\u20ac", "\u20ac"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_escape_ends_what_is_too_long() -> None:
    assert escape("a" * 10_000) == "a" * 2000
    assert len(escape("\n" * 10_000)) == 8000


@given(st.text())
def test_escape_makes_one_line_that_can_be_read_back(text: str) -> None:
    escaped = escape(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", escaped)
    assert re.sub(r"\\x(..)", lambda found: chr(int(found[1], 16)), escaped) == text


# -- configure --------------------------------------------------------------------------------------------------------


def test_a_line_has_date_process_and_level(stderr: Stderr) -> None:
    ErrorLog().info("ready")
    assert lines(stderr) == [("INFO", "ready")]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_levels(stderr: Stderr, level: str, shown: list[str]) -> None:
    stderr.configure(level)
    log = ErrorLog()
    log.info("a")
    log.warning("b")
    log.failure("c")
    assert [name for name, _ in lines(stderr)] == shown


def test_configured_twice_a_line_is_written_once(stderr: Stderr) -> None:
    stderr.configure("info")
    stderr.configure("info")
    ErrorLog().info("once")
    assert len(lines(stderr)) == 1


def test_the_root_logger_is_not_asked(stderr: Stderr) -> None:
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    logging.getLogger().addHandler(handler)
    try:
        ErrorLog().info("ours")
    finally:
        logging.getLogger().removeHandler(handler)
    assert not seen.getvalue()
    assert len(lines(stderr)) == 1


def test_a_level_that_is_none(stderr: Stderr) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        stderr.configure("loud")


# -- what is said -----------------------------------------------------------------------------------------------------


def test_percent_signs_are_text(stderr: Stderr) -> None:
    log = ErrorLog()
    log.info("100%s")
    log.warning("%d %(name)s")
    log.failure("%")
    log.refused("scgi", "%s", "%d")
    log.notice(exchange_of(line="- /%s%41"), "%d")
    assert [message for _, message in lines(stderr)] == [
        "100%s",
        "%d %(name)s",
        "%",
        "refused: scgi %s: %d",
        "fastcgi 10.0.0.9:4711 - /%s%41: %d",
    ]


def test_refused(stderr: Stderr) -> None:
    ErrorLog().refused("http", "10.0.0.1:1", "no Host")
    assert lines(stderr) == [("WARNING", "refused: http 10.0.0.1:1: no Host")]


def test_a_notice_names_the_request(stderr: Stderr) -> None:
    ErrorLog().notice(exchange_of(client="::1", line="PUT /a?b"), "the reason")
    assert lines(stderr) == [("WARNING", "fastcgi ::1 PUT /a?b: the reason")]


FORGED = "x\n2026-01-01 00:00:00 [1] ERROR forged"


def test_no_peer_can_forge_a_line(stderr: Stderr) -> None:
    log = ErrorLog()
    log.warning(FORGED)
    log.refused(FORGED, FORGED, FORGED)
    for exchange in (exchange_of(client=FORGED), exchange_of(line=FORGED)):
        log.notice(exchange, FORGED)
        log.exception(exchange, FORGED, LookupError(FORGED + "\r\x1b[2J"))  # noqa: LOG004  (no logging.Logger)
    every = stderr.getvalue().split("\n")
    own = [line for line in every if line and not line.startswith("  | ")]
    assert len(own) == 6
    assert "  | 2026-01-01 00:00:00 [1] ERROR forged\\x0d\\x1b[2J" in every
    assert not any(line.endswith("] ERROR forged") and line.startswith("2026-01-01") for line in own)


def test_an_exception_has_the_line_and_the_traceback(stderr: Stderr) -> None:
    def boom() -> None:
        raise LookupError("no such thing")

    try:
        boom()
    except LookupError as error:
        ErrorLog().exception(exchange_of(line="GET /a"), "the application raised", error)
    first, second, *rest = stderr.getvalue().splitlines()
    match = STAMP.fullmatch(first)
    assert match is not None
    assert match.groups() == ("ERROR", "fastcgi 10.0.0.9:4711 GET /a: the application raised")
    assert second == "  | Traceback (most recent call last):"
    assert any("in boom" in line for line in rest)
    assert rest[-1] == "  | LookupError: no such thing"


def test_an_error_with_and_without_a_traceback(stderr: Stderr) -> None:
    log = ErrorLog()
    log.failure("plain")
    log.failure("with one", ValueError("why"))
    text = stderr.getvalue().splitlines()
    assert len(text) == 3
    assert text[2] == "  | ValueError: why"


def test_output_stands_behind_its_request(stderr: Stderr) -> None:
    """Its lines pass for no others, and for no escape of a terminal, whatever a client has had it write."""
    exchange = exchange_of(client="192.0.2.7", line="GET /x\n")
    log = ErrorLog()
    stderr.configure("error")  # which is of our own entries
    with contextlib.redirect_stderr(stderr):
        log.output(exchange, "a\tb 100%s\n")
        log.output(exchange, "half")
        log.output(exchange, FORGED + "\r\n\n\x1b[31mTraceback:\n")
    first, second, third, *rest = stderr.getvalue().splitlines()
    for line, text in ((first, "a\\x09b 100%s"), (second, "half"), (third, "x")):
        match = STAMP.fullmatch(line)
        assert match is not None, line
        assert match.groups() == ("WARNING", f"fastcgi 192.0.2.7 GET /x\\x0a: {text}")
    assert rest == ["  | 2026-01-01 00:00:00 [1] ERROR forged\\x0d", "  | ", "  | \\x1b[31mTraceback:"]


def test_output_is_flushed() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "utf-8", errors="backslashreplace")
    with contextlib.redirect_stderr(stream):
        ErrorLog().output(exchange_of(), "caf\xe9 \udc80")
    assert raw.getvalue().endswith(b": caf\xc3\xa9 \\udc80\n")


def test_output_that_nobody_reads_is_no_failure() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    for stream in (Broken(), None):
        with contextlib.redirect_stderr(stream):  # None: without descriptor 2
            ErrorLog().output(exchange_of(), "a line\n")


def test_control_characters_of_any_message(stderr: Stderr) -> None:
    log = ErrorLog()
    log.info("a\x1b[2Jb")
    log.failure("c\x00d")
    log.info(FORGED)
    log.failure(FORGED + "\r\n\n")
    text = stderr.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert [re.sub("^.*\\] ", "", line) for line in text.splitlines()] == [
        "INFO a\\x1b[2Jb",
        "ERROR c\\x00d",
        "INFO x",
        "ERROR forged",
        "ERROR x",
        "ERROR forged\\x0d",
    ]
    assert text.splitlines()[3].startswith("  | 2026")


def test_backslashes_of_our_own_messages_stay(stderr: Stderr) -> None:
    ErrorLog().failure(r"cannot read 'a\n'")
    assert lines(stderr) == [("ERROR", r"cannot read 'a\n'")]


@given(st.text())
def test_set_in_leaves_no_line_without_a_bar(text: str) -> None:
    shown = set_in(text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert all(line.startswith("  | ") for line in shown.split("\n"))


# -- block ------------------------------------------------------------------------------------------------------------


def test_a_block_is_a_line_and_what_belongs_to_it(stderr: Stderr) -> None:
    ErrorLog().block(FORGED, FORGED + "\x1b\n\n  File x\n\n")
    first, *rest = stderr.getvalue().splitlines()
    match = STAMP.fullmatch(first)
    assert match is not None
    assert match.groups() == ("WARNING", "x\\x0a2026-01-01 00:00:00 [1] ERROR forged")
    assert rest == ["  | x", "  | 2026-01-01 00:00:00 [1] ERROR forged\\x1b", "  | ", "  |   File x"]


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_a_block_has_a_level(stderr: Stderr, level: str) -> None:
    ErrorLog().block("message", "%s", level)
    first, second = stderr.getvalue().splitlines()
    assert f" {level.upper()} message" in first
    assert second == "  | %s"
    stderr.configure("error")
    ErrorLog().block("message", "%s", level)
    assert len(stderr.getvalue().splitlines()) == (4 if level == "error" else 2)


# -- targets ----------------------------------------------------------------------------------------------------------


def test_every_record_is_one_write(writes: Writes) -> None:
    log = ErrorLog()
    log.info("a line")
    assert re.fullmatch(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[%d\] INFO a line\n" % os.getpid(), writes.only())
    log.block("stacks", "frame\n" * 10_000)
    assert writes.only().count(b"\n  | frame") == 10_000
    log.failure("failed", LookupError("why\n" * 10_000))
    data = writes.only()
    assert data.count(b"\n  | ") == data.count(b"\n") - 1


def test_output_goes_to_the_target_in_one_write(writes: Writes) -> None:
    ErrorLog().output(exchange_of(line="- /x"), "a\tb\ncaf\xe9 \udc80")
    data = writes.only()
    assert data.endswith(b" WARNING fastcgi 10.0.0.9:4711 - /x: a\\x09b\n  | caf\xc3\xa9 \\udc80\n")


def test_a_target_that_fails_harms_nobody(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    target = open_target("/dev/full", stream=2, kind="error")
    try:
        configure("info", target)
        ErrorLog().warning("lost")
        ErrorLog().output(exchange_of(), "lost\n")
    finally:
        target.close()
    assert target.lost == 2
    assert capsys.readouterr() == ("", "")


def test_a_record_that_cannot_be_shown_is_told(
    logger: logging.Logger, writes: Writes, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.handlers[0].handle(logging.LogRecord("gateways", logging.INFO, "", 0, "%d", ("no number",), None))
    assert "Logging error" in capsys.readouterr().err
    ErrorLog().info("next")
    assert b"INFO next" in writes.only()


def test_syslog(logger: logging.Logger) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="gateways-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon,
    ):
        path = str(Path(folder) / "log")
        daemon.bind(path)
        daemon.setblocking(False)
        target = open_target("syslog:local1", stream=2, kind="error", syslog=path)
        try:
            configure("debug", target)
            log = ErrorLog()
            log.info("an information")
            log.warning(FORGED)
            log.failure("failed", ValueError("why"))
            log.output(exchange_of(line="- /x"), "one\ntwo\x1b\n")
            got = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    got.append(daemon.recv(10_000).decode())
        finally:
            target.close()
    name = f"gateways[{os.getpid()}]: "
    assert got == [
        f"<142>{name}INFO an information",
        f"<140>{name}WARNING x\\x0a2026-01-01 00:00:00 [1] ERROR forged",
        f"<139>{name}ERROR failed",
        f"<139>{name}  | ValueError: why",
        f"<140>{name}WARNING fastcgi 10.0.0.9:4711 - /x: one",
        f"<140>{name}  | two\\x1b",
    ]
