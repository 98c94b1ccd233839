"""One script as a process: started in a session of its own, signalled as a group, reaped by its own pid.

No Python runs between fork and exec, since other threads hold locks at that moment. Where the C library can do it all,
posix_spawn() does, else subprocess, which takes fork() where the user is changed. Limits are set by a shell that then
becomes the script, so that they are there before its first instruction. The group is signalled only while the script
itself is not reaped: until then no other group can have its number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from gateways.apps.spawning import make_spawner
from gateways.limits import ScriptLimits

__all__ = ["Identity", "Launcher", "Process", "Starter", "read_now"]

SHELL: Final = "/bin/sh"
ENCODING: Final = sys.getfilesystemencoding()
_CPU_GRACE: Final = 1  # seconds between SIGXCPU and SIGKILL
_START: Final = 256
"""Bytes of a program by which the system tells what it is (BINPRM_BUF_SIZE)."""


class Identity(NamedTuple):
    """As whom a script runs."""

    uid: int
    gid: int
    groups: tuple[int, ...]


class Process:
    """A script that runs. ``stdin`` is -1 where it has none, or that was closed; ``stdout`` and ``stderr`` likewise."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self._reaping = threading.Lock()
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.code: int | None = None
        """Its exit status, or minus the signal that ended it; None until it is reaped."""

    def close_stdin(self) -> None:
        """Say that nothing more comes."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close_stdout(self) -> None:
        """Listen no more."""
        if self.stdout >= 0:
            os.close(self.stdout)
            self.stdout = -1

    def close_stderr(self) -> None:
        """Listen no more."""
        if self.stderr >= 0:
            os.close(self.stderr)
            self.stderr = -1

    def close(self) -> None:
        """Close what is open of its pipes."""
        self.close_stdin()
        self.close_stdout()
        self.close_stderr()

    def exited(self) -> bool:
        """Whether it has ended; it is not reaped by that."""
        if self.code is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # somebody else has reaped it
            return True

    def watch_end(self) -> int:
        """Return a descriptor that can be read once it has ended, -1 where none is to be had; see ``unwatch_end``."""
        try:
            return os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # not Linux; no descriptor left
            return -1

    def unwatch_end(self, fd: int) -> None:
        """Give back what ``watch_end`` has returned."""
        if fd >= 0:
            os.close(fd)

    def reap(self) -> int:
        """Take the exit status of a script that has ended."""
        with self._reaping:
            if self.code is None:
                try:
                    self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                except ChildProcessError:
                    self.code = 0
        return self.code

    def signal(self, number: int) -> None:
        """Send a signal to all of its group; nothing where it is reaped."""
        with self._reaping, contextlib.suppress(ProcessLookupError, PermissionError):
            if self.code is None:
                os.killpg(self.pid, number)


class Starter(Protocol):
    """Who starts scripts: a Launcher, or what does more."""

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None, *, stdin: bool
    ) -> Process:
        """Start a script in ``directory``; ``stdin``: it has something to read. Raises OSError, ValueError."""

    def close(self) -> None:
        """Give back what it holds."""


class Launcher:
    """Starts scripts within the limits that the system itself keeps (RLIMIT_*)."""

    def __init__(self, limits: ScriptLimits) -> None:
        self._shell = shell_of(limits)
        self._spawner = make_spawner()
        self._devnull = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Give the descriptor back."""
        devnull, self._devnull = self._devnull, -1
        if devnull >= 0:
            os.close(devnull)

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None, *, stdin: bool
    ) -> Process:
        """Start a script in ``directory``; ``stdin``: it has something to read. Raises OSError, ValueError."""
        if self._shell and is_text(argv[0]):  # which the shell would run itself
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
        opened: list[int] = []
        try:
            theirs, ours = self._devnull, -1
            if stdin:
                theirs, ours = pipe(opened)
                os.set_blocking(ours, False)
            stdout, stdout_in = pipe(opened)
            stderr, stderr_in = pipe(opened)
            os.set_blocking(stdout, False)
            os.set_blocking(stderr, False)
            whole = [*self._shell, *argv]
            if self._spawner is not None and identity is None and "/" in whole[0] and min(theirs, *opened) > 2:
                texts = [os.fsencode(text) for text in whole]
                pid = self._spawner.spawn(
                    texts, environment(env), os.fsencode(directory), theirs, stdout_in, stderr_in
                )  # fmt: skip
            else:
                pid = start_by_subprocess(whole, env, directory, identity, theirs, stdout_in, stderr_in)
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        if stdin:
            os.close(theirs)
        os.close(stdout_in)
        os.close(stderr_in)
        return Process(pid, ours, stdout, stderr)


def read_now(fd: int, size: int) -> bytes | None:
    """Read from a pipe of a script without waiting; None where others have taken what was there (/proc/PID/fd)."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None


def is_text(program: str) -> bool:
    """Whether a program is a text that names no interpreter, as far as it can be read."""
    try:
        fd = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # which is perhaps no file any more
        try:
            start = os.read(fd, _START)
        finally:
            os.close(fd)
    except OSError:
        return False
    return start[:2] != b"#!" and b"\0" not in start


def environment(env: Mapping[str, str]) -> list[bytes]:
    """Return it as the system has it, as os.fsencode would; raises ValueError for a NUL."""
    texts = "\0".join([f"{name}={value}" for name, value in env.items()])
    found = texts.encode(ENCODING, "surrogateescape").split(b"\0") if env else []
    if len(found) != len(env):
        raise ValueError("embedded null byte")
    return found


def start_by_subprocess(
    argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None, stdin: int, stdout: int,
    stderr: int,
) -> int:  # fmt: skip
    """Start a script as another user, or where the C library cannot do it alone; returns its process."""
    popen = subprocess.Popen(  # noqa: S603  (what the operator has put there)
        argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=directory, env=env, bufsize=0, start_new_session=True,
        user=None if identity is None else identity.uid,
        group=None if identity is None else identity.gid,
        extra_groups=None if identity is None else identity.groups,
    )  # fmt: skip
    popen.returncode = 0  # it is not subprocess that reaps it
    return popen.pid


def pipe(opened: list[int]) -> tuple[int, int]:
    """Return both ends of a new pipe, noted for the case that something fails."""
    ends = os.pipe()
    opened += ends
    return ends


def rlimits(limits: ScriptLimits) -> list[tuple[int, int, int]]:
    """Return what of the limits the system keeps: the resource, its soft and its hard limit."""
    found: list[tuple[int, int, int]] = []
    if limits.cpu_seconds:
        hard = least(resource.RLIMIT_CPU, limits.cpu_seconds + _CPU_GRACE)
        found.append((resource.RLIMIT_CPU, min(limits.cpu_seconds, hard), hard))
    if limits.memory:
        size = least(resource.RLIMIT_AS, limits.memory) // 1024 * 1024
        found.append((resource.RLIMIT_AS, size, size))
    if limits.open_files:
        count = least(resource.RLIMIT_NOFILE, limits.open_files)
        found.append((resource.RLIMIT_NOFILE, count, count))
    if limits.processes:
        count = least(resource.RLIMIT_NPROC, limits.processes)
        found.append((resource.RLIMIT_NPROC, count, count))
    return found


def shell_of(limits: ScriptLimits) -> tuple[str, ...]:
    """Return what goes before a script's arguments, so that it has its limits; nothing where there are none."""
    options = {resource.RLIMIT_CPU: "-t", resource.RLIMIT_AS: "-v", resource.RLIMIT_NOFILE: "-n"}
    steps = []
    for kind, soft, hard in rlimits(limits):
        option = options.get(kind) or processes_option()
        unit = 1024 if kind == resource.RLIMIT_AS else 1
        steps.append(f"ulimit -S {option} {soft // unit} && ulimit -H {option} {hard // unit} || exit 126")
    return (SHELL, "-c", "\n".join([*steps, 'exec "$0" "$@"'])) if steps else ()


def least(kind: int, wanted: int) -> int:
    """Return what may be set: nobody but root can raise a hard limit."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def processes_option() -> str:
    """Return how this system's shell calls RLIMIT_NPROC: bash -u, dash and busybox -p."""
    asked = subprocess.run([SHELL, "-c", "ulimit -u"], stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    return "-u" if asked.returncode == 0 else "-p"
