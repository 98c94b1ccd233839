"""Flask and Django as people run them: behind nginx and Apache, over each protocol, at the root and below a prefix."""

from __future__ import annotations

import hashlib

import pytest

from tests.integration.conftest import Site
from tests.integration.fronts import named

BEHIND = [
    *named(r"nginx-conf-(fastcgi|scgi|uwsgi)-unix(-mount)?|nginx-conf-http-unix"),
    *named(r"nginx-stock-(fastcgi|scgi|uwsgi)"),
    *named(r"apache-(fastcgi|scgi|uwsgi)-proxypass(-app)?"),
    *named(r"lighttpd-(fastcgi|scgi|uwsgi)-app"),
]
FORM = [("Content-Type", "application/x-www-form-urlencoded")]
BOUNDARY = "trial-boundary"
MULTIPART = [("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")]


def multipart(content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize("site", BEHIND, indirect=True, ids=lambda front: front.name)
@pytest.mark.parametrize("framework", ["flask", "django"])
def test_an_application(site: Site, framework: str) -> None:
    base = f"/{framework}"
    prefix = site.front.prefix + base
    address = "" if site.front.protocol == "http" else "127.0.0.1"  # HTTP has it in X-Forwarded-For only

    answer = site.ask(f"{base}/")
    assert (answer.status, answer.body.decode()) == (200, f"home of {address} at {prefix}/")
    answer = site.ask(f"{base}/name/caf%C3%A9/%E2%82%AC%25?q=%C3%A9+1")
    assert answer.body.decode() == "café/€%|é 1"

    answer = site.ask(f"{base}/form", "POST", FORM, body=b"b=2+3&a=%C3%A9")
    assert answer.body.decode() == "a=é|b=2 3"
    content = bytes(range(256)) * 4096
    answer = site.ask(f"{base}/upload", "POST", MULTIPART, body=multipart(content))
    assert answer.body.decode() == f"f.bin {len(content)} {hashlib.sha256(content).hexdigest()}"

    answer = site.ask(f"{base}/login/me")
    assert answer.status == 204
    cookie = (answer["Set-Cookie"] or "").partition(";")[0]
    assert cookie
    if site.front.server != "apache":  # which joins two Cookie fields with a comma
        assert site.ask(f"{base}/whoami", headers=[("Cookie", "other=1"), ("Cookie", cookie)]).body == b"me"
    assert site.ask(f"{base}/whoami", headers=[("Cookie", cookie)]).body == b"me"

    answer = site.ask(f"{base}/go")
    assert (answer.status, answer["Location"]) == (302, f"{prefix}/whoami")
    assert site.ask(f"{base}/file").body == b"static " * 10_000
    assert b"application" in site.ask(f"{base}/source").body
    assert site.ask(f"{base}/stream").body.decode() == "".join(f"line {number}\n" for number in range(100))
    assert site.ask(f"{base}/none").status == 404
    answer = site.ask(f"{base}/error")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert site.ask(f"{base}/", "HEAD").body == b""
