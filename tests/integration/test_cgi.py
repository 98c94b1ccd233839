"""One program with ``gateways.run``: as a CGI script, and under those who start and supervise FastCGI processes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import pwd
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import APPS, SECONDS, Answer
from tests.scripts import write_script
from tests.server.processes import gone
from tests.servers import (
    LOOPBACK,
    Apache,
    Server,
    free_port,
    missing,
    open_directory,
    require,
    running,
    unprivileged,
    wait_until,
)

PROGRAM = f"""
import sys
sys.path.insert(0, {str(APPS)!r})
from probe_site import application
"""
FLASK = PROGRAM.replace("probe_site import application", "flask_site import app as application")


class ScriptApache(Apache):
    """Apache that starts programs."""

    def __init__(self, directory: Path, conf: str, ports: list[int], module: str) -> None:
        self.modules = (*Apache.modules, "alias", module)
        super().__init__(directory, conf, ports)
        if f"mod_{module}.so" not in self.conf.read_text():
            missing(f"Apache's mod_{module} is not installed; tests/run installs it where it may")


def python_for_apache(directory: Path) -> str:
    """A Python that Apache's unprivileged user may run: this one, or where that is root's own, one that may read it."""
    user = unprivileged()
    if user is None:
        return sys.executable
    command = [sys.executable, "-c", "import gateways.start"]
    with contextlib.suppress(PermissionError):
        done = subprocess.run(command, user=user[0], group=user[1], capture_output=True, check=False, cwd="/")
        if done.returncode == 0:
            return sys.executable
    return readable_python(directory, user[0])


def readable_python(directory: Path, user: str) -> str:
    """Make an environment whose interpreter has CAP_DAC_READ_SEARCH; only ``user`` may run it."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = directory / "python" / "lib" / version
    (directory / "python" / "bin").mkdir(parents=True)
    library.mkdir(parents=True)
    (library / "site-packages").symlink_to(sysconfig.get_path("purelib"))
    (directory / "python" / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    python = directory / "python" / "bin" / version
    shutil.copy(os.path.realpath(sys.executable), python)
    os.chown(python, 0, pwd.getpwnam(user).pw_gid)
    python.chmod(0o750)
    try:
        os.setxattr(python, "security.capability", struct.pack("<5I", 0x02000001, 1 << 2, 0, 0, 0))  # capabilities(7)
    except OSError as error:
        missing(f"the user {user} may not run {sys.executable}: {error}")
    return str(python)


@dataclass
class Site:
    """A program below /app."""

    server: Server
    port: int
    protocol: str

    def ask(
        self, path: str = "/", method: str = "GET", *, do: str = "", arg: str = "", body: Any = None,  # noqa: ANN401
        site: str = "/app", **headers: str,
    ) -> Answer:  # fmt: skip
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=SECONDS)
        try:
            fields = {"X-Do": do, "X-Arg": arg, **{name.replace("_", "-"): value for name, value in headers.items()}}
            connection.request(method, site + path, body, {name: value for name, value in fields.items() if value})
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()


Maker = Callable[[Path, int], Server]
COMMON = """<Directory "{directory}/www">
Require all granted
Options +ExecCGI
{handler}
</Directory>
ScriptAlias "/app" "{directory}/www/app.py"
ScriptAlias "/flask" "{directory}/www/flask/app.py"
"""


def apache(module: str, handler: str, more: str = "") -> Maker:
    def make(directory: Path, port: int) -> Server:
        python = python_for_apache(directory)
        (directory / "www" / "flask").mkdir(parents=True)
        write_script(directory / "www", PROGRAM, shebang=python)
        write_script(directory / "www" / "flask", FLASK, shebang=python)
        user = unprivileged()
        if user:
            shutil.chown(directory, *user)  # mod_cgid and mod_fcgid make sockets
        conf = COMMON.format(directory=directory, handler=handler) + more.format(directory=directory)
        return ScriptApache(directory, conf, [port], module)

    return make


class Lighttpd(Server):
    """lighttpd in the place of root, as a manager of processes."""

    name = "lighttpd"

    def __init__(self, directory: Path, conf: str, port: int) -> None:
        (directory / "conf").write_text(
            f'server.document-root = "{directory}/www"\nserver.bind = "{LOOPBACK}"\nserver.port = {port}\n'
            f'server.upload-dirs = ("{directory}")\n{conf}'
        )
        super().__init__(directory, [require("lighttpd"), "-D", "-f", str(directory / "conf")], [port])


def lighttpd_cgi(directory: Path, port: int) -> Server:
    (directory / "www" / "flask").mkdir(parents=True)
    write_script(directory / "www", PROGRAM)
    write_script(directory / "www" / "flask", FLASK)
    return Lighttpd(
        directory,
        'server.modules = ("mod_alias", "mod_cgi")\n'
        f'alias.url = ("/app" => "{directory}/www/app.py", "/flask" => "{directory}/www/flask/app.py")\n'
        'cgi.assign = (".py" => "")\n',
        port,
    )


def lighttpd_bin_path(directory: Path, port: int) -> Server:
    (directory / "www" / "flask").mkdir(parents=True)
    lines = []
    for name, source, folder in (("app", PROGRAM, "www"), ("flask", FLASK, "www/flask")):
        script = write_script(directory / folder, source)
        lines.append(
            f'"/{name}" => (("bin-path" => "{script}", "socket" => "{directory}/{name}.socket", "max-procs" => 1, '
            '"check-local" => "disable"))'
        )
    return Lighttpd(directory, f'server.modules = ("mod_fastcgi")\nfastcgi.server = ({", ".join(lines)})\n', port)


MAKERS: dict[str, tuple[Maker, str]] = {
    "apache-cgi": (apache("cgi", "SetHandler cgi-script"), "cgi"),
    "apache-cgid": (apache("cgid", "SetHandler cgi-script", 'ScriptSock "{directory}/cgid"\n'), "cgi"),
    "apache-fcgid": (
        apache(
            "fcgid",
            "SetHandler fcgid-script",
            'FcgidIPCDir "{directory}"\nFcgidProcessTableFile "{directory}/table"\nFcgidMaxRequestLen 10000000\n',
        ),
        "fastcgi",
    ),
    "lighttpd-cgi": (lighttpd_cgi, "cgi"),
    "lighttpd-bin-path": (lighttpd_bin_path, "fastcgi"),
}


@contextmanager
def started(kind: str) -> Iterator[Site]:
    make, protocol = MAKERS[kind]
    with ExitStack() as stack:
        directory = stack.enter_context(open_directory())
        directory.chmod(0o755)
        port = free_port()
        yield Site(stack.enter_context(running(make(directory, port))), port, protocol)


@pytest.fixture(scope="module", params=MAKERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with started(request.param) as site:
        yield site


def test_the_environ(site: Site) -> None:
    found = site.ask("/a%20b/c%C3%A9?q=1", Proxy="http://192.0.2.66/", X_Field="v").json()
    assert found["gateways.protocol"] == site.protocol
    assert (found["SCRIPT_NAME"], found["PATH_INFO"], found["QUERY_STRING"]) == ("/app", "/a b/cÃ©", "q=1")
    assert (found["wsgi.multithread"], found["wsgi.multiprocess"]) == (False, True)
    assert found["wsgi.run_once"] == (site.protocol == "cgi")
    assert found["REMOTE_ADDR"] == LOOPBACK
    assert found["HTTP_X_FIELD"] == "v"
    assert "HTTP_PROXY" not in found
    found = site.ask("").json()
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/app", "")


@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_a_body(site: Site, size: int) -> None:
    content = os.urandom(size)
    answer = site.ask(method="POST", do="body", body=content)
    assert answer.body.decode().split()[:2] == [str(size), hashlib.sha256(content).hexdigest()], answer


def test_a_body_that_nobody_reads(site: Site) -> None:
    answer = site.ask(method="POST", do="refuse", body=bytes(1_000_000))
    assert (answer.status, answer.body) == (403, b"not read")
    if site.server.name != "apache" or site.protocol == "cgi":  # mod_fcgid writes all of the body before it reads
        assert len(site.ask(method="POST", do="blocks", arg="1", body=bytes(1_000_000)).body) == 1_048_576


def test_a_body_in_chunks(site: Site) -> None:
    answer = site.ask(method="POST", do="body", body=iter([b"12345", b"67890"]))
    if site.server.name == "apache" and site.protocol == "cgi":
        assert answer.status == 411
    else:
        assert answer.body.split()[0] == b"10"


def test_answers(site: Site) -> None:
    assert site.ask(do="status", arg="404 Not There").status == 404
    assert len(site.ask(do="blocks", arg="2").body) == 2 * 1_048_576
    answer = site.ask(do="fail_before")
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    assert site.ask(do="errors", arg="a line").body == b"said"
    wait_until(lambda: "said to wsgi.errors: a line" in site.server.text(), "it is in the log")


def test_flask(site: Site) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert site.ask("/form", "POST", site="/flask", body=b"b=2+3&a=%C3%A9", **form).body.decode() == "a=é|b=2 3"
    assert site.ask("/", site="/flask").body.decode() == f"home of {LOOPBACK} at /flask/"


@pytest.mark.parametrize("kind", MAKERS)
def test_a_process_serves_many_requests_and_ends_with_its_manager(kind: str) -> None:
    """One of its own: mod_fcgid's, told to stop when it has just started, stays behind for ever."""
    with started(kind) as site:
        pids = {int(site.ask(do="process").body) for _ in range(2)}
        assert len(pids) == (2 if site.protocol == "cgi" else 1)
        site.server.stop()
        wait_until(lambda: all(gone(pid) for pid in pids), "all have ended")
