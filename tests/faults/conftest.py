"""One real server for all fault tests, with short deadlines; after each test it must be as well as before."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.server.peers import PROTOCOLS
from tests.server.processes import App, descriptors, served
from tests.servers import wait_until

SHORT = (
    "--head-timeout", "400ms", "--body-timeout", "400ms", "--write-timeout", "400ms", "--keepalive-timeout", "400ms",
    "--drain-timeout", "300ms", "--max-params-bytes", "20k", "--max-body-bytes", "100k",
)  # fmt: skip


class Patient:
    """The server that is hurt, and what the test wants to know of it."""

    def __init__(self, server: App) -> None:
        self.server = server
        self.worker = server.workers()[0]
        self.health()
        self.files = descriptors(self.worker) if sys.platform.startswith("linux") else 0
        self.mark()

    def mark(self) -> None:
        """Forget the log so far."""
        self.seen = len(self.server.text())

    def lines(self) -> list[str]:
        """The lines of the log since the mark, without their stamp."""
        return re.findall(r"^[-\d]+ [:\d]+ \[\d+\] [A-Z]+ (.*)$", self.server.text()[self.seen :], re.MULTILINE)

    def await_lines(self, count: int) -> list[str]:
        wait_until(lambda: len(self.lines()) >= count, f"{count} lines in the log, not {len(self.lines())}")
        return self.lines()

    def health(self) -> None:
        """A good request is answered, in every protocol, by the same worker as ever."""
        for protocol in (*PROTOCOLS, "auto"):
            for kind in ("unix", "tcp"):
                with self.server.peer(protocol, kind) as peer:
                    peer.protocol = "http" if protocol == "auto" else protocol
                    answer = peer.get("/", b"")
                    assert (answer.status, answer.body) == (200, b"pid %d" % self.worker)

    def is_well(self) -> None:
        """As before: it answers, holds no more descriptors, and has told of no bug."""
        self.health()
        if self.files:
            wait_until(lambda: descriptors(self.worker) <= self.files, "the descriptors are given back")
        text = self.server.text()
        assert "Traceback" not in text
        assert "failed" not in text, "a bug of ours"


@pytest.fixture(scope="session", params=["1", "3"], ids=["1 thread", "3 threads"])
def _server(request: pytest.FixtureRequest) -> Iterator[Patient]:
    with served("--threads", request.param, *SHORT, protocols=(*PROTOCOLS, "auto")) as server:
        yield Patient(server)


@pytest.fixture
def patient(_server: Patient) -> Iterator[Patient]:
    """Stand for the server; when the test is over, see that it is well."""
    _server.mark()
    yield _server
    _server.is_well()
