"""Processes that have no file descriptor left."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from itertools import count

__all__ = ["no_descriptor_left"]


@contextlib.contextmanager
def no_descriptor_left(pid: int = 0) -> Iterator[None]:
    """For the ``with`` block a process (0 is this one) keeps the files that it has open, and can open no other."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid or 'self'}/fd")}
    if not pid:
        lowest = os.dup(0)  # listing has taken one itself
        os.close(lowest)
    else:
        lowest = next(number for number in count() if number not in taken)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
