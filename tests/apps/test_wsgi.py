"""PEP 3333, the server's side, rule by rule; the exchange is a fake that keeps what was sent."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast
from wsgiref.validate import validator

import pytest
from hypothesis import given, strategies as st

from gateways.apps.wsgi import FileWrapper, WSGIApp
from gateways.body import RequestBody
from gateways.codecs.cgi import encode_head
from gateways.codecs.events import Body, EndOfResponse, ErrorOutput, Event, Request, ResponseHead
from gateways.errors import BodyError, LocalProtocolError, MalformedMessage, PeerClosed, RequestTimeout

Environ = dict[str, Any]
Application = Callable[[Environ, "StartResponse"], Iterable[bytes]]
Headers = list[tuple[str, str]]
ExcInfo = Any

TEXT = [("Content-Type", "text/plain")]


class StartResponse(Protocol):
    def __call__(self, status: str, headers: Headers, exc_info: ExcInfo = None, /) -> Callable[[bytes], object]: ...


class NoMore:
    def pull(self, body: RequestBody) -> None:
        body.end()


class FakeExchange:
    """What the server gives an application; ``gone_after`` events the peer is gone."""

    def __init__(
        self,
        params: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        protocol: str = "scgi",
        error_output: bool = False,
        gone_after: int = 1_000_000,
    ) -> None:
        given = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/x", "SERVER_NAME": "localhost", "SERVER_PORT": "80"}
        self.request = Request(7, {**given, **(params or {})}, len(body))
        self.body = RequestBody(len(body), NoMore())
        if body:
            self.body.put(body)
        self.protocol = protocol
        self.client = "unix"
        self.line = "GET /x"
        self.error_output = error_output
        self.gone_after = gone_after
        self.events: list[Event] = []
        self.history: list[object] = []
        """The events, and what an application notes between them."""
        self.files: list[tuple[int, int]] = []
        self.ended = False
        self.abandoned = False

    def send(self, event: Event) -> None:
        assert event.stream == 7  # type: ignore[union-attr]  # all but Closed have one
        if self.ended and isinstance(event, ErrorOutput):
            raise LocalProtocolError(self.protocol, "the response has ended")
        assert not self.ended, f"{event} after the end"
        if isinstance(event, ResponseHead):
            assert self.head is None, "a second head"
            encode_head(self.protocol, event.status, event.headers)
        elif isinstance(event, Body):
            assert event.data
            assert self.head is not None, "a body before the head"
        if len(self.events) >= self.gone_after:
            raise PeerClosed("the peer went away: Broken pipe")
        self.events.append(event)
        self.history.append(event)
        self.ended = isinstance(event, EndOfResponse) or (isinstance(event, ResponseHead) and event.end)

    def send_head(self, status: str, headers: Headers, content: bytes = b"", end: bool = False) -> None:
        self.send(ResponseHead(7, status, headers, content, end))

    def send_body(self, data: bytes) -> None:
        self.send(Body(7, data))

    def send_file(self, fd: int, offset: int, count: int) -> None:
        self.files.append((offset, count))
        data = os.pread(fd, count, offset)
        if data:
            self.send(Body(7, data))
        if len(data) < count:
            raise LocalProtocolError(self.protocol, "the file became shorter while it was sent")

    def abandon(self) -> None:
        assert not self.ended
        self.ended = self.abandoned = True

    @property
    def head(self) -> ResponseHead | None:
        return next((event for event in self.events if isinstance(event, ResponseHead)), None)

    @property
    def status(self) -> str:
        assert self.head is not None, "no head was sent"
        return self.head.status

    @property
    def headers(self) -> Headers:
        assert self.head is not None, "no head was sent"
        return self.head.headers

    @property
    def content(self) -> bytes:
        parts = [self.head.content] if self.head else []
        return b"".join(parts + [event.data for event in self.events if isinstance(event, Body)])

    @property
    def stderr(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, ErrorOutput))


class FakeLog:
    def __init__(self) -> None:
        self.exceptions: list[tuple[str, BaseException]] = []
        self.notices: list[str] = []
        self.outputs: list[str] = []

    def exception(self, exchange: object, message: str, error: BaseException) -> None:
        assert isinstance(exchange, FakeExchange)
        self.exceptions.append((message, error))

    def notice(self, exchange: object, message: str) -> None:
        assert isinstance(exchange, FakeExchange)
        self.notices.append(message)

    def output(self, exchange: object, text: str) -> None:
        assert isinstance(exchange, FakeExchange)
        self.outputs.append(text)

    @property
    def silent(self) -> bool:
        return not (self.exceptions or self.notices or self.outputs)


@pytest.fixture
def log() -> FakeLog:
    return FakeLog()


def serve(application: object, exchange: FakeExchange, log: FakeLog, mount: str | None = None) -> FakeExchange:
    WSGIApp(cast("Any", application), log, mount=mount, threads=False, processes=False)(exchange)
    return exchange


def get(application: object, log: FakeLog, **more: Any) -> FakeExchange:  # noqa: ANN401
    return serve(application, FakeExchange(**more), log)


def raise_it(error: BaseException) -> None:
    raise error


def returning(
    *blocks: object, status: str = "200 OK", headers: object = TEXT, kind: Callable[..., Any] = list
) -> object:
    def application(environ: Environ, start_response: StartResponse) -> object:
        start_response(status, headers)  # type: ignore[arg-type]
        return kind(blocks)

    return application


def refused(exchange: FakeExchange, log: FakeLog) -> LocalProtocolError:
    """The application broke a rule: a plain 500, and the reason in the log."""
    assert_plain(exchange, 500)
    assert len(log.exceptions) == 1
    error = log.exceptions[0][1]
    assert isinstance(error, LocalProtocolError)
    return error


def assert_plain(exchange: FakeExchange, code: int) -> None:
    """The answer says no more than its status."""
    assert exchange.ended
    assert not exchange.abandoned
    assert exchange.status.startswith(f"{code} ")
    assert exchange.content == exchange.status.encode() + b"\n"
    assert ("Content-Length", str(len(exchange.content))) in exchange.headers


# -- the response's framing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple])
def test_one_block_goes_out_whole_with_its_length(log: FakeLog, kind: Callable[..., object]) -> None:
    exchange = get(returning(b"hello", kind=kind), log)
    assert exchange.events == [ResponseHead(7, "200 OK", [*TEXT, ("Content-Length", "5")], b"hello", end=True)]
    assert log.silent


@pytest.mark.parametrize("blocks", [[], [b""]])
@pytest.mark.parametrize("kind", [list, tuple])
def test_an_empty_body_has_length_0(log: FakeLog, blocks: list[bytes], kind: Callable[..., object]) -> None:
    exchange = get(returning(*blocks, kind=kind), log)
    assert exchange.events == [ResponseHead(7, "200 OK", [*TEXT, ("Content-Length", "0")], b"", end=True)]


def test_an_iterator_without_blocks_has_length_0(log: FakeLog) -> None:
    assert ("Content-Length", "0") in get(returning(kind=iter), log).headers
    assert ("Content-Length", "0") in get(returning(b"", b"", kind=iter), log).headers


def test_the_application_keeps_its_list_of_headers(log: FakeLog) -> None:
    headers = list(TEXT)
    get(returning(b"x", headers=headers), log)
    assert headers == TEXT


def test_several_blocks_have_no_length_unless_the_application_says_so(log: FakeLog) -> None:
    exchange = get(returning(b"ab", b"", b"c"), log)
    assert exchange.events == [ResponseHead(7, "200 OK", TEXT, b"ab"), Body(7, b"c"), EndOfResponse(7)]
    headers = [("content-length", "3")]
    exchange = get(returning(b"ab", b"c", headers=headers), log)
    assert exchange.headers == headers
    assert exchange.content == b"abc"
    assert exchange.ended
    assert log.silent


@pytest.mark.parametrize("kind", [list, iter, tuple])
@pytest.mark.parametrize("blocks", [[b"abcde"], [b"abc", b"de"], [b"a", b"b", b"cde"], [b"abcd", b"e", b"f"]])
def test_no_more_than_content_length(log: FakeLog, blocks: list[bytes], kind: Callable[..., object]) -> None:
    exchange = get(returning(*blocks, headers=[("Content-Length", "3")], kind=kind), log)
    assert exchange.content == b"abc"
    assert exchange.ended
    assert not exchange.abandoned
    assert "more bytes than its Content-Length" in log.notices[0]


def test_a_first_block_that_is_all_goes_out_with_the_end(log: FakeLog) -> None:
    """As Flask's iterators have it: once the client has the last byte, nginx may be gone before the end comes."""
    headers = [("Content-Length", "3")]
    exchange = get(returning(b"", b"abc", b"", headers=headers, kind=iter), log)
    assert exchange.events == [ResponseHead(7, "200 OK", headers, b"abc", True)]
    assert log.silent
    exchange = get(returning(b"abc", b"d", b"e", headers=headers, kind=iter), log)
    assert exchange.events == [ResponseHead(7, "200 OK", headers, b"abc", True)]
    assert len(log.notices) == 1


def test_a_head_that_is_all_goes_out_with_the_end(log: FakeLog) -> None:
    exchange = get(returning(b"abc", b"d", kind=iter), log, params={"REQUEST_METHOD": "HEAD"})
    assert exchange.events == [ResponseHead(7, "200 OK", TEXT, b"", True)]
    exchange = get(returning(b"abc", status="304 Not Modified", kind=iter), log)
    assert exchange.events == [ResponseHead(7, "304 Not Modified", TEXT, b"", True)]
    assert log.silent


def test_what_is_said_before_the_last_block_goes_before_the_end(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "3")])
        environ["wsgi.errors"].write("early")
        yield b"abc"
        environ["wsgi.errors"].write("late")
        raise ValueError("later")

    exchange = get(application, log, error_output=True)
    assert exchange.events[0] == ErrorOutput(7, b"early")
    assert exchange.content == b"abc"
    assert exchange.ended
    assert not exchange.abandoned
    assert log.outputs == ["late"]
    assert [str(error) for _, error in log.exceptions] == ["later"]


def test_a_peer_that_goes_when_it_has_all(log: FakeLog) -> None:
    headers = [("Content-Length", "3")]
    exchange = get(returning(b"ab", b"c", headers=headers), log, gone_after=2)
    assert exchange.content == b"abc"
    assert log.silent
    get(returning(b"ab", b"c", headers=headers), log, gone_after=1)
    assert not log.silent


@pytest.mark.parametrize("kind", [list, iter, tuple])
@pytest.mark.parametrize("blocks", [[], [b"abc"], [b"a", b"bc"]])
def test_less_than_content_length_is_abandoned(log: FakeLog, blocks: list[bytes], kind: Callable[..., object]) -> None:
    exchange = get(returning(*blocks, headers=[("Content-Length", "5")], kind=kind), log)
    assert exchange.content == b"".join(blocks)
    assert exchange.abandoned
    assert "before its Content-Length" in log.notices[0]


@given(st.lists(st.binary(max_size=4), max_size=6), st.integers(0, 12) | st.none(), st.booleans(), st.booleans())
def test_what_goes_out_is_what_was_promised(blocks: list[bytes], length: int | None, lazy: bool, write: bool) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        put = start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        if not write:
            return iter(blocks) if lazy else blocks
        for block in blocks[:2]:
            put(block)
        return iter(blocks[2:]) if lazy else blocks[2:]

    exchange = get(application, FakeLog())
    whole = b"".join(blocks)
    promised = dict(exchange.headers).get("Content-Length")
    assert exchange.ended
    assert exchange.content == (whole if length is None else whole[:length])
    assert exchange.abandoned == (length is not None and length > len(whole))
    assert exchange.abandoned or promised is None or int(promised) == len(exchange.content)


@pytest.mark.parametrize("value", ["", "-1", "+1", "1_0", " 1", "1 ", "1,1", "\u0661", "x", "9" * 19, "\xb2"])
def test_a_content_length_that_is_none(log: FakeLog, value: str) -> None:
    refused(get(returning(b"x", headers=[("Content-Length", value)]), log), log)


def test_two_content_lengths(log: FakeLog) -> None:
    headers = [("Content-Length", "1"), ("content-length", "2")]
    refused(get(returning(b"x", headers=headers), log), log)


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("blocks", [[], [b"x"], [b"x", b"y"]])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "204", "304 "])
def test_statuses_without_a_body(log: FakeLog, status: str, blocks: list[bytes], kind: Callable[..., object]) -> None:
    exchange = get(returning(*blocks, status=status, headers=[("X-A", "b")], kind=kind), log)
    assert exchange.content == b""
    assert exchange.headers == [("X-A", "b")]
    assert exchange.ended
    assert not exchange.abandoned


class Endless:
    """Blocks for ever; what is asked for, and whether it was closed."""

    def __init__(self, *blocks: bytes, then: bytes = b"x") -> None:
        self.blocks = list(blocks)
        self.then = then
        self.asked = 0
        self.closed = 0

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> bytes:
        self.asked += 1
        assert self.asked < 100, "it goes on and on"
        return self.blocks[self.asked - 1] if self.asked <= len(self.blocks) else self.then

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("method", "status", "headers", "blocks", "then", "asked", "notices"),
    [
        ("HEAD", "200 OK", TEXT, (), b"x", 1, 0),
        ("HEAD", "200 OK", [("Content-Length", "5")], (b"", b"abc"), b"x", 2, 0),
        ("GET", "304 Not Modified", TEXT, (b"", b""), b"x", 3, 0),
        ("GET", "204 No Content", TEXT, (), b"x", 1, 0),
        ("GET", "200 OK", [("Content-Length", "5")], (b"abcde",), b"x", 2, 1),
        ("GET", "200 OK", [("Content-Length", "5")], (b"abcdefg",), b"x", 2, 1),
        ("GET", "200 OK", [("Content-Length", "5")], (b"abc", b"", b"de"), b"x", 4, 1),
        ("GET", "200 OK", [("Content-Length", "5")], (b"abc", b"defg"), b"x", 3, 1),
        ("GET", "200 OK", [("Content-Length", "5")], (b"abc", b"de"), b"", 3, 0),
        ("GET", "200 OK", [("Content-Length", "0")], (), b"x", 2, 1),
    ],
)
def test_blocks_that_nobody_gets_are_not_asked_for(
    log: FakeLog, method: str, status: str, headers: object, blocks: tuple[bytes, ...], then: bytes, asked: int,
    notices: int,
) -> None:  # fmt: skip
    """Else an endless iterator (events, a log that is followed) has its thread for ever: no write shows who is gone."""
    endless = Endless(*blocks, then=then)
    params = {"REQUEST_METHOD": method}
    exchange = get(returning(endless, status=status, headers=headers, kind=next_of), log, params=params)
    assert (endless.asked, endless.closed, len(log.notices)) == (asked, 1, notices)
    assert exchange.ended
    assert not exchange.abandoned
    assert exchange.content == (b"abcde" if blocks and method == "GET" and status == "200 OK" else b"")
    assert log.exceptions == []


def next_of(blocks: tuple[object, ...]) -> object:
    return blocks[0]


def test_what_an_application_does_behind_its_last_block_is_done(log: FakeLog) -> None:
    done = []

    def blocks() -> Iterator[bytes]:
        yield b"abc"
        yield b"de"
        done.append("by the way")

    get(returning(blocks(), headers=[("Content-Length", "5")], kind=next_of), log)
    assert done == ["by the way"]
    assert log.silent


def test_304_keeps_its_content_length_and_204_does_not(log: FakeLog) -> None:
    headers = [("Content-Length", "5"), ("X-A", "b")]
    assert get(returning(status="304 Not Modified", headers=headers), log).headers == headers
    assert get(returning(status="204 No Content", headers=headers), log).headers == [("X-A", "b")]
    assert log.silent


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("blocks", [[], [b"hello"], [b"hel", b"lo"]])
def test_head_has_no_body(log: FakeLog, blocks: list[bytes], kind: Callable[..., object]) -> None:
    exchange = get(returning(*blocks, kind=kind), log, params={"REQUEST_METHOD": "HEAD"})
    assert exchange.content == b""
    assert exchange.ended
    assert not exchange.abandoned
    assert log.silent


def test_head_tells_the_length_that_get_has(log: FakeLog) -> None:
    head = {"REQUEST_METHOD": "HEAD"}
    assert ("Content-Length", "5") in get(returning(b"hello"), log, params=head).headers
    headers = [("Content-Length", "9")]
    assert get(returning(headers=headers), log, params=head).headers == headers


def test_head_of_an_error_is_without_a_body(log: FakeLog) -> None:
    exchange = get(None, log, params={"REQUEST_METHOD": "HEAD"})
    assert exchange.status == "500 Internal Server Error"
    assert exchange.content == b""


@pytest.mark.parametrize("block", [bytearray(b"ab"), memoryview(b"ab")])
def test_what_is_as_good_as_bytes(log: FakeLog, block: object) -> None:
    assert get(returning(block), log).content == b"ab"
    assert get(returning(block, block), log).content == b"abab"


@pytest.mark.parametrize("block", ["text", None, 1, ["x"]])
@pytest.mark.parametrize("count", [1, 2])
def test_blocks_of_another_type(log: FakeLog, block: object, count: int) -> None:
    error = refused(get(returning(*[block] * count), log), log)
    assert "not bytes" in str(error)


@pytest.mark.parametrize("result", ["text", None, 5])
def test_results_of_another_type(log: FakeLog, result: object) -> None:
    exchange = get(returning(kind=lambda _: result), log)
    assert_plain(exchange, 500)
    assert len(log.exceptions) == 1


def test_bytes_as_a_result_are_an_error_too(log: FakeLog) -> None:
    assert_plain(get(returning(kind=lambda _: b"hello"), log), 500)


# -- start_response -----------------------------------------------------------------------------------------------


def test_start_response_is_needed(log: FakeLog) -> None:
    for result in ([b"x"], [], [b"x", b"y"], iter([b"x"]), iter([])):
        log.exceptions.clear()
        error = refused(get(lambda environ, start_response, result=result: result, log), log)
        assert "start_response" in str(error)


def test_write_needs_no_block_to_follow(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        write(b"")
        write(b"ab")
        write(b"c")
        return []

    exchange = get(application, log)
    assert exchange.events == [ResponseHead(7, "200 OK", TEXT, b"ab"), Body(7, b"c"), EndOfResponse(7)]


def test_write_comes_before_the_blocks(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)(b"a")
        return [b"b"]

    exchange = get(application, log)
    assert exchange.events == [ResponseHead(7, "200 OK", TEXT, b"a"), Body(7, b"b"), EndOfResponse(7)]


@pytest.mark.parametrize("data", ["text", None, 5])
def test_write_takes_bytes(log: FakeLog, data: Any) -> None:  # noqa: ANN401
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)(data)
        return []

    refused(get(application, log), log)


def test_write_when_all_is_over(log: FakeLog) -> None:
    class Late:
        def __init__(self, environ: Environ, start_response: StartResponse) -> None:
            self.write = start_response("200 OK", TEXT)

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            self.write(b"late")

    exchange = get(Late, log)
    assert exchange.content == b"x"
    assert "after the response had ended" in str(log.exceptions[0][1])


def test_start_response_twice(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", TEXT)
        start_response("200 OK", TEXT)
        return [b"x"]

    assert "again without exc_info" in str(refused(get(application, log), log))


def test_start_response_again_with_exc_info_replaces_the_head(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "100")])
        try:
            raise_it(LookupError())
        except LookupError:
            start_response("404 Not Found", TEXT, sys.exc_info())
        return [b"no"]

    exchange = get(application, log)
    assert exchange.events == [ResponseHead(7, "404 Not Found", [*TEXT, ("Content-Length", "2")], b"no", end=True)]
    assert log.silent


def test_start_response_with_exc_info_at_first(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            raise_it(LookupError())
        except LookupError:
            start_response("404 Not Found", TEXT, sys.exc_info())
        return [b"no"]

    assert get(application, log).status == "404 Not Found"


def test_exc_info_after_the_head_is_raised_again(log: FakeLog) -> None:
    reached = []

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"x"
        try:
            raise_it(LookupError("the first"))
        except LookupError:
            start_response("500 Internal Server Error", TEXT, sys.exc_info())
            reached.append("never")
        yield b"y"

    exchange = get(application, log)
    assert exchange.content == b"x"
    assert exchange.abandoned
    assert not reached
    error = log.exceptions[0][1]
    assert isinstance(error, LookupError)
    assert error.__traceback__ is not None


def test_exc_info_before_the_first_block_is_in_time(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        try:
            raise_it(LookupError())
        except LookupError:
            start_response("410 Gone", TEXT, sys.exc_info())
        yield b"y"

    exchange = get(application, log)
    assert exchange.status == "410 Gone"
    assert exchange.content == b"y"


def test_a_refused_start_response_may_be_repeated(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(LocalProtocolError):
            start_response("200 OK", [("X-A", "a\r\nb")])
        start_response("200 OK", TEXT)
        return [b"x"]

    assert get(application, log).headers == [*TEXT, ("Content-Length", "1")]


def test_the_head_waits_for_the_first_block_that_is_not_empty(log: FakeLog) -> None:
    exchange = FakeExchange()

    def application(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", TEXT)
        for block in (b"", b"", b"a", b"", b"b"):
            exchange.history.append("next")
            yield block
        write(b"c")

    serve(application, exchange, log)
    head = ResponseHead(7, "200 OK", TEXT, b"a")
    assert exchange.history == [
        *["next", "next", "next", head],
        *["next", "next", Body(7, b"b")],
        *[Body(7, b"c"), EndOfResponse(7)],
    ]


def test_start_response_may_come_with_the_first_block(log: FakeLog) -> None:
    class Lazy:
        def __init__(self, environ: Environ, start_response: StartResponse) -> None:
            self.start_response = start_response
            self.left = 2

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if self.left == 2:
                self.start_response("201 Created", TEXT)
            if not self.left:
                raise StopIteration
            self.left -= 1
            return b"x"

    exchange = get(Lazy, log)
    assert exchange.status == "201 Created"
    assert exchange.content == b"xx"


# -- what a head may hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["200 OK", "200", "200 ", "599 x", "999 Odd", "404 N\xf6", "200 a  b"])
def test_statuses(log: FakeLog, status: str) -> None:
    assert get(returning(b"x", status=status), log).status == status


@pytest.mark.parametrize(
    "status",
    [
        *["", "OK", "20", "2000", "200OK", "99 x", "100 Continue", "101 Switching Protocols", "103 Early Hints"],
        *[" 200 OK", "2 0", "+20 x", "\u0662\u0660\u0660 OK", "200 \u20ac"],
        *["200 OK\r\n", "200 OK\n", "200 OK\nX: y", "200 \0", "200\tOK", "200 \x7f"],
    ],
)
def test_what_is_no_status(log: FakeLog, status: str) -> None:
    refused(get(returning(b"x", status=status), log), log)


@pytest.mark.parametrize("status", [200, None, b"200 OK", ["200 OK"]])
def test_a_status_of_another_type(log: FakeLog, status: Any) -> None:  # noqa: ANN401
    assert_plain(get(returning(b"x", status=status), log), 500)


CONTROLS = ["\r", "\n", "\0", "\r\n", "\x0b", "\x1b", "\x7f"]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("form", ["{}", "a{}", "{}b", "a{}X-Evil: b", "caf\xe9{}"])
def test_no_response_splitting_by_values(log: FakeLog, control: str, form: str) -> None:
    refused(get(returning(b"x", headers=[("X-A", form.format(control))]), log), log)


@pytest.mark.parametrize("control", [*CONTROLS, " ", ":", "\t", "(", "\xe9", "\u20ac"])
@pytest.mark.parametrize("form", ["{}", "X{}", "{}X", "X{}Y"])
def test_no_response_splitting_by_names(log: FakeLog, control: str, form: str) -> None:
    refused(get(returning(b"x", headers=[(form.format(control), "a")]), log), log)


def test_an_empty_name(log: FakeLog) -> None:
    refused(get(returning(b"x", headers=[("", "a")]), log), log)


@pytest.mark.parametrize("value", ["", "a\tb", "caf\xe9", "\x80\x9f\xa0\xff", " a "])
def test_values(log: FakeLog, value: str) -> None:
    exchange = get(returning(b"x", headers=[("X-A", value)]), log)
    assert exchange.headers[0] == ("X-A", value)
    assert log.silent


@pytest.mark.parametrize("value", ["\u20ac", "a\u2028b", "\ud800"])
@pytest.mark.parametrize("kind", [list, iter])
def test_values_outside_latin_1(log: FakeLog, value: str, kind: Callable[..., object]) -> None:
    refused(get(returning(b"x", headers=[("X-A", value)], kind=kind), log), log)


@pytest.mark.parametrize("name", ["X-A", "x_a", "!#$%&'*+.^_`|~0aZ-"])
def test_names(log: FakeLog, name: str) -> None:
    assert get(returning(b"x", headers=[(name, "a")]), log).headers[0] == (name, "a")


@pytest.mark.parametrize(
    "headers",
    [[(b"X-A", "a")], [("X-A", b"a")], [("X-A", 5)], [("X-A", None)], [(None, "a")], [(5, 5)], [["X-A", "a"]], ["ab"]],
)
def test_headers_of_another_type(log: FakeLog, headers: object) -> None:
    assert_plain(get(returning(b"x", headers=headers), log), 500)
    assert isinstance(log.exceptions[0][1], (LocalProtocolError, TypeError))  # the compiled build finds it first


@pytest.mark.parametrize("headers", [[("X-A",)], [("X-A", "a", "b")], [5], [None]])
def test_headers_of_another_shape(log: FakeLog, headers: object) -> None:
    assert_plain(get(returning(b"x", headers=headers), log), 500)


@pytest.mark.parametrize("make", [tuple, iter, dict])
def test_headers_that_are_no_list(log: FakeLog, make: Callable[[Headers], object]) -> None:
    assert_plain(get(returning(b"x", headers=make(TEXT)), log), 500)
    assert len(log.exceptions) == 1


@pytest.mark.parametrize(
    "name",
    ["Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "upgrade", "STATUS"],
)
def test_headers_that_are_the_servers(log: FakeLog, name: str) -> None:
    assert "belongs to the server" in str(refused(get(returning(b"x", headers=[(name, "close")]), log), log))


def test_made_up_names_and_statuses_are_not_kept_for_ever(log: FakeLog) -> None:
    for number in range(600):
        exchange = get(returning(b"x", status=f"200 {number}", headers=[(f"X-{number}", "a")]), log)
        assert exchange.status == f"200 {number}"
    refused(get(returning(b"x", headers=[("X-600\n", "a")]), log), log)


@given(st.text(max_size=6), st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=3), st.booleans())
def test_any_head_is_sent_or_refused(status: str, headers: Headers, lazy: bool) -> None:
    log = FakeLog()
    exchange = get(returning(b"x", status=f"200 {status}", headers=headers, kind=iter if lazy else list), log)
    if log.exceptions:
        refused(exchange, log)
    else:
        assert exchange.headers[: len(headers)] == headers


# -- close() ------------------------------------------------------------------------------------------------------


class Result:
    """An iterable that counts how often it is closed."""

    def __init__(self, *steps: bytes | BaseException, on_close: BaseException | None = None) -> None:
        self.steps = list(steps)
        self.on_close = on_close
        self.closed = 0
        self.asked = 0

    def __iter__(self) -> Iterator[bytes]:
        for step in self.steps:
            assert not self.closed
            self.asked += 1
            if isinstance(step, BaseException):
                raise step
            yield step

    def close(self) -> None:
        self.closed += 1
        if self.on_close is not None:
            raise self.on_close

    def __call__(self, environ: Environ, start_response: StartResponse) -> Result:
        start_response("200 OK", TEXT)
        return self


def test_close_after_the_response(log: FakeLog) -> None:
    result = Result(b"a", b"b")
    assert get(result, log).content == b"ab"
    assert result.closed == 1


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_close_after_an_error_before_the_head(log: FakeLog, error: BaseException) -> None:
    result = Result(b"", error)
    assert_plain(get(result, log), 500)
    assert result.closed == 1
    assert log.exceptions == [("the application raised", error)]


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt(), BodyError("cut")])
def test_close_after_an_error_behind_the_head(log: FakeLog, error: BaseException) -> None:
    result = Result(b"a", error, b"b")
    exchange = get(result, log)
    assert exchange.content == b"a"
    assert exchange.abandoned
    assert result.closed == 1


@pytest.mark.parametrize("gone_after", [0, 1, 2])
def test_close_when_the_peer_is_gone(log: FakeLog, gone_after: int) -> None:
    result = Result(b"a", b"b", b"c")
    exchange = get(result, log, gone_after=gone_after)
    assert result.closed == 1
    assert result.asked == gone_after + 1
    assert len(exchange.events) == gone_after
    assert log.notices == ["the peer went away: Broken pipe"]
    assert not log.exceptions


def test_close_when_the_peer_is_gone_at_the_end(log: FakeLog) -> None:
    result = Result(b"a")
    get(result, log, gone_after=1)
    assert result.closed == 1
    assert not log.exceptions


def test_close_when_a_block_is_refused(log: FakeLog) -> None:
    result = Result(cast("bytes", "text"))
    refused(get(result, log), log)
    assert result.closed == 1


def test_close_without_start_response(log: FakeLog) -> None:
    result = Result(b"a")
    refused(get(lambda environ, start_response: result, log), log)
    assert result.closed == 1


def test_close_when_content_length_is_not_reached(log: FakeLog) -> None:
    result = Result(b"a")

    def application(environ: Environ, start_response: StartResponse) -> Result:
        start_response("200 OK", [("Content-Length", "2")])
        return result

    assert get(application, log).abandoned
    assert result.closed == 1


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1)])
def test_close_that_raises_after_a_whole_response_concerns_the_log(log: FakeLog, error: BaseException) -> None:
    result = Result(b"a", b"b", on_close=error)
    exchange = get(result, log)
    assert result.closed == 1
    assert exchange.content == b"ab"
    assert isinstance(exchange.events[-1], EndOfResponse)
    assert [logged for _, logged in log.exceptions] == [error]


def test_close_that_raises_after_an_error(log: FakeLog) -> None:
    error, second = ValueError("first"), LookupError("second")
    result = Result(b"a", error, on_close=second)
    exchange = get(result, log)
    assert result.closed == 1
    assert exchange.abandoned
    assert log.exceptions == [("the application raised", second)]
    assert second.__context__ is error


def test_an_application_that_is_not_called_to_its_end_has_nothing_to_close(log: FakeLog) -> None:
    result = Result(b"a")

    def application(environ: Environ, start_response: StartResponse) -> Result:
        result(environ, start_response)
        raise LookupError

    assert_plain(get(application, log), 500)
    assert result.closed == 0


def test_a_generator_is_closed_where_it_stands(log: FakeLog) -> None:
    history = []

    def application(environ: Environ, start_response: StartResponse) -> Generator[bytes, None, None]:
        start_response("200 OK", TEXT)
        try:
            yield b"a"
            yield b"b"
            history.append("never")
        finally:
            history.append("finally")

    get(application, log, gone_after=1)
    assert history == ["finally"]


def test_a_swallowed_disconnect_ends_the_response_all_the_same(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        for _ in range(3):
            with contextlib.suppress(PeerClosed):
                write(b"x")
        return [b"y"]

    exchange = get(application, log, gone_after=1)
    assert len(exchange.events) == 1
    assert log.notices == ["the peer went away: Broken pipe"]


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("/etc/secret"), SystemExit("bye"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("started", [True, False])
def test_the_client_learns_nothing_of_an_error(log: FakeLog, error: BaseException, started: bool) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        if started:
            start_response("200 OK", [("X-Secret", "a")])
        raise error

    exchange = get(application, log)
    assert exchange.events == [
        ResponseHead(
            7,
            "500 Internal Server Error",
            [("Content-Type", "text/plain"), ("Content-Length", "26")],
            b"500 Internal Server Error\n",
            end=True,
        )
    ]
    assert log.exceptions == [("the application raised", error)]
    assert error.__traceback__ is not None


def test_an_error_while_the_peer_is_gone(log: FakeLog) -> None:
    get(None, log, gone_after=0)
    assert log.notices == ["the peer went away: Broken pipe"]


@pytest.mark.parametrize(
    ("hint", "status"), [(400, "400 Bad Request"), (408, "408 Request Timeout"), (413, "413 Content Too Large")]
)
def test_a_broken_body_has_its_own_status(log: FakeLog, hint: int, status: str) -> None:
    exchange = FakeExchange({"REQUEST_METHOD": "POST"})
    exchange.body.fail(BodyError("the body stopped", hint))

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        return [environ["wsgi.input"].read()]

    serve(application, exchange, log)
    assert_plain(exchange, hint)
    assert exchange.status == status
    assert log.notices == ["the body stopped"]
    assert not log.exceptions


def test_an_application_may_answer_a_broken_body_itself(log: FakeLog) -> None:
    exchange = FakeExchange({"REQUEST_METHOD": "POST"})
    exchange.body.fail(BodyError("the body stopped"))

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        with pytest.raises(OSError, match="stopped"):
            environ["wsgi.input"].read()
        start_response("422 Unprocessable Content", TEXT)
        return [b"again, please"]

    assert serve(application, exchange, log).status == "422 Unprocessable Content"
    assert log.silent


def test_parameters_without_a_method(log: FakeLog) -> None:
    called = []
    exchange = get(lambda environ, start_response: called.append(environ), log, params={"REQUEST_METHOD": ""})
    assert_plain(exchange, 400)
    assert not called
    assert "REQUEST_METHOD" in log.notices[0]


def test_another_protocols_error_in_the_application_is_answered_by_its_hint(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        raise MalformedMessage("fastcgi", "what a backend said", 502)

    assert_plain(get(application, log), 502)


# -- the environ --------------------------------------------------------------------------------------------------


def environ_of(exchange: FakeExchange, mount: str | None = None, **more: bool) -> Environ:
    seen: list[Environ] = []

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        seen.append(environ)
        start_response("200 OK", TEXT)
        return []

    threads, processes = more.get("threads", False), more.get("processes", False)
    WSGIApp(application, FakeLog(), mount=mount, threads=threads, processes=processes)(exchange)
    return seen[0]


def test_the_environ() -> None:
    exchange = FakeExchange({"HTTPS": "on", "wsgi.url_scheme": "gopher", "MY_OWN": "a"}, b"abc")
    environ = environ_of(exchange)
    assert type(environ) is dict
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["wsgi.input"] is exchange.body
    assert environ["wsgi.input_terminated"] is True
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert environ["gateways.protocol"] == "scgi"
    assert environ["MY_OWN"] == "a"


@pytest.mark.parametrize("flag", [True, False])
def test_threads_and_processes(flag: bool) -> None:
    environ = environ_of(FakeExchange(), threads=flag, processes=not flag)
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"]) == (flag, not flag)


def test_environs_share_nothing_that_an_application_changes() -> None:
    first = environ_of(FakeExchange())
    first.clear()
    assert environ_of(FakeExchange())["wsgi.version"] == (1, 0)


def test_a_mount_outside_ascii_is_bytes_as_latin_1() -> None:
    environ = environ_of(FakeExchange({"REQUEST_URI": "/caf%C3%A9/x"}), "/caf\xe9")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/caf\xc3\xa9", "/x")


# -- wsgi.errors --------------------------------------------------------------------------------------------------


def complaining(text: str, end: Callable[[StartResponse], Iterable[bytes]]) -> object:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.errors"].write(text)
        return end(start_response)

    return application


def well(start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [b"x"]


def in_blocks(start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"x"
    yield b"y"


def badly(start_response: StartResponse) -> list[bytes]:
    raise LookupError


def cut(start_response: StartResponse) -> list[bytes]:
    raise BodyError("cut")


ENDS = [well, in_blocks, badly, cut]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("text", ["a line\n", "half a line"])
def test_errors_go_to_the_log(log: FakeLog, end: Callable[[StartResponse], Iterable[bytes]], text: str) -> None:
    exchange = get(complaining(text, end), log)
    assert log.outputs == [text]
    assert exchange.stderr == b""


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("text", ["a line\n", "half a line"])
def test_errors_go_to_the_web_server(log: FakeLog, end: Callable[[StartResponse], Iterable[bytes]], text: str) -> None:
    exchange = get(complaining(text, end), log, error_output=True)
    assert exchange.stderr == text.encode()
    assert not log.outputs


def test_errors_after_the_end_go_to_the_log(log: FakeLog) -> None:
    class Late:
        def __init__(self, environ: Environ, start_response: StartResponse) -> None:
            self.errors = environ["wsgi.errors"]
            self.errors.write("in time\n")
            start_response("200 OK", TEXT)

        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            self.errors.write("late\n")
            self.errors.write("later")

    exchange = get(Late, log, error_output=True)
    assert exchange.stderr == b"in time\n"
    assert log.outputs == ["late\n", "later"]


def test_errors_when_the_peer_is_gone_go_to_the_log(log: FakeLog) -> None:
    get(complaining("a line\n", well), log, error_output=True, gone_after=0)
    assert log.outputs == ["a line\n"]


def test_errors_that_take_too_long_go_to_the_log_and_no_further(log: FakeLog) -> None:
    """RequestTimeout comes out of write(); an application that goes on after it would stand there again."""

    class Slow(FakeExchange):
        def send(self, event: Event) -> None:
            if isinstance(event, ErrorOutput):
                raise RequestTimeout
            super().send(event)

    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        environ["wsgi.errors"].write("half")
        environ["wsgi.errors"].write(" a line\n")
        raise AssertionError

    exchange = serve(application, Slow(error_output=True), log)
    assert (exchange.status, log.outputs) == ("504 Gateway Timeout", ["half a line\n"])


def test_errors_hold_no_control_characters_for_the_web_server(log: FakeLog) -> None:
    text = "".join(map(chr, range(0xA1))) + "\n"
    exchange = get(complaining(text, well), log, error_output=True)
    shown = [chr(code) if chr(code) in "\t\n" else f"\\x{code:02x}" for code in range(0x20)]
    shown += [chr(code) for code in range(0x20, 0x7F)] + [f"\\x{code:02x}" for code in range(0x7F, 0xA0)]
    assert exchange.stderr.decode() == "".join(shown) + "\xa0\n"


def test_errors_are_a_text_stream(log: FakeLog) -> None:
    def application(environ: Environ, start_response: StartResponse) -> list[bytes]:
        errors = environ["wsgi.errors"]
        assert errors.write("caf\xe9 \udc80\n") == 7
        errors.writelines(["a", "b\n"])
        errors.flush()
        errors.write("")
        print("c", file=errors)
        errors.write("d" * 5000)
        return well(start_response)

    exchange = get(application, log, error_output=True)
    assert exchange.stderr == "caf\xe9 \\udc80\nab\nc\n".encode() + b"d" * 5000
    assert [event.data for event in exchange.events if isinstance(event, ErrorOutput)][1] == b"ab\n"
    assert exchange.events[-1] is exchange.head


# -- wsgi.file_wrapper --------------------------------------------------------------------------------------------

DATA = bytes(range(256)) * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


def wrapping(filelike: object, headers: Headers | None = None, status: str = "200 OK") -> object:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, headers or [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](filelike, 1000)
        return wrapped

    return application


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("offset", [0, 1000, len(DATA) - 1])
def test_a_file_goes_out_from_where_it_stands(log: FakeLog, path: Path, offset: int, buffering: int) -> None:
    file = path.open("rb", buffering)
    file.read(offset)
    exchange = get(wrapping(file), log)
    size = len(DATA) - offset
    assert exchange.files == [(offset, size)]
    assert exchange.headers == [("Content-Length", str(size))]
    assert exchange.content == DATA[offset:]
    assert exchange.ended
    assert file.closed
    assert log.silent


@pytest.mark.parametrize("length", [0, 1, 1000, len(DATA)])
def test_a_file_is_cut_at_content_length(log: FakeLog, path: Path, length: int) -> None:
    exchange = get(wrapping(path.open("rb"), [("Content-Length", str(length))]), log)
    assert exchange.content == DATA[:length]
    assert exchange.ended
    assert not exchange.abandoned


def test_a_file_shorter_than_content_length_is_abandoned(log: FakeLog, path: Path) -> None:
    exchange = get(wrapping(path.open("rb"), [("Content-Length", str(len(DATA) + 1))]), log)
    assert exchange.content == DATA
    assert exchange.abandoned
    assert "before its Content-Length" in log.notices[0]


def test_a_file_that_shrinks_is_abandoned(log: FakeLog, path: Path) -> None:
    class Shrinking(FakeExchange):
        def send_file(self, fd: int, offset: int, count: int) -> None:
            os.truncate(path, 10)
            super().send_file(fd, offset, count)

    file = path.open("rb")
    exchange = serve(wrapping(file), Shrinking(), log)
    assert exchange.content == DATA[:10]
    assert exchange.abandoned
    assert file.closed
    assert "shorter" in str(log.exceptions[0][1])


def test_a_file_that_stands_at_its_end(log: FakeLog, path: Path) -> None:
    file = path.open("rb")
    file.seek(len(DATA) + 5)
    exchange = get(wrapping(file), log)
    assert exchange.content == b""
    assert exchange.headers == [("Content-Length", "0")]


def test_a_temporary_file(log: FakeLog) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"hello")
        file.seek(1)
        exchange = get(wrapping(file), log)
    assert exchange.files == [(1, 4)]
    assert exchange.content == b"ello"


def test_bytesio(log: FakeLog) -> None:
    file = io.BytesIO(DATA)
    file.seek(5)
    exchange = get(wrapping(file), log)
    assert exchange.content == DATA[5:]
    assert max(len(event.data) for event in exchange.events if isinstance(event, Body)) == 1000
    assert not exchange.files
    assert file.closed


def test_a_file_whose_bytes_are_not_its_descriptors(log: FakeLog, tmp_path: Path) -> None:
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(DATA))
    for filelike in (gzip.GzipFile(path), io.BufferedReader(gzip.GzipFile(path))):
        exchange = get(wrapping(filelike), log)
        assert exchange.content == DATA
        assert not exchange.files
    assert log.silent


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_a_file_without_a_size(log: FakeLog) -> None:
    file = Path("/proc/self/status").open("rb")  # noqa: SIM115  (the response closes it)
    assert b"Pid:" in get(wrapping(file), log).content


def test_a_pipe(log: FakeLog) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"hello")
    os.close(writer)
    exchange = get(wrapping(os.fdopen(reader, "rb")), log)
    assert exchange.content == b"hello"
    assert not exchange.files


def test_a_closed_file(log: FakeLog, path: Path) -> None:
    file = path.open("rb")
    file.close()
    assert_plain(get(wrapping(file), log), 500)
    assert isinstance(log.exceptions[0][1], ValueError)


def test_anything_with_read(log: FakeLog) -> None:
    class Reader:
        def __init__(self) -> None:
            self.blocks = [b"a", b"b", b""]

        def read(self, size: int) -> bytes:
            assert size == 1000
            return self.blocks.pop(0)

    assert get(wrapping(Reader()), log).content == b"ab"
    assert log.silent


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_a_file_is_not_read_where_no_body_is_sent(log: FakeLog, path: Path, status: str) -> None:
    method = "HEAD" if status == "200 OK" else "GET"
    tell = []

    class Wrapper(io.FileIO):
        def close(self) -> None:
            if not self.closed:
                tell.append(self.tell())
            super().close()

    exchange = get(wrapping(Wrapper(path), status=status), log, params={"REQUEST_METHOD": method})
    assert exchange.content == b""
    assert exchange.ended
    assert tell == [0]


def test_a_file_behind_write(log: FakeLog, path: Path) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"first ")
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return wrapped

    exchange = get(application, log)
    assert exchange.content == b"first " + DATA
    assert not exchange.files


def test_a_file_without_start_response(log: FakeLog, path: Path) -> None:
    file = path.open("rb")
    refused(get(lambda environ, start_response: FileWrapper(file), log), log)
    assert file.closed


def test_a_file_when_the_peer_is_gone(log: FakeLog, path: Path) -> None:
    file = path.open("rb")
    get(wrapping(file), log, gone_after=1)
    assert file.closed
    assert log.notices == ["the peer went away: Broken pipe"]


def test_a_middleware_may_iterate_the_wrapper(log: FakeLog, path: Path) -> None:
    inner = cast("Application", wrapping(path.open("rb")))

    def middleware(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        wrapped = inner(environ, start_response)
        yield from (block.upper() for block in wrapped)
        wrapped.close()  # type: ignore[attr-defined]

    assert get(middleware, log).content == b"".join(DATA[at : at + 1000].upper() for at in range(0, len(DATA), 1000))


# -- the standard library's own opinion ---------------------------------------------------------------------------


def hello(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return [b"hello"]


def streamed(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    yield b"a"
    yield b"b"


def written(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))(b"a")
    return [b"b"]


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"]
    parts = [body.read(2), body.readline(), *body.readlines(3), *body, body.read(10)]
    environ["wsgi.errors"].write("read\n")
    environ["wsgi.errors"].writelines(["a\n"])
    environ["wsgi.errors"].flush()
    start_response("200 OK", list(TEXT))
    return [b"".join(parts)]


def nothing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("304 Not Modified", [])
    return []


def failing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    try:
        raise_it(LookupError())
    except LookupError:
        start_response("404 Not Found", list(TEXT), sys.exc_info())
    return [b"no"]


VALIDATED: dict[Application, bytes] = {
    hello: b"hello",
    streamed: b"ab",
    written: b"ab",
    echo: b"ab\nc\nd\ne",
    nothing: b"",
    failing: b"no",
}


@pytest.mark.parametrize("application", VALIDATED, ids=lambda application: application.__name__)
@pytest.mark.parametrize("protocol", ["fastcgi", "scgi", "uwsgi", "http"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"PATH_INFO": "/caf\xc3\xa9", "SCRIPT_NAME": ""},
        {"SCRIPT_NAME": "/x", "DOCUMENT_URI": "/x"},
        {"SCRIPT_NAME": "/app/", "PATH_INFO": "/", "REQUEST_URI": "/app/"},
        {"SERVER_NAME": "", "SERVER_PORT": "", "CONTENT_LENGTH": "", "CONTENT_TYPE": ""},
        {"HTTP_CONTENT_TYPE": "a", "HTTP_CONTENT_LENGTH": "8", "CONTENT_LENGTH": "8", "HTTPS": "on"},
        {"REQUEST_URI": "http://example.org"},
    ],
)
def test_wsgiref_validate(log: FakeLog, application: Application, protocol: str, params: dict[str, str]) -> None:
    body = b"ab\nc\nd\ne"
    exchange = FakeExchange({"REQUEST_METHOD": "POST", **params}, body, protocol=protocol)
    serve(validator(cast("Any", application)), exchange, log)
    assert not log.exceptions
    assert not log.notices
    assert exchange.content == VALIDATED[application]
    assert exchange.ended


def test_wsgiref_validate_behind_a_disconnect(log: FakeLog) -> None:
    get(validator(cast("Any", streamed)), log, gone_after=1)
    assert not log.exceptions
