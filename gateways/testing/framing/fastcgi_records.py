"""FastCGI records as a peer writes and reads them, made from the specification alone.

This is an encoder of its own beside ``gateways.codecs``, on purpose: an error of the codecs is not repeated here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final

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

IDLE_ID: Final = 0xFFF0
"""A request id that nothing here makes active."""


@dataclass(frozen=True)
class Record:
    """One record; ``kind`` is its type."""

    kind: int
    stream: int
    content: bytes = b""
    padding: bytes = b""

    def __bytes__(self) -> bytes:
        return rec(self.kind, self.stream, self.content, len(self.padding), junk=b"") + self.padding


def rec(
    kind: int, stream: int, content: bytes = b"", padding: int = 0, *, junk: bytes = b"\0", reserved: int = 0
) -> bytes:
    """Return one record, with ``padding`` times ``junk``."""
    return struct.pack(">BBHHBB", 1, kind, stream, len(content), padding, reserved) + content + junk * padding


def to8(kind: int, stream: int, content: bytes = b"") -> bytes:
    """Padded to 8 bytes, as nginx and Caddy write."""
    return rec(kind, stream, content, -len(content) % 8)


def begin(stream: int, flags: int = 0, role: int = 1) -> bytes:
    """FCGI_BEGIN_REQUEST."""
    return rec(BEGIN, stream, struct.pack(">HB5x", role, flags))


def length(size: int, *, long: bool = False) -> bytes:
    """Return the length of a name or value in 1 byte, or in 4 (section 3.4)."""
    return struct.pack(">I", size | 1 << 31) if long or size > 127 else bytes([size])


def pair(name: str, value: str, *, long: int = 0) -> bytes:
    """One name-value pair; bit 0 of ``long``: the name's length in 4 bytes, bit 1: the value's."""
    return encode_pairs([(name, value)], [bool(long & 1), bool(long & 2)])


def pairs(params: Mapping[str, str]) -> bytes:
    """Name-value pairs with the shortest lengths."""
    return encode_pairs(params.items())


def encode_pairs(items: Iterable[tuple[str, str]], long: Iterable[bool] = ()) -> bytes:
    """Write name-value pairs; ``long`` tells in turn which lengths below 128 take 4 bytes nevertheless."""
    turn = cycle([*long] or [False])
    parts = []
    for item in items:
        name, value = (text.encode("latin-1") for text in item)
        parts += [length(len(name), long=next(turn)), length(len(value), long=next(turn)), name, value]
    return b"".join(parts)


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
    """Read whole records; raises ValueError for other bytes."""
    result = []
    while data:
        if len(data) < 8:
            raise ValueError(f"the bytes end within a header: {data!r}")
        version, kind, stream, size, padding, reserved = struct.unpack_from(">BBHHBB", data)
        if (version, reserved) != (1, 0) or len(data) < 8 + size + padding:
            raise ValueError(f"not the header of a record, or the record is not whole: {data[:8]!r}")
        end = 8 + size
        result.append(Record(kind, stream, data[8:end], data[end : end + padding]))
        data = data[end + padding :]
    return result


def content(data: Iterable[Record], kind: int, stream: int) -> bytes:
    """Return what the records of one stream hold."""
    return b"".join(each.content for each in data if (each.kind, each.stream) == (kind, stream))


def ended(stream: int, app_status: int = 0, protocol_status: int = 0) -> list[Record]:
    """The end of FCGI_STDOUT and FCGI_END_REQUEST."""
    return [
        Record(STDOUT, stream, b""),
        Record(END, stream, struct.pack(">IB3x", app_status & 0xFFFFFFFF, protocol_status)),
    ]


def unknown_type(kind: int) -> bytes:
    """FCGI_UNKNOWN_TYPE."""
    return rec(UNKNOWN_TYPE, 0, bytes([kind]) + b"\0" * 7)


def values_result(values: Mapping[str, str]) -> bytes:
    """FCGI_GET_VALUES_RESULT."""
    return rec(GET_VALUES_RESULT, 0, pairs(values))


def ask(*names: str) -> bytes:
    """FCGI_GET_VALUES."""
    return rec(GET_VALUES, 0, pairs(dict.fromkeys(names, "")))


# -- the same meaning in other records ----------------------------------------------------------------------------


def add_padding(wire: bytes, sizes: Iterable[int]) -> bytes:
    """Give the records padding of these sizes (0 to 255), in turn, that looks like the start of another record."""
    turn = cycle(sizes)
    junk = b"\1\6\0\1\0\0\0\0" * 32
    return b"".join(bytes(Record(each.kind, each.stream, each.content, junk[: next(turn)])) for each in records(wire))


def add_noise(wire: bytes, noise: Iterable[tuple[int, bytes]]) -> bytes:
    """Put records between those of ``wire``: each before the record whose index, modulo their number, is told."""
    pieces = [bytes(each) for each in records(wire)]
    count = len(pieces) + 1
    before: list[list[bytes]] = [[] for _ in range(count)]
    for index, data in noise:
        before[index % count].append(data)
    return b"".join(b"".join(more) + piece for more, piece in zip(before, [*pieces, b""], strict=True))


def split_streams(wire: bytes, kinds: Sequence[int], lengths: Iterable[int]) -> bytes:
    """Cut the records of these types into several, of these lengths in turn (from 1), with no regard to pairs."""
    turn = cycle(lengths)
    result: list[bytes] = []
    for each in records(wire):
        if each.kind not in kinds or not each.content:
            result.append(bytes(each))
            continue
        rest = each.content
        while rest:
            size = next(turn)
            result.append(bytes(Record(each.kind, each.stream, rest[:size])))
            rest = rest[size:]
    return b"".join(result)


def split_params(wire: bytes, lengths: Iterable[int]) -> bytes:
    """Cut the FCGI_PARAMS records into several; pairs straddle them."""
    return split_streams(wire, (4,), lengths)


_TO_BOTH: Final = [
    bytes(Record(12, 0)),
    bytes(Record(42, 0, b"what is this", b"\0\0\0\0")),
    bytes(Record(255, IDLE_ID, b"?")),
    *[bytes(Record(kind, IDLE_ID, b"\0" * 8)) for kind in range(2, 9)],
]
NOISE_TO_APPLICATION: Final = [*_TO_BOTH, bytes(Record(9, 0, b"\x0f\0FCGI_MPXS_CONNS")), bytes(Record(5, IDLE_ID))]
"""Records that a web server may send at any time and that change no request."""
NOISE_TO_FRONT: Final = [
    *_TO_BOTH,
    bytes(Record(11, 0, b"\x2a" + bytes(7))),
    bytes(Record(10, 0, b"\x0f\1FCGI_MPXS_CONNS1")),
    bytes(Record(6, IDLE_ID, b"Status: 500 No\r\n\r\n")),
    bytes(Record(3, IDLE_ID, bytes(8))),
]
"""Records that an application may send at any time and that change no response."""
