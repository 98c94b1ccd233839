"""The bundled demonstration: a WSGI application that shows how its request came. It needs nothing of gateways."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import parse_qs
from wsgiref.util import application_uri

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["application"]

MAXIMUM_SECONDS: Final = 10.0
MAXIMUM_ECHO: Final = 67_108_864
ECHO_IN_MEMORY: Final = 1_048_576
BLOCK: Final = 65_536
LINES: Final = 10
TEXT: Final = "text/plain; charset=utf-8"
INTERESTING: Final = (
    "gateways.protocol",
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_USER",
    "wsgi.url_scheme",
    "wsgi.multithread",
    "wsgi.multiprocess",
)
TRIALS: Final = (
    ("env", "curl {base}/env", "the environ as JSON"),
    ("headers", "curl -H 'X-Trial: 1' {base}/headers", "the request's header fields"),
    ("echo", "curl -d 'hello' {base}/echo", "the request's body again"),
    ("stream", "curl -N {base}/stream", "ten lines, one after the other"),
    ("slow?seconds=1", "curl '{base}/slow?seconds=1'", "an answer after a second"),
    ("error", "curl -i {base}/error", "an application that fails"),
)
NAMES: Final = {"fastcgi": "FastCGI", "scgi": "SCGI", "uwsgi": "uwsgi", "http": "HTTP/1.1", "cgi": "CGI"}
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>gateways: {protocol}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8882; --accent: light-dark(#0a5f8a, #7cc7ee); }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.6rem; line-height: 1.25; }}
h1 strong {{ color: var(--accent); }}
h2 {{ font-size: 1.1rem; margin-top: 2.25rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-top: 1px solid var(--line); }}
th {{ font-weight: 500; white-space: nowrap; }}
td {{ overflow-wrap: anywhere; }}
code {{ font: .9em/1.4 ui-monospace, monospace; background: var(--soft); padding: .1em .35em; border-radius: .25em; }}
a {{ color: var(--accent); }}
</style>
</head>
<body>
<h1>This request came over <strong>{protocol}</strong></h1>
<p>gateways serves one WSGI application over FastCGI, SCGI, uwsgi and HTTP from one pool of workers.
Ask the same page through another protocol and compare.</p>
<h2>What the application sees</h2>
<table>
{rows}
</table>
<h2>Things to try</h2>
<table>
{trials}
</table>
</body>
</html>
"""


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request by its path."""
    path = environ.get("PATH_INFO", "")
    if not path and environ.get("SCRIPT_NAME"):
        # The page's links are relative, so that they work behind any prefix: it needs its slash.
        location = [("Location", application_uri(environ) + "/")]
        return answer(start_response, "308 Permanent Redirect", TEXT, "The page has a slash at its end.\n", location)
    page = PAGES.get(path or "/")
    if page is None:
        return answer(start_response, "404 Not Found", TEXT, "There is no such page; start at /\n")
    return page(environ, start_response)


def answer(
    start_response: StartResponse,
    status: str,
    content_type: str,
    content: str,
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """One whole response."""
    data = content.encode()
    start_response(
        status,
        [
            ("Content-Type", content_type),
            ("Content-Length", str(len(data))),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
            *headers,
        ],
    )
    return [data]


def home(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The page for people."""
    # nginx's prefix that proxy_pass cuts off: told for the lines to copy, shown to its own sender alone.
    base = application_uri(environ).rstrip("/") + legible(environ.get("HTTP_X_FORWARDED_PREFIX", ""))
    rows = "\n".join(
        f"<tr><th scope='row'>{escape(name)}</th><td><code>{escape(legible(environ[name]))}</code></td></tr>"
        for name in INTERESTING
        if environ.get(name) not in (None, "") or name == "SCRIPT_NAME"
        if name in environ
    )
    trials = "\n".join(
        f"<tr><td><a href='{escape(link)}'>{escape(link)}</a></td><td>{escape(what)}<br>"
        f"<code>{escape(line.format(base=base))}</code></td></tr>"
        for link, line, what in TRIALS
    )
    content = PAGE.format(protocol=escape(protocol_name(environ)), rows=rows, trials=trials)
    policy = ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    return answer(start_response, "200 OK", "text/html; charset=utf-8", content, [policy])


def protocol_name(environ: WSGIEnvironment) -> str:
    """The protocol that carried the request, as its specification writes it."""
    protocol = str(environ.get("gateways.protocol", "an unknown protocol"))
    return NAMES.get(protocol, protocol)


def legible(value: object) -> str:
    """For people: PEP 3333's latin-1 text as the UTF-8 that it mostly is."""
    return value.encode("latin-1", "replace").decode("utf-8", "replace") if isinstance(value, str) else str(value)


def env(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The environ as JSON: text as the application gets it, objects by their type."""
    plain = {
        name: value if isinstance(value, str | bool | int | float | tuple | None) else f"<{type(value).__name__}>"
        for name, value in environ.items()
    }
    content = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    return answer(start_response, "200 OK", "application/json", content)


def headers(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The request's header fields, a line each."""
    fields = {name.removeprefix("HTTP_"): value for name, value in environ.items() if name.startswith("HTTP_")}
    fields |= {name: environ[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)}
    lines = (f"{name.replace('_', '-').title()}: {legible(value)}\n" for name, value in sorted(fields.items()))
    return answer(start_response, "200 OK", TEXT, "".join(lines))


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The body, sent back when it is whole: a client that writes first and reads later must not block us both."""
    spool = tempfile.SpooledTemporaryFile(max_size=ECHO_IN_MEMORY)  # noqa: SIM115 - blocks_of closes it
    for block in body_of(environ):
        spool.write(block)
        if spool.tell() > MAXIMUM_ECHO:
            spool.close()
            return answer(start_response, "413 Content Too Large", TEXT, "/echo takes 64 MiB at most.\n")
    length = ("Content-Length", str(spool.tell()))
    spool.seek(0)
    # Never as HTML: whatever a form on another site posts would become a page of this one.
    start_response("200 OK", [("Content-Type", TEXT), length, ("X-Content-Type-Options", "nosniff")])
    return blocks_of(spool)


def body_of(environ: WSGIEnvironment) -> Iterator[bytes]:
    """The body in blocks: to its end where the server ends it, else as long as CONTENT_LENGTH says."""
    terminated = bool(environ.get("wsgi.input_terminated"))
    left = MAXIMUM_ECHO + BLOCK if terminated else int(environ.get("CONTENT_LENGTH") or 0)
    while left > 0:
        block = environ["wsgi.input"].read(min(left, BLOCK))
        if not block:
            return
        left -= len(block)
        yield block


def blocks_of(spool: IO[bytes]) -> Iterator[bytes]:
    """The spooled body; closes it."""
    with spool:
        while block := spool.read(BLOCK):
            yield block


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Ten lines, ``?seconds=`` in all, each sent when it is there."""
    seconds = seconds_of(environ, "1")
    if seconds is None:
        return answer(start_response, "400 Bad Request", TEXT, "seconds is a number.\n")
    # nginx would keep the lines back until its buffer is full.
    start_response("200 OK", [("Content-Type", TEXT), ("X-Accel-Buffering", "no"), ("Cache-Control", "no-store")])
    return lines(seconds / LINES)


def lines(pause: float) -> Iterator[bytes]:
    """The lines, with a pause after each but the last."""
    for number in range(1, LINES + 1):
        yield f"line {number} of {LINES}\n".encode()
        if number < LINES:
            time.sleep(pause)


def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """An answer after ``?seconds=``."""
    seconds = seconds_of(environ, "1")
    if seconds is None:
        return answer(start_response, "400 Bad Request", TEXT, "seconds is a number.\n")
    time.sleep(seconds)
    return answer(start_response, "200 OK", TEXT, f"This took {seconds:g} seconds.\n")


def seconds_of(environ: WSGIEnvironment, default: str) -> float | None:
    """``?seconds=`` within its bounds; None where it is no number."""
    try:
        seconds = float(parse_qs(environ.get("QUERY_STRING", "")).get("seconds", [default])[0])
    except ValueError:
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAXIMUM_SECONDS)


def error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:  # noqa: ARG001 - WSGI's signature
    """Fail as an application does that has a bug."""
    raise RuntimeError("the demonstration was asked to fail")


PAGES: Final[dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]]] = {
    "/": home,
    "/env": env,
    "/headers": headers,
    "/echo": echo,
    "/stream": stream,
    "/slow": slow,
    "/error": error,
}
