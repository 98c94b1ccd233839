"""What every thread of every worker is doing now, and what it has done: one anonymous shared mmap.

Each thread writes its own slot and no other; the master reads all of them, so status, metrics and deadlines need no
messages and answer while every worker is stuck. A slot is one page of 8-byte cells. Counters only ever grow, also
when a slot passes on to the next worker, so that totals over all slots are the server's.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from dataclasses import dataclass
from struct import Struct
from typing import Final

__all__ = ["BUCKETS", "CLASSES", "PROTOCOLS", "Board", "Histogram", "Row", "Seat"]

PROTOCOLS: Final = ("fastcgi", "scgi", "uwsgi", "http")
CLASSES: Final = ("2xx", "3xx", "4xx", "5xx", "other")
"""Of the response's status; ``other`` is for requests that ended without one."""
BUCKETS: Final[tuple[float, ...]] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histograms of time, in seconds; one more bucket has no bound."""

_SLOT: Final = 4096  # bytes
_CELLS: Final = _SLOT // 8
_SERIAL: Final = 0  # requests begun
_DONE: Final = 1  # requests ended
_LOST: Final = 2  # requests that have begun and will not end: their process has
_SINCE: Final = 3  # double: when the last of them began or ended
_IDENT: Final = 4  # of the thread
_WHAT: Final = 5  # of the request that is, or was, served: bytes of its line, times 8, and an index of PROTOCOLS
_LINE: Final = 6  # its first cell
_LINE_MAX: Final = 384  # bytes
_HEAD: Final = Struct("=QQQdQQ")  # the cells before the line
_TIMES: Final = 64  # the histograms of request time, by protocol and class
_WIDTH: Final = 16  # cells of one histogram: its buckets, then the sum (double)
_SUM: Final = 15
_SHORTEST: Final = BUCKETS[0]
_QUEUE: Final = _TIMES + len(PROTOCOLS) * len(CLASSES) * _WIDTH  # the histogram of queue time
_TRIES: Final = 1_000  # looks at a slot that changes meanwhile; one takes a fraction of the shortest request
_KNOWN: Final[dict[str, int]] = {name: number for number, name in enumerate(PROTOCOLS)}


class Seat:
    """One thread's slot, as that thread writes it."""

    def __init__(self, memory: memoryview, ident: int) -> None:
        self._ints = memory.cast("Q")
        self._doubles = memory.cast("d")
        self._text = memory[_LINE * 8 : _LINE * 8 + _LINE_MAX]
        self._ints[_IDENT] = ident
        self.serial: int = self._ints[_SERIAL]
        self._done: int = self._ints[_DONE]
        self.busy = False
        """A request is served."""

    def begin(self, protocol: str, line: bytes, now: float) -> None:
        """A request is served from ``now`` on, on the monotonic clock; ``line`` is its method and URI."""
        ints = self._ints
        size = len(line)
        if size > _LINE_MAX:
            line = line[:_LINE_MAX]
            size = _LINE_MAX
        self._text[:size] = line
        ints[_WHAT] = size << 3 | _KNOWN[protocol]
        self._doubles[_SINCE] = now
        serial = self.serial + 1
        self.serial = serial
        self.busy = True
        ints[_SERIAL] = serial  # at last: who is busy has all that is told of it

    def end(self, protocol: str, status: str, taken: float, now: float) -> None:
        """The request has been served with ``status`` (as ``200 OK``), in ``taken`` seconds."""
        ints = self._ints
        doubles = self._doubles
        self.busy = False
        doubles[_SINCE] = now
        kind = ord(status[0]) - 50 if status else 4  # "2" is 0
        if kind < 0 or kind > 4:
            kind = 4
        at = _TIMES + (_KNOWN[protocol] * 5 + kind) * _WIDTH
        doubles[at + _SUM] += taken
        if taken > _SHORTEST:  # most are not
            at += bisect_left(BUCKETS, taken)
        ints[at] += 1
        done = self._done + 1
        self._done = done
        ints[_DONE] = done  # at last: who is idle has nothing to add

    def queued(self, seconds: float) -> None:
        """The request waited so long between the web server's start stamp and its thread."""
        self._doubles[_QUEUE + _SUM] += seconds
        self._ints[_QUEUE + bisect_left(BUCKETS, seconds)] += 1


@dataclass(frozen=True, slots=True)
class Row:
    """One thread's slot, as the master reads it."""

    thread: int
    """Its number in the worker, from 0."""
    ident: int
    """threading.get_ident() of it; 0 where it has not served yet."""
    serial: int
    """Requests begun, ever, in this slot."""
    done: int
    busy: bool
    since: float
    """When it became busy or idle, on the monotonic clock; 0.0 where it has done nothing yet."""
    busy_time: float
    """Seconds of all finished requests, ever, in this slot."""
    protocol: str
    line: str
    """Method and URI as they came, latin-1, cut off; of the request that is, or was, served."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each duration came: ``counts`` by BUCKETS and one more without bound, ``total`` in seconds."""

    counts: tuple[int, ...]
    total: float


class Board:
    """The whole scoreboard: room for ``workers`` workers of ``threads`` threads each, in shared memory."""

    def __init__(self, workers: int, threads: int) -> None:
        self.workers = workers
        self.threads = threads
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
        slots = workers * threads + 1  # the last one is the master's own
        self._memory = memoryview(mmap.mmap(-1, slots * _SLOT, flags | getattr(mmap, "MAP_NORESERVE", 0)))
        self._ints = self._memory.cast("Q")
        self._doubles = self._memory.cast("d")
        self.limits: list[int] = [0] * workers
        """Requests that the process with this place is to serve; 0 is no limit. Set before it is forked."""
        self._touched: set[int] = set()
        """Workers that have ever been there: reading the others would make their pages."""

    def clear(self, worker: int) -> None:
        """Make the slots of ``worker`` ready for a new process; the counters stay."""
        self._touched.add(worker)
        for thread in range(self.threads):
            at = (worker * self.threads + thread) * _CELLS
            self._ints[at + _LOST] = max(0, self._ints[at + _SERIAL] - self._ints[at + _DONE])
            self._ints[at + _IDENT] = self._ints[at + _WHAT] = 0
            self._doubles[at + _SINCE] = 0.0

    def seat(self, worker: int, thread: int, ident: int) -> Seat:
        """Return the slot of one thread for writing."""
        at = (worker * self.threads + thread) * _SLOT
        return Seat(self._memory[at : at + _SLOT], ident)

    def count(self, protocol: str, status: str, taken: float) -> None:
        """Count a request that its worker cannot, in the master's own slot."""
        at = self.workers * self.threads * _SLOT
        Seat(self._memory[at : at + _SLOT], 0).end(protocol, status, taken, 0.0)

    def rows(self, worker: int) -> list[Row]:
        """Return the slots of one worker, each whole: a request that ends meanwhile is read again."""
        return [self._row(worker, thread) for thread in range(self.threads)]

    def _row(self, worker: int, thread: int) -> Row:
        at = (worker * self.threads + thread) * _CELLS
        ints = self._ints
        seen = b""
        for _ in range(_TRIES):
            serial = ints[at + _SERIAL]
            done = ints[at + _DONE]
            seen = bytes(self._memory[at * 8 : (at + _QUEUE) * 8])
            # The other way round than they were read and are written.
            if done == ints[at + _DONE] and serial == ints[at + _SERIAL]:
                break
        serial, done, lost, since, ident, what = _HEAD.unpack_from(seen)
        line = seen[_LINE * 8 : _LINE * 8 + min(what >> 3, _LINE_MAX)].decode("latin-1")
        name = PROTOCOLS[(what & 7) % len(PROTOCOLS)]
        busy_time = sum(memoryview(seen).cast("d")[_TIMES + _SUM :: _WIDTH])
        return Row(thread, ident, serial, done, serial - done - lost == 1, since, busy_time, name, line)

    def carry(self, place: tuple[str, str] | None, histogram: Histogram) -> None:
        """Go on from what another board had counted for a protocol and class of status, None: as time in the queue."""
        cell = _QUEUE
        if place is not None:
            protocol, kind = place
            cell = _TIMES + (PROTOCOLS.index(protocol) * len(CLASSES) + CLASSES.index(kind)) * _WIDTH
        at = self.workers * self.threads * _CELLS + cell
        self._doubles[at + _SUM] += histogram.total
        for number, count in enumerate(histogram.counts):
            self._ints[at + number] += count

    def times(self) -> dict[tuple[str, str], Histogram]:
        """Return request times of all workers, ever, by protocol and class of status."""
        return {
            (protocol, kind): self._histogram(_TIMES + (one * len(CLASSES) + two) * _WIDTH)
            for one, protocol in enumerate(PROTOCOLS)
            for two, kind in enumerate(CLASSES)
        }

    def queue_times(self) -> Histogram:
        """Return the times between the web server's start stamp and a thread, of all workers, ever."""
        return self._histogram(_QUEUE)

    def _histogram(self, cell: int) -> Histogram:
        counts = [0] * (len(BUCKETS) + 1)
        total = 0.0
        slots = [worker * self.threads + thread for worker in self._touched for thread in range(self.threads)]
        for slot in [*slots, self.workers * self.threads]:
            at = slot * _CELLS + cell
            total += self._doubles[at + _SUM]
            for number, value in enumerate(self._ints[at : at + len(counts)]):
                counts[number] += value
        return Histogram(tuple(counts), total)
