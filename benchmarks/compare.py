"""gateways against uWSGI behind one nginx: CPU time of the server per request, measured in turns, on loopback.

benchmarks/README.md says what is needed and what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

PROTOCOLS: Final = ("uwsgi", "scgi", "fastcgi", "fastcgi-kept")  # the last: nginx asks to keep fastcgi's connections
SERVERS: Final = ("gateways", "uwsgi")
START: Final = {
    "gateways": "serve hello:application --workers 1 --threads 1 --socket-mode 666 --{name} ./{server}-{name}.sock",
    "uwsgi": "--master --need-app --die-on-term --disable-logging -p 1 --listen 100 --chmod-socket=666 "
    "--wsgi-file hello.py --protocol {name} --socket {server}-{name}.sock",
}
HELLO: Final = b"Hello, World!"
APP: Final = """def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")])
    return [b"Hello, World!"]
"""
NGINX: Final = """daemon off; worker_processes 1; pid nginx.pid; error_log error.log error; events {{ }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; scgi_temp_path s; uwsgi_temp_path u;
    {upstreams}
    server {{ listen 127.0.0.1:{port}; server_name localhost; {locations} }}
}}
"""
UPSTREAM: Final = "upstream {server}-{protocol} {{ server unix:{directory}/{server}-{name}.sock; {keepalive} }}"
LOCATION: Final = """location = /{server}/{protocol} {{ include "{params}.{name}"; {keep}
    {name}_param SCRIPT_NAME ""; {name}_param PATH_INFO $document_uri; {name}_pass {server}-{protocol}; }}"""
PARAMS: Final = Path(__file__).resolve().parent.parent / "nginx-conf" / "gateways_params"


def options() -> argparse.Namespace:
    """Read the command line and find the programs."""
    beside = Path(sys.executable).parent / "gateways"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", default=str(beside) if beside.exists() else "gateways", metavar="COMMAND")
    parser.add_argument("--uwsgi", default="uwsgi", metavar="COMMAND")
    parser.add_argument("--nginx", default="nginx", metavar="COMMAND")
    parser.add_argument("--load", default="wrk" if shutil.which("wrk") else "ab", metavar="wrk|ab")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=3, metavar="1..20")
    parser.add_argument("--seconds", type=int, choices=range(1, 61), default=3, metavar="1..60")
    parser.add_argument("--json", action="store_true", help="print every turn and the result as JSON")
    found = parser.parse_args()
    for name in ("gateways", "uwsgi", "nginx", "load"):
        command = shutil.which(getattr(found, name)) or shutil.which(getattr(found, name), path="/usr/sbin")
        if command is None:
            parser.error(f"{getattr(found, name)} is not installed; benchmarks/README.md says how")
        setattr(found, name, os.path.abspath(command))
    return found


def session(leader: int) -> dict[int, float]:
    """Return the CPU seconds of each process of a session, reaped children included (proc(5), stat)."""
    found: dict[int, float] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found[int(entry.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return found


def start(stack: contextlib.ExitStack, command: list[str], directory: Path, name: str) -> int:
    """Start a command in a session of its own, which ends with ``stack``; return its pid."""
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, start_new_session=True)
    stack.callback(stop, process)
    return process.pid


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what its session still has after 5 s, each by its pid."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    for pid in session(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(5)


def check(port: int, path: str, log: Path) -> None:
    """Wait until a path gives the right answer; SystemExit with the end of the log where it does not."""
    got, deadline = "no answer", time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            got = f"{response.status} {response.read(200)!r}"
            if got == f"200 {HELLO!r}":
                return
        time.sleep(0.1)
    sys.exit(f"{path}: {got}\n{log.read_text()[-500:]}")


def load(command: str, url: str, seconds: int) -> tuple[int, float]:
    """Load a URL with 16 connections; return requests and requests a second. SystemExit where one went wrong."""
    given = f"-q -k -c16 -t{seconds} -n10000000" if command.endswith("ab") else f"-t1 -c16 -d{seconds}s"
    text = subprocess.check_output([command, *given.split(), url], text=True, timeout=seconds + 30)
    requests = re.search(r"(\d+) requests in|Complete requests: +(\d+)", text)
    rate = re.search(r"Requests(?:/sec| per second): +([\d.]+)", text)
    if not requests or not rate or re.search(r"Non-2xx|Socket errors|Failed requests: +[1-9]", text):
        sys.exit(f"{url}:\n{text}")
    return int(requests[1] or requests[2]), float(rate[1])


def measure(found: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Start everything, load it in turns, end everything; return the turns."""
    directory.chmod(0o711)  # nginx's worker has another user where root runs this
    (directory / "hello.py").write_text(APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    upstreams = locations = ""
    leaders: dict[str, int] = {}
    turns: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        pairs = [(protocol, server) for protocol in found.protocols for server in SERVERS]
        for protocol, server in pairs:
            name = protocol.removesuffix("-kept")
            words = {"protocol": protocol, "server": server, "name": name, "directory": directory, "params": PARAMS}
            kept = name != protocol
            upstreams += UPSTREAM.format(**words, keepalive="keepalive 16;" if kept else "")
            locations += LOCATION.format(**words, keep="fastcgi_keep_conn on;" if kept else "")
            if f"{server}-{name}" not in leaders:
                command = [getattr(found, server), *START[server].format(**words).split()]
                leaders[f"{server}-{name}"] = start(stack, command, directory, f"{server}-{name}")
        (directory / "nginx.conf").write_text(NGINX.format(port=port, upstreams=upstreams, locations=locations))
        start(stack, [found.nginx, "-p", f"{directory}/", "-c", "nginx.conf"], directory, "nginx")
        for turn in range(-1, found.rounds):  # -1 warms up
            for protocol, server in pairs:
                name = f"{server}-{protocol.removesuffix('-kept')}"
                path = f"/{server}/{protocol}"
                check(port, path, directory / f"{name}.log")
                before = sum(session(leaders[name]).values())
                requests, rate = load(found.load, f"http://127.0.0.1:{port}{path}", found.seconds if turn >= 0 else 1)
                cost = round((sum(session(leaders[name]).values()) - before) * 1e6 / requests, 2)
                turns.append({"round": turn, "protocol": protocol, "server": server, "us": cost, "rps": rate})
    return [turn for turn in turns if turn["round"] >= 0]


def summary(turns: list[dict[str, Any]], protocol: str) -> dict[str, Any]:
    """Return the medians of a protocol; the ratio is the median of the rounds' ratios."""
    ours, theirs = (
        [turn for turn in turns if (turn["protocol"], turn["server"]) == (protocol, each)] for each in SERVERS
    )
    ratios = [round(a["us"] / max(b["us"], 0.01), 2) for a, b in zip(ours, theirs, strict=True)]
    row: dict[str, Any] = {"protocol": protocol, "ratio": round(median(ratios), 2), "ratios": ratios}
    for server, its in zip(SERVERS, (ours, theirs), strict=True):
        row |= {f"{server}_{key}": round(median(turn[key] for turn in its), 1) for key in ("us", "rps")}
    return row


def main() -> None:
    """Measure and print."""
    found = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    versions = [
        subprocess.check_output([each, "--version"], text=True).strip() for each in (found.gateways, found.uwsgi)
    ]
    with tempfile.TemporaryDirectory(prefix="compare-") as directory:
        turns = measure(found, Path(directory))
    rows = [summary(turns, protocol) for protocol in found.protocols]
    if found.json:
        print(json.dumps({"versions": versions, "result": rows, "turns": turns}, indent=1))
        return
    print(f"{versions[0]}; uWSGI {versions[1]}; {Path(found.load).name}, medians of {found.rounds} x {found.seconds} s")
    print(f"\n{'':12} {'CPU us/request':>20} {'ratio (min - max)':>20} {'requests/s':>20}")
    print(f"{'':12} {'gateways':>10}{'uWSGI':>10} {'':20} {'gateways':>10}{'uWSGI':>10}")
    for row in rows:
        ratio = f"{row['ratio']:.2f} ({min(row['ratios']):.2f} - {max(row['ratios']):.2f})"
        print(f"{row['protocol']:12} {row['gateways_us']:10.1f}{row['uwsgi_us']:10.1f} {ratio:>20}", end=" ")
        print(f"{row['gateways_rps']:10.0f}{row['uwsgi_rps']:10.0f}")


if __name__ == "__main__":
    main()
