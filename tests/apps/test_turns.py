"""Who may run, who waits and in which order, who is sent away."""

from __future__ import annotations

from gateways.apps.turns import Turn, Turns


class Asking:
    """Asks for turns; ``woken`` are the names of those that were told, in order."""

    def __init__(self, total: int, each: int, queue: int) -> None:
        self.turns = Turns(total, each, queue)
        self.woken: list[str] = []

    def __call__(self, name: str) -> Turn:
        return self.turns.ask(name, lambda: self.woken.append(name))


def test_a_turn_is_there_at_once_where_nobody_has_one() -> None:
    ask = Asking(2, 0, 0)
    assert ask("a").granted
    assert ask("a").granted
    assert "2 scripts run already, and 0 requests wait" in ask("a").reason
    ask.turns.give("a")
    assert ask("b").granted
    assert ask.woken == [], "who has it at once is not told"


def test_turns_come_in_order() -> None:
    ask = Asking(1, 0, 10)
    ask("first")
    waiting = {name: ask(name) for name in "abc"}
    current = "first"
    for number, name in enumerate("abc", 1):
        assert not waiting[name].granted
        assert not waiting[name].reason
        ask.turns.give(current)
        assert waiting[name].granted
        assert ask.woken == list("abc"[:number])
        current = name
    assert (ask.turns.taken, ask.turns.waiting) == (1, 0)


def test_one_that_waits_for_its_own_name_is_in_nobody_s_way() -> None:
    ask = Asking(3, 1, 10)
    ask("a")
    second = ask("a")
    assert ask("b").granted
    ask.turns.give("b")
    assert ask.woken == []
    ask.turns.give("a")
    assert second.granted
    assert ask.woken == ["a"]


def test_a_full_queue_tells_of_what() -> None:
    ask = Asking(3, 1, 0)
    ask("a")
    assert ask("a").reason == "1 of a run already, and 0 requests wait"


def test_who_waits_no_more_is_in_nobody_s_way() -> None:
    ask = Asking(1, 0, 2)
    ask("a")
    first, second = ask("b"), ask("c")
    ask.turns.leave(first)
    assert ask.turns.waiting == 1
    ask.turns.give("a")
    assert (first.granted, second.granted) == (False, True)


def test_a_turn_that_comes_in_the_last_moment_goes_to_the_next() -> None:
    ask = Asking(1, 0, 2)
    ask("a")
    first, second = ask("b"), ask("c")
    ask.turns.give("a")
    assert first.granted
    ask.turns.leave(first)
    assert second.granted
    ask.turns.leave(second)
    assert (ask.turns.taken, ask.turns.waiting) == (0, 0)
