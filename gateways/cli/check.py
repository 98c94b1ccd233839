"""``gateways check``: whether ``serve`` would start with the same options; nothing is bound and nothing is served.

The application is loaded in a process of its own, which ends with all that the application has started.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import select
import signal
import sys
import time
import traceback
from typing import Any, Final

import click

from gateways.apps import loader
from gateways.cli.options import ADDRESSES, SettingsCommand, configured, printing_options, settings_options
from gateways.errors import ConfigError, WorkerBootError
from gateways.settings import Settings

__all__ = ["command"]

EXIT_MISTAKE: Final = 2
"""As ``serve`` ends where there is no such application."""
EXIT_BOOT: Final = 3
"""As ``serve`` ends where the application fails to load."""
GOOD: Final = b"\0"
GRACE: Final = 1.0  # seconds that a process which is late has for telling where it stands
TICK: Final = 0.02  # seconds between two looks whether it has ended
LARGEST: Final = 65_536


class Warnings:
    """What the start has to say beside its result."""

    def warning(self, message: str) -> None:
        """One sentence."""
        click.echo(f"gateways: {message}", err=True)


class BootFailure(click.ClickException):
    """The application was found and does not load."""

    exit_code = EXIT_BOOT


def run(**arguments: Any) -> None:  # noqa: ANN401 - what click parsed
    """Do all of ``serve`` that comes before the first connection and does not need the sockets."""
    settings = configured(arguments)
    if settings is None:
        return
    loader.parse(settings.app)
    examine(settings)
    load_apart(settings)
    where = ", ".join(f"{protocol} on {address}" for protocol, address in settings.listeners)
    click.echo(f"configuration and application are good: {settings.app}, {where}, workers {settings.shape}")


def examine(settings: Settings) -> None:
    """Raise ConfigError for what the parts of the server would refuse. Whether a path or port is free is not asked.

    Nor are directories looked at where a server that runs is about to become this one: it keeps what it has open.
    """
    from gateways.server import advice, logfiles, metrics, outlets, privileges, sockets  # noqa: PLC0415 - not for --help
    from gateways.server.admission import Admission  # noqa: PLC0415 - as above
    from gateways.server.handover import VARIABLE  # noqa: PLC0415 - as above

    privileges.check(settings.user, settings.group, settings.chroot)
    addresses = [address for _, address in settings.listeners]
    sockets.examine(addresses, settings.socket_owner)
    Admission(settings.allow_from, settings.allow_user)
    outlets.check_format(settings)
    for name in ("access", "error", "slow"):
        logfiles.syslog_facility(getattr(settings, f"{name}_log"), name)
    if settings.metrics is not None:
        metrics.load_library()
    if settings.reload:
        from gateways.server.watcher import examine as examine_watcher  # noqa: PLC0415 - as above

        examine_watcher()
    if not os.environ.pop(VARIABLE, ""):
        examine_directories(settings)
    advice.advise(settings, Warnings())


def examine_directories(settings: Settings) -> None:
    """Raise ConfigError, as ``serve`` does, where a file could not be made. None is."""
    from gateways.server import logfiles, sockets  # noqa: PLC0415 - not for --help
    from gateways.server.address import Address  # noqa: PLC0415 - as above

    for name in ("access", "error", "slow"):
        logfiles.examine(getattr(settings, f"{name}_log"), name)
    unix = [address for _, address in settings.listeners if address.kind == "unix"]
    if settings.control not in ("", "off"):
        unix.append(Address("unix", path=settings.control))
    for address in unix:
        sockets.examine_directory(address, settings.chdir)
    if settings.pid_file and (why := logfiles.obstacle(settings.pid_file)):
        raise ConfigError(f"cannot write the pid file {settings.pid_file}: {why}; choose another one")


def load_apart(settings: Settings) -> None:
    """Load the application in a child, as the workers' user; raises WorkerBootError or BootFailure.

    The first is for an application that cannot be found.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ours, theirs = os.pipe()
    # An interrupt in the middle of fork() would be lost: what other modules do there (logging) swallows exceptions.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    start = time.monotonic()  # before the child's timer, which may have ended it before this process runs again
    child = os.fork()
    if child == 0:
        os.close(ours)
        load_and_tell(settings, theirs, blocked)
    os.close(theirs)
    try:
        said, code = wait_for(child, ours, start, settings.timeouts.boot, blocked)
    finally:
        os.close(ours)
    if said == GOOD:
        return
    if said:
        message = said.decode("utf-8", "replace")
        raise WorkerBootError(message) if code == EXIT_MISTAKE else BootFailure(message)
    raise BootFailure(f"loading {settings.app} {how(code, settings.timeouts.boot)}")


def load_and_tell(settings: Settings, out: int, blocked: set[int]) -> None:
    """Be the child: load, write the outcome to ``out``, end. Only the traceback is printed here.

    ``blocked``: the signals that shall be so from here on.
    """
    from gateways.server import privileges  # noqa: PLC0415 - not for --help
    from gateways.server.inherited import take_variables  # noqa: PLC0415 - as above

    take_variables(os.environ)
    code = EXIT_BOOT
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        atexit._clear()  # noqa: SLF001  (the parent's)
        os.setsid()  # so that whatever the application starts can be ended with it
        with contextlib.suppress(OSError):
            os.dup2(2, 1)  # stdout is for the result
            faulthandler.dump_traceback_later(settings.timeouts.boot, exit=True, file=2)
        os.chdir(settings.chdir)
        try:
            privileges.drop(settings.user, settings.group, settings.umask, settings.chroot, Warnings())
            sys.path.insert(0, os.getcwd())
            application = loader.load(settings.app)
            if settings.warm_up is not None:
                warm_up(application, settings.warm_up, settings)
        except WorkerBootError as error:
            if error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            if not error.found:
                code = EXIT_MISTAKE
            os.write(out, str(error).encode("utf-8", "replace")[:LARGEST])
        else:
            code = 0
            faulthandler.cancel_dump_traceback_later()
            os.write(out, GOOD)
    except BaseException:  # noqa: BLE001  (the process ends here)
        traceback.print_exc()
    finally:
        try:
            atexit._run_exitfuncs()  # noqa: SLF001  (the application's own)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.flush()
            os._exit(code)


def warm_up(application: Any, url: tuple[str, str, str], settings: Settings) -> None:  # noqa: ANN401 - whatever the user's module holds
    """Have the application answer its first request; raises WorkerBootError."""
    from gateways.apps.rehearsal import rehearse  # noqa: PLC0415 - not for --help
    from gateways.server.errorlog import ErrorLog, configure  # noqa: PLC0415 - as above

    configure("info")
    rehearse(
        application, url, ErrorLog(), mount=settings.mount, threads=settings.threads > 1,
        processes=settings.workers > 1,
    )  # fmt: skip


def wait_for(child: int, out: int, start: float, seconds: float, blocked: set[int]) -> tuple[bytes, int | None]:
    """What the child has written to ``out`` and its exit code, None where it was late. Nothing of it is left.

    ``start`` is when its ``seconds`` began, by time.monotonic; ``blocked`` as for ``load_and_tell``.
    """
    deadline = start + seconds + GRACE
    said = b""
    code: int | None = None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            while select.select([out], [], [], 0)[0] and (data := os.read(out, LARGEST)):
                if not said:  # the rest are the application's functions for the exit
                    deadline = min(deadline, time.monotonic() + GRACE)
                said += data
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return said, code if said or time.monotonic() < start + seconds else None
            if time.monotonic() > deadline:
                return said, None
            time.sleep(TICK)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            with contextlib.suppress(ProcessLookupError):  # before it had a session of its own
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def how(code: int | None, seconds: float) -> str:
    """What a sentence says of a child that said nothing itself."""
    if code is None:
        return f"takes more than {seconds:g} s; the stacks show where it stands, and --boot-timeout gives it more time"
    if code < 0:
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"
    return f"ended the process with exit code {code}, without an error"


command: Final = SettingsCommand(
    "check",
    run,
    "Validate the same options as serve, load the application APP in a process of its own, and say what is wrong. "
    f"Nothing is bound or served.\n\n{ADDRESSES}",
    [*settings_options(), *printing_options()],
)
