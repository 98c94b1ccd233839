"""How long the next try for a worker waits."""

from __future__ import annotations

import pytest

from gateways.server.failures import Failures


def test_tries_that_fail_become_ever_more_seldom() -> None:
    failures = Failures()
    assert (failures.count, failures.pause) == (0, 0.0)
    pauses = []
    for now in range(100, 110):
        failures.not_booted(float(now))
        pauses.append(failures.pause)
        assert failures.until == now + failures.pause
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    failures.booted()
    assert failures.pause == 0.0


@pytest.mark.parametrize(("workers", "at_once"), [(1, 3), (4, 6)])
def test_crashes_in_a_row(workers: int, at_once: int) -> None:
    """All workers may have died of one cause; only what goes on after that is a loop."""
    failures = Failures()
    said = []
    for number in range(at_once + 6):
        now = 10.0 + number
        failures.booted()
        said.append(failures.crashed(now, now - 1.0, workers))
        assert failures.count == max(0, min(4, number + 1 - at_once))
    assert said[:at_once] == [""] * at_once
    assert said[at_once] == f"{at_once + 1} workers in a row died soon after their start; next try in 0.5 s"
    assert said[-1].endswith("next try in 4 s")


def test_worker_that_has_lived_for_a_while() -> None:
    """Its death is no part of a row, and ends one."""
    failures = Failures()
    for number in range(3):
        assert failures.crashed(10.0 + number, 9.0 + number, 1) == ""
    assert failures.crashed(20.0, 9.0, 1) == ""
    for number in range(3):
        assert failures.crashed(21.0 + number, 20.0 + number, 1) == ""
    assert failures.crashed(24.0, 23.0, 1) != ""


def test_crashes_of_long_ago_do_not_count() -> None:
    failures = Failures()
    for number in range(20):
        assert failures.crashed(100.0 * number, 100.0 * number - 1.0, 1) == ""
