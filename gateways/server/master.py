"""The process that watches over the workers: starts, replaces, reloads and stops them. ``policy`` decides, this acts.

Nothing of the application is loaded here unless --preload asks for it. Signal handlers only note the signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from gateways.build import version_line
from gateways.errors import ConfigError
from gateways.server import policy
from gateways.server.channel import REOPEN
from gateways.server.counts import counted, go_on
from gateways.server.failures import Failures
from gateways.server.handover import GONE, Handed
from gateways.server.overdue import Overdue
from gateways.server.process import WorkerProcess, signal_name
from gateways.server.service import Service
from gateways.server.signals import STOP_SIGNALS, note
from gateways.server.status import Gauge, Tally, listener_status, times_status, workers_status
from gateways.server.unfinished import record_unfinished
from gateways.server.workers import Workers

__all__ = ["EXIT_BOOT", "EXIT_CONFIG", "EXIT_OK", "SIGNALS", "Master"]

EXIT_OK: Final = 0
EXIT_CONFIG: Final = 2
EXIT_BOOT: Final = 3
SIGNALS: Final = (
    *STOP_SIGNALS, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU
)  # fmt: skip
_MOMENT: Final = 1.0  # seconds that a worker has to end its scripts when all is to end at once
_REPEATED: Final = 1.0  # seconds within which one Ctrl-C may arrive twice: from the terminal and from a wrapper
_LONGEST: Final = 3600.0  # seconds of one wait: poll(2) takes milliseconds of 31 bits
_TICK: Final = 1.0  # seconds between looks at what only the clock and the scoreboard tell
_CHECK: Final = 15.0  # seconds that the check of a new program may take beside loading the application
_HOLD: Final = 0.2  # seconds for our own signal to come, where a worker has got one: both may be of the same group


class Master:
    """The supervision of one server (a Handler of its control socket)."""

    def __init__(self, service: Service, on_ready: Callable[[], None] | None) -> None:
        settings = service.settings
        self._service = service
        self._settings = settings
        self._log = service.log
        self._on_ready: Callable[[], None] | None = on_ready or (lambda: None)
        self._workers = Workers(
            service.board, max_requests=settings.max_requests, max_age=settings.max_age,
            patience=settings.timeouts.graceful,
        )  # fmt: skip
        self._overdue = Overdue(self._workers, service.log, service.slow_log, time.monotonic)
        self._tally = Tally()
        self._gauge = Gauge(time.monotonic())
        self._wanted = settings.workers
        self._generation = 1
        self._newest = 1
        """The last generation that was tried; ``_generation`` is the one that shall serve."""
        self._proven = 0
        """The last generation of which a worker has been ready."""
        self._reloading = False
        self._failures = Failures()
        self._size: int | None = None
        """How many workers a pool that is not static works towards."""
        self._last_spawn = self._last_retire = -float("inf")
        self._hold_until = -float("inf")
        self._beaten = -float("inf")
        self._waiting = False
        self._told = ""
        """What the service manager knows of the workers."""
        self._stopping_since: float | None = None
        self._graceful = settings.timeouts.graceful
        self._hurried = False
        """All was to end at once, and the workers of scripts have been told."""
        self._exit = EXIT_OK
        self._started = time.time()
        self._signals_in, self._signals_out = os.pipe()
        for fd in (self._signals_in, self._signals_out):
            os.set_blocking(fd, False)
        # Where nothing can come of the clock alone, an idle master sleeps until something happens.
        self._ticks = bool(
            settings.request_timeout or settings.slow_request or settings.max_rss or settings.pool != "static"
        )  # fmt: skip

    def take_over(self, handed: Handed) -> None:
        """Go on where the program before this one has stopped: its workers serve until there are new ones."""
        self._started = handed.started
        if handed.wanted:
            self._wanted = min(handed.wanted, self._service.board.workers // 2)
        self._tally.reloads = handed.reloads
        go_on(handed.counts, self._tally, self._overdue, self._service.board)
        self._generation = self._proven = handed.generation
        for entry in handed.workers:
            gone = entry.control == GONE
            control = socket.socket(socket.AF_UNIX) if gone else socket.socket(fileno=entry.control)
            control.setblocking(False)
            worker = WorkerProcess(entry.pid, control, entry.born, handed.generation, -1, None)
            worker.ready = True
            worker.ready_since = entry.born
            self._workers.adopt(worker)
            if gone:
                worker.channel.close()
                worker.leaving = True  # it serves nobody, and is buried when it has ended
                worker.retiring_since = time.monotonic()
            elif entry.retiring:
                now = time.monotonic()
                self._workers.retire(worker, "reload", now, now + self._graceful)
        self._newest = self._generation
        self._begin_reload()

    @contextlib.contextmanager
    def noting_signals(self) -> Iterator[None]:
        """For the time of the server: note the signals, from which on none is lost and none kills."""
        wakeup = signal.set_wakeup_fd(self._signals_out, warn_on_full_buffer=False)
        before = {number: signal.signal(number, note) for number in SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked across an exec
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            os.close(self._signals_in)
            os.close(self._signals_out)

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Supervise until stopped; returns the exit code. To be called within ``noting_signals``."""
        try:
            self._signals()  # those that have come meanwhile
            while True:
                self._overdue.collect()
                self._settle()
                now = time.monotonic()
                self._look(now)
                facts = self._facts()
                actions, wake = policy.decide(facts, now)
                self._size = policy.pool_size(facts, now)
                changed = False
                for action in actions:
                    if isinstance(action, policy.Exit):
                        if self._exit == EXIT_OK:
                            self._log.info("stopped")
                        return self._exit
                    changed = self._do(action) or changed
                if not changed:  # else there are new deadlines
                    self._wait(wake, now)
                self._reap()
        finally:
            for worker in self._workers:
                self._workers.kill(worker)
            self._service.upgrade.end_check()

    def _look(self, now: float) -> None:
        """Bring up to date what only changes by being looked at."""
        if self._settings.pool != "static":
            self._gauge.sample(self._workers, now)
            self._waiting = self._service.connections_wait()
        if self._settings.max_rss:
            self._workers.watch_memory(now)
        notifier = self._service.notifier
        if notifier.watchdog_interval and now - self._beaten >= notifier.watchdog_interval:
            self._beaten = now
            notifier.watchdog()

    def _facts(self) -> policy.Facts:
        settings = self._settings
        return policy.Facts(
            workers=tuple(self._workers.facts(worker) for worker in self._workers),
            wanted=self._wanted,
            failures=self._failures.count,
            last_failure=self._failures.last,
            stopping_since=self._stopping_since,
            boot_timeout=settings.timeouts.boot,
            graceful_timeout=self._graceful,
            generation=self._generation,
            proving=self._reloading and self._proven != self._generation,
            rolling=settings.rolling,
            pool=settings.pool,
            min_workers=settings.min_workers,
            worker_idle=settings.worker_idle,
            busy_gauge=self._gauge.busy,
            waiting=self._waiting,
            threads=settings.threads,
            max_rss=settings.max_rss,
            request_timeout=settings.request_timeout,
            slow_request=settings.slow_request,
            last_spawn=self._last_spawn,
            last_retire=self._last_retire,
            hold_until=self._hold_until,
            size=self._size,
        )

    def _wait(self, wake: float | None, now: float) -> None:
        """Sleep until a signal, a worker or a client of ours has something to say."""
        service = self._service
        homeless = self._workers.homeless
        moments = [wake, service.deadline(), self._overdue.wake(now), service.upgrade.deadline]
        poll = select.poll()
        poll.register(self._signals_in, select.POLLIN)
        by_fd: dict[int, WorkerProcess] = {}
        for worker in self._workers:
            wanted = self._workers.events(worker)
            if wanted:
                poll.register(worker.channel, wanted)
                by_fd[worker.channel.fileno()] = worker
        for fd, events in service.descriptors():
            poll.register(fd, events)
        nobody = all(worker.retiring_since is not None for worker in self._workers)
        if nobody and self._settings.pool == "ondemand" and self._stopping_since is None:
            if len(homeless):  # of themselves they would never bring a worker
                self._log.info(f"idle connections of the last workers are closed: {len(homeless)}")
                homeless.close()
            if now < self._failures.until:  # a connection would wake us at once
                moments.append(self._failures.until)
            else:
                for fd in service.listener_fds():
                    poll.register(fd, select.POLLIN)
        if self._ticks and len(self._workers):
            moments.append(now + _TICK)
        if service.notifier.watchdog_interval:
            moments.append(self._beaten + service.notifier.watchdog_interval)
        moments.append(homeless.wake())
        due = min((moment for moment in moments if moment is not None), default=None)
        timeout = None if due is None else min(_LONGEST, max(0.0, due - time.monotonic())) * 1000 + 1
        for fd, events in poll.poll(timeout):
            if fd == self._signals_in:
                self._signals()
            elif fd in by_fd:
                if events & ~select.POLLOUT and by_fd[fd].channel.fileno() == fd:
                    self._hear(by_fd[fd])
            else:
                service.on_ready(fd, events)
        service.expire(time.monotonic())
        self._workers.pass_on()
        self._tell_losses()

    def _tell_losses(self, *, at_once: bool = False) -> None:
        for line in self._workers.homeless.news(at_once=at_once):
            self._log.warning(line)

    # -- what the policy says -----------------------------------------------------------------------------------

    def _do(self, action: policy.Action) -> bool:
        """Carry an action out; True where that has changed what the next decision rests on."""
        now = time.monotonic()
        if isinstance(action, policy.Spawn):
            return self._spawn(action.count, now)
        if isinstance(action, policy.Kill):
            worker = self._workers[action.pid]
            if self._has_become_ready(worker):
                return True
            killed = self._workers.kill(worker)
            if killed:
                superseded = not worker.ready and (self._stopping_since or worker.generation != self._generation)
                tell = self._log.info if superseded else self._log.warning
                told = f"worker {action.pid}: {action.reason}; killed"
                tell(told)
                if not worker.ready:
                    worker.reason = worker.reason or told
            return killed
        if isinstance(action, policy.Retire):
            self._log.info(f"worker {action.pid} is told to leave: {action.reason}")
            self._workers.retire(self._workers[action.pid], action.cause, now, now + self._graceful)
            self._last_retire = now
            if action.cause in self._tally.restarts:
                self._tally.restarts[action.cause] += 1
            return True
        if isinstance(action, policy.Slow | policy.Cancel):
            cancel = isinstance(action, policy.Cancel)
            self._overdue.begin(self._workers[action.pid], action.thread, action.serial, cancel=cancel)
        return False

    def _has_become_ready(self, worker: WorkerProcess) -> bool:
        """Whether one that is to be killed since it boots is ready by now: it serves, and is not to be killed."""
        if worker.ready or worker.killed or worker.leaves:
            return False
        self._workers.halt(worker)
        ready = self._workers.hear(worker)
        if ready:
            self._ready(worker)
            self._workers.go_on(worker)
        return ready

    def _spawn(self, count: int, now: float) -> bool:
        """Start workers, and return whether that was tried.

        The first of a reload comes alone, so that broken code is told once and costs one boot.
        """
        if self._reloading and self._proven != self._generation:
            count = 0 if any(worker.generation == self._generation for worker in self._workers) else 1
        for _ in range(count):
            try:
                self._workers.spawn(self._service.worker_body(self._after_fork), self._generation, now)
            except OSError as error:
                reason = f"cannot start a worker: {error.strerror}"
                self._log.failure(reason)
                self._failed(EXIT_BOOT, reason)
                break
            self._last_spawn = now
        return count > 0

    def _after_fork(self) -> None:
        """In a worker: let go of what is the master's."""
        os.close(self._signals_in)
        os.close(self._signals_out)

    # -- signals and commands -----------------------------------------------------------------------------------

    def _signals(self) -> None:
        try:
            numbers = os.read(self._signals_in, 256)
        except BlockingIOError:
            return
        for number in numbers:
            if number in STOP_SIGNALS:
                since = self._stopping_since
                if since is not None and time.monotonic() - since > _REPEATED:  # asked again: at once
                    self._hurry(since)
                self._stop(signal.Signals(number).name)
            elif number == signal.SIGHUP:
                with contextlib.suppress(ConfigError):  # it is stopping
                    self.reload()
            elif number == signal.SIGUSR1:
                with contextlib.suppress(ConfigError):  # it is in the log
                    self.reopen()
            elif number == signal.SIGUSR2:
                self._execute()
            elif number in (signal.SIGTTIN, signal.SIGTTOU):
                with contextlib.suppress(ConfigError):  # at its bounds already
                    self.scale(self._wanted + (1 if number == signal.SIGTTIN else -1))

    def _hurry(self, since: float) -> None:
        """Have the workers end at once; those of scripts after a moment, in which they end these: nobody else would."""
        now = time.monotonic()
        if self._settings.scripts is None or self._hurried:
            self._graceful = 0.0
        else:
            self._hurried = True
            self._graceful = min(self._graceful, now - since + _MOMENT)
            for worker in self._workers:
                self._workers.hurry(worker, now)

    def status(self) -> dict[str, Any]:
        """Return the status document (``status`` tells its shape)."""
        now = time.monotonic()
        self._gauge.sample(self._workers, now)
        settings = self._settings
        workers = workers_status(self._workers, now)
        able = settings.pool == "ondemand" and self._on_ready is None and not self._failures.count
        state = "running" if self._proven or able else "starting"
        if self._stopping_since is not None:
            state = "stopping"
        elif self._reloading or self._service.upgrade.checking:
            state = "reloading"
        return {
            "name": "gateways",
            "version": version_line(),
            "pid": os.getpid(),
            "app": settings.app,
            "started": self._started,
            "uptime": max(0.0, time.time() - self._started),
            "state": state,
            "generation": self._generation,
            "reloads": self._tally.reloads,
            "reload_failures": self._tally.reload_failures,
            "pool": settings.pool,
            "wanted": self._wanted,
            "ready": self._workers.ready,
            "threads": settings.threads,
            "busy_threads": sum(thread["state"] == "busy" for worker in workers for thread in worker["threads"]),
            "busy": round(self._gauge.busy, 4),
            "restarts": dict(self._tally.restarts),
            "timeouts": self._overdue.timeouts,
            "slow": self._overdue.slow,
            "listeners": listener_status(self._service.listeners(), settings.backlog),
            "workers": workers,
            **times_status(self._service.board),
        }

    def reload(self) -> None:
        """Have the application loaded anew: by new workers, or where it is loaded here by a new master."""
        if self._stopping_since is not None:
            raise ConfigError("the server is stopping")
        if self._settings.preload:
            self._execute()
        else:
            self._begin_reload()

    def _begin_reload(self) -> None:
        if self._reloading:
            self._log.info("a reload is under way already; it begins anew")
        self._newest += 1
        self._generation = self._newest
        self._reloading = True
        self._failures.booted()
        self._service.notifier.reloading()
        self._log.info(f"reload: starting workers of generation {self._generation}")

    def _execute(self) -> None:
        """Have the program itself replaced, if the new one is any good."""
        upgrade = self._service.upgrade
        if self._stopping_since is not None or upgrade.checking:
            return
        if not upgrade.possible:
            started = "'gateways serve' or 'gateways scripts'"
            self._not_replaced(f"this server cannot start its program again: it was not started by {started}")
            return
        try:
            self._service.notifier.reloading()
            self._log.info("checking the program that is to take over")
            upgrade.begin(self._settings.timeouts.boot + _CHECK)
        except OSError as error:
            self._not_replaced(f"this server cannot start its program again: {error.strerror}")

    def _checked(self, code: int) -> None:
        """The check of the program has ended: go over to it, or stay."""
        if code != 0:
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            self._not_replaced(f"the check of the new program {how}; the log has its reason")
            return
        service = self._service
        for worker in self._workers:
            if not (worker.ready or self._has_become_ready(worker)):
                self._workers.kill(worker)
        handed = service.handed(
            list(self._workers),
            generation=self._newest, started=self._started, reloads=self._tally.reloads,
            wanted=0 if self._wanted == self._settings.workers else self._wanted,
            counts=counted(self._tally, self._overdue, service.board),
        )  # fmt: skip
        self._workers.homeless.give_up("the master's program is replaced, and they cannot go along")
        self._tell_losses(at_once=True)
        self._log.info("the program is replaced; its workers go on until there are new ones")
        try:
            service.upgrade.execute(handed, SIGNALS)
        except OSError as error:
            self._not_replaced(f"cannot start the new program: {error.strerror}")

    def _not_replaced(self, reason: str) -> None:
        self._log.failure(reason)
        self._reload_failed(reason)

    def reopen(self) -> None:
        """Open the log files anew, here and in the workers; raises ConfigError where one cannot be, and is kept."""
        fds, problems = self._service.outlets.reopen()
        for worker in self._workers:
            worker.channel.send(REOPEN, fds=fds)
        for fd in fds:
            os.close(fd)
        if problems:
            raise ConfigError("; ".join(problems))
        self._log.info("the log files are open anew")

    def stop(self) -> None:
        """Stop as SIGTERM does."""
        self._stop("asked by its control socket")

    def scale(self, workers: int) -> int:
        """Have so many workers; returns how many. Raises ConfigError where that cannot be."""
        least, most = 1, self._service.board.workers // 2
        if not least <= workers <= most:
            raise ConfigError(f"{workers} workers cannot be; from {least} to {most} can, without a restart")
        self._wanted = workers
        self._log.info(f"{workers} workers are wanted now")
        return workers

    def _stop(self, why: str) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            if why:
                self._log.info(f"{why}: finishing what runs, at most {self._graceful:g} s")
            self._service.notifier.stopping()
            self._tell_losses(at_once=True)
            self._service.reloaded("the server stops")
            self._service.upgrade.end_check()
            self._service.refuse()  # as the workers do: web servers are refused at once, and go elsewhere
        for worker in self._workers:
            self._workers.retire(worker, "stop", self._stopping_since, self._stopping_since + self._graceful)
        self._workers.homeless.end()

    # -- what happens to workers --------------------------------------------------------------------------------

    def _hear(self, worker: WorkerProcess) -> None:
        if self._workers.hear(worker):
            self._ready(worker)
        self._leaving(worker)

    def _leaving(self, worker: WorkerProcess) -> None:
        """See whether it leaves by itself."""
        if worker.leaving and worker.retiring_since is None:
            if worker.reason:
                self._log.warning(f"worker {worker.pid} leaves: {worker.reason}")
            else:
                self._log.info(f"worker {worker.pid} leaves: it has been asked to by a signal")
                self._hold_until = time.monotonic() + _HOLD
            worker.retiring_since = time.monotonic()

    def _ready(self, worker: WorkerProcess) -> None:
        self._failures.booted()
        worker.ready_since = time.monotonic()
        self._proven = max(self._proven, worker.generation)
        if self._stopping_since is None:
            self._log.info(f"worker {worker.pid} is ready")

    def _settle(self) -> None:
        """See whether the start, or a reload, has come to its end."""
        code = self._service.upgrade.result()
        if code is not None:
            self._checked(code)
        if self._stopping_since is not None:
            return
        old = any(worker.generation != self._generation and worker.retiring_since is None for worker in self._workers)
        if self._reloading and not old and self._proven == self._generation:
            self._reloading = False
            self._tally.reloads += 1
            self._log.info("reload: done")
            self._tell_ready()
            self._service.reloaded(None)
        need = {"static": self._wanted, "dynamic": self._settings.min_workers}.get(self._settings.pool, 0)
        if self._on_ready is not None and self._workers.ready >= need and not self._reloading:
            call, self._on_ready = self._on_ready, None
            self._tell_ready()
            call()
        if self._on_ready is None and not self._reloading:
            self._tell_size()

    def _tell_ready(self) -> None:
        self._service.notifier.ready()
        self._told = ""
        self._tell_size()

    def _tell_size(self) -> None:
        """Tell the service manager how many serve, where that is another number by now."""
        count = self._workers.ready
        text = f"{count} {'worker serves' if count == 1 else 'workers serve'} {self._settings.app}"
        text = f"{text}, generation {self._generation}"
        if text != self._told:
            self._told = text
            self._service.notifier.status(text)

    def _reap(self) -> None:
        service = self._service
        if service.watcher_has_ended() and self._stopping_since is None:
            self._log.warning("what watches the application's files has ended (--reload): changes go unnoticed")
        for worker, code, serving in self._workers.reap():
            self._overdue.forget(worker)
            self._leaving(worker)  # it may have said so just before its end
            how = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
            if self._stopping_since is not None:
                pass  # whatever it did, that is over
            elif worker.retiring_since is not None:
                if code != 0:
                    self._log.warning(f"worker {worker.pid} {how} while it was leaving")
            elif worker.killed and not worker.ready and worker.generation != self._generation:
                pass  # that was told
            elif worker.ready:
                self._tally.restarts["crash"] += 1
                self._log.warning(f"worker {worker.pid} {how}; it is replaced")
                if said := self._failures.crashed(time.monotonic(), worker.ready_since, self._wanted):
                    self._log.warning(said)
            else:
                reason = worker.reason or f"worker {worker.pid} {how} before it was ready"
                if not worker.reason:  # else it has told the log
                    self._log.failure(reason)
                self._boot_failed(worker, reason, EXIT_CONFIG if code == EXIT_CONFIG else EXIT_BOOT)
            for row in serving:
                self._log.warning(f"worker {worker.pid} was serving {row.protocol} {row.line}")
                record_unfinished(service.board, service.access_log, worker, row, time.monotonic())

    def _boot_failed(self, worker: WorkerProcess, reason: str, code: int) -> None:
        if worker.generation != self._generation:  # of a reload that has been given up
            return
        if self._reloading and self._proven != self._generation:
            self._reload_failed(reason)
        else:
            self._failed(code, reason)

    def _reload_failed(self, reason: str) -> None:
        """Stay with the old workers; ``reason`` is in the log already."""
        if self._workers.ready:
            self._log.warning("reload: failed; the old code goes on serving")
        else:
            self._log.warning("reload: failed; there is no worker of the old code that could go on")
        self._tally.reload_failures += 1
        if self._reloading:
            self._generation = max(
                (worker.generation for worker in self._workers if worker.ready), default=self._generation
            )
            self._reloading = False
            self._failures.not_booted(time.monotonic())  # a pool that shrinks keeps its workers: none could come back
        self._tell_ready()
        self._service.reloaded(reason)

    def _failed(self, code: int, reason: str) -> None:
        """No worker has come of a try: try again later, or end with ``code`` where none ever has."""
        self._failures.not_booted(time.monotonic())
        if self._proven or self._settings.pool == "ondemand":
            self._log.warning(f"next try in {self._failures.pause:g} s")
            return
        # Nothing has ever worked: it will not by itself.
        self._service.outlets.not_started(reason)
        self._exit = code
        self._graceful = 0.0
        self._stop("")
