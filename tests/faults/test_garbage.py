"""Bytes that are none of the protocol's: refused in a line, and nothing else happens."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.faults.conftest import Patient
from tests.server.peers import PROTOCOLS, answer_of, request

TLS_HELLO = (
    bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + bytes.fromhex("20") + bytes(32)
    + bytes.fromhex("0008130213031301c02f01000073") + bytes(115)
)  # fmt: skip
FOREIGN = {
    "http": request("http"),
    "http, a large one": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000,
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": TLS_HELLO,
    "fastcgi": request("fastcgi"),
    "scgi": request("scgi"),
    "uwsgi": request("uwsgi"),
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "smtp": b"EHLO example.org\r\n",
    "proxy 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n",
    "proxy 2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "zeros": bytes(10_000),
    "ones": b"\xff" * 10_000,
    "version 1 and nothing": b"\1" * 10_000,
    "empty lines": b"\r\n" * 5_000,
    "digits": b"9" * 10_000,
    "letters": b"x" * 30_000,
}


def exchange(patient: Patient, protocol: str, kind: str, data: bytes) -> bytes:
    """Send, read all that comes, though the server may close at any moment."""
    answer = b""
    with patient.server.peer(protocol, kind) as peer:
        with contextlib.suppress(ConnectionError):
            peer.send(data)
            peer.end()
        with contextlib.suppress(ConnectionError):
            while block := peer.sock.recv(65_536):
                answer += block
    return answer


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "auto"])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_protocols(patient: Patient, protocol: str, name: str) -> None:
    understood = protocol == "auto" and name in ("http", "fastcgi", "scgi", "uwsgi", "http, a large one")
    if name.startswith("http") and name != "http/2" and protocol == "http":
        understood = True
    if name == protocol:
        understood = True
    for kind in ("unix", "tcp"):
        patient.mark()
        answer = exchange(patient, protocol, kind, FOREIGN[name])
        if understood:
            assert b"200 OK" in answer
            assert patient.lines() == []
            continue
        assert b"200 OK" not in answer
        if name == "version 1 and nothing" and protocol in ("fastcgi", "auto"):
            continue  # records of types and requests that do not exist are ignored, as the specification wants
        if name == "zeros" and protocol in ("uwsgi", "auto"):
            continue  # an empty block of variables: a request without any
        lines = patient.await_lines(1)
        assert len(lines) == 1, lines
        assert lines[0].startswith("refused: ")


def test_http_to_a_fastcgi_port_says_so(patient: Patient) -> None:
    exchange(patient, "fastcgi", "tcp", request("http"))
    (line,) = patient.await_lines(1)
    assert line.startswith("refused: fastcgi 127.0.0.1:")


def test_tls_to_an_http_port_is_told(patient: Patient) -> None:
    answer = exchange(patient, "http", "tcp", TLS_HELLO)
    assert answer_of("http", answer).status == 400


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "auto"])
def test_random_bytes(patient: Patient, protocol: str) -> None:
    source = random.Random(protocol)
    for number in range(150):
        data = source.randbytes(source.choice((1, 2, 8, 50, 500, 5_000)))
        exchange(patient, protocol, ("unix", "tcp")[number % 2], data)
    assert len(patient.lines()) <= 150, "no more than a line for each"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_with_wrong_bytes_in_them(patient: Patient, protocol: str) -> None:
    """Good requests with some bytes changed, removed, repeated."""
    source = random.Random(protocol)
    wire = request(protocol, "/a/path", b"a body" * 20)
    for number in range(400):
        data = bytearray(wire)
        for _ in range(source.randint(1, 4)):
            at = source.randrange(len(data))
            choice = source.random()
            if choice < 0.6:
                data[at] = source.randrange(256)
            elif choice < 0.8:
                del data[at : at + source.randint(1, 20)]
            else:
                data[at:at] = data[at : at + source.randint(1, 20)]
            if not data:
                break
        exchange(patient, protocol, ("unix", "tcp")[number % 2], bytes(data))
    assert len(patient.lines()) <= 800


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_too_large(patient: Patient, protocol: str) -> None:
    """Heads and bodies over the limit are answered with the right status, over either family, though more is coming."""
    for kind in ("unix", "tcp"):
        patient.mark()
        path = "/" + "x" * (30_000 if protocol == "http" else 12_000)  # CGI's variables hold it three times
        answer = answer_of(protocol, exchange(patient, protocol, kind, request(protocol, path)))
        assert answer.status in (414, 431)
        answer = answer_of(protocol, exchange(patient, protocol, kind, request(protocol, "/", b"x" * 1_000_000)))
        assert answer.status == 413
        assert len(patient.await_lines(2)) == 2
