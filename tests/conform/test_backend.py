from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from gateways.errors import ConfigError
from gateways.wire.backend import Backend, Peer, SCGIPeer, UWSGIPeer
from gateways.wire.backend_fastcgi import FastCGIPeer
from gateways.wire.fastcgi import begin, pair, rec, request
from gateways.wire.hub import Hub
from gateways.wire.target import Target, parse_target

REQUEST = request(1, {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3"}, b"abc")
HEAD = b"CONTENT_LENGTH\x003\0SCGI\x001\0"


def heard(kind: type[Peer], data: bytes, *, end: bool = False) -> Peer:
    """A peer that has read these bytes, in whatever pieces."""
    ours, theirs = socket.socketpair()
    hub = Hub()
    peer = kind(ours)
    hub.add(peer)
    with ours, theirs:
        for byte in data:
            theirs.send(bytes([byte]))
            assert hub.until(lambda: peer.received_bytes, 5)
        if end:
            theirs.shutdown(socket.SHUT_WR)
        before = len(data)
        assert hub.until(lambda: peer.received_bytes == before and (peer.eof or not end), 5)
    return peer


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (FastCGIPeer, REQUEST),
        (SCGIPeer, b"24:" + HEAD + b",abc"),
        (UWSGIPeer, b"\0\x13\0\0\x0e\0CONTENT_LENGTH\x01\x003abc"),
    ],
)
def test_a_request_without_a_fault(kind: type[Peer], data: bytes) -> None:
    peer = heard(kind, data)
    assert peer.faults == {}
    (arrival,) = peer.arrivals
    assert (arrival.params["CONTENT_LENGTH"], bytes(arrival.body), arrival.whole) == ("3", b"abc", True)


@pytest.mark.parametrize(
    ("kind", "data", "fault"),
    [
        (FastCGIPeer, b"\2" + REQUEST[1:], "version"),
        (FastCGIPeer, rec(6, 1), "types"),
        (FastCGIPeer, rec(5, 0), "id"),
        (FastCGIPeer, rec(4, 9), "inactive"),
        (FastCGIPeer, rec(9, 1), "management"),
        (FastCGIPeer, REQUEST[:-3], "cut"),
        (FastCGIPeer, begin(1) + rec(4, 1, pair("", "a")) + rec(4, 1), "names"),
        (FastCGIPeer, begin(1) + rec(4, 1, pair("A", "a") * 2) + rec(4, 1), "duplicates"),
        (FastCGIPeer, begin(1) + rec(4, 1, b"\x80\0\0") + rec(4, 1), "pairs"),
        (SCGIPeer, b"x", "netstring"),
        (SCGIPeer, b"024:" + HEAD + b",abc", "netstring"),
        (SCGIPeer, b"24:" + HEAD + b";abc", "comma"),
        (SCGIPeer, b"25:" + HEAD + b"a,abc", "strings"),
        (SCGIPeer, b"7:SCGI\x001\0,", "first"),
        (SCGIPeer, b"24:" + HEAD + b",abcd", "surplus"),
        (SCGIPeer, b"24:" + HEAD, "cut"),
        (UWSGIPeer, b"\5\0\0\0", "modifiers"),
        (UWSGIPeer, b"\0\3\0\0\1\0A", "block"),
        (UWSGIPeer, b"\0\2\0\0\1\0", "block"),
    ],
)
def test_faults(kind: type[Peer], data: bytes, fault: str) -> None:
    assert fault in heard(kind, data, end=True).faults


def test_a_unix_socket_is_removed_and_a_stale_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    backend = Backend(parse_target(f"scgi+unix://{path}"))
    with pytest.raises(ConfigError, match="cannot listen on"):
        Backend(Target("scgi", str(path)))
    backend.close()
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="cannot listen on"):
        Backend(Target("scgi", str(path)))
    assert path.read_text() == "mine"


def test_waiting_has_an_end() -> None:
    start = time.monotonic()
    assert not Hub().until(lambda: False, 0.05)
    assert 0.04 < time.monotonic() - start < 5
