"""The fork server of ``--python-warm``: a program that has imported what scripts import, and becomes one by fork().

It runs with the interpreter of the scripts, which need not be the server's: nothing but the standard library is
imported here, and no thread is ever started. It does not see a request. Whatever is told of one goes from the worker to
the child, over a socket that only these two read, so that no script finds anything of another's in its memory.

What the child does when it is the script: ``warm_script.py``.

The worker sends, over the socket whose number is the only argument, first a plan (JSON), then for each script five
descriptors: a line, on which it gets the child's pid and asks for the exit status; a socket on which the child reads
its request; and the script's standard streams. A child is reaped when the worker asks for its status, or closes the
line: until then its number is its own.
"""

from __future__ import annotations

import sys

_STARTED = frozenset(sys.modules)
"""What the interpreter itself has imported, before a script's directory is looked at."""
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this directory: none of its modules is the scripts'

# ruff: noqa: E402
import contextlib
import errno
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import threading
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

__all__ = ["COLD", "LENGTH", "NUMBER", "REAP", "Guard", "trusted"]

NUMBER: Final = struct.Struct("<i")
"""On the line: a pid, or minus the errno of fork(); then a status. From the child: 0, or why the script cannot run."""
LENGTH: Final = struct.Struct("<I")
"""Before the request, whose fields have a NUL between them."""
REAP: Final = b"r"
COLD: Final = -1
"""From the child: it starts the interpreter, since the script has a module of the same name as one that is imported."""
_TALK: Final = 3
_MOST_FDS: Final = 1 << 16
_PR_SET_DUMPABLE: Final = 4
_USUAL: Final = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores."""


# -- what is imported beforehand ------------------------------------------------------------------------------


def trusted(path: str) -> bool:
    """Whether root alone can change what is at a path, by any way that leads to it."""
    for whole in {os.path.abspath(path), os.path.realpath(path)}:
        part = whole
        while True:
            try:
                found = os.lstat(part)
            except OSError:
                return False
            others = stat.S_IWOTH if not found.st_gid else stat.S_IWOTH | stat.S_IWGRP
            if found.st_uid or (found.st_mode & others and not stat.S_ISLNK(found.st_mode)):
                return False
            if part == "/":
                break
            part = os.path.dirname(part)
    return True


class Guard:
    """In the place of PathFinder: finds nothing below ``avoid``, and where ``careful`` nothing but root's own."""

    def __init__(self, avoid: str, careful: bool) -> None:
        self._avoid = avoid.rstrip("/") + "/"
        self._careful = careful
        self._known: dict[str, bool] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find it; raises ImportError for what may not be imported."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
        if spec.has_location and spec.origin:
            places.append(spec.origin)
        if spec.cached and os.path.exists(spec.cached):
            places.append(spec.cached)
        for place in places:
            if not self._may(place):
                raise ImportError(f"{place} is not to be imported beforehand", name=name)
        return spec

    def _may(self, place: str) -> bool:
        known = self._known.get(place)
        if known is None:
            known = not (os.path.realpath(place) + "/").startswith(self._avoid)
            known = self._known[place] = known and (not self._careful or trusted(place))
        return known


def import_beforehand(plan: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Import; returns the module that has started a thread, if any, and what of those named cannot be imported."""
    finders = sys.meta_path[:]
    guard: Any = Guard(plan["avoid"], plan["careful"])
    machinery = importlib.machinery
    own: list[Any] = [machinery.BuiltinImporter, machinery.FrozenImporter]
    # Finders that others have put there (editable installations) lead to who knows where.
    rest = [] if plan["careful"] else [each for each in finders if each not in (*own, machinery.PathFinder)]
    sys.meta_path[:] = [*own, guard, *rest]
    skipped = set(plan["skipped"])
    # Those that are found are named by the scripts' authors.
    found = [name for name in plan["found"] if not plan["careful"] or name.partition(".")[0] in sys.stdlib_module_names]
    failed: dict[str, str] = {}
    for name in [*plan["named"], *found]:
        if name in skipped or name in sys.modules:
            continue
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  (whatever a module does: the script will meet it, too)
            if name in plan["named"]:
                failed[name] = f"{type(error).__name__}: {error}"
        if threads() > 1:
            return name, failed
    sys.meta_path[:] = finders
    return "", failed


def threads() -> int:
    """Return how many there are, those of C libraries among them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


# -- the server -----------------------------------------------------------------------------------------------


def main() -> None:
    """Import, then serve until the worker has gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, *_USUAL}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir("/")
    plan = json.loads(control.recv(1 << 20))
    # In the C locale Python sets this one itself, for the programs that a script starts (PEP 538).
    coerced = os.environb.get(b"LC_CTYPE", b"") if plan["coerced"] else b""
    thread, failed = import_beforehand(plan)
    dumpable = find_dumpable() if plan["careful"] else None
    control.send(json.dumps({"thread": thread, "failed": failed}).encode())
    if thread:
        return
    script = beside("warm_script")
    warm = frozenset(sys.modules)
    shadowed = frozenset(name for name in warm - _STARTED if "." not in name)
    gc.collect()
    gc.freeze()
    serve(control, lambda fds: be_script(fds, script, warm, shadowed, coerced, dumpable))


def beside(name: str) -> Any:  # noqa: ANN401
    """Return a module of this directory, which is on no path."""
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_dumpable() -> Callable[[], object] | None:
    """Return what makes /proc/self a process's own again, as after an exec, when it has changed its user."""
    try:
        import ctypes  # noqa: PLC0415  (where scripts have users)

        prctl = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None
    return lambda: prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def serve(control: socket.socket, be: Callable[[Sequence[int]], NoReturn]) -> None:
    """Fork, and reap when told to; returns when the worker has gone."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    lines: dict[int, int] = {}
    left: set[int] = set()
    while True:
        for fd, _ in poll.poll(1000 if left else None):
            if fd in lines:
                pid = lines.pop(fd)
                poll.unregister(fd)
                if not end_line(fd, pid):
                    left.add(pid)
                continue
            try:
                word, fds, _, _ = socket.recv_fds(control, 16, 8)
            except OSError:
                return
            if not word:
                return
            if len(fds) != 5:  # there was no room for all
                close(fds)
                continue
            line = fds[0]
            try:
                pid = os.fork()
            except OSError as error:
                answer(line, -(error.errno or errno.EAGAIN))
                close(fds)
                continue
            if not pid:
                control.detach()
                be(fds)
            close(fds[1:])
            lines[line] = pid
            poll.register(line, select.POLLIN)
            answer(line, pid)
        left = {pid for pid in left if not os.waitpid(pid, os.WNOHANG)[0]}


def end_line(line: int, pid: int) -> bool:
    """The worker asks for the status of a child that has ended, or asks no more; returns whether it is reaped."""
    try:
        asked = os.read(line, 1)
    except OSError:
        asked = b""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found and asked:
        answer(line, status)
    os.close(line)
    return found != 0


def answer(line: int, number: int) -> None:
    """Tell the worker, unless it has gone."""
    with contextlib.suppress(OSError):
        os.write(line, NUMBER.pack(number))


def close(fds: Sequence[int]) -> None:
    """Close them all."""
    for fd in fds:
        os.close(fd)


# -- the child, until it is the script ------------------------------------------------------------------------


class Job:
    """What the worker says of a script: ``fields`` are as WarmLauncher writes them."""

    def __init__(self, fields: list[bytes]) -> None:
        identity, limits, self.directory, direct, count, *rest = fields
        self.identity = [int(number) for number in identity.split()]
        """Nothing, or user, group, and further groups."""
        self.limits = [tuple(map(int, limit.split(b","))) for limit in limits.split()]
        self.direct = direct == b"1"
        """The script's own first line has named the interpreter."""
        self.argv = [os.fsdecode(word) for word in rest[: int(count)]]
        """The interpreter, its options and the script."""
        self.env = rest[int(count) :]
        self.path = self.argv[-1]


def be_script(
    fds: Sequence[int], script: Any, warm: frozenset[str], shadowed: frozenset[str], coerced: bytes,  # noqa: ANN401
    dumpable: Callable[[], object] | None,
) -> NoReturn:  # fmt: skip
    """Become what the worker asks for; never returns."""
    status = 127
    try:
        for number, fd in enumerate(fds[2:]):
            os.dup2(fd, number)
        os.dup2(fds[1], _TALK, inheritable=False)
        close_others()
        request = read_request()
        if request is None:  # the worker has thought better of it
            os._exit(status)
        job = Job(request.split(b"\0"))
        try:
            become(job, dumpable)
        except OSError as error:
            answer(_TALK, error.errno or errno.EPERM)
            os._exit(status)
        set_environment(job, coerced)
        cold = has_own(os.path.dirname(job.path), shadowed)
        answer(_TALK, COLD if cold else 0)
        os.close(_TALK)
        if cold:
            script.start_cold(job.argv)
        status = script.run(job.argv, warm)
    except BaseException:  # noqa: BLE001  (a bug of ours: nothing may get back into the server's loop)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def close_others() -> None:
    """Close all but the standard streams and the way to the worker."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # nobody has mounted it
        numbers = list(range(_MOST_FDS))
    for number in numbers:
        if number > _TALK:
            with contextlib.suppress(OSError):
                os.close(number)


def has_own(directory: str, shadowed: frozenset[str]) -> bool:
    """Whether a script would find a module beside itself that is imported already, of the same name, from elsewhere."""
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return False
    try:
        names = os.listdir(directory)
    except OSError:  # nor can it import from there
        return False
    suffixes = importlib.machinery.all_suffixes()
    for name in names:
        first, dot, rest = name.partition(".")
        if first in shadowed:
            inits = [] if dot else [os.path.join(directory, name, f"__init__{suffix}") for suffix in suffixes]
            if dot + rest in suffixes or any(map(os.path.exists, inits)):
                return True
    return False


def read_request() -> bytes | None:
    """Return it whole, or None."""
    data = b""
    size = LENGTH.size
    while len(data) < size:
        block = os.read(_TALK, 1 << 18)
        if not block:
            return None
        data += block
        if size == LENGTH.size and len(data) >= size:
            size += LENGTH.unpack_from(data)[0]
    return data[LENGTH.size :]


def become(job: Job, dumpable: Callable[[], object] | None) -> None:
    """Be in the script's directory, in a session of its own, its user, and within its limits; raises OSError."""
    os.setsid()
    os.chdir(job.directory)
    if job.identity:
        uid, gid, *groups = job.identity
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if dumpable is not None:
            dumpable()
    for kind, soft, hard in job.limits:
        resource.setrlimit(kind, (soft, hard))
    if not os.access(job.argv[0], os.X_OK) or (job.direct and not os.access(job.path, os.X_OK)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def set_environment(job: Job, coerced: bytes) -> None:
    """Have the script's environment and nothing else, C libraries too."""
    os.environ.clear()
    for entry in job.env:
        name, _, value = entry.partition(b"=")
        os.environb[name] = value
    if coerced:
        os.environb.setdefault(b"LC_CTYPE", coerced)
    time.tzset()
    if job.identity and "site" in sys.modules:
        add_user_site()


def add_user_site() -> None:
    """Look where the script's user has packages; the server's own user has none (HOME is nowhere)."""
    site: Any = sys.modules["site"]
    if not site.ENABLE_USER_SITE:
        return
    site.USER_BASE = site.USER_SITE = None
    place = site.getusersitepackages()
    if os.path.isdir(place):
        before = len(sys.path)
        first = next((sys.path.index(each) for each in site.getsitepackages() if each in sys.path), before)
        site.addsitedir(place)
        added = sys.path[before:]
        del sys.path[before:]
        sys.path[first:first] = added


if __name__ == "__main__":
    main()
    os._exit(0)
