"""The stacks of a worker's threads, written by faulthandler on a signal: also while one sits in C and holds the GIL.

The worker writes into an unnamed file that the master has made and reads: nothing of the worker's needs to run for it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import tempfile
import threading
from typing import Final

import gateways

__all__ = ["DUMP", "StackFile"]

DUMP: Final[int] = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""The signal that asks for them. Real-time signals are nobody's by custom; not every system has them."""
_SETTLED: Final = 0.02  # seconds without a further byte after which a dump is taken for whole
_LONGEST: Final = 1.0  # seconds to wait for one: a process in an uninterruptible sleep writes nothing
_MOST: Final = 256 * 1024  # bytes of one dump
_OURS: Final = f'File "{os.path.dirname(gateways.__file__)}{os.sep}'
_BASES: Final = tuple(f'{_OURS}server{os.sep}{name}.py"' for name in ("pool", "worker", "process"))
_LIBRARY: Final = f'File "{os.path.dirname(threading.__file__)}{os.sep}threading.py"'


class StackFile:
    """Where one worker writes its stacks. Made before the fork, ``listen`` called after it."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._fd = os.memfd_create("gateways-stacks", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                self._fd = os.dup(file.fileno())
        self._asked = 0.0
        self._size = 0
        self._grown = 0.0

    def listen(self) -> None:
        """In the worker: write all stacks whenever DUMP comes."""
        # In a thread of its own, since faulthandler gives the thread that calls an alternate stack of 16 KiB on the
        # heap, on which all of Python's handlers run from then on (SA_ONSTACK): a few signals at once overflow it.
        thread = threading.Thread(target=self._register)
        thread.start()
        thread.join()

    def _register(self) -> None:
        faulthandler.register(DUMP, file=self._fd, all_threads=True, chain=False)

    def ask(self, pid: int, now: float) -> None:
        """Have the worker ``pid`` write; raises ProcessLookupError."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)  # the worker's offset is this one
        self._asked = self._grown = now
        self._size = 0
        os.kill(pid, DUMP)

    def ready(self, now: float) -> bool:
        """The dump is whole, or will not come."""
        size = os.fstat(self._fd).st_size
        if size != self._size:
            self._size = size
            self._grown = now
        return (size > 0 and now - self._grown >= _SETTLED) or now - self._asked >= _LONGEST

    def read(self, ident: int) -> str:
        """Return what was written, the thread ``ident`` first and marked; "" where nothing came."""
        text = os.pread(self._fd, _MOST, 0).decode("utf-8", "backslashreplace").strip()
        return arrange(text, ident) if text else ""

    def close(self) -> None:
        """Give the file up."""
        os.close(self._fd)


def arrange(text: str, ident: int) -> str:
    """Put the thread ``ident`` first, and leave out our own part of each stack: what it stands on says nothing."""
    name = f"0x{ident:0{16 if sys.maxsize > 2**32 else 8}x}"
    first: list[str] = []
    others: list[str] = []
    waiting = 0
    for thread in text.split("\n\n"):
        head, *frames = thread.strip().split("\n")
        kept = application_part(frames)
        if name in head:
            first.append("\n".join([f"This request's: {head}", *(kept or frames)]))
        elif kept:
            others.append("\n".join([head, *kept]))
        else:
            waiting += 1
    rest = [f"{waiting} other threads run nothing of the application's"] if waiting else []
    return "\n\n".join([*first, *others, *rest])


def application_part(frames: list[str]) -> list[str]:
    """Return what stands on us, innermost first: with our own code that it has called in turn, as to read a body."""
    end = next((at for at, frame in enumerate(frames) if any(base in frame for base in _BASES)), len(frames))
    while end and (_OURS in frames[end - 1] or _LIBRARY in frames[end - 1]):
        end -= 1
    return frames[:end]
