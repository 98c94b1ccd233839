"""What is common to small servers with the echo application, which break one rule when they are told to.

``broken`` is the name of the rule. They are made from the specifications alone and know nothing of gateways' codecs.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from types import TracebackType
from typing import NoReturn, TypeVar
from urllib.parse import parse_qsl, quote, unquote

__all__ = ["STATUS_OF_REFUSAL", "End", "Fake", "Hang"]

HANG = 1.5
"""Seconds that a server which hangs does so: longer than any case waits."""
STATUS_OF_REFUSAL = "400 Bad Request"


Made = TypeVar("Made", bound="Fake")


class Hang(Exception):
    """Say nothing more, and do not close."""


class End(Exception):
    """Close."""


class Fake:
    """Listens on the loopback interface for the length of a ``with`` block."""

    protocol = ""
    of_cases = True
    """Only the cases of conform come, whose parameters agree with each other."""

    def __init__(self) -> None:
        self.broken = ""
        self.accepted = 0
        self.dead = False
        self.remembered: dict[str, str] = {}
        self.ending = threading.Event()
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.accept)
        self.handlers: list[threading.Thread] = []

    def __enter__(self: Made) -> Made:  # noqa: PYI019 - Self is 3.11's
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.ending.set()
        for thread in [self.thread, *self.handlers]:
            if thread is not threading.current_thread():
                thread.join(60)
        self.listener.close()

    def breaks(self, rule: str) -> None:
        """Break this rule from now on, and be alive."""
        self.dead = False
        self.remembered = {}
        self.broken = rule

    def accept(self) -> None:
        while not self.ending.is_set():
            if not select.select([self.listener], [], [], 0.05)[0]:
                continue
            sock, _ = self.listener.accept()
            self.accepted += 1
            sock.settimeout(5)
            self.handlers = [each for each in self.handlers if each.is_alive()]
            if self.broken.startswith(("fatal", "serial")):  # one after another, so that what follows sees it
                self.handle(sock)
            else:
                self.handlers.append(threading.Thread(target=self.handle, args=(sock,)))
                self.handlers[-1].start()

    def handle(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            if self.dead:
                return
            try:
                self.serve(sock)
            except End:
                pass
            except Hang:
                self.ending.wait(0.3 if self.broken.startswith("fatal") else HANG)
            # A close with unread bytes would be a reset that overtakes the answer.
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.5 if self.broken.startswith("serial") else 0.05)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and not self.ending.is_set() and self.drain(sock):
                pass

    def drain(self, sock: socket.socket) -> bool:
        try:
            return bool(sock.recv(65_536))
        except TimeoutError:
            return True

    def serve(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def be_silent(self) -> None:
        if self.broken == "silent":
            raise Hang

    def die(self) -> NoReturn:
        self.dead = True
        raise End

    def malformed(self) -> NoReturn:
        """What is no request."""
        if self.broken == "fatal-errors":
            self.die()
        raise Hang if self.broken == "errors-hang" else End

    def ended(self, within: bool) -> NoReturn:
        """The peer has closed its side."""
        if within and self.broken == "fatal-eof":
            self.die()
        raise Hang if self.broken == "eof-hang" else End

    # -- the application ----------------------------------------------------------------------------------------------

    def changed(self, params: dict[str, str]) -> dict[str, str]:
        """The parameters as the application sees them."""
        rule = self.broken
        if rule == "value-off-by-one":
            params = {name: value + "x" * (name == "CONFORM_A") for name, value in params.items()}
        elif rule == "name-off-by-one":
            params = {name[:-1] if name.startswith("CONFORM_N") else name: value for name, value in params.items()}
        elif rule == "100-params":
            params = dict(list(params.items())[:100])
        elif rule == "ascii-only":
            params = {name: value.encode("ascii", "ignore").decode() for name, value in params.items()}
        elif rule == "controls-dropped":
            params = {n: "".join(char for char in v if char.isprintable()) for n, v in params.items()}
        elif rule == "cut-at-equals":
            params = {name: value.partition("=")[0] for name, value in params.items()}
        elif rule == "unquoted":
            params = {name: unquote(value, "latin-1") for name, value in params.items()}
        elif rule == "stripped":
            params = {name: value.strip() for name, value in params.items()}
        elif rule == "params-remembered":
            self.remembered = params = self.remembered | params
        if rule != "httpoxy":
            params.pop("HTTP_PROXY", None)
        return params

    def response(self, params: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        """The response to a request, and what goes to the error stream."""
        rule = self.broken
        # Some servers take the query from the one, some from the other: a case must not make them differ.
        asked = params.get("QUERY_STRING", "")
        assert not self.of_cases or params.get("REQUEST_URI", "?" + asked).partition("?")[2] == asked
        query = dict(parse_qsl(asked))
        if rule == "get-only" and params.get("REQUEST_METHOD") != "GET":
            raise End
        if rule == "unread-no-answer" and query.get("read") == "no":
            raise End
        posts = params.get("REQUEST_METHOD") == "POST"
        if rule == "content-length-required" and posts and not params.get("CONTENT_LENGTH"):
            return self.plain("411 Length Required"), b""
        if rule == "zero-refused" and posts and params.get("CONTENT_LENGTH") == "0":
            return self.plain("400 Bad Request"), b""
        length = params.get("CONTENT_LENGTH", "")
        if rule != "any-length" and length and not (length.isascii() and length.isdigit() and len(length) < 19):
            return self.plain(STATUS_OF_REFUSAL), b""
        params = self.changed(params)
        if rule == "body-plus" and posts:
            body += b"x"
        code = (
            "200"
            if rule == "status-200"
            else "500"
            if rule == "status-500" and "status" in query
            else query.get("status", "200")
        )
        if "size" in query:
            size = int(query["size"])
            content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        else:
            shown = b"" if query.get("read") == "no" else body
            lines = [b"gateways-echo 1"]
            lines += [f"{self.escape(name)}={self.escape(value)}".encode() for name, value in params.items()]
            content = b"\n".join([*lines, b"length %d" % len(shown), b"", shown])
        if code in ("204", "304"):
            content = b""
        if rule.endswith("no-echo"):
            content = b"hello"
        if rule == "response-plus" and "size" in query:
            content += b"x"
        errors = query.get("stderr", "").encode()
        if rule == "stderr-in-stdout":
            content = errors + content
        return self.plain(f"{code} Fake", content), errors

    @staticmethod
    def escape(text: str) -> str:
        return quote(text.encode("latin-1"), safe="")

    def plain(self, status: str, content: bytes = b"no\n") -> bytes:
        """A response with its head."""
        rule = self.broken
        line = self.protocol == "uwsgi"
        if rule in ("status-line", "no-status-line"):
            line = not line
        head = [("HTTP/1.1 " if line else "Status: ") + status, "Content-Type: text/plain"]
        if not status.startswith(("204", "304")):
            head.append(f"Content-Length: {len(content) + (rule == 'wrong-length')}")
        added = {
            "bad-field": "not a field", "chunked": "Transfer-Encoding: chunked", "connection": "Connection: close",
            "large-head": "X-Large: " + "x" * 5_000,
        }  # fmt: skip
        if rule in added:
            head.append(added[rule])
        if rule == "two-status":
            head += ["Status: " + status] * 2
        if rule == "no-type":
            del head[1]
        end = "\n" if rule == "bare-lf" else "\r\n"
        return (end.join(head) + end * 2).encode() + content
