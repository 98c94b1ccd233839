"""PROXY headers of both versions: whole, byte by byte, at every split, with other bytes behind them, and wrong ones."""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs.proxy import Source, parse_proxy_header
from gateways.errors import LimitExceeded, MalformedMessage, RemoteProtocolError
from gateways.testing.noisy import any_wire

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
BEHIND: Final = (b"GET / HTTP/1.1\r\n", b"\1\1\0\1\0\10\0\0", b"\r\n", b"\n", b"\0", b"PROXY ", SIGNATURE, b" ")


def binary(command: int, kind: int, addresses: bytes = b"", size: int | None = None) -> bytes:
    """A version 2 header; ``size`` is what it says of its own length, where that is not true."""
    return SIGNATURE + struct.pack(">BBH", command, kind, len(addresses) if size is None else size) + addresses


def tcp4(source: str = "203.0.113.7", port: int = 56_324) -> bytes:
    there, here = ipaddress.IPv4Address(source).packed, ipaddress.IPv4Address("192.0.2.1").packed
    return there + here + struct.pack(">HH", port, 443)


def tcp6(source: str = "2001:db8::7", port: int = 56_324) -> bytes:
    there, here = ipaddress.IPv6Address(source).packed, ipaddress.IPv6Address("2001:db8::1").packed
    return there + here + struct.pack(">HH", port, 443)


def unix(path: bytes = b"/run/client.sock") -> bytes:
    return path.ljust(108, b"\0") + b"/run/haproxy.sock".ljust(108, b"\0")


LONGEST_6: Final = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
TLVS: Final = b"\4\0\3abc\2\0\x0bexample.org"

VALID: dict[bytes, Source] = {
    b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n": ("192.168.0.1", 56_324),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": ("255.255.255.255", 65_535),
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n": ("0.0.0.0", 0),  # noqa: S104
    b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 1 2\r\n": ("2001:db8::7", 1),
    b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0007 ::1 1 2\r\n": ("2001:db8::7", 1),
    f"PROXY TCP6 {LONGEST_6} {LONGEST_6} 65535 65535\r\n".encode(): (LONGEST_6, 65_535),
    b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 5 6\r\n": ("::ffff:203.0.113.7", 5),
    b"PROXY TCP6 ::ffff:cb00:7107 ::1 5 6\r\n": ("::ffff:203.0.113.7", 5),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN \r\n": None,
    f"PROXY UNKNOWN {LONGEST_6} {LONGEST_6} 65535 65535\r\n".encode(): None,
    b"PROXY UNKNOWN \n\r\xff\0 whatever it is\r\n": None,
    b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n": None,
    binary(0x21, 0x11, tcp4()): ("203.0.113.7", 56_324),
    binary(0x21, 0x11, tcp4() + TLVS): ("203.0.113.7", 56_324),
    binary(0x21, 0x11, tcp4().ljust(4096, b"\xff")): ("203.0.113.7", 56_324),
    binary(0x21, 0x21, tcp6()): ("2001:db8::7", 56_324),
    binary(0x21, 0x21, tcp6() + TLVS): ("2001:db8::7", 56_324),
    binary(0x21, 0x21, tcp6("::ffff:203.0.113.7", 0)): ("::ffff:203.0.113.7", 0),
    binary(0x21, 0x31, unix()): "/run/client.sock",
    binary(0x21, 0x31, unix(b"/" + b"x" * 107) + TLVS): "/" + "x" * 107,
    binary(0x21, 0x31, unix(b"")): "",
    binary(0x21, 0x31, unix(b"\0abstract")): "",
    binary(0x21, 0x31, unix(b"/caf\xc3\xa9\xff")): "/caf\u00e9\udcff",
    binary(0x20, 0x00): None,
    binary(0x20, 0x00, TLVS): None,
    binary(0x20, 0x11, tcp4()): None,  # a health check: the family is ignored
    binary(0x20, 0x11): None,
    binary(0x20, 0xFF, b"what is this"): None,
    binary(0x21, 0x00): None,
    binary(0x21, 0x00, tcp4()): None,
    binary(0x21, 0x01, tcp4()): None,
    binary(0x21, 0x10, tcp4()): None,
    binary(0x21, 0x12, tcp4()): None,  # datagrams: as UNSPEC
    binary(0x21, 0x22, tcp6()): None,
    binary(0x21, 0x32, unix()): None,
    binary(0x21, 0x12): None,
}
"""Header -> the source that it claims. Nothing in it is part of the connection's own bytes."""

MALFORMED: dict[bytes, str] = {
    b"G": "begin with a PROXY header",
    b"\0": "begin with a PROXY header",
    b"p": "begin with a PROXY header",
    b"PROXY\r": "begin with a PROXY header",
    b"PROXYT": "begin with a PROXY header",
    b"PROXY\t": "begin with a PROXY header",
    b"\r\n\r\n\0\r\nQUIT\r": "begin with a PROXY header",
    b"\r\n\r\nG": "begin with a PROXY header",
    b"PROXY  ": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY \r\n": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY X": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY t": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY TCP5": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY TCP\r\n": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY TCP44": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY UD": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY UNKNOWNS": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY UNKNOWN\n": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY UNKNOWN\r\r": "none of TCP4, TCP6 and UNKNOWN",
    b"PROXY TCP4\rX": "none of TCP4, TCP6 and UNKNOWN",
    # a line that ends in LF alone, or in CR alone, is refused and not waited for
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n": "a character",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r1": "a character",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\r": "a character",
    b"PROXY TCP4 192.0.2.7\t": "a character",
    b"PROXY TCP4 l": "a character",
    b"PROXY TCP4 -": "a character",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 +": "a character",
    b"PROXY TCP6 fe80::1%": "a character",
    b"PROXY TCP6 [": "a character",
    b"PROXY TCP4 \0": "a character",
    b"PROXY TCP4 \xd9": "a character",
    b"PROXY TCP4\r\n": "two addresses and two ports",
    b"PROXY TCP4 \r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n": "two addresses and two ports",
    b"PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7  192.0.2.1 1 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 00\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 100000 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 a 2\r\n": "two addresses and two ports",
    b"PROXY TCP4 192.0.2.256 192.0.2.1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 192.0.2.7.1 192.0.2.1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 3221225991 192.0.2.1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 192.0.2.7 192.0.2.. 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 ::1 ::1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n": "no IPv4 address",
    b"PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n": "no IPv6 address",
    b"PROXY TCP6 ::1 192.0.2.1 1 2\r\n": "no IPv6 address",
    b"PROXY TCP6 1::2::3 ::1 1 2\r\n": "no IPv6 address",
    b"PROXY TCP6 12345:: ::1 1 2\r\n": "no IPv6 address",
    b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n": "no IPv6 address",
    SIGNATURE + b"\x11": "not those of version 2",
    SIGNATURE + b"\x31": "not those of version 2",
    SIGNATURE + b"\x22": "not those of version 2",
    SIGNATURE + b"\0": "not those of version 2",
    SIGNATURE + b"\x21\x40": "do not exist",
    SIGNATURE + b"\x21\x13": "do not exist",
    SIGNATURE + b"\x21\xff": "do not exist",
    binary(0x21, 0x11, size=11): "its addresses take 12",
    binary(0x21, 0x11, size=0): "its addresses take 12",
    binary(0x21, 0x21, size=35): "its addresses take 36",
    binary(0x21, 0x31, size=215): "its addresses take 216",
}
"""Bytes that are refused with their last one, and the reason."""

TOO_LONG: dict[bytes, tuple[int, int]] = {
    b"PROXY UNKNOWN ".ljust(107, b"x"): (108, 107),
    b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r": (108, 107),
    b"PROXY TCP4 ".ljust(107, b"1"): (108, 107),
    b"PROXY TCP6 ".ljust(106, b"1") + b"\r": (108, 107),
    binary(0x21, 0x11, size=4097): (4097, 4096),
    binary(0x20, 0x00, size=65_535): (65_535, 4096),
    binary(0x21, 0x00, size=65_535): (65_535, 4096),
}
"""The same, for what passes a limit: value and maximum."""


@pytest.mark.parametrize(("wire", "source"), VALID.items())
def test_valid(wire: bytes, source: Source) -> None:
    """Nothing is said before the last byte, and what follows makes no difference."""
    assert all(parse_proxy_header(wire[:size]) is None for size in range(len(wire)))
    assert parse_proxy_header(wire) == (source, len(wire))
    for more in BEHIND:
        assert parse_proxy_header(wire + more) == (source, len(wire))


@pytest.mark.parametrize(("wire", "words"), MALFORMED.items())
def test_malformed(wire: bytes, words: str) -> None:
    """It is refused as soon as the byte is there that makes it wrong, and stays refused in the same words."""
    assert all(parse_proxy_header(wire[:size]) is None for size in range(len(wire)))
    for more in (b"", *BEHIND):
        with pytest.raises(MalformedMessage, match=words) as refused:
            parse_proxy_header(wire + more)
        assert refused.value.protocol == "proxy"
        assert refused.value.status_hint == 400


@pytest.mark.parametrize(("wire", "numbers"), TOO_LONG.items())
def test_too_long(wire: bytes, numbers: tuple[int, int]) -> None:
    assert all(parse_proxy_header(wire[:size]) is None for size in range(len(wire)))
    for more in (b"", *BEHIND):
        with pytest.raises(LimitExceeded) as refused:
            parse_proxy_header(wire + more)
        assert (refused.value.value, refused.value.maximum) == numbers


def test_the_lines_of_the_specification_have_its_lengths() -> None:
    """Section 2.1: 56, 104, 15 and 107 characters."""
    assert {len(wire) for wire in VALID if wire.startswith(b"PROXY")} >= {56, 104, 15, 107}


def outcome(data: bytes) -> object:
    """What comes of the bytes, comparable; anything but a result or a RemoteProtocolError is a failure."""
    try:
        return parse_proxy_header(data)
    except RemoteProtocolError as error:
        return type(error), str(error)


WIRES: Final = [*VALID, *MALFORMED, *TOO_LONG]


@given(any_wire(WIRES))
def test_any_bytes_however_they_are_cut(data: bytes) -> None:
    """The first outcome of a start is that of all that begins with it."""
    whole = outcome(data)
    seen: object = None
    for size in range(len(data) + 1):
        found = outcome(data[:size])
        if seen is not None:
            assert found == seen
        seen = found
    assert seen == whole
    if isinstance(whole, tuple) and isinstance(whole[1], int):
        assert len(data) >= whole[1] > 0


PORTS: Final = st.integers(0, 65_535)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), PORTS, PORTS, st.binary(max_size=40), st.binary())
def test_every_address(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, other: int, tlvs: bytes, behind: bytes
) -> None:
    """Both versions say the same, however the address is written."""
    ports = struct.pack(">HH", port, other)
    kind = 0x11 if address.version == 4 else 0x21
    wires = [binary(0x21, kind, address.packed * 2 + ports + tlvs)]
    texts = {address.compressed, address.exploded, address.exploded.upper()}
    wires += [f"PROXY TCP{address.version} {text} {address} {port} {other}\r\n".encode() for text in texts]
    results = {parse_proxy_header(wire + behind): len(wire) for wire in wires}
    for found, size in results.items():
        assert found is not None
        assert found[1] == size
        assert found[0] is not None
        assert ipaddress.ip_address(found[0][0]) == address
        assert found[0][1] == port
    assert len({found[0] for found in results if found is not None}) == 1
