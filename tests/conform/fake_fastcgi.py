"""The FastCGI server of ``fakes``."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field

from tests.conform.fakes import STATUS_OF_REFUSAL, End, Fake, Hang

__all__ = ["FastCGIFake"]

MOST_PARAMS, MOST_REQUESTS = 2_000_000, 1_000
KNOWN = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")


def read_pairs(block: bytes, *, short: bool = False, lenient: bool = False) -> list[tuple[str, str]]:
    """FastCGI name-value pairs; raises ValueError."""
    found, at = [], 0
    while at < len(block):
        sizes = []
        for _ in range(2):
            if at >= len(block):
                break
            size, at = block[at], at + 1
            if size > 127 and not short:
                if at + 3 > len(block):
                    break
                size, at = struct.unpack(">I", block[at - 1 : at + 3])[0] & 0x7FFFFFFF, at + 3
            sizes.append(size)
        if len(sizes) < 2 or at + sum(sizes) > len(block):
            if lenient:
                break
            raise ValueError
        text = block[at : at + sum(sizes)].decode("latin-1")
        found.append((text[: sizes[0]], text[sizes[0] :]))
        at += sum(sizes)
    return found


@dataclass
class Asked:
    """One active request."""

    role: int
    keep: bool
    params: bytearray = field(default_factory=bytearray)
    head: bool = False
    """Its parameters are whole."""
    body: bytearray = field(default_factory=bytearray)
    refused: bool = False
    late: bool = False


class FastCGIFake(Fake):
    protocol = "fastcgi"

    def serve(self, sock: socket.socket) -> None:
        self.be_silent()
        active: dict[int, Asked] = {}
        leftover: list[bytes] = []
        data = b""
        closing = False
        while True:
            block = sock.recv(65_536)
            if not block:
                if self.broken == "eof-serves":
                    for number in [number for number, asked in active.items() if asked.head]:
                        self.answer(sock, active, number, leftover)
                self.ended(bool(data or active))
            data += block
            while len(data) >= 8:
                version, kind, number, size, padding, reserved = struct.unpack_from(">BBHHBB", data)
                if (version != 1 and self.broken != "version-ignored") or (
                    self.broken == "reserved-checked" and reserved
                ):
                    self.malformed()
                end = 8 + size + padding
                if len(data) < end:
                    break
                content = data[8 : end if self.broken == "padding-in-content" else 8 + size]
                if self.broken == "padding-checked" and any(data[8 + size : end]):
                    self.malformed()
                data = data[end:]
                asked, before = active.get(number), set(active)
                self.record(sock, active, kind, number, content, leftover)
                if before - set(active):
                    if self.broken == "one-at-a-time":
                        data = b""
                    closing = closing or asked is None or not asked.keep
                    if self.broken == "never-keep" or (closing and not active and self.broken != "always-keep"):
                        raise End
            if data and data[0] != 1 and self.broken != "version-ignored":
                self.malformed()
            if data and len(data) < 8 and self.broken == "header-in-one-read":
                raise End
            if active and self.broken == "request-in-one-read":
                raise End

    def record(
        self,
        sock: socket.socket,
        active: dict[int, Asked],
        kind: int,
        number: int,
        content: bytes,
        leftover: list[bytes],
    ) -> None:
        rule = self.broken
        if kind == 9:
            if rule == "values-silent":
                return
            try:
                asked_for = [name for name, _ in read_pairs(content)]
            except ValueError:
                self.malformed()
            wanted = KNOWN if rule == "values-everything" else KNOWN[2:] if rule == "values-mpxs" else KNOWN
            names = [name for name in wanted if name in asked_for or rule == "values-everything"]
            found = b"".join(bytes((len(name), 1)) + name.encode() + b"1" for name in names)
            sock.sendall(rec(10, 0, found))
            return
        if number == 0 and kind == 1:
            if rule == "id-0-served":
                sock.sendall(rec(6, 0, b"x"))
            self.malformed()
        if kind > 11 or kind == 0 or (number == 0 and kind != 5 and kind != 4):
            if rule != "unknown-silent":
                sock.sendall(rec(11, 0, bytes([kind]) + b"\0" * 7))
            return
        if kind == 1:
            self.begin(sock, active, number, content)
            return
        if rule == "ids-ignored" and active:
            number = next(iter(active))
            kind = 5 if kind == 8 else kind
        asked = active.get(number)
        if asked is None:
            if rule == "inactive-closes":
                raise End
            return
        if kind == 2:
            if rule == "fatal-abort":
                self.die()
            if rule == "abort-all":
                raise End
            if rule != "abort-ignored":
                self.end(sock, active, number)
        elif asked.refused:
            return
        elif kind == 4:
            self.params(sock, active, number, content)
        elif kind == 5:
            self.stdin(sock, active, number, content, leftover)

    def begin(self, sock: socket.socket, active: dict[int, Asked], number: int, content: bytes) -> None:
        rule = self.broken
        if rule == "second-refused" and number in active:  # which breaks no rule: so does libfcgi
            sock.sendall(rec(3, number, struct.pack(">IB3x", 0, 1)))
            return
        if number in active or (rule == "ids-ignored" and active):
            if rule not in ("merged", "ids-ignored"):
                self.malformed()
            return
        if rule == "begin-any-length":
            content = content.ljust(8, b"\0")
            content = b"\0\1" + content[2:]
        if len(content) != 8 or (rule == "begin-reserved-checked" and any(content[3:])):
            self.malformed()
        if rule == "cannot-multiplex" and active:
            active[number] = Asked(1, keep=True, refused=True)
            self.end(sock, active, number, 1)
            return
        role, flags = struct.unpack(">HB5x", content)
        keep = flags & 1 == 1
        if rule == "flags-nonzero":
            keep = flags != 0
        elif rule == "flags-equal":
            keep = flags == 1
        active[number] = Asked(role, keep)
        if rule == "fatal-many" and len(active) > 32:
            self.die()
        if len(active) > MOST_REQUESTS and rule != "no-limits":
            self.end(sock, active, number, 2)
            return
        if role not in (1, 2) and rule != "any-role":
            if rule == "filter-hang" and role == 3:
                active[number].refused = True
                return
            if rule == "role-closes":
                raise End
            self.end(sock, active, number, 3)

    def params(self, sock: socket.socket, active: dict[int, Asked], number: int, content: bytes) -> None:
        rule = self.broken
        asked = active[number]
        if asked.head and rule not in ("merged", "ids-ignored"):
            self.refuse(sock, active, number)
            return
        asked.params += content
        if len(asked.params) > MOST_PARAMS and rule != "no-limits":
            self.refuse(sock, active, number)
            return
        if rule == "params-64k" and len(asked.params) > 65_535:
            raise End
        if rule == "pairs-per-record":
            try:
                read_pairs(content)
            except ValueError:
                raise End from None
        if rule == "fatal-much" and len(asked.params) > 70_000:
            self.die()
        if content:
            return
        asked.head = True
        if rule == "no-params-hang" and not asked.params:
            raise Hang
        try:
            pairs = read_pairs(bytes(asked.params), lenient=rule == "lenient")
        except ValueError:
            self.refuse(sock, active, number)
            return
        if any(not name for name, _ in pairs):
            if rule == "fatal-much":
                self.die()
            self.refuse(sock, active, number)
        elif asked.role == 2 and rule != "authorizer-waits":
            self.answer(sock, active, number, [])

    def stdin(
        self, sock: socket.socket, active: dict[int, Asked], number: int, content: bytes, leftover: list[bytes]
    ) -> None:
        asked = active[number]
        if not asked.head:
            if self.broken != "early-stdin-dropped":
                self.refuse(sock, active, number)
            return
        if content:
            if self.broken != "first-stdin-record" or not asked.body:
                asked.body += content
        elif self.broken == "late-taken" and asked.body and not asked.late:
            asked.late = True
        else:
            self.answer(sock, active, number, leftover)

    def refuse(self, sock: socket.socket, active: dict[int, Asked], number: int) -> None:
        if self.broken in ("fatal-errors", "errors-hang"):
            self.malformed()
        sock.sendall(rec(6, number, self.plain(STATUS_OF_REFUSAL)))
        self.end(sock, active, number)

    def answer(self, sock: socket.socket, active: dict[int, Asked], number: int, leftover: list[bytes]) -> None:
        rule = self.broken
        asked = active[number]
        params = dict(
            read_pairs(
                bytes(asked.params),
                short=rule == "short-lengths",
                lenient=rule in ("lenient", "short-lengths", "merged"),
            )
        )
        body = bytes(asked.body)
        length = params.get("CONTENT_LENGTH", "")
        count = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0
        if rule == "by-length":
            body = body[:count]
        if rule == "waits-for-length" and len(body) < count:
            raise Hang
        if rule == "leftover":
            body = b"".join(leftover) + body
            unread = "read=no" in params.get("QUERY_STRING", "")
            leftover[:] = [body if unread else body[count:]]
            body = body if not unread and len(leftover[0]) == len(body) else body[:count]
        content, errors = self.response(params, body)
        shown = {"answers-as-1": 1, "answers-as-2": 2}.get(rule, number)
        if rule == "one-record":
            sock.sendall(rec(6, shown, content[:65_535]))
        else:
            for at in range(0, len(content), 65_535):
                sock.sendall(rec(6, shown, content[at : at + 65_535]))
        if errors and rule != "stderr-in-stdout":
            sock.sendall(rec(7, shown, errors) + rec(7, shown))
        self.end(sock, active, number, 0, shown)

    def end(
        self, sock: socket.socket, active: dict[int, Asked], number: int, protocol_status: int = 0, shown: int = 0
    ) -> None:
        shown = shown or number
        last = rec(3, shown, struct.pack(">IB3x", self.broken == "app-status", protocol_status))
        sock.sendall(
            (rec(6, shown) if self.broken != "no-stdout-end" else b"") + last * (1 + (self.broken == "end-twice"))
        )
        del active[number]


def rec(kind: int, number: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBHHBB", 1, kind, number, len(content), 0, 0) + content
