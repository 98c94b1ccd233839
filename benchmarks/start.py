"""What a CGI script with ``gateways.run`` takes to start: one request as a whole process, against ``python -c pass``.

The two run in turns, so that whatever else the machine does falls on both. benchmarks/README.md has figures.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

SCRIPT: Final = """import gateways
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, World!"]
gateways.run(application)
"""
REQUEST: Final = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "/cgi-bin/app",
    "PATH_INFO": "/",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


def taken(arguments: list[str]) -> tuple[float, float, bytes]:
    """Run Python; return seconds, CPU seconds and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | REQUEST, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, choices=range(3, 201), default=20, metavar="3..200")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        script = Path(name) / "app.py"
        script.write_text(SCRIPT, encoding="ascii")
        kinds = {"python -c pass": ["-c", "pass"], "a CGI request": [str(script)]}
        for arguments in kinds.values():  # the first run writes the byte code
            taken(arguments)
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for _ in range(runs):
            for kind, arguments in kinds.items():
                seconds, cpu, printed = taken(arguments)
                if kind == "a CGI request" and not printed.endswith(b"\r\n\r\nHello, World!"):
                    sys.exit(f"a wrong answer: {printed!r}")
                found[kind].append((seconds, cpu))
    print(f"{runs} runs, Python {sys.version.split()[0]}: median (least) ms, and of CPU")
    figures = {
        kind: [f(column) * 1000 for column in zip(*rows, strict=True) for f in (median, min)]
        for kind, rows in found.items()
    }
    bare, cgi = figures.values()
    figures["added"] = [more - less for more, less in zip(cgi, bare, strict=True)]
    for kind, (wall, wall_least, cpu, cpu_least) in figures.items():
        print(f"    {kind:<16} {wall:6.1f} ({wall_least:.1f}) {cpu:6.1f} ({cpu_least:.1f})")


main()
