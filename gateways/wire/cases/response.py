"""RFC 3875 section 6: the response, in the form that the web servers' modules for each protocol accept."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from gateways.wire import single
from gateways.wire.case import Case, Context, Failure
from gateways.wire.fastcgi import Talk

__all__ = ["cases"]

CGI: Final = "RFC 3875, 6.2 and 6.3"
FORM: Final = "measured: nginx reads a status line over FastCGI as 200, Apache answers 500"
STATUSES: Final = (200, 201, 204, 301, 302, 304, 400, 404, 500, 503)
HEAD_SIZE: Final = 4_096
LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[ \t]*[^\x00-\x08\x0a-\x1f\x7f]*")


def fetch(context: Context, query: str = "", method: str = "GET") -> bytes:
    """The bytes of one response; raises Failure."""
    params = context.params({"REQUEST_METHOD": method}, query=query)
    if context.target.protocol == "fastcgi":
        talk = Talk(context)
        reply = talk.ask(1, params)
        if not reply.ended:
            raise Failure("FCGI_END_REQUEST", str(reply))
        content = bytes(reply.stdout)
    else:
        content = single.exchange(context, single.message(context.target.protocol, params)).raw
    if not content:
        raise Failure("a response", "nothing")
    return content


def status(code: int) -> Callable[[Context], None]:
    """The application's status arrives."""

    def run(context: Context) -> None:
        content = fetch(context, f"status={code}")
        answer = single.Answer(content, context.target.protocol)
        if answer.status != code:
            raise Failure(f"status {code}", str(answer.status))
        if code in (204, 304) and answer.body:
            raise Failure(f"no body with {code}", repr(answer.body[:60]))

    return run


def head_lines(context: Context) -> list[bytes]:
    """The lines of the head of a plain response."""
    content = fetch(context)
    head, mark, _ = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not mark:
        raise Failure("a head that ends with an empty line", repr(content[:80]))
    return head.split(b"\n")


def first_line(context: Context) -> None:
    """No status line where the modules read Status."""
    line = head_lines(context)[0]
    if line.startswith(b"HTTP/"):
        raise Failure("CGI's header fields", repr(line))


def fields(context: Context) -> None:
    """Every line is a header field."""
    lines = head_lines(context)
    for line in lines[1:] if lines[0].startswith(b"HTTP/") else lines:
        if not LINE.fullmatch(line):
            raise Failure("a header field", repr(line[:80]))


def crlf(context: Context) -> None:
    """Lines end with CRLF."""
    content = fetch(context)
    head = content.partition(b"\r\n\r\n")[0]
    if b"\n" in head.replace(b"\r\n", b"") or b"\r\n\r\n" not in content:
        raise Failure("CRLF", repr(content[:80]))


def no_chunks(context: Context) -> None:
    """No Transfer-Encoding: five of six modules hand the chunks to the client."""
    for line in head_lines(context):
        if line.lower().startswith(b"transfer-encoding:"):
            raise Failure("no Transfer-Encoding", repr(line))


def no_connection(context: Context) -> None:
    """No field that is about the connection to the client."""
    for line in head_lines(context):
        if line.lower().partition(b":")[0] in (b"connection", b"keep-alive", b"upgrade"):
            raise Failure("no hop-by-hop field", repr(line))


def one_status(context: Context) -> None:
    """At most one Status."""
    if sum(line.lower().startswith(b"status:") for line in head_lines(context)) > 1:
        raise Failure("one Status", "more")


def right_length(context: Context) -> None:
    """A Content-Length is that of the body: nginx and lighttpd cut or hang otherwise."""
    content = fetch(context, "size=1000")
    head, _, body = content.replace(b"\r\n", b"\n", content.count(b"\r\n")).partition(b"\n\n")
    found = re.search(rb"(?im)^content-length: *(\d+)", head)
    if found and int(found[1]) != len(body):
        raise Failure(f"Content-Length {len(body)}", found[1].decode())


def content_type(context: Context) -> None:
    """A response with a body has a Content-Type."""
    if not any(line.lower().startswith(b"content-type:") for line in head_lines(context)):
        raise Failure("Content-Type", "none")


def small_head(context: Context) -> None:
    """The head fits nginx's default buffer."""
    size = sum(len(line) + 2 for line in head_lines(context))
    if size > HEAD_SIZE:
        raise Failure(f"at most {HEAD_SIZE} bytes", str(size))


def method(name: str) -> Callable[[Context], None]:
    """A method that web servers pass on is answered."""

    def run(context: Context) -> None:
        answer = single.Answer(fetch(context, method=name), context.target.protocol)
        if not 100 <= answer.status < 600:
            raise Failure("a status", str(answer.status))

    return run


def cases(protocol: str) -> list[Case]:
    """The cases of one protocol."""
    made = [
        *(
            Case(f"{protocol}.response.status.{code}", f"status {code}", CGI, "MUST", status(code), "echo")
            for code in STATUSES
        ),
        Case(f"{protocol}.response.fields", "every line of the head is a header field", CGI, "MUST", fields),
        Case(f"{protocol}.response.crlf", "lines end with CRLF", "RFC 3875, 6.3", "SHOULD", crlf),
        Case(
            f"{protocol}.response.no-chunks",
            "no Transfer-Encoding",
            "measured: chunks leak into the body",
            "MUST",
            no_chunks,
        ),
        Case(
            f"{protocol}.response.no-hop",
            "no hop-by-hop field",
            "RFC 3875, 6.3.4; RFC 9110, 7.6.1",
            "SHOULD",
            no_connection,
        ),
        Case(f"{protocol}.response.one-status", "one Status", CGI, "MUST", one_status),
        Case(
            f"{protocol}.response.length",
            "a right Content-Length",
            "measured: cut, or hangs",
            "MUST",
            right_length,
            "echo",
        ),
        Case(f"{protocol}.response.type", "a Content-Type", "RFC 3875, 6.3.1", "MUST", content_type),
        Case(
            f"{protocol}.response.small", "a head of at most 4 KiB", "nginx, fastcgi_buffer_size", "SHOULD", small_head
        ),
        *(
            Case(
                f"{protocol}.response.method.{name.lower()}",
                f"{name} is answered",
                "RFC 3875, 4.3",
                "SHOULD" if name != "GET" else "MUST",
                method(name),
            )
            for name in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PROPFIND")
        ),
    ]
    if protocol != "uwsgi":
        made.append(Case(f"{protocol}.response.no-line", "no status line", FORM, "SHOULD", first_line))
    return made
