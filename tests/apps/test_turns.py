"""Who may run, who waits and in which order, who is sent away."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gateways.apps.turns import Turns
from tests.server.pools import within


def never() -> bool:
    return False


class Waiting:
    """A thread that waits for a turn."""

    def __init__(self, turns: Turns, name: str, log: list[str], hopeless: Callable[[], bool] = never) -> None:
        self.result: str | None = None
        before = turns.waiting

        def run() -> None:
            self.result = turns.take(name, 0, hopeless)
            log.append(name)

        self.thread = threading.Thread(target=run)
        self.thread.start()
        within(lambda: turns.waiting == before + 1, "it waits")


def test_a_turn_is_there_at_once_where_nobody_has_one() -> None:
    turns = Turns(2, 0, 0)
    assert turns.take("a", 0, never) == ""
    assert turns.take("a", 0, never) == ""
    assert "2 scripts run already, and 0 requests wait" in turns.take("a", 0, never)
    turns.give("a")
    assert turns.take("b", 0, never) == ""


def test_turns_come_in_order() -> None:
    turns = Turns(1, 0, 10)
    assert turns.take("first", 0, never) == ""
    log: list[str] = []
    waiting = [Waiting(turns, name, log) for name in "abc"]
    current = "first"
    for number, name in enumerate("abc", 1):
        turns.give(current)
        within(lambda number=number: len(log) == number, "the next has its turn")  # type: ignore[misc]
        current = name
    assert log == ["a", "b", "c"]
    assert all(each.result == "" for each in waiting)
    assert turns.taken == 1


def test_one_that_waits_for_its_own_name_is_in_nobody_s_way() -> None:
    turns = Turns(3, 1, 10)
    assert turns.take("a", 0, never) == ""
    log: list[str] = []
    Waiting(turns, "a", log)
    assert turns.take("b", 0, never) == ""
    turns.give("b")
    assert log == []
    turns.give("a")
    within(lambda: log == ["a"], "it has its turn")


def test_a_full_queue_tells_of_what() -> None:
    turns = Turns(3, 1, 0)
    assert turns.take("a", 0, never) == ""
    assert turns.take("a", 0, never) == "1 of a run already, and 0 requests wait"


def test_nobody_waits_longer_than_said_or_without_hope() -> None:
    turns = Turns(1, 0, 2)
    assert turns.take("a", 0, never) == ""
    assert "no turn came" in turns.take("a", 0.01, never)
    assert "nobody waits" in turns.take("a", 0, lambda: True)
    assert turns.waiting == 0
    turns.give("a")
    assert turns.taken == 0


def test_a_waiter_that_fails_leaves() -> None:
    turns = Turns(1, 0, 2)
    assert turns.take("a", 0, never) == ""

    def fail() -> bool:
        raise LookupError

    try:
        turns.take("a", 0, fail)
    except LookupError:
        assert turns.waiting == 0
    else:
        raise AssertionError
