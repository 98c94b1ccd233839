"""What else the application sees of a request, through each server and protocol (FRONTENDS 5.1)."""

from __future__ import annotations

import base64
import json

import pytest

from tests.integration.conftest import PASSWORD, USER, Site
from tests.integration.fronts import MAIN, named

each = pytest.mark.parametrize("site", MAIN, indirect=True, ids=lambda front: front.name)
gateway = pytest.mark.parametrize(
    "site", [front for front in MAIN if front.protocol != "http"], indirect=True, ids=lambda front: front.name
)
BASIC = ("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())


@each
def test_the_variables_of_wsgi(site: Site) -> None:
    environ = site.ask("/").json()
    assert environ["gateways.protocol"] == site.front.protocol
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is True
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True


@gateway
def test_who_asks_whom(site: Site) -> None:
    connection = site.connect()
    connection.connect()
    host, port = connection.sock.getsockname()
    site.send(connection, "/")
    environ = json.loads(connection.getresponse().read())
    connection.close()
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (host, str(port))
    assert environ["SERVER_PORT"] == str(site.port)
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["HTTP_HOST"].partition(":")[0] == "127.0.0.1"


@each
def test_methods(site: Site) -> None:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    if site.front.server != "lighttpd":  # which refuses a method that it does not know
        methods.append("FROB")
    answers = {
        method: site.ask("/", method, body=b"" if method in {"POST", "PUT", "PATCH"} else None) for method in methods
    }
    assert {method: answer.json()["REQUEST_METHOD"] for method, answer in answers.items()} == {
        name: name for name in methods
    }


@each
def test_header_fields(site: Site) -> None:
    environ = site.ask(
        "/",
        headers=[
            ("Cookie", "a=1"),
            ("Cookie", "b=2"),
            ("X-Many", "one"),
            ("X-Many", "two"),
            ("Proxy", "http://evil.example/"),
            ("Remote-User", "admin"),
            ("X-Utf8", "caf\xc3\xa9"),
            ("X-Empty", ""),
            ("X-Long", "v" * 7000),
            ("Content-Type", "text/x-trial; a=b"),
        ],
    ).json()
    # Apache joins Cookie too with a comma, before any protocol is spoken.
    assert environ["HTTP_COOKIE"] == ("a=1, b=2" if site.front.server == "apache" else "a=1; b=2")
    assert environ["HTTP_X_MANY"] == "one, two"
    assert "HTTP_PROXY" not in environ
    assert not environ.get("REMOTE_USER")
    assert environ["HTTP_X_UTF8"] == "caf\xc3\xa9"
    assert environ.get("HTTP_X_EMPTY", "") == ""
    assert environ["HTTP_X_LONG"] == "v" * 7000
    assert environ["CONTENT_TYPE"] == "text/x-trial; a=b"
    assert "HTTP_CONTENT_TYPE" not in environ
    assert "HTTP_CONTENT_LENGTH" not in environ
    assert "PATH" not in environ or site.front.server == "apache"


@each
def test_an_underscore_cannot_pass_for_a_dash(site: Site) -> None:
    environ = site.ask("/", headers=[("X-Trial", "dash"), ("X_Trial", "underscore"), ("Content_Type", "x/y")]).json()
    # lighttpd takes the two for one field that was sent twice, before any protocol is spoken.
    assert environ["HTTP_X_TRIAL"] == ("dash, underscore" if site.front.server == "lighttpd" else "dash")
    assert "HTTP_CONTENT_TYPE" not in environ
    assert environ.get("CONTENT_TYPE", "") == ""
    answer = site.ask("/", headers=[("Content_Length", "7")])
    if (site.front.server, site.front.protocol) == ("lighttpd", "scgi"):  # it could be nginx's bug, see test_bodies
        assert answer.status == 400
    else:
        assert answer.json().get("CONTENT_LENGTH", "0") in ("0", "")
        assert "HTTP_CONTENT_LENGTH" not in answer.json()


@each
def test_credentials(site: Site) -> None:
    """mod_proxy_fcgi and mod_proxy_scgi keep Authorization back, unless there is CGIPassAuth On."""
    environ = site.ask("/", headers=[BASIC]).json()
    kept_back = site.front.server == "apache" and site.front.protocol != "uwsgi"
    assert environ.get("HTTP_AUTHORIZATION") == (None if kept_back else BASIC[1])


@each
def test_a_name_without_a_checked_password(site: Site) -> None:
    environ = site.ask("/", headers=[BASIC]).json()
    if site.front.name == "nginx-stock-fastcgi" and environ.get("REMOTE_USER"):
        # Debian's fastcgi_params: $remote_user is the name of any Authorization. nginx-conf/ does not do that.
        assert environ["REMOTE_USER"] == USER
    else:
        assert not environ.get("REMOTE_USER")


@gateway
def test_a_checked_user(site: Site) -> None:
    if site.front.name.startswith("nginx-stock"):
        pytest.skip("only fastcgi_params send REMOTE_USER, and they do it always: see above")
    assert site.ask("/private/x").status == 401
    environ = site.ask("/private/x", headers=[BASIC]).json()
    assert (environ["REMOTE_USER"], environ["AUTH_TYPE"]) == (USER, "Basic")
    assert environ["PATH_INFO"] == "/private/x"


@pytest.mark.parametrize("site", named("nginx-conf-http-unix"), indirect=True)
def test_http_tells_in_headers(site: Site) -> None:
    spoofed = [("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-User", "admin"), ("X-Forwarded-Proto", "https")]
    environ = site.ask("/", headers=spoofed).json()
    assert environ["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    assert environ["HTTP_X_FORWARDED_PROTO"] == "http"
    assert environ["HTTP_X_FORWARDED_PORT"] == str(site.port)
    assert "HTTP_X_FORWARDED_USER" not in environ
    assert site.ask("/private/x", headers=spoofed).status == 401
    environ = site.ask("/private/x", headers=[BASIC, *spoofed]).json()
    assert environ["HTTP_X_FORWARDED_USER"] == USER


@pytest.mark.parametrize("site", named(".*-tls"), indirect=True, ids=lambda front: front.name)
def test_tls(site: Site) -> None:
    environ = site.ask("/").json()
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTPS"] == "on"
    assert environ["REQUEST_SCHEME"] == "https"
    assert environ["SSL_PROTOCOL"].startswith("TLSv1.")
    assert environ["CUSTOM"] == ('a b=c"' if site.front.server == "nginx" else "a b=c")
