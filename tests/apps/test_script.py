"""Real scripts behind real connections: what is answered."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from gateways.apps.pump import Failed
from gateways.apps.script_response import ScriptResponse
from gateways.limits import ScriptLimits
from gateways.testing.framing.fastcgi_records import begin, pairs, rec
from tests.apps.scripts import HEAD, Root, answering
from tests.server.peers import PROTOCOLS, request


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_request_and_its_answer(root: Root, protocol: str) -> None:
    root.sh("plain", *HEAD, 'echo "$REQUEST_METHOD $PATH_INFO $GATEWAY_INTERFACE $(pwd)"', "cat")
    with answering(root, protocol) as (served, _):
        with served.connect() as peer:
            answer = peer.get("/plain/more", b"the body")
        assert answer.status == 200
        assert answer.body.decode() == f"POST /more CGI/1.1 {root.directory}\nthe body"
        assert served.log.lines == []


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
def test_kept_connections(root: Root, protocol: str) -> None:
    root.sh("kept", "echo Content-Type: text/plain", "echo Content-Length: 3", "echo", "echo ok")
    with answering(root, protocol) as (served, _), served.connect() as peer:
        for body in (b"", b"x", b""):
            assert peer.keep_get("/kept", body).body == b"ok\n"


def test_head(root: Root) -> None:
    root.sh("any", *HEAD, "echo something")
    with answering(root) as (served, _), served.connect() as peer:
        peer.send(b"HEAD /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = peer.answer()
    assert (answer.status, answer.body) == (200, b"")


def test_a_client_that_waits_is_asked_for_the_body(root: Root) -> None:
    root.sh("cat", *HEAD, "cat")
    with answering(root) as (served, _), served.connect() as peer:
        peer.send(
            b"POST /cat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        while b"\r\n\r\n" not in peer.buffer:
            peer.more()
        interim, _, peer.buffer = peer.buffer.partition(b"\r\n\r\n")
        assert interim.startswith(b"HTTP/1.1 100 ")
        peer.send(b"body")
        assert peer.answer().body == b"body"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_standard_error_goes_to_the_log_with_the_request_s_id(root: Root, protocol: str) -> None:
    root.sh("complains", "echo one two >&2", "printf last >&2", *HEAD, 'echo "$UNIQUE_ID"')
    with answering(root, protocol) as (served, _):
        with served.connect() as peer:
            answer = peer.get("/complains")
        name = answer.body.decode().strip()
        assert name.startswith(f"{os.getpid()}-")
        if protocol == "fastcgi":
            assert answer.errors.decode() == f"[{name}] one two\n[{name}] last\n"
        else:
            assert served.log.lines == [f"{protocol}: [{name}] stderr: {line}" for line in ("one two", "last")]


@pytest.mark.parametrize(("given", "taken"), [("abc-123", True), ("a b", False), ("x" * 65, False), ("", False)])
def test_a_request_may_have_its_id_from_the_web_server(root: Root, given: str, taken: bool) -> None:
    root.sh("named", *HEAD, 'echo "$UNIQUE_ID"')
    block = pairs({"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/named", "DOCUMENT_URI": "/named", "UNIQUE_ID": given})
    with answering(root, "fastcgi") as (served, _), served.connect() as peer:
        peer.send(begin(1, 0) + rec(4, 1, block) + rec(4, 1) + rec(5, 1))
        assert (peer.answer().body == given.encode() + b"\n") is taken


def test_300_kb_of_standard_error_first(root: Root) -> None:
    root.python("noisy", "sys.stderr.write(('e' * 99 + '\\n') * 3000); sys.stderr.flush()", "print('A: b\\n\\nafter')")
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/noisy").body == b"after\n"
        assert len(served.log.lines) == 3000


def test_endless_standard_error_does_not_fill_the_log(root: Root) -> None:
    root.python("endless", "sys.stderr.write(('e' * 999 + '\\n') * 3000)", "print('A: b\\n\\nafter')")
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/endless").body == b"after\n"
        assert len(served.log.lines) < 1100
        assert "left out" in served.log.lines[-1]


def test_nor_do_endless_short_lines(root: Root) -> None:
    root.sh("empty", *HEAD, "yes '' | head -n 50000 >&2")
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/empty").status == 200
        assert len(served.log.lines) < 11_000
        assert "left out" in served.log.lines[-1]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["exit 0"], "without a response head"),
        (["exit 7"], "without a response head, exit status 7"),
        (["echo Content-Type: text/plain"], "within its response head"),
        (["kill -SEGV $$"], "without a response head, killed by SIGSEGV"),
        (["echo nonsense", "echo"], "not a response header"),
        (["echo Status: 100 Continue", "echo"], "ends no request"),
        (["head -c 70000 /dev/zero | tr '\\0' x"], "response head is 65537"),
    ],
)
def test_502_with_the_reason_in_the_log(root: Root, lines: list[str], told: str) -> None:
    root.sh("bad", *lines)
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/bad").status == 502
        served.log.only(told)
        assert f"502: {root.directory}/bad " in served.log.lines[0]


def test_a_program_that_cannot_be_started(root: Root) -> None:
    root.put("text", "echo no first line\n")
    root.put("lost", "#!/no/such/interpreter\n")
    with answering(root) as (served, app):
        for path, told in (("/text", "#!/bin/sh"), ("/lost", "No such file")):
            with served.connect() as peer:
                assert peer.get(path).status == 502
            assert told in served.log.lines[-1]
        assert not app.turns.taken


def test_a_text_without_a_first_line_is_no_program(root: Root) -> None:
    """A shell would run it, and it is a shell that sets the limits."""
    root.put("words", "echo A: b\necho\n")
    with answering(root, limits=ScriptLimits(open_files=50)) as (served, _):
        with served.connect() as peer:
            assert peer.get("/words").status == 502
        served.log.only("has it a first line such as #!/bin/sh?")


def test_more_variables_than_the_system_passes_on(root: Root) -> None:
    root.sh("any", *HEAD)
    with answering(root) as (_, app):
        params = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/any", "HTTP_COOKIE": "c" * 10_000_000}
        choice = app.scripts.choose(params, "http")
        with pytest.raises(Failed, match=r"^431: cannot be started: Argument list too long"):
            app.start(params, choice, "name", stdin=False)


def test_killed_in_the_middle_of_its_answer(root: Root) -> None:
    root.sh("dies", *HEAD, "echo part", "kill -KILL $$")
    with answering(root) as (served, _):
        with served.connect() as peer:
            peer.send(request("http", "/dies"))
            data = peer.read()
        assert b"part" in data
        assert not data.endswith(b"0\r\n\r\n"), "the last chunk says that all is there"
        served.log.only("killed by SIGKILL")


def test_less_and_more_than_the_content_length(root: Root) -> None:
    root.sh("less", "echo Content-Length: 100", "echo", "echo few")
    root.sh("more", "echo Content-Length: 3", "echo", "echo many more")
    with answering(root, "fastcgi", tcp=True) as (served, _):
        with served.connect() as peer:
            peer.send(request("fastcgi", "/less"))
            with pytest.raises(ConnectionResetError):
                peer.read()
        assert "96 bytes before its Content-Length" in served.log.lines[-1]
        with served.connect() as peer:
            assert peer.get("/more").body == b"man"


def test_a_local_redirect_is_answered_here(root: Root) -> None:
    root.sh("first", "echo Location: /second/path?a=b%20c", "echo", "cat >/dev/null")
    root.sh("second", *HEAD, 'echo "$REQUEST_METHOD $PATH_INFO $QUERY_STRING ${CONTENT_LENGTH-none}"', "wc -c")
    with answering(root) as (served, _), served.connect() as peer:
        answer = peer.get("/first", b"a body")
    assert answer.status == 200
    assert answer.body.split() == [b"GET", b"/path", b"a=b%20c", b"none", b"0"]


@pytest.mark.parametrize(
    ("head", "status", "location"),
    [
        ("Location: http://example.org/", 302, b"http://example.org/"),
        ("Status: 302 Found\\nLocation: /second", 302, b"/second"),
        ("Status: 201 Created\\nLocation: /second", 201, b"/second"),
        ("Location: /second\\nSet-Cookie: a=b", 302, b"/second"),
        ("Location: //example.org/x", 302, b"//example.org/x"),
    ],
)
def test_other_redirects_are_the_client_s(root: Root, head: str, status: int, location: bytes) -> None:
    root.sh("away", f"printf '{head}\\n\\n'")
    with answering(root) as (served, _), served.connect() as peer:
        answer = peer.get("/away")
    assert answer.status == status
    assert b"Location: " + location in answer.head


@pytest.mark.parametrize("location", ["/page.html", "/nothing/a%20b?c=d", "/elsewhere/../../x"])
def test_a_local_redirect_that_leads_to_no_script_is_the_client_s(root: Root, location: str) -> None:
    """The web server may have it."""
    root.put("page.html", "page", mode=0o644)
    root.sh("first", f"printf 'Location: {location.replace('%', '%%')}\nContent-Type: text/plain\n\nmoved'")
    with answering(root) as (served, _), served.connect() as peer:
        answer = peer.keep_get("/first")
        assert (answer.status, answer.body) == (302, b"")
        assert b"\r\nLocation: " + location.encode() + b"\r\n" in answer.head
        assert peer.get("/first").status == 302
        assert served.log.lines == []


def test_redirects_are_bounded(root: Root, note: Path) -> None:
    root.sh("around", f"echo x >>{note}", "echo Location: /around", "echo")
    with answering(root) as (served, _):
        with served.connect() as peer:
            assert peer.get("/around").status == 502
        served.log.only("10 local redirects")
    assert note.read_text().count("x") == 11


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_of_a_request_waits_for_the_garbage_collector(root: Root, protocol: str) -> None:
    root.sh("plain", *HEAD, "cat")
    root.sh("bad", "echo oops >&2", "exit 3")
    root.sh("away", "echo Location: /plain", "echo")
    gc.collect()
    gc.disable()
    try:
        with answering(root, protocol) as (served, _):
            for path in ("/plain", "/bad", "/away", "/none") * 3:
                with served.connect() as peer:
                    peer.get(path, b"a body")
            left = sum(type(each) is ScriptResponse for each in gc.get_objects())
            assert left <= 4, "what the threads have done last may be there"
    finally:
        gc.enable()
