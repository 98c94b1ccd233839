"""The process that binds, forks workers, reaps and replaces them, and stops. ``policy`` decides, this file acts.

Nothing of the application is loaded here. Signal handlers only note the signal.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from gateways.build import version_line
from gateways.errors import WorkerBootError
from gateways.server import policy
from gateways.server.errorlog import ErrorLog, configure
from gateways.server.sockets import bind, cleanup
from gateways.server.worker import LEAVE, READY, run_worker
from gateways.settings import Settings

__all__ = ["serve"]

_REPEATED: Final = 1.0  # seconds within which one Ctrl-C may arrive twice: from the terminal and from a wrapper
_EXIT_OK: Final = 0
_EXIT_CONFIG: Final = 2
_EXIT_BOOT: Final = 3
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_NOT_YET: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def serve(settings: Settings, on_ready: Callable[[], None] | None = None) -> int:
    """Bind, run the workers until a signal says stop, and return the exit code; raises ConfigError.

    ``on_ready`` is called once, when every first worker is ready. 0: stopped as asked; 2: the application cannot be
    found; 3: it failed to load.
    """
    configure(settings.log_level)
    log = ErrorLog()
    os.chdir(settings.chdir)
    sockets: list[tuple[str, socket.socket]] = []
    try:
        for protocol, address in settings.listeners:
            sockets.append(
                (
                    protocol,
                    bind(address, backlog=settings.backlog, mode=settings.socket_mode, owner=settings.socket_owner),
                )
            )
        where = ", ".join(f"{protocol} on {address}" for protocol, address in settings.listeners)
        shape = f"{settings.workers} x {settings.threads} threads" if settings.threads > 1 else str(settings.workers)
        log.info(f"{version_line()}: {settings.app}, {where}, workers {shape}")
        return Master(settings, sockets, log, on_ready).run()
    finally:
        cleanup([sock for _, sock in sockets])
        for _, sock in sockets:
            sock.close()


class _Worker:
    """One living worker, as the master sees it."""

    def __init__(self, pid: int, control: socket.socket, born: float) -> None:
        self.pid = pid
        self.control = control
        self.born = born
        self.ready = False
        self.said = b""
        """Why it could not boot."""
        self.told = False
        self.killed = False


class Master:
    """The workers of one server."""

    def __init__(
        self, settings: Settings, sockets: list[tuple[str, socket.socket]], log: ErrorLog,
        on_ready: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._sockets = sockets
        self._log = log
        self._on_ready = on_ready
        self._workers: dict[int, _Worker] = {}
        self._failures = 0
        self._last_failure = 0.0
        self._served = False
        """A worker has been ready once."""
        self._stopping_since: float | None = None
        self._graceful = settings.timeouts.graceful
        self._exit = _EXIT_OK
        self._signals_in, self._signals_out = os.pipe()
        for fd in (self._signals_in, self._signals_out):
            os.set_blocking(fd, False)

    def run(self) -> int:
        """Supervise until stopped; returns the exit code."""
        before = {number: signal.signal(number, _note) for number in (*_STOP_SIGNALS, signal.SIGCHLD, *_NOT_YET)}
        old_wakeup = signal.set_wakeup_fd(self._signals_out, warn_on_full_buffer=False)
        try:
            while True:
                now = time.monotonic()
                actions, wake = policy.decide(self._facts(), now)
                for action in actions:
                    if isinstance(action, policy.Exit):
                        return self._exit
                    self._do(action)
                if not any(isinstance(action, policy.Spawn) for action in actions):  # new workers have deadlines too
                    self._wait(None if wake is None else max(0.0, wake - time.monotonic()))
                self._reap()
        finally:
            signal.set_wakeup_fd(old_wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self._workers.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            os.close(self._signals_in)
            os.close(self._signals_out)

    def _facts(self) -> policy.Facts:
        return policy.Facts(
            workers=tuple(
                policy.WorkerFacts(worker.pid, worker.ready, worker.born) for worker in self._workers.values()
            ),
            wanted=self._settings.workers,
            failures=self._failures,
            last_failure=self._last_failure,
            stopping_since=self._stopping_since,
            boot_timeout=self._settings.timeouts.boot,
            graceful_timeout=self._graceful,
        )

    def _do(self, action: policy.Action) -> None:
        if isinstance(action, policy.Spawn):
            for _ in range(action.count):
                if not self._spawn():
                    return
        elif isinstance(action, policy.Kill) and not self._workers[action.pid].killed:
            self._workers[action.pid].killed = True
            self._log.warning(f"worker {action.pid}: {action.reason}; killed")
            with contextlib.suppress(ProcessLookupError):
                os.kill(action.pid, signal.SIGKILL)

    def _wait(self, timeout: float | None) -> None:
        """Sleep until a signal or a worker has something to say."""
        poll = select.poll()
        poll.register(self._signals_in, select.POLLIN)
        by_fd: dict[int, _Worker] = {}
        for worker in self._workers.values():
            if worker.control.fileno() >= 0:
                poll.register(worker.control, select.POLLIN)
                by_fd[worker.control.fileno()] = worker
        for fd, _ in poll.poll(None if timeout is None else timeout * 1000 + 1):
            if fd == self._signals_in:
                self._signals()
            else:
                self._listen_to(by_fd[fd])

    def _signals(self) -> None:
        try:
            numbers = os.read(self._signals_in, 256)
        except BlockingIOError:
            return
        for number in numbers:
            if number in _STOP_SIGNALS:
                since = self._stopping_since
                if since is not None and time.monotonic() - since > _REPEATED:  # asked again: at once
                    self._graceful = 0.0
                self._stop(signal.Signals(number).name)
            elif number in _NOT_YET:
                name = signal.Signals(number).name
                self._log.warning(f"{name}: this version cannot reload or reopen logs; stop and start it instead")

    def _stop(self, why: str) -> None:
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            if why:
                self._log.info(f"{why}: finishing what runs, at most {self._graceful:g} s")
            for _, sock in self._sockets:  # as the workers do: web servers are refused at once, and go elsewhere
                sock.close()
        for worker in self._workers.values():
            if not worker.told:
                worker.told = True
                with contextlib.suppress(OSError):
                    worker.control.sendall(b"s")

    def _listen_to(self, worker: _Worker) -> None:
        try:
            data = worker.control.recv(65_536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            worker.control.close()
        elif not worker.ready and data == READY:
            self._ready(worker)
        else:
            worker.said += data

    def _ready(self, worker: _Worker) -> None:
        worker.ready = True
        self._failures = 0
        self._served = True
        self._log.info(f"worker {worker.pid} is ready")
        if self._on_ready is not None and sum(each.ready for each in self._workers.values()) == self._settings.workers:
            call, self._on_ready = self._on_ready, None
            call()

    def _reap(self) -> None:
        for pid, worker in list(self._workers.items()):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if found:
                if worker.control.fileno() >= 0:
                    self._listen_to(worker)
                    worker.control.close()
                del self._workers[pid]
                self._died(worker, os.waitstatus_to_exitcode(status))

    def _died(self, worker: _Worker, code: int) -> None:
        if self._stopping_since is not None:
            return
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if worker.ready:
            self._log.warning(f"worker {worker.pid} {how}; it is replaced")
            return
        reason = worker.said.decode("utf-8", "replace") or f"worker {worker.pid} {how} before it was ready"
        self._failed(reason, _EXIT_CONFIG if code == _EXIT_CONFIG else _EXIT_BOOT)

    def _failed(self, reason: str, code: int) -> None:
        """No worker has come of a try: try again later, or end with ``code`` where none ever has."""
        self._failures += 1
        self._last_failure = time.monotonic()
        self._log.failure(reason)
        if self._served:
            self._log.warning(f"next try in {policy.back_off(self._failures):g} s")
            return
        # Nothing has ever worked: it will not by itself.
        self._exit = code
        self._graceful = 0.0
        self._stop("")

    def _spawn(self) -> bool:
        """Fork a worker; False where the system has no process or descriptor left for one."""
        _flush()
        try:
            ours, theirs = socket.socketpair()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            self._failed(f"cannot start a worker: {error.strerror}", _EXIT_BOOT)
            return False
        if pid == 0:
            code = _EXIT_BOOT
            try:
                ours.close()
                for worker in self._workers.values():
                    worker.control.close()
                code = self._child(theirs)
            except BaseException:  # noqa: BLE001  (it ends here; the master only sees that it did)
                traceback.print_exc()
            finally:
                try:
                    atexit._run_exitfuncs()  # noqa: SLF001  (the application's own, as in a process of its own)
                    _flush()
                finally:  # never back into the master's code, which would end the other workers
                    os._exit(code)
        theirs.close()
        ours.setblocking(False)
        self._workers[pid] = _Worker(pid, ours, time.monotonic())
        return True

    def _child(self, control: socket.socket) -> int:
        """Be a worker; returns its exit code."""
        atexit._clear()  # noqa: SLF001  (the master's)
        os.close(self._signals_in)
        os.close(self._signals_out)
        wakeup_in, wakeup_out = os.pipe()
        for fd in (wakeup_in, wakeup_out):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C reaches the whole group, and the master tells us. It is not ignored, since programs that the
        # application starts would inherit that.
        for number in (signal.SIGINT, *LEAVE):
            signal.signal(number, _note)
        signal.set_wakeup_fd(wakeup_out, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: _forget(wakeup_out))
        try:
            run_worker(self._settings, self._sockets, control, wakeup_in, self._log)
        except WorkerBootError as error:
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            control.sendall(str(error).encode("utf-8", "replace"))
            return _EXIT_BOOT if error.__cause__ is not None else _EXIT_CONFIG
        return _EXIT_OK


def _note(number: int, frame: object) -> None:
    """Do nothing: the wake-up descriptor has the signal's number."""


def _forget(wakeup: int) -> None:
    """In a process that the application has forked: a signal for it must end it, and must not end the worker."""
    found = signal.set_wakeup_fd(-1)
    if found not in (-1, wakeup):  # the application's own
        signal.set_wakeup_fd(found)
    for number in (signal.SIGINT, *LEAVE):
        if signal.getsignal(number) is _note:
            signal.signal(number, signal.SIG_DFL)


def _flush() -> None:
    """Write out what was printed; there may be no such stream, and nobody who reads it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def _signal_name(number: int) -> str:
    """Real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
