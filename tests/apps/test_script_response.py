"""Heads that scripts write, each in every cut; what goes on to the web server of them."""

from __future__ import annotations

import pytest

from gateways.apps.pump import Failed
from gateways.apps.script_response import ScriptResponse
from gateways.codecs.events import Body, EndOfResponse, Event, Request, ResponseHead
from gateways.errors import LocalProtocolError


class Recorder:
    """As much of an Exchange as a response needs."""

    protocol = "scgi"
    peer = "unix"
    error_output = False

    def __init__(self, method: str) -> None:
        self.request = Request(1, {"REQUEST_METHOD": method})
        self.events: list[Event] = []
        self.abandoned = False

    def send(self, event: Event) -> None:
        self.events.append(event)

    def send_head(self, status: str, headers: list[tuple[str, str]], content: bytes = b"", end: bool = False) -> None:
        self.send(ResponseHead(1, status, headers, content, end))

    def send_body(self, data: bytes) -> None:
        self.send(Body(1, data))

    def abandon(self) -> None:
        self.abandoned = True


class Said:
    """What is made of what a script writes, in pieces of ``size``."""

    def __init__(self, data: bytes, *, method: str = "GET", size: int = 0, code: int = 0, fed: bool = True) -> None:
        recorder = Recorder(method)
        self.log: list[str] = []
        response = ScriptResponse(recorder, "id", self.log.append)  # type: ignore[arg-type]
        size = size or len(data)
        while data and not response.ended:
            response.output(data[:size], fed=fed)
            data = data[size:]
        response.finish("script", code, cut=False)
        self.redirect = response.redirect
        self.events = recorder.events
        self.cut = recorder.abandoned
        head = recorder.events[0] if recorder.events else None
        self.status, self.headers, self.body = "", [], b""
        if isinstance(head, ResponseHead):
            self.status, self.headers, self.body = head.status, head.headers, head.content
        self.body += b"".join(event.data for event in recorder.events if isinstance(event, Body))
        last = recorder.events[-1] if recorder.events else None
        self.whole = isinstance(last, EndOfResponse) or (isinstance(last, ResponseHead) and last.end)


@pytest.mark.parametrize("size", [0, 1, 3])
@pytest.mark.parametrize(
    ("data", "status", "headers", "body"),
    [
        (b"A: b\n\nx", "200 OK", [("A", "b")], b"x"),
        (b"A: b\r\n\r\nx", "200 OK", [("A", "b")], b"x"),
        (b"A: b\r\nC:d\n\r\n", "200 OK", [("A", "b"), ("C", "d")], b""),
        (b"Status: 404 Not Here\n\n", "404 Not Here", [], b""),
        (b"status:404\n\n", "404 Not Found", [], b""),
        (b"Status: 599\n\n", "599 Unknown", [], b""),
        (b"Location: http://a/\n\n", "302 Found", [("Location", "http://a/")], b""),
        (b"HTTP/1.1 201 Created\r\nA: b\r\n\r\n", "201 Created", [("A", "b")], b""),
        (b"Connection: close\nKeep-Alive: 5\nUpgrade: h2c\nA: b\n\n", "200 OK", [("A", "b")], b""),
        (b"Content-Length: 3\n\nabcdef", "200 OK", [("Content-Length", "3")], b"abc"),
        (b"Status: 204 No\nContent-Length: 3\n\nabc", "204 No", [], b""),
        (b"Status: 304 No\nContent-Length: 3\n\nabc", "304 No", [("Content-Length", "3")], b""),
        (b"Set-Cookie: a\nSet-Cookie: b\n\n", "200 OK", [("Set-Cookie", "a"), ("Set-Cookie", "b")], b""),
        (b"A: \xe9\tb\n\n", "200 OK", [("A", "\xe9\tb")], b""),
        (b"A:\n\n", "200 OK", [("A", "")], b""),
    ],
)
def test_good_heads(data: bytes, status: str, headers: list[tuple[str, str]], body: bytes, size: int) -> None:
    said = Said(data, size=size)
    assert (said.status, said.headers, said.body) == (status, headers, body)
    assert said.whole
    assert not said.cut


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without a response head"),
        (b"A: b\n", "within its response head"),
        (b"A: b", "within its response head"),
        (b"\n\nx", "without a header"),
        (b"\r\n", "without a header"),
        (b"<html>\n\n", "not a response header"),
        (b"A b: c\n\n", "not a response header"),
        (b": b\n\n", "not a response header"),
        (b"A : b\n\n", "not a response header"),
        (b"A: b\n c: d\n\n", "not a response header"),
        (b"A: b\0c\n\n", "NUL"),
        (b"A: b\rc\n\n", "CR"),
        (b"A: b\x01c\n\n", "control character into the header A"),
        (b"A: \x7f\n\n", "control character into the header A"),
        (b"A: \x1b[2J\n\n", "control character into the header A"),
        (b"Status: 200 \x08\n\n", "control character into its status"),
        (b"Status: 99\n\n", "not a status"),
        (b"Status: 600 X\n\n", "not a status"),
        (b"Status: OK\n\n", "not a status"),
        (b"Status: 2000\n\n", "not a status"),
        (b"Status: 200\nStatus: 404\n\n", "two statuses"),
        (b"Status: 100 Continue\n\n", "ends no request"),
        (b"Status: 103 Early Hints\n\n", "ends no request"),
        (b"Content-Length: 3\nContent-Length: 3\n\nabc", "two Content-Length"),
        (b"Content-Length: 3\ncontent-length: 4\n\nabc", "two Content-Length"),
        (b"Content-Length: -1\n\n", "Content-Length"),
        (b"Content-Length: +1\n\n", "Content-Length"),
        (b"Content-Length: 1,1\n\n", "Content-Length"),
        (b"Content-Length: \n\n", "Content-Length"),
        (b"Content-Length: 99999999999999999999\n\n", "Content-Length"),
        (b"Transfer-Encoding: chunked\n\n0\r\n\r\n", "Transfer-Encoding"),
        (b"Location: http://a/\nLocation: http://b/\n\n", "two Location"),
        (b"A: " + bytes([120]) * 70_000, "response head is"),
    ],
)
def test_bad_heads(data: bytes, reason: str, size: int) -> None:
    with pytest.raises(Failed) as raised:
        Said(data, size=size)
    assert raised.value.status == 502
    assert reason in raised.value.reason


@pytest.mark.parametrize(
    ("data", "redirect"),
    [
        (b"Location: /a\n\n", "/a"),
        (b"Location: /\n\n", "/"),
        (b"Location: /a?b=c\nContent-Type: text/html\n\nignored", "/a?b=c"),
        (b"Location: /a#b\n\n", ""),
        (b"Location: //a/b\n\n", ""),
        (b"Location: a\n\n", ""),
        (b"Location: /a\nX-More: 1\n\n", ""),
        (b"Status: 302 Found\nLocation: /a\n\n", ""),
        (b"Status: 200 OK\nLocation: /a\n\n", ""),
    ],
)
def test_local_redirects(data: bytes, redirect: str) -> None:
    said = Said(data)
    assert said.redirect == redirect
    assert bool(said.events) is not bool(redirect)


def test_an_answer_that_is_whole_goes_out_in_one_piece() -> None:
    assert len(Said(b"Content-Length: 2\n\nok").events) == 1
    assert len(Said(b"Content-Length: 2\n\nok", fed=False).events) == 2, "the script still reads"
    assert len(Said(b"A: b\n\nok", method="HEAD").events) == 1


@pytest.mark.parametrize(
    ("data", "code", "cut", "told"),
    [
        (b"A: b\n\npart", -9, True, "killed by SIGKILL"),
        (b"A: b\n\nall", 3, False, "exit status 3"),
        (b"Content-Length: 3\n\nall", -9, False, "killed by SIGKILL"),
        (b"Content-Length: 4\n\nall", 0, True, "1 bytes before its Content-Length"),
        (b"Content-Length: 4\n\nall", -64, True, "killed by"),
    ],
)
def test_how_it_ends(data: bytes, code: int, cut: bool, told: str) -> None:
    said = Said(data, code=code)
    assert said.cut is cut
    assert said.whole is not cut
    assert told in said.log[0]


def test_it_raises_what_a_codec_refuses() -> None:
    class Strict(Recorder):
        def send(self, event: Event) -> None:
            raise LocalProtocolError("scgi", "no")

    response = ScriptResponse(Strict("GET"), "id", [].append)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError):
        response.output(b"A: b\n\n", fed=True)
    response.give_up()
    response.fail(500)
