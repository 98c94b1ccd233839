"""``gateways scripts`` behind each web server, in the ways that their manuals and fcgiwrap's users write it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import textwrap
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateways.client.control import call
from tests.integration.conftest import copy_parameters
from tests.integration.fronts import NGINX_CONF
from tests.integration.scripts import ScriptServer
from tests.servers import (
    LOOPBACK,
    SECONDS,
    Apache,
    Gateways,
    Lighttpd,
    Nginx,
    Server,
    free_port,
    open_directory,
    require,
    running,
    unprivileged,
    wait_until,
)

ENV = "#!/bin/sh\nprintf 'Content-Type: text/plain\\nX-From: shell\\n\\n'\nexec env -0\n"
UPPER = """#!/usr/bin/perl
use strict;
read(STDIN, my $body, $ENV{CONTENT_LENGTH} // 0);
print "Status: 201 Created\\nContent-Type: text/plain\\n\\n", uc $body;
"""
EAGER = "#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\n'\nsleep 0.02\nwc -c\n"


@dataclass(frozen=True)
class Row:
    """One way to pass /cgi-bin/ on. ``mount``: to the server with --mount."""

    name: str
    config: str
    mount: bool = False


NAMED = "include @stock@/fastcgi_params; fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;"
NGINX = (
    Row("fcgiwrap", f"root @top@; location /cgi-bin/ {{ {NAMED} fastcgi_pass unix:@fastcgi-unix@; }}"),
    Row(
        "split",
        "root @top@; location /cgi-bin/ { fastcgi_split_path_info ^(/cgi-bin/[^/]+)(.*)$; "
        f"fastcgi_param PATH_INFO $fastcgi_path_info; {NAMED} fastcgi_pass @fastcgi-tcp@; }}",
    ),
    Row(
        "alias",
        "location /cgi-bin/ { alias @root@/; include @stock@/fastcgi_params; "
        "fastcgi_param SCRIPT_FILENAME $request_filename; fastcgi_pass unix:@fastcgi-unix@; }",
    ),
    Row(
        "mount", "location /cgi-bin/ { include @stock@/fastcgi_params; fastcgi_pass unix:@fastcgi-unix@; }", mount=True
    ),
    Row("scgi", "location /cgi-bin/ { include @stock@/scgi_params; scgi_pass unix:@scgi-unix@; }", mount=True),
    Row(
        "scgi-named",
        "root @top@; location /cgi-bin/ { include @stock@/scgi_params; "
        "scgi_param SCRIPT_FILENAME $document_root$document_uri; scgi_pass @scgi-tcp@; }",
    ),
    Row("uwsgi", "location /cgi-bin/ { include @stock@/uwsgi_params; uwsgi_pass unix:@uwsgi-unix@; }", mount=True),
    Row(
        "uwsgi-named",
        "root @top@; location /cgi-bin/ { include @stock@/uwsgi_params; "
        "uwsgi_param SCRIPT_FILENAME $document_root$document_uri; uwsgi_pass @uwsgi-tcp@; }",
    ),
    Row("http", "location /cgi-bin/ { proxy_pass http://@http-tcp@; }", mount=True),
)
APACHE = (
    Row("directory", 'ProxyPass "/cgi-bin/" "fcgi://@fastcgi-tcp@@root@/"'),
    Row("directory-unix", 'ProxyPass "/cgi-bin/" "unix:@fastcgi-unix@|fcgi://localhost@root@/"'),
    Row("address", 'ProxyPass "/cgi-bin" "fcgi://@fastcgi-tcp@"'),
    Row("address-mount", 'ProxyPass "/cgi-bin" "fcgi://@fastcgi-tcp@"', mount=True),
    Row(
        "sethandler",
        'DocumentRoot "@top@"\n<Directory "@root@">\nRequire all granted\nSetHandler "proxy:fcgi://@fastcgi-tcp@"\n'
        "</Directory>",
    ),
    Row("scgi-directory", 'ProxyPass "/cgi-bin/" "scgi://@scgi-tcp@@root@/"'),
    Row("scgi-mount", 'ProxyPass "/cgi-bin/" "scgi://@scgi-tcp@/"', mount=True),
    Row("uwsgi-mount", 'ProxyPass "/cgi-bin/" "uwsgi://@uwsgi-tcp@/"', mount=True),
)
LIGHTTPD = (
    Row(
        "fastcgi",
        'server.document-root = "@top@"\nfastcgi.server = ("/cgi-bin/" => (("socket" => "@fastcgi-unix@", '
        '"check-local" => "disable")))',
    ),
    Row(
        "fastcgi-local",
        'server.document-root = "@top@"\nfastcgi.server = ("/cgi-bin/" => (("socket" => "@fastcgi-unix@")))',
    ),
    Row(
        "fastcgi-mount",
        'fastcgi.server = ("/cgi-bin" => (("socket" => "@fastcgi-unix@", "check-local" => "disable")))',
        mount=True,
    ),
    Row(
        "scgi",
        'server.document-root = "@top@"\nscgi.server = ("/cgi-bin/" => (("socket" => "@scgi-unix@", '
        '"check-local" => "disable")))',
    ),
)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def variables(self) -> dict[str, str]:
        assert self.status == 200, (self.status, self.body)
        pairs = (entry.partition(b"=") for entry in self.body.split(b"\0") if entry)
        return {name.decode(): value.decode() for name, _, value in pairs}


def ask(port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=SECONDS)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def port_of(server: Gateways) -> int:
    return int(server.address["http", "tcp"].rpartition(":")[2])


class Estate:
    """Scripts, two servers of them, and the web servers in front, started when first asked for."""

    def __init__(self, top: Path, stack: ExitStack) -> None:
        self.top = top
        self.stack = stack
        self.root = top / "cgi-bin"
        self.root.mkdir()
        for name, text in (("env.sh", ENV), ("upper.pl", UPPER), ("eager.sh", EAGER), ("plain.sh", ENV)):
            (self.root / name).write_text(text)
            (self.root / name).chmod(0o644 if name == "plain.sh" else 0o755)
        self.plain = stack.enter_context(running(ScriptServer(top / "plain", "--root", str(self.root))))
        self.mounted = stack.enter_context(
            running(ScriptServer(top / "mounted", "--root", str(self.root), "--mount", "/cgi-bin"))
        )
        self.fronts: dict[str, dict[str, int]] = {}

    def port(self, server: str, row: str) -> int:
        if server not in self.fronts:
            make, rows = FRONTS[server]
            ports = {each.name: free_port() for each in rows}
            directory = self.top / server
            directory.mkdir()
            texts = {each.name: self.filled(each) for each in rows}
            self.stack.enter_context(running(make(directory, ports, texts)))
            self.fronts[server] = ports
        return self.fronts[server][row]

    def filled(self, row: Row) -> str:
        text = row.config.replace("@top@", str(self.top)).replace("@root@", str(self.root))
        for (protocol, kind), address in (self.mounted if row.mount else self.plain).address.items():
            text = text.replace(f"@{protocol}-{kind}@", address)
        return text.replace("@stock@", str(Path(Nginx.stock("fastcgi_params")).parent)) if "@stock@" in text else text


def make_nginx(directory: Path, ports: dict[str, int], texts: dict[str, str]) -> Server:
    blocks = (f"server {{ listen {LOOPBACK}:{ports[name]};\n{text}\n}}" for name, text in texts.items())
    return Nginx(directory, "\n".join(blocks), list(ports.values()))


def make_apache(directory: Path, ports: dict[str, int], texts: dict[str, str]) -> Server:
    blocks = (f"<VirtualHost {LOOPBACK}:{ports[name]}>\n{text}\n</VirtualHost>\n" for name, text in texts.items())
    return Apache(directory, "".join(blocks), list(ports.values()))


def make_lighttpd(directory: Path, ports: dict[str, int], texts: dict[str, str]) -> Server:
    blocks = (f'$SERVER["socket"] == "{LOOPBACK}:{ports[name]}" {{\n{text}\n}}\n' for name, text in texts.items())
    return Lighttpd(directory, "".join(blocks), [free_port(), *ports.values()])


FRONTS: dict[str, tuple[Callable[[Path, dict[str, int], dict[str, str]], Server], tuple[Row, ...]]] = {
    "nginx": (make_nginx, NGINX),
    "apache": (make_apache, APACHE),
    "lighttpd": (make_lighttpd, LIGHTTPD),
}
ALL = [(server, row.name) for server, (_, rows) in FRONTS.items() for row in rows]


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    require("perl")
    with ExitStack() as stack:
        yield Estate(stack.enter_context(open_directory()), stack)


# Behind a web server


@pytest.mark.parametrize(("server", "row"), ALL)
def test_a_script_behind_a_web_server(estate: Estate, server: str, row: str) -> None:
    port = estate.port(server, row)
    for path, info in (("", None), ("/", "/"), ("/a%20b/%C3%A9", "/a b/\u00e9"), ("/env.sh", "/env.sh")):
        found = ask(port, f"/cgi-bin/env.sh{path}?x=%20y", X_Field="1", Proxy="http://evil").variables
        assert (found["SCRIPT_NAME"], found.get("PATH_INFO")) == ("/cgi-bin/env.sh", info)
        assert found["SCRIPT_FILENAME"] == str(estate.root / "env.sh")
        assert found.get("PATH_TRANSLATED") == (None if info is None else f"{estate.root}{info}")
        assert (found["REQUEST_METHOD"], found["QUERY_STRING"]) == ("GET", "x=%20y")
        assert (found["REMOTE_ADDR"], found["HTTP_X_FIELD"]) == (LOOPBACK, "1")
        assert {"HTTP_PROXY", "HOME", "CONTENT_LENGTH"}.isdisjoint(found)

    answer = ask(port, "/cgi-bin/upper.pl", "POST", b"shout\n" * 20_000)
    assert (answer.status, answer.body) == (201, b"SHOUT\n" * 20_000)


@pytest.mark.parametrize(("server", "row"), ALL)
def test_a_script_that_answers_before_it_reads(estate: Estate, server: str, row: str) -> None:
    """nginx sends nothing more of a request once it has the head of the answer; git-http-backend is such a script."""
    answer = ask(estate.port(server, row), "/cgi-bin/eager.sh", "POST", bytes(1_000_000))
    assert (answer.status, answer.body.strip()) == (200, b"1000000")


@pytest.mark.parametrize(("server", "row"), ALL)
def test_what_is_no_script_behind_a_web_server(estate: Estate, server: str, row: str) -> None:
    port = estate.port(server, row)
    assert ask(port, "/cgi-bin/nothing").status == 404
    assert ask(port, "/cgi-bin/.hidden").status == 404
    assert ask(port, "/cgi-bin/plain.sh").status == 403


def test_a_file_that_is_not_in_the_root(estate: Estate) -> None:
    """nginx with another root than ours: the log tells both."""
    (estate.top / "elsewhere").mkdir()
    row = Row("elsewhere", NGINX[0].config.replace("@top@", f"{estate.top}/elsewhere"))
    directory = estate.top / "nginx-elsewhere"
    directory.mkdir()
    port = free_port()
    with running(make_nginx(directory, {"elsewhere": port}, {"elsewhere": estate.filled(row)})):
        assert ask(port, "/cgi-bin/env.sh").status == 403
    wrong = f"{estate.top}/elsewhere/cgi-bin/env.sh"
    reason = f"SCRIPT_FILENAME is {wrong!r}, which is not in the root {str(estate.root)!r}"
    wait_until(lambda: reason in estate.plain.text(), "the reason in the log")


# nginx-conf/scripts.conf


def test_the_published_file(estate: Estate) -> None:
    """Scripts, and a clone and a push by git."""
    git = require("git")
    repositories = estate.top / "git"
    repositories.mkdir()
    bare = repositories / "project.git"
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(estate.top), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
        **{f"GIT_{who}_{what}": "me@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }  # fmt: skip

    def run(*arguments: str) -> None:
        done = subprocess.run(
            [git, *arguments], env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, (done.stderr, backend.text())

    backend_path = subprocess.run([git, "--exec-path"], capture_output=True, text=True, check=True).stdout.strip()
    backend = ScriptServer(estate.top / "git-scripts", "--script", f"{backend_path}/git-http-backend")
    run("init", "-q", "--bare", "-b", "main", str(bare))
    run("-C", str(bare), "config", "http.receivepack", "true")
    user = unprivileged()
    if user:
        subprocess.run(["chown", "-R", f"{user[0]}:{user[1]}", str(repositories)], check=True)
        run("config", "--global", "safe.directory", "*")

    directory = estate.top / "nginx-published"
    directory.mkdir()
    copy_parameters(directory)
    port = free_port()
    text = (NGINX_CONF / "scripts.conf").read_text()
    for old, new in (
        ("unix:/run/cgi/scripts.sock", f"unix:{estate.mounted.address['fastcgi', 'unix']}"),
        ("unix:/run/cgi/git.sock", f"unix:{backend.address['fastcgi', 'unix']}"),
        ("listen 80;", f"listen {LOOPBACK}:{port};"),
        ("/srv/git;", f"{repositories};"),
    ):
        line = re.search(rf"^ *[^#\n]*{re.escape(old)}.*$", text, re.MULTILINE)
        assert line is not None
        assert line[0].endswith("  # yours")
        text = text.replace(line[0], line[0].replace(old, new))
    with running(backend), running(Nginx(directory, text, [port])):
        assert ask(port, "/cgi-bin/env.sh/x").variables["PATH_INFO"] == "/x"
        url = f"http://{LOOPBACK}:{port}/git/project.git"
        work = str(estate.top / "work")
        run("clone", "-q", url, work)
        (estate.top / "work" / "file").write_bytes(os.urandom(200_000))  # more than http.postBuffer below: chunked
        run("-C", work, "add", "file")
        run("-C", work, "commit", "-q", "-m", "one")
        run("-C", work, "-c", "http.postBuffer=65536", "push", "-q", "origin", "HEAD:main")
        run("clone", "-q", url, str(estate.top / "again"))
        assert (estate.top / "again" / "file").read_bytes() == (estate.top / "work" / "file").read_bytes()


# Without a web server


def test_over_http(estate: Estate) -> None:
    """What ``python -m http.server --cgi`` did."""
    port = port_of(estate.plain)
    answer = ask(
        port,
        "/env.sh/x?q",
        Script_Filename="/etc/passwd",
        Remote_User="root",
        Path="/evil",
        Authorization="a b",
        Content_Type="x/y",
    )
    found = answer.variables
    assert answer.headers["X-From"] == "shell"
    assert (found["SCRIPT_NAME"], found["PATH_INFO"], found["QUERY_STRING"]) == ("/env.sh", "/x", "q")
    assert found["SCRIPT_FILENAME"] == str(estate.root / "env.sh")
    assert (found["HTTP_SCRIPT_FILENAME"], found["HTTP_PATH"], found["HTTP_AUTHORIZATION"]) == (
        "/etc/passwd", "/evil", "a b",
    )  # fmt: skip
    assert {"REMOTE_USER", "AUTH_TYPE", "CONTENT_TYPE", "CONTENT_LENGTH"}.isdisjoint(found)
    assert found["PATH"].startswith("/usr/local/")
    assert ask(port, "/upper.pl", "POST", b"abc").body == b"ABC"
    assert ask(port, "/../../etc/passwd").status == 404
    assert ask(port, "/%2e%2e/plain/control").status == 404
    assert ask(port, "/").status == 403


def test_the_example_of_the_readme(estate: Estate) -> None:
    readme = (NGINX_CONF.parent / "README.md").read_text()
    found = re.search(
        r"(    mkdir -p site.*?)    gateways (scripts --root site) --http 8000\n\n(.*?)\n\n", readme, re.DOTALL
    )
    assert found is not None
    site = estate.top / "readme"
    site.mkdir()
    subprocess.run(["sh", "-ec", textwrap.dedent(found[1])], cwd=site, check=True)
    asked, answer = textwrap.dedent(found[3]).splitlines()
    with running(ScriptServer(site / "server", "--root", str(site / "site"))) as server:
        body = ask(port_of(server), asked.partition(":8000")[2]).body
    assert body == f"{answer}\n".encode()


def test_the_client_is_told_nothing_of_the_reason(estate: Estate) -> None:
    assert ask(port_of(estate.plain), "/plain.sh").body == b"403 Forbidden\n"
    wait_until(lambda: f"{estate.root}/plain.sh cannot be executed" in estate.plain.text(), "the reason in the log")


# What the master does


def test_status_and_reload() -> None:
    with open_directory() as top:
        for name in ("one", "two"):
            (top / name).mkdir()
            (top / name / "env.sh").write_text(ENV)
            (top / name / "env.sh").chmod(0o755)
        current = top / "current"
        current.symlink_to("one")
        with running(
            ScriptServer(top / "server", "--root", str(current), "--concurrency", "3", "--queue", "4")
        ) as server:
            port = port_of(server)
            assert ask(port, "/env.sh").variables["SCRIPT_FILENAME"] == f"{top}/one/env.sh"
            (answer,) = call(str(server.directory / "control"), "status", SECONDS)
            status = answer["status"]
            assert (status["app"], status["threads"], status["ready"]) == (f"scripts in {current}", 8, 1)
            current.unlink()
            current.symlink_to("two")
            answers = list(call(str(server.directory / "control"), "reload", SECONDS))
            assert [answer.get("event") for answer in answers] == ["reloading", "reloaded"], answers
            wait_until(  # the old worker accepts until it is told to leave
                lambda: ask(port, "/env.sh").variables["SCRIPT_FILENAME"] == f"{top}/two/env.sh", "the other release"
            )
            current.unlink()
            answers = list(call(str(server.directory / "control"), "reload", SECONDS))
            assert "cannot run scripts in" in str(answers[-1])
            assert ask(port, "/env.sh").variables["SCRIPT_FILENAME"] == f"{top}/two/env.sh"


def test_the_program_is_replaced(estate: Estate) -> None:
    with running(ScriptServer(estate.top / "upgrade", "--root", str(estate.root))) as server:
        os.kill(server.pid, signal.SIGUSR2)
        wait_until(lambda: server.text().count(" is ready") == 2, "the new program's worker is ready")
        assert server.text().count(f"scripts in {estate.root}, ") == 2
        assert ask(port_of(server), "/env.sh").status == 200


def test_who_finds_no_room(estate: Estate) -> None:
    (estate.root / "wait.sh").write_text(
        "#!/bin/sh\nwhile [ ! -e go ]; do sleep 0.02; done\nprintf 'Status: 204\\n\\n'\n"
    )
    (estate.root / "wait.sh").chmod(0o755)
    options = ("--root", str(estate.root), "--concurrency", "1", "--queue", "1")
    with running(ScriptServer(estate.top / "room", *options)) as server, ThreadPoolExecutor(2) as pool:
        port = port_of(server)

        def busy() -> int:
            (answer,) = call(str(server.directory / "control"), "status", SECONDS)
            count: int = answer["status"]["busy_threads"]
            return count

        try:
            first = [pool.submit(ask, port, "/wait.sh") for _ in range(2)]
            wait_until(lambda: busy() == 2, "one runs and one waits")
            answer = ask(port, "/env.sh")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        finally:
            (estate.root / "go").touch()
        assert [each.result().status for each in first] == [204, 204]
        assert ask(port, "/env.sh").status == 200


def test_an_index_and_an_interpreter(estate: Estate) -> None:
    options = ("--index", "no.sh", "--index", "plain.sh", "--interpreter", "sh=sh -e")
    with running(ScriptServer(estate.top / "index", "--root", str(estate.root), *options)) as server:
        for path, script in (("/", "/plain.sh"), ("/plain.sh/x", "/plain.sh")):
            found = ask(port_of(server), path).variables
            assert (found["SCRIPT_NAME"], found["SCRIPT_FILENAME"]) == (script, f"{estate.root}/plain.sh")


def test_what_is_passed_of_the_servers_environment(estate: Estate) -> None:
    server = ScriptServer(
        estate.top / "env",
        "--root",
        str(estate.root),
        "--env",
        "KEPT",
        "--env",
        "GIVEN=a b",
        "--env",
        "PATH=/bin:/usr/bin",
    )
    server.env = dict(server.env or {}) | {"KEPT": "1", "LOST": "1"}
    with running(server):
        found = ask(port_of(server), "/env.sh").variables
    assert (found["KEPT"], found["GIVEN"], found["PATH"]) == ("1", "a b", "/bin:/usr/bin")
    assert "LOST" not in found


def test_paths_are_decoded_once(estate: Estate) -> None:
    path = urllib.parse.quote("/%41/%2e%2e")
    assert ask(port_of(estate.plain), "/env.sh" + path).variables["PATH_INFO"] == "/%41/%2e%2e"
