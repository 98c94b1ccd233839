"""The threads of one worker process and how they share the poller: leader and followers, with late promotion.

One thread leads: it waits in the poller, takes a ready connection and serves it itself. Only when it has been busy
with one request for about a tick does a follower take over the poller. So short requests run without any thread
switch, and a thread that blocks is replaced within two ticks.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from gateways.apps import App, Course
from gateways.limits import Limits, Timeouts
from gateways.server.connection import Connection
from gateways.server.courses import Courses
from gateways.server.errorlog import ErrorLog
from gateways.server.poller import Poller

if TYPE_CHECKING:
    from gateways.server.exchange import Exchange
    from gateways.server.listener import Listener

__all__ = ["TICK", "Pool", "Task"]

TICK: Final = 0.001
"""Seconds that the leader may be busy with one task before another thread takes over the poller."""
_IDLE_TICKS: Final = 50  # the ticker goes to sleep after so many ticks in which the leader waited in the poller
_PAUSE: Final = 0.1  # seconds without accepting when the process is out of descriptors
_NEVER: Final = float("inf")
_BUSY_EVERY: Final = 1.0  # seconds between looks at deadlines, and at the poller, while requests are being served
_STOP_EVERY: Final = 0.02  # seconds between looks at whether a stopping worker is done
_FRESH_GRACE: Final = 1.0  # seconds for connections accepted just before the stop to send their request
_TO_ANSWER: Final = 1.0  # seconds before the graceful timeout at which requests whose heads are not whole are refused


class Task(Protocol):
    """Something that a thread can take up: a connection, a listener, a request."""

    def on_ready(self) -> None:
        """Do it."""


class Heirs(Protocol):
    """Where the connections of a worker that leaves may go."""

    def give(self, connection: Connection) -> bool:
        """Have another worker go on with it; False where that cannot be now. Its descriptor remains to be closed."""


class Pool:
    """The threads of one worker. ``run`` leads them in the calling thread until ``stop``.

    ``app`` answers requests; ``clock`` returns seconds, monotonic.
    """

    def __init__(
        self, app: App, log: ErrorLog, *, threads: int, limits: Limits, timeouts: Timeouts, poller: Poller,
        tick: float = TICK, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.app = app
        self.log = log
        self.limits = limits
        self.timeouts = timeouts
        self.poller = poller
        self.clock = clock
        self.now = clock()
        """The time when the poller was last left."""
        self.connections: dict[int, Connection] = {}
        """Those that the poller knows, by descriptor."""
        self.watched: dict[int, Task] = {}
        """Listeners and pipes, by descriptor."""
        self.next_sweep = _NEVER
        self.guard = threading.RLock()
        """Held for moments: between a thread that waits for a body and one that closes its connection."""
        self.timed = False
        """The time of requests is limited."""
        self.overdue: set[int] = set()
        """Idents of threads that are to raise RequestTimeout where they wait for a peer. Changed under the guard."""
        self.stopping = False
        self._courses: Courses | None = None
        """Requests that hold no thread; made for the first of them."""
        self.heirs: Heirs | None = None
        """Where the worker stops and others serve on."""
        self.warned_of_heads = False
        """Somebody has been told that response heads are long."""
        self._fresh_until = _NEVER
        """Until then, where the worker stops, connections may still send the head of a request."""
        self.one_shot = threads > 1
        """A connection is armed for one event only, since another thread may poll while it is served."""
        self._threads = threads
        self._every = tick
        """Seconds between looks whether the leader is stuck."""
        self.ready: deque[Task] = deque()
        """Tasks that the next free thread takes up."""
        self._paused: list[Listener] = []
        self._mutex = threading.Lock()
        self._parked: list[tuple[threading.Lock, object]] = []
        self._leader: object | None = None
        """The thread that leads; None where every thread is busy."""
        self.beat = 0
        """Grows with each task that is taken up."""
        self._polling = False
        """The leader waits in the poller."""
        self._finished = False
        self._crash: BaseException | None = None
        """What ended another thread than that of ``run``."""
        self._ticker_wake = threading.Event()
        self._ticker_asleep = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)

    # -- for connections ----------------------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Have ``task`` done by the next thread that is free."""
        self.ready.append(task)
        if self._polling:
            os.write(self._wake_out, b"w")

    def idle_deadline(self) -> float:
        """Return when a connection that becomes idle now is to be closed; ``now`` is older than a long request."""
        return self.clock() + self.timeouts.keepalive

    @property
    def spare(self) -> bool:
        """A thread is free for what is ready."""
        return self._polling or bool(self._parked)

    def watch(self, fd: int, task: Task) -> None:
        """Call ``task`` whenever ``fd`` can be read."""
        self.watched[fd] = task
        self.poller.listen(fd)

    def unwatch(self, fd: int) -> bool:
        """Forget ``fd``; False where it was not known."""
        if self.watched.pop(fd, None) is None:
            return False
        self.poller.unlisten(fd)
        return True

    def pause(self, listener: Listener) -> None:
        """Let ``listener`` wait a moment: the process is out of descriptors."""
        if self.unwatch(listener.sock.fileno()):  # else another thread has found out too
            self._paused.append(listener)
            self.sweep_by(self.clock() + _PAUSE)

    def sweep_by(self, deadline: float) -> None:
        """Have deadlines looked at by then, also where another thread waits in the poller already."""
        with self._mutex:
            self.next_sweep = min(self.next_sweep, deadline)
        if self._polling:
            os.write(self._wake_out, b"w")

    @property
    def waits(self) -> bool:
        """There are requests that hold no thread."""
        return self._courses is not None and bool(self._courses.running)

    def expect_courses(self) -> None:
        """Have at hand what the first of them needs, before there may be no descriptor left for it."""
        if self._courses is None:
            self._courses = Courses(self)

    def take_course(self, exchange: Exchange, course: Course) -> bool:
        """Go with a request's ``course``; returns whether it is over, else its connection resumes when it is."""
        if self._courses is None:
            with self._mutex:
                self.expect_courses()
        assert self._courses is not None  # noqa: S101  (for the type checker)
        return self._courses.begin(exchange, course)

    # -- running ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``stop`` was called and all is served; the calling thread is the first of the pool.

        Raises what ended any of the threads: without its leader the pool would stand still for ever.
        """
        me = threading.current_thread()
        self._leader = me
        self.watch(self._wake_in, _Waker(self._wake_in))
        others = [
            threading.Thread(target=self._follow, name=f"gateways-{number}", daemon=True)
            for number in range(1, self._threads)
        ]
        for thread in others:
            thread.start()
        if others:
            threading.Thread(target=self._tick, name="gateways-ticker", daemon=True).start()
        self._lead(me)
        if self._crash is not None:
            raise self._crash
        for thread in others:
            thread.join(1.0)
        if self._courses is not None:
            self._courses.close()
        self.unwatch(self._wake_in)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _crashed(self, error: BaseException) -> None:
        """Let every thread go: nobody polls any more. ``run`` raises ``error``."""
        with self._mutex:
            self._crash = error
            self._finished = self.stopping = True
            for gate, _ in self._parked:
                gate.release()
            self._parked.clear()
        with contextlib.suppress(OSError):
            os.write(self._wake_out, b"w")

    def stop(self, heirs: Heirs | None = None, seconds: float = _NEVER) -> None:
        """Take no new connection, close the idle ones or leave them to ``heirs``, and let ``run`` return in the end.

        ``seconds``: how long the worker may still live.
        """
        grace = _FRESH_GRACE
        if heirs is not None:  # the server goes on, so a request that has begun to come is waited for as one that runs
            graceful = min(self.timeouts.graceful, seconds)
            grace = max(graceful - _TO_ANSWER, graceful / 2)
        self._fresh_until = min(self._fresh_until, self.clock() + grace)
        self.heirs = heirs
        self.stopping = True
        self.sweep_by(0.0)

    def _lead(self, me: object) -> None:
        """Do what is ready, and lead or follow as it falls to this thread, until the pool has finished."""
        ready = self.ready
        while True:
            if not ready:
                if not self._poll(me):
                    return
                continue
            try:
                task = ready.popleft()
            except IndexError:  # another thread was faster
                continue
            self.beat += 1
            try:
                task.on_ready()
            except Exception as error:  # noqa: BLE001  (a bug of ours costs its connection, never the thread)
                self.log.failure("a task of the pool failed", error)
                if isinstance(task, Connection):
                    task.break_off()
            if self._leader is not me and not self._park(me):
                return

    def _poll(self, me: object) -> bool:
        """Wait in the poller, if this thread leads, and queue what is ready; False when the pool has finished."""
        if self._threads > 1:
            with self._mutex:  # nobody is promoted while the leader polls, so nobody else ever does
                if self._leader is me:
                    self._polling = True
            if self._leader is not me:
                return self._park(me)
            if self.ready:  # submitted meanwhile
                self._polling = False
                return True
        if self.stopping and self._finish():
            return False
        wait = -1.0
        if self.next_sweep != _NEVER:
            wait = max(0.0, self.next_sweep - self.clock())
        if len(self._parked) < self._threads - 1 and not 0.0 <= wait < _BUSY_EVERY:
            # An application that closes descriptors which are not its own may have closed the poller: who waits in it
            # already is not told (epoll(7)), and nobody else would find out.
            wait = _BUSY_EVERY
        found = self.poller.wait(wait)
        self._polling = False
        self._wake_ticker()
        self.now = now = self.clock()
        connections = self.connections
        for fd, _ in found:
            connection = connections.get(fd)
            if connection is None:
                task = self.watched.get(fd)
                if task is not None:
                    self.ready.append(task)
            elif connection.armed:
                connection.armed = False
                self.ready.append(connection)
        if now >= self.next_sweep:
            self._sweep(now)
        return True

    def _sweep(self, now: float) -> None:
        """Wake the connections whose deadline has passed; where the worker stops, those that only wait."""
        self.next_sweep = _NEVER  # what other threads ask for from here on is not lost
        earliest = now + _STOP_EVERY if self.stopping else _NEVER
        fresh = now < self._fresh_until
        for connection in list(self.connections.values()):
            if not connection.armed:
                earliest = min(earliest, now + _BUSY_EVERY)  # it is being served: its deadline is not known yet
            elif not connection.expired:
                if connection.deadline <= now:
                    connection.wake()
                elif self.stopping and self._part(connection, fresh):
                    continue
                elif connection.deadline < earliest:
                    earliest = connection.deadline
        if self._courses is not None:
            earliest = min(earliest, self._courses.sweep(now))
        paused, self._paused = self._paused, []
        for listener in paused:
            listener.resume()
        if earliest != _NEVER:
            self.sweep_by(earliest)

    def _part(self, connection: Connection, fresh: bool) -> bool:
        """Where the worker stops, have a connection left to others, or closed, if nothing is under way there."""
        if self.heirs is not None and connection.untouched():
            with self.guard:  # the thread that has armed it is through with that
                connection.armed = False
            self.ready.append(connection)
            return True
        if connection.idle(fresh):
            connection.wake()
            return True
        return False

    def _finish(self) -> bool:
        """Whether all is served and every other thread parked; then let them go."""
        with self._mutex:
            if self._crash is not None:
                return True
            if self.connections or self.ready or len(self._parked) < self._threads - 1:
                return False
            if self.waits:
                return False
            self._finished = True
            self._polling = False
            for gate, _ in self._parked:
                gate.release()
            self._parked.clear()
        self._ticker_wake.set()
        return True

    # -- leader and followers -----------------------------------------------------------------------------------

    def _follow(self) -> None:
        me = threading.current_thread()
        try:
            if self._park(me):
                self._lead(me)
        except BaseException as error:  # noqa: BLE001  (as from the poller, where the application closed its descriptor)
            self._crashed(error)

    def _park(self, me: object) -> bool:
        """Wait until promoted, or lead at once where nobody does; False when the pool has finished."""
        with self._mutex:
            if self._finished:
                return False
            if self._leader is None:
                self._leader = me
                return True
            gate = threading.Lock()
            gate.acquire()
            self._parked.append((gate, me))
        gate.acquire()
        return not self._finished

    def _tick(self) -> None:
        """Promote a follower whenever the leader has been busy with one task for a whole tick."""
        idle = 0
        while not self._finished:
            beat = self.beat
            time.sleep(self._every)
            if self._polling:
                idle += 1
                if idle >= _IDLE_TICKS:
                    self._sleep()
                    idle = 0
                continue
            idle = 0
            if self.beat == beat:
                self._promote(beat)

    def _promote(self, beat: int) -> None:
        with self._mutex:
            if self._polling or self.beat != beat or self._leader is None:
                return
            self._hand_over()

    def _hand_over(self) -> None:
        """Let another thread lead, with the lock held."""
        if self._parked:
            gate, self._leader = self._parked.pop()
            gate.release()
        else:
            self._leader = None  # whoever is free first takes over

    def _wake_ticker(self) -> None:
        """Have it look again at whether the leader is stuck."""
        if self._ticker_asleep:
            self._ticker_asleep = False
            self._ticker_wake.set()

    def _sleep(self) -> None:
        """Sleep while the leader waits in the poller, so that an idle worker uses no CPU."""
        self._ticker_wake.clear()
        self._ticker_asleep = True
        if self._polling and not self._finished:
            self._ticker_wake.wait()
        self._ticker_asleep = False


class _Waker:
    """Empties the pipe by which ``submit`` wakes the leader."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def on_ready(self) -> None:
        """Take the bytes; what they stand for is in the queue."""
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
