"""CGI parameters to a WSGI environ: what each front end sends, and what an application must see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from gateways.codecs.events import Request
from gateways.codecs.http1 import HTTP1Codec
from gateways.environ import host_name, normal_path, request_path, split_path, to_environ, url_scheme
from gateways.errors import RemoteProtocolError

CAFE = "/caf\xc3\xa9"  # its UTF-8 bytes as latin-1 text, as PEP 3333 has it
ROOT = "/var/www/html"
LIGHTTPD = {"SERVER_SOFTWARE": "lighttpd/1.4.69"}
APACHE = {
    "SERVER_SOFTWARE": "Apache/2.4.71 (Debian)",
    "CONTEXT_PREFIX": "",
    "CONTEXT_DOCUMENT_ROOT": ROOT,
    "DOCUMENT_ROOT": ROOT,
}


@dataclass
class Case:
    """What one front end sends for one URL; most were recorded from the real one."""

    name: str
    protocol: str
    uri: str
    sent: Mapping[str, str]
    script: str
    path: str
    mount: str | None = None
    more: Mapping[str, str] = field(default_factory=dict)

    def params(self) -> dict[str, str]:
        return {"REQUEST_METHOD": "GET", "REQUEST_URI": self.uri, **self.more, **self.sent}


def nginx_fcgi(name: str, uri: str, document: str, script: str, path: str, mount: str | None = None) -> Case:
    sent = {"SCRIPT_NAME": document, "DOCUMENT_URI": document}
    return Case(f"nginx fcgi {name}", "fastcgi", uri, sent, script, path, mount)


def nginx_scgi(name: str, uri: str, document: str, script: str, path: str, mount: str | None = None) -> Case:
    return Case(f"nginx scgi {name}", "scgi", uri, {"DOCUMENT_URI": document, "SCGI": "1"}, script, path, mount)


def nginx_uwsgi(name: str, uri: str, document: str, script: str, path: str, mount: str | None = None) -> Case:
    return Case(f"nginx uwsgi {name}", "uwsgi", uri, {"PATH_INFO": document}, script, path, mount)


def nginx_set(name: str, protocol: str, uri: str, sent: Mapping[str, str], script: str, path: str) -> Case:
    """One where the stock parameters are followed by some that a person wrote."""
    return Case(f"nginx {protocol} {name}", protocol, uri, sent, script, path)


def apache(
    name: str,
    protocol: str,
    uri: str,
    sent: Mapping[str, str],
    script: str,
    path: str,
    mount: str | None = None,
    passed: str = "",
) -> Case:
    """``passed`` is the path of the backend's URL, as SCRIPT_FILENAME tells it; "" for ProxyFCGIBackendType GENERIC."""
    more = {"SCRIPT_FILENAME": f"proxy:{protocol}://127.0.0.1:9000{passed}" if passed else uri, **APACHE}
    return Case(f"apache {protocol} {name}", protocol, uri, sent, script, path, mount, more)


def lighttpd(name: str, uri: str, sent: Mapping[str, str], script: str, path: str, mount: str | None = None) -> Case:
    return Case(f"lighttpd {name}", "fastcgi", uri, sent, script, path, mount, LIGHTTPD)


def stock(uri: str, document: str, path: str | None = None) -> list[Case]:
    """One URL through every front end's stock configuration at the root, where all must agree."""
    path = path or document
    passed = quote(document.encode("latin-1"), "/;=")
    return [
        nginx_fcgi(f"stock {uri}", uri, document, "", path),
        nginx_scgi(f"stock {uri}", uri, document, "", path),
        nginx_uwsgi(f"stock {uri}", uri, document, "", path),
        apache(f"stock {uri}", "fastcgi", uri, {"SCRIPT_NAME": document}, "", path, passed=passed),
        apache(f"generic {uri}", "fastcgi", uri, {"SCRIPT_NAME": document}, "", path),
        apache(f"stock {uri}", "scgi", uri, {"SCRIPT_NAME": document}, "", path, passed=passed),
        apache(f"stock {uri}", "uwsgi", uri, {"SCRIPT_NAME": "", "PATH_INFO": document}, "", path, passed=document),
        apache(f"pathinfo {uri}", "fastcgi", uri, {"SCRIPT_NAME": "", "PATH_INFO": document}, "", path, passed=passed),
        lighttpd(f"fix-root-scriptname {uri}", uri, {"SCRIPT_NAME": "", "PATH_INFO": document}, "", path),
        Case(f"caddy {uri}", "fastcgi", uri, {"SCRIPT_NAME": "", "PATH_INFO": document, "DOCUMENT_URI": ""}, "", path),
        Case(f"haproxy {uri}", "fastcgi", uri, {"SCRIPT_NAME": document}, "", path),
        Case(f"h2o {uri}", "fastcgi", uri, {"SCRIPT_NAME": "", "PATH_INFO": document}, "", path),
    ]


CASES = [
    *stock("/", "/"),
    *stock("/?a=/b", "/"),
    *stock("/x", "/x"),
    *stock("/x/", "/x/"),
    *stock("/shop/x?q=1", "/shop/x"),
    *stock("/caf%C3%A9/x", CAFE + "/x"),
    *stock("/a%2Fb", "/a/b"),
    *stock("/a%25b", "/a%b"),
    *stock("/a%2541", "/a%41"),
    *stock("/a%252Fb", "/a%2Fb"),
    *stock("/a//b", "/a/b"),
    *stock("/a//", "/a/"),
    *stock("//", "/"),
    *stock("/a;b=%3B", "/a;b=;"),
    # The client must not choose where the path is split.
    *stock("/a/x/../../a", "/a"),
    *stock("/a/./", "/a/"),
    *stock("/a/b/..", "/a/"),
    *stock("/a/%2e%2e/a", "/a"),
    *stock("/public/admin/../../public", "/public"),
    # nginx: an explicit mount
    nginx_fcgi("mount", "/app/x", "/app/x", "/app", "/x", "/app"),
    nginx_fcgi("mount itself", "/app", "/app", "/app", "", "/app"),
    nginx_fcgi("mount with slash", "/app/", "/app/", "/app", "/", "/app"),
    nginx_fcgi("beside the mount", "/apple", "/apple", "/app", "/apple", "/app"),
    nginx_fcgi("mount, prefix cut off", "/app/x", "/x", "/app", "/x", "/app"),
    nginx_fcgi("mount decoded", "/caf%C3%A9/%2541", CAFE + "/%41", CAFE, "/%41", CAFE),
    nginx_scgi("mount", "/app/x", "/app/x", "/app", "/x", "/app"),
    nginx_uwsgi("mount", "/app/x", "/app/x", "/app", "/x", "/app"),
    nginx_uwsgi("mount at the root", "/app/x", "/app/x", "", "/app/x", ""),
    # nginx: SCRIPT_NAME set by hand
    nginx_set("scgi SCRIPT_NAME", "scgi", "/s/x", {"SCRIPT_NAME": "/s", "DOCUMENT_URI": "/s/x"}, "/s", "/x"),
    nginx_set("SCRIPT_NAME itself", "scgi", "/s", {"SCRIPT_NAME": "/s", "DOCUMENT_URI": "/s"}, "/s", ""),
    nginx_set("SCRIPT_NAME/", "scgi", "/s/x", {"SCRIPT_NAME": "/s/", "DOCUMENT_URI": "/s/x"}, "/s", "/x"),
    nginx_set("SCRIPT_NAME/ itself", "scgi", "/s/", {"SCRIPT_NAME": "/s/", "DOCUMENT_URI": "/s/"}, "/s", "/"),
    nginx_set("SCRIPT_NAME root", "scgi", "/x", {"SCRIPT_NAME": "/", "DOCUMENT_URI": "/x"}, "", "/x"),
    nginx_set("SCRIPT_NAME root itself", "scgi", "/", {"SCRIPT_NAME": "/", "DOCUMENT_URI": "/"}, "", "/"),
    nginx_set("SCRIPT_NAME no slash", "scgi", "/s/x", {"SCRIPT_NAME": "s", "DOCUMENT_URI": "/s/x"}, "/s", "/x"),
    nginx_set("SCRIPT_NAME, prefix cut", "scgi", "/x", {"SCRIPT_NAME": "/s", "DOCUMENT_URI": "/x"}, "/s", "/x"),
    nginx_set("SCRIPT_NAME", "fastcgi", "/s/x", {"SCRIPT_NAME": "/s", "DOCUMENT_URI": "/s/x"}, "/s", "/x"),
    nginx_set("SCRIPT_NAME", "uwsgi", "/u/x", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u/x"}, "/u", "/x"),
    nginx_set("SCRIPT_NAME itself", "uwsgi", "/u", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u"}, "/u", ""),
    nginx_set("SCRIPT_NAME itself/", "uwsgi", "/u/", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u/"}, "/u", "/"),
    nginx_set("SCRIPT_NAME/", "uwsgi", "/u/x", {"SCRIPT_NAME": "/u/", "PATH_INFO": "/u/x"}, "/u", "/x"),
    nginx_set("SCRIPT_NAME encoded", "uwsgi", "/u/%2541", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u/%41"}, "/u", "/%41"),
    nginx_set("SCRIPT_NAME, prefix cut", "uwsgi", "/x", {"SCRIPT_NAME": "/u", "PATH_INFO": "/x"}, "/u", "/x"),
    nginx_set("SCRIPT_NAME twice in the path", "uwsgi", "/u/u", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u"}, "/u", "/u"),
    # nginx: PATH_INFO set by hand
    nginx_set(
        "split_path_info",
        "fastcgi",
        "/sp/x%2Fy",
        {"SCRIPT_NAME": "/sp", "PATH_INFO": "/x/y", "DOCUMENT_URI": "/sp/x/y"},
        "/sp",
        "/x/y",
    ),
    nginx_set(
        "split_path_info itself",
        "fastcgi",
        "/sp",
        {"SCRIPT_NAME": "/sp", "PATH_INFO": "", "DOCUMENT_URI": "/sp"},
        "/sp",
        "",
    ),
    nginx_set(
        "split_path_info with the slash on the wrong side",
        "fastcgi",
        "/sp/x",
        {"SCRIPT_NAME": "/sp/", "PATH_INFO": "x", "DOCUMENT_URI": "/sp/x"},
        "/sp",
        "/x",
    ),
    nginx_set(
        "stock with PATH_INFO $fastcgi_script_name",
        "fastcgi",
        "/x/y/",
        {"SCRIPT_NAME": "/x/y/", "PATH_INFO": "/x/y/", "DOCUMENT_URI": "/x/y/"},
        "",
        "/x/y/",
    ),
    nginx_set("fastcgi_index", "fastcgi", "/a/", {"SCRIPT_NAME": "/a/i.py", "DOCUMENT_URI": "/a/"}, "", "/a/"),
    nginx_set(
        "SCRIPT_NAME with PATH_INFO unset",
        "fastcgi",
        "/a/b",
        {"SCRIPT_NAME": "/a", "PATH_INFO": "", "DOCUMENT_URI": "/a/b"},
        "/a",
        "/b",
    ),
    nginx_set("PATH_INFO no slash", "uwsgi", "/x", {"PATH_INFO": "x"}, "", "/x"),
    # Apache
    *(
        case
        for protocol in ("fastcgi", "scgi")
        for case in (
            apache("ProxyPass /f", protocol, "/f/x", {"SCRIPT_NAME": "/f/x"}, "/f", "/x", passed="/x"),
            apache("ProxyPass /f /", protocol, "/f/", {"SCRIPT_NAME": "/f/"}, "/f", "/", passed="/"),
            apache("ProxyPass /f itself", protocol, "/f", {"SCRIPT_NAME": "/f"}, "/f", "", passed="/"),
            apache("ProxyPass /f //", protocol, "/f/x//y", {"SCRIPT_NAME": "/f/x/y"}, "/f", "/x/y", passed="/x/y"),
            apache("ProxyPass /f ..", protocol, "/f/x/../../f/y", {"SCRIPT_NAME": "/f/y"}, "/f", "/y", passed="/y"),
            apache("ProxyPass /f with a mount", protocol, "/f/x", {"SCRIPT_NAME": "/f/x"}, "", "/f/x", "", "/x"),
            apache("ProxyPass / with a mount", protocol, "/f/x", {"SCRIPT_NAME": "/f/x"}, "/f", "/x", "/f", "/f/x"),
            apache("mount, prefix moved", protocol, "/b/x", {"SCRIPT_NAME": "/b/x"}, "/f", "/x", "/f", "/x"),
            apache("ProxyPass / to a path", protocol, "/x", {"SCRIPT_NAME": "/x"}, "", "/x", passed="/base/x"),
            apache(
                "ProxyPass /f encoded",
                protocol,
                "/f/caf%C3%A9/x%25y/z",
                {"SCRIPT_NAME": "/f" + CAFE + "/x%y/z"},
                "/f",
                CAFE + "/x%y/z",
                passed="/caf%C3%A9/x%25y/z",
            ),
            apache("pathinfo", protocol, "/p/x", {"SCRIPT_NAME": "/p", "PATH_INFO": "/x"}, "/p", "/x", passed="/x"),
            apache("pathinfo /", protocol, "/p/", {"SCRIPT_NAME": "/p", "PATH_INFO": "/"}, "/p", "/", passed="/"),
            apache("pathinfo itself", protocol, "/p", {"SCRIPT_NAME": "/p"}, "/p", "", passed="/"),
            apache(
                "pathinfo //",
                protocol,
                "/p//x//y",
                {"SCRIPT_NAME": "/p", "PATH_INFO": "/x/y"},
                "/p",
                "/x/y",
                passed="/x/y",
            ),
        )
    ),
    apache("generic ProxyPass /f", "fastcgi", "/f/x", {"SCRIPT_NAME": "/f/x"}, "", "/f/x"),
    apache("generic with a mount", "fastcgi", "/f/x", {"SCRIPT_NAME": "/f/x"}, "/f", "/x", "/f"),
    apache("generic SCRIPT_NAME by ProxyFCGISetEnvIf", "fastcgi", "/f/x", {"SCRIPT_NAME": "/f"}, "/f", "/x"),
    apache("generic rewritten", "fastcgi", "/old", {"SCRIPT_NAME": "/new/x"}, "", "/new/x"),
    apache(
        "pathinfo encoded",
        "fastcgi",
        "/fp/caf%C3%A9/x%25y/z",
        {"SCRIPT_NAME": "/fp", "PATH_INFO": CAFE + "/x%y/z"},
        "/fp",
        CAFE + "/x%y/z",
        passed="/caf%C3%A9/x%25y/z",
    ),
    # proxy-scgi-pathinfo: PATH_INFO is encoded, SCRIPT_NAME is what Apache found no such end on.
    apache(
        "pathinfo encoded",
        "scgi",
        "/sp/caf%C3%A9/x%25y/z",
        {"SCRIPT_NAME": "/sp" + CAFE + "/x%y", "PATH_INFO": "/caf%C3%A9/x%25y/z"},
        "/sp",
        CAFE + "/x%y/z",
        passed="/caf%C3%A9/x%25y/z",
    ),
    apache(
        "pathinfo encoded at the root",
        "scgi",
        "/caf%C3%A9",
        {"SCRIPT_NAME": CAFE, "PATH_INFO": "/caf%C3%A9"},
        "",
        CAFE,
        passed="/caf%C3%A9",
    ),
    # SetHandler "proxy:fcgi://..." passes a file's name on, and splits the path where there is no such file any more.
    apache("SetHandler", "fastcgi", "/s/x", {"SCRIPT_NAME": "/s", "PATH_INFO": "/x"}, "", "/s/x", passed=ROOT + "/s"),
    apache("SetHandler /", "fastcgi", "/", {"SCRIPT_NAME": "/"}, "", "/", passed=ROOT + "/"),
    apache("SetHandler mount", "fastcgi", "/s", {"SCRIPT_NAME": "/s"}, "/s", "", "/s", ROOT + "/s"),
    apache("SetHandler", "uwsgi", "/s/x", {"SCRIPT_NAME": ROOT, "PATH_INFO": "/s"}, "", "/s/x", passed=ROOT + "/s"),
    # RewriteRule [P] where it applies to directories
    apache("rewritten [P]", "fastcgi", "/s/x", {"SCRIPT_NAME": "/s", "PATH_INFO": "/x"}, "", "/s/x", passed="/s/x"),
    apache("mount", "uwsgi", "/u/x", {"SCRIPT_NAME": "/u", "PATH_INFO": "/x"}, "/u", "/x", passed="/x"),
    apache("mount itself", "uwsgi", "/u", {"SCRIPT_NAME": "/u", "PATH_INFO": "/"}, "/u", "/", passed="/"),
    apache("mount/", "uwsgi", "/u/", {"SCRIPT_NAME": "/u/", "PATH_INFO": "/"}, "/u", "/", passed="/"),
    apache("mount //", "uwsgi", "/u/x//y", {"SCRIPT_NAME": "/u", "PATH_INFO": "/x/y"}, "/u", "/x/y", passed="/x/y"),
    apache("mount twice", "uwsgi", "/u/u/x", {"SCRIPT_NAME": "/u", "PATH_INFO": "/u/x"}, "/u", "/u/x", passed="/u/x"),
    apache("mount moved", "uwsgi", "/u/x", {"SCRIPT_NAME": "/u", "PATH_INFO": "/x"}, "/app", "/x", "/app", "/x"),
    apache("mount ..", "uwsgi", "/u/x/../y", {"SCRIPT_NAME": "/u", "PATH_INFO": "/y"}, "/u", "/y", passed="/y"),
    # mod_fcgid runs a file
    apache(
        "mod_fcgid",
        "fastcgi",
        "/app.fcgi/x",
        {"SCRIPT_NAME": "/app.fcgi", "PATH_INFO": "/x", "SCRIPT_FILENAME": "/var/www/html/app.fcgi"},
        "/app.fcgi",
        "/x",
    ),
    apache(
        "mod_fcgid script itself",
        "fastcgi",
        "/app.fcgi",
        {"SCRIPT_NAME": "/app.fcgi", "SCRIPT_FILENAME": "/var/www/html/app.fcgi"},
        "/app.fcgi",
        "",
    ),
    apache(
        "mod_fcgid behind a RewriteRule",
        "fastcgi",
        "/shop/x",
        {"SCRIPT_NAME": "/app.fcgi", "PATH_INFO": "/shop/x", "SCRIPT_FILENAME": "/var/www/html/app.fcgi"},
        "",
        "/shop/x",
    ),
    # lighttpd
    lighttpd("prefix", "/f/x%2Fy%25", {"SCRIPT_NAME": "/f", "PATH_INFO": "/x/y%"}, "/f", "/x/y%"),
    lighttpd("prefix/", "/f/", {"SCRIPT_NAME": "/f", "PATH_INFO": "/"}, "/f", "/"),
    lighttpd("prefix itself", "/f", {"SCRIPT_NAME": "/f"}, "/f", ""),
    lighttpd("prefix itself ..", "/f/z/../../f", {"SCRIPT_NAME": "/f"}, "/f", ""),
    lighttpd("root", "/", {"SCRIPT_NAME": "/"}, "", "/"),
    lighttpd("root is the first segment", "/x/y", {"SCRIPT_NAME": "/x", "PATH_INFO": "/y"}, "/x", "/y"),
    lighttpd("root with a mount", "/x/y", {"SCRIPT_NAME": "/x", "PATH_INFO": "/y"}, "", "/x/y", ""),
    lighttpd("root with a mount, one segment", "/x", {"SCRIPT_NAME": "/x"}, "", "/x", ""),
    # CGI scripts, with and without PATH_INFO; the last behind Apache's RewriteRule ^(.*)$ /cgi-bin/a/$1
    Case("cgi", "cgi", "/cgi-bin/a/x%2Fy", {"SCRIPT_NAME": "/cgi-bin/a", "PATH_INFO": "/x/y"}, "/cgi-bin/a", "/x/y"),
    Case("cgi script", "cgi", "/cgi-bin/a?q", {"SCRIPT_NAME": "/cgi-bin/a"}, "/cgi-bin/a", ""),
    Case("cgi script, nothing else told", "cgi", "", {"SCRIPT_NAME": "/cgi-bin/a"}, "/cgi-bin/a", ""),
    Case("cgi root", "cgi", "/x", {"SCRIPT_NAME": "", "PATH_INFO": "/x", "SCRIPT_FILENAME": "/srv/a"}, "", "/x"),
    Case("cgi rewritten", "cgi", "/x", {"SCRIPT_NAME": "/cgi-bin/a", "PATH_INFO": "/x"}, "", "/x"),
    # Caddy, HAProxy, h2o
    Case(
        "caddy split",
        "fastcgi",
        "/app.py/x",
        {"SCRIPT_NAME": "/app.py", "PATH_INFO": "/x", "DOCUMENT_URI": "/app.py"},
        "/app.py",
        "/x",
    ),
    Case(
        "caddy split itself",
        "fastcgi",
        "/app.py",
        {"SCRIPT_NAME": "/app.py", "PATH_INFO": "", "DOCUMENT_URI": "/app.py"},
        "/app.py",
        "",
    ),
    Case(
        "caddy split twice the same",
        "fastcgi",
        "/app.py/app.py",
        {"SCRIPT_NAME": "/app.py", "PATH_INFO": "/app.py", "DOCUMENT_URI": "/app.py"},
        "/app.py",
        "/app.py",
    ),
    Case(
        "caddy split below a prefix",
        "fastcgi",
        "/p/app.py",
        {"SCRIPT_NAME": "/p/app.py", "PATH_INFO": "", "DOCUMENT_URI": "/app.py"},
        "/p/app.py",
        "",
    ),
    Case("caddy mount, prefix cut", "fastcgi", "/app/x", {"PATH_INFO": "/x", "SCRIPT_NAME": ""}, "/app", "/x", "/app"),
    Case("haproxy path-info", "fastcgi", "/a/x", {"SCRIPT_NAME": "/a", "PATH_INFO": "/x"}, "/a", "/x"),
    Case("haproxy path-info empty", "fastcgi", "/a", {"SCRIPT_NAME": "/a", "PATH_INFO": ""}, "/a", ""),
    Case("haproxy does not normalise", "fastcgi", "/a/../b//c", {"SCRIPT_NAME": "/a/../b//c"}, "", "/a/../b//c"),
    Case("haproxy mount", "fastcgi", "/a/x", {"SCRIPT_NAME": "/a/x"}, "/a", "/x", "/a"),
    # Bare parameters, and our own HTTP
    Case("http", "http", "/a%2Fb//c;d?e", {}, "", "/a/b//c;d"),
    Case("http encoded", "http", "/caf%C3%A9/%2541", {}, "", CAFE + "/%41"),
    Case("http raw bytes", "http", CAFE, {}, "", CAFE),
    Case("http broken escape", "http", "/%zz%", {}, "", "/%zz%"),
    Case("http mount", "http", "/app/%61pp", {}, "/app", "/app", "/app"),
    Case("http mount encoded", "http", "/%61pp/x", {}, "/app", "/x", "/app"),
    Case("http mount itself", "http", "/app?x", {}, "/app", "", "/app"),
    Case("http elsewhere than the mount", "http", "/other", {}, "/app", "/other", "/app"),
    Case("absolute-form", "http", "http://example.org/a%20b?c", {}, "", "/a b"),
    Case("absolute-form without a path", "http", "http://example.org", {}, "", "/"),
    Case("absolute-form with a query alone", "http", "http://example.org?x=/y", {}, "", "/"),
    Case("asterisk", "http", "*", {}, "", ""),
    Case("asterisk as SCRIPT_NAME", "fastcgi", "*", {"SCRIPT_NAME": "*"}, "", ""),
    Case("asterisk with a mount", "http", "*", {}, "/app", "", "/app"),
    Case("empty values", "scgi", "", {"SCRIPT_NAME": "", "PATH_INFO": "", "DOCUMENT_URI": ""}, "", ""),
    Case("DOCUMENT_URI alone", "scgi", "", {"DOCUMENT_URI": "/x"}, "", "/x"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_script_name_and_path_info(case: Case) -> None:
    environ = to_environ(case.params(), case.protocol, case.mount)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (case.script, case.path)


def test_our_http_gives_what_a_front_end_would() -> None:
    codec = HTTP1Codec(variables={"SERVER_NAME": "localhost", "SERVER_PORT": "8000"})
    request = codec.feed(b"GET http://shop.example/caf%C3%A9?a=%20 HTTP/1.1\r\nHost: other\r\n\r\n")[0]
    assert isinstance(request, Request)
    environ = to_environ(request.params, "http", None)
    assert environ["PATH_INFO"] == CAFE
    assert environ["QUERY_STRING"] == "a=%20"
    assert environ["HTTP_HOST"] == "shop.example"


# -- everything else goes through ---------------------------------------------------------------------------------


def minimal(**more: str) -> dict[str, str]:
    return {"REQUEST_METHOD": "GET", "REQUEST_URI": "/", **more}


def test_the_params_become_the_environ_in_place() -> None:
    params = minimal()
    assert to_environ(params, "scgi", None) is params


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REMOTE_ADDR", "2001:db8::1"),
        ("REMOTE_USER", "J\xc3\xb6rg"),
        ("AUTH_TYPE", ""),
        ("SSL_CLIENT_S_DN", "CN=%41"),
        ("MY_SETTING", "a%2Fb"),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", "12"),
        ("HTTP_HOST", "example.org:81"),
        ("HTTP_X_FORWARDED_PROTO", "https"),
        ("HTTP_AUTHORIZATION", "Basic eDp5"),
        ("QUERY_STRING", "caf%C3%A9"),
        ("SERVER_NAME", "_"),
        ("REQUEST_URI", "/caf%C3%A9?x"),
        ("HTTP_PROXY_CONNECTION", "keep-alive"),
    ],
)
def test_untouched(name: str, value: str) -> None:
    assert to_environ(minimal(**{name: value}), "fastcgi", None)[name] == value


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"])
@pytest.mark.parametrize("value", ["", "x"])
def test_never_passed_on(name: str, value: str) -> None:
    assert name not in to_environ(minimal(**{name: value}), "fastcgi", None)


def test_an_empty_content_length_is_an_absent_one() -> None:
    assert "CONTENT_LENGTH" not in to_environ(minimal(CONTENT_LENGTH=""), "fastcgi", None)


@pytest.mark.parametrize("params", [{}, {"REQUEST_METHOD": ""}, {"REQUEST_URI": "/"}])
def test_a_request_without_a_method_is_refused(params: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError, match="no REQUEST_METHOD") as caught:
        to_environ(params, "scgi", None)
    assert caught.value.protocol == "scgi"
    assert caught.value.status_hint == 400


@pytest.mark.parametrize("sent", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}, {"CONTENT_LENGTH": "5"}])
def test_nginx_over_scgi_unbuffered_counts_what_it_has_read(sent: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError, match="scgi_request_buffering must be on") as caught:
        to_environ(minimal(**sent, HTTP_CONTENT_LENGTH="10"), "scgi", None)
    assert caught.value.status_hint == 400
    assert "HTTP_CONTENT_LENGTH" not in to_environ(minimal(**sent, HTTP_CONTENT_LENGTH="10"), "uwsgi", None)


@pytest.mark.parametrize(
    ("sent", "query"),
    [({"REQUEST_URI": "/a?b?c"}, "b?c"), ({"REQUEST_URI": "/a"}, ""), ({}, ""), ({"QUERY_STRING": "x"}, "x")],
)
def test_query_string(sent: dict[str, str], query: str) -> None:
    assert to_environ({"REQUEST_METHOD": "GET", **sent}, "scgi", None)["QUERY_STRING"] == query


@pytest.mark.parametrize(
    ("sent", "name", "port"),
    [
        ({}, "localhost", "80"),
        ({"SERVER_NAME": "", "SERVER_PORT": ""}, "localhost", "80"),
        ({"SERVER_NAME": "a", "SERVER_PORT": "81"}, "a", "81"),
        ({"SERVER_NAME": "", "HTTP_HOST": "b:82"}, "b", "80"),
        ({"HTTP_HOST": "[::1]:82"}, "[::1]", "80"),
        ({"HTTP_HOST": ":82"}, "localhost", "80"),
        ({"HTTPS": "on"}, "localhost", "443"),
        ({"REQUEST_SCHEME": "https"}, "localhost", "443"),
    ],
)
def test_server_name_and_port_are_never_empty(sent: dict[str, str], name: str, port: str) -> None:
    environ = to_environ(minimal(**sent), "fastcgi", None)
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


@pytest.mark.parametrize(("sent", "protocol"), [({}, "HTTP/1.0"), ({"SERVER_PROTOCOL": "HTTP/2.0"}, "HTTP/2.0")])
def test_server_protocol(sent: dict[str, str], protocol: str) -> None:
    assert to_environ(minimal(**sent), "scgi", None)["SERVER_PROTOCOL"] == protocol


@pytest.mark.parametrize(
    ("sent", "scheme"),
    [
        ({}, "http"),
        ({"HTTPS": "on"}, "https"),
        ({"HTTPS": "ON"}, "https"),
        ({"HTTPS": "1"}, "https"),
        ({"HTTPS": ""}, "http"),
        ({"HTTPS": "off", "REQUEST_SCHEME": "https"}, "http"),
        ({"HTTPS": "", "REQUEST_SCHEME": "https"}, "https"),
        ({"REQUEST_SCHEME": "HTTPS"}, "https"),
        ({"REQUEST_SCHEME": "http", "UWSGI_SCHEME": "https"}, "http"),
        ({"UWSGI_SCHEME": "https"}, "https"),
        ({"REQUEST_SCHEME": "javascript"}, "http"),
        ({"HTTP_X_FORWARDED_PROTO": "https"}, "http"),  # whoever the client is may have written it
    ],
)
def test_url_scheme(sent: dict[str, str], scheme: str) -> None:
    assert url_scheme(sent) == scheme


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a", "a"),
        ("a:1", "a"),
        ("", ""),
        ("[::1]", "[::1]"),
        ("[::1]:80", "[::1]"),
        ("[::1", ""),
        ("[", ""),
    ],
)
def test_host_name(host: str, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a%20b?c%20", "/a b"),
        ("", ""),
        ("*", ""),
        ("?x", ""),
        ("a/b", ""),
        ("://x/y", ""),
        ("h1://x/y", ""),
        ("HTTPS://x/y/%25", "/y/%"),
        ("http://x?/y", "/"),
        ("//x/y", "//x/y"),
        ("/%00%ff", "/\0\xff"),
    ],
)
def test_request_path(uri: str, path: str) -> None:
    assert request_path({"REQUEST_URI": uri}) == path


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", ""),
        ("/", "/"),
        ("//", "/"),
        ("/a//b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/../..", "/"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/a//", "/a/"),
        ("/.a/..b/...", "/.a/..b/..."),
    ],
)
def test_normal_path(path: str, normal: str) -> None:
    assert normal_path(path) == normal


# -- properties ---------------------------------------------------------------------------------------------------

latin1 = st.text(st.characters(max_codepoint=255), max_size=12)
pathlike = st.text("/a.%2FeE*;?\xe9", max_size=12)
NAMES = [
    "SCRIPT_NAME",
    "PATH_INFO",
    "REQUEST_URI",
    "DOCUMENT_URI",
    "QUERY_STRING",
    "CONTENT_LENGTH",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "HTTPS",
    "REQUEST_SCHEME",
    "SERVER_SOFTWARE",
    "SCRIPT_FILENAME",
    "CONTEXT_DOCUMENT_ROOT",
    "REQUEST_METHOD",
    "HTTP_PROXY",
    "HTTP_CONTENT_LENGTH",
]
names = st.sampled_from(NAMES)
odd_values = st.sampled_from(
    [
        "lighttpd/1",
        "on",
        "GET",
        "proxy:",
        "proxy:fcgi:",
        "proxy:scgi://h/a%2Fb",
        "proxy:uwsgi://h/a/../%",
        "/a",
        "/a/b/",
    ]
)
some_params = st.dictionaries(names | latin1, pathlike | latin1 | odd_values)
protocols = st.sampled_from(["fastcgi", "scgi", "uwsgi", "http"])
mounts = st.sampled_from([None, "", "/a", "/a/b"])


@given(some_params, protocols, mounts)
def test_any_params_make_an_environ_or_are_refused(params: dict[str, str], protocol: str, mount: str | None) -> None:
    before = dict(params)
    try:
        environ = to_environ(params, protocol, mount)
    except RemoteProtocolError:
        assert not before.get("REQUEST_METHOD") or "HTTP_CONTENT_LENGTH" in before
        return
    script, path = environ["SCRIPT_NAME"], environ["PATH_INFO"]
    assert mount is None or script == mount
    assert script == "" or (script.startswith("/") and not script.endswith("/"))
    assert path == "" or path.startswith("/")
    assert all(type(name) is str and type(value) is str for name, value in environ.items())
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"]
    untouched = before.keys() - set(NAMES) - {"SERVER_PROTOCOL"}
    assert {name: environ.get(name) for name in untouched if not name.startswith("HTTP_")} == {
        name: before[name] for name in untouched if not name.startswith("HTTP_")
    }


segments = st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="/\0"), min_size=1), max_size=4)


def quoted(path: str) -> str:
    return "".join(c if (c.isascii() and c.isalnum()) or c == "/" else f"%{ord(c):02X}" for c in path)


@given(segments, st.booleans(), segments)
def test_all_front_ends_agree_on_every_path(parts: list[str], slash: bool, noise: list[str]) -> None:
    path = normal_path("/" + "/".join(parts) + ("/" if slash and parts else ""))
    # The client may write the same path in other ways.
    uri = "/" + "".join(f"{quoted(part)}/../" for part in noise if part not in (".", "..")) + "." + quoted(path)
    sent = [
        ("fastcgi", {"SCRIPT_NAME": path, "DOCUMENT_URI": path}),
        ("scgi", {"DOCUMENT_URI": path}),
        ("uwsgi", {"PATH_INFO": path}),
        ("fastcgi", {"SCRIPT_NAME": path}),
        ("scgi", {"SCRIPT_NAME": path}),
        ("uwsgi", {"SCRIPT_NAME": "", "PATH_INFO": path}),
    ]
    for protocol, params in sent:
        assert split_path({"REQUEST_URI": uri, **params}, protocol, None) == ("", path)
        assert split_path({"REQUEST_URI": uri, **params}, protocol, "") == ("", path)
        assert split_path({"REQUEST_URI": uri, **params}, protocol, path.rstrip("/")) == (
            path.rstrip("/"),
            "/" if path.endswith("/") else "",
        )


@given(segments)
def test_mounts_of_mod_proxy_uwsgi_and_scgi_pathinfo(parts: list[str]) -> None:
    path = normal_path("/" + "/".join(parts))
    uri = "/m" + quoted(path)
    assert split_path({"REQUEST_URI": uri, "SCRIPT_NAME": "/m", "PATH_INFO": path}, "uwsgi", None) == ("/m", path)
    assert split_path({"REQUEST_URI": uri, "SCRIPT_NAME": "/m", "PATH_INFO": path}, "fastcgi", None) == ("/m", path)


@given(pathlike.map(lambda path: "/" + path))
def test_normal_path_is_idempotent_and_has_no_dots(path: str) -> None:
    normal = normal_path(path)
    assert normal_path(normal) == normal
    assert not {".", ".."} & set(normal.split("/"))
    assert "//" not in normal


def test_scgi_half_an_upload_of_nginx_is_refused() -> None:
    """With nginx's scgi_request_buffering off, CONTENT_LENGTH may be what has come so far."""
    params = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/", "CONTENT_LENGTH": "5", "HTTP_CONTENT_LENGTH": "10"}
    with pytest.raises(RemoteProtocolError, match="scgi_request_buffering") as caught:
        to_environ(dict(params), "scgi", None)
    assert caught.value.status_hint == 400
    assert "HTTP_CONTENT_LENGTH" not in to_environ(dict(params), "uwsgi", None)
    environ = to_environ({**params, "CONTENT_LENGTH": "10"}, "scgi", None)
    assert environ["CONTENT_LENGTH"] == "10"
    assert "HTTP_CONTENT_LENGTH" not in environ
