"""Other people's servers through ``gateways conform``: ``python -m tests.conform.peers DIRECTORY [NAME...]``.

Starts each server that this machine has, on unix sockets of its own, runs every case of its protocols against the
echo application, and writes what ``--json`` says to ``DIRECTORY/NAME_VERSION.json``. ``tests.conform.table`` makes the
documentation's tables of these. uwsgi is looked for on PATH; flup is in the environment of the tests.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateways import __version__
from gateways.wire.echo import echo_wsgi

ECHO = Path(echo_wsgi.__file__).parent
ROOT = Path(__file__).parent.parent.parent
APP = "gateways.wire.echo.echo_wsgi:application"
SECONDS = 20.0
SINGLE = ("scgi", "uwsgi")


class Missing(Exception):
    """This machine does not have the server; the message says what is not there."""


@dataclass
class Started:
    """How a server is started; what it listens on is a unix socket named as the protocol, in the directory."""

    argv: list[str]
    protocols: tuple[str, ...] = ("fastcgi",)
    descriptor: bool = False
    """It takes its listening socket as descriptor 0."""
    count: int = 1
    """Processes that share it."""
    params: dict[str, str] = field(default_factory=dict)


def program(name: str) -> str:
    """Return the path of a program; raises Missing."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


def says(pattern: str, *argv: str) -> str:
    """Return what a program says of its version."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"


def compiled(*argv: str) -> None:
    """Run a compiler; raises Missing where the library is not there."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise Missing(done.stderr.strip().partition("\n")[0])


def gateways(directory: Path) -> tuple[str, list[Started]]:
    listen = [text for kind in ("fastcgi", *SINGLE) for text in (f"--{kind}", str(directory / kind))]
    argv = [sys.executable, "-m", "gateways", "serve", APP, *listen, "--workers", "2", "--threads", "4"]
    return __version__, [Started(argv, ("fastcgi", *SINGLE))]


def uwsgi(directory: Path) -> tuple[str, list[Started]]:
    binary = program("uwsgi")
    options = "--master --processes 2 --die-on-term --disable-logging --buffer-size 65535 --need-app"
    kinds = {"fastcgi": "--fastcgi-socket", "scgi": "--scgi-socket", "uwsgi": "--uwsgi-socket"}
    listen = [text for kind, option in kinds.items() for text in (option, str(directory / kind))]
    argv = [binary, *options.split(), *listen, "--wsgi-file", str(ECHO / "echo_wsgi.py"), "--callable", "application"]
    return says(r"(\S+)", binary, "--version"), [Started(argv, tuple(kinds))]


def php_fpm(directory: Path) -> tuple[str, list[Started]]:
    binary = next((path for path in sorted(Path("/usr/sbin").glob("php-fpm*"))), None) or program("php-fpm")
    script = directory / "echo.php"
    shutil.copy(ECHO / "echo.php", script)
    user = "user = www-data\ngroup = www-data\nlisten.mode = 0666\n" if os.geteuid() == 0 else ""
    conf = directory / "fpm.conf"
    conf.write_text(
        f"[global]\ndaemonize = no\nerror_log = {directory}/fpm.log\n"
        f"[www]\n{user}listen = {directory}/fastcgi\npm = static\npm.max_children = 4\n"
    )
    argv = [str(binary), "-F", "-n", "-y", str(conf)]
    return says(r"PHP (\S+)", str(binary), "-n", "-v"), [Started(argv, params={"SCRIPT_FILENAME": str(script)})]


def flup(directory: Path) -> tuple[str, list[Started]]:
    try:
        version = importlib.metadata.version("flup")
    except importlib.metadata.PackageNotFoundError:
        raise Missing("flup is not installed") from None
    made = []
    for kind, module in (("fastcgi", "fcgi"), ("scgi", "scgi")):
        code = f"from flup.server.{module} import WSGIServer; from gateways.wire.echo.echo_wsgi import application;"
        code += f"WSGIServer(application, bindAddress={str(directory / kind)!r}, debug=False).run()"
        made.append(Started([sys.executable, "-c", code], (kind,)))
    return version, made


def fcgiwrap(directory: Path) -> tuple[str, list[Started]]:
    binary = program("fcgiwrap")
    script = directory / "echo.cgi"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\nsys.path.insert(0, {str(ECHO)!r})\nfrom echo_wsgi import application\n"
        "from wsgiref.handlers import BaseCGIHandler\n"
        "environ = {name.decode('latin-1'): value.decode('latin-1') for name, value in os.environb.items()}\n"
        "BaseCGIHandler(sys.stdin.buffer, sys.stdout.buffer, sys.stderr, environ).run(application)\n"
    )
    script.chmod(0o755)
    version = says(r"version (\S+)", binary, "-h")
    return version, [Started([binary, "-f", "-c", "4"], descriptor=True, params={"SCRIPT_FILENAME": str(script)})]


def libfcgi(directory: Path) -> tuple[str, list[Started]]:
    compiled(program("cc"), "-o", str(directory / "echo"), str(ECHO / "echo.c"), "-lfcgi")
    version = says(r"(\d\S*)", "pkg-config", "--modversion", "fcgi") if shutil.which("pkg-config") else "unknown"
    return version, [Started([str(directory / "echo")], descriptor=True, count=4)]


def golang(directory: Path) -> tuple[str, list[Started]]:
    go = program("go")
    os.environ.setdefault("GOCACHE", str(directory / "go-cache"))
    compiled(go, "build", "-o", str(directory / "echo"), str(ECHO / "echo.go"))
    return says(r"go(\d\S*)", go, "version"), [Started([str(directory / "echo")], descriptor=True)]


PEERS: dict[str, Callable[[Path], tuple[str, list[Started]]]] = {
    "gateways": gateways,
    "uWSGI": uwsgi,
    "php-fpm": php_fpm,
    "flup": flup,
    "fcgiwrap": fcgiwrap,
    "libfcgi": libfcgi,
    "Go": golang,
}


@contextlib.contextmanager
def running(server: Started, directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Have a server run for the block, each process as the head of a group of its own."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT)}  # fcgiwrap's scripts see all of it
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((directory / "log").open("ab"))
        given: int = subprocess.DEVNULL
        if server.descriptor:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(directory / server.protocols[0]))
            listener.listen(128)
            given = listener.fileno()
        try:
            processes.extend(
                subprocess.Popen(
                    server.argv, cwd=directory, env=env, stdin=given, stdout=log, stderr=log, start_new_session=True
                )
                for _ in range(server.count)
            )
            for protocol in server.protocols:
                await_listening(directory / protocol, processes[0])
            yield processes
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(SECONDS)


def await_listening(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"it did not start: {(path.parent / 'log').read_text(errors='replace')[-400:]}")
        time.sleep(0.02)


def conform(protocol: str, server: Started, path: Path) -> list[dict[str, Any]]:
    """Run every case; returns what ``--json`` prints."""
    argv = [sys.executable, "-m", "gateways", "conform", f"{protocol}+unix://{path}", "--json"]
    argv += [text for name, value in server.params.items() for text in ("--param", f"{name}={value}")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode > 1:
        raise Missing(done.stderr.strip())
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def run(name: str, output: Path) -> str:
    """Run one; returns a line about it."""
    start = time.monotonic()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gateways-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        try:
            version, servers = PEERS[name](directory)
            for server in servers:
                with running(server, directory):
                    for protocol in server.protocols:
                        results += conform(protocol, server, directory / protocol)
        except Missing as error:
            return f"{name}: not here: {error}"
    (output / f"{name}_{version}.json").write_text(json.dumps(results, indent=1))
    return f"{name} {version}: {counts(results)}, {time.monotonic() - start:.0f} s"


def counts(results: list[dict[str, Any]]) -> dict[str, int]:
    """How many passed, failed and were skipped."""
    return {verdict: sum(each["verdict"] == verdict for each in results) for verdict in ("pass", "fail", "skip")}


def main() -> None:
    directory, *names = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the servers, too
    output = Path(directory)
    output.mkdir(parents=True, exist_ok=True)
    for name in names or PEERS:
        print(run(name, output), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
