"""A small web server before a FastCGI, SCGI or uwsgi backend, which breaks one rule when it is told to.

It reads the backend's answers with the codecs of the web server's side; what it sends is made by hand
(``sent_by_front``), so that it can be wrong.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from gateways.codecs.events import Body, EndOfResponse, Refused, Request, ResponseHead
from gateways.codecs.front import FrontCodec
from gateways.codecs.fronts import FRONT_CODECS
from gateways.errors import RemoteProtocolError
from gateways.limits import DEFAULT_LIMITS
from gateways.wire.fastcgi import rec
from tests.conform.sent_by_front import Asked, encode
from tests.servers import free_port

__all__ = ["FakeFront"]

Made = TypeVar("Made", bound="FakeFront")
REASONS = {"status-200": "200 OK", "status-500": "500 No"}
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class Bad(Exception):
    """The backend's answer is none: 502."""


class Left(Exception):
    """The client has gone."""


@dataclass
class Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Link:
    """A connection to the backend."""

    sock: socket.socket
    codec: FrontCodec
    raw: bytes = b""
    held: bytes = b""
    stdout: int = 0
    ended: bool = False


class FakeFront:
    """Listens on the loopback interface for the length of a ``with`` block."""

    def __init__(self, protocol: str, *, keep: bool) -> None:
        self.protocol = protocol
        self.asks_to_keep = keep
        self.backend = ("127.0.0.1", free_port())
        self.broken = ""
        self.idle: list[Link] = []
        self.ending = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept)
        self.handlers: list[threading.Thread] = []
        self.params: dict[str, str] = {}
        self.body = b""
        self.error = b""
        self.before: bytes = b""
        self.asked = 0

    def __enter__(self: Made) -> Made:  # noqa: PYI019 - Self is 3.11's
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ending.set()
        for thread in [self.thread, *self.handlers]:
            thread.join(10)
        self.listener.close()
        self.breaks("")

    def breaks(self, rule: str) -> None:
        """Break this rule from now on, and forget what was."""
        self.broken = rule
        self.params, self.body, self.error, self.before = {}, b"", b"", b""
        self.asked = 0
        while self.idle:
            self.idle.pop().sock.close()

    @property
    def keep(self) -> bool:
        """FCGI_KEEP_CONN."""
        return self.asks_to_keep and self.broken != "keep-unasked"

    def accept(self) -> None:
        while not self.ending.is_set():
            if not select.select([self.listener], [], [], 0.05)[0]:
                continue
            sock, _ = self.listener.accept()
            self.handlers = [each for each in self.handlers if each.is_alive()]
            self.handlers.append(threading.Thread(target=self.handle, args=(sock,)))
            self.handlers[-1].start()

    def handle(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, Left):
            sock.settimeout(5)
            asked = self.read(sock)
            self.asked += 1
            if self.broken == "dies" and self.asked > 1:
                return
            if "chunked-refused" in self.broken and asked.chunked:
                answer = Answer("411 Length Required", [], b"")
            else:
                try:
                    answer = self.ask(sock, asked)
                except Bad:
                    answer = Answer("502 Bad Gateway", [], b"bad gateway")
            sock.sendall(self.written(asked, answer))

    # -- from the client ----------------------------------------------------------------------------------------------

    def more(self, sock: socket.socket) -> bytes:
        data = sock.recv(65_536)
        if not data:
            raise Left
        return data

    def read(self, sock: socket.socket) -> Asked:
        """Read a whole request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.more(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        fields = [(name, value) for name, _, value in (line.partition(":") for line in lines)]
        found = {name.lower(): value.strip() for name, value in fields}
        if "expect" in found:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunked = "transfer-encoding" in found
        try:
            if chunked:
                while not body.endswith(b"0\r\n\r\n"):
                    body += self.more(sock)
                if self.broken != "chunks-kept":
                    body = dechunked(body)
            else:
                while len(body) < int(found.get("content-length") or 0):
                    body += self.more(sock)
        except Left:
            if self.broken != "short-served":
                raise
        has_body = chunked or "content-length" in found
        return Asked(method, target, version, fields, body, has_body, chunked, self.listener.getsockname())

    # -- to the backend -----------------------------------------------------------------------------------------------

    def ask(self, client: socket.socket, asked: Asked) -> Answer:
        """Have the backend answer."""
        pairs, body = asked.pairs(self.broken), asked.sent_body(self.broken)
        if self.broken == "params-remembered":
            self.params |= dict(pairs)
            pairs = list(self.params.items())
        if self.broken == "body-remembered":
            body, self.body = self.body + body, body[:1]
            pairs = [(name, str(len(body)) if name == "CONTENT_LENGTH" else value) for name, value in pairs]
        data = encode(self.protocol, self.broken, asked, pairs, body, keep=self.keep)
        while True:
            link, used = self.link()
            params = {"REQUEST_METHOD": asked.method}
            link.codec.send(Request(1, params, keep=self.keep or self.broken == "keep-unasked"))
            link.sock.sendall(data)
            if self.broken == "cut" and asked.method == "POST":
                link.sock.shutdown(socket.SHUT_WR)
            try:
                answer = self.answered(client, link)
            except (Bad, OSError) as error:
                link.sock.close()
                if used and not link.raw and self.broken != "stale":
                    continue
                raise Bad from error
            except Left:
                link.sock.close()
                raise
            if link.ended and (self.keep or self.broken == "keep-unasked") and self.broken != "never-reused":
                self.idle.append(link)
            else:
                link.sock.close()
            return answer

    def link(self) -> tuple[Link, bool]:
        """A connection, and whether it has been used before."""
        while self.idle:
            link = self.idle.pop()
            link.raw, link.stdout, link.ended = b"", 0, False
            if self.broken == "stale":
                return link, True
            if not select.select([link.sock], [], [], 0)[0]:
                return link, True
            data = link.sock.recv(65_536)
            if data:
                if self.broken == "idle-bytes":
                    link.sock.close()
                    raise Bad
                try:
                    link.codec.feed(data)
                except RemoteProtocolError:
                    link.sock.close()
                    raise Bad from None
                return link, True
            link.sock.close()
        sock = socket.create_connection(self.backend, 5)
        return Link(sock, FRONT_CODECS[self.protocol](DEFAULT_LIMITS)), False

    def answered(self, client: socket.socket, link: Link) -> Answer:
        """Read the backend's answer; while it is awaited the client may leave."""
        head: ResponseHead | None = None
        body = b""
        watched = [link.sock, client]
        while True:
            ready = select.select(watched, [], [], 0.05)[0]
            if self.ending.is_set():
                raise Left
            if client in ready and not client.recv(1, socket.MSG_PEEK):
                if self.broken not in ("abort-ignored", "short-served"):
                    if self.protocol == "fastcgi":
                        link.sock.sendall(rec(2, 1))
                    raise Left
                watched = [link.sock]
            if link.sock not in ready:
                continue
            try:
                data = link.sock.recv(65_536)
            except OSError:
                data = b""
            first = not link.raw
            link.raw += data
            if not data and self.broken == "eof-hang":
                self.ending.wait(0.5)
                raise Left
            try:
                events = link.codec.feed(self.filtered(link, data)) if data else link.codec.feed_eof()
            except RemoteProtocolError as error:
                return self.failed(head, body, link, events=list(error.events))
            for event in events:
                if isinstance(event, ResponseHead):
                    head = event
                elif isinstance(event, Body):
                    body += event.data
                elif isinstance(event, Refused):
                    return self.failed(head, body, link)
                elif isinstance(event, EndOfResponse):
                    if head is None:
                        return self.failed(head, body, link)
                    link.ended = self.protocol == "fastcgi"
                    self.check(link)
                    return Answer(head.status, head.headers, body)
            if first and self.broken == "one-read" and not (link.codec.complete and head):
                raise Bad

    def failed(self, head: ResponseHead | None, body: bytes, link: Link, events: list[object] | None = None) -> Answer:
        """What a client gets of an answer that is none."""
        for event in events or []:
            head = event if isinstance(event, ResponseHead) else head
            body += event.data if isinstance(event, Body) else b""
        if self.broken == "answer-remembered":
            self.error = link.raw[-30:]
        if self.broken == "lenient":
            return Answer("200 OK", [], body)
        if head and self.broken == "length-passed":
            return Answer("200 OK", [("X-Raw", "yes"), *head.headers], body + b"surplus")
        if head and self.broken == "length-filled":
            return Answer("200 OK", [], body + b"x" * 10)
        raise Bad

    def check(self, link: Link) -> None:
        """Refuse answers that are legal."""
        rule, raw = self.broken, link.raw
        head = raw.partition(b"\n\r\n")[0].partition(b"\n\n")[0]
        if (
            (rule == "reason-needed" and re.search(rb"(Status:|HTTP/1.1) \d{3}\r", head))
            or (rule == "status-needed" and b"Status:" not in head and b"HTTP/1.1" not in head)
            or (rule == "crlf-needed" and re.search(rb"[^\r]\nContent", raw))
            or (rule == "blank-needed" and b"X-Conform-A:b" in raw)
            or (rule == "empty-refused" and b"X-Conform-A:\r" in raw)
            or (rule == "head-4k" and len(head) > 4_096)
        ):
            raise Bad

    def filtered(self, link: Link, data: bytes) -> bytes:
        """The records of FastCGI as the codec shall see them."""
        if self.protocol != "fastcgi":
            return data
        data, link.held, result = link.held + data, b"", b""
        while len(data) >= 8:
            version, kind, number, size, padding, reserved = struct.unpack_from(">BBHHBB", data)
            end = 8 + size + padding
            if len(data) < end:
                break
            result += self.record(link, version, kind, number, data[8:end], size, reserved)
            data = data[end:]
        if self.broken == "end-content-left" and len(data) == 8 and data[1] == 3:
            return result + rec(3, 1, bytes(8))
        link.held = data
        return result

    def record(
        self, link: Link, version: int, kind: int, number: int, content: bytes, size: int, reserved: int
    ) -> bytes:
        rule = self.broken
        if rule != "padding-in-content":
            content = content[:size]
        if kind == 6 and content:
            link.stdout += 1
            if (rule == "first-stdout" and link.stdout > 1) or (rule == "100-records" and link.stdout > 100):
                return b""
            content = content[:32_768] if rule == "records-32k" else content
        if rule == "stderr-in-stdout" and kind == 7:
            kind = 6
        if rule == "reserved-checked" and (reserved or (kind == 3 and any(content[5:]))):
            raise Bad
        if rule == "app-status" and kind == 3 and any(content[:4]):
            raise Bad
        if rule == "management-refused" and number == 0:
            raise Bad
        if rule == "end-needed" and kind == 3 and b"\1\6\0\1\0\0" not in link.raw:
            raise Bad
        number = 1 if rule == "ids-ignored" else number
        return rec(kind, number, content, version=1 if rule == "version-ignored" else version)

    # -- to the client ------------------------------------------------------------------------------------------------

    def written(self, asked: Asked, answer: Answer) -> bytes:
        """The response as the client gets it."""
        rule, status, headers, body = self.broken, answer.status, answer.headers, answer.body
        if rule == "answer-remembered" and self.error and status.startswith("200"):
            body, self.error = self.error, b""
        if rule == "answers-mixed":
            body, self.before = self.before or body, body
        location = any(name == "Location" for name, _ in headers)
        if location and rule == "location-200" and status == "302 Found":
            status = "200 OK"
        if location and rule == "location-302":
            status = "302 Found"
        status = REASONS.get(rule, status)
        if rule == "fields-joined":
            joined: dict[str, str] = {}
            for name, value in headers:
                joined[name] = f"{joined[name]}, {value}" if name in joined else value
            headers = list(joined.items())
        elif rule == "type-text":
            headers = [(name, "text/plain" if name == "Content-Type" else value) for name, value in headers]
        elif rule == "lower-dropped":
            headers = [(name, value) for name, value in headers if not name.islower()]
        elif rule == "ascii-response":
            headers = [(name, value.encode("ascii", "ignore").decode()) for name, value in headers]
        elif rule == "long-cut":
            headers = [(name, value[:1_500]) for name, value in headers]
        elif rule == "20-headers":
            headers = headers[:20]
        if rule == "response-plus":
            body += b"!"
        bodiless = status[:3] in ("204", "304")
        length = "" if bodiless and rule != "body-always" else str(len(body))
        for name, value in answer.headers:
            if name.lower() == "content-length" and (asked.method == "HEAD" or rule == "length-passed"):
                length = value
        if rule == "body-always" and bodiless:
            body = body or b"body"
        elif bodiless or (asked.method == "HEAD" and rule != "head-body"):
            body = b""
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers if name.lower() not in HOP)]
        lines += ["Connection: close", *([f"Content-Length: {length}"] if length else []), "", ""]
        return "\r\n".join(lines).encode("latin-1") + body


def dechunked(data: bytes) -> bytes:
    result = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        count = int(size, 16)
        if not count:
            return result
        result, data = result + data[:count], data[count + 2 :]
