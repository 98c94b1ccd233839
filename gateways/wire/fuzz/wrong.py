"""Whole requests that break one rule each, and would be served if nobody looked: for the oracle ``accepted``.

The illegal wires of ``gateways.testing`` hold nothing but the fault; a server may refuse them for what they lack.
Names of rules are those of ``gateways.testing.framing``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from gateways.codecs.fastcgi_records import FCGI_BEGIN_REQUEST, FCGI_PARAMS, FCGI_STDIN
from gateways.wire.fastcgi import begin, head_of, pair, pairs, rec, request
from gateways.wire.single import netstring, packet, strings, variables

__all__ = ["ID", "WRONG", "Build"]

Build: TypeAlias = Callable[[Mapping[str, str]], bytes]
ID: Final = 7
"""Of FastCGI; that of the illegal wires of ``gateways.testing``."""
LENGTHS: Final = ("-1", "+0", "1,1", "0_0", " 0", "0x0", "none")
_END: Final = rec(FCGI_STDIN, ID)


def _asked(block: bytes) -> bytes:
    return begin(ID) + rec(FCGI_PARAMS, ID, block) + rec(FCGI_PARAMS, ID) + _END


def _begun(content: bytes, params: Mapping[str, str]) -> bytes:
    return rec(FCGI_BEGIN_REQUEST, ID, content) + request(ID, params)[16:]


def _length(make: Callable[[Mapping[str, str]], bytes], text: str) -> Build:
    return lambda params: make({**params, "CONTENT_LENGTH": text})


def _of_version(version: int) -> Build:
    return lambda params: begin(ID) + rec(FCGI_PARAMS, ID, pairs(params), version=version) + rec(FCGI_PARAMS, ID) + _END


def _of_role(role: int) -> Build:
    return lambda params: request(ID, params, role=role)


def _fastcgi() -> list[tuple[str, Build]]:
    def after_end(params: Mapping[str, str]) -> bytes:
        return head_of(ID, params) + rec(FCGI_PARAMS, ID, pair("X_LATE", "1")) + _END

    def before(params: Mapping[str, str]) -> bytes:
        return begin(ID) + rec(FCGI_STDIN, ID, b"x") + request(ID, params)[16:]

    short, long = struct.pack(">HB", 1, 0), struct.pack(">HB6x", 1, 0)
    tails = {
        "pair-beyond-stream": (b"\2\2AA", b"\1\1A", b"\x80\0\0\5\0A", b"\1\xff\xff\xff\xffA"),
        "length-cut": (b"\x80", b"\1", b"\1\x80\0\0"),
        "name-empty": (pair("", ""), pair("", "a")),
        "name-twice": (pair("REMOTE_USER", "a") + pair("REMOTE_USER", "b"),),
    }
    return [
        *[("version", _of_version(version)) for version in (0, 2, 255)],
        ("begin-null-id", lambda params: request(0, params)),
        ("begin-length", lambda params: _begun(short, params)),
        ("begin-length", lambda params: _begun(long, params)),
        *[("role", _of_role(role)) for role in (0, 4, 257, 65_535)],
        *[(name, _behind(_asked, pairs, tail)) for name, each in tails.items() for tail in each],
        *[("content-length", _length(lambda params: request(ID, params), text)) for text in LENGTHS],
        ("params-after-end", after_end),
        ("stdin-before-params", before),
    ]


def _behind(whole: Callable[[bytes], bytes], block: Callable[[Mapping[str, str]], bytes], tail: bytes) -> Build:
    return lambda params: whole(block(params) + tail)


def _headers(params: Mapping[str, str]) -> bytes:
    first = {"CONTENT_LENGTH": params.get("CONTENT_LENGTH", "0"), "SCGI": "1"}
    return strings((first | dict(params)).items())


def _scgi() -> list[tuple[str, Build]]:
    def sized(form: bytes, end: bytes = b",", less: int = 0) -> Build:
        def build(params: Mapping[str, str]) -> bytes:
            block = _headers(params)
            return form.replace(b"N", b"%d" % (len(block) - less)) + b":" + block + end

        return build

    tails = {
        "odd-string": (b"A\0", b"\0"),
        "last-nul": (b"A", b"A\0b"),
        "name-empty": (b"\0a\0",),
        "name-twice": (b"REMOTE_USER\0a\0REMOTE_USER\0b\0",),
    }
    return [
        *[("length-digits", sized(form)) for form in (b"+N", b" N", b"N ", b"0x", b"")],
        *[("length-zeros", sized(form)) for form in (b"0N", b"000N")],
        *[("comma", sized(b"N", end)) for end in (b";", b"\0", b".,")],
        ("comma", sized(b"N", b",", 1)),
        *[(name, _behind(netstring, _headers, tail)) for name, each in tails.items() for tail in each],
        *[("content-length", _length(lambda params: netstring(_headers(params)), text)) for text in LENGTHS],
    ]


def _uwsgi() -> list[tuple[str, Build]]:
    def block(params: Mapping[str, str]) -> bytes:
        return variables(params.items())

    def of_modifier(number: int) -> Build:
        return lambda params: packet(block(params), number)

    tails = {
        "string-beyond-block": (b"\2\0A", b"\1\0A\2\0b", b"\1\0A\xff\xffb", b"\xff\xffA\1\0b"),
        "size-cut": (b"\1", b"\1\0A", b"\1\0A\1", b"\1\0A\1\0b\0"),
        "name-empty": (b"\0\0\1\0a",),
        "name-twice": (variables([("REMOTE_USER", "a"), ("REMOTE_USER", "b")]),),
    }
    return [
        *[("modifier1", of_modifier(number)) for number in (1, 5, 9, 22, 255)],
        *[(name, _behind(packet, block, tail)) for name, each in tails.items() for tail in each],
        *[("content-length", _length(lambda params: packet(block(params)), text)) for text in LENGTHS],
    ]


WRONG: Final[dict[str, list[tuple[str, Build]]]] = {"fastcgi": _fastcgi(), "scgi": _scgi(), "uwsgi": _uwsgi()}
"""By protocol: the rule, and what makes the wire of a request's parameters."""
