"""Starts Python scripts by the fork of a Python that has imported what they import; all other programs as ever.

A script is started so where its interpreter is a Python with plain options: by its first line, or by its extension.
Each such command has a fork server of its own (``warm_server.py``), from its first request on. While that is not there,
or does not answer, scripts are started cold.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from gateways.apps.processes import ENCODING, Identity, Launcher, Process, environment, rlimits
from gateways.apps.variables import PATH
from gateways.apps.warm_keeper import Command, Keeper, Log, Wanted
from gateways.apps.warm_process import ServerGone, start_in
from gateways.apps.warm_server import trusted
from gateways.limits import ScriptLimits

__all__ = ["WarmLauncher"]

_MOST: Final = 4
"""Fork servers in one worker."""
_REMEMBERED: Final = 64
_AT_START: Final = ("GLIBC_", "LANG", "LC_", "LD_", "MALLOC_", "PYTHON")
"""Of variables that a program obeys before a script can say anything."""
_PYTHON: Final = re.compile(r"python(3(\.\d+)?)?")
_OPTION: Final = re.compile(r"-[BEIOPRSbdqsu]+")
_FIRST_LINE: Final = re.compile(rb"#![ \t]*([^ \t]+)[ \t]*(.*?)[ \t\r]*")
_ENV: Final = ("/usr/bin/env", "/bin/env")


class WarmLauncher:
    """A Launcher that needs less time for Python scripts.

    ``scripts`` is the directory of all scripts, or the only one: what they import is imported beforehand, and what is
    ``named``; ``passed`` are the variables that every script gets.
    """

    def __init__(
        self, limits: ScriptLimits, log: Log, *, scripts: str, named: Sequence[str], passed: Mapping[str, str]
    ) -> None:
        self._cold = Launcher(limits)
        self._limits = " ".join(f"{kind},{soft},{hard}" for kind, soft, hard in rlimits(limits)).encode()
        self._log = log
        root = os.geteuid() == 0
        self._at_start = at_start(passed)
        env = {"PATH": PATH, **(self._at_start if root else passed)}
        if root:
            env["HOME"] = "/nonexistent"  # whose packages are none of a script's
        self._wanted = Wanted(scripts, tuple(named), env, root)
        self._null = os.open(os.devnull, os.O_RDONLY)
        self._lock = threading.Lock()
        self._keepers: dict[Command, Keeper] = {}
        self._distrusted: set[str] = set()
        self._told: set[str] = set()
        self._full = False
        self._closed = False

    def close(self) -> None:
        """End the fork servers."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            for keeper in self._keepers.values():
                keeper.close()
            self._cold.close()
            os.close(self._null)

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None, *, stdin: bool
    ) -> Process:
        """Start a script in ``directory``; ``stdin``: it has something to read. Raises OSError, ValueError."""
        command = command_of(argv, env.get("PATH", PATH))
        if command is not None and (identity is not None) == self._wanted.root and at_start(env) == self._at_start:
            keeper = self._keeper(command, identity)
            if keeper is not None and keeper.pid:
                request = self._request(command, argv, env, directory, identity)
                try:
                    process = start_in(keeper.send, request, self._null, stdin=stdin)
                except ServerGone as gone:
                    if gone.stuck:
                        keeper.kill()
                else:
                    if process.cold:
                        self._tell_cold(directory)
                    return process
        return self._cold.start(argv, env, directory, identity, stdin=stdin)

    @property
    def pids(self) -> list[int]:
        """The fork servers that can start scripts now."""
        with self._lock:
            return [keeper.pid for keeper in self._keepers.values() if keeper.pid]

    def _keeper(self, command: Command, identity: Identity | None) -> Keeper | None:
        """Return who keeps the fork server of a command."""
        keeper = self._keepers.get(command)
        if keeper is not None:
            return keeper
        with self._lock:
            keeper = self._keepers.get(command)
            if keeper is not None or self._closed or not self._may_keep(command):
                return keeper
            keeper = self._keepers[command] = Keeper(command, self._wanted, identity, self._log)
        return keeper

    def _may_keep(self, command: Command) -> bool:
        """Whether there may be one more; where this is root, scripts' users have written the first lines."""
        program = command.program
        if program in self._distrusted:
            return False
        if self._wanted.root and not trusted(program):
            if len(self._distrusted) < _REMEMBERED:
                self._distrusted.add(program)
                self._log.warning(f"no warm {program}: others than root can write it; its scripts are started cold")
            return False
        if len(self._keepers) >= _MOST:
            if not self._full:
                self._full = True
                self._log.warning(f"no warm {command}: there are {_MOST} others already; its scripts are started cold")
            return False
        return True

    def _tell_cold(self, directory: str) -> None:
        """Say, once, why scripts of a directory gain nothing."""
        if directory not in self._told and len(self._told) < _REMEMBERED:
            self._told.add(directory)
            self._log.warning(
                f"{directory} has a file named like a module that is imported beforehand: its scripts are started cold"
            )

    def _request(
        self, command: Command, argv: Sequence[str], env: Mapping[str, str], directory: str, identity: Identity | None
    ) -> bytes:
        """Return what the child is to be told; raises ValueError for a NUL."""
        words = [command.program, *command.options, argv[-1]]
        ids = () if identity is None else (identity.uid, identity.gid, *identity.groups)
        fields = [
            " ".join(map(str, ids)).encode(),
            self._limits,
            directory.encode(ENCODING, "surrogateescape"),
            b"1" if len(argv) == 1 else b"0",
            str(len(words)).encode(),
            *(word.encode(ENCODING, "surrogateescape") for word in words),
            *environment(env),
        ]
        request = b"\0".join(fields)
        if request.count(b"\0") != len(fields) - 1:
            raise ValueError("embedded null byte")
        return request


def at_start(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter obeys when it starts."""
    return {name: value for name, value in env.items() if name.startswith(_AT_START)}


def command_of(argv: Sequence[str], path: str) -> Command | None:
    """Return the Python that would run a script; None where another program would, or options are not plain."""
    words = list(argv[:-1]) or first_line(argv[-1], path)
    if not words or not _PYTHON.fullmatch(os.path.basename(words[0])):
        return None
    options = tuple(words[1:])
    return Command(words[0], options) if all(map(_OPTION.fullmatch, options)) else None


def first_line(script: str, path: str) -> list[str]:
    """Return the interpreter of a script and its options, by its first line, as the kernel and env(1) have it."""
    try:
        fd = os.open(script, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # which is perhaps no file any more
        try:
            start = os.read(fd, 255)
        finally:
            os.close(fd)
    except OSError:
        return []
    line, end, _ = start.partition(b"\n")
    found = _FIRST_LINE.fullmatch(line) if end else None
    if found is None:
        return []
    program, rest = (os.fsdecode(part) for part in found.groups())
    if program in _ENV:
        split = rest.startswith("-S") and rest[2:3] in (" ", "\t")
        words = rest[2:].split() if split else [rest]
        plain = all(re.fullmatch(r"[\w./+-]+", word) for word in words)
        if not words or not plain or words[0].startswith("-"):
            return []
        name = words[0] if "/" in words[0] else shutil.which(words[0], path=path)
        return [name, *words[1:]] if name else []
    return [program, rest] if rest else [program]
