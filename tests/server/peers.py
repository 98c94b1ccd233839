"""Web servers, as far as the server's tests need them: requests and answers, written and read by hand."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, TypeAlias, final

from gateways.testing.framing.fastcgi_records import (
    END,
    KEEP,
    STDERR,
    STDIN,
    STDOUT,
    begin,
    pairs,
    rec,
    request as fastcgi_request,
)

__all__ = [
    "PROTOCOLS",
    "SECONDS",
    "Address",
    "Answer",
    "Peer",
    "answer_of",
    "head_of",
    "request",
    "reset",
]

PROTOCOLS: Final = ("fastcgi", "scgi", "uwsgi", "http")
SECONDS: Final = 30.0
"""The deadline of everything that a test waits for."""
Address: TypeAlias = str | bytes | tuple[str, int]


@dataclass
class Answer:
    """One response; ``status`` 0 stands for none."""

    status: int
    head: bytes
    body: bytes
    errors: bytes = b""


def params_of(path: str, body: bytes, length: int | None) -> dict[str, str]:
    method = "POST" if body or length else "GET"
    return {
        "CONTENT_LENGTH": str(len(body) if length is None else length),
        "REQUEST_METHOD": method,
        "REQUEST_URI": path,
        "DOCUMENT_URI": path,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.7",
        "SCGI": "1",
    }


def request(
    protocol: str, path: str = "/", body: bytes = b"", *, keep: bool = False, stream: int = 1, length: int | None = None
) -> bytes:
    """A whole request; ``length`` is what it says of its body, where that is not true."""
    if protocol == "http":
        lines = [
            f"{'POST' if body or length else 'GET'} {path} HTTP/1.1",
            "Host: localhost",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        if body or length:
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        return "\r\n".join([*lines, "", ""]).encode() + body
    params = params_of(path, body, length)
    if protocol == "fastcgi":
        return fastcgi_request(stream, params, body, KEEP if keep else 0)
    items = [(name.encode(), value.encode()) for name, value in params.items()]
    if protocol == "scgi":
        block = b"".join(name + b"\0" + value + b"\0" for name, value in items)
        return b"%d:%b,%b" % (len(block), block, body)
    assert protocol == "uwsgi"
    block = b"".join(struct.pack("<H", len(text)) + text for item in items for text in item)
    return struct.pack("<BHB", 0, len(block), 0) + block + body


def head_of(protocol: str, path: str = "/", *, length: int, keep: bool = False, stream: int = 1) -> bytes:
    """A request without the ``length`` bytes of its body (nor, for FastCGI, the end of it)."""
    if protocol == "fastcgi":
        block = pairs(params_of(path, b"", length))
        return begin(stream, KEEP if keep else 0) + rec(4, stream, block) + rec(4, stream)
    return request(protocol, path, length=length, keep=keep)


def answer_of(protocol: str, data: bytes, stream: int = 1) -> Answer:
    """Read a whole response."""
    errors = b""
    if protocol == "fastcgi":
        out: list[bytes] = []
        ended = False
        for kind, number, content in records(data):
            if number == stream and not ended:
                out += [content] if kind == STDOUT else []
                errors += content if kind == STDERR else b""
                ended = kind == END
        assert ended, "no FCGI_END_REQUEST"
        data = b"".join(out)
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.match(rb"(?:Status: |HTTP/1\.1 )(\d\d\d)", head)
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunk(body)
    return Answer(int(found[1]) if found else 0, head, body, errors)


def unchunk(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return body


def records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, stream and content of each record; the wire must end with one."""
    at = 0
    while at < len(data):
        assert data[at] == 1, "no FastCGI record"
        kind, number, size, padding = struct.unpack_from(">xBHHB", data, at)
        assert len(data) >= at + 8 + size + padding, "the wire ends within a record"
        yield kind, number, data[at + 8 : at + 8 + size]
        at += 8 + size + padding


def reset(sock: socket.socket) -> None:
    """Close with a reset (TCP), or at once (unix)."""
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@final
class Peer:
    """One connection to a server, with a deadline on everything."""

    def __init__(self, address: Address, protocol: str = "http", *, receive_buffer: int = 0) -> None:
        self.protocol = protocol
        self.sock = socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(SECONDS)
        self.buffer = b""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.sock.connect(address)
            except BlockingIOError:  # the backlog of a unix socket is full
                assert time.monotonic() < deadline
                time.sleep(0.001)
            except BaseException:
                self.sock.close()
                raise
            else:
                break
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        for at in range(len(data)):
            self.sock.sendall(data[at : at + 1])

    def end(self) -> None:
        """Say that nothing more comes, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Return all until the server closes; a reset is an error."""
        blocks, self.buffer = [self.buffer], b""
        while block := self.sock.recv(65_536):
            blocks.append(block)
        return b"".join(blocks)

    def answer(self) -> Answer:
        """Return the answer that ends with the connection."""
        return answer_of(self.protocol, self.read())

    def get(self, path: str = "/", body: bytes = b"") -> Answer:
        """Send a request and return its answer, which ends with the connection."""
        self.send(request(self.protocol, path, body))
        return self.answer()

    def more(self) -> None:
        block = self.sock.recv(65_536)
        if not block:
            raise ConnectionError("the server has closed the connection within a response")
        self.buffer += block

    def record(self) -> tuple[int, int, bytes]:
        """Return the next FastCGI record."""
        while True:
            if len(self.buffer) >= 8:
                kind, number, size, padding = struct.unpack_from(">xBHHB", self.buffer)
                end = 8 + size + padding
                if len(self.buffer) >= end:
                    content = self.buffer[8 : 8 + size]
                    self.buffer = self.buffer[end:]
                    return kind, number, content
            self.more()

    def next_answer(self) -> tuple[int, Answer]:
        """Return the next whole answer of a kept connection, and its stream; others may come in between."""
        if self.protocol == "http":
            return 1, self._next_http_answer()
        parts: dict[int, bytes] = {}
        while True:
            kind, number, content = self.record()
            parts[number] = parts.get(number, b"") + rec(kind, number, content)
            if kind == END:
                return number, answer_of("fastcgi", parts[number], number)

    def answers(self, count: int) -> dict[int, Answer]:
        """Return so many answers of a FastCGI connection, by stream; they may be interleaved."""
        found: dict[int, Answer] = {}
        parts: dict[int, bytes] = {}
        while len(found) < count:
            kind, number, content = self.record()
            assert number not in found, "a record after the end of its request"
            parts[number] = parts.get(number, b"") + rec(kind, number, content)
            if kind == END:
                found[number] = answer_of("fastcgi", parts[number], number)
        return found

    def _next_http_answer(self) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            self.more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        assert found, "no Content-Length in a kept connection's answer"
        size = int(found[1])
        while len(self.buffer) < size:
            self.more()
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        status = re.match(rb"HTTP/1\.1 (\d\d\d)", head)
        assert status
        return Answer(int(status[1]), head, body)

    def keep_get(self, path: str = "/", body: bytes = b"") -> Answer:
        """Send a request that keeps the connection, and return its answer."""
        self.send(request(self.protocol, path, body, keep=True))
        return self.next_answer()[1]

    def is_closed(self) -> bool:
        """Whether the server has closed, and sent nothing before."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        with contextlib.suppress(ConnectionError):
            return not self.sock.recv(1, socket.MSG_PEEK)
        return True

    def wait_closed(self, seconds: float = SECONDS) -> float:
        """Wait until the server closes without another byte; returns how long that took, in seconds."""
        start = time.monotonic()
        self.sock.settimeout(seconds)
        with contextlib.suppress(ConnectionError):
            assert self.sock.recv(1) == b""
        return time.monotonic() - start

    def stdin(self, stream: int, data: bytes = b"", *, end: bool = False) -> None:
        """Send body bytes of a FastCGI request."""
        self.send((rec(STDIN, stream, data) if data else b"") + (rec(STDIN, stream) if end else b""))
