"""A CGI script: one request from the environment and stdin, one answer on stdout. Each is a real process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateways.server.once import params_of
from tests.scripts import Done, as_cgi, cgi_environ, write_script
from tests.servers import SECONDS, wait_until

SHOW = """
import json, os
def application(environ, start_response):
    found = {name: value if isinstance(value, (str, bool)) else repr(value) for name, value in environ.items()}
    body = environ["wsgi.input"].read()
    found["body"] = body.decode("latin-1")
    found["os"] = sorted(os.environ)
    found["children"] = os.popen("cat; echo from a child >&2").read()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]
"""

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run(source: str, body: bytes = b"", call: str = "gateways.run(application)", **variables: str | None) -> Done:
        return as_cgi([write_script(tmp_path, source, call)], body, **variables)

    return run


def said(done: Done) -> dict[str, Any]:
    assert done.head[0] == "Status: 200 OK", (done.out, done.err)
    assert done.code == 0
    found: dict[str, Any] = json.loads(done.body)
    return found


def answers(body: str, headers: str = "[]", before: str = "") -> str:
    """An application in one line."""
    return (
        f"def application(environ, start_response):\n    {before or 'pass'}\n"
        f"    start_response('200 OK', {headers})\n    return {body}"
    )


# The environ and the body


def test_what_the_application_sees(run: Run) -> None:
    done = run(SHOW, b"a=1&b=2rest", CONTENT_LENGTH="7", REQUEST_METHOD="POST", HTTP_X_A="\u00e9", CUSTOM="c")
    found = said(done)
    assert done.err == "from a child\n"
    assert found["body"] == "a=1&b=2"
    assert (found["SCRIPT_NAME"], found["PATH_INFO"], found["REQUEST_METHOD"]) == ("/cgi-bin/app", "/path", "POST")
    assert found["HTTP_X_A"] == "\u00c3\u00a9", "bytes as latin-1"
    assert found["CUSTOM"] == "c"
    assert found["gateways.protocol"] == "cgi"
    assert (found["wsgi.multithread"], found["wsgi.multiprocess"], found["wsgi.run_once"]) == (False, True, True)
    assert found["wsgi.url_scheme"] == "http"
    assert found["children"] == "", "a program that the application starts reads none of the body"


def test_no_header_field_passes_for_a_variable(run: Run) -> None:
    found = said(run(SHOW, HTTP_PROXY="http://192.0.2.66/", HTTP_X="y"))
    assert "HTTP_PROXY" not in found
    assert "HTTP_PROXY" not in found["os"], "urllib and others ask the environment itself"
    assert found["HTTP_X"] == "y"
    assert params_of({b"wsgi.input": b"x", b"A": b"\xff"}) == {"A": "\xff"}


@pytest.mark.parametrize(("script", "path"), [("/cgi-bin/app", None), ("/cgi-bin/app", ""), ("", "/path"), ("", "/")])
def test_script_name_and_path_info_as_sent(run: Run, script: str, path: str | None) -> None:
    found = said(run(SHOW, SCRIPT_NAME=script, PATH_INFO=path, REQUEST_URI=f"{script}{path or ''}?q"))
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == (script, path or "")


def test_a_mount(run: Run) -> None:
    found = said(run(SHOW, call="gateways.run(application, mount='/cgi-bin/')"))
    assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/cgi-bin", "/app/path")


@pytest.mark.parametrize("length", ["+5", "-1", " 5", "1_0", "5,5", "x", "\u0665", "9" * 30])
def test_no_content_length(run: Run, length: str) -> None:
    done = run(SHOW, b"12345", CONTENT_LENGTH=length)
    assert done.head[0] == "Status: 400 Bad Request"
    assert done.body == b"400 Bad Request\n"
    assert "refused: cgi 192.0.2.7: CONTENT_LENGTH is not a number of bytes" in done.err
    assert done.err.count("\n") == 1


def test_what_a_refused_request_has_for_a_body_is_taken(tmp_path: Path) -> None:
    """Else a web server that has one socket for both ways, Apache's mod_cgid, finds a reset behind the answer."""
    call = "from gateways.limits import Limits\ngateways.run(application, limits=Limits(body_bytes=4))"
    script = write_script(tmp_path, SHOW, call)
    for variables in ({"CONTENT_LENGTH": "100000"}, {"CONTENT_LENGTH": "x"}, {"HTTP_TRANSFER_ENCODING": "chunked"}):
        ours, theirs = socket.socketpair()
        with (
            ours,
            subprocess.Popen(
                [sys.executable, script], env=cgi_environ(variables), stdin=theirs.fileno(), stdout=theirs.fileno()
            ),
        ):
            theirs.close()
            ours.settimeout(SECONDS)
            ours.sendall(bytes(100_000))
            ours.shutdown(socket.SHUT_WR)
            answer = b""
            while block := ours.recv(65_536):
                answer += block
            assert answer.startswith(b"Status: 4")


@pytest.mark.parametrize("length", ["", None, "0"])
def test_no_body(run: Run, length: str | None) -> None:
    assert said(run(SHOW, b"12345", CONTENT_LENGTH=length))["body"] == ""


def test_a_body_that_is_cut_short(run: Run) -> None:
    done = run(SHOW, b"12345", CONTENT_LENGTH="6", REQUEST_METHOD="POST")
    assert done.head[0] == "Status: 400 Bad Request"
    assert "WARNING cgi 192.0.2.7 POST /path: stdin ended 1 bytes before the end of the body" in done.err


def test_a_body_in_chunks_has_no_end_that_could_be_told(run: Run) -> None:
    done = run(SHOW, b"12345", HTTP_TRANSFER_ENCODING="chunked")
    assert done.head[0].startswith("Status: 411 ")
    assert "a body in chunks, without its length" in done.err


def test_a_body_that_is_too_large(run: Run) -> None:
    call = "from gateways.limits import Limits\ngateways.run(application, limits=Limits(body_bytes=4))"
    assert said(run(SHOW, b"1234", call, CONTENT_LENGTH="4"))["body"] == "1234"
    done = run(SHOW, b"12345", call, CONTENT_LENGTH="5")
    assert done.head[0] == "Status: 413 Content Too Large"
    assert "request body is 5, more than the limit of 4" in done.err


def test_a_body_that_does_not_come(run: Run, tmp_path: Path) -> None:
    call = "from gateways.limits import Timeouts\ngateways.run(application, timeouts=Timeouts(body=0.1, drain=0.1))"
    done = with_open_stdin(write_script(tmp_path, SHOW, call), CONTENT_LENGTH="5")
    assert done.startswith(b"Status: 408 ")


def test_nothing_behind_the_body_is_waited_for(tmp_path: Path) -> None:
    for length in ("", "5"):
        answer = with_open_stdin(write_script(tmp_path, SHOW), b"12345", CONTENT_LENGTH=length)
        assert answer.startswith(b"Status: 200 OK")


def with_open_stdin(script: Path, body: bytes = b"", **variables: str) -> bytes:
    """Run a script whose stdin does not end before it does."""
    with subprocess.Popen(
        [sys.executable, script], env=cgi_environ(variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(body)
        process.stdin.flush()
        answer = process.stdout.read()
        assert process.wait(SECONDS) == 0
        return answer


@pytest.mark.parametrize(
    ("missing", "code"),
    [("REQUEST_METHOD", 400), ("GATEWAY_INTERFACE", 200), ("SERVER_NAME", 200), ("SERVER_PROTOCOL", 200)],
)
def test_a_wrong_environment(run: Run, missing: str, code: int) -> None:
    done = run(answers("[b'x']"), **{missing: None})
    assert done.head[0].startswith(f"Status: {code} ")
    assert ("no REQUEST_METHOD among the parameters" in done.err) == (code == 400)


# The answer


def test_the_head(run: Run) -> None:
    done = run(answers("[b'all']", "[('X-A', 'b'), ('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2')]"))
    assert done.out == b"Status: 200 OK\r\nX-A: b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 3\r\n\r\nall"
    assert (done.code, done.err) == (0, "")


def test_head_has_no_body(run: Run) -> None:
    done = run(answers("[b'all']"), REQUEST_METHOD="HEAD")
    assert done.out == b"Status: 200 OK\r\nContent-Length: 3\r\n\r\n"
    assert run("application = None", REQUEST_METHOD="HEAD").body == b""


def test_a_large_answer_in_one_piece(run: Run) -> None:
    assert len(run(answers("[b'x' * 3_000_000]")).body) == 3_000_000


def test_blocks_go_out_as_they_come(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = f"""
import os, time
def application(environ, start_response):
    start_response("200 OK", [])
    yield b"first "
    while not os.path.exists({str(gate)!r}):
        time.sleep(0.01)
    yield b"second"
"""
    script = write_script(tmp_path, source)
    with subprocess.Popen([sys.executable, script], env=cgi_environ({}), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read = b""
        while not read.endswith(b"first "):
            block = os.read(process.stdout.fileno(), 4096)
            assert block
            read += block
        gate.touch()
        assert process.stdout.read() == b"second"


def test_a_file(run: Run, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (tmp_path / "file").write_bytes(content)
    done = run(answers(f"environ['wsgi.file_wrapper'](open({str(tmp_path / 'file')!r}, 'rb'))"))
    assert "Content-Length: 200000" in done.head
    assert done.body == content


def test_what_is_printed_is_no_part_of_the_answer(run: Run) -> None:
    before = "print('printed'); import subprocess, os; subprocess.run(['echo', 'from a child']); os.write(1, b'raw\\n')"
    done = run("print('at import')\n" + answers("[b'body']", before=before) + "\nimport sys; sys.stdin.read(0)")
    assert done.out == b"Status: 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    assert sorted(done.err.splitlines()) == ["at import", "from a child", "printed", "raw"]


def test_wsgi_errors(run: Run) -> None:
    done = run(answers("[b'body']", before="environ['wsgi.errors'].write('said\\n\\x1b[1mloud\\n')"))
    assert done.err == "said\n\\x1b[1mloud\n"


@pytest.mark.parametrize("error", ["ValueError('a secret')", "SystemExit(0)", "KeyboardInterrupt"])
def test_an_exception_before_the_answer(run: Run, error: str) -> None:
    done = run(f"def application(environ, start_response):\n    raise {error}")
    assert done.out.startswith(b"Status: 500 Internal Server Error\r\n")
    assert done.body == b"500 Internal Server Error\n"
    assert "ERROR cgi 192.0.2.7 GET /path: the application raised" in done.err
    assert "  | Traceback (most recent call last):" in done.err


def test_the_log_names_what_was_asked_for_whatever_becomes_of_it(run: Run) -> None:
    changed = "environ.update(REMOTE_ADDR=None, REQUEST_METHOD=7, REQUEST_URI=b'', PATH_INFO='/other')"
    done = run(f"def application(environ, start_response):\n    {changed}\n    raise ValueError")
    assert "ERROR cgi 192.0.2.7 GET /path: the application raised" in done.err


def test_an_exception_within_the_answer(run: Run) -> None:
    done = run(
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    yield b'begun'\n    1/0"
    )
    assert done.body == b"begun"
    assert "ZeroDivisionError" in done.err


def test_a_client_that_is_gone(tmp_path: Path) -> None:
    source = f"""
class Body:
    def __iter__(self):
        while True:
            yield b"x" * 65536
    def close(self):
        open({str(tmp_path / "closed")!r}, "w").close()
def application(environ, start_response):
    start_response("200 OK", [])
    return Body()
"""
    script = write_script(tmp_path, source)
    with subprocess.Popen(
        [sys.executable, script], env=cgi_environ({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        errors = process.stderr.read().decode()
        assert process.wait(SECONDS) == 0
    assert errors.count("\n") == 1
    assert errors.endswith("WARNING cgi 192.0.2.7 GET /path: the web server went away: Broken pipe\n")
    assert (tmp_path / "closed").exists()


def test_a_web_server_that_takes_nothing(tmp_path: Path) -> None:
    call = "from gateways.limits import Timeouts\ngateways.run(application, timeouts=Timeouts(write=0.1))"
    script = write_script(tmp_path, answers("[b'x' * 1_000_000]"), call)
    with subprocess.Popen(
        [sys.executable, script], env=cgi_environ({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(lambda: process.poll() is not None, "it gives up")
        assert process.stderr is not None
        assert b"the web server took no byte of the response for 0.1 s" in process.stderr.read()


def test_a_web_server_that_sends_the_whole_body_before_it_reads(tmp_path: Path) -> None:
    """Apache's mod_cgi: what the application does not read must not keep it from answering."""
    source = """
def application(environ, start_response):
    start_response("200 OK", [])
    yield b"x" * 1_000_000
    yield str(len(environ["wsgi.input"].read())).encode()
"""
    with subprocess.Popen(
        [sys.executable, write_script(tmp_path, source)], env=cgi_environ({"CONTENT_LENGTH": "1000000"}),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x" * 1_000_000)
        process.stdin.close()
        assert process.stdout.read().endswith(b"\r\n\r\n" + b"x" * 1_000_000 + b"1000000")


def test_a_body_that_nobody_reads_is_taken(tmp_path: Path) -> None:
    script = write_script(tmp_path, answers("[b'early']"))
    with subprocess.Popen(
        [sys.executable, script], env=cgi_environ({"CONTENT_LENGTH": "1000000"}), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read().endswith(b"early"), "it ends before the body has come"
        process.stdin.write(b"x" * 1_000_000)
        process.stdin.close()
        assert process.wait(SECONDS) == 0


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams(run: Run, closed: tuple[int, ...], tmp_path: Path) -> None:
    script = write_script(tmp_path, answers("[b'x']", before="open('/dev/null')"))
    close = f"import os, sys\nfor fd in {closed!r}: os.close(fd)\nos.execv(sys.argv[1], sys.argv[1:])"
    argv = [sys.executable, "-c", close, sys.executable, str(script)]
    done = subprocess.run(argv, env=cgi_environ({}), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Status: 200 OK") == (1 not in closed)
