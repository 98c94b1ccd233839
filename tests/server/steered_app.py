"""The application of the tests with real worker processes. Files in the directory STEER tell it what to do."""

from __future__ import annotations

import atexit
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

atexit.register((STEER / "at-exit").write_text, "done")


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
    elif path == "/interrupt-a-program":
        with subprocess.Popen(["sleep", "10"]) as program:
            time.sleep(0.05)
            program.send_signal(signal.SIGINT)
        body = b"status %d" % program.returncode
    elif path == "/close-descriptors":
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    elif path == "/errors":
        environ["wsgi.errors"].write("a line\n")
    elif path == "/fail":
        raise RuntimeError("failed on purpose")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/about":
        about = {
            "pid": os.getpid(),
            "main": threading.current_thread() is threading.main_thread(),
            "frozen": gc.get_freeze_count(),
            "path": sys.path[0],
            "sigterm": signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN),
            "multithread": environ["wsgi.multithread"],
            "multiprocess": environ["wsgi.multiprocess"],
        }
        return [json.dumps(about).encode()]
    if path == "/large":
        return (b"x" * 10_000 for _ in range(50))
    return [body or b"pid %d" % os.getpid()]
