"""The PROXY protocol, the receiver's side: a proxy tells in front of a connection's first bytes whom it is made for.

Versions 1 and 2 of HAProxy's doc/proxy-protocol.txt (2020/03/05), whose sections are cited. Who may be believed is
not known here: any client can write such a header.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, TypeAlias

from gateways.errors import LimitExceeded, MalformedMessage

__all__ = ["Source", "parse_proxy_header"]

Source: TypeAlias = tuple[str, int] | str | None
"""As accept() tells a peer: host and port, or a unix socket's path; None where the connection's own peer counts."""

_V1_START: Final = b"PROXY "
_V1_MAX: Final = 107  # bytes of the line with its CRLF (section 2.1)
_V1_PROTOCOLS: Final = (b"TCP4", b"TCP6", b"UNKNOWN")
_V1_FOREIGN: Final = re.compile(rb"[^0-9A-Fa-f:. ]")
_V1_LINE: Final = re.compile(rb"PROXY TCP[46] ([^ ]+) ([^ ]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})")

_V2_START: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED: Final = 16  # bytes before the addresses
_V2_MAX: Final = 4096  # bytes after them; senders stay below 520, certificates' names included
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_UNIX_STREAM: Final = 0x31
_SIZES: Final = {_TCP4: 12, _TCP6: 36, _UNIX_STREAM: 216}
_UNIX_PATH: Final = 108


def parse_proxy_header(data: bytes) -> tuple[Source, int] | None:
    """Return the source that a connection's first bytes claim, and the header's size in bytes; None: more are needed.

    ``data`` is all that has come, from the first byte on; what follows the header is not looked at. Raises
    MalformedMessage, where it can before the header is whole, and LimitExceeded for one that is too long.
    """
    if data.startswith(_V1_START):
        return _version_1(data)
    if data.startswith(_V2_START):
        return _version_2(data)
    if _V1_START.startswith(data) or _V2_START.startswith(data):
        return None
    raise _malformed("the connection does not begin with a PROXY header")


def _version_1(data: bytes) -> tuple[Source, int] | None:
    """Read one line (section 2.1)."""
    end = data.find(b"\r\n", 0, _V1_MAX)
    line = data[:_V1_MAX] if end < 0 else data[:end]
    if end < 0 and line.endswith(b"\r"):
        line = line[:-1]  # its LF may follow
    protocol, space, rest = line[len(_V1_START) :].partition(b" ")
    if protocol not in _V1_PROTOCOLS:
        if end >= 0 or space or not any(known.startswith(protocol) for known in _V1_PROTOCOLS):
            raise _malformed("the protocol of a PROXY line is none of TCP4, TCP6 and UNKNOWN")
    elif protocol != b"UNKNOWN" and _V1_FOREIGN.search(rest) is not None:
        raise _malformed("a character in a PROXY line that belongs to no address and no port")
    if end < 0:
        if len(data) >= _V1_MAX:
            raise LimitExceeded("proxy", "PROXY line", _V1_MAX + 1, _V1_MAX, 400)
        return None
    if protocol == b"UNKNOWN":  # whatever follows must be ignored
        return None, end + 2
    found = _V1_LINE.fullmatch(line)
    if found is None or int(found[3]) > 65_535 or int(found[4]) > 65_535:
        raise _malformed("a PROXY line without two addresses and two ports")
    family = protocol == b"TCP4"
    source = _address(found[1].decode("ascii"), family)
    _address(found[2].decode("ascii"), family)
    return (source, int(found[3])), end + 2


def _address(text: str, four: bool) -> str:
    """Return an address in its canonical form."""
    try:
        return str(IPv4Address(text)) if four else _ipv6_text(IPv6Address(text))
    except AddressValueError:
        raise _malformed(f"{text!r} in a PROXY line is no IPv{4 if four else 6} address") from None


def _ipv6_text(address: IPv6Address) -> str:
    """Write an address as accept() does; Python 3.13 and those before it differ over mapped ones (RFC 4291 2.5.5.2)."""
    mapped = address.ipv4_mapped
    return str(address) if mapped is None else f"::ffff:{mapped}"


def _version_2(data: bytes) -> tuple[Source, int] | None:
    """Read the binary header (section 2.2). What follows the addresses (TLVs) is skipped."""
    if len(data) < 13:
        return None
    command = data[12]
    if command != _LOCAL and command != _PROXY:
        raise _malformed(f"version and command {command:#04x} of a PROXY header are not those of version 2")
    if len(data) < 14:
        return None
    kind = data[13]
    if command == _PROXY and (kind >> 4 > 3 or kind & 15 > 2):
        raise _malformed(f"the PROXY header has an address family and protocol that do not exist: {kind:#04x}")
    if len(data) < _V2_FIXED:
        return None
    size = int.from_bytes(data[14:16], "big")
    if size > _V2_MAX:
        raise LimitExceeded("proxy", "addresses and TLVs of a PROXY header", size, _V2_MAX, 400)
    # LOCAL: a health check; the other kinds are UNSPEC and datagrams, which may be taken for it.
    least = _SIZES.get(kind, 0) if command == _PROXY else 0
    if size < least:
        raise _malformed(f"the PROXY header has {size} bytes where its addresses take {least}")
    end = _V2_FIXED + size
    if len(data) < end:
        return None
    if least == 0:
        return None, end
    if kind == _TCP4:
        return (str(IPv4Address(data[16:20])), int.from_bytes(data[24:26], "big")), end
    if kind == _TCP6:
        return (_ipv6_text(IPv6Address(data[16:32])), int.from_bytes(data[48:50], "big")), end
    return data[16 : 16 + _UNIX_PATH].split(b"\0", 1)[0].decode("utf-8", "surrogateescape"), end


def _malformed(message: str) -> MalformedMessage:
    return MalformedMessage("proxy", message)
