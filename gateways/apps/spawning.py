"""posix_spawn(3) with a directory, a session and no descriptor left open: for this glibc or none.

Python's own, like subprocess, keeps the interpreter's lock until the new program runs, so that no other thread could
start one meanwhile; and it has no directory. Called by ctypes it lets the lock go. In glibc it is a vfork(), and what
fails in the child is returned as an error. Nothing of Python runs in the child.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["Spawner", "make_spawner"]

_ROOM: Final = 1024
"""Bytes for each of the C library's structures; they have 336 at most."""
_REMEMBERED: Final = 64
_SETSIGDEF: Final = 0x04
_SETSIGMASK: Final = 0x08
_SETSID: Final = 0x80
_FUNCTIONS: Final = (
    "posix_spawn",
    "posix_spawn_file_actions_addchdir_np",  # glibc 2.29
    "posix_spawn_file_actions_addclosefrom_np",  # glibc 2.34
    "posix_spawn_file_actions_adddup2",
    "posix_spawn_file_actions_destroy",
    "posix_spawn_file_actions_init",
    "posix_spawnattr_init",
    "posix_spawnattr_setflags",
    "posix_spawnattr_setsigdefault",
    "posix_spawnattr_setsigmask",
)


class Spawner:
    """Starts programs in sessions of their own, with every signal as a new program has it."""

    def __init__(self, libc: Any) -> None:  # noqa: ANN401  (ctypes.CDLL, whose functions are made as they are asked for)
        self._libc = libc
        signals = ctypes.create_string_buffer(_ROOM)
        self._attributes = ctypes.create_string_buffer(_ROOM)
        libc.posix_spawnattr_init(self._attributes)
        libc.sigemptyset(signals)
        libc.posix_spawnattr_setsigmask(self._attributes, signals)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            libc.sigaddset(signals, int(number))
        libc.posix_spawnattr_setsigdefault(self._attributes, signals)
        flags = _SETSIGDEF | _SETSIGMASK | _SETSID
        libc.posix_spawnattr_setflags(self._attributes, ctypes.c_short(flags))
        # Descriptors have the same few numbers again and again, and each of seven calls would let the lock go.
        self._actions = functools.lru_cache(_REMEMBERED)(functools.partial(_Actions, libc))

    def spawn(
        self, argv: Sequence[bytes], env: Sequence[bytes], directory: bytes, stdin: int, stdout: int, stderr: int
    ) -> int:
        """Start ``argv[0]``, a path; returns its process. Raises OSError. None of the descriptors is 0, 1 or 2."""
        pid = ctypes.c_int()
        actions = self._actions(stdin, stdout, stderr, directory)
        check(
            self._libc.posix_spawn(
                ctypes.byref(pid), argv[0], actions.data, self._attributes, strings(argv), strings(env)
            )
        )
        return pid.value


class _Actions:
    """What is done in the child: its descriptors and its directory. Any number of threads may use it at once."""

    def __init__(self, libc: Any, stdin: int, stdout: int, stderr: int, directory: bytes) -> None:  # noqa: ANN401
        self._destroy = libc.posix_spawn_file_actions_destroy
        self.data = ctypes.create_string_buffer(_ROOM)
        check(libc.posix_spawn_file_actions_init(self.data))
        check(libc.posix_spawn_file_actions_adddup2(self.data, stdin, 0))
        check(libc.posix_spawn_file_actions_adddup2(self.data, stdout, 1))
        check(libc.posix_spawn_file_actions_adddup2(self.data, stderr, 2))
        check(libc.posix_spawn_file_actions_addclosefrom_np(self.data, 3))
        check(libc.posix_spawn_file_actions_addchdir_np(self.data, directory))

    def __del__(self) -> None:
        self._destroy(self.data)


def check(error: int) -> None:
    """Raise what a function has returned."""
    if error:
        raise OSError(error, os.strerror(error))


def strings(texts: Sequence[bytes]) -> Any:  # noqa: ANN401  (an array type of its own for each length)
    """Return a C array of strings, with its NULL; raises ValueError for a NUL within one."""
    if b"".join(texts).count(b"\0"):
        raise ValueError("embedded null byte")
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


def make_spawner() -> Spawner | None:
    """Return it where the C library has all that is needed."""
    try:
        libc = ctypes.CDLL(None)
        for name in _FUNCTIONS:
            getattr(libc, name)
        libc.gnu_get_libc_version  # noqa: B018  (another library's numbers may be others)
    except (AttributeError, OSError):
        return None
    return Spawner(libc)
