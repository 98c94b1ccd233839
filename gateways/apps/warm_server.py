"""The fork server of ``--python-warm``: a program that has imported what scripts import, and becomes one by fork().

It runs with the interpreter of the scripts, which need not be the server's: nothing but the standard library is
imported here, and no thread is ever started. It does not see a request. Whatever is told of one goes from the worker to
the child, over a socket that only these two read, so that no script finds anything of another's in its memory.

The worker sends, over the socket whose number is the only argument, first a plan (JSON), then for each script five
descriptors: a line, on which it gets the child's pid and asks for the exit status; a socket on which the child reads
its request; and the script's standard streams. A child is reaped when the worker asks for its status, or closes the
line: until then its number is its own.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this directory: none of its modules is the scripts'

import atexit
import builtins
import contextlib
import errno
import gc
import importlib
import importlib.machinery
import io
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
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TextIO

__all__ = ["NUMBER", "REAP", "Guard", "trusted"]

NUMBER: Final = struct.Struct("<i")
"""On the line: a pid, or minus the errno of fork(); then a status. From the child: 0, or why the script cannot run."""
LENGTH: Final = struct.Struct("<I")
"""Before the request, whose fields have a NUL between them."""
REAP: Final = b"r"
_TALK: Final = 3
_MOST_FDS: Final = 1 << 20
_PR_SET_DUMPABLE: Final = 4
_NOT_WRITTEN: Final = 120  # as the interpreter's own exit status where standard output cannot be flushed
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
    failed: dict[str, str] = {}
    for name in [*plan["named"], *plan["found"]]:
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
    warm = frozenset(sys.modules)
    gc.collect()
    gc.freeze()
    serve(control, lambda fds: be_script(fds, warm, coerced, dumpable))


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
            word, fds, _, _ = socket.recv_fds(control, 16, 8)
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
    fds: Sequence[int], warm: frozenset[str], coerced: bytes, dumpable: Callable[[], object] | None
) -> NoReturn:
    """Become what the worker asks for; never returns."""
    status = 127
    try:
        for number, fd in enumerate(fds[2:]):
            os.dup2(fd, number)
        os.dup2(fds[1], _TALK, inheritable=False)
        os.closerange(_TALK + 1, min(_MOST_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
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
        answer(_TALK, 0)
        os.close(_TALK)
        status = run(job, warm)
    except BaseException:  # noqa: BLE001  (a bug of ours: nothing may get back into the server's loop)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


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


# -- the script -----------------------------------------------------------------------------------------------


def run(job: Job, warm: frozenset[str]) -> int:
    """Do what the interpreter does for ``python FILE``; returns the exit status."""
    try:
        with open(job.path, "rb") as file:
            source = file.read()
    except OSError:
        source = b"\0"
    if b"\0" in source:  # an archive, or nothing that can be read: the interpreter knows what to do, and what to say
        for ignored in _USUAL:
            signal.signal(ignored, signal.SIG_DFL)
        os.execve(job.argv[0], job.argv, os.environb)  # noqa: S606
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:  # as after an exec
        comm.write(os.path.basename(os.fsencode(job.path)))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = standard_stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [job.path]
    sys.orig_argv = job.argv
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, os.path.dirname(job.path))
    kept = sys.modules["__main__"]  # lest its names are cleared
    main_module = sys.modules["__main__"] = new_main(job.path)
    status = execute(source, job.path, main_module.__dict__)
    del main_module
    status = finish(status, warm)
    del kept
    return status


def standard_stream(fd: int, old: Any) -> TextIO:  # noqa: ANN401  (a TextIOWrapper)
    """Return sys.stdin, stdout or stderr as the interpreter makes them, with the encoding that it has chosen."""
    mode = "wb" if fd else "rb"
    unbuffered = fd > 0 and old.write_through
    buffer: Any = io.open(fd, mode, buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115, UP020
    raw = buffer if unbuffered else buffer.raw
    raw.name = ("<stdin>", "<stdout>", "<stderr>")[fd]
    text: Any = io.TextIOWrapper(
        buffer, old.encoding, old.errors, "\n", line_buffering=fd == 2 and not unbuffered,
        write_through=old.write_through,
    )  # fmt: skip
    text.mode = mode[0]
    return text  # type: ignore[no-any-return]


def new_main(path: str) -> types.ModuleType:
    """Return an empty ``__main__``."""
    module: Any = types.ModuleType("__main__")
    module.__builtins__ = builtins
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__file__ = path
    module.__cached__ = None
    if sys.version_info < (3, 14):
        module.__annotations__ = {}
    return module  # type: ignore[no-any-return]


def execute(source: bytes, path: str, namespace: dict[str, Any]) -> int:
    """Run it; returns the exit status that it asks for."""
    depth = 0
    try:
        code = compile(source, path, "exec", dont_inherit=True)
        depth = 1
        exec(code, namespace)  # noqa: S102  (which is the purpose of all this)
    except BaseException as error:  # noqa: BLE001
        trace = error.__traceback__
        caught = error.with_traceback(trace.tb_next if trace and depth else None)
    else:
        return 0
    return show(caught)  # here it is no more what is being handled


def show(error: BaseException) -> int:
    """Do what an exception that nobody catches does; returns the exit status."""
    if isinstance(error, SystemExit):
        return exit_status(error)
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except SystemExit as other:
        return exit_status(other)
    except BaseException as other:  # noqa: BLE001
        sys.stderr.write("Error in sys.excepthook:\n")
        trace = other.__traceback__
        other = other.with_traceback(trace.tb_next if trace else None)
        sys.__excepthook__(type(other), other, other.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(error), error, error.__traceback__)
    return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def exit_status(error: SystemExit) -> int:
    """Return what sys.exit() means; a text is told."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF if -(1 << 63) <= code < 1 << 63 else 0xFF
    with contextlib.suppress(Exception):
        sys.stderr.write(f"{code}\n")
        sys.stderr.flush()
    return 1


def finish(status: int, warm: frozenset[str]) -> int:
    """Do what the end of an interpreter does that anybody can see: threads, atexit, flushes, finalizers."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    except BaseException as error:  # noqa: BLE001
        show(error)
    atexit._run_exitfuncs()  # noqa: SLF001
    written = flush(complain=True)
    sys.excepthook = sys.__excepthook__
    modules = []
    for name in [name for name in sys.modules if name == "__main__" or name not in warm]:
        module = sys.modules.pop(name)
        with contextlib.suppress(TypeError):
            modules.append(weakref.ref(module))
        del module
    flush_files()
    gc.collect()
    for reference in modules:
        alive = reference()
        if alive is not None:
            vars(alive).clear()
    gc.collect()
    written = flush(complain=False) and written
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status if written else _NOT_WRITTEN


def flush_files() -> None:
    """Write what open files hold: the collector may close those of a cycle the wrong way round, and lose it."""
    for kinds in ((io.TextIOWrapper,), (io.BufferedWriter, io.BufferedRandom)):
        for each in gc.get_objects():  # those since the fork: the others are frozen
            if issubclass(type(each), kinds):
                with contextlib.suppress(Exception):
                    each.flush()


def flush(*, complain: bool) -> bool:
    """Flush what is written; returns whether all of standard output could be."""
    written = True
    with contextlib.suppress(Exception):  # perhaps it is another one, and this is detached or closed
        if sys.__stdout__ is not sys.stdout and sys.__stdout__ is not None:
            sys.__stdout__.flush()
    try:
        if sys.stdout is not None and not getattr(sys.stdout, "closed", False):
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001
        written = False
        if complain:
            with contextlib.suppress(Exception):
                sys.stderr.write(f"Exception ignored in: {sys.stdout!r}\n{type(error).__name__}: {error}\n")
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    return written


if __name__ == "__main__":
    main()
    os._exit(0)
