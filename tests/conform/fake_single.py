"""The SCGI and the uwsgi server of ``fakes``."""

from __future__ import annotations

import select
import socket
import struct

from tests.conform.fakes import End, Fake

__all__ = ["SCGIFake", "UWSGIFake"]


class SingleFake(Fake):
    """What SCGI and uwsgi share."""

    def serve(self, sock: socket.socket) -> None:
        self.be_silent()
        data, eof = b"", False
        while (found := self.head(data, eof)) is None:
            if data and self.broken == "one-read":
                raise End
            if eof:
                self.ended(within=True)
            block = sock.recv(65_536)
            eof = not block
            data += block
        if self.broken == "packet-answer" and data[0]:  # which breaks no rule: it is how uWSGI's spooler says no
            sock.sendall(b"\xff\0\0\0")
            raise End
        pairs, body = found
        params: dict[str, str] = {}
        for name, value in pairs:
            if not name or (name == "CONTENT_LENGTH" and name in params):
                if self.broken != "lenient":
                    self.malformed()
                continue
            params[name] = value
        if self.broken == "fatal-file" and "UWSGI_FILE" in params:
            self.die()
        if not params.get("REQUEST_METHOD") and self.broken not in ("empty-served", "lenient", "netstring-ignored"):
            self.malformed()
        length = params.get("CONTENT_LENGTH", "")
        count = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0
        while len(body) < count and (self.broken != "one-read"):
            block = sock.recv(65_536)
            if not block:
                if self.broken == "eof-serves":
                    break
                self.ended(within=True)
            body += block
        if self.broken == "trailing-refused" and len(body) > count:
            raise End
        if self.broken == "early-end" and select.select([sock], [], [], 0.2)[0] and not sock.recv(1):
            raise End
        sock.sendall(self.response(params, body[:count])[0])

    def head(self, data: bytes, eof: bool) -> tuple[list[tuple[str, str]], bytes] | None:
        """Pairs and what follows them, None while they are not whole."""
        raise NotImplementedError


class SCGIFake(SingleFake):
    protocol = "scgi"

    def head(self, data: bytes, eof: bool) -> tuple[list[tuple[str, str]], bytes] | None:
        size, colon, rest = data.partition(b":")
        if self.broken == "netstring-ignored" and eof:
            return [("REQUEST_METHOD", "GET")], b""
        if not data:
            return None
        if not size.isdigit() or size.startswith(b"0") or len(size) > 6:
            if self.broken == "netstring-ignored":
                return None
            self.malformed()
        if not colon or len(rest) <= int(size):
            return None
        block, rest = rest[: int(size)], rest[int(size) :]
        if self.broken == "netstring-ignored":
            return self.pairs(block, lenient=True), rest[1:]
        if not rest.startswith(b","):
            self.malformed()
        pairs = self.pairs(block, lenient=self.broken == "lenient")
        if self.broken == "order-strict" and [name for name, _ in pairs[:2]] != ["CONTENT_LENGTH", "SCGI"]:
            self.malformed()
        return pairs, rest[1:]

    def pairs(self, block: bytes, *, lenient: bool) -> list[tuple[str, str]]:
        strings = block.decode("latin-1").split("\0")
        if not lenient and (strings[-1] or len(strings) % 2 == 0):
            self.malformed()
        return list(zip(strings[::2], strings[1::2], strict=False))


class UWSGIFake(SingleFake):
    protocol = "uwsgi"

    def head(self, data: bytes, eof: bool) -> tuple[list[tuple[str, str]], bytes] | None:
        if len(data) < 4:
            return None
        modifier1, size, modifier2 = struct.unpack_from("<BHB", data)
        if (modifier1 and self.broken not in ("any-modifier", "packet-answer")) or (
            modifier2 and self.broken == "modifier2-checked"
        ):
            self.malformed()
        if self.broken == "datasize-15-bits":
            size &= 0x7FFF
        if len(data) < 4 + size and not (eof and self.broken == "eof-serves"):
            return None
        found: list[tuple[str, str]] = []
        block, at = data[4 : 4 + size], 0
        while at < len(block):
            texts = []
            for _ in range(2):
                length = struct.unpack_from("<H", block, at)[0] if at + 2 <= len(block) else 65_536
                at += 2
                if at + length > len(block):
                    if self.broken == "lenient":
                        return found, b""
                    self.malformed()
                texts.append(block[at : at + length].decode("latin-1"))
                at += length
            found.append((texts[0], texts[1]))
        return found, data[4 + size :]
