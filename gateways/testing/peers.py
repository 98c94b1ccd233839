"""Peers that keep to a script: they play given bytes over loopback, pause, close or reset where they are told.

Everything that they do is bounded in time, and a peer that is left with its ``with`` block leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

__all__ = [
    "Address",
    "Close",
    "Pause",
    "Played",
    "Receive",
    "Reset",
    "Send",
    "Server",
    "ShutDown",
    "Step",
    "UntilEnd",
    "cut",
    "in_pieces",
    "play",
    "server",
]

Address: TypeAlias = str | tuple[str, int]
"""The path of a Unix socket, or host and port."""

_SECONDS: Final = 10.0
_ALREADY: Final = 0.05


@dataclass(frozen=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Receive:
    """Read until so many bytes have come in all, or these have, or the other side has ended."""

    size: int = 1
    until: bytes = b""


@dataclass(frozen=True)
class UntilEnd:
    """Read until the other side has ended."""


@dataclass(frozen=True)
class ShutDown:
    """Send no more, but go on reading."""


@dataclass(frozen=True)
class Close:
    """Close. Where bytes have come that were not read, the system makes a reset of it."""


@dataclass(frozen=True)
class Reset:
    """Close with a reset (RST) on TCP; a Unix socket has none, and is closed."""


Step: TypeAlias = Send | Pause | Receive | UntilEnd | ShutDown | Close | Reset


@dataclass
class Played:
    """What a connection has brought."""

    received: bytes = b""
    ended: str = ""
    """How the other side ended: ``closed``, ``reset``; or ``late`` where a step took too long. Empty: it did not."""


def in_pieces(pieces: Iterable[bytes], seconds: float = 0.0) -> list[Step]:
    """Return the steps that send the pieces, none of them empty, with a pause between two."""
    steps: list[Step] = []
    for piece in pieces:
        if piece:
            steps += [*([Pause(seconds)] if steps and seconds else []), Send(piece)]
    return steps


def cut(wire: bytes, at: int, *, reset: bool = False) -> list[Step]:
    """Return the steps that send what is before offset ``at`` and close, or reset, there."""
    return [*in_pieces([wire[:at]]), Reset() if reset else Close()]


def _reset(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _run(sock: socket.socket, steps: Iterable[Step], played: Played, until: float, stop: threading.Event) -> None:
    """Play; every step ends by ``until``, and soon after ``stop`` is set."""

    def left() -> float:
        seconds = until - time.monotonic()
        if seconds <= 0 or stop.is_set():
            raise TimeoutError
        return seconds

    def read() -> bool:
        while True:
            sock.settimeout(min(left(), _ALREADY))
            with contextlib.suppress(TimeoutError):
                data = sock.recv(65_536)
                played.received += data
                played.ended = "" if data else "closed"
                return bool(data)

    try:
        for step in steps:
            if isinstance(step, Send):
                sock.settimeout(left())
                sock.sendall(step.data)
            elif isinstance(step, Pause):
                seconds = min(step.seconds, left())
                stop.wait(seconds)
                left()
            elif isinstance(step, Receive):
                while (
                    step.until not in played.received if step.until else len(played.received) < step.size
                ) and read():
                    pass
            elif isinstance(step, UntilEnd):
                while read():
                    pass
            elif isinstance(step, ShutDown):
                sock.shutdown(socket.SHUT_WR)
            elif isinstance(step, Reset):
                _reset(sock)
                return
            else:
                return
    except TimeoutError:
        played.ended = "late"
    except OSError:
        played.ended = "reset"
    finally:
        sock.close()


def play(address: Address, steps: Iterable[Step], *, seconds: float = _SECONDS) -> Played:
    """Connect, play the steps and close, within ``seconds``; raises OSError where nobody listens."""
    until = time.monotonic() + seconds
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    played = Played()
    with sock:
        sock.settimeout(seconds)
        try:
            sock.connect(address)
        except ConnectionResetError:  # the other side was as quick as that
            played.ended = "reset"
        else:
            _run(sock, steps, played, until, threading.Event())
    return played


@dataclass
class Server:
    """A server that plays its scripts, one a connection, one connection after another."""

    address: Address
    connections: list[Played] = field(default_factory=list)
    """What each connection so far has brought, also the one that is being served."""
    played: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set once all scripts have been played."""

    def wait(self, seconds: float = _SECONDS) -> list[Played]:
        """Return ``connections`` once all scripts have been played; raises TimeoutError."""
        if not self.played.wait(seconds):
            raise TimeoutError(f"{len(self.connections)} connections came, and not all is played")
        return self.connections


@contextlib.contextmanager
def server(*scripts: Sequence[Step], path: str = "", seconds: float = _SECONDS) -> Iterator[Server]:
    """Listen on loopback, or at ``path``; the first connection gets the first script, and so on.

    After the last script, or ``seconds``, nothing listens any more. The end of the block stops what is being played:
    where all of it matters, ``wait`` for it.
    """
    until = time.monotonic() + seconds
    listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    stop = threading.Event()
    with listener:
        listener.bind(path or ("127.0.0.1", 0))
        listener.listen(len(scripts) or 1)
        listener.settimeout(_ALREADY)
        peer = Server(path or listener.getsockname())

        thread = threading.Thread(target=_serve, args=(listener, scripts, peer, until, stop), daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            stop.set()
            thread.join(seconds)


def _serve(
    listener: socket.socket, scripts: Iterable[Sequence[Step]], peer: Server, until: float, stop: threading.Event
) -> None:
    with listener:
        for script in scripts:
            sock = _accept(listener, until, stop)
            if sock is None:
                return
            peer.connections.append(Played())
            _run(sock, script, peer.connections[-1], until, stop)
    peer.played.set()


def _accept(listener: socket.socket, until: float, stop: threading.Event) -> socket.socket | None:
    while time.monotonic() < until and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            return listener.accept()[0]
    return None
