from __future__ import annotations

import struct

import pytest
from hypothesis import given, strategies as st

from gateways.codecs import fastcgi_records
from gateways.codecs.fastcgi_records import record, stream_parts, stream_records

# FastCGI 1.0, section 8.
NUMBERS = {
    "FCGI_VERSION_1": 1, "FCGI_HEADER_LEN": 8, "FCGI_MAX_LENGTH": 65_535, "FCGI_NULL_REQUEST_ID": 0,
    "FCGI_BEGIN_REQUEST": 1, "FCGI_ABORT_REQUEST": 2, "FCGI_END_REQUEST": 3, "FCGI_PARAMS": 4, "FCGI_STDIN": 5,
    "FCGI_STDOUT": 6,
    "FCGI_STDERR": 7, "FCGI_DATA": 8, "FCGI_GET_VALUES": 9, "FCGI_GET_VALUES_RESULT": 10, "FCGI_UNKNOWN_TYPE": 11,
    "FCGI_KEEP_CONN": 1, "FCGI_RESPONDER": 1, "FCGI_AUTHORIZER": 2, "FCGI_FILTER": 3,
    "FCGI_REQUEST_COMPLETE": 0, "FCGI_CANT_MPX_CONN": 1, "FCGI_OVERLOADED": 2, "FCGI_UNKNOWN_ROLE": 3,
}  # fmt: skip


def test_the_numbers_are_the_specification_s() -> None:
    assert {name for name in fastcgi_records.__all__ if name.startswith("FCGI_")} == set(NUMBERS)
    for name, number in NUMBERS.items():
        assert getattr(fastcgi_records, name) == number


@pytest.mark.parametrize(
    ("kind", "stream", "content", "data"),
    [
        (6, 1, b"", b"\1\6\0\1\0\0\0\0"),
        (6, 1, b"abc", b"\1\6\0\1\0\3\0\0abc"),
        (10, 0, b"", b"\1\n\0\0\0\0\0\0"),
        (7, 255, b"x", b"\1\7\0\xff\0\1\0\0x"),
        (7, 256, b"x", b"\1\7\1\0\0\1\0\0x"),
        (7, 65_535, b"x", b"\1\7\xff\xff\0\1\0\0x"),
        (6, 1, b"x" * 255, b"\1\6\0\1\0\xff\0\0" + b"x" * 255),
        (6, 1, b"x" * 256, b"\1\6\0\1\1\0\0\0" + b"x" * 256),
        (6, 1, b"x" * 65_535, b"\1\6\0\1\xff\xff\0\0" + b"x" * 65_535),
    ],
)
def test_one_record(kind: int, stream: int, content: bytes, data: bytes) -> None:
    assert record(kind, stream, content) == data
    assert stream_records(kind, stream, content) == (data if content else b"")


def contents(data: bytes, kind: int, stream: int) -> list[bytes]:
    result = []
    while data:
        version, each, number, size, padding = struct.unpack_from(">BBHHB", data)
        assert (version, each, number) == (1, kind, stream)
        assert len(data) >= 8 + size + padding
        result.append(data[8 : 8 + size])
        data = data[8 + size + padding :]
    return result


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (65_535, 1), (65_536, 2), (131_070, 3), (200_000, 4), (1 << 20, 17)]
)
def test_a_stream_of_any_length(size: int, count: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    parts = contents(stream_records(6, 300, data[:size]), 6, 300)
    assert b"".join(parts) == data[:size]
    assert len(parts) == count
    assert all(parts)  # an empty record would end the stream


@given(st.integers(0, 255), st.integers(0, 65_535), st.binary(max_size=300), st.integers(0, 300))
def test_round_trip(kind: int, stream: int, block: bytes, times: int) -> None:
    data = block * times
    parts = contents(stream_records(kind, stream, data), kind, stream)
    assert b"".join(parts) == data
    assert all(parts)


EDGES = (0, 1, 4_096, 65_527, 65_528, 65_529, 65_535, 65_536, 131_056, 131_057, 200_000)


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("first", [0, 1, 18, 65_527, 65_528])
def test_the_same_records_in_pieces(first: int, size: int) -> None:
    head = b"h" * first
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    parts = stream_parts(6, 300, head, data)
    assert b"".join(parts) == stream_records(6, 300, head + data)
    assert parts == [] if not first + size else parts[0][8:] == head
    # None is a copy of the data.
    assert all(part is data or len(part) == 8 or isinstance(part, memoryview) for part in parts[1:])
    assert all(part.obj is data for part in parts if isinstance(part, memoryview))
