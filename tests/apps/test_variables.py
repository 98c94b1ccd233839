"""The environment of a script: RFC 3875's variables, what front ends add, and nothing that rules programs."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from hypothesis import given, strategies as st

from gateways import __version__
from gateways.apps.choice import Choice
from gateways.apps.variables import PATH, meta_variables
from gateways.environ import to_environ

ALWAYS = {
    "DOCUMENT_ROOT": "/srv",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "PATH": PATH,
    "QUERY_STRING": "",
    "REDIRECT_STATUS": "200",
    "REMOTE_ADDR": "",
    "REQUEST_METHOD": "GET",
    "SCRIPT_FILENAME": "/srv/x.cgi",
    "SCRIPT_NAME": "/x.cgi",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.0",
    "SERVER_SOFTWARE": f"gateways/{__version__}",
}


def chosen(script: str = "/x.cgi", path: str = "", root: str = "/srv") -> Choice:
    return Choice("/srv/x.cgi", script, path, ("/srv/x.cgi",), 0, 0, 0o100755, root)


def made(
    params: dict[str, str] | None = None, choice: Choice | None = None, passed: dict[str, str] | None = None
) -> dict[str, str]:
    asked = to_environ({"REQUEST_METHOD": "GET"} | (params or {}), "fastcgi", None)
    return meta_variables(asked, choice or chosen(), passed=passed or {})


def added(params: dict[str, str], **more: str) -> dict[str, str]:
    """What is there beside, or other than, what is there always."""
    return {name: value for name, value in made(params).items() if ALWAYS.get(name) != value}


def test_what_is_always_there() -> None:
    assert made() == ALWAYS


def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    assert made() == ALWAYS


@pytest.mark.parametrize(
    "params",
    [
        {"HTTP_COOKIE": "a=b", "HTTP_X_1": "", "HTTP_AUTHORIZATION": "Basic bWU6c2VjcmV0"},
        {"GIT_PROJECT_ROOT": "/srv/git", "GIT_HTTP_EXPORT_ALL": ""},
        {"REMOTE_USER": "me", "AUTH_TYPE": "Basic", "REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "4711"},
        {"SERVER_NAME": "shop", "SERVER_PORT": "443", "HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3"},
        {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "3", "CONTENT_TYPE": "text/plain"},
        {"REQUEST_URI": "/x.cgi?a=%20b", "QUERY_STRING": "a=%20b", "SERVER_PROTOCOL": "HTTP/2.0"},
        {"DOCUMENT_ROOT": "/srv/www", "SERVER_ADMIN": "", "_UNDER": "1", "A1": "2"},
        {"HTTP_USER_AGENT": "() { :;}; echo broken"},  # bash imports functions from BASH_FUNC_*%% alone, since 2014
    ],
)  # fmt: skip
def test_what_is_passed_on(params: dict[str, str]) -> None:
    assert added(params) == {name: value for name, value in params.items() if ALWAYS.get(name) != value}


@pytest.mark.parametrize(
    "name",
    [
        # of clients
        "HTTP_PROXY", "HTTP_TRANSFER_ENCODING", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_GATEWAYS_SECRET",
        "HTTP_X.Y", "HTTP_X-Y", "HTTP_x",
        # of a web server
        "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "PYTHONPATH", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT",
        "PERLLIB", "RUBYLIB", "RUBYOPT", "NODE_OPTIONS", "BASH_ENV", "BASH_FUNC_x", "BASHOPTS", "ENV", "IFS",
        "SHELLOPTS", "PS4", "CDPATH", "GLOBIGNORE", "GCONV_PATH", "MALLOC_CHECK_", "GLIBC_TUNABLES", "LOCPATH",
        "NLSPATH", "HOSTALIASES", "RES_OPTIONS", "TMPDIR", "TZDIR", "HOME", "USER", "SHELL", "JAVA_TOOL_OPTIONS",
        "HTTPS_PROXY", "NO_PROXY", "PHPRC", "PHP_INI_SCAN_DIR", "GATEWAYS_SECRET", "GATEWAYS_HANDOVER", "FCGI_ROLE",
        "FCGI_WEB_SERVER_ADDRS", "LISTEN_FDS", "NOTIFY_SOCKET", "OPENSSL_CONF", "SSL_CERT_FILE",
        # of nobody
        "http_proxy", "lower", "Mixed", "WITH-DASH", "WITH SPACE", "BASH_FUNC_x%%", "1A", "A=B", "\u00c9", "A\n", "A\0",
        "proxy-sendcl",
    ],
)  # fmt: skip
def test_what_is_not_passed_on(name: str) -> None:
    assert made({name: "1"} | ({"CONTENT_LENGTH": "1"} if "LENGTH" in name else {})).keys() - {"CONTENT_LENGTH"} == set(
        ALWAYS
    )


def test_names_beyond_those_that_are_remembered() -> None:
    names = [f"HTTP_X_{number}" for number in range(600)] + ["HTTP_" + "X" * 100]
    for _ in range(2):
        variables = made(dict.fromkeys([*names, "LD_X", "no_capitals"], "x"))
        assert [name for name in variables if name.startswith("HTTP_X")] == names
        assert not {"LD_X", "no_capitals"} & set(variables)


@pytest.mark.parametrize("name", ["PATH", "GATEWAY_INTERFACE", "SERVER_SOFTWARE", "REDIRECT_STATUS", "SCRIPT_FILENAME"])
def test_what_is_made_here(name: str) -> None:
    assert made({name: "/other"})[name] == ALWAYS[name]


@pytest.mark.parametrize("name", ["AUTH_TYPE", "REMOTE_USER", "REMOTE_IDENT", "REMOTE_HOST", "HTTPS", "CONTENT_TYPE"])
def test_what_is_never_empty(name: str) -> None:
    assert name not in made({name: ""})


@pytest.mark.parametrize("length", ["", "0"])
def test_no_length_and_no_type_without_a_body(length: str) -> None:
    found = made({"CONTENT_LENGTH": length, "CONTENT_TYPE": "text/plain" if length else ""})
    assert {"CONTENT_LENGTH", "CONTENT_TYPE"}.isdisjoint(found)


def test_a_type_without_a_body() -> None:
    """Over HTTP: a GET with a Content-Type and no Content-Length."""
    asked = to_environ({"REQUEST_METHOD": "GET", "CONTENT_TYPE": "text/plain"}, "http", None)
    assert "CONTENT_TYPE" not in meta_variables(asked, chosen(), passed={}, body=False)


def test_a_body_of_unknown_length_has_its_type() -> None:
    found = made({"REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/plain", "HTTP_TRANSFER_ENCODING": "chunked"})
    assert added({"REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/plain"})["CONTENT_TYPE"] == "text/plain"
    assert "CONTENT_LENGTH" not in found


@pytest.mark.parametrize(
    ("params", "value"),
    [
        ({"HTTPS": "on"}, "on"),
        ({"HTTPS": "1"}, "on"),
        ({"HTTPS": "off"}, None),
        ({"REQUEST_SCHEME": "https"}, "on"),
        ({"REQUEST_SCHEME": "http"}, None),
    ],
)
def test_https_is_on_or_not_there(params: dict[str, str], value: str | None) -> None:
    assert made(params).get("HTTPS") == value


def test_path_info_and_where_it_leads() -> None:
    found = made({"PATH_TRANSLATED": "/etc/passwd"}, chosen(path="/a/b"))
    assert (found["PATH_INFO"], found["PATH_TRANSLATED"]) == ("/a/b", "/srv/a/b")
    assert "PATH_TRANSLATED" not in made({"PATH_TRANSLATED": "/etc/passwd"})


def test_path_translated_for_a_single_script() -> None:
    """There is no root: the front end's word, as git-http-backend may want it."""
    found = made({"PATH_TRANSLATED": "/srv/git/x", "DOCUMENT_ROOT": "/w"}, chosen("/git", "/x", ""))
    assert (found["PATH_TRANSLATED"], found["DOCUMENT_ROOT"]) == ("/srv/git/x", "/w")
    found = made({}, chosen("/git", "/x", ""))
    assert {"PATH_TRANSLATED", "DOCUMENT_ROOT"}.isdisjoint(found)


def test_the_operator_has_the_last_word() -> None:
    found = made(
        {"LANG": "de", "HTTP_PROXY": "http://evil"}, passed={"LANG": "C", "PATH": "/bin", "LD_PRELOAD": "/x.so"}
    )
    assert (found["LANG"], found["PATH"], found["LD_PRELOAD"]) == ("C", "/bin", "/x.so")
    assert "HTTP_PROXY" not in found


def test_a_nul_cannot_be_passed() -> None:
    assert {"HTTP_X", "REMOTE_USER", "CONTENT_TYPE"}.isdisjoint(
        made({"HTTP_X": "a\0b", "REMOTE_USER": "me\0", "CONTENT_TYPE": "a\0"})
    )


def test_bytes_go_through_as_they_came() -> None:
    """Parameters are bytes as latin-1, an environment is bytes as the file system's text."""
    raw = bytes(range(1, 256))
    found = made({"HTTP_X": raw.decode("latin-1")}, chosen("/caf\u00c3\u00a9", "/\u00ff"))
    assert os.fsencode(found["HTTP_X"]) == raw
    assert os.fsencode(found["SCRIPT_NAME"]) == b"/caf\xc3\xa9"
    assert os.fsencode(found["PATH_TRANSLATED"]) == b"/srv/\xff"


def test_no_function_comes_of_a_value() -> None:
    """Shellshock (CVE-2014-6271): the values pass, and a shell takes them for text."""
    value = "() { :;}; echo broken"
    variables = made({"HTTP_X": value, "BASH_FUNC_ls%%": value})
    done = subprocess.run(["bash", "-c", 'echo "$HTTP_X"'], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == value + "\n"


NAMES = st.text(st.characters(max_codepoint=255), max_size=5) | st.text("AZ_09", max_size=9)


@given(st.dictionaries(NAMES, st.text(max_size=9), max_size=6))
def test_every_variable_can_be_set(params: dict[str, str]) -> None:
    latin = {name: value.encode("utf-8", "replace").decode("latin-1") for name, value in params.items()}
    asked = to_environ(latin | {"REQUEST_METHOD": "GET"}, "http", None)
    found = meta_variables(asked, chosen(), passed={})
    for name, value in found.items():
        assert re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)
        assert "\0" not in value
        os.fsencode(value)
    assert found["PATH"] == PATH
    assert ALWAYS.keys() <= found.keys()
