"""The other side of a web server under test: what it asks of a backend, read strictly, each breach with a name.

A Peer is one connection of the web server; it reads at once and holds an Arrival for each request.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from dataclasses import dataclass, field

from gateways.client.blocking import Address
from gateways.errors import ConfigError
from gateways.wire.hub import Wire
from gateways.wire.target import Target

__all__ = ["Arrival", "Backend", "Peer", "SCGIPeer", "UWSGIPeer"]


@dataclass(eq=False)
class Arrival:
    """One request, as far as it has come."""

    peer: Peer
    number: int = 1
    """FastCGI's request id."""
    keep: bool = False
    """FCGI_KEEP_CONN."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ready: bool = False
    """Its parameters are whole."""
    whole: bool = False
    """So is its body."""
    aborted: bool = False

    @property
    def params(self) -> dict[str, str]:
        """The parameters, of a repeated one the last."""
        return dict(self.pairs)

    @property
    def left(self) -> bool:
        """The web server does not want the answer any more."""
        return self.aborted or self.peer.eof

    def out(self, data: bytes) -> None:
        """Send a part of the response."""
        self.peer.send(self.peer.output(self, data))

    def end(self) -> None:
        """End the response, and close where the protocol says so."""
        self.peer.finish(self)

    def answer(self, data: bytes) -> None:
        """Send a whole response."""
        self.out(data)
        self.end()


class Peer(Wire):
    """One connection of the web server."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.arrivals: list[Arrival] = []
        self.faults: dict[str, str] = {}
        """Which rules were broken, by name, and how."""
        self.unreadable = ""
        """Why it is read no further."""

    def fresh(self) -> None:
        """Read what can be."""
        if self.unreadable:
            self.buffer.clear()
        else:
            self.read()
        if self.eof and self.buffer:
            self.fault("cut", f"the end of the connection after {bytes(self.buffer[:20])!r}")

    @property
    def is_idle(self) -> bool:
        """Another request may come."""
        return False

    def forget(self) -> None:
        """Begin anew, as if nothing had come."""
        self.arrivals.clear()
        self.sent.clear()
        self.received.clear()

    def fault(self, name: str, text: str) -> None:
        """Note a breach; the first of each name counts."""
        self.faults.setdefault(name, text)

    def give_up(self, name: str, text: str) -> None:
        """Note one after which nothing can be read."""
        self.fault(name, text)
        self.unreadable = text
        self.buffer.clear()

    def read(self) -> None:
        """Take what the buffer holds whole."""
        raise NotImplementedError

    def output(self, arrival: Arrival, data: bytes) -> bytes:  # noqa: ARG002 - FastCGI's needs it
        """Return a part of the response as the protocol carries it."""
        return data

    def finish(self, arrival: Arrival) -> None:  # noqa: ARG002 - as above
        """End a response."""
        self.end()


class SinglePeer(Peer):
    """What SCGI and uwsgi share: one request, whose body CONTENT_LENGTH counts."""

    def read(self) -> None:
        """Take the head, then the body."""
        if not self.arrivals:
            pairs = self.head()
            if pairs is None:
                return
            self.arrivals.append(Arrival(self, pairs=pairs, ready=True))
            if any(not name for name, _ in pairs):
                self.fault("names", "a parameter without a name")
            if len(dict(pairs)) < len(pairs):
                names = [name for name, _ in pairs]
                self.fault("duplicates", f"{next(name for name in names if names.count(name) > 1)} twice")
        arrival = self.arrivals[0]
        length = arrival.params.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()):
            self.fault("length", f"CONTENT_LENGTH {length!r}")
            length = "0"
        arrival.body += self.buffer
        self.buffer.clear()
        if len(arrival.body) > int(length):
            self.fault("surplus", f"{len(arrival.body)} bytes with CONTENT_LENGTH {length}")
        arrival.whole = len(arrival.body) >= int(length)

    def head(self) -> list[tuple[str, str]] | None:
        """Take the parameters; None while they are not whole."""
        raise NotImplementedError


class SCGIPeer(SinglePeer):
    """A connection of SCGI."""

    def head(self) -> list[tuple[str, str]] | None:
        """Take a netstring and the strings in it."""
        digits, colon, rest = bytes(self.buffer).partition(b":")
        if len(digits) > 9 or not (digits.isdigit() or (not digits and not colon)):
            self.give_up("netstring", f"not the length of a netstring: {digits[:20]!r}")
            return None
        if digits.startswith(b"0"):
            self.fault("netstring", f"a length that starts with 0: {digits!r}")
        if not colon or len(rest) <= int(digits):
            return None
        size = int(digits)
        if rest[size] != 0x2C:
            self.give_up("comma", f"{rest[size : size + 1]!r} after the netstring of {size} bytes")
            return None
        del self.buffer[: len(digits) + size + 2]
        strings = rest[:size].decode("latin-1").split("\0")
        if strings.pop() or len(strings) % 2:
            self.fault("strings", f"not names and values, each with its NUL: {rest[max(0, size - 20) : size]!r}")
        pairs = list(zip(strings[::2], strings[1::2], strict=False))
        names = [name for name, _ in pairs]
        if names[:1] != ["CONTENT_LENGTH"]:
            self.fault("first", f"{names[:1]} first")
        if [value for name, value in pairs if name == "SCGI"] != ["1"]:
            self.fault("scgi", str([pair for pair in pairs if pair[0] == "SCGI"]))
        if not dict(pairs).get("CONTENT_LENGTH"):
            self.fault("length", f"CONTENT_LENGTH {dict(pairs).get('CONTENT_LENGTH')!r}")
        return pairs


class UWSGIPeer(SinglePeer):
    """A connection of uwsgi."""

    def head(self) -> list[tuple[str, str]] | None:
        """Take a packet and the variables in it."""
        if len(self.buffer) < 4:
            return None
        modifier1, size, modifier2 = struct.unpack_from("<BHB", self.buffer)
        if modifier1 or modifier2:
            self.fault("modifiers", f"modifier1 {modifier1}, modifier2 {modifier2}")
        if len(self.buffer) < 4 + size:
            return None
        block = bytes(self.buffer[4 : 4 + size])
        strings, at = [], 0
        while at < size:
            length = struct.unpack_from("<H", block, at)[0] if at + 2 <= size else 65_536
            at += 2 + length
            if at > size:
                self.give_up("block", f"a variable ends after datasize {size}: {block[-20:]!r}")
                return None
            strings.append(block[at - length : at].decode("latin-1"))
        if len(strings) % 2:
            self.fault("block", "a name without a value")
        del self.buffer[: 4 + size]
        return list(zip(strings[::2], strings[1::2], strict=False))


class Backend:
    """The listening socket."""

    def __init__(self, target: Target) -> None:
        """Listen; raises ConfigError."""
        self.address = target.address
        try:
            self.socket = self._listening(self.address)
        except OSError as error:
            where = self.address if isinstance(self.address, str) else f"{self.address[0]}:{self.address[1]}"
            raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from None

    def _listening(self, address: Address) -> socket.socket:
        if isinstance(address, tuple):
            return socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        self._remove_stale(address)
        made = socket.socket(socket.AF_UNIX)
        try:
            made.bind(address)
            os.chmod(address, 0o666)  # noqa: S103 - the web server has a user of its own
            made.listen(128)
        except OSError:
            made.close()
            raise
        return made

    @staticmethod
    def _remove_stale(path: str) -> None:
        """Remove a socket on which nobody listens any more."""
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as trial:
            if stat.S_ISSOCK(os.stat(path).st_mode):
                try:
                    trial.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)

    def close(self) -> None:
        """Close, and leave no socket behind."""
        self.socket.close()
        if isinstance(self.address, str):
            with contextlib.suppress(OSError):
                os.unlink(self.address)
