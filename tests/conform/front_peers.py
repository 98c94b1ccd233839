"""The web servers of this machine through ``gateways conform --front-end``, for the same tables as ``peers``.

``python -m tests.conform.front_peers DIRECTORY [NAME...]`` starts each with the configurations of the integration
tests, with kept connections where they have both, and writes ``DIRECTORY/NAME_VERSION.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conform.peers import Missing, counts, program, says
from tests.integration.test_front_conformance import KNOWN, start
from tests.servers import LOOPBACK, free_port, open_directory, running

VERSIONS = {
    "nginx": ("nginx", r"nginx/(\S+)", "-v"),
    "Apache": ("apache2", r"Apache/(\S+)", "-v"),
    "lighttpd": ("lighttpd", r"lighttpd/(\S+)", "-v"),
    "HAProxy": ("haproxy", r"version (\d+(?:\.\d+)*)", "-v"),
}


def chosen(name: str) -> list[str]:
    """The configurations of a web server, one for each protocol."""
    mine = [each for each in KNOWN if each.split("-")[0] == name.lower()]
    return [each for each in mine if f"{each}-keep" not in mine]


def run(name: str, output: Path) -> str:
    """Run one; returns a line about it."""
    binary, pattern, option = VERSIONS[name]
    try:
        version = says(pattern, program(binary), option)
    except Missing as error:
        return f"{name}: not here: {error}"
    results: list[dict[str, str]] = []
    for each in chosen(name):
        protocol = each.split("-")[1]
        port, backend = free_port(), free_port()
        with open_directory() as directory:
            server = start(each, directory, port, backend)
            with running(server):
                argv = [sys.executable, "-m", "gateways", "conform", "--front-end", f"http://{LOOPBACK}:{port}/"]
                argv += ["--listen", f"{protocol}://{LOOPBACK}:{backend}", "--json", "--timeout", "4s"]
                done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode > 1:
            return f"{name}, {protocol}: {done.stderr.strip()}"
        results += json.loads(done.stdout)
    (output / f"{name}_{version}.json").write_text(json.dumps(results, indent=1))
    return f"{name} {version}: {counts(results)}"


def main() -> None:
    directory, *names = sys.argv[1:]
    output = Path(directory)
    output.mkdir(parents=True, exist_ok=True)
    for name in names or VERSIONS:
        try:
            said = run(name, output)
        except pytest.fail.Exception as error:  # what tests.servers raises where a server does not start
            said = f"{name}: {error}"
        print(said, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
