"""Everything that a server holds open beside its workers: listeners, logs, scoreboard, control socket, metrics.

``serve`` opens all of it, or takes it over from the program before, has the master run, and puts it away.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from gateways.apps import loader
from gateways.build import version_line
from gateways.errors import ConfigError, WorkerBootError
from gateways.server import control as control_socket, privileges
from gateways.server.accesslog import AccessLog
from gateways.server.address import Address
from gateways.server.admission import WEB_SERVERS, Admission
from gateways.server.adoption import Adoption
from gateways.server.advice import advise
from gateways.server.channel import FAILED, Channel
from gateways.server.handover import GONE, VARIABLE, Handed, HandedListener, HandedWorker
from gateways.server.inherited import empty_stdin
from gateways.server.metrics import MetricsServer
from gateways.server.notify import Notifier
from gateways.server.outlets import Outlets
from gateways.server.pidfile import PidFile
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Board
from gateways.server.signals import interruptible, note_signals
from gateways.server.sockets import UnixListener, bind, cleanup
from gateways.server.upgrade import Upgrade
from gateways.server.worker import LEAVE, Place, run_worker
from gateways.settings import Settings

if TYPE_CHECKING:
    from gateways.server.master import Master

__all__ = ["Service", "serve"]

_SPARE: Final = 8  # places on the scoreboard beside twice the workers: those that leave overlap those that come
_LEAST: Final = 32
_METRICS: Final = "metrics"  # in the place of a protocol
_METRICS_BACKLOG: Final = 128
_PID_FILE: Final = "pid file"
_BOARD: Final = 1 << 28  # bytes of scoreboard beyond which there are only the places that must be
_NOTED: Final = (signal.SIGINT, signal.SIGHUP, *LEAVE, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
_OK: Final = 0
_CONFIG: Final = 2
_BOOT: Final = 3


class Service:
    """What one server holds; raises ConfigError where something cannot be had."""

    control: control_socket.ControlServer | None = None
    metrics: MetricsServer | None = None
    application: Any = None
    """Loaded here, with --preload."""

    def __init__(
        self, settings: Settings, outlets: Outlets, upgrade: Upgrade, notifier: Notifier, admission: Admission
    ) -> None:
        self.settings = settings
        self.outlets = outlets
        self.log = outlets.log
        self.slow_log = outlets.slow
        self.upgrade = upgrade
        self.notifier = notifier
        places = max(2 * settings.workers + _SPARE, _LEAST)
        if places * settings.threads * 4096 > _BOARD:
            places = 2 * settings.workers + _SPARE
        self.board = Board(places, settings.threads)
        self.access_log = None if outlets.access is None else AccessLog(outlets.access, settings.access_format)
        self.admission = admission
        self._sockets: list[tuple[str, str, socket.socket]] = []
        self._given = Adoption(())
        """What the program before this one has handed over and nobody has taken."""
        self._unopened = False
        """Some listener of the settings could not be opened, and what was handed over must go on."""
        self._watcher = 0
        self._metrics_socket: socket.socket | None = None
        self._metrics_address = ""
        self._pid_file: PidFile | None = None

    # -- opening ------------------------------------------------------------------------------------------------

    def open(self, handed: Handed | None) -> None:
        """Open the listeners, or take them over; raises ConfigError."""
        if handed is not None:
            self._given = Adoption(handed.listeners)
        for protocol, address in self.settings.listeners:
            sock = self._listen(protocol, address, self.settings.backlog, handed)
            if sock is None:
                self._unopened = True
            else:
                self._sockets.append((protocol, str(address), sock))

    def _listen(self, protocol: str, address: Address, backlog: int, handed: Handed | None) -> socket.socket | None:
        """Take a socket over, or open it; None where that cannot be and is forgiven. Raises ConfigError."""
        sock = self._given.take(protocol, address)
        if sock is not None:
            return sock
        settings = self.settings
        try:
            return bind(address, backlog=backlog, mode=settings.socket_mode, owner=settings.socket_owner)
        except ConfigError as error:
            self._forgive(error, handed)
            return None

    def attend(self, handler: control_socket.Handler, handed: Handed | None, runtime: str | None) -> None:
        """Open the control socket and the metrics, or take them over; raises ConfigError."""
        settings = self.settings
        others = handed.others if handed is not None else {}
        self._watcher = others.get("watcher", 0)
        handed_control = socket.socket(fileno=others["control"]) if "control" in others else None
        if settings.control != "off":
            waiting = [socket.socket(fileno=fd) for fd in handed.asking] if handed is not None else []
            self._attend_control(handler, handed, runtime, handed_control, waiting)
        elif handed_control is not None:
            control_socket.end(handed_control)
        if settings.metrics is not None:
            self._metrics_address = str(settings.metrics)
            self._metrics_socket = self._listen(_METRICS, settings.metrics, _METRICS_BACKLOG, handed)
        self._keep_or_close()
        if self._metrics_socket is not None:
            self.metrics = MetricsServer(self._metrics_socket, handler, log=self.log)

    def _attend_control(
        self, handler: control_socket.Handler, handed: Handed | None, runtime: str | None, sock: socket.socket | None,
        waiting: list[socket.socket],
    ) -> None:  # fmt: skip
        """Open the control socket; where that fails, the one that was handed over stays."""
        path = self.settings.control
        try:
            if not path and sock is not None and handed is not None and handed.paths.get("control") == "":
                path = control_socket.place_of(sock)  # also where our user would have it elsewhere by now
            path = path or control_socket.default_path(os.getpid(), runtime)
            self.control = control_socket.ControlServer(path, handler, sock=sock, waiting=waiting, log=self.log)
        except ConfigError as error:
            if self.settings.control:
                self._forgive(error, handed)
            else:
                self.log.warning(f"no control socket: {error}")
            if sock is not None:
                old = sock.getsockname()
                self.log.warning(f"the control socket stays at {old}")
                self.control = control_socket.ControlServer(old, handler, sock=sock, waiting=waiting, log=self.log)

    def _keep_or_close(self) -> None:
        """See to what nobody has taken over: it ends, unless what is to be in its place could not be opened."""
        metrics = self.settings.metrics is not None and self._metrics_socket is None
        for protocol, address, sock in self._given.rest():
            if protocol == _METRICS and metrics:
                self._metrics_socket, self._metrics_address = sock, address
            elif protocol != _METRICS and self._unopened:
                self._sockets.append((protocol, address, sock))
            else:
                cleanup([sock])
                sock.close()
                continue
            self.log.warning(
                f"{protocol} on {address} stays open: not everything that the settings name in its place could be "
                "opened; mend that, then stop the server and start it again"
            )

    def write_pid(self, handed: Handed | None) -> None:
        """Write the pid file, or take it over; raises ConfigError."""
        path = self.settings.pid_file
        fd = handed.others.get(_PID_FILE, -1) if handed is not None else -1
        before = handed.paths.get(_PID_FILE, "") if handed is not None else ""
        try:
            if fd >= 0 and before != path:
                PidFile(before, fd).close()
                fd = -1
            if path:
                self._pid_file = PidFile(path, fd)
        except ConfigError as error:
            self._forgive(error, handed)

    def _forgive(self, error: ConfigError, handed: Handed | None) -> None:
        """Raise what makes a start fail; but to end where workers have been taken over would end what they serve."""
        if handed is None:
            raise error
        self.log.failure(f"{error}; the server goes on without it")

    def watch_files(self) -> None:
        """Start what watches the application's files, with --reload."""
        if self.settings.reload and not self._watcher:
            from gateways.server.watcher import start  # noqa: PLC0415  (for development only)

            self._watcher = start(self.settings.chdir)

    def watcher_has_ended(self) -> bool:
        """Whether what watches the application's files has come to an end; told once."""
        if not self._watcher:
            return False
        try:
            ended = os.waitpid(self._watcher, os.WNOHANG)[0] != 0
        except ChildProcessError:
            ended = True
        if ended:
            self._watcher = 0
        return ended

    def close(self) -> None:
        """Put everything away."""
        if self.control is not None:
            self.control.close()
        if self.metrics is not None:
            self.metrics.close()
        sockets = [sock for _, _, sock in self._sockets]
        if self._metrics_socket is not None:
            sockets.append(self._metrics_socket)
        cleanup(sockets)
        for sock in sockets:
            sock.close()
        if self._pid_file is not None:
            self._pid_file.close()
        if self._watcher:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._watcher, signal.SIGTERM)

    # -- for the master -----------------------------------------------------------------------------------------

    def listeners(self) -> list[tuple[str, str, socket.socket]]:
        """Return protocol, address and socket of each listener."""
        return self._sockets

    def listener_fds(self) -> list[int]:
        """Return the descriptors of those that listen."""
        return [sock.fileno() for _, _, sock in self._sockets if sock.fileno() >= 0]

    def connections_wait(self) -> bool:
        """Whether somebody has connected whom no worker has accepted."""
        poll = select.poll()
        for fd in self.listener_fds():
            poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def refuse(self) -> None:
        """Accept nobody any more; the paths of unix sockets stay until the end."""
        for _, _, sock in self._sockets:
            sock.close()

    def _desks(self) -> Iterable[control_socket.ControlServer | MetricsServer]:
        return [desk for desk in (self.control, self.metrics) if desk is not None]

    def descriptors(self) -> list[tuple[int, int]]:
        """Return what the master is to poll for, with the events."""
        return [entry for desk in self._desks() for entry in desk.descriptors()]

    def deadline(self) -> float | None:
        """Return when ``expire`` is to be called at the latest."""
        return min((due for desk in self._desks() if (due := desk.deadline()) is not None), default=None)

    def on_ready(self, fd: int, events: int) -> None:
        """See to a descriptor of ``descriptors``."""
        for desk in self._desks():
            if any(known == fd for known, _ in desk.descriptors()):
                desk.on_ready(fd, events)
                return

    def expire(self, now: float) -> None:
        """End what has waited too long."""
        for desk in self._desks():
            desk.expire(now)

    def reloaded(self, error: str | None) -> None:
        """Tell those that wait for a reload how it went."""
        if self.control is not None:
            self.control.reloaded(error)

    def handed(
        self, workers: list[WorkerProcess], *, generation: int, started: float, reloads: int, wanted: int,
        counts: dict[str, Any],
    ) -> Handed:  # fmt: skip
        """Return all of it for the program that takes over."""
        listeners = []
        sockets = list(self._sockets)
        if self._metrics_socket is not None:
            sockets.append((_METRICS, self._metrics_address, self._metrics_socket))
        for protocol, address, sock in sockets:
            path, created = (sock.path, sock.created) if isinstance(sock, UnixListener) else ("", (0, 0))
            listeners.append(HandedListener(protocol, address, sock.fileno(), path, created))
        others = self.outlets.others()
        if self.control is not None:
            others["control"] = self.control.fileno()
        if self._watcher:
            others["watcher"] = self._watcher
        if self._pid_file is not None:
            others[_PID_FILE] = self._pid_file.fd
        return Handed(
            tuple(listeners),
            tuple(
                HandedWorker(
                    worker.pid,
                    GONE if worker.killed else worker.channel.fileno(),
                    worker.born,
                    worker.retiring_since is not None,
                )
                for worker in workers
            ),
            generation, started, reloads, wanted, others,
            tuple(self.control.waiting()) if self.control is not None else (),
            {**self.outlets.paths(), "control": self.settings.control, _PID_FILE: self.settings.pid_file}, counts,
        )  # fmt: skip

    # -- in a worker --------------------------------------------------------------------------------------------

    def worker_body(self, after_fork: Callable[[], None]) -> Callable[[socket.socket, int], int]:
        """Return what a forked worker runs."""

        def body(control: socket.socket, slot: int) -> int:
            after_fork()
            return self._work(control, slot)

        return body

    def _work(self, control: socket.socket, slot: int) -> int:
        """Be a worker; returns its exit code."""
        settings = self.settings
        atexit._clear()  # noqa: SLF001  (the master's)
        empty_stdin()
        for desk in self._desks():
            desk.close()  # here it only lets go of the descriptors
        if self._pid_file is not None:
            self._pid_file.let_go()
        self.outlets.started()
        wakeup_in, wakeup_out = os.pipe()
        for fd in (wakeup_in, wakeup_out):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Ctrl-C reaches the whole group, as a killall does that was meant for the master, and that tells us. They are
        # not ignored, since programs that the application starts would inherit that.
        note_signals(_NOTED, wakeup_out)
        try:
            with contextlib.suppress(FileNotFoundError):  # it was there at the start
                os.chdir(settings.chdir)  # a symbolic link may lead elsewhere since the last reload
            if settings.request_timeout:
                import gateways.server.deadlines  # noqa: F401, PLC0415  (there may be no libraries in a new root)
            if self.application is None:
                privileges.drop(settings.user, settings.group, settings.umask, settings.chroot, self.log)
            run_worker(
                settings,
                Place(
                    [(protocol, sock) for protocol, _, sock in self._sockets], control, wakeup_in, self.board, slot,
                    self.access_log, self.outlets.fds, self.admission, self.application,
                ),
                self.log,
            )  # fmt: skip
        except (WorkerBootError, ConfigError) as error:
            self.log.failure(str(error), error.__cause__)
            Channel(control).send(FAILED, text=str(error).encode("utf-8", "replace"))
            return _BOOT if isinstance(error, WorkerBootError) and error.found else _CONFIG
        return _OK


def serve(
    settings: Settings, on_ready: Callable[[], None] | None = None, *, environment: Mapping[str, str] | None = None,
    handover: str = "",
) -> int:  # fmt: skip
    """Open everything, run the workers until a signal says stop, and return the exit code; raises ConfigError.

    ``on_ready`` is called once, when every first worker is ready. ``environment`` is the process's own, ``handover``
    what the program before this one has left in it. 0: stopped as asked; 2: the application cannot be found; 3: it
    failed to load.
    """
    from gateways.server.master import Master  # noqa: PLC0415  (it knows Service)

    environment = environment or {}
    privileges.check(settings.user, settings.group, settings.chroot)
    admission = Admission(settings.allow_from, settings.allow_user, environment.get(WEB_SERVERS, ""))
    handed = _read(handover) if handover else None
    upgrade = Upgrade(environment)
    os.chdir(settings.chdir)
    outlets = Outlets(settings, *((handed.others, handed.paths) if handed is not None else ()))
    service = Service(settings, outlets, upgrade, Notifier.from_environ(environment, os.getpid()), admission)

    def ready() -> None:
        outlets.started()
        if on_ready is not None:
            on_ready()

    master = Master(service, ready)
    with master.noting_signals():
        try:
            return _serve(service, master, handed, environment.get("XDG_RUNTIME_DIR"))
        except ConfigError as error:
            outlets.refuse(error)
            raise
        finally:
            service.close()


def _serve(service: Service, master: Master, handed: Handed | None, runtime: str | None) -> int:
    settings, log = service.settings, service.log
    service.open(handed)
    where = ", ".join(f"{protocol} on {address}" for protocol, address in settings.listeners)
    log.info(f"{version_line()}: {settings.app}, {where}, workers {settings.shape}")
    if settings.scripts is None:  # they never run as root
        privileges.warn_root(log, settings.user)
    advise(settings, log)
    service.write_pid(handed)
    service.attend(master, handed, runtime)
    if settings.preload:
        code = _preload(service, handed is not None)
        if code:
            return code
    service.watch_files()
    if handed is not None:
        master.take_over(handed)
    return master.run()


def _read(handover: str) -> Handed:
    """Return what the program before has left; raises ConfigError."""
    try:
        handed = Handed.read(handover)
        handed.examine()
    except ValueError as error:
        raise ConfigError(f"{error}; unset {VARIABLE}, and start the server again") from None
    return handed


def _preload(service: Service, taken_over: bool) -> int:
    """Load the application here; returns an exit code other than 0 where that fails and nobody serves."""
    settings = service.settings
    privileges.drop(settings.user, settings.group, settings.umask, settings.chroot, service.log)
    sys.path.insert(0, os.getcwd())
    try:
        with interruptible():
            service.application = loader.load(settings.app)
    except KeyboardInterrupt:  # the master has the signal, too
        pass
    except WorkerBootError as error:
        service.log.failure(str(error), error.__cause__)
        if not taken_over:
            service.outlets.not_started(str(error))
            return _BOOT if error.found else _CONFIG
    return 0
