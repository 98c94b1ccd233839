"""The web servers and other programs of the system that the tests run.

Every server here is private: its own directory, only 127.0.0.1, in the foreground, ended by its own pid. Where the
tests run as root, its workers have an unprivileged user, as in production.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

__all__ = [
    "Apache",
    "Gateways",
    "Lighttpd",
    "Nginx",
    "Server",
    "alive",
    "free_port",
    "open_directory",
    "require",
    "running",
    "wait_until",
]

SECONDS = 60.0
"""The deadline of everything that takes a moment on an idle machine."""
LOOPBACK = "127.0.0.1"
APACHE_MODULES = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules")
NOBODY = ("www-data", "nobody")

Found = TypeVar("Found")
Started = TypeVar("Started", bound="Server")
alive: list[Server] = []
"""All servers that run now; their logs are shown beside a test that fails."""


def require(program: str) -> str:
    """Return the path of a program. Without it the test is skipped, or fails where CI=true promises it."""
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        missing(f"{program} is not installed; tests/run installs it where it may")
    return found


def missing(reason: str) -> NoReturn:
    """Skip the test for everybody to see, or fail it under CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition: Callable[[], Found | None], what: str, seconds: float = SECONDS) -> Found:
    """Return what ``condition`` returns once that is true; the test fails where it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
    return found


PORTS = range(20_000, 32_000)
"""None of those that the system gives to clients: such a one would soon be somebody's."""
_SHARE = 100
_claims: dict[int, socket.socket] = {}
"""By its first port, each share that this process has taken for itself."""
_ports: list[int] = []
"""What is left of them."""
_dice = random.SystemRandom()  # whatever seed hypothesis has set


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody has, and that no test gets elsewhere at this moment.

    This function does not return it again while there are others.
    """
    while True:
        if not _ports:
            _take_share()
        port = _ports.pop()
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind((LOOPBACK, port))
            return port


def _take_share() -> None:
    """Claim ports that no other process of tests has; where all are somebody's, begin again with our own."""
    firsts = [first for first in PORTS[::_SHARE] if first not in _claims]
    _dice.shuffle(firsts)
    for first in firsts:
        claim = socket.socket(socket.AF_UNIX)
        if sys.platform == "linux":  # an abstract name, which goes with its process
            try:
                claim.bind(f"\0gateways-test-ports-{first}")
            except OSError:
                claim.close()
                continue
        _claims[first] = claim
        _ports.extend(range(first, first + _SHARE))
        break
    else:
        _ports.extend(port for first in _claims for port in range(first, first + _SHARE))
    _dice.shuffle(_ports)


@contextlib.contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that a web server's unprivileged workers may pass; pytest keeps its own ones closed."""
    with tempfile.TemporaryDirectory(prefix="gateways-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


def unprivileged() -> tuple[str, str] | None:
    """Return user and group for the workers of a server that root starts, else None."""
    if os.geteuid() != 0:
        return None
    for name in NOBODY:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return name, grp.getgrgid(entry.pw_gid).gr_name
    pytest.fail(f"none of the users {NOBODY} exists")


def accepts(port: int) -> bool:
    """Whether somebody listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


@contextlib.contextmanager
def running(server: Started) -> Iterator[Started]:
    """Have a server run for the ``with`` block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Server:
    """A process that serves. ``ports`` are those that it shall listen on."""

    name = "server"

    def __init__(self, directory: Path, argv: Sequence[str], ports: Sequence[int] = ()) -> None:
        self.directory = directory
        self.argv = list(argv)
        self.ports = list(ports)
        self.log = directory / "log"
        self.env: Mapping[str, str] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = 0
        """How much of the log is older than the test that runs."""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start, and return when it is ready; the test fails with the log where it does not become so."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        alive.append(self)
        try:
            wait_until(self._ready_or_dead, f"{self.name} is ready")
        except BaseException:
            self.kill()
            raise

    def _ready_or_dead(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"{self.name} did not start, exit code {self.process.returncode}:\n{self.text()}")
        return self.ready()

    def ready(self) -> bool:
        return all(accepts(port) for port in self.ports)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """End the process, and return its exit code."""
        process = self.process
        if process is None:
            return 0
        process.send_signal(signal_number)
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"{self.name} did not end within {SECONDS:g} s:\n{self.text()}")
        self._forget()
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def _forget(self) -> None:
        self.process = None
        if self in alive:
            alive.remove(self)

    def text(self) -> str:
        """Return the log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Nginx(Server):
    """nginx with ``http``, the content of its http block."""

    name = "nginx"

    def __init__(self, directory: Path, http: str, ports: Sequence[int]) -> None:
        self.binary = require("nginx")
        self.conf = directory / "nginx.conf"
        temporary = "".join(f"{name}_temp_path {name};\n" for name in ("fastcgi", "scgi", "uwsgi", "proxy"))
        user = unprivileged()
        self.conf.write_text(
            (f"user {user[0]} {user[1]};\n" if user else "")
            + "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr notice;\n"
            + "events { worker_connections 512; }\n"
            + f"http {{\naccess_log off;\nclient_body_temp_path body;\n{temporary}{http}\n}}\n",
            encoding="utf-8",
        )
        super().__init__(directory, [self.binary, "-p", f"{directory}/", "-e", "stderr", "-c", str(self.conf)], ports)

    @staticmethod
    def built() -> str:
        """Return what nginx says of its version and how it was built."""
        return subprocess.run([require("nginx"), "-V"], check=True, capture_output=True, text=True).stderr

    @staticmethod
    def version() -> tuple[int, ...]:
        """Return its version: ``(1, 22, 1)``."""
        found = re.search(r"nginx/([0-9.]+)", Nginx.built())
        assert found
        return tuple(map(int, found[1].split(".")))

    @staticmethod
    def stock(name: str) -> str:
        """Return the path of a file that the distribution installs beside nginx.conf."""
        found = re.search(r"--conf-path=(\S+)/[^/\s]+", Nginx.built())
        path = Path(found[1] if found else "/etc/nginx") / name
        if not path.exists():
            missing(f"nginx has no {path}")
        return str(path)


class Apache(Server):
    """Apache httpd with the event MPM, the modules of the proxy protocols and ``conf``."""

    name = "apache"
    modules: tuple[str, ...] = (
        "mpm_event", "unixd", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "env", "setenvif",
        "headers", "rewrite", "socache_shmcb", "ssl", "proxy", "proxy_fcgi", "proxy_scgi", "proxy_uwsgi", "proxy_http",
    )  # fmt: skip

    def __init__(self, directory: Path, conf: str, ports: Sequence[int]) -> None:
        binary = shutil.which("httpd") or require("apache2")
        folder = next((path for path in APACHE_MODULES if Path(path, "mod_proxy_fcgi.so").exists()), None)
        if folder is None:
            missing("Apache's mod_proxy_fcgi is not installed")
        # What a distribution compiles in (Debian: mod_unixd) cannot be loaded as well.
        load = [
            f"LoadModule {name}_module {folder}/mod_{name}.so"
            for name in self.modules
            if Path(folder, f"mod_{name}.so").exists()
        ]
        user = unprivileged()
        lines = [
            f'ServerRoot "{directory}"',
            f'DefaultRuntimeDir "{directory}"',
            f'PidFile "{directory}/apache.pid"',
            f'DocumentRoot "{directory}"',
            "Mutex posixsem",
            "ServerName localhost",
            'ErrorLog "/dev/stderr"',
            "LogLevel warn",
            *load,
            "StartServers 1",
            "SSLSessionCache none",
            # After a response that was cut Apache waits so long before it closes.
            "KeepAliveTimeout 1",
            *([f"User {user[0]}", f"Group {user[1]}"] if user else []),
            *(f"Listen {LOOPBACK}:{port}" for port in ports),
        ]
        self.conf = directory / "apache.conf"
        self.conf.write_text("\n".join(lines) + "\n" + conf, encoding="utf-8")
        super().__init__(directory, [binary, "-DFOREGROUND", "-f", str(self.conf)], ports)


class Lighttpd(Server):
    """lighttpd with ``conf``; the port of the server itself is the first of ``ports``."""

    name = "lighttpd"

    def __init__(self, directory: Path, conf: str, ports: Sequence[int]) -> None:
        binary = require("lighttpd")
        user = unprivileged()
        for name in ("docroot", "uploads"):
            (directory / name).mkdir()
            if user:
                shutil.chown(directory / name, *user)
        lines = [
            'server.modules = ("mod_auth", "mod_authn_file", "mod_setenv", "mod_fastcgi", "mod_scgi")',
            f'server.document-root = "{directory}/docroot"',
            f'server.upload-dirs = ("{directory}/uploads")',
            f'server.bind = "{LOOPBACK}"',
            f"server.port = {ports[0]}",
            "server.max-keep-alive-idle = 1",  # as for Apache
            # Without server.errorlog it is stderr, which needs not be opened by its unprivileged user.
            *([f'server.username = "{user[0]}"', f'server.groupname = "{user[1]}"'] if user else []),
        ]
        self.conf = directory / "lighttpd.conf"
        self.conf.write_text("\n".join(lines) + "\n" + conf, encoding="utf-8")
        super().__init__(directory, [binary, "-D", "-f", str(self.conf)], ports)


class Gateways(Server):
    """``gateways serve`` on a unix socket and a TCP port of each protocol."""

    name = "gateways"

    def __init__(
        self,
        directory: Path,
        app: str,
        *options: str,
        python_path: Path,
        protocols: Sequence[str] = ("fastcgi", "scgi", "uwsgi", "http"),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.address: dict[tuple[str, str], str] = {}
        """(protocol, "unix" or "tcp") -> where it listens, as nginx writes it without ``unix:``."""
        argv = [sys.executable, "-m", "gateways", "serve", app, "--socket-mode", "666", "--chdir", str(python_path)]
        for protocol in protocols:
            self.address[protocol, "unix"] = str(directory / f"{protocol}.sock")
            self.address[protocol, "tcp"] = f"{LOOPBACK}:{free_port()}"
            for kind in ("unix", "tcp"):
                argv += [f"--{protocol}", self.address[protocol, kind]]
        argv += options
        super().__init__(directory, argv)
        # Another directory than the tests' own, else the package's source would hide the build under test.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAYS_")}
        self.env = inherited | dict(env or {})
        self.wanted = int(options[options.index("--workers") + 1]) if "--workers" in options else 1
        self.before = 0

    def ready(self) -> bool:
        return self.text()[self.before :].count(" is ready") >= self.wanted

    def start(self) -> None:
        self.before = len(self.text())
        super().start()
