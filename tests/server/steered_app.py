"""The application of the tests with real worker processes. Files in the directory STEER tell it what to do."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

STEER = Path(os.environ["STEER"])

while (STEER / "hang").exists():
    time.sleep(0.01)
if (STEER / "broken").exists():
    raise RuntimeError("broken on purpose")
if (STEER / "deadly").exists():
    os._exit(9)

VERSION = (STEER / "version").read_text() if (STEER / "version").exists() else "one"
LOADED_BY = os.getpid()
HELD: list[bytearray] = []

if (STEER / "short-lived").exists():
    threading.Timer(0.3, os._exit, [9]).start()  # by then it is ready

atexit.register((STEER / "at-exit").write_text, "done")


def loop() -> None:
    """In Python, without an end."""
    while True:
        pass


def sleep() -> None:
    time.sleep(60)


def hold_interpreter() -> None:
    """In C, for ever: nothing else of the process runs meanwhile. It waits there, as the CPU has enough to do."""
    import ctypes

    mutex = ctypes.create_string_buffer(256)  # of zeros, as PTHREAD_MUTEX_INITIALIZER; no signal ends the wait for it
    lock = ctypes.PyDLL(None).pthread_mutex_lock  # PyDLL: what it calls keeps the interpreter
    lock(mutex)
    lock(mutex)


def refuse_to_end() -> None:
    """Goes on after whatever is raised."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            while True:
                time.sleep(0.01)


def nap() -> None:
    time.sleep(0.6)


HANGING = {
    "/loop": loop,
    "/sleep": sleep,
    "/hold-interpreter": hold_interpreter,
    "/refuse-to-end": refuse_to_end,
    "/nap": nap,
}


def first_then_hang() -> Iterable[bytes]:
    yield b"first"
    while True:
        time.sleep(0.01)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path == "/print-and-wait":
        sys.stdout.write("printed by the application\n")
    if path in ("/wait", "/print-and-wait"):
        (STEER / "waiting").touch()
        (STEER / f"waiting-{os.getpid()}").touch()
        while not ((STEER / "go").exists() or (STEER / f"go-{os.getpid()}").exists()):
            time.sleep(0.005)
    elif path == "/die":
        os._exit(9)
    elif path == "/exit-in-a-fork":
        if os.fork() == 0:
            sys.exit(0)
        body = b"status %d" % os.wait()[1]
    elif path == "/alarm":  # a signal that the application has a handler for
        signal.signal(signal.SIGALRM, lambda *_: (STEER / "alarm").touch())
        signal.setitimer(signal.ITIMER_REAL, 0.01)
    elif path == "/terminate-a-fork":
        pid = os.fork()
        if pid == 0:
            time.sleep(10)
            os._exit(0)
        time.sleep(0.05)
        os.kill(pid, signal.SIGTERM)
        body = b"status %d" % os.waitpid(pid, 0)[1]
    elif path in ("/interrupt-a-program", "/hang-up-a-program"):
        with subprocess.Popen(["sleep", "2"]) as program:
            time.sleep(0.05)
            program.send_signal(signal.SIGINT if path == "/interrupt-a-program" else signal.SIGHUP)
        body = b"status %d" % program.returncode
    elif path in ("/close-descriptors", "/close-descriptors-later"):
        if path.endswith("later"):
            time.sleep(0.1)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    elif path == "/healthz" and (STEER / "sick").exists():
        raise RuntimeError("sick on purpose")
    elif path == "/zone":  # as django.conf sets it
        os.environ["TZ"] = "XXX-9"
        time.tzset()
    elif path == "/errors":
        environ["wsgi.errors"].write("a line\n")
    elif path == "/fail":
        raise RuntimeError("failed on purpose")
    elif path in HANGING:
        HANGING[path]()
    elif path == "/out-of-memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, resource.getrlimit(resource.RLIMIT_AS)[1]))
        bytearray(1 << 33)
    elif path == "/print-error":
        sys.stderr.write("an error\n")
    elif path == "/leak":
        HELD.append(bytearray(4_000_000))
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/version":
        return [f"{VERSION} {os.getpid()}".encode()]
    if path == "/first-then-hang":
        return first_then_hang()
    if path == "/about":
        about = {
            "pid": os.getpid(),
            "loaded-by": LOADED_BY,
            "main": threading.current_thread() is threading.main_thread(),
            "frozen": gc.get_freeze_count(),
            "path": sys.path[0],
            "sigterm": signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN),
            "multithread": environ["wsgi.multithread"],
            "multiprocess": environ["wsgi.multiprocess"],
        }
        return [json.dumps(about).encode()]
    if path == "/huge":
        return (b"x" * 100_000 for _ in range(1000))
    if path == "/large":
        return (b"x" * 10_000 for _ in range(50))
    return [body or b"pid %d" % os.getpid()]
