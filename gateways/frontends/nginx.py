"""A private nginx in front of one server that speaks every protocol: its configuration, its start and its end.

It lives in a temporary directory of its own and touches no file of the system's nginx.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

from gateways.errors import ConfigError

__all__ = ["PREFIXES", "PrivateNginx", "configuration", "find_nginx", "locations"]

PREFIXES: Final = ("/fastcgi/", "/scgi/", "/uwsgi/", "/http/")
SBIN: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where distributions install nginx; seldom on the PATH of a plain account."""
START_SECONDS: Final = 5.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.02
LOOPBACK: Final = "127.0.0.1"
HIGHEST_PORT: Final = 65_535

COMMON: Final = {
    "QUERY_STRING": "$query_string",
    "REQUEST_METHOD": "$request_method",
    "CONTENT_TYPE": "$content_type",
    "REQUEST_URI": "$request_uri",
    "DOCUMENT_URI": "$document_uri",
    "DOCUMENT_ROOT": "$document_root",
    "SERVER_PROTOCOL": "$server_protocol",
    "REQUEST_SCHEME": "$scheme",
    "HTTPS": "$https if_not_empty",
    "REMOTE_ADDR": "$remote_addr",
    "REMOTE_PORT": "$remote_port",
    "SERVER_PORT": "$server_port",
    "SERVER_NAME": "$server_name",
}
"""What fastcgi_params, scgi_params and uwsgi_params of nginx have in common, without the two that locations set.
SCRIPT_NAME and PATH_INFO are not included from there: nginx sends a parameter as often as it is set."""
OWN: Final = {
    "fastcgi": {
        "CONTENT_LENGTH": "$content_length",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "nginx/$nginx_version",
        "REMOTE_USER": "$remote_user",
        "SERVER_ADDR": "$server_addr",
    },
    "scgi": {"SCGI": "1"},
    "uwsgi": {"CONTENT_LENGTH": "$content_length"},
}
"""What each has beside it. nginx sends SCGI's CONTENT_LENGTH itself, first, as the specification wants it."""
FRAME: Final = """daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    client_max_body_size 64m;
    absolute_redirect off;
    server {{
        listen {listen};
        server_name localhost;
        location = / {{ return 302 /fastcgi/; }}
{locations}
    }}
}}
"""


def find_nginx() -> str | None:
    """The path of the nginx binary, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path=os.pathsep.join(SBIN))


def locations(target: str) -> str:
    """One location for each protocol, under its prefix; ``target`` as in ``fastcgi_pass``."""
    blocks = [gateway_location(protocol, target) for protocol in OWN]
    colon = ":" if target.startswith("unix:") else ""
    blocks.append(
        "location = /http { return 302 /http/; }\n"
        "location /http/ {\n"
        f"    proxy_pass http://{target}{colon}/;\n"
        "    proxy_http_version 1.1;\n"
        "    proxy_set_header Host $http_host;\n"
        '    proxy_set_header Connection "";\n'
        "    proxy_set_header X-Forwarded-For $remote_addr;\n"
        "    proxy_set_header X-Forwarded-Prefix /http;\n"
        "}\n"
    )
    return "\n".join(blocks)


def gateway_location(protocol: str, target: str) -> str:
    """The location of FastCGI, SCGI or uwsgi: SCRIPT_NAME is the prefix, PATH_INFO the decoded rest."""
    params = {**COMMON, **OWN[protocol], "SCRIPT_NAME": f"/{protocol}", "PATH_INFO": "$rest"}
    lines = "".join(f"    {protocol}_param {name} {value};\n" for name, value in params.items())
    # (?s): a decoded %0A belongs to the path as well.
    return (
        f"location = /{protocol} {{ return 302 /{protocol}/; }}\n"
        f"location ~ (?s)^/{protocol}(?<rest>/.*)$ {{\n    {protocol}_pass {target};\n{lines}}}\n"
    )


def configuration(listen: str, target: str) -> str:
    """The whole nginx.conf; all its paths are relative to nginx's prefix."""
    inner = "".join(f"        {line}\n" if line else "\n" for line in locations(target).splitlines())
    return FRAME.format(listen=listen, locations=inner.rstrip())


class PrivateNginx:
    """One nginx process in front of ``target`` (written as in ``fastcgi_pass``), on the loopback interface."""

    def __init__(self, binary: str, target: str, wanted_port: int = 0) -> None:
        self._binary = binary
        self._target = target
        self._wanted_port = wanted_port
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        """Where it listens; 0 until it does."""

    @property
    def pid(self) -> int:
        """The process, or 0."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it and wait until it listens; ConfigError with nginx's own words where it does not."""
        port = free_port(self._wanted_port)
        self._directory = tempfile.TemporaryDirectory(prefix="gateways-nginx-")
        prefix = Path(self._directory.name)
        if os.geteuid() == 0:
            prefix.chmod(0o711)  # started by root, nginx's worker has another user and must pass
        conf = prefix / "nginx.conf"
        conf.write_text(configuration(f"{LOOPBACK}:{port}", self._target), encoding="utf-8")
        try:
            with (prefix / "stderr").open("wb") as stderr:
                self._process = subprocess.Popen(  # noqa: S603 - the binary that find_nginx found, fixed arguments
                    [self._binary, "-p", f"{prefix}/", "-c", str(conf)],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    # Ctrl-C reaches the whole foreground group: it is ours to stop nginx, after the server.
                    start_new_session=True,
                )
            self._wait_until_it_listens(port)
        except OSError as error:
            self.stop()
            raise ConfigError(f"nginx did not start: {error}") from error
        except BaseException:
            self.stop()
            raise
        self.port = port

    def _wait_until_it_listens(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not accepts(port):
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise ConfigError(f"nginx did not start: {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def _last_words(self) -> str:
        """The last line that nginx wrote, where it wrote one."""
        prefix = Path(self._directory.name if self._directory is not None else "")
        for name in ("stderr", "error.log"):
            with contextlib.suppress(OSError):
                for line in reversed((prefix / name).read_text(encoding="utf-8", errors="replace").splitlines()):
                    if "[emerg]" in line:
                        return line.partition("] ")[2]
        return "it said nothing"

    def stop(self) -> None:
        """End it, by its own pid, and remove its directory; nothing happens where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        directory, self._directory = self._directory, None
        if directory is not None:
            directory.cleanup()
        self.port = 0


def free_port(wanted: int) -> int:
    """``wanted`` where it is free on the loopback interface, else a port that is."""
    for port in (wanted, 0):
        if not 0 <= port <= HIGHEST_PORT:
            continue
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((LOOPBACK, port))
            except OSError:
                continue
            found: int = trial.getsockname()[1]
            return found
    raise ConfigError("nginx did not start: there is no free port")


def accepts(port: int) -> bool:
    """Someone listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
