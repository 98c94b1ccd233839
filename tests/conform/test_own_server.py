"""Our own server passes every case, MUST and SHOULD."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateways.wire.cases import SUITES
from gateways.wire.conform import probe, run_cases
from gateways.wire.report import text_lines
from gateways.wire.target import parse_target
from tests.servers import Gateways, open_directory, running

APP = "gateways.wire.echo.echo_wsgi:application"
SECONDS = 30.0


@pytest.mark.processes
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 4)], ids=["1x1", "2x4"])
def test_every_case_passes(workers: int, threads: int) -> None:
    with open_directory() as directory:
        options = ("--workers", str(workers), "--threads", str(threads))
        server = Gateways(directory, APP, *options, python_path=Path(directory), protocols=tuple(SUITES))
        with running(server):
            for protocol, suite in SUITES.items():
                for kind, url in (
                    ("tcp", f"{protocol}://{server.address[protocol, 'tcp']}/"),
                    ("unix", f"{protocol}+unix://{server.address[protocol, 'unix']}"),
                ):
                    target = parse_target(url)
                    assert probe(target, SECONDS), kind
                    results = list(run_cases(target, suite, SECONDS, echo=True))
                    bad = [result for result in results if result.verdict != "pass"]
                    assert not bad, "\n".join([f"{protocol}, {kind}", *text_lines(bad, every=True)])
        assert "Traceback" not in server.text()
