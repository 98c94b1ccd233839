"""The echo applications say what they were given."""

from __future__ import annotations

import io
import shutil
import subprocess
from importlib import resources
from typing import Any

import pytest

from gateways.wire.case import Echo
from gateways.wire.echo.echo_wsgi import application
from tests.servers import missing


def called(**environ: object) -> tuple[str, dict[str, str], bytes]:
    got: list[Any] = []
    content = b"".join(application(environ, lambda status, headers: got.extend((status, dict(headers)))))
    return got[0], got[1], content


def test_parameters_and_body() -> None:
    status, headers, content = called(
        A="caf\xc3\xa9\n=", CONTENT_LENGTH="4", **{"wsgi.input": io.BytesIO(b"a\n\nb"), "wsgi.url_scheme": "http"}
    )
    assert status == "200 Echo"
    assert headers["Content-Length"] == str(len(content))
    assert content == b"gateways-echo 1\nA=caf%C3%A9%0A%3D\nCONTENT_LENGTH=4\nlength 4\n\na\n\nb"
    assert Echo.parse(content) == Echo({"A": "caf\xc3\xa9\n=", "CONTENT_LENGTH": "4"}, b"a\n\nb")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"gateways-echo 1\nlength 2\n\nabc", b"gateways-echo 2\nlength 0\n\n"]
)
def test_what_is_no_echo(content: bytes) -> None:
    assert Echo.parse(content) is None


def test_what_the_query_asks_for() -> None:
    errors = io.StringIO()
    assert called(QUERY_STRING="size=20&status=404") == (
        "404 Echo", {"Content-Type": "text/plain", "Content-Length": "20"}, b"0123456789abcdef0123"
    )  # fmt: skip
    assert called(QUERY_STRING="status=304&size=5")[1:] == ({"Content-Type": "text/plain"}, b"")
    called(QUERY_STRING="stderr=oh", **{"wsgi.errors": errors, "wsgi.input": io.BytesIO()})
    assert errors.getvalue() == "oh\n"


@pytest.mark.parametrize(("name", "argv"), [("echo.php", ["php", "-l"]), ("echo.c", ["cc", "-fsyntax-only", "-Wall"])])
def test_the_others_are_shipped_and_right_in_syntax(name: str, argv: list[str]) -> None:
    if shutil.which(argv[0]) is None:
        missing(f"{argv[0]} is not installed")
    with resources.as_file(resources.files("gateways.wire.echo") / name) as path:
        done = subprocess.run([*argv, str(path)], capture_output=True, text=True, timeout=60, check=False)
    if "fcgiapp.h" in done.stderr and done.returncode:
        missing("libfcgi's headers are not installed")
    assert done.returncode == 0, done.stderr
