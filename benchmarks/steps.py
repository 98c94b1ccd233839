"""Where the time of one small request goes, step by step: in this process, against a socket that is read at once.

It runs the server's own parts, by which each step is added: a codec, a connection, WSGI, the scoreboard. What a step
takes is the difference to the run without it. Nobody is woken and nothing waits, so this is what the server itself
computes, and the least that its system calls take; behind a real web server both take more.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from gateways.apps import Exchange
from gateways.apps.wsgi import WSGIApp
from gateways.build import version_line
from gateways.codecs.events import EndOfBody, Request, ResponseHead
from gateways.codecs.fronts import FRONT_CODECS
from gateways.codecs.pairs import (
    encode_fastcgi_pairs,
    encode_scgi_headers,
    encode_uwsgi_vars,
    parse_fastcgi_pairs,
    parse_scgi_headers,
    parse_uwsgi_vars,
)
from gateways.limits import DEFAULT_LIMITS, DEFAULT_TIMEOUTS
from gateways.server.connection import Connection
from gateways.server.errorlog import ErrorLog
from gateways.server.observed import ObservedApp
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import Protocols
from gateways.server.scoreboard import Board

RUNS: Final = ("uwsgi", "scgi", "fastcgi", "fastcgi, kept")
BODY: Final = b"Hello, World!"
HEADERS: Final = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")]
# What nginx 1.22 sends of a browser's GET with its stock parameters.
PARAMS: Final = {
    "QUERY_STRING": "a=1&b=2",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "REQUEST_URI": "/hello?a=1&b=2",
    "PATH_INFO": "/hello",
    "DOCUMENT_URI": "/hello",
    "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "51234",
    "SERVER_PORT": "80",
    "SERVER_NAME": "localhost",
    "HTTP_HOST": "localhost",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_COOKIE": "session=0123456789abcdef; theme=dark",
    "HTTP_CONNECTION": "keep-alive",
    "HTTP_CACHE_CONTROL": "max-age=0",
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:  # noqa: ARG001
    """The smallest application."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")])
    return [BODY]


def answer(exchange: Exchange) -> None:
    """Answer without WSGI."""
    exchange.send(ResponseHead(exchange.request.stream, "200 OK", HEADERS, BODY, True))


def parameters(protocol: str) -> Callable[[], object]:
    """Return what reads the parameters, and nothing else."""
    pairs = list(PARAMS.items())
    most = DEFAULT_LIMITS.params_count
    if protocol == "uwsgi":
        block = encode_uwsgi_vars(pairs)
        return lambda: parse_uwsgi_vars(block, most)
    if protocol == "scgi":
        block = encode_scgi_headers(pairs)
        return lambda: parse_scgi_headers(block, most)
    block = encode_fastcgi_pairs(pairs)
    return lambda: parse_fastcgi_pairs(block, most)


class Bench:
    """One way to ask: a protocol, on a new connection each time or on a kept one."""

    def __init__(self, run: str, count: int) -> None:
        self._protocol, _, kept = run.partition(", ")
        self._kept = bool(kept)
        self._count = count
        front = FRONT_CODECS[self._protocol](DEFAULT_LIMITS)
        self._wire = front.send(Request(1, dict(PARAMS), 0, keep=self._kept)) + front.send(EndOfBody(1))
        self._protocols = Protocols(DEFAULT_LIMITS, host="localhost", port="80", max_conns=1, max_reqs=1)

    def least(self, once: Callable[[], float], tries: int = 9) -> float:
        """Return the mean microseconds of ``once``, which returns seconds, in the quickest of some tries."""
        gc.collect()
        gc.freeze()
        try:
            return min(sum(once() for _ in range(self._count)) for _ in range(tries)) / self._count * 1e6
        finally:
            gc.unfreeze()

    def timed(self, function: Callable[[], object]) -> float:
        """Return what a function takes, less an empty one."""

        def once(called: Callable[[], object]) -> float:
            start = time.perf_counter()
            called()
            return time.perf_counter() - start

        return self.least(lambda: once(function)) - self.least(lambda: once(nothing))

    def steps(self) -> dict[str, float]:
        """Return microseconds by step."""
        log = ErrorLog()
        wsgi = WSGIApp(application, log, mount=None, threads=False, processes=False)

        def quiet(exchange: Exchange) -> None:  # as ObservedApp does, or the garbage collector would
            params = exchange.request.params
            wsgi(exchange)
            exchange.request.params = params

        parse = self.timed(parameters(self._protocol))
        codec = self.timed(lambda: self._protocols.codec(self._protocol, "").feed(self._wire))
        calls = self.calls()
        bare = self.served(answer)
        with_wsgi = self.served(quiet)
        whole = self.served(ObservedApp(wsgi, Board(1, 1), 0, None))
        called = self.timed(lambda: application({}, nothing))
        return {
            "system calls": calls,
            "parameters to a dict": parse,
            "the codec around them": codec - parse,
            "connection, exchange, response": bare - codec - calls,
            "WSGI: environ, its rules": with_wsgi - bare - called,
            "the application itself": called,
            "scoreboard, deadlines": whole - with_wsgi,
            "all": whole,
        }

    def calls(self) -> float:
        """Return what the system calls take alone."""
        response = b"x" * 110

        def once(ours: int) -> float:
            start = time.perf_counter()
            os.read(ours, 65_536)
            os.write(ours, response)
            if not self._kept:
                os.close(ours)
            return time.perf_counter() - start

        return self.exchanged(lambda ours: lambda: once(ours))

    def served(self, app: Callable[[Exchange], None]) -> float:
        """Return what a request takes from the bytes in the socket to the answer there."""
        pool = Pool(
            app, ErrorLog(), threads=1, limits=DEFAULT_LIMITS, timeouts=DEFAULT_TIMEOUTS,
            poller=make_poller(one_shot=False),
        )  # fmt: skip

        def once(connection: Connection) -> float:
            connection.armed = False
            start = time.perf_counter()
            connection.on_ready()
            return time.perf_counter() - start

        def connected(ours: int) -> Callable[[], float]:
            os.set_blocking(ours, False)
            connection = self._protocols.connect(self._protocol, pool, ours, "")
            return lambda: once(connection)

        return self.exchanged(connected)

    def exchanged(self, connected: Callable[[int], Callable[[], float]]) -> float:
        """Measure what is called when a request has been written to a socket; ``connected`` has its descriptor."""
        if self._kept:
            theirs, ours = socket.socketpair()
            with theirs, ours:
                ask = connected(ours.fileno())

                def again() -> float:
                    theirs.sendall(self._wire)
                    seconds = ask()
                    check(theirs.recv(65_536))
                    return seconds

                return self.least(again)

        def anew() -> float:
            theirs, ours = socket.socketpair()
            with theirs:
                theirs.sendall(self._wire)
                seconds = connected(ours.detach())()
                check(theirs.recv(65_536))
                return seconds

        return self.least(anew)


def nothing(*_: object) -> None:
    """Do nothing."""


def check(response: bytes) -> None:
    """End the program at a wrong answer."""
    if BODY not in response and b"x" * 110 not in response:
        sys.exit(f"a wrong answer: {response!r}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, choices=range(100, 100_001), default=2_000, metavar="100..100000")
    parser.add_argument("--json", action="store_true", help="print JSON: microseconds by run and step")
    options = parser.parse_args()
    found = {run: Bench(run, options.runs).steps() for run in RUNS}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{version_line()}: us a request, the least of 9 means of {options.runs}\n")
    print(f"{'':32}" + "".join(f"{run:>16}" for run in RUNS))
    for step in found["uwsgi"]:
        print(f"{step:32}" + "".join(f"{found[run][step]:16.2f}" for run in RUNS))


main()
