"""The stacks of another process, whatever that is doing; and how they are shown."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gateways.server import stacks as module
from gateways.server.stacks import DUMP, StackFile, arrange, attend
from tests.server import processes
from tests.server.forks import child, ended, forked
from tests.server.pools import within

IDENT = 0x7F00DEADBEEF
PACKAGE = os.path.dirname(os.path.dirname(module.__file__))
THREADING = threading.__file__


def dump(stacks: StackFile, pid: int, ident: int = 0, *, hurry: bool = False) -> str:
    """Ask once and return what has come. ``hurry``: its thread is not waited for as long as it would be."""
    start = time.monotonic()
    stacks.ask(pid, start)
    skipped = 0.0

    def look() -> bool:
        nonlocal skipped
        now = time.monotonic()
        if hurry and not stacks._signalled and now - start > 0.2:
            skipped = 1.0
        return stacks.ready(now + skipped)

    within(look, "the dump is there")
    return stacks.read(ident)


def attended(stacks: StackFile) -> bool:
    """Its thread has said that it answers; nothing is asked before."""
    stacks._hear()
    return stacks._attended


def dump_with(stacks: StackFile, pid: int, *words: str, hurry: bool = False) -> str:
    """Ask until the process is where it shall be."""
    found = ""

    def look() -> bool:
        nonlocal found
        found = dump(stacks, pid, hurry=hurry)
        return all(word in found for word in words)

    within(look, f"{words} in the stacks")
    return found


# -- processes that do something --------------------------------------------------------------------------------------


def sleep_for_ever() -> None:
    while True:
        time.sleep(1000)


def hold_for_ever() -> None:
    """In C that has the GIL and looks at no signal, like a long sum; but the CPU has enough to do."""
    mutex = ctypes.create_string_buffer(256)  # of zeros, as PTHREAD_MUTEX_INITIALIZER; no signal ends the wait for it
    lock = ctypes.PyDLL(None).pthread_mutex_lock  # PyDLL: what it calls keeps the GIL
    lock(mutex)
    lock(mutex)


def match_for_ever() -> None:
    re.match(r"(?:a+)+$", "a" * 50 + "b")


def multiply_for_ever() -> None:
    pow(3, 10**9)


def loop_for_ever() -> None:
    while True:
        pass


def wait_on_a_lock_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


ALONE = [hold_for_ever, match_for_ever, multiply_for_ever]
"""Nobody else comes to run: its thread cannot answer, and some keep the CPU busy for as long as that is waited for."""
STUCK = [sleep_for_ever, *ALONE, loop_for_ever, wait_on_a_lock_for_ever]


@pytest.fixture
def stacks() -> Iterator[StackFile]:
    file = StackFile()
    yield file
    file.close()


@contextlib.contextmanager
def listening(stacks: StackFile, body: Callable[[], object], *, thread: bool = False) -> Iterator[int]:
    """A child that writes its stacks when asked, and runs ``body``; it may have a thread for that."""
    heard, out = os.pipe()

    def listen() -> None:
        stacks.listen()
        if thread:
            attend()
        os.write(out, b"r")
        body()

    try:
        with forked(listen) as pid:
            assert os.read(heard, 1) == b"r"
            yield pid
    finally:
        os.close(heard)
        os.close(out)


@pytest.mark.parametrize("stuck", STUCK)
def test_one_thread(stacks: StackFile, stuck: Callable[[], None]) -> None:
    with listening(stacks, stuck) as pid:
        first = dump_with(stacks, pid, f"in {stuck.__name__}", "in listen")
        assert first.count("most recent call first") == 1
        assert first.index(stuck.__name__) < first.index("in listen")
        for _ in range(2):
            assert f"in {stuck.__name__}" in dump(stacks, pid)


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("stuck", STUCK)
def test_several_threads(stacks: StackFile, stuck: Callable[[], None], thread: bool) -> None:
    """Whichever thread has the GIL, all stacks come, and the one that is asked for comes first."""
    idents, out = os.pipe()
    go = threading.Lock()

    def sick() -> None:
        os.write(out, threading.get_ident().to_bytes(8, "little"))
        with go:
            stuck()

    def wait_for_all(threads: list[threading.Thread]) -> None:
        go.release()  # the sick one may have the GIL from here on
        for each in threads:
            each.join()

    def body() -> None:
        go.acquire()
        threads = [threading.Thread(target=target) for target in (idle, idle, idle, sick)]
        for each in threads:
            each.start()
        wait_for_all(threads)

    with listening(stacks, body, thread=thread) as pid:
        ident = int.from_bytes(os.read(idents, 8), "little")
        hurry = stuck in ALONE
        dump_with(stacks, pid, f"in {stuck.__name__}", "in wait_for_all", hurry=hurry)
        mine, *others = dump(stacks, pid, ident, hurry=hurry).split("\n\n")
        assert mine.startswith(("This request's: Thread 0x", "This request's: Current thread 0x"))
        assert f"0x{ident:016x}" in mine
        assert f"in {stuck.__name__}" in mine
        assert len(others) == (5 if thread else 4)
        assert sum("in idle" in other for other in others) == 3
        assert sum("in wait_for_all" in other for other in others) == 1
        assert "This request's" not in "".join(others)
    os.close(idents)
    os.close(out)


def idle() -> None:
    time.sleep(1000)


def test_who_writes(stacks: StackFile) -> None:
    """The thread, at once; where it does not come to it, the signal after a while."""
    go, tell = os.pipe()

    def body() -> None:
        os.read(go, 1)
        hold_for_ever()

    with listening(stacks, body, thread=True) as pid:
        start = time.monotonic()
        within(lambda: attended(stacks), "the thread is there")
        dump_with(stacks, pid, "in body")
        for _ in range(5):
            assert "in body" in dump(stacks, pid)
            assert not stacks._signalled
        assert time.monotonic() - start < 5.0
        os.write(tell, b"g")
        dump_with(stacks, pid, "in hold_for_ever", hurry=True)
        start = time.monotonic()
        assert "in hold_for_ever" in dump(stacks, pid)
        assert stacks._signalled
        assert 0.9 < time.monotonic() - start < 5.0
    os.close(go)
    os.close(tell)


def descend(depth: int) -> int:
    return descend(depth - 1) + 1 if depth else 0


def busy_for_ever() -> None:
    while True:
        descend(900)
        json.loads(json.dumps([{"a": ["b"] * 5}] * 20, indent=1))


def begin_threads_for_ever() -> None:
    while True:
        thread = threading.Thread(target=descend, args=(10,))
        thread.start()
        thread.join()


def test_threads_that_run_on_meanwhile(stacks: StackFile) -> None:
    """However often it is asked, the process lives: its stacks are not read while they change."""

    def body() -> None:
        for target in (busy_for_ever, busy_for_ever, begin_threads_for_ever):
            threading.Thread(target=target, daemon=True).start()
        sleep_for_ever()

    with listening(stacks, body, thread=True) as pid:
        within(lambda: attended(stacks), "the thread is there")
        dump_with(stacks, pid, "in sleep_for_ever")
        for _ in range(100):
            shown = dump(stacks, pid)
            assert not processes.gone(pid)
            assert "in sleep_for_ever" in shown
        assert not stacks._signalled


def test_system_calls_go_on(stacks: StackFile) -> None:
    """What a dump interrupts is continued."""
    wait, go = os.pipe()

    def body() -> None:
        start = time.monotonic()
        time.sleep(0.3)
        assert time.monotonic() - start >= 0.3
        assert os.read(wait, 1) == b"g"

    with listening(stacks, body) as pid:
        dump_with(stacks, pid, "in body")
        for _ in range(5):
            assert "in body" in dump(stacks, pid)
        os.write(go, b"g")
        assert ended(pid) == 0
    os.close(wait)
    os.close(go)


# -- processes that do not answer -------------------------------------------------------------------------------------


def test_a_stopped_process(stacks: StackFile) -> None:
    """Its dump is given up after a while; once it goes on, it can be asked again."""
    with listening(stacks, sleep_for_ever) as pid:
        dump_with(stacks, pid, "sleep_for_ever")
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        start = time.monotonic()
        assert dump(stacks, pid) == ""
        assert 0.9 < time.monotonic() - start < 5.0
        os.kill(pid, signal.SIGCONT)
        dump_with(stacks, pid, "sleep_for_ever")


def test_a_process_that_has_gone(stacks: StackFile) -> None:
    pid = child(lambda: None)
    assert ended(pid) == 0
    with pytest.raises(ProcessLookupError):
        stacks.ask(pid, time.monotonic())
    assert stacks.read(0) == ""


def test_a_process_that_dies_of_something_else(stacks: StackFile) -> None:
    """What it has written can still be read."""
    with listening(stacks, sleep_for_ever) as pid:
        dump_with(stacks, pid, "sleep_for_ever")
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        assert "sleep_for_ever" in stacks.read(0)


def test_when_a_dump_is_whole(stacks: StackFile) -> None:
    """Something has come and nothing more comes, or there was time enough; by the clock that it is given."""
    before = signal.signal(DUMP, signal.SIG_IGN)
    me = os.getpid()
    try:
        stacks.ask(me, 100.0)
        assert not stacks.ready(100.0)
        assert not stacks.ready(100.9)
        assert stacks.ready(101.1)
        stacks.ask(me, 200.0)
        os.pwrite(stacks._fd, b"Thread", 0)
        assert not stacks.ready(200.1)
        assert not stacks.ready(200.15)
        os.pwrite(stacks._fd, b" 0x1", 6)
        assert not stacks.ready(200.22)
        assert not stacks.ready(200.30)
        assert stacks.ready(200.33)
        stacks.ask(me, 300.0)  # what was there before does not count
        assert not stacks.ready(300.5)
        assert stacks.read(0) == ""
    finally:
        signal.signal(DUMP, before)


def test_a_huge_or_odd_dump_is_cut(stacks: StackFile) -> None:
    frame = b'  File "\xff\xfe.py", line 1 in x\n'
    os.pwrite(stacks._fd, b"Thread 0x1 (most recent call first):\n" + frame * 100_000, 0)
    shown = stacks.read(1)
    assert 100_000 < len(shown) < 2_000_000
    assert '\\xff\\xfe.py", line 1 in x' in shown


# -- how they are shown -----------------------------------------------------------------------------------------------

HEAD = "Thread 0x%016x (most recent call first):"
CURRENT = "Current thread 0x%016x (most recent call first):"


def frames(*places: str) -> list[str]:
    """Frames as faulthandler writes them, innermost first: ``pool._lead`` is ours, ``=wait`` threading's."""
    found = []
    for number, place in enumerate(places, 10):
        name, _, function = place.rpartition("." if "=" not in place else "=")
        file = f"{PACKAGE}/{name}.py" if "/" in name or name == "body" else f"/srv/{name}.py"
        if place.startswith("="):
            file = THREADING
        found.append(f'  File "{file}", line {number} in {function}')
    return found


def stack(head: str, *places: str) -> str:
    return "\n".join([head, *frames(*places)])


BOOT = ("=run", "=_bootstrap_inner", "=_bootstrap")
POOL = ("apps/wsgi.run", "apps/wsgi.__call__", "server/observed.__call__", "server/connection.proceed",
        "server/connection.on_ready", "server/pool._lead")  # fmt: skip
FOLLOWER = (*POOL, "server/pool._follow", *BOOT)
MAIN = (*POOL, "server/pool.run", "server/worker.run_worker", "server/service._work", "server/process.fork_worker",
        "server/workers.spawn", "server/master.run", "cli/serve.serve", "click.invoke", "script.<module>")  # fmt: skip
PARKED = ("server/pool._park", "server/pool._follow", *BOOT)
POLLING = ("server/poller.wait", "server/pool._poll", *MAIN[5:])


def places(shown: str) -> list[list[str]]:
    """The functions of each part."""
    return [re.findall(r" in (\S+)$", part, re.MULTILINE) for part in shown.split("\n\n")]


@pytest.mark.parametrize("below", [FOLLOWER, MAIN, BOOT], ids=["follower", "main", "compiled"])
def test_what_the_application_stands_on_is_left_out(below: tuple[str, ...]) -> None:
    text = stack(HEAD % IDENT, "driver.recv", "shop.rows", "shop.view", *below)
    assert arrange(text, IDENT) == "This request's: " + stack(HEAD % IDENT, "driver.recv", "shop.rows", "shop.view")
    assert places(arrange(text, 1)) == [["recv", "rows", "view"]]


@pytest.mark.parametrize("below", [FOLLOWER, MAIN])
def test_what_it_calls_of_ours_is_shown(below: tuple[str, ...]) -> None:
    """It waits for a body, or for the client to take its answer: where in the application that is must be seen."""
    top = ("server/outgoing.wait_for", "server/connection.pull", "body._fill", "body.read", "shop.upload")
    assert places(arrange(stack(HEAD % IDENT, *top, *below), IDENT)) == [
        ["wait_for", "pull", "_fill", "read", "upload"]
    ]
    assert places(arrange(stack(HEAD % IDENT, "apps/wsgi.write", "shop.stream", *below), 1)) == [["write", "stream"]]


def test_a_request_that_is_not_in_the_application() -> None:
    """What is asked for is never empty."""
    text = stack(HEAD % IDENT, "server/accesslog.record", *FOLLOWER[2:])
    assert len(places(arrange(text, IDENT))[0]) == len(frames("server/accesslog.record", *FOLLOWER[2:]))


def test_threads_that_only_wait_are_counted() -> None:
    """Those of the pool, our own, and timers; not those in which the application waits."""
    text = "\n\n".join(
        [
            stack(HEAD % 1, *PARKED),
            stack(HEAD % 2, *PARKED),
            stack(HEAD % 3, "=wait", "=wait", "=run", "=_bootstrap_inner", "=_bootstrap"),
            stack(HEAD % 4, "server/pool._tick", *BOOT),
            stack(HEAD % 5, "server/worker.listen", *BOOT),
            stack(HEAD % 6, "=wait", "shop.consume", *BOOT),
            stack(HEAD % IDENT, "shop.view", *FOLLOWER),
            stack(CURRENT % 7, *POLLING),
            HEAD % 8 + "\n  <no Python frame>",
        ]
    )
    mine, consumer, waiting = arrange(text, IDENT).split("\n\n")
    assert mine == "This request's: " + stack(HEAD % IDENT, "shop.view")
    assert consumer == stack(HEAD % 6, "=wait", "shop.consume")
    assert waiting.startswith("7 other threads ")


def test_the_current_thread_may_be_the_one() -> None:
    text = "\n\n".join([stack(HEAD % 1, "shop.other", *FOLLOWER), stack(CURRENT % IDENT, "shop.view", *MAIN)])
    assert arrange(text, IDENT).split("\n\n") == [
        "This request's: " + stack(CURRENT % IDENT, "shop.view"),
        stack(HEAD % 1, "shop.other"),
    ]


def test_a_thread_that_is_not_there() -> None:
    text = stack(HEAD % 1, "shop.view", *FOLLOWER)
    assert arrange(text, IDENT) == stack(HEAD % 1, "shop.view")
    assert arrange(text, 0) == stack(HEAD % 1, "shop.view")


def test_a_stack_that_faulthandler_has_cut() -> None:
    """It writes 100 frames, then three dots."""
    text = stack(HEAD % IDENT, *["shop.deeper"] * 100) + "\n  ..."
    assert arrange(text, IDENT) == f"This request's: {text}"
    assert arrange(text, 1) == text


def test_a_thread_is_shown_once() -> None:
    """Where a dump that came late, of an earlier question, stands before."""
    earlier = stack(CURRENT % IDENT, "shop.old", *MAIN)
    text = "\n\n".join(
        [earlier, stack(HEAD % 1, "shop.other"), stack(HEAD % IDENT, "shop.new"), stack(HEAD % 1, "shop.x")]
    )
    assert places(arrange(text, IDENT)) == [["old"], ["other"]]


def test_a_dump_in_the_midst_of_being_written() -> None:
    for text in ("Thread", HEAD % IDENT, HEAD % IDENT + "\n  File ", "\n\n\n", "x\n\n\n\ny"):
        assert arrange(text, IDENT)
