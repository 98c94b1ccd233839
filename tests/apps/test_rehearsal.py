"""The request that a worker answers before it is ready: what the application sees, and what counts as an answer."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateways.apps import Exchange
from gateways.apps.rehearsal import rehearse
from gateways.apps.wsgi import FileWrapper
from gateways.errors import WorkerBootError
from gateways.values import url as parse

App = Callable[[dict[str, Any], Callable[..., Any]], Any]


class Said:
    """The log."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        raise AssertionError((exchange, message)) from error

    def notice(self, exchange: Exchange, message: str) -> None:
        raise AssertionError((exchange, message))

    def output(self, exchange: Exchange, text: str) -> None:
        self.text.append(f"{exchange.line}: {text}")


def ask(app: App, url: str = "/", mount: str | None = None) -> Said:
    said = Said()
    rehearse(app, parse(url), said, mount=mount, threads=True, processes=False)
    return said


def environ_of(url: str, mount: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        found.update(environ)
        assert environ["wsgi.input"].read() == b""
        start_response("200 OK", [])
        return [b""]

    ask(app, url, mount)
    return found


@pytest.mark.parametrize(
    ("url", "mount", "expected"),
    [
        ("/", None, ("http", "localhost", "localhost", "80", "", "/", "")),
        ("/caf%C3%A9?a=%20b&c", None, ("http", "localhost", "localhost", "80", "", "/cafÃ©", "a=%20b&c")),
        ("/shop/x", "/shop", ("http", "localhost", "localhost", "80", "/shop", "/x", "")),
        ("https://shop.example", None, ("https", "shop.example", "shop.example", "443", "", "/", "")),
        ("http://shop.example:8080/a?b", None, ("http", "shop.example:8080", "shop.example", "8080", "", "/a", "b")),
        ("https://[::1]/a", None, ("https", "[::1]", "::1", "443", "", "/a", "")),
        ("https://[::1]:8443/a", None, ("https", "[::1]:8443", "::1", "8443", "", "/a", "")),
    ],
)
def test_what_the_application_sees(url: str, mount: str | None, expected: tuple[str, ...]) -> None:
    found = environ_of(url, mount)
    names = ("wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING")
    assert tuple(found[name] for name in names) == expected
    assert (found["REQUEST_METHOD"], found["REMOTE_ADDR"], found["SERVER_PROTOCOL"]) == ("GET", "127.0.0.1", "HTTP/1.1")
    assert (found["wsgi.multithread"], found["wsgi.multiprocess"], found["wsgi.run_once"]) == (True, False, False)
    assert "gateways/" in found["HTTP_USER_AGENT"]


def answer(status: str, body: Any = (b"x",)) -> App:  # noqa: ANN401  (an iterable, or what is none)
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:  # noqa: ANN401
        start_response(status, [("Content-Type", "text/plain")])
        return body

    return app


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 10_000


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "301 Moved", "400 Bad Request", "404 Not Found"])
def test_what_counts_as_an_answer(status: str) -> None:
    """To redirect, or to want a login, is to work."""
    assert ask(answer(status)).text == []


@pytest.mark.parametrize("body", [[b"a", b"b"], [], endless(), FileWrapper(io.BytesIO(b"file"))])
def test_all_kinds_of_bodies(body: Any) -> None:  # noqa: ANN401  (as above)
    ask(answer("200 OK", body))


def test_a_file_that_is_sent_by_its_descriptor() -> None:
    with open(__file__, "rb") as file:
        ask(answer("200 OK", FileWrapper(file)))


def test_the_response_is_closed() -> None:
    closed = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    ask(answer("200 OK", Body([b"x", b"y"])))
    assert closed == [True]


def test_what_it_prints_is_in_the_log() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["wsgi.errors"].write("a line\n")
        start_response("200 OK", [])
        return [b""]

    assert ask(app, "/x?y").text == ["GET /x?y: a line\n"]


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable"])
def test_an_error(status: str) -> None:
    with pytest.raises(WorkerBootError) as caught:
        ask(answer(status), "/healthz")
    told = f"the application answered {status} when it was asked for http://localhost/healthz (--warm-up); its own log"
    assert str(caught.value) == f"{told} may tell why"
    assert caught.value.found


def failing(when: str) -> App:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise KeyError("late")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:  # noqa: ANN401
        if when == "early":
            raise KeyError("early")
        if when == "exit":
            raise SystemExit("exit")
        if when != "unasked":
            start_response("200 OK" if when != "bad" else "bad", [])
        return body()

    return app


@pytest.mark.parametrize(
    ("when", "raised"),
    [
        ("early", "KeyError: 'early'"),
        ("late", "KeyError: 'late'"),
        ("exit", "SystemExit: exit"),
        ("bad", "LocalProtocolError: "),
        ("unasked", "LocalProtocolError: "),
    ],
)
def test_what_it_raises_is_the_cause(when: str, raised: str) -> None:
    with pytest.raises(WorkerBootError) as caught:
        ask(failing(when), "/healthz")
    assert f"the application raised {raised}" in str(caught.value)
    assert str(caught.value).endswith(" when it was asked for http://localhost/healthz (--warm-up)")
    assert caught.value.__cause__ is not None
    assert caught.value.found
