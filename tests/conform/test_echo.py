"""The echo applications say what they were given."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateways.wire.case import Echo
from gateways.wire.conform import choose, probe, run_cases
from gateways.wire.echo import echo_wsgi
from gateways.wire.echo.echo_wsgi import application
from gateways.wire.report import text_lines
from gateways.wire.target import parse_target

HERE = Path(echo_wsgi.__file__).parent


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


def test_the_php_form_is_right_in_syntax() -> None:
    if shutil.which("php") is None:
        pytest.skip("php is not installed")
    done = subprocess.run(
        ["php", "-l", str(HERE / "echo.php")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_libfcgi_form(tmp_path: Path) -> None:
    """Compiled, and behind a socket: what it says is right, so these cases pass."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    program = tmp_path / "echo"
    argv = ["cc", "-Wall", "-o", str(program), str(HERE / "echo.c"), "-lfcgi"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if "fcgiapp.h" in done.stderr or "-lfcgi" in done.stderr:
        pytest.skip("libfcgi-dev is not installed")
    assert (done.returncode, done.stderr) == (0, "")
    check_program(program)


def test_the_go_form(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    program = tmp_path / "echo"
    argv = ["go", "build", "-o", str(program), str(HERE / "echo.go")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=170, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    check_program(program)


def check_program(program: Path) -> None:
    """Behind a socket."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        process = subprocess.Popen([program], stdin=listener.fileno())
        try:
            target = parse_target(f"fastcgi://127.0.0.1:{listener.getsockname()[1]}/")
            assert probe(target, 5.0)
            cases = choose("fastcgi", ["fastcgi.stdin.body", "fastcgi.params.value", "fastcgi.params.bytes",
                                       "fastcgi.stdout", "fastcgi.stderr", "fastcgi.response.status"])  # fmt: skip
            results = list(run_cases(target, cases, 5.0, echo=True))
            assert {result.verdict for result in results} == {"pass"}, "\n".join(text_lines(results))
        finally:
            process.kill()
            process.wait()
