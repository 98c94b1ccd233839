"""What signals do to a process of the server, and to those that the application forks: in forks of the tests."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from gateways.server import signals
from tests.server.forks import ended, forked
from tests.server.peers import SECONDS

NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def noted(handler: Callable[[int, object], object]) -> tuple[int, int]:
    """Have NUMBERS noted; returns the ends of the pipe."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signals.note_signals(NUMBERS, writable, handler)
    return readable, writable


def exit_code(body: Callable[[], object]) -> int:
    with forked(body) as pid:
        return ended(pid)


class Notes:
    """A handler that is a method: another object each time that it is asked for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def note(self, number: int, frame: object) -> None:
        self.numbers.append(number)


# -- noted ------------------------------------------------------------------------------------------------------------


def test_a_signal_is_written_to_the_descriptor() -> None:
    def body() -> None:
        notes = Notes()
        readable, _ = noted(notes.note)
        for number in NUMBERS:
            signal.raise_signal(number)
        assert os.read(readable, 10) == bytes(NUMBERS)
        assert notes.numbers == [*NUMBERS]

    assert exit_code(body) == 0


@pytest.mark.parametrize("handler", [signals.note, Notes().note], ids=["function", "method"])
def test_a_fork_of_the_application_is_ended_by_its_signals(handler: Callable[[int, object], object]) -> None:
    def body() -> None:
        readable, _ = noted(handler)
        os.set_blocking(readable, False)
        for number in NUMBERS:
            assert exit_code(functools.partial(signal.raise_signal, number)) == -number
        with pytest.raises(BlockingIOError):
            os.read(readable, 10)
        signal.raise_signal(signal.SIGTERM)
        assert os.read(readable, 10) == bytes([signal.SIGTERM])

    assert exit_code(body) == 0


OF_ITS_OWN = """
import os, signal
from gateways.server import signals

ours, theirs = os.pipe(), os.pipe()
for _, writable in (ours, theirs):
    os.set_blocking(writable, False)
signals.note_signals((signal.SIGTERM, signal.SIGUSR1), ours[1])
numbers = []
signal.signal(signal.SIGUSR1, lambda number, frame: numbers.append(number))
signal.set_wakeup_fd(theirs[1])
if os.fork() == 0:
    signal.raise_signal(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert numbers == [signal.SIGUSR1]
    os.set_blocking(theirs[0], False)
    assert os.read(theirs[0], 10) == bytes([signal.SIGUSR1])
    os._exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
"""


def test_what_the_application_has_set_is_its_forks_too() -> None:
    """In an interpreter of its own: where asyncio is imported, that takes the descriptor from forks itself (3.12)."""
    subprocess.run([sys.executable, "-c", OF_ITS_OWN], check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)


# -- the end, while an application is imported ------------------------------------------------------------------------


def test_asked_to_stop_just_before_the_application_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the signal before the import is over, and that may take for ever."""
    monkeypatch.setattr(signals, "_stops", set())
    with signals.interruptible():
        pass
    signals.note(signal.SIGHUP, None)
    with signals.interruptible():
        pass
    signals.note(signal.SIGTERM, None)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        pytest.fail("the import begins")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", signals.STOP_SIGNALS)
def test_asked_to_stop_while_the_application_is_loaded(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_stops", set())
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals.interruptible():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before
