"""``wsgi.input``: one request body as a file that ends where the body ends.

Bytes arrive by ``put``, as a codec hands them up; where an application asks for more than has come, ``pull``
is called, which waits for the peer. This file knows nothing of sockets, threads or protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gateways.errors import BodyError

__all__ = ["RequestBody"]

_SIZE_MAX: Final = 1 << 62


class RequestBody:
    """A readable binary stream over the body of one request (PEP 3333, "Input and Error Streams").

    ``expected`` is what CONTENT_LENGTH promised, in bytes, or -1. A body that turns out shorter or longer is
    refused: whoever reads it gets BodyError, so that half an upload never passes for a whole one. ``pull``
    must bring on one ``put``, ``end`` or ``fail``, or raise BodyError itself.
    """

    __slots__ = ("_at", "_block", "_blocks", "_error", "_pull", "ended", "expected", "held", "received")

    def __init__(self, expected: int, pull: Callable[[], None]) -> None:
        self.expected = expected
        self.received = 0
        self.held = 0
        """Bytes that came and were not read yet."""
        self.ended = False
        self._pull = pull
        self._block = b""
        self._at = 0
        self._blocks: list[bytes] = []
        self._error: BodyError | None = None

    # -- from the connection ------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self.received += len(data)
        self.held += len(data)
        self._blocks.append(data)

    def end(self) -> None:
        """The body is whole."""
        self.ended = True
        if 0 <= self.expected != self.received and self._error is None:
            self._error = BodyError(f"the body has {self.received} bytes, but CONTENT_LENGTH said {self.expected}")

    def fail(self, error: BodyError) -> None:
        """No more of the body will come; reading past what is held raises ``error``."""
        self.ended = True
        if self._error is None:
            self._error = error

    # -- to the application -------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Make the current block one with unread bytes; False at the end. Raises BodyError."""
        while not self._blocks:
            if self.ended:
                if self._error is not None:
                    raise self._error
                return False
            self._pull()
        self._block = self._blocks.pop(0)
        self._at = 0
        if 0 <= self.expected < self.received:
            raise BodyError(f"the body is longer than the {self.expected} bytes that CONTENT_LENGTH said")
        return True

    def _take(self, size: int) -> bytes:
        """Return at most ``size`` bytes of the current block."""
        block = self._block
        if self._at == 0 and size >= len(block):
            data = block
        else:
            data = block[self._at : self._at + size]
        self._at += len(data)
        self.held -= len(data)
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all the rest for None or less than 0. Raises BodyError."""
        wanted = _SIZE_MAX if size is None or size < 0 else size
        parts: list[bytes] = []
        while wanted > 0:
            if self._at == len(self._block) and not self._fill():
                break
            data = self._take(wanted)
            wanted -= len(data)
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return what one wait brings, at most ``size`` bytes; b"" at the end. Raises BodyError."""
        wanted = _SIZE_MAX if size is None or size < 0 else size
        if wanted == 0 or (self._at == len(self._block) and not self._fill()):
            return b""
        return self._take(wanted)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer`` and return how many bytes that were; fewer than its length only at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return one line with its end, at most ``size`` bytes of it; b"" at the end. Raises BodyError."""
        wanted = _SIZE_MAX if size is None or size < 0 else size
        parts: list[bytes] = []
        while wanted > 0:
            if self._at == len(self._block) and not self._fill():
                break
            newline = self._block.find(b"\n", self._at)
            here = len(self._block) - self._at if newline < 0 else newline + 1 - self._at
            data = self._take(min(wanted, here))
            wanted -= len(data)
            parts.append(data)
            if data.endswith(b"\n"):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return lines until at least ``hint`` bytes are read; all for None or 0 or less. Raises BodyError."""
        lines: list[bytes] = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        """Return self: iteration goes line by line."""
        return self

    def __next__(self) -> bytes:
        """Return the next line; raises StopIteration at the end, BodyError where the body is broken."""
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def readable(self) -> bool:
        """Return True, for io.BufferedReader."""
        return True

    def writable(self) -> bool:
        """Return False, for io.BufferedReader."""
        return False

    def seekable(self) -> bool:
        """Return False, for io.BufferedReader."""
        return False

    @property
    def closed(self) -> bool:
        """False: an application may close it, the server reads on."""
        return False

    def close(self) -> None:
        """Do nothing: what is left unread is the server's to drain."""

    def flush(self) -> None:
        """Do nothing, for io.BufferedReader."""
