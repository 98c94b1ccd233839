"""Request bodies through each server and protocol (FRONTENDS 5.2)."""

from __future__ import annotations

import hashlib
import select

import pytest

from gateways.limits import DEFAULT_LIMITS
from tests.integration.conftest import Site
from tests.integration.fronts import MAIN, Front, named

each = pytest.mark.parametrize("site", MAIN, indirect=True, ids=lambda front: front.name)
UPLOADS = named(r"nginx-conf-(fastcgi|uwsgi|http)-unix")
"""Where nginx passes a body on while it comes, below /upload/."""
MEBIBYTE = 1_048_576
CHUNKED = ("-X", "POST", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "--data-binary", "@-")


def noise(size: int) -> bytes:
    block = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(2048))
    return (block * (size // len(block) + 1))[:size]


def expected(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def takes_chunks(front: Front) -> bool:
    """mod_proxy_scgi and mod_proxy_uwsgi answer 411 themselves."""
    return front.server != "apache" or front.protocol == "fastcgi"


@each
@pytest.mark.parametrize("size", [0, 1, 1000, MEBIBYTE, 20 * MEBIBYTE])
def test_a_body_of_known_length(site: Site, size: int) -> None:
    body = noise(size)
    answer = site.ask("/", "POST", do="body", body=body)
    assert answer.status == 200
    assert answer.body.decode().rpartition(" ")[0] == expected(body)


@each
def test_no_body_at_all(site: Site) -> None:
    for method in ("GET", "DELETE"):
        answer = site.ask("/", method, do="body")
        assert answer.body.decode().startswith(expected(b""))


@each
@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_a_chunked_body(site: Site, size: int) -> None:
    body = noise(size)
    done = site.curl(*CHUNKED, "-H", "X-Do: body", "-w", "\n%{http_code}", data=body)
    text, _, code = done.stdout.decode().rpartition("\n")
    if takes_chunks(site.front):
        assert (code, text.rpartition(" ")[0]) == ("200", expected(body)), done
    else:
        assert code == "411"


@each
def test_the_coding_is_off(site: Site) -> None:
    """HTTP_TRANSFER_ENCODING: whoever believed it would look for chunks that are gone."""
    if not takes_chunks(site.front):
        pytest.skip("the server answers 411")
    done = site.curl(*CHUNKED, data=noise(100_000))
    assert b"HTTP_TRANSFER_ENCODING" not in done.stdout
    assert b"REQUEST_METHOD" in done.stdout


def refused_early(site: Site, path: str, size: int) -> None:
    done = site.curl(
        "-X", "POST", "-H", "X-Do: refuse", "-H", "Expect:", "--data-binary", "@-", "-w", " %{http_code}",
        path=path, data=noise(size),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"not read 403"), done.stderr


@each
@pytest.mark.parametrize("size", [100_000, 12 * MEBIBYTE, 30 * MEBIBYTE])
def test_an_answer_before_the_body_is_read(site: Site, size: int) -> None:
    if size > DEFAULT_LIMITS.drain_bytes and site.front.server == "apache" and site.front.protocol != "fastcgi":
        pytest.skip("Apache sends the whole body before it reads the answer, and --max-drain-bytes is less")
    refused_early(site, "/", size)


@pytest.mark.parametrize("site", UPLOADS, indirect=True, ids=lambda front: front.name)
@pytest.mark.parametrize("size", [100_000, 12 * MEBIBYTE, 30 * MEBIBYTE])
def test_an_answer_before_the_body_is_passed_on(site: Site, size: int) -> None:
    refused_early(site, "/upload/", size)


@pytest.mark.parametrize("site", UPLOADS, indirect=True, ids=lambda front: front.name)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_slow_body_is_passed_on_while_it_comes(site: Site, chunked: bool) -> None:
    if chunked and site.front.protocol == "uwsgi":
        pytest.skip("nginx needs the length before the body: it waits for the whole")
    key = site.new_id()
    head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 10"
    first, second = (b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n") if chunked else (b"hello", b"world")
    with site.socket() as client:
        lines = ["POST /upload/ HTTP/1.1", "Host: x", head, "X-Do: pieces", "X-Arg: 5", f"X-Id: {key}"]
        client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + first)
        site.noted(key, "piece 5")
        client.sendall(second)
        with client.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith((b"\r\n\r\n10", b"\r\n10\r\n0\r\n\r\n"))


@pytest.mark.parametrize("site", named("nginx-scgi-unbuffered"), indirect=True)
@pytest.mark.parametrize("first", ["", "hello"])
def test_scgi_unbuffered_is_refused_before_half_a_body_passes_for_a_whole_one(site: Site, first: str) -> None:
    """nginx before https://github.com/nginx/nginx/pull/1118 tells a wrong CONTENT_LENGTH."""
    with site.socket() as client:
        lines = ["POST / HTTP/1.1", "Host: x", "Content-Length: 10", "X-Do: body", "Connection: close", "", ""]
        client.sendall("\r\n".join(lines).encode() + first.encode())
        answered, _, _ = select.select([client], [], [], 0.5)
        if not answered:  # a corrected nginx, or a busy machine
            client.sendall(b"helloworld"[len(first) :])
        answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 400 ") or b"\r\n\r\n" + expected(b"helloworld").encode() in answer


STREAMED = [*UPLOADS, *named(r"apache-\w+-proxypass")]


@pytest.mark.parametrize("site", STREAMED, indirect=True, ids=lambda front: front.name)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_half_an_upload_never_passes_for_a_whole_one(site: Site, chunked: bool) -> None:
    if chunked and site.front.protocol in ("scgi", "uwsgi"):
        pytest.skip("the server does not pass a chunked body on while it comes")
    key = site.new_id()
    head = "Transfer-Encoding: chunked" if chunked else "Content-Length: 200000"
    data = noise(100_000)
    with site.socket() as client:
        lines = ["POST /upload/ HTTP/1.1", "Host: x", head, "X-Do: upload", f"X-Id: {key}"]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        client.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        site.noted(key, "begun")
    assert site.noted(key, "error").split()[1] in ("GatewayError", "OSError", "BodyError")
    assert "whole" not in (site.notes / key).read_text()
