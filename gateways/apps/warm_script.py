"""A process becomes a Python script as the interpreter would have it, from its first line to its last flush.

What a script could notice is as after ``python FILE``: streams, names, tracebacks, exit status, what its end brings.
Like ``warm_server.py``, whose children run this, it knows the standard library only.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import importlib.machinery
import io
import os
import signal
import sys
import threading
import types
import weakref
from typing import Any, Final, NoReturn, TextIO

__all__ = ["run", "start_cold"]

_NOT_WRITTEN: Final = 120  # as the interpreter's own exit status where standard output cannot be flushed
_IGNORED: Final = (signal.SIGPIPE, signal.SIGXFSZ)  # by Python, and for its children if nobody undoes it


def start_cold(argv: list[str]) -> NoReturn:
    """Start the interpreter anew in this process; raises OSError."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], argv, os.environb)  # noqa: S606


def run(argv: list[str], warm: frozenset[str]) -> int:
    """Do what the interpreter does for ``python FILE``, which is the last of ``argv``; returns the exit status.

    ``warm`` are the modules that were imported before.
    """
    path = argv[-1]
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError:
        source = b"\0"
    if b"\0" in source:  # an archive, or nothing that can be read: the interpreter knows what to do, and what to say
        start_cold(argv)
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:  # as after an exec
        comm.write(os.path.basename(os.fsencode(path)))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = standard_stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    main_thread: Any = threading.main_thread()
    main_thread._set_native_id()  # noqa: SLF001  (fork() leaves it as it was)
    sys.argv = [path]
    sys.orig_argv = argv
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path.insert(0, os.path.dirname(path))
    kept = sys.modules["__main__"]  # lest its names are cleared
    main_module = sys.modules["__main__"] = new_main(path)
    status = execute(source, path, main_module.__dict__)
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
    last: Any = sys
    last.last_type, last.last_value, last.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        last.last_exc = error
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
            where = "on flushing sys.stdout:" if sys.version_info >= (3, 13) else f"in: {sys.stdout!r}"
            with contextlib.suppress(Exception):
                sys.stderr.write(f"Exception ignored {where}\n{type(error).__name__}: {error}\n")
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    return written
