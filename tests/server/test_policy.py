"""What the master decides: tables, rules that hold for any facts, and a model of a master that lives by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings, strategies as st

from gateways.server.policy import (
    HUNG_GRACE,
    Action,
    BusyThread,
    Cancel,
    Exit,
    Facts,
    Kill,
    Retire,
    Slow,
    Spawn,
    WorkerFacts,
    back_off,
    decide,
    pool_size,
)

NOW = 1000.0


def facts(
    *workers: WorkerFacts,
    wanted: int = 2,
    failures: int = 0,
    last_failure: float = 0.0,
    stopping_since: float | None = None,
    boot_timeout: float = 60.0,
    graceful_timeout: float = 30.0,
) -> Facts:
    return Facts(workers, wanted, failures, last_failure, stopping_since, boot_timeout, graceful_timeout)


def ready(pid: int, born: float = 900.0) -> WorkerFacts:
    return WorkerFacts(pid, ready=True, born=born)


def booting(pid: int, born: float) -> WorkerFacts:
    return WorkerFacts(pid, ready=False, born=born)


def idle(pid: int, since: float) -> WorkerFacts:
    return replace(ready(pid), idle_since=since)


def leaving(pid: int, since: float = NOW, *busy: BusyThread) -> WorkerFacts:
    return replace(ready(pid), retiring_since=since, busy=busy)


def serving(pid: int, *busy: BusyThread) -> WorkerFacts:
    return replace(ready(pid), busy=busy)


def request(thread: int = 0, since: float = NOW, *, told: bool = False, cancelled: float | None = None) -> BusyThread:
    return BusyThread(thread, 70 + thread, since, told, cancelled)


def hung(thread: int = 0) -> BusyThread:
    return request(thread, NOW - 99, told=True, cancelled=NOW - HUNG_GRACE)


def new(worker: WorkerFacts) -> WorkerFacts:
    """Of the generation that a reload brings."""
    return replace(worker, generation=1)


def what(actions: list[Action]) -> list[tuple[str, int]]:
    """Actions without their words."""
    result = []
    for action in actions:
        if isinstance(action, Spawn):
            result.append(("spawn", action.count))
        elif isinstance(action, Retire):
            result.append((action.cause, action.pid))
        elif isinstance(action, Exit):
            result.append(("exit", 0))
        else:
            result.append((type(action).__name__.lower(), action.pid))
    return result


def check(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    found, when = decide(given_facts, NOW)
    assert what(found) == actions
    assert when == wake


# The tables


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(facts(), [("spawn", 2)], None, id="the start"),
        pytest.param(facts(ready(1)), [("spawn", 1)], None, id="one is missing"),
        pytest.param(facts(ready(1), ready(2)), [], None, id="all is well"),
        pytest.param(facts(ready(1), ready(2), ready(3)), [("size", 1)], None, id="one too many leaves"),
        pytest.param(facts(ready(1), booting(2, NOW)), [], NOW + 60, id="one boots"),
        pytest.param(facts(booting(1, NOW - 10), booting(2, NOW - 20)), [], NOW + 40, id="the first deadline of two"),
        pytest.param(facts(booting(1, NOW - 60), booting(2, NOW)), [("kill", 1)], NOW + 60, id="one boots too long"),
        pytest.param(facts(ready(1), failures=1, last_failure=NOW), [], NOW + 0.5, id="a first failed boot"),
        pytest.param(facts(ready(1), failures=1, last_failure=NOW - 0.5), [("spawn", 1)], None, id="tried again"),
        pytest.param(facts(failures=4, last_failure=NOW - 3), [], NOW + 1, id="the fourth failed boot, or fork"),
        pytest.param(facts(failures=99, last_failure=NOW - 29), [], NOW + 1, id="never longer than 30 s"),
        pytest.param(facts(last_failure=NOW + 9), [("spawn", 2)], None, id="no failure, no back-off"),
        pytest.param(facts(booting(1, NOW - 59), failures=3, last_failure=NOW), [], NOW + 1, id="boot before back-off"),
        pytest.param(facts(booting(1, NOW), failures=3, last_failure=NOW), [], NOW + 2, id="back-off before boot"),
        pytest.param(facts(stopping_since=NOW), [("exit", 0)], None, id="stopped, and nobody is left"),
        pytest.param(facts(ready(1), stopping_since=NOW), [], NOW + 30, id="one finishes"),
        pytest.param(facts(ready(1), ready(2), stopping_since=NOW - 29), [], NOW + 1, id="two finish"),
        pytest.param(
            facts(ready(1), booting(2, NOW), stopping_since=NOW - 30), [("kill", 1), ("kill", 2)], None, id="overstayed"
        ),
        pytest.param(facts(ready(1), stopping_since=NOW, graceful_timeout=0.0), [("kill", 1)], None, id="asked twice"),
        pytest.param(facts(wanted=0), [], None, id="nobody is wanted"),
    ],
)
def test_decisions(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(facts(leaving(1, NOW - 9), wanted=0), [], NOW + 21, id="it finishes"),
        pytest.param(facts(leaving(1, NOW - 30), wanted=0), [("kill", 1)], None, id="it overstays"),
        pytest.param(facts(leaving(1), wanted=1), [("spawn", 1)], NOW + 30, id="who leaves does not count"),
        pytest.param(
            facts(leaving(1, NOW - 25), leaving(2, NOW), stopping_since=NOW),
            [],
            NOW + 5,
            id="told twice, the first counts",
        ),
        pytest.param(facts(leaving(1, NOW, hung()), wanted=0), [("kill", 1)], None, id="only hung requests are left"),
        pytest.param(
            facts(leaving(1, NOW, hung(0), request(1)), wanted=0), [], NOW + 30, id="another request has its grace"
        ),
        pytest.param(
            facts(leaving(1, NOW, hung(0), request(1, cancelled=NOW - 0.25)), wanted=0), [], NOW + 0.75, id="hung soon"
        ),
        pytest.param(
            facts(serving(1, hung()), ready(2), stopping_since=NOW), [("kill", 1)], NOW + 30, id="so at the end"
        ),
        pytest.param(
            facts(serving(1, hung(0), request(1)), stopping_since=NOW), [], NOW + 30, id="so at the end, others"
        ),
    ],
)
def test_who_was_told_to_go(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


def deadlines(*workers: WorkerFacts) -> Facts:
    return replace(facts(*workers, wanted=len(workers)), slow_request=2.0, request_timeout=5.0)


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(deadlines(serving(1, request(0), request(1, NOW - 1))), [], NOW + 1, id="all are quick"),
        pytest.param(deadlines(serving(1, request(0, NOW - 2))), [("slow", 1)], NOW + 3, id="slow"),
        pytest.param(deadlines(serving(1, request(0, NOW - 2, told=True))), [], NOW + 3, id="slow is told once"),
        pytest.param(deadlines(serving(1, request(0, NOW - 5, told=True))), [("cancel", 1)], None, id="too long"),
        pytest.param(
            deadlines(serving(1, request(0, NOW - 5, told=True, cancelled=NOW))), [], NOW + 1, id="cancelled once"
        ),
        pytest.param(deadlines(serving(1, request(0, NOW - 99))), [("slow", 1), ("cancel", 1)], None, id="both"),
        pytest.param(
            replace(deadlines(leaving(1, NOW, request(0, NOW - 5, told=True))), wanted=0),
            [("cancel", 1)],
            NOW + 30,
            id="also of one that leaves",
        ),
        pytest.param(
            replace(deadlines(serving(1, request(0, NOW - 5))), stopping_since=NOW),
            [("slow", 1), ("cancel", 1)],
            NOW + 30,
            id="also while stopping",
        ),
        pytest.param(
            replace(deadlines(serving(1, request(0, NOW - 9))), stopping_since=NOW - 30),
            [("kill", 1)],
            None,
            id="not of one that is killed",
        ),
        pytest.param(facts(serving(1, request(0, NOW - 9_999)), wanted=1), [], None, id="no deadline is set"),
        pytest.param(deadlines(serving(1, hung())), [("spawn", 1)], None, id="hung: another is started"),
        pytest.param(
            replace(deadlines(serving(1, hung()), serving(2, hung()), ready(3)), failures=1, last_failure=NOW - 1),
            [("spawn", 2)],
            None,
            id="all that hang are replaced at once",
        ),
        pytest.param(
            replace(deadlines(serving(1, hung()), ready(2)), wanted=1),
            [("timeout", 1)],
            None,
            id="replaced, so it leaves",
        ),
    ],
)
def test_deadlines(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


def test_the_request_is_named() -> None:
    actions, _ = decide(deadlines(serving(7, request(0), request(3, NOW - 5))), NOW)
    assert actions == [Slow(7, 3, 73), Cancel(7, 3, 73)]


def reload(*workers: WorkerFacts, wanted: int = 2, rolling: bool = False, failures: int = 0) -> Facts:
    return replace(facts(*workers, wanted=wanted, failures=failures, last_failure=NOW), generation=1, rolling=rolling)


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(reload(ready(1), ready(2)), [("spawn", 2)], None, id="all at once"),
        pytest.param(
            reload(ready(1), ready(2), new(booting(3, NOW)), new(booting(4, NOW))), [], NOW + 60, id="they boot"
        ),
        pytest.param(
            reload(ready(1), ready(2, 800.0), new(ready(3)), new(booting(4, NOW))),
            [("reload", 2)],
            NOW + 60,
            id="one came",
        ),
        pytest.param(
            reload(ready(1), ready(2), new(ready(3)), new(ready(4))),
            [("reload", 1), ("reload", 2)],
            None,
            id="both came",
        ),
        pytest.param(reload(ready(1), leaving(2), new(ready(3)), failures=2), [], NOW + 1, id="back-off"),
        pytest.param(reload(ready(1), booting(2, NOW)), [("kill", 2), ("spawn", 2)], None, id="one was booting"),
        pytest.param(reload(ready(1), wanted=2), [("spawn", 2)], None, id="one is missing anyhow"),
        pytest.param(
            reload(ready(1), ready(2), ready(3)), [("reload", 1), ("spawn", 2)], None, id="and fewer are wanted"
        ),
        pytest.param(
            reload(ready(1), new(ready(2)), new(booting(3, NOW)), wanted=1), [("reload", 1)], NOW + 60, id="fewer, late"
        ),
        pytest.param(reload(ready(1), ready(2), rolling=True), [("spawn", 1)], None, id="rolling: one at a time"),
        pytest.param(
            reload(ready(1), ready(2), new(ready(3)), rolling=True), [("reload", 1)], None, id="rolling: one leaves"
        ),
        pytest.param(
            reload(leaving(1), ready(2), new(ready(3)), rolling=True),
            [],
            NOW + 30,
            id="rolling: who leaves takes memory",
        ),
        pytest.param(reload(ready(2), new(ready(3)), rolling=True), [("spawn", 1)], None, id="rolling: the next"),
        pytest.param(reload(leaving(1), ready(2), rolling=True), [("spawn", 1)], NOW + 30, id="rolling: a crash"),
        pytest.param(
            reload(ready(1), ready(2), booting(3, NOW), rolling=True),
            [("kill", 3)],
            None,
            id="rolling: so does the killed",
        ),
        pytest.param(
            reload(ready(1), serving(2, hung()), new(ready(3))),
            [("timeout", 2), ("spawn", 1)],
            None,
            id="hung ones first",
        ),
        pytest.param(
            replace(reload(ready(1), ready(2), new(ready(3)), new(booting(4, NOW))), generation=0),
            [("kill", 4), ("reload", 3)],
            None,
            id="taken back",
        ),
    ],
)
def test_reload(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


MEMORY = replace(ready(1), private_bytes=100)
REQUESTS = replace(ready(2), requests=9, request_limit=9)
AGE = replace(ready(3), age_limit=100.0)


def recycling(*workers: WorkerFacts, wanted: int) -> Facts:
    return replace(facts(*workers, wanted=wanted), max_rss=100)


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(recycling(MEMORY, wanted=1), [("spawn", 1)], None, id="memory"),
        pytest.param(recycling(replace(MEMORY, private_bytes=99), wanted=1), [], None, id="less memory"),
        pytest.param(replace(recycling(MEMORY, wanted=1), max_rss=0), [], None, id="no limit of memory"),
        pytest.param(recycling(REQUESTS, wanted=1), [("spawn", 1)], None, id="requests"),
        pytest.param(recycling(replace(REQUESTS, requests=8), wanted=1), [], None, id="fewer requests"),
        pytest.param(recycling(AGE, wanted=1), [("spawn", 1)], None, id="age"),
        pytest.param(recycling(replace(AGE, age_limit=101.5), wanted=1), [], NOW + 1.5, id="younger"),
        pytest.param(recycling(replace(AGE, retiring_since=NOW), wanted=0), [], NOW + 30, id="it leaves already"),
        pytest.param(recycling(MEMORY, REQUESTS, AGE, wanted=3), [("spawn", 1)], None, id="one at a time"),
        pytest.param(
            recycling(MEMORY, REQUESTS, AGE, booting(4, NOW), wanted=3), [], NOW + 60, id="the other one is to come"
        ),
        pytest.param(
            recycling(MEMORY, REQUESTS, AGE, ready(4), wanted=3), [("memory", 1)], None, id="memory leaves first"
        ),
        pytest.param(recycling(REQUESTS, ready(1), ready(4), wanted=2), [("requests", 2)], None, id="due ones first"),
        pytest.param(recycling(REQUESTS, ready(1), wanted=1), [("requests", 2)], None, id="fewer are wanted"),
        pytest.param(
            recycling(ready(1, 5.0), idle(2, NOW - 3), idle(3, NOW - 4), wanted=1),
            [("size", 3), ("size", 2)],
            None,
            id="idle ones before busy ones",
        ),
        pytest.param(recycling(ready(1, 7.0), ready(2, 5.0), wanted=1), [("size", 2)], None, id="else the oldest"),
        pytest.param(
            recycling(REQUESTS, new(ready(4)), serving(5, hung()), wanted=3), [("spawn", 3)], None, id="three causes"
        ),
    ],
)
def test_recycling(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


def dynamic(*workers: WorkerFacts, gauge: float = 0.6, size: int | None = None, wanted: int = 8) -> Facts:
    return replace(facts(*workers, wanted=wanted), pool="dynamic", min_workers=2, busy_gauge=gauge, size=size)


FOUR = tuple(idle(pid, NOW - pid) for pid in (1, 2, 3, 12))
FULL = tuple(serving(pid, request()) for pid in (1, 2))


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(dynamic(), [("spawn", 2)], None, id="the start"),
        pytest.param(dynamic(wanted=1), [("spawn", 1)], None, id="no more than the maximum"),
        pytest.param(replace(dynamic(), min_workers=0), [("spawn", 1)], None, id="never none"),
        pytest.param(dynamic(*FULL), [], None, id="enough"),
        pytest.param(dynamic(*FULL, gauge=0.8), [("spawn", 2)], None, id="busy: doubled"),
        pytest.param(dynamic(*FULL, gauge=1.0, wanted=3), [("spawn", 1)], None, id="busy: up to the maximum"),
        pytest.param(dynamic(*FULL, gauge=1.0, wanted=2), [], None, id="busy: the maximum"),
        pytest.param(
            replace(dynamic(*FULL, gauge=1.0, wanted=2), last_spawn=NOW), [], None, id="busy: the maximum, so no wake"
        ),
        pytest.param(
            replace(dynamic(*FULL, new(booting(3, NOW)), new(booting(4, NOW)), gauge=1.0), generation=1),
            [],
            NOW + 60,
            id="busy: not in the middle of a reload",
        ),
        pytest.param(
            dynamic(*FULL, new(ready(3)), gauge=1.0, wanted=2), [("reload", 3)], None, id="the maximum, and due"
        ),
        pytest.param(dynamic(*FULL, booting(3, NOW), gauge=1.0), [], NOW + 60, id="busy: one is to come"),
        pytest.param(dynamic(*FULL, gauge=1.0, size=4), [("spawn", 2)], None, id="busy: what is missing comes first"),
        pytest.param(replace(dynamic(*FULL, gauge=1.0), last_spawn=NOW - 0.25), [], NOW + 0.75, id="busy: just grown"),
        pytest.param(replace(dynamic(*FULL), waiting=True), [("spawn", 2)], None, id="full, and one waits"),
        pytest.param(replace(dynamic(*FULL, idle(3, NOW)), waiting=True), [], None, id="one waits, but not for long"),
        pytest.param(replace(dynamic(*FULL), waiting=True, threads=2), [], None, id="one waits, threads are free"),
        pytest.param(
            replace(dynamic(*FULL, gauge=1.0), failures=2, last_failure=NOW), [], NOW + 1, id="busy, but forks fail"
        ),
        pytest.param(dynamic(*FOUR, gauge=0.25), [("size", 12)], None, id="hardly used: one leaves"),
        pytest.param(dynamic(*FOUR, gauge=0.375), [], None, id="three would be half busy"),
        pytest.param(dynamic(*FOUR[:3], gauge=0.0), [], NOW + 7, id="not idle for long"),
        pytest.param(dynamic(*FOUR[2:], gauge=0.0), [], None, id="the fewest"),
        pytest.param(dynamic(*FOUR[:2], gauge=0.0), [], None, id="the fewest, so no wake"),
        pytest.param(dynamic(*FOUR, booting(5, NOW), gauge=0.0), [], NOW + 60, id="one is to come, nobody leaves"),
        pytest.param(dynamic(*FOUR, gauge=0.0, size=8), [("size", 12)], None, id="what is missing is not needed"),
        pytest.param(dynamic(*FULL, ready(3), gauge=0.0), [], None, id="nobody idles"),
        pytest.param(replace(dynamic(*FOUR), busy_gauge=0.0, last_retire=NOW - 4), [], NOW + 6, id="one left just now"),
        pytest.param(replace(dynamic(*FOUR), busy_gauge=0.0, waiting=True), [], None, id="something waits"),
        pytest.param(replace(dynamic(*FOUR), busy_gauge=0.0, failures=1), [], None, id="nobody could come back"),
        pytest.param(dynamic(*FULL, size=4), [("spawn", 2)], None, id="two crashed"),
        pytest.param(dynamic(*FULL, REQUESTS, size=3), [("spawn", 1)], None, id="one is due"),
        pytest.param(dynamic(*FULL, ready(4), REQUESTS, size=3), [("requests", 2)], None, id="it is replaced"),
        pytest.param(dynamic(*FULL, REQUESTS), [("requests", 2)], None, id="size not known: grown again if needed"),
        pytest.param(replace(dynamic(*FULL), generation=1), [("spawn", 2)], None, id="reload"),
        pytest.param(dynamic(*FOUR, gauge=0.6, wanted=3, size=4), [("size", 12)], None, id="the maximum is less now"),
    ],
)
def test_dynamic(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


def ondemand(*workers: WorkerFacts, waiting: bool = False, size: int | None = None) -> Facts:
    return replace(facts(*workers, wanted=3), pool="ondemand", waiting=waiting, size=size, busy_gauge=1.0)


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(ondemand(), [], None, id="the start"),
        pytest.param(replace(ondemand(waiting=True), last_spawn=NOW), [("spawn", 1)], None, id="the first, at once"),
        pytest.param(
            replace(ondemand(waiting=True), failures=1, last_failure=NOW), [], NOW + 0.5, id="the first, but forks fail"
        ),
        pytest.param(ondemand(booting(1, NOW), waiting=True), [], NOW + 60, id="it is to come"),
        pytest.param(ondemand(*FULL), [], None, id="busy"),
        pytest.param(ondemand(*FULL, waiting=True), [("spawn", 1)], None, id="full"),
        pytest.param(replace(ondemand(*FULL, waiting=True), last_spawn=NOW), [], NOW + 1, id="just grown"),
        pytest.param(ondemand(FULL[0], idle(2, NOW - 99), waiting=True), [], None, id="one is about to take it"),
        pytest.param(ondemand(FULL[0], idle(2, NOW - 7)), [], NOW + 3, id="idle"),
        pytest.param(
            ondemand(FULL[0], idle(2, NOW - 10), idle(3, NOW - 11)),
            [("size", 3), ("size", 2)],
            None,
            id="idle for long",
        ),
        pytest.param(ondemand(idle(2, NOW - 10), size=1), [("size", 2)], None, id="back to none"),
        pytest.param(ondemand(FULL[0], size=3), [], None, id="who crashed is not missed"),
        pytest.param(ondemand(FULL[0], REQUESTS, size=2), [("spawn", 1)], None, id="one is due"),
        pytest.param(
            ondemand(FULL[0], replace(REQUESTS, idle_since=0.0), size=2), [("requests", 2)], None, id="and idle"
        ),
        pytest.param(ondemand(FULL[0], ready(4), REQUESTS, size=2), [("requests", 2)], None, id="it is replaced"),
        pytest.param(
            ondemand(FULL[0], replace(REQUESTS, idle_since=0.0), size=1),
            [("requests", 2)],
            None,
            id="replaced, and idle",
        ),
        pytest.param(replace(ondemand(*FULL, size=2), generation=1), [("spawn", 2)], None, id="reload"),
        pytest.param(ondemand(idle(1, NOW), size=0), [], NOW + 10, id="came when it was no longer needed"),
        pytest.param(replace(ondemand(size=0), generation=1, proving=True), [("spawn", 1)], None, id="new code"),
        pytest.param(
            replace(ondemand(idle(1, NOW - 10), size=1), generation=1, proving=True),
            [("spawn", 1)],
            None,
            id="new code beside one that has been idle for long",
        ),
    ],
)
def test_ondemand(given_facts: Facts, actions: list[tuple[str, int]], wake: float | None) -> None:
    check(given_facts, actions, wake)


@pytest.mark.parametrize(
    "given_facts",
    [
        pytest.param(facts(booting(1, NOW), wanted=1), id="boot"),
        pytest.param(facts(ready(1), failures=3, last_failure=NOW), id="back-off"),
        pytest.param(facts(ready(1), stopping_since=NOW), id="stop"),
        pytest.param(facts(leaving(1), wanted=0), id="retirement"),
        pytest.param(deadlines(serving(1, request())), id="a request"),
        pytest.param(facts(serving(1, request(cancelled=NOW)), wanted=1), id="a hung request"),
        pytest.param(facts(replace(AGE, born=NOW), wanted=1), id="age"),
        pytest.param(replace(dynamic(*FULL, gauge=1.0), last_spawn=NOW), id="growth"),
        pytest.param(replace(dynamic(*FOUR, gauge=0.0), last_retire=NOW), id="shrinking"),
        pytest.param(ondemand(idle(1, NOW)), id="idling"),
    ],
)
@pytest.mark.parametrize("jump", [-900.0, -1e9, 1e9])
def test_the_clock_jumps(given_facts: Facts, jump: float) -> None:
    """Backwards: nothing is done early. Forwards: what has become due is done, and there is no wake in the past."""
    actions, wake = decide(given_facts, NOW + jump)
    assert bool(actions) == (jump > 0)
    assert wake is None if jump > 0 else (wake is not None and wake > NOW)


def test_nobody_starts_while_a_signal_may_be_under_way() -> None:
    held = replace(facts(ready(7), leaving(8)), hold_until=NOW + 0.2)
    assert decide(held, NOW) == ([], NOW + 0.2)
    actions, _ = decide(held, NOW + 0.2)
    assert actions == [Spawn(1)]
    assert decide(replace(facts(ready(7), ready(8)), hold_until=NOW + 0.2), NOW) == ([], None)


@pytest.mark.parametrize(
    ("given_facts", "words"),
    [
        (facts(booting(7, NOW - 61), wanted=1), "not ready 60 s after its start (--boot-timeout)"),
        (facts(ready(7), stopping_since=NOW - 30.5), "still busy 30 s after it was told to stop (--graceful-timeout)"),
        (
            facts(leaving(7, NOW - 31), stopping_since=NOW - 31),
            "still busy 30 s after it was told to stop (--graceful-timeout)",
        ),
        (
            facts(leaving(7, NOW - 31), stopping_since=NOW - 1),
            "still busy 30 s after it was told to leave (--graceful-timeout)",
        ),
        (facts(leaving(7, NOW - 30.5)), "still busy 30 s after it was told to leave (--graceful-timeout)"),
        (
            facts(leaving(7, NOW, hung())),
            "all that it still serves was interrupted and did not end (--request-timeout)",
        ),
        (facts(ready(7), stopping_since=NOW, graceful_timeout=0.0), "it was told to stop at once"),
        (facts(leaving(7, NOW), graceful_timeout=0.0), "it was told to leave at once"),
        (facts(new(booting(7, NOW))), "superseded by another reload while it was booting"),
    ],
)
def test_a_kill_says_why(given_facts: Facts, words: str) -> None:
    actions, _ = decide(given_facts, NOW)
    assert actions[0] == Kill(7, words)


@pytest.mark.parametrize(
    ("worker", "words", "cause"),
    [
        (serving(7, hung()), "a request was interrupted and did not end (--request-timeout)", "timeout"),
        (new(ready(7)), "reloaded", "reload"),
        (replace(ready(7), private_bytes=300 << 20), "it has 300 MiB of private memory (--max-rss)", "memory"),
        (replace(ready(7), requests=10, request_limit=9), "it has served 10 requests (--max-requests)", "requests"),
        (replace(ready(7), age_limit=99.6), "it is older than 100 s (--max-age)", "age"),
        (idle(7, 0.0), "one more than are needed", "size"),
    ],
)
def test_a_retirement_says_why(worker: WorkerFacts, words: str, cause: str) -> None:
    actions, _ = decide(replace(facts(worker, ready(8), wanted=1), max_rss=200 << 20), NOW)
    (retired,) = actions
    assert isinstance(retired, Retire)
    assert (retired.pid, retired.reason, retired.cause) == (7, words, cause)


def test_back_off() -> None:
    assert [back_off(count) for count in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert back_off(-1) == 0
    assert back_off(10**9) == 30


@given(st.integers(0, 10_000))
def test_back_off_never_shrinks(failures: int) -> None:
    assert 0 <= back_off(failures) <= back_off(failures + 1) <= 30


# What holds for any facts

times = st.floats(0, 2_000, allow_nan=False)
spans = st.just(0.0) | st.floats(0.001, 500)
any_busy = st.lists(
    st.builds(BusyThread, st.integers(0, 3), st.integers(0, 9), times, st.booleans(), st.none() | times), max_size=3
).map(tuple)
any_worker = st.builds(
    WorkerFacts,
    pid=st.integers(2, 99),
    ready=st.booleans(),
    born=times,
    generation=st.integers(0, 1),
    requests=st.integers(0, 3),
    request_limit=st.integers(0, 3),
    age_limit=spans,
    private_bytes=st.integers(0, 3),
    busy=any_busy,
    idle_since=st.none() | times,
    retiring_since=st.none() | times,
)
any_facts = st.builds(
    Facts,
    workers=st.lists(any_worker, max_size=5, unique_by=lambda worker: worker.pid).map(tuple),
    wanted=st.integers(0, 4),
    failures=st.integers(0, 50),
    last_failure=times,
    stopping_since=st.none() | times,
    boot_timeout=st.floats(0.001, 500),
    graceful_timeout=spans,
    generation=st.integers(0, 1),
    proving=st.booleans(),
    rolling=st.booleans(),
    pool=st.sampled_from(["static", "dynamic", "ondemand"]),
    min_workers=st.integers(0, 5),
    worker_idle=spans,
    busy_gauge=st.floats(0, 1),
    waiting=st.booleans(),
    threads=st.integers(1, 3),
    max_rss=st.integers(0, 3),
    request_timeout=spans,
    slow_request=spans,
    last_spawn=times | st.just(float("-inf")),
    last_retire=times | st.just(float("-inf")),
    size=st.none() | st.integers(0, 9),
)


def is_due(worker: WorkerFacts, given_facts: Facts, now: float) -> bool:
    return (
        worker.generation != given_facts.generation
        or any(busy.cancelled_at is not None and busy.cancelled_at + HUNG_GRACE <= now for busy in worker.busy)
        or (worker.request_limit > 0 and worker.requests >= worker.request_limit)
        or (worker.age_limit > 0 and worker.born + worker.age_limit <= now)
        or (given_facts.max_rss > 0 and worker.private_bytes >= given_facts.max_rss)
    )


@settings(max_examples=3 * settings().max_examples // 2)
@given(any_facts, times)
def test_rules(given_facts: Facts, now: float) -> None:
    actions, wake = decide(given_facts, now)
    staying = [worker for worker in given_facts.workers if worker.retiring_since is None]
    at_work = {worker.pid for worker in staying if worker.ready}
    due = {worker.pid for worker in staying if worker.ready and is_due(worker, given_facts, now)}
    coming = sum(not worker.ready and worker.generation == given_facts.generation for worker in staying)
    retirements = [action for action in actions if isinstance(action, Retire)]
    retired = {action.pid for action in retirements}
    killed = {action.pid for action in actions if isinstance(action, Kill)}
    asked = {action.pid for action in actions if isinstance(action, Slow | Cancel)}
    counts = [action.count for action in actions if isinstance(action, Spawn)]
    spawned = sum(counts)
    assert wake is None or wake > now, "else the master would spin"
    assert killed <= {worker.pid for worker in given_facts.workers}
    assert asked <= {worker.pid for worker in given_facts.workers if worker.ready} - killed
    if given_facts.stopping_since is not None:
        assert not spawned
        assert not retired
        assert (actions == [Exit()]) == (not given_facts.workers)
        return
    assert Exit() not in actions
    assert not killed & at_work, "who serves is never killed"
    assert retired <= at_work
    assert len(retirements) == len(retired), "each but once"
    assert all((action.cause == "size") == (action.pid not in due) for action in retirements)
    assert retired <= due or due <= retired, "due ones first"
    size = pool_size(given_facts, now)
    assert 0 <= size <= given_facts.wanted
    assert len(at_work - retired) == min(size, len(at_work)), "no fewer than are wanted, and no more"
    assert len(counts) <= 1
    assert all(count > 0 for count in counts)
    assert not spawned or len(at_work - due) + coming + spawned <= size, "more than are missing or due"
    backing_off = given_facts.failures > 0 and now < given_facts.last_failure + back_off(given_facts.failures)
    if backing_off:
        assert not spawned
    if len(at_work) + coming < size:
        assert wake is not None if backing_off else len(at_work) + coming + spawned >= size


@settings(max_examples=3 * settings().max_examples // 2)
@given(any_facts, times, st.floats(0, 1))
def test_until_the_wake_nothing_changes(given_facts: Facts, now: float, fraction: float) -> None:
    actions, wake = decide(given_facts, now)
    later = now + fraction * ((now + 5_000 if wake is None else wake) - now)
    if wake is None or later < wake:
        assert decide(given_facts, later)[0] == actions


@given(any_facts, times)
def test_the_wakes_come_to_an_end(given_facts: Facts, now: float) -> None:
    """There are no more of them than there are times in the facts: it does not put off for ever what floats confuse."""
    asked = 0
    wake: float | None = now
    while wake is not None:
        _, wake = decide(given_facts, wake)
        asked += 1
        assert asked < 100


@given(any_facts, times)
def test_what_is_due_at_the_wake_is_done_then(given_facts: Facts, now: float) -> None:
    """Boots, stops and failures alone: asked again exactly when it wanted to be, it acts."""
    workers = tuple(WorkerFacts(worker.pid, worker.ready, worker.born) for worker in given_facts.workers)
    plain = replace(
        given_facts, workers=workers, generation=0, pool="static", max_rss=0, stopping_since=given_facts.stopping_since
    )
    actions, wake = decide(plain, now)
    if not actions and wake is not None:
        later, _ = decide(plain, wake)
        assert later


# A model of a master and its workers


@dataclass
class Process:
    """One worker of the model."""

    pid: int
    born: float
    generation: int
    ready_at: float | None
    """None: it fails to boot."""
    ready: bool = False
    retiring_since: float | None = None
    hung_since: float | None = None
    cancelled_at: float | None = None
    idle_since: float | None = None
    requests: int = 0
    busy: tuple[BusyThread, ...] = ()


@dataclass
class Model:
    """It does what it is told, on a clock of its own; ``demand`` requests are served, or wait, at any time."""

    base: Facts
    boot_time: float = 1.0
    finish_time: float = 2.0
    """How long the last requests of a worker take that has been told to leave."""
    broken: bool = False
    """No worker boots."""
    forks_fail: int = 0
    """How many of the next forks."""
    demand: int = 0
    rate: int = 0
    """Requests that a worker serves in a second."""
    request_limit: int = 0
    floor: int = 0
    """Fewer must never serve."""
    now: float = 0.0
    failures: int = 0
    last_failure: float = 0.0
    last_spawn: float = float("-inf")
    last_retire: float = float("-inf")
    size: int | None = None
    processes: list[Process] = field(default_factory=list)
    most: int = 0
    spawns: list[float] = field(default_factory=list)
    born: int = 0

    @property
    def serving(self) -> list[Process]:
        return [process for process in self.processes if process.ready and process.retiring_since is None]

    def facts(self) -> Facts:
        left = self.demand
        threads = self.base.threads
        for process in self.processes:
            process.busy = ()
            if process.hung_since is not None:
                process.busy = (BusyThread(0, 1, process.hung_since, True, process.cancelled_at),)
        for process in self.serving:
            count = min(left, threads - len(process.busy))
            left -= count
            process.busy += tuple(BusyThread(threads + number, 1, self.now) for number in range(count))
            if process.busy:
                process.idle_since = None
            elif process.idle_since is None:
                process.idle_since = self.now
        room = len(self.serving) * threads
        return replace(
            self.base,
            workers=tuple(
                WorkerFacts(
                    process.pid, process.ready, process.born, generation=process.generation,
                    requests=process.requests, request_limit=self.request_limit, busy=process.busy,
                    idle_since=process.idle_since, retiring_since=process.retiring_since,
                )
                for process in self.processes
            ),
            failures=self.failures,
            last_failure=self.last_failure,
            busy_gauge=min(1.0, self.demand / room) if room else 0.0,
            waiting=left > 0,
            last_spawn=self.last_spawn,
            last_retire=self.last_retire,
            size=self.size,
        )  # fmt: skip

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Spawn):
            self.last_spawn = self.now
            self.spawns.append(self.now)
            for _ in range(action.count):
                if self.forks_fail:
                    self.forks_fail -= 1
                    self.failed()
                    return
                self.born += 1
                ready_at = None if self.broken else self.now + self.boot_time
                self.processes.append(Process(self.born, self.now, self.base.generation, ready_at))
            return
        assert not isinstance(action, Exit)
        (process,) = [process for process in self.processes if process.pid == action.pid]
        if isinstance(action, Retire):
            self.last_retire = process.retiring_since = self.now
        elif isinstance(action, Kill):
            self.processes.remove(process)
            if not process.ready and process.generation == self.base.generation:
                self.failed()
        elif isinstance(action, Cancel):
            process.cancelled_at = self.now

    def failed(self) -> None:
        self.failures += 1
        self.last_failure = self.now

    def happen(self) -> None:
        """What the workers do by themselves."""
        for process in list(self.processes):
            if process.retiring_since is not None:
                if process.hung_since is None and self.now >= process.retiring_since + self.finish_time:
                    self.processes.remove(process)
            elif process.ready:
                process.requests += self.rate
            elif process.ready_at is None and self.now >= process.born + self.boot_time:
                self.processes.remove(process)
                self.failed()
            elif process.ready_at is not None and self.now >= process.ready_at:
                process.ready = True
                self.failures = 0

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, as the master does: until the wake, until something happens, at most a second."""
        end = self.now + seconds
        rounds = 0
        while self.now < end and not until():
            given_facts = self.facts()
            self.size = pool_size(given_facts, self.now)
            actions, wake = decide(given_facts, self.now)
            for action in actions:
                self.carry_out(action)
            assert len(self.serving) >= self.floor
            self.most = max(self.most, len(self.processes))
            rounds += 1
            assert rounds < 20, f"it does not come to rest: {actions}"
            if not actions:
                moments = [process.ready_at or process.born + self.boot_time for process in self.processes]
                later = [moment for moment in (*moments, wake) if moment is not None and moment > self.now]
                self.now = min(end, self.now + 1.0, *later)
                self.happen()
                rounds = 0


def model(pool: str = "static", wanted: int = 3, *, rolling: bool = False, threads: int = 1) -> Model:
    return Model(Facts((), wanted, 0, 0.0, pool=pool, rolling=rolling, threads=threads, request_timeout=5.0))


def start(pool: Model, seconds: float = 30.0) -> Model:
    """Let the pool come to what its load asks for."""
    pool.run(seconds)
    assert len(pool.serving) == len(pool.processes)
    return pool


kinds = st.sampled_from(["static", "dynamic", "ondemand"])


@settings(deadline=None)
@given(kinds, st.integers(1, 5), st.booleans(), st.floats(0.01, 50), st.floats(0, 40))
def test_a_reload_ends_with_new_workers_and_never_has_fewer(
    kind: str, wanted: int, rolling: bool, boot_time: float, finish_time: float
) -> None:
    pool = model(kind, wanted, rolling=rolling)
    pool.demand = wanted
    start(pool)
    assert len(pool.serving) == wanted
    pool.boot_time, pool.finish_time, pool.floor, pool.most = boot_time, finish_time, wanted, 0
    pool.base = replace(pool.base, generation=1)
    pool.run(1000, lambda: [process.generation for process in pool.processes] == [1] * wanted)
    pool.run(100)  # it stays so
    assert [process.generation for process in pool.processes] == [1] * wanted
    assert pool.most <= wanted + (1 if rolling else wanted)


@settings(deadline=None)
@given(kinds, st.integers(1, 5), st.booleans(), st.floats(0.01, 100))
def test_a_broken_reload_keeps_the_old_workers(kind: str, wanted: int, rolling: bool, boot_time: float) -> None:
    pool = model(kind, wanted, rolling=rolling)
    pool.demand = wanted
    start(pool)
    pool.boot_time, pool.broken, pool.floor, pool.spawns = boot_time, True, wanted, []
    pool.base = replace(pool.base, generation=1)
    pool.run(300)
    assert 1 <= len(pool.spawns) <= 17, "the back-off was not kept"
    pool.demand, pool.base = 0, replace(pool.base, generation=0)
    pool.run(300)
    assert [process.generation for process in pool.processes] == [0] * wanted, "whoever leaves now cannot come back"


@settings(deadline=None)
@given(kinds, st.integers(1, 5), st.integers(1, 9))
def test_forks_fail(kind: str, wanted: int, fail: int) -> None:
    pool = model(kind, wanted)
    pool.demand = wanted
    pool.forks_fail = fail
    pool.run(200)
    assert len(pool.serving) == wanted
    gaps = [later - earlier for earlier, later in zip(pool.spawns, pool.spawns[1:], strict=False)]
    assert gaps[: fail - 1] == pytest.approx([back_off(count) for count in range(1, fail)])


def test_boots_that_hang_are_killed_and_backed_off() -> None:
    pool = model(wanted=1)
    pool.boot_time = 1e6
    pool.run(200)
    assert pool.spawns == pytest.approx([0, 60.5, 121.5, 183.5])


@settings(deadline=None)
@given(kinds, st.integers(1, 5), st.integers(2, 40), st.booleans())
def test_recycling_never_has_fewer(kind: str, wanted: int, limit: int, rolling: bool) -> None:
    pool = model(kind, wanted, rolling=rolling)
    pool.demand = wanted
    start(pool)
    pool.rate, pool.request_limit, pool.floor = 1, limit, wanted
    pool.run(200)
    assert pool.born >= wanted + 4
    pool.rate = pool.request_limit = 0
    pool.run(100)
    assert len(pool.processes) == wanted


def test_a_dynamic_pool_keeps_its_size_while_it_recycles() -> None:
    pool = model("dynamic", 8)
    pool.demand = 2
    start(pool)
    size = len(pool.serving)
    assert 2 <= size < 8
    pool.rate, pool.request_limit, pool.floor = 1, 20, size
    pool.run(500)
    assert pool.born > 50
    assert len(pool.serving) == size


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand"])
@pytest.mark.parametrize("threads", [1, 2])
def test_hung_workers_are_replaced_at_once(kind: str, threads: int) -> None:
    pool = model(kind, 3, threads=threads)
    pool.demand = 3 * threads
    start(pool)
    pool.floor = 3
    for process in pool.serving[:2]:
        process.hung_since = pool.now
    stuck = pool.now
    pool.run(60)
    assert [now - stuck for now in pool.spawns[-1:]] == [6.0], "both in one go"
    assert len(pool.processes) == 3
    assert all(process.hung_since is None for process in pool.processes)


def test_ondemand_comes_and_goes() -> None:
    pool = model("ondemand", 4)
    pool.run(100)
    assert pool.processes == []
    pool.demand = 4
    pool.run(100, until=lambda: len(pool.serving) == 4)
    assert pool.now < 110
    pool.run(100)
    assert len(pool.processes) == 4
    pool.demand = 1
    pool.run(30)
    assert len(pool.processes) == 1
    pool.demand = 0
    pool.run(30)
    assert pool.processes == []
    assert pool.born == 4


def test_dynamic_grows_and_shrinks() -> None:
    pool = model("dynamic", 16)
    pool.run(100)
    assert len(pool.processes) == 1
    pool.demand = 9
    pool.run(100, until=lambda: len(pool.serving) == 16)
    assert pool.now < 110
    assert pool.spawns[1:] == pytest.approx([100, 101, 102, 103])
    pool.run(1000)
    assert len(pool.processes) == 16, "nine would be more than half of fifteen"
    pool.demand = 3
    began = pool.now
    pool.run(1000)
    assert len(pool.processes) == 7, "three would be half of six"
    assert pool.last_retire - began == pytest.approx(9 * 10, abs=10)
    pool.demand = 0
    pool.run(100)
    assert len(pool.processes) == 1
    assert pool.born == 16, "it does not swing"


event = st.one_of(
    st.tuples(st.just("crash"), st.integers(0, 9)),
    st.tuples(st.just("hang"), st.integers(0, 9)),
    st.tuples(st.just("demand"), st.integers(0, 9)),
    st.tuples(st.just("wanted"), st.integers(1, 6)),
    st.tuples(st.just("broken"), st.booleans()),
    st.tuples(st.just("forks_fail"), st.integers(0, 3)),
    st.tuples(st.just("reload"), st.none()),
)


@settings(deadline=None)
@given(kinds, st.booleans(), st.lists(st.tuples(event, st.floats(0.01, 90)), max_size=12))
def test_whatever_happens_it_comes_to_rest(
    kind: str, rolling: bool, events: list[tuple[tuple[str, int | None], float]]
) -> None:
    pool = model(kind, rolling=rolling, threads=2)
    for (name, value), seconds in events:
        serving = pool.serving
        if name == "reload":
            pool.base = replace(pool.base, generation=pool.base.generation + 1)
        elif name == "wanted":
            pool.base = replace(pool.base, wanted=value or 1)
        elif name in {"crash", "hang"}:
            for process in serving[(value or 0) :][:1]:
                if name == "hang":
                    process.hung_since = process.hung_since or pool.now
                else:
                    pool.processes.remove(process)
        else:
            setattr(pool, name, value)
        pool.run(seconds)
    pool.broken, pool.forks_fail, pool.demand = False, 0, 1
    pool.base = replace(pool.base, generation=pool.base.generation + 1)
    pool.run(200)
    assert pool.failures == 0
    pool.demand = 0
    pool.run(200)
    assert len(pool.processes) == {"static": pool.base.wanted, "dynamic": 1, "ondemand": 0}[kind]
    assert all(process.generation == pool.base.generation for process in pool.processes)
