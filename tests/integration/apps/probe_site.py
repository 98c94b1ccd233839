"""The application of the integration tests: a probe, and Flask, Django and wsgiref.validate below their prefixes.

What the probe does is told by the request's X-Do field, with X-Arg as its argument, so that any path can be asked for.
Files in $GATEWAYS_TEST_NOTES, named by X-Id, carry news both ways while a request runs.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NOTES = Path(os.environ.get("GATEWAYS_TEST_NOTES", "."))
TEXT = [("Content-Type", "text/plain")]
SECONDS = 60.0
MEBIBYTE = 1_048_576


def note(environ: WSGIEnvironment, line: str) -> None:
    """Tell the test something."""
    with (NOTES / environ["HTTP_X_ID"]).open("a") as file:
        file.write(line + "\n")


def wait_for_go(environ: WSGIEnvironment) -> None:
    """Wait until the test says go."""
    deadline = time.monotonic() + SECONDS
    while not (NOTES / (environ["HTTP_X_ID"] + ".go")).exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the test did not say go")
        time.sleep(0.005)


def show_environ(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    plain = {name: value for name, value in environ.items() if isinstance(value, str | bool | int)}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(plain).encode()]


def read_body(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    size, digest = 0, hashlib.sha256()
    while block := environ["wsgi.input"].read(100_000):
        size += len(block)
        digest.update(block)
    start_response("200 OK", TEXT)
    return [f"{size} {digest.hexdigest()} {environ.get('CONTENT_LENGTH', '-')}".encode()]


def read_pieces(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """Note each piece as it comes."""
    size = 0
    while block := environ["wsgi.input"].read(int(arg)):
        size += len(block)
        note(environ, f"piece {len(block)}")
    start_response("200 OK", TEXT)
    return [str(size).encode()]


def upload(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """Note whether the body came whole."""
    note(environ, "begun")
    try:
        size = len(environ["wsgi.input"].read())
    except Exception as error:
        note(environ, f"error {type(error).__mro__[1].__name__}")
        raise
    note(environ, f"whole {size}")
    start_response("200 OK", TEXT)
    return [b"ok"]


def refuse(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """Answer and leave the body unread."""
    start_response("403 Forbidden", TEXT)
    return [b"not read"]


def status(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response(arg, TEXT)
    return [b"text"]


def empty(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response(arg or "200 OK", [])
    return []


def redirect(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response("302 Found", [("Location", arg)])
    return []


def blocks(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """``arg`` mebibytes in blocks, without a length."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (b"0123456789abcdef" * 4096 for _ in range(int(arg) * 16))


def writes(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"by write, ")
    return [b"then ", b"", b"by return"]


def gated(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterator[bytes]:
    """One block, and the other when the test has seen the first."""
    start_response("200 OK", TEXT)
    yield b"first\n"
    wait_for_go(environ)
    yield b"second\n"


def hold(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """Answer when the test says go."""
    note(environ, "begun")
    wait_for_go(environ)
    start_response("200 OK", TEXT)
    return [b"held"]


def file(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """``arg`` mebibytes by wsgi.file_wrapper."""
    handle = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    handle.write(b"0123456789abcdef" * 65_536 * int(arg))
    handle.seek(0)
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](handle)
    return wrapped


def fail_before(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    raise RuntimeError("a secret of the application")


def fail_within(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterator[bytes]:
    start_response("200 OK", [*TEXT, *([("Content-Length", arg)] if arg else [])])
    yield b"x" * 1000
    raise RuntimeError("a secret of the application")


def short(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """Less than was promised."""
    start_response("200 OK", [*TEXT, ("Content-Length", "1000")])
    return [b"x" * 10]


def headers(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    """``arg`` fields of a kibibyte each."""
    start_response("200 OK", [*TEXT, *((f"X-Long-{number}", "v" * 1010) for number in range(int(arg)))])
    return [b"long head"]


def cookies(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")])
    return [environ.get("HTTP_COOKIE", "").encode()]


def errors(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    environ["wsgi.errors"].write(f"said to wsgi.errors: {arg}\n")
    start_response("200 OK", TEXT)
    return [b"said"]


def process(environ: WSGIEnvironment, start_response: StartResponse, arg: str) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [str(os.getpid()).encode()]


Action = Callable[["WSGIEnvironment", "StartResponse", str], Iterable[bytes]]
ACTIONS: dict[str, Action] = {
    "": show_environ,
    "body": read_body,
    "blocks": blocks,
    "cookies": cookies,
    "empty": empty,
    "errors": errors,
    "fail_before": fail_before,
    "fail_within": fail_within,
    "file": file,
    "gated": gated,
    "headers": headers,
    "hold": hold,
    "pieces": read_pieces,
    "process": process,
    "redirect": redirect,
    "refuse": refuse,
    "short": short,
    "status": status,
    "upload": upload,
    "writes": writes,
}


def probe(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    action = ACTIONS[environ.get("HTTP_X_DO", "")]
    return action(environ, start_response, environ.get("HTTP_X_ARG", ""))


def valid(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What wsgiref.validate checks is the server's side: the environ, the streams and the order of calls."""
    content = environ["wsgi.input"].read(MEBIBYTE)
    environ["wsgi.errors"].flush()
    body = b"valid " + content
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


BELOW: dict[str, Any] = {"/valid": validator(valid)}
if os.environ.get("GATEWAYS_TEST_FRAMEWORKS"):
    BELOW["/flask"] = importlib.import_module("flask_site").app
    BELOW["/django"] = importlib.import_module("django_site").application


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ.get("PATH_INFO", "")
    for prefix, app in BELOW.items():
        if path == prefix or path.startswith(prefix + "/"):
            environ["SCRIPT_NAME"] += prefix
            environ["PATH_INFO"] = path[len(prefix) :]
            result: Iterable[bytes] = app(environ, start_response)
            return result
    return probe(environ, start_response)
