"""``wsgi.input``: one request body as a file that ends where the body ends.

Bytes arrive by ``put``, as a codec hands them up; where an application asks for more than has come, its source is
asked to ``pull``, which waits for the peer. This file knows nothing of sockets or protocols.

One thread may write (``put``, ``end``, ``fail``) while another one reads: each attribute has one side that assigns it,
and ``ended`` is assigned last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final, Protocol

from gateways.errors import BodyError

__all__ = ["BodySource", "RequestBody"]

_SIZE_MAX: Final = 1 << 62
_PIECE: Final = 64  # bytes that a piece takes beside its content
_FEW: Final = 131_072  # bytes up to which to join blocks is cheapest
_AT_ONCE: Final = 1 << 20  # bytes of memory that a CONTENT_LENGTH is enough for; beyond, as much again as has come


class BodySource(Protocol):
    """Where the bytes of a body come from."""

    def pull(self, body: RequestBody) -> None:
        """Wait for more of ``body``: bring on one ``put``, ``end`` or ``fail``, or raise BodyError."""


class RequestBody:
    """A readable binary stream over the body of one request (PEP 3333, "Input and Error Streams").

    ``expected`` is what CONTENT_LENGTH promised, in bytes, or -1. A body that turns out shorter or longer is
    refused: whoever reads it gets BodyError, so that half an upload never passes for a whole one.
    """

    received: int = 0
    ended: bool = False
    whole: bool = False
    """All of it has come, be it as long as promised or not."""
    _taken: int = 0
    """Bytes read."""
    _block: bytes = b""
    _at: int = 0
    _blocks: deque[bytes] | None = None
    _error: BodyError | None = None

    def __init__(self, expected: int, source: BodySource) -> None:
        self.expected = expected
        self._source = source

    @property
    def held(self) -> int:
        """Bytes that came and were not read yet."""
        return self.received - self._taken

    @property
    def taking(self) -> int:
        """Bytes of memory that those take, the pieces they came in counted with them."""
        return self.held + (0 if self._blocks is None else _PIECE * len(self._blocks))

    # -- from the connection ------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self.received += len(data)
        if self._blocks is None:
            self._blocks = deque((data,))
        else:
            self._blocks.append(data)

    def end(self) -> None:
        """The body is whole."""
        if 0 <= self.expected != self.received and self._error is None:
            self._error = BodyError(f"the body has {self.received} bytes, but CONTENT_LENGTH said {self.expected}")
        self.whole = True
        self.ended = True

    def fail(self, error: BodyError) -> None:
        """No more of the body will come; reading past what is held raises ``error``."""
        if self._error is None:
            self._error = error
        self.ended = True

    # -- to the application -------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """``read1`` would not wait."""
        return self._at < len(self._block) or self.ended or (bool(self._blocks) and self.expected != self.received)

    def _fill(self) -> bool:
        """Make the next block the current one; False at the end. Raises BodyError.

        The bytes that complete what CONTENT_LENGTH promised are handed out only when it is known that no more come:
        whether a body is refused as too long does not depend on how it was cut into blocks.
        """
        while True:
            ended = self.ended
            if 0 <= self.expected < self.received:
                raise BodyError(f"the body is longer than the {self.expected} bytes that CONTENT_LENGTH said")
            if self._blocks and (ended or self.expected != self.received):
                break
            if ended:
                error = self._error
                if error is not None:  # raised anew: its own traceback would make a circle of references
                    raise BodyError(error.message, error.status_hint)
                return False
            self._source.pull(self)
        self._block = self._blocks.popleft()
        self._at = 0
        return True

    def _take(self, size: int) -> bytes:
        """Return at most ``size`` bytes of the current block."""
        block = self._block
        data = block if self._at == 0 and size >= len(block) else block[self._at : self._at + size]
        self._at += len(data)
        self._taken += len(data)
        return data

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end; all the rest for None or less than 0. Raises BodyError."""
        wanted = _SIZE_MAX if size is None or size < 0 else size
        parts: list[bytes] = []
        have = 0
        while data := self.read1(wanted - have):
            have += len(data)
            parts.append(data)
            if _FEW < have < wanted:
                return self._read_on(parts, have, wanted)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_on(self, parts: list[bytes], have: int, wanted: int) -> bytes:
        """Read a large body: what stands in ``parts``, and the rest up to ``wanted`` bytes in all.

        Each block goes at once to its place in the result. Joined at the end they would take twice the memory: as much
        as glibc gives back to the system when it is free again, so that the next request gets it page by page. The 470
        page faults of 1 MiB took three times as long as all the rest of its request.
        """
        most = wanted if self.expected < 0 else min(wanted, self.expected - self._taken + have)
        known = most < _SIZE_MAX  # else the buffer grows as it does by itself
        room = min(most, max(2 * have, _AT_ONCE))
        buffer = BytesIO()
        if known:
            _reserve(buffer, room)
        buffer.writelines(parts)
        parts.clear()
        while data := self.read1(wanted - have):
            have += len(data)
            if known and have > room:
                room = min(most, 2 * have)
                _reserve(buffer, room)
            buffer.write(data)
        buffer.truncate(have)
        return buffer.getvalue()

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return what one wait brings, at most ``size`` bytes; b"" at the end. Raises BodyError."""
        wanted = _SIZE_MAX if size is None or size < 0 else size
        if wanted == 0 or (self._at == len(self._block) and not self._fill()):
            return b""
        return self._take(wanted)

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401  (collections.abc.Buffer is new in Python 3.12)
        """Fill ``buffer`` and return how many bytes that were; fewer than its length only at the end."""
        view = memoryview(buffer).cast("B")
        at = 0
        while at < len(view):
            data = self.read1(len(view) - at)
            if not data:
                break
            view[at : at + len(data)] = data
            at += len(data)
        return at

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


def _reserve(buffer: BytesIO, size: int) -> None:
    """Make ``buffer`` at least so large; it is written to from where it stands."""
    at = buffer.tell()
    buffer.seek(size - 1)
    buffer.write(b"\0")
    buffer.seek(at)
