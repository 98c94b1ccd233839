"""The metrics: read back by prometheus-client's own parser; health and readiness; HTTP as hostile peers speak it."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import parser as text_parser
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser

import gateways
from gateways.errors import ConfigError
from gateways.server.desk import GRACE, PATIENCE, ROOM
from gateways.server.metrics import MetricsServer, load_library, wants_openmetrics
from gateways.server.scoreboard import BUCKETS
from tests.server.fake_master import FakeClock, FakeHandler, Loop, histogram, pump, status_document
from tests.server.peers import Answer, Peer, answer_of
from tests.server.pools import MemoryLog, within

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
"""What Prometheus 3 sends."""


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


@pytest.fixture
def server(handler: FakeHandler, log: MemoryLog) -> Iterator[MetricsServer]:
    server = MetricsServer(listener(), handler, log=log)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def timed(handler: FakeHandler, clock: FakeClock) -> Iterator[MetricsServer]:
    """A server without a loop, whose time is the test's."""
    server = MetricsServer(listener(), handler, clock)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def peer(server: MetricsServer) -> Iterator[Peer]:
    """A connection to a server in its loop."""
    address = server.sock.getsockname()
    with Loop(server), Peer(address) as peer:
        yield peer


def get(peer: Peer, path: str = "/metrics", accept: str = "", method: str = "GET") -> Answer:
    """Ask once, and keep the connection."""
    field = f"Accept: {accept}\r\n" if accept else ""
    peer.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{field}\r\n".encode())
    return peer.next_answer()[1]


def head_field(answer: Answer, name: str) -> str:
    found = re.search(rb"(?i)\r\n" + name.encode() + rb": *([^\r]*)", answer.head)
    return found[1].decode() if found else ""


def parse(text: str) -> Iterator[Metric]:
    found: Iterator[Metric] = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return found


def families(peer: Peer) -> dict[str, Metric]:
    text = get(peer, accept=PROMETHEUS).body.decode()
    return {family.name: family for family in parse(text)}


def samples(found: dict[str, Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in found.values()
        for sample in family.samples
    }


def value(found: dict[str, Metric], name: str, **labels: str) -> float:
    return samples(found)[name, frozenset(labels.items())]


# Metrics


def test_every_family_is_there_with_its_type_and_unit(peer: Peer) -> None:
    found = families(peer)
    assert {name: (family.type, family.unit) for name, family in found.items()} == {
        "gateways_requests": ("counter", ""),
        "gateways_request_duration_seconds": ("histogram", "seconds"),
        "gateways_queue_seconds": ("histogram", "seconds"),
        "gateways_busy_ratio": ("gauge", "ratio"),
        "gateways_threads": ("gauge", ""),
        "gateways_threads_busy": ("gauge", ""),
        "gateways_workers": ("gauge", ""),
        "gateways_worker_private_bytes": ("gauge", "bytes"),
        "gateways_listener_queue": ("gauge", ""),
        "gateways_worker_restarts": ("counter", ""),
        "gateways_timeouts": ("counter", ""),
        "gateways_slow_requests": ("counter", ""),
        "gateways_reloads": ("counter", ""),
        "gateways_reload_failures": ("counter", ""),
        "gateways_start_time_seconds": ("gauge", "seconds"),
        "gateways_build": ("info", ""),
    }
    assert all(family.documentation for family in found.values())


def test_the_values(peer: Peer, handler: FakeHandler) -> None:
    found = families(peer)
    assert value(found, "gateways_requests_total", protocol="fastcgi", status="2xx") == 3
    assert value(found, "gateways_requests_total", protocol="fastcgi", status="5xx") == 1
    assert value(found, "gateways_requests_total", protocol="http", status="2xx") == 0
    assert value(found, "gateways_queue_seconds_count") == 2
    assert value(found, "gateways_busy_ratio") == 0.13
    assert value(found, "gateways_threads") == 4
    assert value(found, "gateways_threads_busy") == 1
    states = {state: value(found, "gateways_workers", state=state) for state in ("booting", "ready", "retiring")}
    assert states == {"booting": 0, "ready": 2, "retiring": 0}
    assert value(found, "gateways_worker_private_bytes", pid="13") == 8_400_000
    assert len(found["gateways_worker_private_bytes"].samples) == 1
    assert value(found, "gateways_listener_queue", protocol="fastcgi", address="/run/shop.sock") == 6
    assert len(found["gateways_listener_queue"].samples) == 1
    assert value(found, "gateways_worker_restarts_total", cause="requests") == 2
    assert value(found, "gateways_worker_restarts_total", cause="age") == 0
    assert value(found, "gateways_timeouts_total") == 4
    assert value(found, "gateways_slow_requests_total") == 5
    assert value(found, "gateways_reloads_total") == 3
    assert value(found, "gateways_reload_failures_total") == 1
    assert value(found, "gateways_start_time_seconds") == handler.document["started"]
    (build,) = found["gateways_build"].samples
    assert build.labels["version"] == gateways.__version__
    assert set(build.labels) == {"version", "python", "build"}


def test_the_buckets_are_cumulative(peer: Peer) -> None:
    found = families(peer)
    name = "gateways_request_duration_seconds"
    labels = {"protocol": "fastcgi", "status": "2xx"}
    counts = [value(found, f"{name}_bucket", le=str(bound), **labels) for bound in BUCKETS]
    assert counts == [2] * 5 + [3] * 8
    assert value(found, f"{name}_bucket", le="+Inf", **labels) == 3
    assert value(found, f"{name}_count", **labels) == 3
    assert value(found, f"{name}_sum", **labels) == pytest.approx(0.208)
    assert value(found, f"{name}_bucket", le="60.0", protocol="fastcgi", status="5xx") == 0
    assert value(found, f"{name}_bucket", le="+Inf", protocol="fastcgi", status="5xx") == 1


def test_a_server_without_any_worker(peer: Peer, handler: FakeHandler) -> None:
    handler.document = status_document(workers=[], ready=0, times={}, listeners=[], restarts={}, busy=0.0)
    found = families(peer)
    assert value(found, "gateways_threads") == 0
    assert value(found, "gateways_workers", state="ready") == 0
    assert found["gateways_requests"].samples == []


def test_two_listeners_of_one_name_are_one_sample(peer: Peer, handler: FakeHandler) -> None:
    twin = {"protocol": "http", "address": "127.0.0.1:0", "queue": 2, "backlog": 5}
    handler.document = status_document(listeners=[twin, twin])
    found = families(peer)
    assert value(found, "gateways_listener_queue", protocol="http", address="127.0.0.1:0") == 4


def test_an_address_with_quotes_and_newlines(peer: Peer, handler: FakeHandler) -> None:
    address = '/run/"a\\b\n\x1b\u20ac'
    handler.document = status_document(listeners=[{"protocol": "http", "address": address, "queue": 1, "backlog": 5}])
    assert value(families(peer), "gateways_listener_queue", protocol="http", address=address) == 1


def test_counters_do_not_go_down_when_workers_do(peer: Peer, handler: FakeHandler) -> None:
    before = samples(families(peer))
    handler.document = status_document(
        workers=[],
        ready=0,
        requests=29,
        times={
            "fastcgi": {"2xx": histogram(0.004, 0.004, 0.2, 0.2), "5xx": histogram(70.0)},
            "http": {"2xx": histogram()},
        },
    )
    after = samples(families(peer))
    counters = [key for key in before if key[0].endswith(("_total", "_count", "_bucket", "_sum"))]
    assert len(counters) > 50
    assert all(after[key] >= before[key] for key in counters)
    assert after != before


# Negotiation


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", True),
        ("text/plain, application/openmetrics-text", True),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        (";;;,,,q=1;q=, application/openmetrics;q=nan", False),
        ("application/openmetrics-text;version=" + "9." * 2000, True),
    ],
)
def test_what_a_client_accepts(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected


def test_openmetrics_where_it_is_accepted(peer: Peer) -> None:
    answer = get(peer, accept=PROMETHEUS)
    assert answer.status == 200
    assert head_field(answer, "Content-Type") == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.body.endswith(b"\n# EOF\n")


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*"])
def test_prometheus_text_for_others(peer: Peer, accept: str) -> None:
    answer = get(peer, accept=accept)
    assert head_field(answer, "Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name: family for family in text_parser.text_string_to_metric_families(answer.body.decode())}
    assert value(found, "gateways_requests_total", protocol="fastcgi", status="2xx") == 3
    assert found["gateways_request_duration_seconds"].type == "histogram"


# Health and readiness


@pytest.mark.parametrize(
    ("changes", "status", "body"),
    [
        ({}, 200, b"ready\n"),
        ({"ready": 1}, 200, b"ready\n"),
        ({"state": "reloading"}, 200, b"ready\n"),
        ({"ready": 0}, 503, b"running: no worker is ready\n"),
        ({"state": "starting", "ready": 0}, 503, b"starting: no worker is ready\n"),
        ({"state": "stopping"}, 503, b"stopping\n"),
        ({"pool": "ondemand", "ready": 0}, 200, b"ready\n"),
        ({"pool": "ondemand", "ready": 0, "state": "starting"}, 503, b"starting: no worker is ready\n"),
        ({"pool": "ondemand", "ready": 0, "state": "stopping"}, 503, b"stopping\n"),
    ],
)
def test_readiness(peer: Peer, handler: FakeHandler, changes: dict[str, Any], status: int, body: bytes) -> None:
    handler.document = status_document(**changes)
    answer = get(peer, "/readyz")
    assert (answer.status, answer.body) == (status, body)
    assert head_field(answer, "Cache-Control") == "no-store"
    assert get(peer, "/healthz").body == b"ok\n"


def test_health_asks_nobody(peer: Peer, handler: FakeHandler) -> None:
    handler.failure = LookupError("a bug")
    assert get(peer, "/healthz").status == 200


# HTTP


def test_keep_alive_and_paths(peer: Peer) -> None:
    for path, status in (
        ("/metrics?name[]=x", 200),
        ("http://localhost/metrics", 200),
        ("HTTP://localhost:80/healthz?", 200),
        ("/", 404),
        ("/metrics/", 404),
        ("/x?http://a/metrics", 404),
        ("http://localhost", 404),
        ("/" + "x" * 5000, 404),
    ):
        assert get(peer, path).status == status, path


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head(peer: Peer, path: str) -> None:
    whole = get(peer, path)
    peer.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    answer = peer.answer()
    assert (answer.status, answer.body) == (whole.status, b"")
    assert head_field(answer, "Content-Length") == str(len(whole.body))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "FOO"])
def test_other_methods(peer: Peer, method: str) -> None:
    answer = get(peer, method=method)
    assert answer.status == 405
    assert head_field(answer, "Allow") == "GET, HEAD"
    assert get(peer, "/nothing", method=method).status == 404


def test_http_1_0(peer: Peer) -> None:
    peer.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert peer.answer().body == b"ok\n"


@pytest.mark.parametrize("size", [3, 2_000_000])
def test_a_body_is_not_read(peer: Peer, size: int) -> None:
    peer.send(b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    with contextlib.suppress(ConnectionError):
        peer.send(b"x" * min(size, 500_000))
    assert peer.answer().status == 405


def test_who_waits_for_continue_gets_the_answer(peer: Peer) -> None:
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert peer.answer().status == 200


def test_byte_by_byte(peer: Peer) -> None:
    peer.send_bytewise(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert peer.answer().status == 200


def test_of_pipelined_requests_one_is_answered(peer: Peer, handler: FakeHandler) -> None:
    peer.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
    assert peer.read().count(b"HTTP/1.1 ") == 1
    assert handler.calls == ["status"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b'{"command": "status"}\n', 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET /" + b"x" * 20_000, 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 1_048_576, 431),
        (b"\0" * 100, 400),
    ],
)
def test_garbage(peer: Peer, data: bytes, status: int, handler: FakeHandler) -> None:
    with contextlib.suppress(ConnectionError):
        peer.send(data)
    assert peer.answer().status == status
    assert handler.calls == []


def test_garbage_behind_a_request(peer: Peer) -> None:
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n\0\0\0\0")
    data = peer.read()
    assert answer_of("http", data).body == b"ok\n"
    assert data.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /metrics HT"])
def test_who_ends_before_the_request_is_whole(peer: Peer, server: MetricsServer, sent: bytes) -> None:
    peer.send(sent)
    peer.end()
    assert answer_of("http", peer.read()).status in (0, 400)
    within(lambda: not server.visitors, "it is forgotten")


def test_who_half_closes_is_answered(peer: Peer) -> None:
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    peer.end()
    assert peer.answer().status == 200


def test_a_bug_is_a_500_and_in_the_log(peer: Peer, handler: FakeHandler, log: MemoryLog) -> None:
    handler.failure = LookupError("a bug")
    peer.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert peer.answer().status == 500
    assert [str(error) for error in log.failures] == ["a bug"]


# Time and numbers


def test_a_head_that_does_not_come_in_time(timed: MetricsServer, clock: FakeClock) -> None:
    with Peer(timed.sock.getsockname()) as peer, Peer(timed.sock.getsockname()) as silent:
        peer.send(b"GET /metr")
        within(lambda: pumped(timed) and len(timed.visitors) == 2, "both are there")
        within(lambda: pumped(timed) and any(map(buffered, timed.visitors.values())), "the bytes were read")
        assert timed.deadline() == clock.now + PATIENCE
        clock.now += PATIENCE
        timed.expire(clock.now)
        assert peer.answer().status == 408
        assert silent.read() == b""
    within(lambda: pumped(timed) and not timed.visitors, "both are forgotten")


def pumped(server: MetricsServer) -> bool:
    pump(server)
    return True


def buffered(visitor: Any) -> bool:  # noqa: ANN401 - a private class
    return bool(visitor._codec.buffered)


def test_who_does_not_read_the_answer(timed: MetricsServer, clock: FakeClock, handler: FakeHandler) -> None:
    many = [
        {"protocol": "http", "address": f"/run/{number:0200}", "queue": 1, "backlog": 5} for number in range(40_000)
    ]
    handler.document = status_document(listeners=many)
    with Peer(timed.sock.getsockname(), receive_buffer=4096) as peer:
        peer.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        within(lambda: pumped(timed) and handler.calls, "it was heard")
        assert [events for fd, events in timed.descriptors() if fd != timed.fileno()] == [select.POLLOUT]
        clock.now += PATIENCE
        timed.expire(clock.now)
        assert timed.visitors == {}


def test_an_idle_kept_connection_is_closed(timed: MetricsServer, clock: FakeClock, handler: FakeHandler) -> None:
    with Peer(timed.sock.getsockname()) as peer:
        peer.send(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        within(lambda: pumped(timed) and handler.calls, "it was heard")
        assert peer.next_answer()[1].status == 200
        clock.now += PATIENCE
        timed.expire(clock.now)
        assert peer.read() == b""


def test_a_hundred_idle_connections_do_not_hide_the_health(server: MetricsServer) -> None:
    address = server.sock.getsockname()
    with Loop(server) as loop, contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(Peer(address))
        with Peer(address) as peer:
            assert get(peer, "/healthz").status == 200
        assert loop.do(lambda: len(server.visitors)) <= ROOM


def test_nobody_is_polled_for_where_all_places_are_taken(timed: MetricsServer, clock: FakeClock) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM):
            stack.enter_context(Peer(timed.sock.getsockname()))
        within(lambda: pumped(timed) and len(timed.visitors) == ROOM, "all are there")
        assert timed.deadline() == clock.now + GRACE
        assert timed.fileno() not in dict(timed.descriptors())


def test_a_slow_peer_does_not_keep_others_waiting(server: MetricsServer, peer: Peer) -> None:
    with Peer(server.sock.getsockname()) as slow:
        slow.send(b"GET /metrics HTTP/1.1\r\n")
        assert get(peer, "/healthz").status == 200


# The library


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch, handler: FakeHandler) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "prometheus_client"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with listener() as sock, pytest.raises(ConfigError, match=r"python3 -m pip --python .* install prometheus-client"):
        MetricsServer(sock, handler)


def test_nothing_of_the_library_is_left_for_the_workers() -> None:
    code = (
        "import os, sys; from gateways.server.metrics import load_library; "
        "before = set(sys.modules); assert 'prometheus_client' not in before; library = load_library(); "
        "assert not [name for name in sys.modules if name.startswith('prometheus_client')]; "
        "assert library.openmetrics.generate_latest(library.core.CollectorRegistry()) == b'# EOF\\n'; "
        "from prometheus_client import core; assert core is not library.core"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_library_that_the_application_has_loaded_stays() -> None:
    before = sys.modules["prometheus_client"]
    load_library()
    assert sys.modules["prometheus_client"] is before
