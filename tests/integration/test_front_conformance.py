"""``gateways conform --front-end`` against the real web servers: what each of them is known to do otherwise."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from gateways.wire.cases.fronts import FRONT_SUITES
from gateways.wire.fronts import FrontRun
from gateways.wire.report import text_lines
from gateways.wire.target import Target
from gateways.wire.web import FrontEnd
from tests.servers import LOOPBACK, Apache, Lighttpd, Nginx, Server, free_port, open_directory, require, running

SECONDS = 4.0
"""All but HAProxy answer at once, unless this machine is busy."""
HANGS = {"haproxy-fastcgi": 2.0}
SCHEMES = {"fastcgi": "fcgi"}
RESTARTS = """
import signal, subprocess, sys
left = 100
def end(*_):
    global left
    left = 0
    child.terminate()
signal.signal(signal.SIGTERM, end)
while left > 0:
    left -= 1
    child = subprocess.Popen(sys.argv[1:])
    child.wait()
"""
"""HAProxy 2.6 dies of some cases, so it is started again, as systemd does."""
HAPROXY = """
global
    maxconn 200
defaults
    mode http
    option http-buffer-request
    timeout client 20s
    timeout server 20s
    timeout connect 3s
frontend front
    bind {host}:{port}
    default_backend back
backend back
    http-reuse always
    use-fcgi-app app
    server one {address} proto fcgi
fcgi-app app
    docroot /srv
    option keep-conn
    option mpxs-conns
    option max-reqs 20
"""

NGINX = {
    "params.server": "SERVER_NAME is empty where server_name is not set",
    "params.host": "Debian's parameter files have $host, without the port",
    "params.header.blanks": "a tab at the end of a value stays",
    "params.header.repeated": "two parameters before 1.23",
    "params.httpoxy": "the stock parameter files do not clear it",
    "response.head.large.*": "*_buffer_size is 4 or 8 KiB",
}
NGINX_FASTCGI = NGINX | {
    "answer.stderr.large": "within the head it counts against fastcgi_buffer_size",
    "answer.unknown.*": "any record but FCGI_STDOUT, FCGI_STDERR and FCGI_END_REQUEST is an error",
    "answer.other.stdout": "any id but 1 is an error",
}
APACHE = {
    "client.leaves": "it is found out when the next part of the answer is written",
    "response.location.alone": "200, or 502 over uwsgi",
}
APACHE_FASTCGI = APACHE | {
    "response.broken.nothing": "200 without a body",
    "response.broken.no-head": "200 with the text as body",
    "response.broken.cut": "200 with the head as body",
    "answer.stderr.alone": "200 without a body",
    "answer.end.cant-mpx": "protocolStatus is not looked at",
    "answer.end.overloaded": "as above",
    "answer.end.unknown-role": "as above",
    "answer.unknown.*": "503: any record but the three is an error",
    "answer.other.stdout": "503: any id but 1 is an error",
}
LIGHTTPD = {
    "params.query.as-it-came": "it normalizes the URL",
    "params.header.underscore": "passed on beside the other",
    "client.leaves": "it keeps waiting",
    "response.broken.line": "ignored",
}
CRASH = 'FATAL: bug condition "c_empty(ic)" matched at src/stconn.c'
LATE = "502 where it sends the next request before it has seen the end; it tries again only if told to (retry-on)"
HAPROXY_FASTCGI = {
    "params.query.none": "it is not sent",
    "params.header.repeated": "two parameters",
    "client.leaves": "option abortonclose is off",
    "response.status.204-body": "502",
    "response.location.status": "302",
    "response.head.split.*": CRASH,
    "response.head.bytes": CRASH,
    "response.head.large.30000": "tune.bufsize is 16 KiB",
    "response.body.to-head": "502",
    "response.broken.nothing": "it hangs until its own timeout",
    "response.broken.status": "99 for the client",
    "response.broken.cut": CRASH,
    "response.broken.length.long": "it hangs until its own timeout",
    "keep.closed": LATE,
    "keep.failed": LATE,
    "answer.packets.*": CRASH,
    "answer.stderr.large": CRASH,
    "answer.bad.version": "not looked at",
}
REUSED = "where the backend's connection was a kept one, the client's is closed without a word, for it to try again"
HAPROXY_3_FASTCGI = HAPROXY_FASTCGI | {
    "response.gone.closed": REUSED,
    "response.gone.reset": REUSED,
    "answer.stderr.alone": REUSED,
    "answer.end.*": REUSED,
    "answer.bad.id": REUSED,
}
KNOWN: dict[str, dict[str, str]] = {
    "nginx-fastcgi": NGINX_FASTCGI,
    "nginx-fastcgi-keep": NGINX_FASTCGI,
    "nginx-scgi": NGINX
    | {
        "params.gateway": "not in scgi_params",
        "params.path.*": "neither SCRIPT_NAME nor PATH_INFO is in scgi_params",
    },
    "nginx-uwsgi": NGINX
    | {"params.gateway": "not in uwsgi_params", "response.broken.status": "200: it is not looked at"},
    "apache-fastcgi": APACHE_FASTCGI,
    "apache-fastcgi-keep": APACHE_FASTCGI
    | {
        "keep.management": "503",
        "keep.end-split": "what comes after its header is left for the next request: 503",
    },
    "apache-scgi": APACHE
    | {
        "params.gateway": "it is not sent",
        "body.chunked.served": "411",
        "response.gone.within": "Content-Length is dropped, so nothing is missing",
    },
    "apache-uwsgi": APACHE
    | {
        "body.chunked.served": "411",
        "response.status.none": "502",
        "response.broken.length.short": "the rest goes out behind the response",
    },
    "lighttpd-fastcgi": LIGHTTPD
    | {
        "answer.other.stdout": "ids are not looked at",
        "answer.bad.version": "nor are versions",
        "answer.bad.id": "ids are not looked at",
    },
    "lighttpd-scgi": LIGHTTPD,
    "lighttpd-uwsgi": LIGHTTPD,
    "haproxy-fastcgi": HAPROXY_FASTCGI,
}
"""Web server and protocol; the cases that may fail, and why."""


def known_of(name: str) -> dict[str, str]:
    """Return its rows of KNOWN, or those of the version that is here."""
    if name != "haproxy-fastcgi":
        return KNOWN[name]
    told = subprocess.run([require("haproxy"), "-v"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version (\d+)\.", told)
    assert found, told
    return HAPROXY_FASTCGI if int(found[1]) < 3 else HAPROXY_3_FASTCGI


def start(name: str, directory: Path, port: int, backend: int) -> Server:
    """A web server that passes everything to the backend."""
    kind, protocol, *keep = name.split("-")
    address = f"{LOOPBACK}:{backend}"
    if kind == "nginx":
        stock = f"include {Nginx.stock(f'{protocol}_params')};"
        passed, upstream = f"{protocol}_pass {address};", ""
        if keep:
            upstream = f"upstream kept {{ server {address}; keepalive 4; }}"
            passed = f"{protocol}_keep_conn on; {protocol}_pass kept;"
        http = f"{upstream} server {{ listen {LOOPBACK}:{port}; location / {{ {stock} {passed} }} }}"
        return Nginx(directory, http, [port])
    if kind == "apache":
        reuse = " enablereuse=on" if keep else ""
        scheme = SCHEMES.get(protocol, protocol)
        # Each of its processes has a pool: with one, a connection that is out of step is found at once.
        one = "ServerLimit 1\nThreadsPerChild 32\nMaxRequestWorkers 32\n"
        return Apache(directory, f'{one}ProxyPass "/" "{scheme}://{address}/"{reuse}\n', [port])
    if kind == "lighttpd":
        module = 'scgi.protocol = "uwsgi"\nscgi' if protocol == "uwsgi" else protocol
        host = f'"host" => "{LOOPBACK}", "port" => {backend}, "check-local" => "disable"'
        conf = f'{module}.server = ("/" => (({host}, "fix-root-scriptname" => "enable")))\n'
        return Lighttpd(directory, conf, [port])
    conf_file = directory / "haproxy.cfg"
    conf_file.write_text(HAPROXY.format(host=LOOPBACK, port=port, address=address))
    argv = [sys.executable, "-c", RESTARTS, require("haproxy"), "-db", "-f", str(conf_file)]
    return Server(directory, argv, [port])


@pytest.mark.parametrize("name", KNOWN)
def test_a_web_server_differs_where_it_is_known_to(name: str) -> None:
    protocol = name.split("-")[1]
    port, backend = free_port(), free_port()
    with (
        open_directory() as directory,
        FrontRun(FrontEnd(LOOPBACK, port), Target(protocol, (LOOPBACK, backend)), HANGS.get(name, SECONDS)) as run,
    ):
        server = start(name, directory, port, backend)
        with running(server):
            run.probe()
            results = list(run.run_cases(FRONT_SUITES[protocol]))
    known = [f"{protocol}.front.{pattern}" for pattern in known_of(name)]
    bad = [
        result
        for result in results
        if result.verdict == "fail" and not any(fnmatchcase(result.case.id, pattern) for pattern in known)
    ]
    assert not bad, "\n".join(text_lines(bad))
    may_be = [f"{protocol}.front.keep.*", f"{protocol}.front.multiplex.*"]
    skipped = [
        result
        for result in results
        if result.verdict == "skip" and not any(fnmatchcase(result.case.id, pattern) for pattern in may_be)
    ]
    assert not skipped, "\n".join(text_lines(skipped, every=True))


def test_every_row_names_a_case() -> None:
    for name, rows in [*KNOWN.items(), ("haproxy-fastcgi", HAPROXY_3_FASTCGI)]:
        ids = [case.id for case in FRONT_SUITES[name.split("-")[1]]]
        assert not [row for row in rows if not any(fnmatchcase(each.partition(".front.")[2], row) for each in ids)]
