"""Programs that call ``gateways.run``, started as web servers and FastCGI managers start them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers import SECONDS

__all__ = ["GET", "Done", "Managed", "as_cgi", "cgi_environ", "managed", "write_script"]

GET = {
    "GATEWAY_INTERFACE": "CGI/1.1",
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "/cgi-bin/app",
    "PATH_INFO": "/path",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.7",
}


def write_script(directory: Path, source: str, call: str = "gateways.run(application)", shebang: str = "") -> Path:
    """Write a program whose application is what ``source`` defines."""
    script = directory / "app.py"
    script.write_text(f"#!{shebang or sys.executable}\nimport gateways\n{source}\n{call}\n")
    script.chmod(0o755)
    return script


def cgi_environ(variables: Mapping[str, str | None]) -> dict[str, str]:
    """The environment of a CGI script; None takes a variable of GET away."""
    path = {"PATH": os.environ.get("PATH", os.defpath)}
    return path | {name: value for name, value in {**GET, **variables}.items() if value is not None}


@dataclass
class Done:
    """A CGI script that has ended."""

    code: int
    out: bytes
    err: str

    @property
    def head(self) -> list[str]:
        head, blank, _ = self.out.partition(b"\r\n\r\n")
        assert blank, (self.out, self.err)
        return head.decode("latin-1").split("\r\n")

    @property
    def body(self) -> bytes:
        return self.out.partition(b"\r\n\r\n")[2]


def as_cgi(argv: Sequence[str | Path], body: bytes = b"", **variables: str | None) -> Done:
    """Run a program as a CGI script; its stdin ends behind ``body``."""
    done = subprocess.run(
        [sys.executable, *argv], env=cgi_environ(variables), input=body, capture_output=True, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr.decode())


@dataclass
class Managed:
    """A program that has a listening socket as its descriptor 0."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def text(self) -> str:
        return self.log.read_text()


@contextlib.contextmanager
def managed(argv: Sequence[str | Path], directory: Path, **variables: str) -> Iterator[Managed]:
    """Run a program as a FastCGI manager does; what connects before it accepts waits."""
    address, log = str(directory / "fcgi"), directory / "log"
    with socket.socket(socket.AF_UNIX) as listener, log.open("ab") as output:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=listener.fileno(),
            stdout=output,
            stderr=output,
            env={**os.environ, **variables},
        )
    try:
        yield Managed(process, address, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
