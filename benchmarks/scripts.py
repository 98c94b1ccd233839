"""gateways scripts against fcgiwrap behind one nginx: a C program as CGI script, measured in turns, on loopback.

benchmarks/README.md says what is needed and what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
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
from typing import Final

from compare import PARAMS, check, start

SERVERS: Final = ("gateways", "fcgiwrap")
SCRIPT: Final = r"""#include <unistd.h>
static const char answer[] = "Content-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, World!";
int main(void) { return write(1, answer, sizeof answer - 1) < 0; }
"""
NGINX: Final = """daemon off; worker_processes 1; pid nginx.pid; error_log error.log error; events {{ }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; scgi_temp_path s; uwsgi_temp_path u;
    server {{ listen 127.0.0.1:{port}; server_name localhost; {locations} }}
}}
"""
LOCATION: Final = """location = /{server} {{ include "{params}.fastcgi";
    fastcgi_param SCRIPT_FILENAME {root}/hello; fastcgi_param SCRIPT_NAME /hello; fastcgi_pass unix:{sock}; }}
"""
NOBODY: Final = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


class Group:
    """A cgroup of its own for a server: fcgiwrap reaps no child, so that /proc does not know what its scripts took."""

    def __init__(self, stack: contextlib.ExitStack, name: str) -> None:
        version1 = Path("/sys/fs/cgroup/cpuacct")
        self._path = (version1 if version1.is_dir() else Path("/sys/fs/cgroup")) / f"gateways-{os.getpid()}-{name}"
        self.joined = ""
        """What a shell does to have its process in the group; nothing where there is none."""
        with contextlib.suppress(OSError):
            self._path.mkdir()
            stack.callback(self._remove)
            self.joined = f"echo $$ > {self._path}/cgroup.procs; "

    def _remove(self) -> None:
        """Remove it as soon as the last process has gone."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._path.rmdir()
                return
            time.sleep(0.05)

    def used(self) -> float:
        """Return the CPU time so far in microseconds; 0 where only root could tell."""
        if not self.joined:
            return 0.0
        with contextlib.suppress(FileNotFoundError):
            return int((self._path / "cpuacct.usage").read_text()) / 1000
        return int(re.findall(r"usage_usec (\d+)", (self._path / "cpu.stat").read_text())[0])


def options() -> argparse.Namespace:
    """Read the command line and find the programs."""
    beside = Path(sys.executable).parent / "gateways"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", default=str(beside) if beside.exists() else "gateways", metavar="COMMAND")
    parser.add_argument("--fcgiwrap", default="fcgiwrap", metavar="COMMAND")
    parser.add_argument("--nginx", default="nginx", metavar="COMMAND")
    parser.add_argument("--wrk", default="wrk", metavar="COMMAND")
    parser.add_argument("--cc", default="cc", metavar="COMMAND")
    parser.add_argument("--connections", type=int, nargs="+", choices=range(1, 21), default=[1, 4], metavar="1..20")
    parser.add_argument("--workers", type=int, choices=range(1, 21), default=1, metavar="1..20", help="of gateways")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=9, metavar="1..20")
    parser.add_argument("--seconds", type=int, choices=range(1, 61), default=1, metavar="1..60")
    found = parser.parse_args()
    for name in ("gateways", "fcgiwrap", "nginx", "wrk", "cc"):
        command = shutil.which(getattr(found, name)) or shutil.which(getattr(found, name), path="/usr/sbin")
        if command is None:
            parser.error(f"{getattr(found, name)} is not installed; benchmarks/README.md says how")
        setattr(found, name, os.path.abspath(command))
    return found


def serve(stack: contextlib.ExitStack, found: argparse.Namespace, server: str, root: Path, connections: int) -> Group:
    """Start a server, as nobody where root runs this."""
    is_root = os.geteuid() == 0
    group = Group(stack, server)
    sock = root.parent / f"{server}.sock"
    if server == "gateways":
        user = ("--user", "nobody") if is_root else ()
        command = [found.gateways, "scripts", "--root", root, "--fastcgi", sock, "--socket-mode", "666", *user]
        command += ["--workers", found.workers]
    else:
        command = [*(NOBODY if is_root else ()), found.fcgiwrap, "-c", connections, "-s", f"unix:{sock}"]
    shell = ["sh", "-c", f'umask 0; {group.joined}exec "$@"', "sh", *map(str, command)]
    start(stack, shell, root.parent, server)
    return group


def load(wrk: str, url: str, connections: int, seconds: int) -> tuple[int, float]:
    """Load a URL; return requests and requests a second. SystemExit where one went wrong."""
    given = ("-t1", f"-c{connections}", f"-d{seconds}s", url)
    text = subprocess.check_output([wrk, *given], text=True, timeout=seconds + 30)
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec: +([\d.]+)", text)
    if not requests or not rate or re.search(r"Non-2xx|Socket errors", text):
        sys.exit(f"{url}:\n{text}")
    return int(requests[1]), float(rate[1])


def measure(found: argparse.Namespace, directory: Path, connections: int) -> dict[str, list[tuple[float, float]]]:
    """Start both, load them in turns, end them; return microseconds of CPU a request and requests a second."""
    directory.chmod(0o777)  # sockets are made by nobody
    root = directory / "cgi-bin"
    root.mkdir(mode=0o755)
    (directory / "hello.c").write_text(SCRIPT)
    subprocess.check_call([found.cc, "-O2", "-o", str(root / "hello"), str(directory / "hello.c")])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    turns: dict[str, list[tuple[float, float]]] = {server: [] for server in SERVERS}
    with contextlib.ExitStack() as stack:
        groups = {server: serve(stack, found, server, root, connections) for server in SERVERS}
        locations = "".join(
            LOCATION.format(server=server, params=PARAMS, root=root, sock=directory / f"{server}.sock")
            for server in SERVERS
        )
        (directory / "nginx.conf").write_text(NGINX.format(port=port, locations=locations))
        start(stack, [found.nginx, "-p", f"{directory}/", "-c", "nginx.conf"], directory, "nginx")
        for turn in range(-1, found.rounds):  # -1 warms up
            for server in SERVERS:
                check(port, f"/{server}", directory / f"{server}.log")
                before = groups[server].used()
                requests, rate = load(found.wrk, f"http://127.0.0.1:{port}/{server}", connections, found.seconds)
                if turn >= 0:
                    turns[server].append(((groups[server].used() - before) / requests, rate))
    return turns


def main() -> None:
    """Measure and print."""
    found = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    version = subprocess.check_output([found.gateways, "--version"], text=True).strip()
    print(
        f"{version}, --workers {found.workers}; fcgiwrap -c CONNECTIONS; medians of {found.rounds} x {found.seconds} s"
    )
    print(f"\n{'':12} {'CPU us/request':>20} {'ratio':>8} {'requests/s':>20} {'ratio':>8}")
    print(f"{'connections':12} {'gateways':>10}{'fcgiwrap':>10} {'':8} {'gateways':>10}{'fcgiwrap':>10}")
    for connections in found.connections:
        with tempfile.TemporaryDirectory(prefix="scripts-") as directory:
            turns = measure(found, Path(directory), connections)
        row = f"{connections:<12} "
        for figure in range(2):
            ours, theirs = ([turn[figure] for turn in turns[server]] for server in SERVERS)
            ratio = median(a / b if b else 0.0 for a, b in zip(ours, theirs, strict=True))
            row += f"{median(ours):10.0f}{median(theirs):10.0f} {ratio:8.2f} "
        print(row.rstrip(), flush=True)


if __name__ == "__main__":
    main()
