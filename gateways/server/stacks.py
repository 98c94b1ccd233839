"""The stacks of a worker's threads, as faulthandler writes them: also while one sits in C and holds the GIL.

The worker writes into an unnamed file that the master has made and reads. A thread of the worker's does it, which has
the GIL then, so that no other thread changes its stack meanwhile. Where it does not come to it, one sits in C and
nobody runs Python: then a signal's handler writes as well as any thread. While others run, that would read stacks that
change, and now and then end the process (SIGSEGV).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from typing import Final

import gateways

__all__ = ["DUMP", "StackFile", "attend"]

DUMP: Final[int] = getattr(signal, "SIGRTMIN", signal.SIGUSR2)
"""The signal that asks for them. Real-time signals are nobody's by custom; not every system has them."""
_SETTLED: Final = 0.1  # seconds without a further byte after which a signal's dump is taken for whole
_LONGEST: Final = 1.0  # seconds to wait for one, by the thread, then by the signal; who is stopped writes nothing
_READ: Final = 4096
_THERE: Final = b"r"
_ASK: Final = b"a"
_MOST: Final = 256 * 1024  # bytes of one dump
_OURS: Final = f'File "{os.path.dirname(gateways.__file__)}{os.sep}'
_BASES: Final = tuple(f'{_OURS}server{os.sep}{name}.py"' for name in ("pool", "worker", "process"))
_NONE: Final = "  <no Python frame>"  # a thread that is about to begin, or has ended
_IDENT: Final = re.compile("0x[0-9a-f]+")
_LIBRARY: Final = f'File "{os.path.dirname(threading.__file__)}{os.sep}threading.py"'


class StackFile:
    """Where one worker writes its stacks. Made before the fork; after it, ``listen`` or ``keep`` is called."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        try:
            if hasattr(os, "memfd_create"):
                self._fd = os.memfd_create("gateways-stacks", os.MFD_CLOEXEC)
            else:
                with tempfile.TemporaryFile() as file:
                    self._fd = os.dup(file.fileno())
        except OSError:
            self._ours.close()
            self._theirs.close()
            raise
        self._ours.setblocking(False)
        self._attended = False
        """The worker has a thread that answers."""
        self._owed = 0
        """How often it has been asked and has not answered."""
        self._signalled = True
        self._pid = 0
        self._asked = 0.0
        self._size = 0
        self._grown = 0.0

    def keep(self) -> None:
        """In the master: let go of the worker's end."""
        self._theirs.close()

    def listen(self) -> None:
        """In the worker: write all stacks whenever DUMP comes."""
        global _own  # noqa: PLW0603  (a process has one)
        _own = self
        self._ours.close()
        # In a thread of its own, since faulthandler gives the thread that calls an alternate stack of 16 KiB on the
        # heap, on which all of Python's handlers run from then on (SA_ONSTACK): a few signals at once overflow it.
        thread = threading.Thread(target=self._register)
        thread.start()
        thread.join()

    def _register(self) -> None:
        faulthandler.register(DUMP, file=self._fd, all_threads=True, chain=False)

    def attend(self) -> None:
        """In the worker: have a thread write them when the master asks."""
        threading.Thread(target=self._answer, name="gateways-stacks", daemon=True).start()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):  # the application has closed every descriptor
            self._theirs.sendall(_THERE)
            while asked := self._theirs.recv(_READ):
                faulthandler.dump_traceback(file=self._fd, all_threads=True)
                self._theirs.sendall(asked)

    def ask(self, pid: int, now: float) -> None:
        """Have the worker ``pid`` write; raises ProcessLookupError."""
        self._hear()
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)  # the worker's offset is this one
        self._pid = pid
        self._asked = self._grown = now
        self._size = 0
        self._signalled = not self._attended
        if self._signalled:
            os.kill(pid, DUMP)
            return
        os.kill(pid, 0)
        with contextlib.suppress(OSError):  # it is about to end
            self._owed += self._ours.send(_ASK)

    def _hear(self) -> None:
        """Take what the worker's thread has said."""
        with contextlib.suppress(OSError):
            said = self._ours.recv(_READ)
            self._attended = self._attended or _THERE in said
            self._owed -= said.count(_ASK)

    def ready(self, now: float) -> bool:
        """The dump is whole, or will not come."""
        self._hear()
        size = os.fstat(self._fd).st_size
        if not self._signalled:
            if self._owed <= 0:
                return True
        elif size > 0:
            if size != self._size:
                self._size = size
                self._grown = now
            return now - self._grown >= _SETTLED
        if now - self._asked < _LONGEST:
            return False
        if self._signalled:
            return True
        self._signalled = True
        self._asked = now
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, DUMP)
        return False

    def read(self, ident: int) -> str:
        """Return what was written, the thread ``ident`` first and marked; "" where nothing came."""
        text = os.pread(self._fd, _MOST, 0).decode("utf-8", "backslashreplace").strip()
        return arrange(text, ident) if text else ""

    def close(self) -> None:
        """Give it up."""
        os.close(self._fd)
        self._ours.close()
        self._theirs.close()


_own: StackFile | None = None
"""That of this process, where it is a worker."""


def attend() -> None:
    """In a worker that has become what it shall be: have a thread write its stacks when the master asks."""
    if _own is not None:
        _own.attend()


def arrange(text: str, ident: int) -> str:
    """Put the thread ``ident`` first, and leave out our own part of each stack: what it stands on says nothing."""
    name = f"0x{ident:0{16 if sys.maxsize > 2**32 else 8}x}"
    first: list[str] = []
    others: list[str] = []
    waiting = 0
    known: set[str] = set()
    for thread in text.split("\n\n"):
        head, *frames = thread.strip().split("\n")
        told = _IDENT.search(head)
        if told is not None and told.group() in known:  # of a dump that was asked for before, and came late
            continue
        known.add(told.group() if told is not None else "")
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
    if frames == [_NONE]:
        return []
    end = next((at for at, frame in enumerate(frames) if any(base in frame for base in _BASES)), len(frames))
    while end and (_OURS in frames[end - 1] or _LIBRARY in frames[end - 1]):
        end -= 1
    return frames[:end]
