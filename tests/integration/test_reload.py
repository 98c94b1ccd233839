"""Under load through nginx no request fails by reloads, broken code or a new program; by kill -9 only its own do."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import final

import pytest

from tests.integration.conftest import copy_parameters, published
from tests.integration.fronts import NGINX_CONF
from tests.servers import LOOPBACK, Gateways, Nginx, free_port, open_directory, running, wait_until

PROTOCOLS = ("fastcgi", "scgi", "uwsgi", "http")
SECONDS = 60.0

SITE = """
import os, time

VERSION = "one"
FD = os.open(f"{os.environ['GATEWAYS_TEST_NOTES']}/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def application(environ, start_response):
    name = environ["PATH_INFO"]
    os.write(FD, f"{name}\\n".encode())
    body = environ["wsgi.input"].read()
    if "slow" in name:
        time.sleep(0.1)
    elif "short" in name:
        time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION} {os.getpid()} {name} {len(body)}".encode()]
"""


@dataclass(frozen=True)
class Failure:
    """A request without the answer that it should have had."""

    name: str
    what: str
    when: float = field(default_factory=time.monotonic)


PAUSE = 0.004
"""The longest that a client waits before it asks again: enough that there is CPU for what happens meanwhile."""


class Client(threading.Thread):
    """Asks, on one connection that is kept, until told to stop; each request has a name of its own."""

    def __init__(self, number: int, protocol: str, port: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number = number
        self._protocol = protocol
        self._port = port
        self.done = 0
        self.versions: set[str] = set()
        self.failures: list[Failure] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=SECONDS)
        noise = random.Random(self._number)
        while not self.stopping.is_set():
            number = self.done
            kind = "slow" if number % 40 == 39 else "short" if number % 4 == 3 else "quick"
            method = "POST" if number % 2 else "GET"
            name = f"/{self._protocol}-{self._number}-{number}-{kind}-{method}"
            try:
                self._ask(connection, method, name, noise.randrange(1, 2000) if method == "POST" else 0)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(Failure(name, repr(error)))
                connection.close()
            self.done += 1
            self.stopping.wait(noise.random() * PAUSE)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, method: str, name: str, size: int) -> None:
        connection.request(method, name, b"x" * size or None)
        response = connection.getresponse()
        text = response.read().decode()
        words = text.split()
        if response.status == 200 and words[2:] == [name, str(size)]:
            self.versions.add(words[0])
        else:
            self.failures.append(Failure(name, f"{response.status} {text[:200]}"))


@final
class Load:
    """Clients of each protocol, for the length of a ``with`` block, at whose end not one request may have failed."""

    def __init__(self, ports: dict[str, int], clients: int) -> None:
        self.clients = [
            Client(number * 10 + index, protocol, ports[protocol])
            for number in range(clients)
            for index, protocol in enumerate(PROTOCOLS)
        ]
        self.forgiven = False

    @property
    def done(self) -> int:
        return sum(client.done for client in self.clients)

    @property
    def failures(self) -> list[Failure]:
        return [failure for client in self.clients for failure in client.failures]

    def go_on(self, requests: int = 0) -> None:
        """Wait for so many more answers, at least one for each client."""
        goals = {client: client.done + max(1, requests // len(self.clients)) for client in self.clients}
        wait_until(lambda: all(client.done >= goal for client, goal in goals.items()), "they go on")

    def await_version(self, version: str) -> None:
        """Wait until everybody is answered by this version and no other."""

        def alone() -> bool:
            for client in self.clients:
                client.versions.clear()
            self.go_on(len(self.clients) * 3)
            return all(client.versions == {version} for client in self.clients)

        wait_until(alone, f"version {version} answers")

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        self.go_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(SECONDS)
        if kind is None:
            assert not any(client.is_alive() for client in self.clients)
            assert self.forgiven or self.failures == []


class Estate:
    """A gateways of its own behind an nginx of its own, with the files of nginx-conf/."""

    def __init__(self, stack: contextlib.ExitStack, options: tuple[str, ...], kind: str) -> None:
        self.notes, self.code, directory, front = (stack.enter_context(open_directory()) for _ in range(4))
        self.control = str(directory / "control")
        self.write(SITE)
        self.gateways = Gateways(
            directory, "load_site", "--control", self.control, *options, python_path=self.code,
            env={"GATEWAYS_TEST_NOTES": str(self.notes)},
        )  # fmt: skip
        self.ports = {protocol: free_port() for protocol in PROTOCOLS}
        files = {protocol: (NGINX_CONF / f"{protocol}-{kind}.conf").read_text() for protocol in PROTOCOLS}
        parts = [published(files[name], self.ports[name], self.gateways.address[name, kind]) for name in PROTOCOLS]
        copy_parameters(front)
        self.nginx = Nginx(front, "\n".join(parts), list(self.ports.values()))
        stack.enter_context(running(self.gateways))
        stack.enter_context(running(self.nginx))

    def write(self, code: str) -> None:
        """Put other code in the place of the application's."""
        path = self.code / "load_site.py"
        path.write_text(code)
        self.changes = getattr(self, "changes", 0) + 10
        later = time.time() + self.changes  # the bytecode of the same second must not pass for it
        os.utime(path, (later, later))

    def load(self, clients: int = 2) -> Load:
        return Load(self.ports, clients)

    def count(self, words: str) -> int:
        return self.gateways.text().count(words)

    def await_log(self, words: str, count: int = 1) -> None:
        wait_until(lambda: self.count(words) >= count, f"{words!r} in the log")

    def reload(self, number: signal.Signals = signal.SIGHUP) -> None:
        done = self.count("reload: done")
        os.kill(self.gateways.pid, number)
        self.await_log("reload: done", done + 1)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``gateways`` with a command for this server."""
        command = [sys.executable, "-m", "gateways", *arguments, "--control", self.control]
        return subprocess.run(
            command, env=self.gateways.env, cwd=self.code, capture_output=True, text=True, timeout=60, check=False
        )

    def untroubled(self) -> None:
        """nginx has met with no error, not even one of which its client heard nothing."""
        errors = [line for line in self.nginx.text().splitlines() if "[error]" in line or "[crit]" in line]
        assert errors == []
        assert "killed" not in self.gateways.text()
        assert "Traceback" not in self.gateways.text()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


WORKERS = ("--workers", "2", "--threads", "4")


@pytest.mark.parametrize(("kind", "count"), [("unix", 50), ("tcp", 10)])
def test_reloads_in_a_row(stack: contextlib.ExitStack, kind: str, count: int) -> None:
    estate = Estate(stack, WORKERS, kind)
    with estate.load() as load:
        for number in range(count):
            if number % 10 == 9:
                found = estate.command("reload")
                assert (found.returncode, found.stderr) == (0, "")
            else:
                estate.reload()
            load.go_on(16)
    estate.untroubled()
    assert estate.count("reload: done") == count


@pytest.mark.parametrize(
    "options",
    [
        (*WORKERS, "--rolling"),
        ("--workers", "1", "--threads", "1"),
        ("--workers", "3", "--threads", "1", "--request-timeout", "10s"),
    ],
    ids=["rolling", "alone", "timeout"],
)
def test_reloads_of_other_shapes(stack: contextlib.ExitStack, options: tuple[str, ...]) -> None:
    estate = Estate(stack, options, "unix")
    with estate.load() as load:
        for number in range(8):
            estate.write(SITE.replace('"one"', f'"v{number}"'))
            estate.reload()
            load.go_on(16)
        load.await_version("v7")
    estate.untroubled()


def test_recycling(stack: contextlib.ExitStack) -> None:
    estate = Estate(stack, (*WORKERS, "--max-requests", "200"), "unix")
    with estate.load() as load:
        while estate.count("(--max-requests)") < 6:
            load.go_on(100)
    estate.untroubled()


BROKEN = {
    "syntax": ("def application(:\n", "SyntaxError"),
    "import": ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
    "never": ("import time\ntime.sleep(60)\n", "not ready 1 s after its start (--boot-timeout); killed"),
}


def test_broken_code(stack: contextlib.ExitStack) -> None:
    """The old workers serve on, and the reason is told; then good code comes, and answers."""
    estate = Estate(stack, (*WORKERS, "--boot-timeout", "1s"), "unix")
    with estate.load() as load:
        for number, (code, words) in enumerate(BROKEN.values(), 1):
            estate.write(code)
            found = estate.command("reload")
            assert found.returncode == 1
            assert words in found.stderr
            load.await_version("one" if number == 1 else f"v{number - 1}")
            text = estate.gateways.text()
            assert text.count("reload: failed; the old code goes on serving") == number
            told = 1 if "--boot-timeout" in words else 2  # in the message, and at the end of the one traceback
            assert text.count(words) == told
            assert text.count("Traceback") == min(number, 2)
            estate.write(SITE.replace('"one"', f'"v{number}"'))
            found = estate.command("reload")
            assert (found.returncode, found.stdout) == (0, "reloaded\n")
            load.await_version(f"v{number}")
    assert not [line for line in estate.nginx.text().splitlines() if "[error]" in line]


def test_killed_workers(stack: contextlib.ExitStack) -> None:
    """What was running in a worker that was killed is lost, or on its way there at that moment, and nothing else."""
    estate = Estate(stack, ("--workers", "3", "--threads", "8"), "unix")
    noise = random.Random(1)
    killed: dict[int, float] = {}
    with estate.load() as load:
        for count in range(1, 9):
            ready = [int(pid) for pid in re.findall(r"worker (\d+) is ready", estate.gateways.text())]
            pid = noise.choice([pid for pid in ready if pid not in killed])
            os.kill(pid, signal.SIGKILL)
            killed[pid] = time.monotonic()
            estate.await_log(f"worker {pid} was killed by SIGKILL; it is replaced")
            estate.await_log(" is ready", 3 + count)
            load.go_on(16)
        load.forgiven = True
    begun = {path.name: set(path.read_text().split()) for path in estate.notes.iterdir()}
    running = set().union(*(begun[str(pid)] for pid in killed))
    elsewhere = set().union(*(names for pid, names in begun.items() if int(pid) not in killed))
    log = estate.gateways.text()
    for failure in load.failures:
        if failure.name in running:
            assert re.search(rf"was serving \w+ \w+ {failure.name}\n", log), "the log names it"
        else:
            assert failure.name not in elsewhere
            assert any(0 <= failure.when - when < 1 for when in killed.values())
    assert len(load.failures) <= len(killed) * len(load.clients)


@pytest.mark.parametrize(
    ("options", "number"),
    [((), signal.SIGUSR2), (("--preload",), signal.SIGHUP)],
    ids=["usr2", "preload-hup"],
)
def test_program_replaced_in_place(
    stack: contextlib.ExitStack, options: tuple[str, ...], number: signal.Signals
) -> None:
    estate = Estate(stack, (*WORKERS, *options), "unix")
    with estate.load() as load:
        for round_ in range(3):
            estate.write(SITE.replace('"one"', f'"v{round_}"'))
            estate.reload(number)
            load.await_version(f"v{round_}")
        estate.untroubled()
        estate.write("def application(:\n")
        os.kill(estate.gateways.pid, number)
        estate.await_log("reload: failed; the old code goes on serving")
        load.await_version("v2")
        assert estate.count("the program is replaced") == 3
        estate.write(SITE.replace('"one"', '"last"'))
        estate.reload(number)
        load.await_version("last")
    assert not [line for line in estate.nginx.text().splitlines() if "[error]" in line]
