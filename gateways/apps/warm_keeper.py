"""Keeps one fork server: what it imports, whether it may run as root, its start, and its next start when it has died.

One thread does all that, so that no request waits for it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateways.apps import warm_scan, warm_server
from gateways.apps.processes import Identity
from gateways.apps.warm_server import trusted

__all__ = ["USUAL", "Command", "Keeper", "Log", "Wanted"]

USUAL: Final = (
    "base64", "collections", "csv", "datetime", "email.message", "email.parser", "functools", "hashlib", "hmac", "html",
    "html.parser", "http.client", "http.cookies", "io", "itertools", "json", "locale", "logging", "math", "os",
    "random", "re", "shutil", "string", "subprocess", "sys", "tempfile", "time", "traceback", "urllib.parse",
)  # fmt: skip
"""What CGI scripts import."""
_BOOT: Final = 60.0
_SCAN: Final = 20.0
_SEND: Final = 5.0
_NAMES: Final = 65_536  # bytes of names
_SKIPPED: Final = 20  # modules that start threads
_SOON: Final = 0.1
_LATE: Final = 30.0
_STEADY: Final = 10.0
"""Seconds after which a fork server has not died of its start."""


class Log(Protocol):
    """What is told."""

    def warning(self, message: str) -> None:
        """Something that the operator should know."""


@dataclass(frozen=True, slots=True)
class Command:
    """A Python, as a script's first line has it."""

    program: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.program, *self.options))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What all fork servers of a worker have in common."""

    scripts: str
    """The directory of the scripts, or the only one."""
    named: tuple[str, ...]
    """Modules."""
    env: Mapping[str, str]
    """For the fork server itself."""
    root: bool
    """It runs as root, the scripts do not."""


class Keeper:
    """One fork server from now on. ``identity`` is a script's, with whose rights all scripts are looked at."""

    def __init__(self, command: Command, wanted: Wanted, identity: Identity | None, log: Log) -> None:
        self._command = command
        self._wanted = wanted
        self._identity = identity
        self._log = log
        self._closed = threading.Event()
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        """Where it takes orders; None while there is none."""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gateways-warm", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The fork server's process; 0 while there is none."""
        popen = self._popen
        return popen.pid if popen is not None and self._control is not None else 0

    def send(self, fds: list[int]) -> None:
        """Give it what a script is started with; raises OSError where it has gone, or takes nothing."""
        with self._lock:
            if self._control is None:
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
            socket.send_fds(self._control, [b"f"], fds)

    def close(self) -> None:
        """End it. Its scripts are signalled by others."""
        self._closed.set()
        self.kill()
        self._thread.join(_SEND)

    def kill(self) -> None:
        """End what does not answer."""
        popen = self._popen
        if popen is not None:
            with contextlib.suppress(OSError):
                popen.kill()

    def _run(self) -> None:
        try:
            reason = distrust(self._command, self._wanted) if self._wanted.root else ""
            if not reason:
                reason = self._keep(self._plan())
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            reason = str(error)
        if reason and not self._closed.is_set():
            self._log.warning(f"no warm {self._command}: {reason}; its scripts are started cold")

    def _plan(self) -> dict[str, Any]:
        wanted = self._wanted
        scripts = wanted.scripts
        return {
            "avoid": os.path.realpath(scripts if os.path.isdir(scripts) else os.path.dirname(scripts)),
            "careful": wanted.root,
            "coerced": "LC_CTYPE" not in wanted.env,
            "named": list(wanted.named),
            "found": [*USUAL, *self._scan()],
            "skipped": [],
        }

    def _scan(self) -> list[str]:
        """Return what the scripts import; nothing where that cannot be found out."""
        identity = self._identity
        with open(warm_scan.__file__, "rb") as program:  # the script's user may have no way to this file
            popen = subprocess.Popen(  # noqa: S603
                [self._command.program, "-I", "-S", "-", "imports", self._wanted.scripts],
                stdin=program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env=dict(self._wanted.env),
                user=None if identity is None else identity.uid,
                group=None if identity is None else identity.gid,
                extra_groups=None if identity is None else identity.groups,
                start_new_session=True,
            )  # fmt: skip
        self._popen = popen
        timer = threading.Timer(_SCAN, popen.kill)
        timer.daemon = True
        timer.start()
        try:
            with popen:
                names = popen.stdout.read(_NAMES) if popen.stdout is not None else b""
                popen.kill()
        finally:
            timer.cancel()
        found = names.decode("utf-8", "replace").split("\n")[:-1]
        return [name for name in found if warm_scan.is_plain(name)]  # as the scripts' user it could say anything

    def _keep(self, plan: dict[str, Any]) -> str:
        """Start it again and again; returns why not any more."""
        pause = _SOON
        told: set[str] = set()
        while not self._closed.is_set():
            started = time.monotonic()
            popen, control = self._boot(plan)
            with popen, control:
                try:
                    report = hear(control)
                    if report is None:
                        popen.kill()
                        return f"it does not start, exit status {popen.wait()}"
                    for name, error in report["failed"].items():
                        if name not in told:
                            told.add(name)
                            self._log.warning(f"--python-import {name} in {self._command}: {error}")
                    name = report["thread"]
                    if name:
                        plan["skipped"].append(name)
                        self._log.warning(f"{self._command}: {name} starts threads, so it is not imported beforehand")
                        if len(plan["skipped"]) > _SKIPPED:
                            return "too many modules start threads"
                        continue
                    self._control = control
                    code = popen.wait()
                finally:
                    with self._lock:  # nobody sends there any more
                        self._control = None
                    popen.kill()
            if self._closed.is_set():
                break
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            self._log.warning(f"the warm {self._command} has died, {how}; it is started again")
            pause = _SOON if time.monotonic() - started > _STEADY else min(2 * pause, _LATE)
            self._closed.wait(pause)
        return ""

    def _boot(self, plan: dict[str, Any]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Start it; returns it and where it takes orders."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            popen = subprocess.Popen(  # noqa: S603
                [self._command.program, *self._command.options, warm_server.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", env=dict(self._wanted.env),
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._popen = popen
        if self._closed.is_set():  # which may have looked before
            popen.kill()
        ours.settimeout(_BOOT)
        with contextlib.suppress(OSError):  # it has gone: there is no report then
            ours.send(json.dumps(plan).encode())
        return popen, ours


def hear(control: socket.socket) -> dict[str, Any] | None:
    """Wait until a fork server has imported all; returns what it says, None where it has died of that."""
    try:
        data = control.recv(1 << 20)
        report = json.loads(data) if data else None
    except (OSError, ValueError):
        return None
    control.settimeout(_SEND)
    return report


def distrust(command: Command, wanted: Wanted) -> str:
    """Return why a Python may not run as root before it becomes a script."""
    for name in wanted.env:
        if name.startswith("LD_") or name == "PYTHONHOME":
            return f"--env {name} is for scripts, not for root"
    places = [command.program, *filter(None, wanted.env.get("PYTHONPATH", "").split(":"))]
    if all(map(trusted, places)):
        done = subprocess.run(  # noqa: S603
            [command.program, "-I", "-S", warm_scan.__file__, "paths", "-"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_SCAN, cwd="/", env={}, check=True,
        )  # fmt: skip
        places += os.fsdecode(done.stdout).splitlines()
    for place in places:
        if not trusted(place):
            return f"others than root can write {place}"
    return ""
