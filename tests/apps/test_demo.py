"""The demonstration, called as PEP 3333 says, behind any prefix and with hostile input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from gateways.apps import demo


class Answer:
    """One request's response, whole."""

    def __init__(self, path: str = "/", body: bytes = b"", /, **environ: Any) -> None:  # noqa: ANN401 - an environ holds anything
        full: dict[str, Any] = {
            "PATH_INFO": path,
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "gateways.protocol": "scgi",
            **environ,
        }
        setup_testing_defaults(full)
        self.status = ""
        self.headers: dict[str, str] = {}
        blocks = validator(demo.application)(full, self.start)
        try:
            self.blocks = list(blocks)
        finally:
            blocks.close()  # type: ignore[attr-defined] # the validator's has one
        self.body = b"".join(self.blocks)

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[[bytes], object]:
        self.status, self.headers = status, dict(headers)
        return lambda data: None


class Tags(HTMLParser):
    """Which tags stand in a page, and where its links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]


@pytest.mark.parametrize(
    ("protocol", "shown"),
    [("fastcgi", "FastCGI"), ("scgi", "SCGI"), ("uwsgi", "uwsgi"), ("http", "HTTP/1.1"), ("x", "x")],
)
def test_the_page_shows_the_protocol(protocol: str, shown: str) -> None:
    answer = Answer(**{"gateways.protocol": protocol})
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert f"This request came over <strong>{shown}</strong>" in answer.body.decode()


def test_the_page_needs_nothing_from_elsewhere_and_its_links_work_behind_any_prefix() -> None:
    page = Answer(SCRIPT_NAME="/shop", HTTP_HOST="example.org").body.decode()
    links = Tags(page).links
    assert "env" in links
    assert all(link == "data:," or not link.startswith(("/", "http", "//")) for link in links)
    assert not {"script", "img", "iframe"} & set(Tags(page).tags)
    assert "curl http://example.org/shop/env" in page


def test_the_prefix_that_a_proxy_cut_off_is_in_the_lines_to_copy() -> None:
    page = Answer(HTTP_HOST="example.org", HTTP_X_FORWARDED_PREFIX="/http").body.decode()
    assert "curl http://example.org/http/env" in page


def test_everything_is_escaped() -> None:
    evil = "\"'><script>alert(1)</script>"
    plain = Tags(Answer().body.decode()).tags
    for name in (
        "HTTP_HOST",
        "HTTP_X_FORWARDED_PREFIX",
        "QUERY_STRING",
        "REQUEST_URI",
        "REMOTE_USER",
        "gateways.protocol",
    ):
        page = Answer(**{name: evil}).body.decode()
        assert "<script" not in page, name
        assert set(Tags(page).tags) == set(plain), name


def test_utf8_is_shown_as_it_was_meant() -> None:
    assert "café".encode() in Answer(QUERY_STRING="café".encode().decode("latin-1")).body


def test_a_prefix_without_its_slash_is_redirected() -> None:
    answer = Answer("", SCRIPT_NAME="/shop", HTTP_HOST="example.org")
    assert answer.status.startswith("308")
    assert answer.headers["Location"] == "http://example.org/shop/"
    assert Answer("").status == "200 OK"


def test_env() -> None:
    answer = Answer("/env", QUERY_STRING="a=<b>", HTTP_X_TRIAL="caf\xc3\xa9")
    assert answer.headers["Content-Type"] == "application/json"
    environ = json.loads(answer.body)
    assert environ["gateways.protocol"] == "scgi"
    assert environ["QUERY_STRING"] == "a=<b>"
    assert environ["HTTP_X_TRIAL"] == "caf\xc3\xa9"
    assert environ["wsgi.version"] == [1, 0]
    assert environ["wsgi.multithread"] == 0
    assert environ["wsgi.input"] == "<InputWrapper>"


def test_headers() -> None:
    answer = Answer("/headers", HTTP_X_TRIAL="1", HTTP_HOST="example.org", CONTENT_TYPE="text/plain")
    assert answer.body.decode().splitlines() == [
        "Content-Length: 0",
        "Content-Type: text/plain",
        "Host: example.org",
        "X-Trial: 1",
    ]


@pytest.mark.parametrize("size", [0, 5, demo.BLOCK, demo.ECHO_IN_MEMORY + 3])
@pytest.mark.parametrize("terminated", [True, False])
def test_echo(size: int, terminated: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    environ: dict[str, object] = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""} if terminated else {}
    answer = Answer("/echo", body, REQUEST_METHOD="POST", **environ)
    assert answer.body == body
    assert answer.headers["Content-Length"] == str(size)
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_echo_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MAXIMUM_ECHO", 10)
    assert Answer("/echo", b"x" * 10, REQUEST_METHOD="POST").status == "200 OK"
    assert Answer("/echo", b"x" * 11, REQUEST_METHOD="POST").status.startswith("413")


def test_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    answer = Answer("/stream")
    assert len(answer.blocks) == 10
    assert answer.blocks[-1] == b"line 10 of 10\n"
    assert pauses == [0.1] * 9
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", 1.0), ("seconds=0", 0), ("seconds=2.5", 2.5), ("seconds=1e9", 10), ("seconds=inf", 10), ("seconds=-1", 0)],
)
def test_slow_is_bounded(monkeypatch: pytest.MonkeyPatch, query: str, seconds: float) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    assert Answer("/slow", QUERY_STRING=query).status == "200 OK"
    assert pauses == [seconds]


@pytest.mark.parametrize("path", ["/slow", "/stream"])
@pytest.mark.parametrize("query", ["seconds=x", "seconds=nan"])
def test_seconds_are_a_number(path: str, query: str) -> None:
    assert Answer(path, QUERY_STRING=query).status.startswith("400")


def test_error() -> None:
    with pytest.raises(RuntimeError, match="asked to fail"):
        Answer("/error")


@pytest.mark.parametrize("path", ["/nothing", "/env/", "//", "/<script>"])
def test_anything_else_is_not_found(path: str) -> None:
    answer = Answer(path)
    assert answer.status.startswith("404")
    assert b"script" not in answer.body
