"""The threads of one worker: who leads, who follows, what holds a thread and what does not."""

from __future__ import annotations

import contextlib
import itertools
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.apps import Exchange
from gateways.limits import DEFAULT_LIMITS, Timeouts
from gateways.server.poller import Poller, make_poller
from gateways.server.pool import Pool
from tests.server.peers import PROTOCOLS, SECONDS, Peer, request
from tests.server.pools import Gate, MemoryLog, Served, hello, reply, within

some_threads = pytest.mark.parametrize("threads", [1, 2, 4])


class Route:
    """``/wait`` waits at the gate, everything else is answered at once, with the name of the thread."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, exchange: Exchange) -> None:
        if exchange.request.params["REQUEST_URI"] == "/wait":
            self.gate.wait()
        reply(exchange, threading.current_thread().name.encode())


class CountingPoller:
    """A real poller that counts how often it is asked."""

    def __init__(self, *, one_shot: bool) -> None:
        self._poller: Poller = make_poller(one_shot=one_shot)
        self.waits = 0
        self.inside = 0
        self.most_inside = 0

    def listen(self, fd: int) -> None:
        self._poller.listen(fd)

    def unlisten(self, fd: int) -> None:
        self._poller.unlisten(fd)

    def add(self, fd: int) -> None:
        self._poller.add(fd)

    def arm(self, fd: int) -> None:
        self._poller.arm(fd)

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        self.waits += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            return self._poller.wait(timeout)
        finally:
            self.inside -= 1

    def fileno(self) -> int:
        return self._poller.fileno()

    def close(self) -> None:
        self._poller.close()


class BrokenPoller(CountingPoller):
    """Fails in a thread that is not the pool's first."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        if threading.current_thread().name.startswith("gateways"):
            raise OSError("Bad file descriptor")
        return super().wait(timeout)


# -- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_thread_serves_in_the_calling_thread(protocol: str) -> None:
    with Served(Route(), protocol) as served:
        for _ in range(3):
            with served.connect() as peer:
                assert peer.get().body == b"pool"
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("gateways")] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_many_run_at_once_as_there_are_threads(protocol: str) -> None:
    route = Route()
    with Served(route, protocol, threads=4) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(6)]
        for peer in peers[:3]:
            peer.send(request(protocol, "/wait"))
        route.gate.await_waiting(3)
        for _ in range(20):  # the fourth thread
            with served.connect() as peer:
                assert peer.get().status == 200
        for peer in peers[3:]:
            peer.send(request(protocol, "/wait"))
        route.gate.await_waiting(4)
        assert all(peer.is_closed() is False for peer in peers)
        route.gate.open()
        names = {peer.answer().body for peer in peers}
        assert len(names) >= 4


def test_all_busy_then_free_again() -> None:
    """Nobody leads while all are busy; whoever is free first takes over."""
    for _ in range(5):
        route = Route()
        with Served(route, threads=2) as served, contextlib.ExitStack() as stack:
            peers = [stack.enter_context(served.connect()) for _ in range(4)]
            for peer in peers:
                peer.send(request("http", "/wait"))
            route.gate.await_waiting(2)
            route.gate.open()
            assert all(peer.answer().status == 200 for peer in peers)


def test_a_thread_that_dies_ends_the_pool() -> None:
    """Nobody would poll any more, and all would stand still for ever."""
    route = Route()
    served = Served(route, threads=3, poller=BrokenPoller(one_shot=True))

    def break_it() -> None:
        with served, served.connect() as peer:
            peer.send(request("http", "/wait"))
            # In the first thread, so that another one is promoted, and fails; on a busy machine that may come sooner.
            within(lambda: route.gate.waiting == 1 or served.pool.stopping, "it waits")
            within(lambda: served.pool.stopping, "the pool ends")
            route.gate.open()
            served.thread.join(SECONDS)

    with pytest.raises(AssertionError, match="Bad file descriptor"):
        break_it()


def test_short_requests_stay_with_the_leader() -> None:
    """Promotion only after about a tick: a follower has no part in what takes microseconds."""
    with Served(Route(), threads=4) as served, served.connect() as peer:
        names = [peer.keep_get().body for _ in range(300)]
        changes = sum(before != after for before, after in itertools.pairwise(names))
        assert changes < 30, "threads take turns"


def test_one_at_a_time_polls() -> None:
    poller = CountingPoller(one_shot=True)
    route = Route()
    with Served(route, threads=4, poller=poller) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(3)]
        for peer in peers:
            peer.send(request("http", "/wait"))
        route.gate.await_waiting(3)
        for _ in range(30):
            with served.connect() as peer:
                peer.get()
        route.gate.open()
        for peer in peers:
            peer.answer()
    assert poller.most_inside == 1


def test_submit_wakes_a_leader_that_polls() -> None:
    class Task:
        def __init__(self) -> None:
            self.done = threading.Event()

        def on_ready(self) -> None:
            self.done.set()

    with Served(threads=2) as served:
        for _ in range(20):
            task = Task()
            start = time.monotonic()
            served.pool.submit(task)
            assert task.done.wait(SECONDS)
            assert time.monotonic() - start < 1


def test_a_task_that_fails_costs_no_thread() -> None:
    class Task:
        def on_ready(self) -> None:
            raise ZeroDivisionError

    with Served(threads=2, failures=[ZeroDivisionError] * 10) as served:
        for _ in range(10):
            served.pool.submit(Task())
        within(lambda: len(served.log.failures) == 10, "all have failed")
        with served.connect() as peer:
            assert peer.get().status == 200


# -- idle connections -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Allow this process so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"at most {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@pytest.mark.parametrize("threads", [1, 4])
def test_kept_idle_connections_hold_no_thread(protocol: str, threads: int) -> None:
    with descriptors(1_200), Served(hello, protocol, threads=threads) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(500)]
        for peer in peers:
            peer.keep_get()
        served.await_connections(500)
        start = time.monotonic()
        with served.connect() as peer:
            assert peer.get().status == 200
        assert time.monotonic() - start < 0.5
        assert all(peer.keep_get().status == 200 for peer in peers)


@pytest.mark.parametrize("threads", [1, 4])
def test_more_than_1024_connections(threads: int) -> None:
    """select() would end there."""
    with descriptors(3_500), Served(hello, threads=threads) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(1_500)]
        served.await_connections(1_500)
        with served.connect() as peer:
            assert peer.get().status == 200
        assert peers[-1].get().status == 200
        assert peers[0].get().status == 200
        served.await_connections(1_498)


@some_threads
def test_idle_pool_does_nothing(threads: int) -> None:
    poller = CountingPoller(one_shot=threads > 1)
    with Served(threads=threads, poller=poller) as served, served.connect() as peer:
        peer.keep_get()
        within(lambda: poller.inside == 1, "it waits")
        time.sleep(0.2)  # the ticker goes to sleep
        waits = poller.waits
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(0.3)
        after = resource.getrusage(resource.RUSAGE_SELF)
        assert poller.waits == waits
        assert after.ru_nvcsw - before.ru_nvcsw < 20, "somebody wakes up again and again"


# -- stop -------------------------------------------------------------------------------------------------------------


@some_threads
def test_stop_while_idle(threads: int) -> None:
    with Served(threads=threads) as served:
        start = time.monotonic()
        served.stop()
        served.thread.join(SECONDS)
        assert time.monotonic() - start < 1


@pytest.mark.parametrize("protocol", ["fastcgi", "http"])
@some_threads
def test_stop_closes_idle_connections_at_once(protocol: str, threads: int) -> None:
    with Served(hello, protocol, threads=threads) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(20)]
        for peer in peers:
            peer.keep_get()
        served.stop()
        assert max(peer.wait_closed() for peer in peers) < 0.9
        served.thread.join(SECONDS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@some_threads
def test_stop_lets_running_requests_finish(protocol: str, threads: int) -> None:
    route = Route()
    with Served(route, protocol, threads=threads) as served, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(served.connect()) for _ in range(threads)]
        for peer in peers:
            peer.send(request(protocol, "/wait", keep=True))
        route.gate.await_waiting(threads)
        served.stop()
        time.sleep(0.05)
        assert served.thread.is_alive()
        route.gate.open()
        for peer in peers:
            answer = peer.next_answer()[1] if protocol in ("fastcgi", "http") else peer.answer()
            assert answer.status == 200
            assert peer.wait_closed() < 1, "a kept connection ends with its request"
        served.thread.join(SECONDS)


@pytest.mark.parametrize("protocol", ["fastcgi", "auto"])
@pytest.mark.parametrize("threads", [1, 3])
def test_stop_gives_fresh_connections_a_second(protocol: str, threads: int) -> None:
    """Who was accepted just before may still send its request; who says nothing does not hold up the end."""
    spoken = "http" if protocol == "auto" else protocol
    with Served(hello, protocol, threads=threads) as served:
        with Peer(served.address, spoken) as fresh, Peer(served.address, spoken) as silent:
            served.await_connections(2)
            served.stop()
            time.sleep(0.1)
            assert fresh.get().status == 200
            assert 0.5 < silent.wait_closed() < 2
        served.thread.join(SECONDS)


@pytest.mark.parametrize("threads", [1, 3])
def test_stop_serves_those_that_wait_to_be_accepted(threads: int) -> None:
    route = Route()
    with Served(route, threads=threads) as served, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(served.connect()) for _ in range(threads)]
        for peer in busy:
            peer.send(request("http", "/wait"))
        route.gate.await_waiting(threads)
        waiting = [stack.enter_context(served.connect()) for _ in range(100)]
        for peer in waiting:
            peer.send(request("http"))
        served.stop()
        late = stack.enter_context(served.connect())  # accepted after the stop, and silent
        route.gate.open()
        assert all(peer.answer().status == 200 for peer in [*busy, *waiting])
        assert late.wait_closed() < 2
        served.thread.join(SECONDS)


@some_threads
def test_stop_waits_for_a_body_that_is_drained(threads: int) -> None:
    with Served(hello, threads=threads) as served, served.connect() as peer:
        peer.send(request("http", length=10, keep=True))
        assert peer.next_answer()[1].body == b"hello"
        served.stop()
        time.sleep(0.1)
        peer.send(b"0123456789")
        assert peer.wait_closed() < 1


def test_stop_while_another_thread_polls() -> None:
    """It wakes the leader, who went to wait when nothing was to come."""
    for _ in range(20):
        with Served(threads=3) as served:
            within(lambda: served.pool._polling, "a thread polls")
            served.pool.stop()  # from a thread that does not lead
            served.stop()
            served.thread.join(1.0)
            assert not served.thread.is_alive()


def test_deadlines_are_seen_by_a_leader_that_polls_already() -> None:
    """It waits without a deadline when another thread asks for one."""
    with Served(threads=2) as served:
        within(lambda: served.pool._polling, "a thread polls")
        assert served.pool.next_sweep == float("inf")
        served.pool.sweep_by(served.pool.clock() + 0.05)
        within(lambda: served.pool.next_sweep == float("inf"), "it has looked", 2)


def test_the_clock_is_given() -> None:
    """No deadline passes while the clock stands still."""
    now = [1000.0]
    log = MemoryLog()
    poller = make_poller(one_shot=False)
    try:
        pool = Pool(
            hello, log, threads=1, limits=DEFAULT_LIMITS, timeouts=Timeouts(), poller=poller, clock=lambda: now[0]
        )
        assert pool.now == 1000.0
        assert pool.idle_deadline() == 1000.0 + Timeouts().keepalive
    finally:
        poller.close()


# -- a process of its own ---------------------------------------------------------------------------------------------

SERVER = textwrap.dedent(
    """
    import signal, socket, sys
    from gateways.limits import DEFAULT_LIMITS, Timeouts
    from gateways.server.errorlog import ErrorLog, configure
    from gateways.server.listener import Listener
    from gateways.server.poller import make_poller
    from gateways.server.pool import Pool
    from gateways.server.protocols import Protocols
    from gateways.codecs.events import ResponseHead

    def app(exchange):
        exchange.send(ResponseHead(exchange.request.stream, "200 OK", [("Content-Length", "2")], b"ok", True))

    threads, descriptors = int(sys.argv[1]), int(sys.argv[2])
    configure("info")
    if descriptors:
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    pool = Pool(app, ErrorLog(), threads=threads, limits=DEFAULT_LIMITS, timeouts=Timeouts(keepalive=0.5, head=0.5),
                poller=make_poller(one_shot=threads > 1))
    Listener(pool, sock, "http", Protocols(DEFAULT_LIMITS, host="a", port="1", max_conns=1, max_reqs=1))
    print(sock.getsockname()[1], flush=True)
    pool.run()
    """
)


@contextlib.contextmanager
def process(threads: int, limit: int = 0) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """A pool in a process of its own, which may open ``limit`` files."""
    argv = [sys.executable, "-c", SERVER, str(threads), str(limit)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, ("127.0.0.1", int(server.stdout.readline()))
        finally:
            server.send_signal(signal.SIGKILL)


def wakings(pid: int) -> int:
    """How often the threads of a process have gone to sleep so far, on their own accord (proc(5))."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
        total += int(fields["voluntary_ctxt_switches"])
    return total


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
@pytest.mark.parametrize("threads", [1, 4])
def test_idle_it_sleeps(threads: int) -> None:
    """Once the request is over, no thread wakes up for two seconds."""
    with process(threads) as (server, address):
        with Peer(address) as peer:
            peer.get()
        deadline = time.monotonic() + 20
        before, since = wakings(server.pid), time.monotonic()
        while time.monotonic() - since < 2:
            assert time.monotonic() < deadline, "some thread wakes up again and again"
            time.sleep(0.05)
            now = wakings(server.pid)
            if now != before:
                before, since = now, time.monotonic()


@pytest.mark.parametrize("threads", [1, 4])
def test_out_of_descriptors(threads: int) -> None:
    """It says so once, closes idle connections as ever, and goes on when it can."""
    with process(threads, 40) as (server, address):
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(Peer(address)) for _ in range(60)]
            assert peers[0].keep_get().body == b"ok"
            for peer in peers[:40]:  # each is closed in its time, and makes room for another
                assert peer.wait_closed() < 5
        with Peer(address) as peer:
            assert peer.get().body == b"ok"
        assert server.poll() is None
        server.kill()
        _, errors = server.communicate()
    assert errors.count("cannot accept connections") == 1
    assert "Traceback" not in errors
