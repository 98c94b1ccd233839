"""The processes of a server, as /proc shows them: who lives, and how much memory and how many descriptors they hold."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import Final

from gateways.errors import ConfigError

__all__ = ["Usage", "Watch"]

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
SETTLE: Final = 0.5
"""Seconds for what is being closed to be closed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes together."""

    descriptors: int
    memory: int
    """Resident bytes."""


class Watch:
    """A process and its descendants. Raises ConfigError where it cannot be seen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            os.listdir(f"/proc/{pid}/fd")
        except FileNotFoundError:
            raise ConfigError(f"--pid {pid}: there is no such process") from None
        except OSError as error:
            raise ConfigError(f"--pid {pid}: {error.strerror}; be its user, or root") from None
        self.seen = self.processes()

    def processes(self) -> set[int]:
        """The ids of those that live; zombies live no more."""
        found: set[int] = set()
        left = [self.pid]
        while left:
            pid = left.pop()
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    if file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X"):
                        continue
                found.add(pid)
                for task in os.listdir(f"/proc/{pid}/task"):
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                        left += [int(child) for child in file.read().split() if int(child) not in found]
            except OSError:
                continue
        return found

    def gone(self) -> list[int]:
        """Those that have ended since this was asked last."""
        now = self.processes()
        lost, self.seen = self.seen - now, now
        return sorted(lost)

    def usage(self) -> Usage:
        """What they hold now."""
        descriptors = memory = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
                with open(f"/proc/{pid}/statm", "rb") as file:
                    memory += int(file.read().split()[1]) * PAGE
        return Usage(descriptors, memory)

    def settled(self, descriptors: int, seconds: float = SETTLE) -> Usage:
        """What they hold, once there are no more descriptors than this, or these seconds are over."""
        deadline = time.monotonic() + seconds
        while (found := self.usage()).descriptors > descriptors and time.monotonic() < deadline:
            time.sleep(0.01)
        return found
