"""FastCGI records as a peer writes and reads them, made from the specification alone."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

BEGIN: Final = 1
ABORT: Final = 2
END: Final = 3
PARAMS: Final = 4
STDIN: Final = 5
STDOUT: Final = 6
STDERR: Final = 7
DATA: Final = 8
GET_VALUES: Final = 9
GET_VALUES_RESULT: Final = 10
UNKNOWN_TYPE: Final = 11

KEEP: Final = 1


class Record(NamedTuple):
    kind: int
    stream: int
    content: bytes


def rec(
    kind: int, stream: int, content: bytes = b"", padding: int = 0, *, junk: bytes = b"\0", reserved: int = 0
) -> bytes:
    return struct.pack(">BBHHBB", 1, kind, stream, len(content), padding, reserved) + content + junk * padding


def to8(kind: int, stream: int, content: bytes = b"") -> bytes:
    """Padded to 8 bytes, as nginx and Caddy write."""
    return rec(kind, stream, content, -len(content) % 8)


def begin(stream: int, flags: int = 0, role: int = 1) -> bytes:
    return rec(BEGIN, stream, struct.pack(">HB5x", role, flags))


def pair(name: str, value: str, *, long: int = 0) -> bytes:
    """One name-value pair; bit 0 of ``long``: the name's length in 4 bytes, bit 1: the value's."""
    lengths = b""
    for bit, text in enumerate((name, value)):
        if len(text) > 127 or long >> bit & 1:
            lengths += struct.pack(">I", len(text) | 1 << 31)
        else:
            lengths += bytes([len(text)])
    return lengths + (name + value).encode("latin-1")


def pairs(params: Mapping[str, str]) -> bytes:
    return b"".join(pair(name, value) for name, value in params.items())


def stream_of(kind: int, stream: int, data: bytes, size: int, *, pad: bool = False, end: bool = True) -> list[bytes]:
    """A stream in records of ``size`` bytes, with its end."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    if end:
        parts.append(b"")
    return [(to8 if pad else rec)(kind, stream, part) for part in parts]


def request(
    stream: int, params: Mapping[str, str] | None = None, body: bytes = b"", flags: int = 0, role: int = 1
) -> bytes:
    """A whole request in as few records as there can be."""
    block = pairs(params or {})
    parts = [
        begin(stream, flags, role),
        *stream_of(PARAMS, stream, block, 65_535),
        *stream_of(STDIN, stream, body, 65_535),
    ]
    return b"".join(parts)


def records(data: bytes) -> list[Record]:
    """Read what an application has written: no padding is expected to hold anything."""
    result = []
    while data:
        version, kind, stream, size, padding, reserved = struct.unpack_from(">BBHHBB", data)
        assert (version, reserved) == (1, 0)
        assert len(data) >= 8 + size + padding
        result.append(Record(kind, stream, data[8 : 8 + size]))
        data = data[8 + size + padding :]
    return result


def content(data: Iterable[Record], kind: int, stream: int) -> bytes:
    return b"".join(each.content for each in data if (each.kind, each.stream) == (kind, stream))


def ended(stream: int, app_status: int = 0, protocol_status: int = 0) -> list[Record]:
    """The end of FCGI_STDOUT and FCGI_END_REQUEST."""
    return [
        Record(STDOUT, stream, b""),
        Record(END, stream, struct.pack(">IB3x", app_status & 0xFFFFFFFF, protocol_status)),
    ]


def unknown_type(kind: int) -> bytes:
    return rec(UNKNOWN_TYPE, 0, bytes([kind]) + b"\0" * 7)


def values_result(values: Mapping[str, str]) -> bytes:
    return rec(GET_VALUES_RESULT, 0, pairs(values))


def ask(*names: str) -> bytes:
    return rec(GET_VALUES, 0, pairs(dict.fromkeys(names, "")))
