"""FastCGI 1.0 records: the numbers of section 8 and the one function that writes a record. Both sides use it."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "CONTENT_CHUNK",
    "FCGI_ABORT_REQUEST",
    "FCGI_AUTHORIZER",
    "FCGI_BEGIN_REQUEST",
    "FCGI_CANT_MPX_CONN",
    "FCGI_DATA",
    "FCGI_END_REQUEST",
    "FCGI_FILTER",
    "FCGI_GET_VALUES",
    "FCGI_GET_VALUES_RESULT",
    "FCGI_HEADER_LEN",
    "FCGI_KEEP_CONN",
    "FCGI_MAX_LENGTH",
    "FCGI_NULL_REQUEST_ID",
    "FCGI_OVERLOADED",
    "FCGI_PARAMS",
    "FCGI_REQUEST_COMPLETE",
    "FCGI_RESPONDER",
    "FCGI_STDERR",
    "FCGI_STDIN",
    "FCGI_STDOUT",
    "FCGI_UNKNOWN_ROLE",
    "FCGI_UNKNOWN_TYPE",
    "FCGI_VERSION_1",
    "record",
    "record_header",
    "stream_parts",
    "stream_records",
]

FCGI_VERSION_1: Final = 1
FCGI_HEADER_LEN: Final = 8
FCGI_MAX_LENGTH: Final = 0xFFFF
FCGI_NULL_REQUEST_ID: Final = 0

FCGI_BEGIN_REQUEST: Final = 1
FCGI_ABORT_REQUEST: Final = 2
FCGI_END_REQUEST: Final = 3
FCGI_PARAMS: Final = 4
FCGI_STDIN: Final = 5
FCGI_STDOUT: Final = 6
FCGI_STDERR: Final = 7
FCGI_DATA: Final = 8
FCGI_GET_VALUES: Final = 9
FCGI_GET_VALUES_RESULT: Final = 10
FCGI_UNKNOWN_TYPE: Final = 11

FCGI_KEEP_CONN: Final = 1

FCGI_RESPONDER: Final = 1
FCGI_AUTHORIZER: Final = 2
FCGI_FILTER: Final = 3

FCGI_REQUEST_COMPLETE: Final = 0
FCGI_CANT_MPX_CONN: Final = 1
FCGI_OVERLOADED: Final = 2
FCGI_UNKNOWN_ROLE: Final = 3

_header: Final = struct.Struct(">BBHHxx").pack  # version, type, requestId, contentLength; no padding
CONTENT_CHUNK: Final = 0xFFF8
"""The longest content that is a multiple of 8: what the specification recommends without padding (section 3.3)."""


def record_header(kind: int, stream: int, size: int) -> bytes:
    """Return the header of a record of ``size`` bytes without padding."""
    return _header(FCGI_VERSION_1, kind, stream, size)


def record(kind: int, stream: int, content: bytes = b"") -> bytes:
    """Return one record without padding; ``content`` is at most 65,535 bytes."""
    return _header(FCGI_VERSION_1, kind, stream, len(content)) + content


def stream_records(kind: int, stream: int, data: bytes) -> bytes:
    """Return ``data`` as records of a stream, without the empty record that ends it."""
    return b"".join(stream_parts(kind, stream, b"", data))


def stream_parts(kind: int, stream: int, first: bytes, data: bytes) -> list[bytes | memoryview]:
    """As ``stream_records`` of ``first``, which fits in one record, and ``data``, in pieces: ``data`` is not copied."""
    size = len(first) + len(data)
    if size <= FCGI_MAX_LENGTH:
        return [record_header(kind, stream, size) + first, data] if size else []
    view = memoryview(data)
    at = CONTENT_CHUNK - len(first)
    parts: list[bytes | memoryview] = [record_header(kind, stream, CONTENT_CHUNK) + first, view[:at]]
    while at < len(data):
        block = view[at : at + CONTENT_CHUNK]
        parts += (record_header(kind, stream, len(block)), block)
        at += CONTENT_CHUNK
    return parts
