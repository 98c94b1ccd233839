from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import Codec
from gateways.codecs.detect import detect
from gateways.codecs.events import EndOfBody, Request
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.scgi import SCGICodec
from gateways.codecs.uwsgi import UWSGICodec
from gateways.errors import MalformedMessage

PROXY_V2: Final = b"\r\n\r\n\0\r\nQUIT\n"

FASTCGI: Final = b"\1\1\0\1\0\10\0\0\0\1\0\0\0\0\0\0\1\4\0\1\0\4\4\0\1\1Ab\0\0\0\0\1\4\0\1\0\0\0\0\1\5\0\1\0\0\0\0"
SCGI: Final = b"4:A\0b\0,"
UWSGI: Final = b"\0\6\0\0\1\0A\1\0b"
HTTP: Final = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
TLS: Final = b"\x16\3\1\2\0\1\0\1\xfc\3\3"

TOLD: dict[bytes, str | None] = {
    b"": None,
    FASTCGI: "fastcgi",
    b"\1": "fastcgi",
    b"\1\xff": "fastcgi",
    UWSGI: "uwsgi",
    b"\0": "uwsgi",
    b"\x1e": "uwsgi",  # modifier1 30: whether it is served is the codec's to say
    b"\x64\0": "uwsgi",
    b"\x64\0\0\0": "uwsgi",
    b"d": None,
    b"dELETE / ": "http",
    b"d\1": "http",
    SCGI: "scgi",
    b"1": "scgi",
    b"9": "scgi",
    b"70:CONTENT_LENGTH": "scgi",
    HTTP: "http",
    b"A": "http",
    b"Z": "http",
    b"a": "http",
    b"z": "http",
    b"POST": "http",
    b"P": None,
    b"PR": None,
    b"PROXY": None,
    b"PROPFIND": "http",
    b"PROXYING / ": "http",
    b"PROXY ": "proxy",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n": "proxy",
    PROXY_V2: "proxy",
    PROXY_V2 + b"\x21\x11\0\x0c": "proxy",
    **{PROXY_V2[:size]: None for size in range(1, 12)},
    TLS: "tls",
    TLS[:1]: "tls",
}

NOTHING = [
    b"0:,", b"05:", b"-1:", b"+5:", b" 5:", b":", b"\2\1\0\1", b"\x1f", b"\x7f", b"\x80", b"\xff", b"@", b"[", b"`",
    b"{", b"!",
    b"\n", b"\r\r", b"\r\nGET / HTTP/1.1\r\n", b"\r\n\r\n\0\r\nQUIT\r", b"\xd9\xa3",
]  # fmt: skip


@pytest.mark.parametrize("data", TOLD)
def test_told(data: bytes) -> None:
    assert detect(data) == TOLD[data]


@pytest.mark.parametrize("data", NOTHING)
def test_none_of_them(data: bytes) -> None:
    with pytest.raises(MalformedMessage, match="starts none of FastCGI, SCGI, uwsgi and HTTP") as caught:
        detect(data)
    assert f"{data[0]:#04x}" in str(caught.value)


@given(st.one_of(st.binary(max_size=16), st.sampled_from([*TOLD, *NOTHING])), st.binary(max_size=4))
def test_more_bytes_change_nothing_once_it_is_told(data: bytes, more: bytes) -> None:
    try:
        first = detect(data)
    except MalformedMessage:
        with pytest.raises(MalformedMessage):
            detect(data + more)
        return
    assert first is None or detect(data + more) == first
    assert first is not None or len(data) < 12


@pytest.mark.parametrize(
    ("make", "data"), [(FastCGICodec, FASTCGI), (SCGICodec, SCGI), (UWSGICodec, UWSGI), (HTTP1Codec, HTTP)]
)
def test_the_codec_that_it_names_reads_the_bytes(make: Callable[[], Codec], data: bytes) -> None:
    codec = make()
    assert detect(data[:2]) == codec.protocol
    events = codec.feed(data)
    assert isinstance(events[0], Request)
    assert events[1:] == [EndOfBody(1)]


@given(st.binary(max_size=40))
def test_any_bytes_are_told_or_an_error_of_the_peer(data: bytes) -> None:
    try:
        name = detect(data)
    except MalformedMessage:
        return
    assert name in (None, "fastcgi", "scgi", "uwsgi", "http", "proxy", "tls")


@pytest.mark.parametrize(
    ("codec", "data", "sentence"),
    [
        (
            FastCGICodec,
            HTTP,
            "version 71 in the header of a record; this looks like HTTP: is the listener's protocol right?",
        ),
        (FastCGICodec, TLS, "this looks like TLS (https)"),
        (FastCGICodec, SCGI, "this looks like SCGI"),
        (FastCGICodec, bytes(8), "version 0 in the header of a record"),
        (UWSGICodec, HTTP, "modifier1 71 is not served here; this looks like HTTP"),
        (UWSGICodec, FASTCGI, "this looks like FastCGI"),
        (UWSGICodec, b"\x09", "modifier1 9 is not served here"),
        (SCGICodec, HTTP, "not the length of a netstring: G; this looks like HTTP"),
        (SCGICodec, FASTCGI, "not the length of a netstring: <01>; this looks like FastCGI"),
        (SCGICodec, b"1\xff:", "not the length of a netstring: 1<ff>"),
        (HTTP1Codec, FASTCGI, "in the head; this looks like FastCGI"),
        (HTTP1Codec, UWSGI, "in the head; this looks like uwsgi"),
        (HTTP1Codec, SCGI, "in the head; this looks like SCGI"),
    ],
)
def test_the_error_says_what_it_looks_like(codec: Callable[[], Codec], data: bytes, sentence: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        codec().feed(data)
    assert sentence in caught.value.message
    assert sentence.endswith("?") or "looks like" in sentence or "looks like" not in caught.value.message
