"""What the master decides: a table, and rules that hold for any facts."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateways.server.policy import Action, Exit, Facts, Kill, Spawn, WorkerFacts, back_off, decide

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


def what(actions: list[Action]) -> list[tuple[str, int]]:
    """Actions without their words."""
    result = []
    for action in actions:
        if isinstance(action, Spawn):
            result.append(("spawn", action.count))
        elif isinstance(action, Kill):
            result.append(("kill", action.pid))
        else:
            result.append(("exit", 0))
    return result


@pytest.mark.parametrize(
    ("given_facts", "actions", "wake"),
    [
        pytest.param(facts(), [("spawn", 2)], None, id="the start"),
        pytest.param(facts(ready(1)), [("spawn", 1)], None, id="one is missing"),
        pytest.param(facts(ready(1), ready(2)), [], None, id="all is well"),
        pytest.param(facts(ready(1), ready(2), ready(3)), [], None, id="one too many is left alone"),
        pytest.param(facts(ready(1), booting(2, NOW)), [], NOW + 60, id="one boots"),
        pytest.param(facts(booting(1, NOW - 10), booting(2, NOW - 20)), [], NOW + 40, id="the first deadline of two"),
        pytest.param(facts(booting(1, NOW - 60), booting(2, NOW)), [("kill", 1)], NOW + 60, id="one boots too long"),
        pytest.param(facts(ready(1), failures=1, last_failure=NOW), [], NOW + 0.5, id="a first failed boot"),
        pytest.param(facts(ready(1), failures=1, last_failure=NOW - 0.5), [("spawn", 1)], None, id="tried again"),
        pytest.param(facts(failures=4, last_failure=NOW - 3), [], NOW + 1, id="the fourth failed boot"),
        pytest.param(facts(failures=99, last_failure=NOW - 29), [], NOW + 1, id="never longer than 30 s"),
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
    found, when = decide(given_facts, NOW)
    assert what(found) == actions
    assert when == wake


def test_a_kill_says_why() -> None:
    (boot,), _ = decide(facts(booting(7, NOW - 61), wanted=1), NOW)
    assert boot == Kill(7, "not ready 60 s after its start (--boot-timeout)")
    (stop,), _ = decide(facts(ready(7), stopping_since=NOW - 30.5), NOW)
    assert stop == Kill(7, "still busy 30 s after it was told to stop (--graceful-timeout)")


def test_back_off() -> None:
    assert [back_off(count) for count in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert back_off(-1) == 0
    assert back_off(10**9) == 30


@given(st.integers(0, 10_000))
def test_back_off_never_shrinks(failures: int) -> None:
    assert 0 <= back_off(failures) <= back_off(failures + 1) <= 30


times = st.floats(0, 2_000, allow_nan=False)
any_workers = st.lists(st.builds(WorkerFacts, st.integers(2, 99), st.booleans(), times), max_size=4).map(tuple)
any_facts = st.builds(
    Facts,
    workers=any_workers,
    wanted=st.integers(0, 4),
    failures=st.integers(0, 50),
    last_failure=times,
    stopping_since=st.none() | times,
    boot_timeout=st.floats(0.001, 500),
    graceful_timeout=st.floats(0, 500),
)


@given(any_facts, times)
def test_rules(given_facts: Facts, now: float) -> None:
    actions, wake = decide(given_facts, now)
    pids = {worker.pid for worker in given_facts.workers}
    spawned = sum(action.count for action in actions if isinstance(action, Spawn))
    assert wake is None or wake > now, "else the master would spin"
    assert all(action.pid in pids for action in actions if isinstance(action, Kill))
    assert all(action.count > 0 for action in actions if isinstance(action, Spawn))
    assert spawned + len(given_facts.workers) <= max(given_facts.wanted, len(given_facts.workers))
    if given_facts.stopping_since is not None:
        assert not spawned
        assert (actions == [Exit()]) == (not given_facts.workers)
    else:
        assert Exit() not in actions
        late = {worker.pid for worker in given_facts.workers if not worker.ready}
        assert all(action.pid in late for action in actions if isinstance(action, Kill))
    waits = given_facts.stopping_since is not None or any(not worker.ready for worker in given_facts.workers)
    if (waits or len(given_facts.workers) < given_facts.wanted) and not actions:
        assert wake is not None, "something is to come, and nobody would wake the master"


@given(any_facts, times)
def test_what_is_due_at_the_wake_is_done_then(given_facts: Facts, now: float) -> None:
    """Asked again exactly when it wanted to be, it acts: it does not put off for ever what floats cannot tell apart."""
    actions, wake = decide(given_facts, now)
    if not actions and wake is not None:
        later, _ = decide(given_facts, wake)
        assert later
