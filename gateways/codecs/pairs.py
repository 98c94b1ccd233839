"""The hot kernels: blocks of name-value pairs to a dict and back, plain functions over bytes.

latin-1 keeps offsets, so a block is decoded once, lengths are read from the bytes, and names and values
are slices of the text. Each reader takes the largest number of pairs that it may return; all raise
MalformedMessage or LimitExceeded. What a repeated name means is decided here, once for every protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage

if TYPE_CHECKING:
    from mypy_extensions import i64  # an int; mypyc's code counts with it in a register

__all__ = [
    "content_length",
    "encode_fastcgi_pairs",
    "encode_scgi_headers",
    "encode_uwsgi_vars",
    "parse_fastcgi_pairs",
    "parse_scgi_headers",
    "parse_uwsgi_vars",
]

_UWSGI_MAX: Final = 0xFFFF
_OVERRIDDEN: Final = frozenset(("PATH_INFO", "SCRIPT_NAME"))
_OURS: Final = "wsgi."
_W: Final = 0x77  # a name that begins so may be one of ours, and is looked at again
_OURS_RAW: Final = b"wsgi."  # looked for by rfind: half of what find takes, for a w is rarer than a full stop
_MAX_DIGITS: Final = 18  # of a CONTENT_LENGTH: below 2**63, so that every file offset can hold it


def content_length(params: dict[str, str], protocol: str) -> int:
    """Return CONTENT_LENGTH in bytes, -1 where it is absent or empty (RFC 3875 section 4.1.2: digits only).

    Raises MalformedMessage for anything else: ``int()`` would take ``+5``, `` 5`` and ``1_0``.
    """
    text = params.get("CONTENT_LENGTH")
    if not text:
        return -1
    if not (text.isdigit() and text.isascii()) or len(text) > _MAX_DIGITS:
        raise MalformedMessage(protocol, f"CONTENT_LENGTH is not a number of bytes: {text[:40]!r}")
    return int(text)


def parse_uwsgi_vars(block: bytes, most: int) -> dict[str, str]:
    """Read uwsgi variables: 16-bit little-endian length and bytes, name after value after name."""
    text = block.decode("latin-1")
    params: dict[str, str] = {}
    end: i64 = len(block)
    at: i64 = 0
    count: i64 = 0
    ours = False
    try:
        for count in range(most + 1):  # noqa: B007  (the count is read after the loop)
            if at == end:
                break
            name: i64 = at + 2
            value: i64 = name + block[at]
            if block[at + 1]:  # nearly always 0: to ask costs less than to shift and add
                value += block[at + 1] << 8
            at = value + 2
            after: i64 = at + block[value]
            if block[value + 1]:
                after += block[value + 1] << 8
            if block[name] == _W:
                ours = True
            params[text[name:value]] = text[at:after]
            at = after
        else:
            raise LimitExceeded("uwsgi", "number of variables", most + 1, most, 431)
    except IndexError:
        raise MalformedMessage("uwsgi", "a variable is longer than the block of variables") from None
    if count != len(params) or "" in params or ours:
        return merge_repeated(_uwsgi_list(block, text), "uwsgi")
    return params


def _uwsgi_list(block: bytes, text: str) -> list[tuple[str, str]]:
    """Read a block that parse_uwsgi_vars has found sound, keeping repeated names."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(block):
        name = at + 2
        value = name + block[at] + (block[at + 1] << 8)
        at = value + 2 + block[value] + (block[value + 1] << 8)
        pairs.append((text[name:value], text[value + 2 : at]))
    return pairs


def parse_fastcgi_pairs(block: bytes, most: int) -> dict[str, str]:
    """Read FastCGI name-value pairs (FastCGI 1.0 section 3.4): each length in 1 byte, or in 4 with the top bit set."""
    text = block.decode("latin-1")
    params: dict[str, str] = {}
    end: i64 = len(block)
    at: i64 = 0
    count: i64 = 0
    ours = False
    try:
        for count in range(most + 1):  # noqa: B007  (the count is read after the loop)
            if at == end:
                break
            name_size: i64 = block[at]
            if name_size < 128:
                at += 1
            else:
                name_size = ((name_size & 127) << 24) | (block[at + 1] << 16) | (block[at + 2] << 8) | block[at + 3]
                at += 4
            value_size: i64 = block[at]
            if value_size < 128:
                at += 1
            else:
                value_size = ((value_size & 127) << 24) | (block[at + 1] << 16) | (block[at + 2] << 8) | block[at + 3]
                at += 4
            value: i64 = at + name_size
            after: i64 = value + value_size
            if block[at] == _W:
                ours = True
            params[text[at:value]] = text[value:after]
            at = after
        else:
            raise LimitExceeded("fastcgi", "number of parameters", most + 1, most, 431)
    except IndexError:
        raise MalformedMessage(
            "fastcgi", "a name-value pair is longer than the stream of parameters, or has no name"
        ) from None
    if count != len(params) or "" in params or ours:
        return merge_repeated(fastcgi_list(block), "fastcgi")
    return params


def fastcgi_list(block: bytes) -> list[tuple[str, str]]:
    """Read FastCGI name-value pairs, keeping repeated and empty names; raises MalformedMessage."""
    text = block.decode("latin-1")
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(block):
        name_size, at = _fastcgi_length(block, at)
        value_size, at = _fastcgi_length(block, at)
        value = at + name_size
        after = value + value_size
        if after > len(block):
            raise MalformedMessage("fastcgi", "a name-value pair is longer than its stream")
        pairs.append((text[at:value], text[value:after]))
        at = after
    return pairs


def _fastcgi_length(block: bytes, at: int) -> tuple[int, int]:
    if at < len(block) and block[at] < 128:
        return block[at], at + 1
    if at + 4 > len(block):
        raise MalformedMessage("fastcgi", "the stream of name-value pairs ends within a length")
    size = ((block[at] & 127) << 24) | (block[at + 1] << 16) | (block[at + 2] << 8) | block[at + 3]
    return size, at + 4


def parse_scgi_headers(block: bytes, most: int) -> dict[str, str]:
    """Read SCGI headers: name NUL value NUL, nothing after the last NUL."""
    strings = block.decode("latin-1").split("\0")
    count = len(strings) // 2
    if strings[-1] or len(strings) % 2 == 0:
        raise MalformedMessage("scgi", "the headers are not pairs of strings, each ended by a NUL byte")
    if count > most:
        raise LimitExceeded("scgi", "number of headers", count, most, 431)
    strings.pop()
    params: dict[str, str] = {}
    for at in range(0, 2 * count, 2):
        params[strings[at]] = strings[at + 1]
    if count != len(params) or "" in params or block.rfind(_OURS_RAW) >= 0:
        return merge_repeated(list(zip(strings[::2], strings[1::2])), "scgi")  # noqa: B905
    return params


def merge_repeated(pairs: list[tuple[str, str]], protocol: str) -> dict[str, str]:
    """Make one value of each name that came more than once; refuse an empty one.

    nginx before 1.23 sends a repeated request field as a repeated parameter. Fields are joined as HTTP does:
    ``; `` for Cookie (RFC 6265 section 5.4), ``, `` for the rest (RFC 9110 section 5.3). Any other name, and
    those whose value is no list, may be repeated only with the same value: which one counts would be a guess.
    But of SCRIPT_NAME and PATH_INFO the last counts: every recipe for nginx sets them behind an included file that sets
    them too, and no client can. ``wsgi.*`` names are dropped: they are the server's to set (PEP 3333).
    """
    params: dict[str, str] = {}
    for name, value in pairs:
        if not name:
            raise MalformedMessage(protocol, "a parameter without a name")
        if name.startswith(_OURS):
            continue
        before = params.get(name)
        if before is None:
            params[name] = value
        elif name == "HTTP_COOKIE":
            params[name] = before + "; " + value
        elif name.startswith("HTTP_") and name not in ("HTTP_HOST", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
            params[name] = before + ", " + value
        elif name in _OVERRIDDEN:
            params[name] = value
        elif before != value:
            raise MalformedMessage(
                protocol,
                f"the parameter {name[:80]!r} came twice, with different values"
                " (is it set beside an included file of parameters that sets it too?)",
            )
    return params


def encode_fastcgi_pairs(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Write FastCGI name-value pairs, each length in the shortest form; text is latin-1."""
    parts: list[bytes] = []
    for name, value in pairs:
        raw_name = name.encode("latin-1")
        raw_value = value.encode("latin-1")
        parts += (_encode_length(len(raw_name)), _encode_length(len(raw_value)), raw_name, raw_value)
    return b"".join(parts)


def _encode_length(size: int) -> bytes:
    return bytes((size,)) if size < 128 else (size | 0x80000000).to_bytes(4, "big")


def encode_scgi_headers(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Write SCGI headers (without the netstring around them); raises LocalProtocolError for a NUL within one."""
    parts: list[str] = []
    for name, value in pairs:
        if "\0" in name or "\0" in value or not name:
            raise LocalProtocolError("scgi", f"a header cannot hold a NUL byte or have no name: {name[:80]!r}")
        parts.append(name)
        parts.append(value)
    parts.append("")
    return "\0".join(parts).encode("latin-1")


def encode_uwsgi_vars(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Write uwsgi variables; raises LocalProtocolError where the block or one string passes 65,535 bytes."""
    parts: list[bytes] = []
    total = 0
    for name, value in pairs:
        for raw in (name.encode("latin-1"), value.encode("latin-1")):
            total += 2 + len(raw)
            if total > _UWSGI_MAX:
                raise LocalProtocolError("uwsgi", f"the variables pass {_UWSGI_MAX} bytes, all that datasize can say")
            parts.append(len(raw).to_bytes(2, "little"))
            parts.append(raw)
    return b"".join(parts)
