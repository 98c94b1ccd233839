"""One web server of each kind and three gateways, started when first asked for and shared by all tests."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.fronts import FORMS, NGINX_CONF, Form, Front
from tests.servers import (
    LOOPBACK,
    Apache,
    Gateways,
    Lighttpd,
    Nginx,
    Server,
    alive,
    free_port,
    open_directory,
    require,
    wait_until,
)

HERE = Path(__file__).parent
APPS = HERE / "apps"
CERTIFICATE = HERE / "localhost.pem"
SECONDS = 60.0
USER, PASSWORD = "me", "secret"
HTPASSWD = f"{USER}:{{SHA}}5en6G6MezRroT3XKqkdPOmY/BfQ=\n"

Headers = Iterable[tuple[str, str]]


@dataclass
class Answer:
    """A whole response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower()) or None

    def json(self) -> dict[str, Any]:
        assert self.status == 200, (self.status, self.body[:500])
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Site:
    """A Front that runs: what tests talk to."""

    front: Front
    port: int
    notes: Path
    number: list[int] = field(default_factory=lambda: [0])

    @property
    def url(self) -> str:
        return f"{'https' if self.front.form.tls else 'http'}://{LOOPBACK}:{self.port}{self.front.prefix}"

    def connect(self) -> http.client.HTTPConnection:
        if self.front.form.tls:
            context = ssl.create_default_context(cafile=str(CERTIFICATE))
            return http.client.HTTPSConnection(LOOPBACK, self.port, timeout=SECONDS, context=context)
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=SECONDS)

    def socket(self) -> socket.socket:
        return socket.create_connection((LOOPBACK, self.port), SECONDS)

    def send(
        self, connection: http.client.HTTPConnection, path: str = "/", method: str = "GET", headers: Headers = (), *,
        do: str = "", arg: str = "", key: str = "", body: bytes | None = None,
    ) -> None:  # fmt: skip
        """Send a request whose path, ``prefix`` included, goes out as it is."""
        connection.putrequest(method, self.front.prefix + path, skip_accept_encoding=True)
        for name, value in (("X-Do", do), ("X-Arg", arg), ("X-Id", key)):
            if value:
                connection.putheader(name, value)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)

    def ask(self, path: str = "/", method: str = "GET", headers: Headers = (), **more: Any) -> Answer:  # noqa: ANN401
        """Ask, and return the whole answer."""
        connection = self.connect()
        try:
            self.send(connection, path, method, headers, **more)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def new_id(self) -> str:
        self.number[0] += 1
        return f"{self.front.name}-{self.number[0]}"

    def go(self, key: str) -> None:
        """Let the application go on, where it waits for that."""
        (self.notes / f"{key}.go").touch()

    def noted(self, key: str, line: str) -> str:
        """Wait until the application has noted a line that starts so, and return it."""
        path = self.notes / key

        def look() -> str | None:
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            return next((found for found in lines if found.startswith(line)), None)

        return wait_until(look, f"{line!r} in the notes of {key}")

    def curl(self, *arguments: str, path: str = "/", data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run curl on the path."""
        command = [require("curl"), "-sS", "-g", "--path-as-is", "--max-time", "20", *arguments, self.url + path]
        return subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)


class Estate:
    """Everything that runs: servers are started when a test first wants one of their fronts."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.notes = stack.enter_context(open_directory())
        self.groups: dict[str, Server] = {}
        self.backends: dict[str, Gateways] = {}
        self.ports: dict[str, int] = {}
        self.numbers: dict[str, list[int]] = {}
        self.broken: dict[str, str] = {}
        """Groups that did not start, and why: told again to each test that wants them."""

    def run(self, server: Server) -> None:
        server.start()
        self.stack.callback(server.stop)

    def backend(self, name: str) -> Gateways:
        if name not in self.backends:
            options = ["--workers", "2", "--threads", "4"]
            if name != "plain":
                options += ["--mount", name]
            env = {"GATEWAYS_TEST_NOTES": str(self.notes), "GATEWAYS_TEST_FRAMEWORKS": "1" if name == "plain" else ""}
            directory = self.stack.enter_context(open_directory())
            server = Gateways(directory, "probe_site:application", *options, python_path=APPS, env=env)
            server.name = f"gateways ({name})"
            self.run(server)
            self.backends[name] = server
        return self.backends[name]

    def group(self, name: str) -> Server:
        if name in self.broken:
            pytest.fail(self.broken[name])
        if name not in self.groups:
            directory = self.stack.enter_context(open_directory())
            forms = [form for form in FORMS if form.group == name]
            for form in forms:
                self.ports[form.name] = free_port()
            server = MAKERS[name.partition("-")[0]](self, directory, forms)
            server.name = name
            try:
                self.run(server)
            except pytest.fail.Exception as error:
                self.broken[name] = str(error)
                raise
            self.groups[name] = server
        return self.groups[name]

    def site(self, front: Front) -> Site:
        self.group(front.form.group)
        numbers = self.numbers.setdefault(front.name, [0])
        return Site(front, self.ports[front.form.name], self.notes, numbers)

    def filled(self, form: Form, directory: Path) -> str:
        """Return the configuration of a form with this machine's addresses in it."""
        address = self.backend(form.backend).address
        text = form.config.replace("@unix@", address[form.protocol, "unix"]).replace(
            "@tcp@", address[form.protocol, "tcp"]
        )
        if "@stock@" in text:
            text = text.replace("@stock@", str(Path(Nginx.stock("fastcgi_params")).parent))
        return text.replace("@site@", str(directory))


def make_nginx(estate: Estate, directory: Path, forms: list[Form]) -> Server:
    blocks = []
    for form in forms:
        port = estate.ports[form.name]
        text = estate.filled(form, directory)
        if form.group == "nginx-stock":
            tls = f"ssl_certificate {CERTIFICATE}; ssl_certificate_key {CERTIFICATE};" if form.tls else ""
            listen = f"listen {LOOPBACK}:{port}{' ssl' if form.tls else ''};"
            blocks.append(f"server {{ server_name ''; client_max_body_size 64m; {listen} {tls}\n{text}\n}}")
        else:
            blocks.append(
                published(text, port, estate.backend(form.backend).address[form.protocol, form.name[-4:].strip("-")])
            )
    if forms[0].group != "nginx-stock":
        copy_parameters(directory)
    return Nginx(directory, "\n".join(blocks), [estate.ports[form.name] for form in forms])


def published(text: str, port: int, address: str) -> str:
    """Return a file of nginx-conf/ as somebody who uses it would change it: the lines marked "yours"."""
    target = f"unix:{address}" if address.startswith("/") else address
    for pattern, line in (
        (r"^    server \S+;  # yours$", f"    server {target};"),
        (r"^    listen \S+;  # yours$", f"    listen {LOOPBACK}:{port};"),
        (r"^    # (include gateways_locations\.\w+;)$", r"    \1"),
    ):
        text, count = re.subn(pattern, line, text, flags=re.MULTILINE)
        assert count == 1, pattern
    return text


def copy_parameters(directory: Path) -> None:
    (directory / "htpasswd").write_text(HTPASSWD)
    (directory / "htpasswd").chmod(0o644)
    for file in NGINX_CONF.glob("gateways_*"):
        text = re.sub(r"(auth_basic_user_file) \S+;  # yours.*", rf"\1 {directory}/htpasswd;", file.read_text())
        (directory / file.name).write_text(text)


def make_apache(estate: Estate, directory: Path, forms: list[Form]) -> Server:
    (directory / "htpasswd").write_text(HTPASSWD)
    (directory / "htpasswd").chmod(0o644)
    blocks = []
    for form in forms:
        tls = f'SSLEngine on\nSSLCertificateFile "{CERTIFICATE}"\n' if form.tls else ""
        blocks.append(
            f"<VirtualHost {LOOPBACK}:{estate.ports[form.name]}>\n{tls}{estate.filled(form, directory)}\n"
            f'<LocationMatch "^(/[^?]*)?/private">\nAuthType Basic\nAuthName private\nAuthBasicProvider file\n'
            f'AuthUserFile "{directory}/htpasswd"\nRequire valid-user\n</LocationMatch>\n</VirtualHost>\n'
        )
    return Apache(directory, "".join(blocks), [estate.ports[form.name] for form in forms])


def make_lighttpd(estate: Estate, directory: Path, forms: list[Form]) -> Server:
    (directory / "htpasswd").write_text(f"{USER}:{PASSWORD}\n")
    (directory / "htpasswd").chmod(0o644)
    blocks = [
        'auth.backend = "plain"\n',
        f'auth.backend.plain.userfile = "{directory}/htpasswd"\n',
        'auth.require = ("/private" => ("method" => "basic", "realm" => "private", "require" => "valid-user"))\n',
    ]
    first = free_port()
    for form in forms:
        port = estate.ports[form.name]
        blocks.append(f'$SERVER["socket"] == "{LOOPBACK}:{port}" {{\n{estate.filled(form, directory)}\n}}\n')
    return Lighttpd(directory, "".join(blocks), [first, *(estate.ports[form.name] for form in forms)])


MAKERS: dict[str, Callable[[Estate, Path, list[Form]], Server]] = {
    "nginx": make_nginx,
    "apache": make_apache,
    "lighttpd": make_lighttpd,
}


@pytest.fixture(scope="session")
def estate() -> Iterator[Estate]:
    with ExitStack() as stack:
        yield Estate(stack)


@pytest.fixture
def site(request: pytest.FixtureRequest, estate: Estate) -> Site:
    """The Front that the test is parametrized with, indirectly, running."""
    return estate.site(request.param)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for server in alive:
        server.seen = len(server.text())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show beside a failure what the servers logged during the test."""
    report = yield
    if report.failed:
        for server in alive:
            text = server.text()[server.seen :]
            if text:
                report.sections.append((f"log of {server.name}", text[-8000:]))
    return report
