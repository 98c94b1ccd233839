"""Bytes that wait on disk, first in, first out."""

from __future__ import annotations

import os
import tempfile

__all__ = ["Spool"]


class Spool:
    """A file without a name. ``put`` raises OSError where there is no room."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="gateways-", buffering=0)  # noqa: SIM115 - closed by close()
        self._put = 0
        self._taken = 0

    def put(self, data: bytes) -> None:
        """Add bytes at the end."""
        fd = self._file.fileno()
        while data:
            written = os.pwrite(fd, data, self._put)
            self._put += written
            data = data[written:]

    def take(self, most: int) -> bytes:
        """Return the next bytes, b"" where there are none."""
        data = os.pread(self._file.fileno(), min(most, self._put - self._taken), self._taken)
        self._taken += len(data)
        return data

    def close(self) -> None:
        """Give the room back."""
        self._file.close()
