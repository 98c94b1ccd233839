"""Response heads: what is read, what is refused, and that no split, limit or length of it matters."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from gateways.codecs.cgi import HeadParser, body_length, encode_head
from gateways.codecs.events import ResponseHead
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError

LIMIT = 200


def parse(pieces: list[bytes], limit: int = LIMIT) -> tuple[str, list[tuple[str, str]], bytes] | str:
    """Return status, headers and what follows the head, or the error's words; "" where the head is not whole."""
    parser = HeadParser("scgi", 7, limit)
    for number, piece in enumerate(pieces):
        try:
            head = parser.feed(piece)
        except RemoteProtocolError as error:
            assert error.status_hint == 502  # noqa: PT017  # the words are compared by the caller
            return str(error)
        assert parser.buffered <= limit
        if head is not None:
            assert (head.stream, head.content, head.end, parser.buffered) == (7, b"", False, 0)
            return head.status, head.headers, parser.rest + b"".join(pieces[number + 1 :])
    return ""


def every_split(wire: bytes, limit: int = LIMIT) -> tuple[str, list[tuple[str, str]], bytes] | str:
    whole = parse([wire], limit)
    assert parse([wire[at : at + 1] for at in range(len(wire))], limit) == whole
    for at in range(1, len(wire)):
        assert parse([wire[:at], wire[at:]], limit) == whole
    return whole


HEADS: dict[str, tuple[bytes, str, list[tuple[str, str]]]] = {
    "status": (b"Status: 404 Not Found\r\nA: b\r\n\r\n", "404 Not Found", [("A", "b")]),
    "status alone": (b"Status: 204\r\n\r\n", "204", []),
    "status in any case, last": (b"A: b\r\nsTATUS:\t500 \r\n\r\n", "500", [("A", "b")]),
    "the same status twice": (b"Status: 201 X\r\nStatus: 201 X\r\n\r\n", "201 X", []),
    "no status": (b"A: b\r\n\r\n", "200 OK", [("A", "b")]),
    "location": (b"Location: /x\r\n\r\n", "302 Found", [("Location", "/x")]),
    "location with a status": (b"Location: /x\r\nStatus: 201 Made\r\n\r\n", "201 Made", [("Location", "/x")]),
    "bare LF": (b"Status: 404\nA: b\n\n", "404", [("A", "b")]),
    "mixed ends": (b"A: b\nB: c\r\n\n", "200 OK", [("A", "b"), ("B", "c")]),
    "mixed ends, the other way": (b"A: b\r\nB: c\n\r\n", "200 OK", [("A", "b"), ("B", "c")]),
    "status line": (b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n", "404 Not Found", [("A", "b")]),
    "status line alone": (b"HTTP/1.0 200\r\n\r\n", "200", []),
    "status line beside a status": (b"HTTP/1.1 404 X\r\nStatus: 410 Y\r\n\r\n", "404 X", []),
    "empty reason": (b"HTTP/1.1 404 \r\n\r\n", "404", []),
    "repeated fields": (b"A: 1\r\nA: 2\r\na:\r\n\r\n", "200 OK", [("A", "1"), ("A", "2"), ("a", "")]),
    "blanks around a value only": (b"A: \t b c \t\r\n\r\n", "200 OK", [("A", "b c")]),
    "latin-1": (b"A: \xe9\xa0\x85\r\n\r\n", "200 OK", [("A", "\xe9\xa0\x85")]),
    "colons in a value": (b"A: b:c: d\r\n\r\n", "200 OK", [("A", "b:c: d")]),
    "exactly the limit": (b"A: " + b"x" * (LIMIT - 7) + b"\r\n\r\n", "200 OK", [("A", "x" * (LIMIT - 7))]),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("body", [b"", b"x", b"\n", b"\r\n\r\n\n\n", b"A: b\r\n\r\n" * 100])
def test_a_head_and_what_follows_it(name: str, body: bytes) -> None:
    wire, status, headers = HEADS[name]
    assert every_split(wire + body) == (status, headers, body)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_whole_at_its_last_byte(name: str) -> None:
    wire = HEADS[name][0]
    for at in range(len(wire)):
        assert parse([wire[:at]]) == ""


REFUSED = {
    b"\n": "without a header",
    b"\r\n\r\n": "without a header",
    b"no colon\r\n\r\n": "not a response header: 'no colon'",
    b": x\r\n\r\n": "not a response header",
    b"A : b\r\n\r\n": "not a response header",
    b"A: b\r\n folded\r\n\r\n": "not a response header",
    b"\xe9: b\r\n\r\n": "not a response header",
    b"A: b\rB: c\r\n\r\n": "CR or NUL",
    b"A: b\r\r\n\r\n": "CR or NUL",
    b"A: b\0\r\n\r\n": "CR or NUL",
    b"A: b\r\nHTTP/1.1 200 OK\r\n\r\n": "not a response header",
    b"HTTP/1.1\r\nA: b\r\n\r\n": "not a status: ''",
    b"HTTP/1.1 abc\r\n\r\n": "not a status",
    b"HTTP/1.1 200 OK\r\nStatus: x\r\n\r\n": "not a status: 'x'",
    b"Status:\r\nA: b\r\n\r\n": "not a status: ''",
    b"Status: 99\r\n\r\n": "not a status",
    b"Status: 600 X\r\n\r\n": "not a status",
    b"Status: 2000\r\n\r\n": "not a status",
    b"Status: 200OK\r\n\r\n": "not a status",
    b"Status: +20 X\r\n\r\n": "not a status",
    "Status: ²00 X\r\n\r\n".encode("latin-1"): "not a status",
    b"Status: 200 OK\r\nStatus: 500 No\r\n\r\n": "two statuses: '200 OK' and '500 No'",
    b"A: " + b"x" * (LIMIT - 6) + b"\r\n\r\n": "response head is 201, more than the limit of 200",
    b"A: " + b"x" * 999: "response head is 201, more than the limit of 200",
    b"x" * (LIMIT + 1): "response head is 201, more than the limit of 200",
}


@pytest.mark.parametrize("wire", REFUSED)
@pytest.mark.parametrize("body", [b"", b"more\n\n"])
def test_a_head_that_is_refused(wire: bytes, body: bytes) -> None:
    words = every_split(wire + body)
    assert isinstance(words, str)
    assert REFUSED[wire] in words


@given(st.text("aA: \r\n\t1\0", max_size=40), st.booleans())
def test_anything_is_a_head_or_an_error_however_it_is_split(text: str, status: bool) -> None:
    every_split((b"Status: 200\r\n" if status else b"") + text.encode(), 30)


@given(
    st.lists(
        st.tuples(
            st.text("abXY-", min_size=1, max_size=5).filter(lambda name: name.lower() != "status"),
            st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0")).map(
                lambda value: value.strip(" \t")
            ),
        ),
        max_size=5,
    ),
    st.sampled_from(["Status: ", "HTTP/1.1 "]),
)
def test_what_is_written_is_read(headers: list[tuple[str, str]], prefix: str) -> None:
    wire = encode_head("scgi", prefix + "207 Multi", headers)
    assert parse([wire + b"body"], 1 << 20) == ("207 Multi", headers, b"body")


def test_each_byte_is_looked_at_once() -> None:
    class Counting(bytearray):
        searched = 0

        def find(self, sub: Any, start: Any = None, end: Any = None, /) -> int:  # noqa: ANN401
            Counting.searched += len(self) - start
            return super().find(sub, start, end)

    parser = HeadParser("scgi", 1, 1 << 20)
    parser._buffer = Counting()
    wire = b"A: " + b"x" * 20_000 + b"\r\n" + b"B: c\r\n" * 3_000 + b"\r\n"
    for at in range(len(wire)):
        head = parser.feed(wire[at : at + 1])
        assert (head is None) == (at < len(wire) - 1)
    assert Counting.searched <= 2 * len(wire)


@pytest.mark.parametrize(
    ("status", "method", "values", "length"),
    [
        ("200 OK", "GET", [], -1),
        ("200 OK", "GET", ["5"], 5),
        ("200", "", ["005", "005"], 5),
        ("200 OK", "HEAD", ["5"], -1),
        ("204 No Content", "GET", ["5"], -1),
        ("304", "GET", ["5"], -1),
        ("103 Early Hints", "GET", ["5"], -1),
        ("404 No", "POST", ["0"], 0),
    ],
)
def test_the_length_of_a_body(status: str, method: str, values: list[str], length: int) -> None:
    head = ResponseHead(1, status, [("content-LENGTH", value) for value in values])
    assert body_length("scgi", head, method) == length


@pytest.mark.parametrize(
    "values", [[""], ["-1"], ["+5"], ["1_0"], ["5, 5"], ["²"], ["1" * 19], ["5", "6"], ["5", "05"]]
)
def test_a_length_that_is_none(values: list[str]) -> None:
    head = ResponseHead(1, "200 OK", [("Content-Length", value) for value in values])
    with pytest.raises(MalformedMessage, match="Content-Length") as caught:
        body_length("uwsgi", head, "HEAD")
    assert (caught.value.protocol, caught.value.status_hint) == ("uwsgi", 502)


@pytest.mark.parametrize("text", ["a\r\nB: c", "a\n", "\r", "\0", "€"])
@pytest.mark.parametrize("place", ["first", "name", "value"])
def test_no_header_starts_another_line(text: str, place: str) -> None:
    first = "Status: 200" + (text if place == "first" else "")
    header = ("A" + (text if place == "name" else ""), text if place == "value" else "b")
    with pytest.raises(LocalProtocolError, match=r"CR, LF or NUL|latin-1"):
        encode_head("scgi", first, [header])


def test_the_limit_is_an_error_of_its_own() -> None:
    with pytest.raises(LimitExceeded) as caught:
        HeadParser("uwsgi", 1, 5).feed(b"abcdef")
    error = caught.value
    assert (error.protocol, error.limit, error.value, error.maximum, error.status_hint) == (
        "uwsgi", "response head", 6, 5, 502,
    )  # fmt: skip
