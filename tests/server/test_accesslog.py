"""The access log: what each atom shows, and that nothing that a client or an application does breaks a line."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import given, strategies as st

from gateways.errors import ConfigError
from gateways.server import zone as zone_module
from gateways.server.accesslog import ATOMS, AccessLog, Plan
from gateways.server.logfiles import LogTarget

FINISHED = 1_790_000_000.75  # 2026-09-21 14:13:20.75 UTC
PARAMS = {
    "REQUEST_METHOD": "GET",
    "REQUEST_URI": "/shop/a%20b?x=1",
    "SCRIPT_NAME": "/shop",
    "PATH_INFO": "/a b",
    "QUERY_STRING": "x=1",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_NAME": "shop.example",
    "SERVER_PORT": "443",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_USER": "frank",
    "CONTENT_TYPE": "text/plain",
    "CONTENT_LENGTH": "12",
    "HTTP_HOST": "www.shop.example:8080",
    "HTTP_REFERER": "https://example.org/",
    "HTTP_USER_AGENT": "Mozilla/5.0",
    "HTTP_TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "SSL_CIPHER": "TLS_AES",
}


class Lines(LogTarget):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


def line_of(
    form: str,
    params: dict[str, Any] | None = None,
    *,
    protocol: str = "fastcgi",
    peer: str = "10.0.0.9:4711",
    status: str = "200 OK",
    sent: int = 2326,
    finished: float = FINISHED,
    taken: float = 0.25,
    queued: float = 0.0015,
    worker: int | None = 77,
) -> str:
    """Return the line of one request without its newline; fails where it is not exactly one."""
    target = Lines()
    log = AccessLog(target, form, worker=worker)
    log.record(dict(PARAMS) if params is None else params, protocol, peer, status, sent, finished, taken, queued)
    (line,) = target.lines
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return line.decode()[:-1]


def json_of(params: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:  # noqa: ANN401  (those of line_of)
    found = json.loads(line_of("json", params, **rest))
    assert isinstance(found, dict)
    return found


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Set the time zone that the process has been started in; afterwards it is as it was."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        monkeypatch.setattr(zone_module, "_GIVEN", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


# -- formats ----------------------------------------------------------------------------------------------------------


def test_combined_is_apaches(zone: Callable[[str], None]) -> None:
    zone("XXX+7")
    assert line_of("combined") == (
        '192.0.2.7 - frank [21/Sep/2026:07:13:20 -0700] "GET /shop/a%20b?x=1 HTTP/1.1" 200 2326 '
        '"https://example.org/" "Mozilla/5.0"'
    )


def test_combined_of_a_request_without_anything(zone: Callable[[str], None]) -> None:
    zone("UTC0")
    assert line_of("combined", {}, peer="", status="", sent=0) == (
        '- - - [21/Sep/2026:14:13:20 +0000] "- - -" 499 - "-" "-"'
    )


@pytest.mark.parametrize(
    ("atom", "shown"),
    [
        ("%h", "192.0.2.7"),
        ("%l", "-"),
        ("%u", "frank"),
        ("%r", "GET /shop/a%20b?x=1 HTTP/1.1"),
        ("%s", "200"),
        ("%>s", "200"),
        ("%b", "2326"),
        ("%B", "2326"),
        ("%m", "GET"),
        ("%U", "/shop/a b"),
        ("%q", "?x=1"),
        ("%H", "HTTP/1.1"),
        ("%D", "250000"),
        ("%T", "0"),
        ("%{s}T", "0"),
        ("%{ms}T", "250"),
        ("%{us}T", "250000"),
        ("%p", "443"),
        ("%v", "shop.example"),
        ("%P", "77"),
        ("%{Referer}i", "https://example.org/"),
        ("%{user-agent}i", "Mozilla/5.0"),
        ("%{Content-Type}i", "text/plain"),
        ("%{Content-Length}i", "12"),
        ("%{Accept}i", "-"),
        ("%{SSL_CIPHER}e", "TLS_AES"),
        ("%{wsgi.input}e", "-"),
        ("%{protocol}x", "fastcgi"),
        ("%{duration}x", "0.250000"),
        ("%{queue}x", "0.001500"),
        ("%{traceparent}x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("%%%h", "%192.0.2.7"),
        ("%h%h%m", "192.0.2.7192.0.2.7GET"),
        ("a\t%m\\n b", "a\tGET\\n b"),
        ('"%m"\u20ac', '"GET"\u20ac'),
        ("%m%{x}", None),
        ("100%", None),
    ],
)
def test_atoms(atom: str, shown: str | None) -> None:
    if shown is None:
        with pytest.raises(ConfigError, match="no atom"):
            Plan(atom)
    else:
        assert line_of(atom) == shown


def test_every_atom_there_is_has_a_line() -> None:
    atoms = ATOMS.replace("NAME", "Accept").split()
    assert len(line_of(" ".join(atoms)).split(" ")) > len(atoms)


@pytest.mark.parametrize(
    "form",
    [
        "combined",
        "json",
        "%h %l %u %r %U %q %m %H %p %v %P %{Referer}i %{HTTP_HOST}e %{traceparent}x",
    ],
)
def test_nothing_is_known(form: str) -> None:
    assert "None" not in line_of(form, {}, peer="", status="", sent=0, queued=-1.0)


@pytest.mark.parametrize(
    ("atom", "shown"),
    [
        ("%h", "10.0.0.9:4711"),
        ("%u", "-"),
        ("%s", "499"),
        ("%b", "-"),
        ("%B", "0"),
        ("%U", "-"),
        ("%q", ""),
        ("%{queue}x", "-"),
        ("%{traceparent}x", "-"),
        ("%{REMOTE_ADDR}e", "-"),
        ("%r", "- - -"),
    ],
)
def test_what_is_missing(atom: str, shown: str) -> None:
    assert line_of("|" + atom, {}, status="", sent=0, queued=-1.0) == "|" + shown
    empty = dict.fromkeys(PARAMS, "")
    assert line_of("|" + atom, empty, status="", sent=0, queued=-1.0) == "|" + shown


@pytest.mark.parametrize(
    ("form", "named"),
    [
        ("%z", "'%z'"),
        ("%h %{ms}D", "'%{ms}D'"),
        ("%{Bad Name}i", "'%{Bad Name}i'"),
        ("%{}i", "'%{}i'"),
        ("%{}e", "'%{}e'"),
        ("%{other}x", "'%{other}x'"),
        ("%>h", "'%>'"),
        ("%400s", "'%4'"),
        ("%h %", "'%'"),
        ("%{Referer", "'%{'"),
        ("%h\n%u", r"'\n'"),
        ("%h\x85", r"'\x85'"),
        ("%h\udc80", r"'\udc80'"),
        ("combind", "'combind'"),
        ("", "''"),
    ],
)
def test_a_format_that_cannot_be(form: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AccessLog(Lines(), form)
    message = str(caught.value)
    assert named in message
    if named.startswith("'%"):
        assert ATOMS in message


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("UTC0", "[21/Sep/2026:14:13:20 +0000]"),
        ("XXX-5:45", "[21/Sep/2026:19:58:20 +0545]"),
        ("XXX+3:30", "[21/Sep/2026:10:43:20 -0330]"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "[21/Sep/2026:16:13:20 +0200]"),
    ],
)
def test_the_time_is_local(zone: Callable[[str], None], name: str, shown: str) -> None:
    zone(name)
    assert line_of("%t") == shown


def test_summer_time_ends_within_a_log(zone: Callable[[str], None]) -> None:
    zone("CET-1CEST,M3.5.0,M10.5.0/3")
    target = Lines()
    log = AccessLog(target, "%t")
    end = dt.datetime(2026, 10, 25, 1, tzinfo=dt.timezone.utc).timestamp()
    for finished in (end - 1, end):
        log.record({}, "http", "", "", 0, finished, 0.0, -1.0)
    assert target.lines == [b"[25/Oct/2026:02:59:59 +0200]\n", b"[25/Oct/2026:02:00:00 +0100]\n"]


def test_the_time_is_when_the_request_came(zone: Callable[[str], None]) -> None:
    zone("UTC0")
    assert line_of("%t", finished=FINISHED, taken=3600.0) == "[21/Sep/2026:13:13:20 +0000]"


def test_each_second_has_its_own_text(zone: Callable[[str], None]) -> None:
    zone("UTC0")
    target = Lines()
    log = AccessLog(target, "%t")
    seconds = [*range(200), *range(0, 200, 7), 3, 199, 3]
    for second in seconds:
        log.record({}, "http", "", "", 0, FINISHED + second, 0.0, -1.0)
    shown = [dt.datetime.strptime(line.decode(), "[%d/%b/%Y:%H:%M:%S %z]\n") for line in target.lines]
    assert [int(moment.timestamp()) for moment in shown] == [int(FINISHED) + second for second in seconds]
    assert len(log._stamps) <= 64


@pytest.mark.parametrize(
    ("finished", "shown"),
    [(FINISHED, "2026-09-21T14:13:20.500Z"), (FINISHED + 511 / 1024, "2026-09-21T14:13:20.999Z")],
)
def test_the_time_in_json_is_utc(zone: Callable[[str], None], finished: float, shown: str) -> None:
    zone("XXX-5:45")
    assert json_of(finished=finished)["time"] == shown


# -- what clients and applications do ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('say "hi"', 'say \\"hi\\"'),
        ("back\\slash", "back\\\\slash"),
        ("a\nb\rc\td\x08e\x0bf", "a\\nb\\rc\\td\\be\\vf"),
        ("\x00\x1b[2J\x0c\x7f", "\\x00\\x1b[2J\\x0c\\x7f"),
        ("caf\xc3\xa9\x85\xff", "caf\\xc3\\xa9\\x85\\xff"),
        ("\u20ac\ud800", "\\xe2\\x82\\xac\\xed\\xa0\\x80"),
    ],
)
def test_escaping_is_apaches(value: str, shown: str) -> None:
    for name, atom in [
        ("REMOTE_ADDR", "%h"), ("REMOTE_USER", "%u"), ("REQUEST_URI", "%r"), ("PATH_INFO", "%U"),
        ("QUERY_STRING", "%q"), ("HTTP_REFERER", "%{Referer}i"), ("ANY", "%{ANY}e"), ("REQUEST_METHOD", "%m"),
        ("SERVER_PROTOCOL", "%H"), ("SERVER_NAME", "%v"), ("SERVER_PORT", "%p"),
        ("HTTP_TRACEPARENT", "%{traceparent}x"),
    ]:  # fmt: skip
        assert shown in line_of(f'"{atom}"\t', {name: value})
    assert line_of("%h", {}, peer=value) == shown


def test_no_client_can_forge_a_line() -> None:
    forged = '" 200 5 "-" "-"\n192.0.2.1 - root [21/Sep/2026:14:13:20 +0000] "GET /admin HTTP/1.1" 200 5 "-" "x'
    for name in ("REQUEST_URI", "HTTP_USER_AGENT", "HTTP_REFERER", "REMOTE_USER"):
        line = line_of("combined", PARAMS | {name: forged})
        assert re.fullmatch(r'\S+ - .* \[[^]]+\] "([^"\\]|\\.)*" 200 2326 "([^"\\]|\\.)*" "([^"\\]|\\.)*"', line)
        assert json_of(PARAMS | {name: forged})["status"] == 200


class Hostile:
    """Nothing that is asked of it works."""

    def __str__(self) -> NoReturn:
        raise ValueError

    __repr__ = __format__ = __bool__ = __len__ = __eq__ = __hash__ = __str__  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> NoReturn:
        raise ValueError


class Word(str):
    """A str that lies."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ValueError

    __format__ = __bool__ = __len__ = encode = __str__  # type: ignore[assignment]


EVERY = "%h %l %u %t %r %s %b %B %m %U %q %H %D %T %p %v %P %{A}i %{A}e %{protocol}x %{queue}x %{traceparent}x"


@pytest.mark.parametrize("kind", [lambda: None, lambda: 7, lambda: b"bytes", list, object, Hostile, tuple, lambda: 1.5])
@pytest.mark.parametrize("form", ["combined", "json", EVERY])
def test_parameters_may_be_anything(kind: Callable[[], object], form: str) -> None:
    assert line_of(form, dict.fromkeys(PARAMS, kind())) == line_of(form, {})


@pytest.mark.parametrize("form", ["combined", "json", EVERY])
def test_subclasses_of_str_are_text(form: str) -> None:
    assert line_of(form, {name: Word(value) for name, value in PARAMS.items()}) == line_of(form)
    assert line_of(form, dict.fromkeys(PARAMS, Word("\n"))) == line_of(form, dict.fromkeys(PARAMS, "\n"))


@pytest.mark.parametrize(
    ("params", "uri"),
    [
        ({"SCRIPT_NAME": "/a", "PATH_INFO": "/b c", "QUERY_STRING": "d=e"}, "/a/b%20c?d=e"),
        ({"PATH_INFO": "/caf\xc3\xa9?"}, "/caf%C3%A9%3F"),
        ({"PATH_INFO": "/\u20ac"}, "/%E2%82%AC"),
        ({"PATH_INFO": "/", "QUERY_STRING": ""}, "/"),
        ({"REQUEST_URI": "", "PATH_INFO": "/p"}, "/p"),
        ({"REQUEST_URI": 5, "SCRIPT_NAME": None, "PATH_INFO": "/p", "QUERY_STRING": b"q"}, "/p"),
        ({"REQUEST_URI": "*"}, "*"),
    ],
)
def test_the_uri(params: dict[str, Any], uri: str) -> None:
    assert line_of("%r", {"REQUEST_METHOD": "GET", **params}) == f"GET {uri} -"
    assert json_of(params)["uri"] == uri


# -- JSON -------------------------------------------------------------------------------------------------------------


def test_json() -> None:
    assert json_of() == {
        "time": "2026-09-21T14:13:20.500Z",
        "client": "192.0.2.7",
        "user": "frank",
        "method": "GET",
        "uri": "/shop/a%20b?x=1",
        "http_version": "HTTP/1.1",
        "status": 200,
        "bytes": 2326,
        "referer": "https://example.org/",
        "user_agent": "Mozilla/5.0",
        "protocol": "fastcgi",
        "duration": 0.25,
        "queue": 0.0015,
        "worker": 77,
        "host": "www.shop.example:8080",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def test_json_of_a_request_without_anything() -> None:
    found = json_of({}, peer="", status="", sent=0, queued=-1.0, worker=None)
    assert {name for name, value in found.items() if value is None} == {
        "client", "user", "method", "uri", "http_version", "referer", "user_agent", "queue", "host", "traceparent",
    }  # fmt: skip
    assert (found["status"], found["bytes"], found["worker"]) == (499, 0, os.getpid())


def test_json_falls_back() -> None:
    found = json_of({"SERVER_NAME": "named"})
    assert (found["host"], found["client"]) == ("named", "10.0.0.9:4711")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain ~", "plain ~"),
        (b'"', '"'),
        ("caf\xe9 \u20ac \U0001f600".encode(), "caf\xe9 \u20ac \U0001f600"),
        (b"caf\xe9", "caf\\xe9"),
        (b"a\\xe9", "a\\x5cxe9"),
        (b"a\nb\x7f", "a\\x0ab\\x7f"),
        (b"\xc2\x85|\xed\xa0\x80|\xe2\x82", "\\xc2\\x85|\\xed\\xa0\\x80|\\xe2\\x82"),
        (b"null", "null"),
    ],
)
def test_bytes_in_json(raw: bytes, text: str) -> None:
    assert json_of({"REQUEST_URI": raw.decode("latin-1")})["uri"] == text


TEXTS = {
    "REMOTE_ADDR": "client", "REMOTE_USER": "user", "REQUEST_METHOD": "method", "REQUEST_URI": "uri",
    "SERVER_PROTOCOL": "http_version", "HTTP_HOST": "host", "HTTP_REFERER": "referer", "HTTP_USER_AGENT": "user_agent",
    "HTTP_TRACEPARENT": "traceparent",
}  # fmt: skip
LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=20) | st.text('"\\\n,:{} ', max_size=4)


def read_back(text: str) -> bytes:
    r"""Return the bytes of a text in the JSON log, as docs/access-log.md tells how."""
    return re.sub(rb"\\x(..)", lambda found: bytes.fromhex(found[1].decode()), text.encode())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TEXTS, LATIN_1)))
def test_json_gives_the_bytes_back(params: dict[str, str]) -> None:
    line = line_of("json", dict(params), peer="")
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    for name, field in TEXTS.items():
        value = params.get(name, "")
        if value:
            assert not re.search(r"[\x00-\x1f\x7f-\x9f]", found[field])
            assert read_back(found[field]) == value.encode("latin-1")
        else:
            assert found[field] is None


VALUES = LATIN_1 | st.text(max_size=5) | st.none() | st.integers() | st.binary(max_size=3)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(PARAMS, VALUES)),
    st.sampled_from(["combined", "json", EVERY, '\t%h"\\%{Referer}i\u20ac%m']),
    LATIN_1,
)
def test_a_line_is_a_line_whatever_comes(params: dict[str, Any], form: str, peer: str) -> None:
    line = line_of(form, params, peer=peer)
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", line)
    if form == "combined":
        assert re.fullmatch(r'.* \[[^]]+\] "([^"\\]|\\.)*" 200 2326 "([^"\\]|\\.)*" "([^"\\]|\\.)*"', line)
        assert line.isascii()
    elif form == "json":
        assert json.loads(line)["status"] == 200


UNESCAPED = {"b": b"\b", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v", "\\": b"\\", '"': b'"'}


@given(st.text(st.characters(max_codepoint=255), min_size=1))
def test_apaches_escaping_gives_the_bytes_back(value: str) -> None:
    line = line_of("%{A}e", {"A": value})
    back = re.sub(
        rb"\\(?:x(..)|(.))",
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else UNESCAPED[found[2].decode()],
        line.encode(),
    )
    assert back == value.encode("latin-1")


@given(st.text(max_size=30))
def test_a_format_is_refused_or_gives_one_line(form: str) -> None:
    try:
        Plan(form)
    except ConfigError:
        return
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", line_of(form))
