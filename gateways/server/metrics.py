"""What a monitoring system asks the master over HTTP: /metrics, /healthz and /readyz, from the status document.

OpenMetrics 1.0 where it is accepted, else the text format of Prometheus; prometheus-client writes both.
"""

from __future__ import annotations

import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate
from itertools import accumulate
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from gateways import __version__
from gateways.build import build
from gateways.codecs.events import Request, ResponseHead
from gateways.codecs.http1 import HTTP1Codec
from gateways.codecs.refusal import error_response
from gateways.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from gateways.limits import Limits
from gateways.server.desk import Desk, Visitor
from gateways.server.errorlog import ErrorLog
from gateways.server.scoreboard import BUCKETS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["MetricsServer", "Source"]

PLAIN: Final = "text/plain; charset=utf-8"
PROMETHEUS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text"
LIMITS: Final = Limits(params_bytes=16_384, params_count=100)
STATES: Final = ("booting", "ready", "retiring")
"""Of workers: each is reported, also where it is none's."""
LIBRARY: Final = "prometheus_client"
_AUTHORITY: Final = re.compile(r"\Ahttps?://[^/?]*", re.IGNORECASE)


class Source(Protocol):
    """Who knows."""

    def status(self) -> dict[str, Any]:
        """Return the status document."""


class MetricsServer(Desk):
    """Answers over HTTP on a listening socket that is given, for the master's poll loop (see Desk).

    Raises ConfigError where prometheus-client is missing.
    """

    def __init__(
        self,
        sock: socket.socket,
        source: Source,
        clock: Callable[[], float] = time.monotonic,
        log: ErrorLog | None = None,
    ) -> None:
        self._library = load_library()
        self._source = source
        super().__init__("metrics", sock, clock, log)

    def welcome(self, sock: socket.socket) -> _Client:
        """Return the visitor of a new connection."""
        return _Client(self, sock)

    def response(self, request: Request) -> ResponseHead:
        """Return the whole answer to a request."""
        stream = request.stream
        method = request.params["REQUEST_METHOD"]
        answers: dict[str, Callable[[Request], tuple[str, str, bytes]]] = {
            "/metrics": self._metrics,
            "/healthz": lambda _: ("200 OK", PLAIN, b"ok\n"),
            "/readyz": lambda _: self._readiness(),
        }
        answer = answers.get(_AUTHORITY.sub("", request.params["REQUEST_URI"]).partition("?")[0])
        if answer is None:
            return error_response(stream, 404)
        if method not in ("GET", "HEAD"):
            refusal = error_response(stream, 405)
            refusal.headers.append(("Allow", "GET, HEAD"))
            return refusal
        status, kind, content = answer(request)
        return ResponseHead(stream, status, [("Content-Type", kind), ("Cache-Control", "no-store")], content, True)

    def _metrics(self, request: Request) -> tuple[str, str, bytes]:
        library = self._library
        collector = _Collector(library.core, self._source.status())
        if wants_openmetrics(request.params.get("HTTP_ACCEPT", "")):
            return "200 OK", library.openmetrics.CONTENT_TYPE_LATEST, library.openmetrics.generate_latest(collector)
        return "200 OK", PROMETHEUS_TEXT, library.exposition.generate_latest(collector)

    def _readiness(self) -> tuple[str, str, bytes]:
        reason = unreadiness(self._source.status())
        return ("503 Service Unavailable", PLAIN, f"{reason}\n".encode()) if reason else ("200 OK", PLAIN, b"ready\n")


class _Client(Visitor):
    """One HTTP connection. One request is answered at a time; whoever sends the next one too early is let go."""

    def __init__(self, server: MetricsServer, sock: socket.socket) -> None:
        super().__init__(server, sock)
        self._server = server
        self._codec = HTTP1Codec(LIMITS, date=lambda: formatdate(usegmt=True))
        self._stream = 0  # the request that is being answered

    def take(self, data: bytes) -> None:
        codec = self._codec
        error: RemoteProtocolError | None = None
        events: Sequence[object]
        try:
            events = codec.feed(data) if data else codec.feed_eof()
        except RemoteProtocolError as failure:
            events = failure.events
            error = failure
        requests = [event for event in events if isinstance(event, Request)]
        if requests:
            self._stream = requests[0].stream
            out = codec.send(self._server.response(requests[0]))
            more = len(requests) > 1 or requests[0].content_length != 0 or error is not None
            self.say(out, last=more or codec.closing)
        elif error is not None:
            self._refuse(codec.error_stream, error.status_hint)

    def late(self) -> None:
        """Answer a head that has begun."""
        if self._codec.buffered:
            self._refuse(self._codec.error_stream, 408)
        else:
            self.close()

    def fail(self) -> None:
        self._refuse(self._stream, 500)

    def _refuse(self, stream: int, code: int) -> None:
        try:
            self.say(self._codec.send(error_response(stream, code)), last=True)
        except LocalProtocolError:  # it has had its answer
            self.close()


def wants_openmetrics(accept: str) -> bool:
    """Whether a client's Accept field (RFC 9110 section 12.5.1) names OpenMetrics, and text not before it."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        found = [re.fullmatch(r"q=([01](?:\.[0-9]{0,3})?)", parameter) for parameter in parameters]
        weight = min((float(match[1]) for match in found if match is not None), default=1.0)
        weights[name] = max(weight, weights.get(name, 0.0))
    return weights.get(OPENMETRICS, 0.0) > 0 and weights[OPENMETRICS] >= weights.get("text/plain", 0.0)


def unreadiness(status: Mapping[str, Any]) -> str:
    """Return why no request should come here now; nothing where it should."""
    if status["state"] == "stopping":
        return "stopping"
    on_demand = status["pool"] == "ondemand" and status["state"] != "starting"  # its workers start with a request
    return "" if status["ready"] or on_demand else f"{status['state']}: no worker is ready"


class _Library(NamedTuple):
    """The parts of prometheus-client that are used here."""

    core: ModuleType
    exposition: ModuleType
    openmetrics: ModuleType


def load_library() -> _Library:
    """Import prometheus-client for us alone; raises ConfigError.

    Workers are forked from this process. An application may have another version of it after a reload, and may set
    PROMETHEUS_MULTIPROC_DIR, which is read at its import: so nothing of it is left in ``sys.modules``.
    """

    def loaded() -> set[str]:
        return {name for name in sys.modules if name.partition(".")[0] == LIBRARY}

    before = loaded()
    try:
        from prometheus_client import core, exposition  # noqa: PLC0415 - an extra
        from prometheus_client.openmetrics import exposition as openmetrics  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "--metrics needs prometheus-client, which is not installed: "
            f"python3 -m pip --python {sys.executable} install prometheus-client"
        ) from error
    finally:
        for name in loaded() - before:
            del sys.modules[name]
    return _Library(core, exposition, openmetrics)


class _Collector:
    """The metric families of one status document, as prometheus-client's collectors give them."""

    def __init__(self, core: ModuleType, status: Mapping[str, Any]) -> None:
        self._core = core
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield all families; the counters are of the server, so they outlive its workers."""
        yield from self._requests()
        yield from self._pool()
        yield from self._totals()

    def _requests(self) -> Iterator[Metric]:
        core = self._core
        labels = ["protocol", "status"]
        requests = core.CounterMetricFamily("gateways_requests", "Requests answered.", labels=labels)
        times = core.HistogramMetricFamily(
            "gateways_request_duration_seconds", "Time from a request's head to its answer.", labels=labels,
            unit="seconds",
        )  # fmt: skip
        for protocol, classes in self._status["times"].items():
            for kind, histogram in classes.items():
                requests.add_metric([protocol, kind], sum(histogram["counts"]))
                times.add_metric([protocol, kind], _buckets(histogram), histogram["total"])
        queue = core.HistogramMetricFamily(
            "gateways_queue_seconds", "Time between the web server's start stamp and a thread.", unit="seconds"
        )
        queue.add_metric([], _buckets(self._status["queue_time"]), self._status["queue_time"]["total"])
        yield from (requests, times, queue)

    def _pool(self) -> Iterator[Metric]:
        status = self._status
        gauge = self._core.GaugeMetricFamily
        workers = status["workers"]
        serving = sum(len(worker["threads"]) for worker in workers if worker["state"] == "ready")
        yield gauge("gateways_busy_ratio", "Share of thread time spent in requests.", status["busy"], unit="ratio")
        yield gauge("gateways_threads", "Threads of the workers that are ready.", serving)
        yield gauge("gateways_threads_busy", "Threads that serve a request now.", status["busy_threads"])
        states = gauge("gateways_workers", "Workers by their state.", labels=["state"])
        for state in dict.fromkeys([*STATES, *(worker["state"] for worker in workers)]):
            states.add_metric([state], sum(worker["state"] == state for worker in workers))
        memory = gauge("gateways_worker_private_bytes", "Private memory of a worker.", labels=["pid"], unit="bytes")
        for worker in workers:
            if worker["private_bytes"] is not None:
                memory.add_metric([str(worker["pid"])], worker["private_bytes"])
        names = ["protocol", "address"]
        queues = gauge("gateways_listener_queue", "Connections that nobody has accepted.", labels=names)
        lengths: dict[tuple[str, str], int] = {}
        for listener in status["listeners"]:
            if listener["queue"] is not None:
                key = (listener["protocol"], listener["address"])
                lengths[key] = lengths.get(key, 0) + listener["queue"]
        for key, length in lengths.items():
            queues.add_metric(key, length)
        yield from (states, memory, queues)

    def _totals(self) -> Iterator[Metric]:
        status = self._status
        counter = self._core.CounterMetricFamily
        restarts = counter("gateways_worker_restarts", "Workers replaced, by the cause.", labels=["cause"])
        for cause, count in status["restarts"].items():
            restarts.add_metric([cause], count)
        yield restarts
        yield counter("gateways_timeouts", "Requests that passed the request timeout.", status["timeouts"])
        yield counter("gateways_slow_requests", "Requests that went to the slow log.", status["slow"])
        yield counter("gateways_reloads", "Reloads that succeeded.", status["reloads"])
        yield counter("gateways_reload_failures", "Reloads that left the old code.", status["reload_failures"])
        yield self._core.GaugeMetricFamily(
            "gateways_start_time_seconds", "When the server started, since 1970.", status["started"], unit="seconds"
        )
        about = {"version": __version__, "python": platform.python_version(), "build": build()}
        yield self._core.InfoMetricFamily("gateways_build", "Version, Python and build.", about)


def _buckets(histogram: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the cumulative counts by upper bound."""
    bounds = [*(repr(float(bound)) for bound in BUCKETS), "+Inf"]
    return list(zip(bounds, accumulate(histogram["counts"]), strict=True))
