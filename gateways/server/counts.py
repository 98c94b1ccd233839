"""What a server has counted, for the program that takes over (see handover): no counter goes back at an exec.

What the new program does not know, or counts in another way, begins at 0 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateways.server.overdue import Overdue
from gateways.server.scoreboard import BUCKETS, CLASSES, PROTOCOLS, Board, Histogram
from gateways.server.status import Tally, times_status

__all__ = ["counted", "go_on"]

_MOST: Final = 1 << 53  # the whole numbers that every reader of JSON can tell from each other


def counted(tally: Tally, overdue: Overdue, board: Board) -> dict[str, Any]:
    """Return all of it, as JSON has it."""
    return {
        "reload_failures": tally.reload_failures, "restarts": dict(tally.restarts),
        "timeouts": overdue.timeouts, "slow": overdue.slow, **times_status(board),
    }  # fmt: skip


def go_on(counts: Mapping[str, Any], tally: Tally, overdue: Overdue, board: Board) -> None:
    """Count from there."""
    tally.reload_failures += _number(counts.get("reload_failures"))
    restarts = _table(counts.get("restarts"))
    for cause in tally.restarts:
        tally.restarts[cause] += _number(restarts.get(cause))
    overdue.timeouts += _number(counts.get("timeouts"))
    overdue.slow += _number(counts.get("slow"))
    times = _table(counts.get("times"))
    for protocol in PROTOCOLS:
        for kind in CLASSES:
            board.carry((protocol, kind), _histogram(_table(times.get(protocol)).get(kind)))
    board.carry(None, _histogram(counts.get("queue_time")))


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if type(value) is int and 0 <= value < _MOST else 0


def _histogram(value: object) -> Histogram:
    table = _table(value)
    counts, total = table.get("counts"), table.get("total")
    if not isinstance(counts, list) or len(counts) != len(BUCKETS) + 1 or type(total) is not float:
        return Histogram((), 0.0)
    if not 0.0 <= total < _MOST:
        return Histogram((), 0.0)
    return Histogram(tuple(_number(count) for count in counts), total)
