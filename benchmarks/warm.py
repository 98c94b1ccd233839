"""A Python CGI script started cold and forked warm: time and CPU per request, in turns, one after another, on loopback.

    python3 benchmarks/warm.py --gateways .venv/bin/gateways

Not as root, or the script runs as --script-user nobody. CPU is that of all processes of the server, its scripts too.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

SCRIPT = """#!{python}
import sys
warm = "csv" in sys.modules
import html, json, urllib.parse, os
query = urllib.parse.parse_qs(os.environ.get("QUERY_STRING", ""))
print("Content-Type: text/html; charset=utf-8\\n")
print(html.escape(json.dumps(query)), "warm" if warm else "cold")
"""
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", default=str(Path(sys.executable).parent / "gateways"), metavar="COMMAND")
    parser.add_argument("--python", default="/usr/bin/python3", metavar="PATH", help="of the script")
    parser.add_argument("--requests", type=int, default=200, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateways-warm-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "script"
        path.write_text(SCRIPT.format(python=options.python))
        path.chmod(0o755)
        servers = {kind: start(options.gateways, directory, warm=kind == "warm") for kind in ("cold", "warm")}
        try:
            figures: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in servers}
            for kind, (_, port) in servers.items():
                await_answer(port, kind)
            for _ in range(options.rounds):
                for kind, (popen, port) in servers.items():
                    figures[kind].append(turn(popen.pid, port, kind, options.requests))
        finally:
            for popen, _ in servers.values():
                popen.terminate()
                popen.wait(30)
    print(
        f"medians of {options.rounds} x {options.requests} requests\n\n         ms, median   ms, mean   CPU ms/request"
    )
    for kind, turns in figures.items():
        middle, mean, cpu = (median(column) for column in zip(*turns, strict=True))
        print(f"{kind:8} {middle:10.2f} {mean:10.2f} {cpu:16.2f}")


def start(gateways: str, directory: Path, *, warm: bool) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server; returns it and its port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    argv = [gateways, "scripts", "--root", str(directory), "--http", str(port), "--workers", "1"]
    argv += ["--python-warm"] if warm else []
    argv += ["--script-user", "nobody"] if os.geteuid() == 0 else []
    return subprocess.Popen(argv, stderr=subprocess.DEVNULL), port


def get(port: int) -> str:
    """Return the answer to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/script?a=b&c=%3Cd%3E")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def await_answer(port: int, kind: str) -> None:
    """Wait until scripts are started as they should be."""
    deadline = time.monotonic() + 30
    answer = ""
    while not answer.endswith(f"{kind}\n"):
        if time.monotonic() > deadline:
            sys.exit(f"no {kind} answer: {answer!r}")
        time.sleep(0.1)
        try:
            answer = get(port)
        except OSError as error:
            answer = str(error)


def turn(pid: int, port: int, kind: str, count: int) -> tuple[float, float, float]:
    """Return the median and the mean time, and the CPU time, of a request, in ms."""
    times = []
    before = cpu(pid)
    for _ in range(count):
        began = time.perf_counter()
        answer = get(port)
        times.append(time.perf_counter() - began)
        if not answer.endswith(f"{kind}\n"):
            sys.exit(f"not a {kind} answer: {answer!r}")
    time.sleep(0.2)  # the last is reaped
    return median(times) * 1000, sum(times) / count * 1000, (cpu(pid) - before) / count * 1000


def cpu(pid: int) -> float:
    """Return the seconds that a process has taken, with its children, those that are dead among them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    total = sum(map(int, fields[11:15])) / TICK
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += sum(cpu(int(child)) for child in (task / "children").read_text().split())
    return total


if __name__ == "__main__":
    main()
