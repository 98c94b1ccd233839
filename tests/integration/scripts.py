"""``gateways scripts``, fcgiwrap and Apache's mod_cgid as servers of the tests, and the scripts that they run."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.servers import (
    LOOPBACK,
    SECONDS,
    Apache,
    Gateways,
    Server,
    accepts,
    free_port,
    missing,
    require,
    unprivileged,
)

__all__ = ["Answer", "CgidApache", "FcgiWrap", "ScriptServer", "ask", "cgi_bin", "own", "require_file"]

SOURCES = Path(__file__).parent / "cgi-bin"


def require_file(path: str) -> None:
    """Skip or fail as ``require`` does: for programs that are not on PATH."""
    if not os.path.exists(path):
        missing(f"{path} is not installed; tests/run installs it where it may")


def own(path: Path) -> None:
    """Give a tree to the user that scripts run as."""
    user = unprivileged()
    if user:
        subprocess.run(["chown", "-R", f"{user[0]}:{user[1]}", str(path)], check=True)


def cgi_bin(directory: Path) -> Path:
    """Make a directory with the programs of tests/integration/cgi-bin, C compiled where there is gcc."""
    root = directory / "cgi-bin"
    root.mkdir()
    for source in SOURCES.iterdir():
        if source.suffix == ".c":
            if compiler := shutil.which("gcc"):
                subprocess.run([compiler, "-O1", "-o", str(root / source.stem), str(source)], check=True)
        else:
            shutil.copy(source, root)
            (root / source.name).chmod(0o644 if source.suffix == ".php" else 0o755)
    return root


class ScriptServer(Gateways):
    """``gateways scripts`` in a directory of its own; where root starts it, its scripts run as an unprivileged user."""

    def __init__(self, directory: Path, *options: str, env: dict[str, str] | None = None) -> None:
        directory.mkdir()
        control = str(directory / "control")
        super().__init__(directory, "", "--control", control, *options, python_path=directory, env=env)
        at = self.argv.index("serve")
        self.argv[at : at + 6] = ["scripts", "--socket-mode", "666"]
        user = unprivileged()
        if user and "--script-user" not in options:
            self.argv += ["--script-user", user[0]]
        self.name = f"gateways scripts ({directory.name})"

    @property
    def http_port(self) -> int:
        return int(self.address["http", "tcp"].rpartition(":")[2])

    @property
    def fastcgi_port(self) -> int:
        return int(self.address["fastcgi", "tcp"].rpartition(":")[2])


class FcgiWrap(Server):
    """One process of fcgiwrap, which runs one script at a time."""

    name = "fcgiwrap"

    def __init__(self, directory: Path, *, env: dict[str, str]) -> None:
        directory.mkdir()
        self.fastcgi_port = free_port()
        user = unprivileged()
        argv = [require("fcgiwrap"), "-f", "-s", f"tcp:{LOOPBACK}:{self.fastcgi_port}"]
        if user:
            argv = [require("setpriv"), f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", *argv]
        # A session of its own, so that what hangs in it can be ended together.
        super().__init__(directory, [require("setsid"), *argv])
        self.env = env

    def ready(self) -> bool:
        return accepts(self.fastcgi_port)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        del signal_number  # one that hangs hears none
        self.kill()
        return 0

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        super().kill()


class CgidApache(Apache):
    """Apache with mod_cgid too."""

    modules = (*Apache.modules, "alias", "cgid")

    def __init__(self, directory: Path, conf: str, ports: list[int]) -> None:
        super().__init__(directory, f'ScriptSock "{directory}/cgid"\n{conf}', ports)
        if "LoadModule cgid_module" not in self.conf.read_text():
            missing("Apache's mod_cgid is not installed")


@dataclass
class Answer:
    """A whole response, or what came of it; ``status`` is 0 where nothing came."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    cut: bool = False

    def __getitem__(self, name: str) -> str | None:
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower()) or None

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    """Ask for a path, which goes out as it is."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        try:
            response = connection.getresponse()
        except http.client.RemoteDisconnected:
            return Answer(0, "", [], b"", cut=True)
        cut = False
        try:
            data = response.read()
        except http.client.IncompleteRead as error:
            data, cut = error.partial, True
        return Answer(response.status, response.reason, response.getheaders(), data, cut)
    finally:
        connection.close()
