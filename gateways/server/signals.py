"""What signal handlers do: next to nothing, since the wake-up descriptor has the signal's number.

What a signal means is decided by whoever reads that descriptor.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator
from typing import Final, NoReturn, TypeAlias

__all__ = ["STOP_SIGNALS", "interruptible", "note", "note_signals"]

Handler: TypeAlias = Callable[[int, object], object]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_stops: Final[set[int]] = set()
"""The signals that have asked for the end."""


def note(number: int, frame: object) -> None:  # noqa: ARG001  (a signal handler's signature)
    """Only note it: the wake-up descriptor has the signal's number."""
    if number in STOP_SIGNALS:
        _stops.add(number)


def note_signals(numbers: Collection[int], wakeup: int, handler: Handler = note) -> None:
    """Have signals written to the descriptor ``wakeup``, for good; but not in what the application forks."""
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, handler)
    os.register_at_fork(after_in_child=lambda: _forget(numbers, wakeup, handler))


def _forget(numbers: Collection[int], wakeup: int, handler: Handler) -> None:
    """In a process that the application has forked: a signal for it must end it, and must not end this one."""
    found = signal.set_wakeup_fd(-1)
    if found not in (-1, wakeup):  # the application's own
        signal.set_wakeup_fd(found)
    for number in numbers:
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """For the import of the application, which may take its time: what asks for the end raises KeyboardInterrupt."""
    before = {number: signal.signal(number, _interrupt) for number in STOP_SIGNALS}
    try:
        if _stops:  # it came before, and nobody looks for it meanwhile
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    raise KeyboardInterrupt
