"""The application of the tests with real worker processes. Files in the directory STEER tell it what to do."""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
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
    if path == "/wait":
        (STEER / "waiting").touch()
        while not (STEER / "go").exists():
            time.sleep(0.005)
    elif path == "/die":
        os._exit(9)
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
