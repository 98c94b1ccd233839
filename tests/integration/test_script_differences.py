"""The same scripts behind the same web server, run by gateways and by others: fcgiwrap, and Apache's own mod_cgid.

Whatever differs stands in a table with both behaviours and who is right, by RFC 3875 where it has a word on it. A line
that has ceased to be true fails like a difference that has none.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.integration.script_cases import CASES, Case, file_name, write
from tests.integration.scripts import CgidApache, FcgiWrap, ScriptServer
from tests.servers import LOOPBACK, SECONDS, Nginx, Server, free_port, open_directory, running, wait_until

Fields: TypeAlias = dict[str, object]

A_WHILE = 1.0
"""How long an answer is awaited that does not come."""
ENVIRONMENT = {"INHERITED": "1", "PATH": "/usr/bin:/bin"}
BROKEN = ("killed in its body", "a Content-Length that is too large")
"""How much of the answer has gone out when the end comes is the web server's business."""
OTHERS = ("fcgiwrap", "cgid")
APACHE = ("apache", "cgid")
NOT_TOLD = frozenset(("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"))
PASSING = frozenset(
    (
        "HTTP_HOST", "REMOTE_PORT", "SERVER_PORT", "SERVER_SIGNATURE", "SERVER_SOFTWARE", "UNIQUE_ID",
        "OLDPWD", "PWD", "SHLVL", "_",
    )
)  # fmt: skip
"""What is different in each request, or what shells add."""
PAGE = re.compile(r"\d{3} [A-Z][A-Za-z ]+\r?\n$|<html>\r\n<head><title>|<!DOCTYPE HTML PUBLIC|An error occurred while ")
"""Each server has its own for an error."""


@dataclass(frozen=True)
class Line:
    """One disagreement; ``case`` is a name, or several."""

    case: str | tuple[str, ...]
    field: str
    ours: object
    theirs: object
    reason: str
    until: tuple[int, ...] = ()
    """The version of nginx that has put an end to it."""

    def is_of(self, name: str) -> bool:
        same = name == self.case if isinstance(self.case, str) else name in self.case
        return same and not (self.until and Nginx.version() >= self.until)


# -- the differences ----------------------------------------------------------------------------------------------

OURS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVS = ("environment", "environment of a path", "environment of a body", "environment of a body in chunks")
BODILESS = ENVS[:2]
BODIES = ENVS[2:]
INHERITED = "RFC 3875 section 4.1 says what is in the environment; what the server has for itself is not a script's"
NO_BODY = "section 4.1.2: CONTENT_LENGTH is set if and only if there is a body; empty is neither. So for its type"
TWICE = "section 4.1.18: what another variable tells should not be there as a header too"
CHUNKS = "the web server has taken the chunks apart: a script that believes this header would look for them"
BAD_HEAD = "section 6.2: it is no response of CGI, and the script is to be mended, not guessed at"
CODE = "a script that failed is a bad gateway to us, an error of its own to Apache"
CONNECTION = "section 6.3.4: fields of the connection are not a script's to write"
LOCAL = "section 6.2.2: the server answers a local redirect by itself"
PHRASE = "302 is Found since RFC 2616; nginx has the older phrase where it makes the status itself"
ELSEWHERE = (
    "section 6.2.2 asks for the answer of that path; it is not ours, and the web server's only by way of the client"
)
COOKIE = "section 6.2.2: a local redirect has no other fields; Apache's way loses the cookie"
NOTE = "RFC 9110 section 15.4.3: a short page for those who do not follow is good to have; clients follow"
LONGER = "section 6.3.4: Content-Length is that of the body; who believes it needs no more"
CUT = "the client must see that it has not got all"
PIPES = "section 4.2 lets a script read as late as it likes; both pipes have to be served at the same time"
LEFT = "section 7.2 leaves it open how a script ends; its end is the end of the request"
FOREVER = "a script that hangs must not take a place for ever"
DOT = "a program by such a name is no program for everybody (.git/hooks); documented"
EMPTY_LINE = "section 6.3: at least one header field"
STATUS_LINE = "documented: a status line passes for a Status"
NAME = "section 4.1.14: it must be set; nginx has none without a server_name, and we take the Host"
USER = "section 4.1.11: only where the user is known; Debian's nginx sends it empty to everybody"
TRANSLATED = "section 4.1.6: where there is PATH_INFO there should be its translation"
MAPPED = "section 4.1.6: Apache maps it by its own configuration; we only know --root, and say so in docs/scripts.md"
INDEXED = "section 4.4: the words of a query without = should be arguments; docs/scripts.md says that we do not"
INTERIM = "RFC 9110 section 15.2: it ends no request; clients go on waiting"
UNREAD = "section 4.2: a script need not read all of its body"
TABLES: dict[str, list[Line]] = {
    "fcgiwrap": [
        Line(ENVS, "env INHERITED", None, "1", INHERITED),
        Line(ENVS, "env PATH", OURS, "/usr/bin:/bin", INHERITED),
        Line(ENVS, "env FCGI_ROLE", None, "RESPONDER", "libfcgi's own, of no meaning to a script"),
        Line(ENVS, "env SCRIPT_FILENAME", "@top@/cgi-bin/@script@", None, "not CGI's, but php-cgi wants it always"),
        Line(ENVS, "env SERVER_NAME", LOOPBACK, "", NAME),
        Line(ENVS[1:], "env REMOTE_USER", None, "", USER),
        Line(BODILESS, "env CONTENT_LENGTH", None, "", NO_BODY),
        Line(("environment", ENVS[1], ENVS[3]), "env CONTENT_TYPE", None, "", NO_BODY),
        Line("environment", "env HTTP_PROXY", None, "http://evil", "httpoxy (CVE-2016-5385)"),
        Line("environment of a path", "env PATH_TRANSLATED", "@top@/cgi-bin/a b/d", None, TRANSLATED),
        Line("environment of a body", "env HTTP_CONTENT_LENGTH", None, "5", TWICE),
        Line("environment of a body", "env HTTP_CONTENT_TYPE", None, "a/b", TWICE),
        Line("environment of a body in chunks", "env HTTP_TRANSFER_ENCODING", None, "chunked", CHUNKS),
        Line("a line that is none", "status", "502 Bad Gateway", "200 OK", BAD_HEAD),
        Line("a line that is none", "header nonsense", None, "", BAD_HEAD),
        Line("a control character", "status", "502 Bad Gateway", "200 OK", BAD_HEAD),
        Line("a control character", "header x-a", None, "1\x012", BAD_HEAD),
        Line("two Content-Lengths", "status", "502 Bad Gateway", "200 OK", BAD_HEAD, until=(1, 23)),
        Line("two Statuses", "status", "502 Bad Gateway", "404 Not Found", BAD_HEAD),
        Line("fields of the connection", "header upgrade", None, "h2c", CONNECTION),
        Line("Transfer-Encoding", "status", "502 Bad Gateway", "200 OK", CONNECTION),
        Line("a status without a phrase", "status", "404 Not Found", "404 ", "section 6.3.3: it may be left out",
             until=(1, 25, 3)),
        Line("a status line", "status", "404 Not Found", "200 OK", STATUS_LINE),
        Line("nph-script", "status", "201 Created", "200 OK", STATUS_LINE),
        Line("100", "answer", "502 Bad Gateway", "none", INTERIM),
        Line("a local redirect", "status", "200 OK", "302 Moved Temporarily", LOCAL),
        Line("a local redirect", "body", "ok", "", LOCAL),
        Line("a local redirect", "header content-type", "text/plain", None, LOCAL),
        Line("a local redirect", "header location", None, "/cgi-bin/plain", LOCAL),
        Line("a local redirect with a query", "status", "200 OK", "302 Moved Temporarily", LOCAL),
        Line("a local redirect with a query", "body", "GET x=1", "", LOCAL),
        Line("a local redirect with a query", "header content-type", "text/plain", None, LOCAL),
        Line("a local redirect with a query", "header location", None, "/cgi-bin/ask?x=1", LOCAL),
        Line("a local redirect of a POST", "status", "200 OK", "302 Moved Temporarily", LOCAL),
        Line("a local redirect of a POST", "body", "GET x", "", LOCAL),
        Line("a local redirect of a POST", "header content-type", "text/plain", None, LOCAL),
        Line("a local redirect of a POST", "header location", None, "/cgi-bin/ask?x", LOCAL),
        Line("a local redirect to itself", "status", "502 Bad Gateway", "302 Moved Temporarily", LOCAL),
        Line("a local redirect to itself", "header location", None, "/cgi-bin/@script@", LOCAL),
        Line("a local redirect out of the root", "status", "302 Found", "302 Moved Temporarily", PHRASE),
        Line("a local redirect with a cookie", "status", "302 Found", "302 Moved Temporarily", PHRASE),
        Line("a redirect", "status", "302 Found", "302 Moved Temporarily", PHRASE),
        Line("a relative redirect", "status", "302 Found", "302 Moved Temporarily", PHRASE),
        Line("a body that is not read", "status", "200 OK", "502 Bad Gateway", UNREAD),
        Line("writes before it reads", "answer", "200 OK", "none", PIPES),
        Line("killed in its body", "answer", "not whole", "200 OK", CUT),
        Line("a child keeps its output", "answer", "200 OK", "none", LEFT),
        Line("silent", "answer", "504 Gateway Timeout", "none", FOREVER),
        Line("not there", "status", "404 Not Found", "403 Forbidden", "RFC 9110 section 15.5.5: nothing is there"),
        Line(".hidden", "status", "404 Not Found", "200 OK", DOT),
    ],
    "cgid": [
        Line(ENVS, "env PATH", OURS, "/usr/bin:/bin", INHERITED),
        Line(ENVS, "env REDIRECT_STATUS", "200", None, "not CGI's, but php-cgi wants it always"),
        Line(ENVS, "env CONTEXT_PREFIX", "", "/cgi-bin/", "Apache's own, of its ScriptAlias"),
        Line(ENVS, "env CONTEXT_DOCUMENT_ROOT", "@top@/apache-web", "@top@/cgi-bin/", "the same"),
        Line("environment of a path", "env PATH_TRANSLATED", "@top@/cgi-bin/a b/d", "@top@/apache-web/a b/d",
             MAPPED),
        Line("environment of a body in chunks", "env HTTP_TRANSFER_ENCODING", None, "chunked", CHUNKS),
        Line("arguments", "body", "\ncgi-bin\n", "one two\ncgi-bin\n", INDEXED),
        *(
            Line(case, "status", "502 Bad Gateway", "500 Internal Server Error", CODE)
            for case in (
                "nothing", "no head", "no empty line", "a line that is none", "a folded line", "a name with a blank",
                "a control character", "a status that is no number", "a status of two digits", "no first line",
                "a local redirect to itself", "exit status 1, and nothing", "killed", "standard error alone",
                "no such interpreter",
            )
        ),
        Line("not executable", "status", "403 Forbidden", "500 Internal Server Error", "Apache looks too late"),
        Line("no head but an empty line", "status", "502 Bad Gateway", "200 OK", EMPTY_LINE),
        Line("two Content-Lengths", "status", "502 Bad Gateway", "200 OK", BAD_HEAD),
        Line("two Statuses", "status", "502 Bad Gateway", "403 Forbidden", BAD_HEAD),
        Line("fields of the connection", "header upgrade", None, "h2c", CONNECTION),
        Line("Transfer-Encoding", "status", "502 Bad Gateway", "200 OK", CONNECTION),
        Line("a status line", "status", "404 Not Found", "500 Internal Server Error", STATUS_LINE),
        Line("100", "answer", "502 Bad Gateway", "none", "Apache sends what is no HTTP"),
        Line("a local redirect out of the root", "status", "302 Found", "404 Not Found", ELSEWHERE),
        Line("a local redirect out of the root", "header location", "/elsewhere", None, ELSEWHERE),
        Line("a local redirect with a cookie", "status", "302 Found", "200 OK", COOKIE),
        Line("a local redirect with a cookie", "body", "", "ok", COOKIE),
        Line("a local redirect with a cookie", "header content-type", None, "text/plain", COOKIE),
        Line("a local redirect with a cookie", "header location", "/cgi-bin/plain", None, COOKIE),
        Line("a redirect", "body", "", "(a page)", NOTE),
        Line("a relative redirect", "body", "", "(a page)", NOTE),
        Line("a Content-Length that is too small", "body", "o", "ok", LONGER),
        Line("a Content-Length that is too large", "answer", "not whole", "200 OK", CUT),
        Line("writes before it reads", "answer", "200 OK", "none", PIPES),
        Line("killed in its body", "answer", "not whole", "200 OK", CUT),
        Line("a child keeps its output", "answer", "200 OK", "none", LEFT),
        Line("silent", "answer", "504 Gateway Timeout", "none", "Apache has one Timeout for all, of 60 s"),
        Line(".hidden", "status", "404 Not Found", "200 OK", DOT),
    ],
}  # fmt: skip
UNSTEADY = {("cgid", "a body that is not read")}
"""A write into the socket of a script that has ended fails, and with it mod_cgid's answer, if that comes first."""


def test_the_tables_name_cases_that_exist() -> None:
    for table in TABLES.values():
        for line in table:
            assert set([line.case] if isinstance(line.case, str) else line.case) <= set(CASES)


# -- who is compared ----------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One of two servers of scripts, and the web server before it."""

    port: int
    web: Server


@dataclass
class Estate:
    top: Path
    sides: dict[str, Side]


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    with ExitStack() as stack:
        top = stack.enter_context(open_directory())
        root = top / "cgi-bin"
        root.mkdir()
        for name, case in CASES.items():
            write(root, name, case)
        (top / "gone").mkdir(mode=0o777)
        (top / "gone").chmod(0o777)
        for side in ("nginx", "fcgiwrap"):
            write(root, f"gone-{side}", Case(f"echo $$ >{top}/gone/{side}; exec sleep 2.5"))
        scripts = ("--root", str(root), "--mount", "/cgi-bin")
        backends: list[ScriptServer | FcgiWrap] = [
            ScriptServer(top / "ours", *scripts, env=ENVIRONMENT),
            ScriptServer(top / "hasty", *scripts, "--idle-timeout", "300ms", env=ENVIRONMENT),
            *(
                FcgiWrap(top / f"fcgiwrap{number}", env=ENVIRONMENT)
                for number in range(1 + sum(case.hangs for case in CASES.values()))
            ),
        ]
        ours, hasty, wrap, *hanging = [stack.enter_context(running(backend)) for backend in backends]
        stock = f"include {Nginx.stock('fastcgi_params')}; fastcgi_pass {LOOPBACK}:"
        ports = {name: free_port() for name in ("nginx", "apache", "fcgiwrap", "cgid")}
        for name in ("nginx-web", "apache-web"):
            (top / name).mkdir()
        server = f"server {{ client_max_body_size 0; root {top}; listen {LOOPBACK}"
        own_places = "".join(
            f"location = /cgi-bin/{file_name(name)} {{ {stock}{hanging.pop().fastcgi_port}; }}\n"
            for name, case in CASES.items()
            if case.hangs
        )
        nginx = Nginx(
            top / "nginx-web",
            f"{server}:{ports['nginx']};\n"
            f"location / {{ {stock}{ours.fastcgi_port}; }}\n"
            f"location = /cgi-bin/silent {{ {stock}{hasty.fastcgi_port}; }} }}\n"
            f"{server}:{ports['fcgiwrap']};\n{own_places}location / {{ {stock}{wrap.fastcgi_port}; }} }}\n",
            [ports["nginx"], ports["fcgiwrap"]],
        )
        apache = CgidApache(
            top / "apache-web",
            f"<VirtualHost {LOOPBACK}:{ports['apache']}>\n"
            f'ProxyPass "/cgi-bin/silent" "fcgi://{LOOPBACK}:{hasty.fastcgi_port}"\n'
            f'ProxyPass "/cgi-bin" "fcgi://{LOOPBACK}:{ours.fastcgi_port}"\n</VirtualHost>\n'
            f'<VirtualHost {LOOPBACK}:{ports["cgid"]}>\nScriptAlias "/cgi-bin/" "{root}/"\nTimeout 2\n</VirtualHost>\n'
            f'<Directory "{root}">\nRequire all granted\n</Directory>\n',
            [ports["apache"], ports["cgid"]],
        )
        apache.env = ENVIRONMENT
        for web in (nginx, apache):
            stack.enter_context(running(web))
        yield Estate(top, {name: Side(port, apache if name in APACHE else nginx) for name, port in ports.items()})


# -- one request --------------------------------------------------------------------------------------------------


def page_or_text(data: bytes) -> str:
    text = data.decode("latin-1")
    if PAGE.match(text):
        return "(a page)"
    return text if len(text) <= 100 else f"{text[:4]!r}... ({len(text)})"


def ask(estate: Estate, name: str, side: str) -> Fields:
    """Return what came back; what both web servers add by themselves is left out."""
    case = CASES[name]
    port, web = estate.sides[side].port, estate.sides[side].web
    logged = len(web.text())
    # What never comes of others is not waited for long.
    seconds = A_WHILE if case.hangs and side in OTHERS else SECONDS
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=seconds)
    body = iter([case.body[:2], case.body[2:]]) if case.chunked else case.body or None
    end = ""
    try:
        connection.request(
            case.method, f"/cgi-bin/{file_name(name)}{case.more}", body, dict(case.headers), encode_chunked=case.chunked
        )
        response = connection.getresponse()
        try:
            data = response.read()
        except http.client.IncompleteRead as error:
            data, end = error.partial, "cut"
    except (OSError, http.client.HTTPException):
        return {"answer": "not whole" if name in BROKEN else "none"}
    finally:
        connection.close()
    fields: Fields = {"status": f"{response.status} {response.reason}"}
    if name in BROKEN and (end or response.status == 502):
        return {"answer": "not whole"}
    headers = {key.lower(): ", ".join(response.headers.get_all(key) or ()) for key in response.headers}
    if headers.get("content-type") == "text/x-env":
        pairs = (entry.partition("=") for entry in data.decode().split("\0") if entry)
        # The length of a body in chunks is told, or not, as it comes fast or slowly.
        unsaid = PASSING | {"CONTENT_LENGTH"} if case.chunked else PASSING
        return {f"env {key}": value for key, _, value in pairs if key not in unsaid}
    fields["body"] = page_or_text(data)
    fields |= {f"header {key}": value for key, value in headers.items() if key not in NOT_TOLD}
    if end:
        fields["end"] = end
    if "standard error" in name:
        fields["told"] = bool(re.search("complaint|xxxxxxxxx", web.text()[logged:]))
    return fields


def differences(mine: Fields, other: Fields) -> list[tuple[str, object, object]]:
    """Return the fields that differ; where one has no answer at all, or a page of its own, no more than that."""
    mine, other = dict(mine), dict(other)
    if "answer" in mine or "answer" in other:
        mine, other = ({"answer": fields.get("answer", fields.get("status"))} for fields in (mine, other))
    if "(a page)" in (mine.get("body"), other.get("body")):
        told = {"header content-type", "end"} | ({"body"} if mine["status"] != other["status"] else set())
        mine, other = ({name: fields[name] for name in fields.keys() - told} for fields in (mine, other))
    names = sorted({*mine, *other})
    return [(name, mine.get(name), other.get(name)) for name in names if mine.get(name) != other.get(name)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("ours", "theirs"), [("nginx", "fcgiwrap"), ("apache", "cgid")])
def test_a_script(estate: Estate, ours: str, theirs: str, name: str) -> None:
    def known(value: object) -> object:
        """Return the value without what is another one in each run."""
        text = value.replace(str(estate.top), "@top@") if isinstance(value, str) else value
        return text.replace(file_name(name), "@script@") if isinstance(text, str) and "/" in text else text

    mine, other = ask(estate, name, ours), ask(estate, name, theirs)
    if (theirs, name) in UNSTEADY:
        assert mine["status"] == "200 OK"
        return
    found = [(field, known(first), known(second)) for field, first, second in differences(mine, other)]
    assert found == sorted((line.field, line.ours, line.theirs) for line in TABLES[theirs] if line.is_of(name))


@pytest.mark.parametrize("side", ["nginx", "fcgiwrap"])
def test_a_client_that_goes_away(estate: Estate, side: str) -> None:
    """fcgiwrap lets the script run: it says kill(SIGTERM, pid), whose arguments are the other way round."""
    note = estate.top / "gone" / side
    name = f"gone-{side}"
    with socket.create_connection((LOOPBACK, estate.sides[side].port), SECONDS) as client:
        client.sendall(f"GET /cgi-bin/{name} HTTP/1.0\r\n\r\n".encode())
        pid = int(wait_until(lambda: told(note), "the script runs"))
    if side == "nginx":
        wait_until(lambda: not runs(pid), "the script has been ended")
        return
    time.sleep(A_WHILE)
    assert runs(pid)


def told(note: Path) -> str:
    text = note.read_text() if note.exists() else ""
    return text if text.endswith("\n") else ""


def runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
