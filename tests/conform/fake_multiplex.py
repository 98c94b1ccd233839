"""The web server of ``fake_front`` with all its requests on one connection to a FastCGI backend."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading

from gateways.codecs.events import Abort, Body, EndOfResponse, Event, Refused, Request, ResponseHead
from gateways.codecs.fronts import FRONT_CODECS
from gateways.errors import LocalProtocolError, RemoteProtocolError
from gateways.limits import DEFAULT_LIMITS
from gateways.testing.framing.fastcgi_records import STDIN, Record, records
from tests.conform.fake_front import Answer, Bad, FakeFront, Left, Link
from tests.conform.sent_by_front import Asked, encode

__all__ = ["MultiplexFront"]


class MultiplexFront(FakeFront):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shared: Link | None = None
        self.numbers = itertools.count(1)
        self.events: dict[int, list[Event]] = {}
        super().__init__("fastcgi", keep=True)

    def breaks(self, rule: str) -> None:
        super().breaks(rule)
        with self.lock:
            self.close_shared()

    def close_shared(self) -> None:
        if self.shared is not None:
            self.shared.sock.close()
        self.shared = None

    def ask(self, client: socket.socket, asked: Asked) -> Answer:
        with self.lock:
            number = self.send(asked)
        try:
            return self.whole(client, number)
        finally:
            with self.lock:
                self.events.pop(number, None)

    def send(self, asked: Asked) -> int:
        """Send one request, on a new connection where the shared one was closed."""
        if self.shared is not None and select.select([self.shared.sock], [], [], 0)[0]:
            self.read_some(self.shared)
        if self.shared is None:
            sock = socket.create_connection(self.backend, 5)
            self.shared = Link(sock, FRONT_CODECS["fastcgi"](DEFAULT_LIMITS))
        number = next(self.numbers) % 60_000 + 1
        self.shared.codec.send(Request(number, {"REQUEST_METHOD": asked.method}, keep=True))
        first = min([number, *self.events])
        self.events[number] = []
        wire = encode("fastcgi", "", asked, asked.pairs(""), asked.body, keep=True)
        for each in records(wire):
            mixed = self.broken == "same-id" or (self.broken == "bodies-mixed" and each.kind == STDIN)
            one = Record(each.kind, first if mixed else number, each.content, each.padding)
            self.shared.sock.sendall(bytes(one))
        return number

    def whole(self, client: socket.socket, number: int) -> Answer:
        """Read, for all, until this answer is whole."""
        head: ResponseHead | None = None
        body = b""
        while not self.ending.is_set():
            with self.lock:
                if self.shared is None:
                    raise Bad
                if not self.events[number] and select.select([self.shared.sock], [], [], 0.005)[0]:
                    self.read_some(self.shared)
                events, self.events[number] = self.events[number], []
            for event in events:
                if isinstance(event, ResponseHead):
                    head = event
                elif isinstance(event, Body):
                    body += event.data
                elif isinstance(event, Refused):
                    if self.broken == "refusal-closes":
                        with self.lock:
                            self.close_shared()
                    raise Bad
                elif isinstance(event, EndOfResponse):
                    if head is None:
                        raise Bad
                    return Answer(head.status, head.headers, body)
            if select.select([client], [], [], 0)[0] and not client.recv(1, socket.MSG_PEEK):
                with self.lock:
                    if self.broken == "abort-closes":
                        self.close_shared()
                    elif self.shared is not None:
                        with contextlib.suppress(LocalProtocolError):  # another thread has just read its end
                            self.shared.sock.sendall(self.shared.codec.send(Abort(number)))
                raise Left
        raise Left

    def read_some(self, link: Link) -> None:
        """Read once, and give each request its events."""
        data = link.sock.recv(65_536)
        try:
            events = link.codec.feed(data) if data else []
        except RemoteProtocolError:
            data = b""
            events = []
        if not data:
            self.close_shared()
        for event in events:
            stream = getattr(event, "stream", 0)
            if isinstance(event, Body) and self.broken == "answers-joined":
                stream = min(self.events)
            if stream in self.events:
                self.events[stream].append(event)
