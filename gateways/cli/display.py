"""The status document as text: lines of at most so many columns, with nothing in them that a terminal obeys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from gateways.server.errorlog import escape
from gateways.server.scoreboard import BUCKETS

__all__ = ["Row", "head_lines", "status_text", "table", "worker_rows"]

HEADINGS: Final = ("WORKER", "STATE", "FOR", "REQUESTS", "MEMORY", "REQUEST")
RIGHT: Final = frozenset(("FOR", "REQUESTS", "MEMORY"))
UNITS: Final = ((86_400.0, "d", 3_600.0, "h"), (3_600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))
NARROWEST: Final = 40
MOST_THREADS: Final = 16
"""Of one worker, that are shown while they are idle; ``gateways scripts`` has more than a hundred."""

Row = tuple[str, str, str, str, str, str]
"""The columns of HEADINGS."""


def one_line(text: object) -> str:
    """Return text of others as one harmless line."""
    return escape(str(text))


def clip(line: str, width: int) -> str:
    """Return as much of a line as there is room for, and show where it was cut."""
    width = max(width, NARROWEST)
    return line if len(line) <= width else line[: width - 3] + "..."


def seconds_text(seconds: float) -> str:
    """Return a time in at most two units: ``0.2s``, ``3m05s``, ``2h03m``, ``5d04h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    for large, large_name, small, small_name in UNITS:
        if whole >= large:
            return f"{int(whole // large)}{large_name}{int(whole % large // small):02}{small_name}"
    return f"{whole}s"


def size_text(size: float | None) -> str:
    """Return bytes as ``512``, ``8.0M``; a dash where nobody knows."""
    if size is None:
        return "-"
    number = float(size)
    units = ["", "k", "M", "G", "T"]
    while number >= 999.5 and len(units) > 1:
        number /= 1024
        units.pop(0)
    return f"{number:.1f}{units[0]}" if units[0] and number < 99.95 else f"{number:.0f}{units[0]}"


def milliseconds(seconds: float) -> str:
    """Return a short time: ``5ms``, ``2.5s``."""
    return f"{seconds * 1000:.3g}ms" if seconds < 1 else f"{seconds:.3g}s"


def quantile(counts: Sequence[int], share: float) -> str:
    """Return the bound that ``share`` of a histogram's times are within."""
    wanted = share * sum(counts)
    reached = 0
    for bound, count in zip(BUCKETS, counts, strict=False):
        reached += count
        if reached >= wanted:
            return f"within {milliseconds(bound)}"
    return f"over {milliseconds(BUCKETS[-1])}"


def histogram_text(histograms: Iterable[Mapping[str, Any]]) -> str:
    """Return what the times of some histograms were; nothing where there is none."""
    found = list(histograms)
    counts = [sum(column) for column in zip(*(one["counts"] for one in found), strict=True)]
    total = sum(counts)
    if not total:
        return ""
    mean = sum(one["total"] for one in found) / total
    return f"half {quantile(counts, 0.5)}, 99 % {quantile(counts, 0.99)}, mean {milliseconds(mean)}"


def summary(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each fact about the whole server."""
    times = [one for classes in status["times"].values() for one in classes.values()]
    restarts = ", ".join(f"{count} {one_line(cause)}" for cause, count in status["restarts"].items() if count)
    serving = status["threads"] * status["ready"]
    state = one_line(status["state"])
    threads = f"{status['threads']} thread{'s' if status['threads'] != 1 else ''} each"
    yield "state", f"{state}, up for {seconds_text(status['uptime'])}, generation {status['generation']}"
    yield "workers", f"{status['ready']} of {status['wanted']} ready, {one_line(status['pool'])}, {threads}"
    yield "busy", f"{status['busy_threads']} of {serving} threads, {status['busy']:.0%} of their time"
    yield "requests", f"{status['requests']}, {status['timeouts']} timed out, {status['slow']} slow"
    for name, text in (
        ("times", histogram_text(times) if times else ""),
        ("queued", histogram_text([status["queue_time"]])),
        ("replaced", restarts),
    ):
        if text:
            yield name, text
    yield "reloads", f"{status['reloads']}, {status['reload_failures']} failed"
    for listener in status["listeners"]:
        queue = listener["queue"]
        waiting = f", {queue} of {listener['backlog']} waiting" if queue is not None else ""
        yield "listener", f"{one_line(listener['protocol'])} on {one_line(listener['address'])}{waiting}"


def head_lines(status: Mapping[str, Any], width: int) -> list[str]:
    """Return the lines about the whole server, the first of which says which it is."""
    title = f"{one_line(status['app'])}, pid {status['pid']}, {one_line(status['version'])}"
    lines = [title, *(f"{name:<9} {text}" for name, text in summary(status))]
    return [clip(line, width) for line in lines]


def worker_rows(worker: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the row of a worker, then those of its threads; many that are idle are one row."""
    yield (
        str(worker["pid"]),
        one_line(worker["state"]),
        seconds_text(worker["age"]),
        str(worker["requests"]),
        size_text(worker["private_bytes"]),
        f"generation {worker['generation']}",
    )
    threads = worker["threads"]
    idle = [thread for thread in threads if thread["state"] != "busy"] if len(threads) > MOST_THREADS else []
    for thread in threads:
        if thread in idle:
            continue
        busy = thread["state"] == "busy"
        yield (
            f"  {thread['thread']}",
            one_line(thread["state"]),
            seconds_text(thread["for"]),
            str(thread["requests"]),
            "",
            one_line(f"{thread['protocol']} {thread['request']}") if busy else "",
        )
    if idle:
        yield ("  ...", "idle", "", str(sum(thread["requests"] for thread in idle)), "", f"{len(idle)} threads")


def table(rows: Sequence[Row], width: int) -> Iterator[str]:
    """Yield aligned lines, the headings first."""
    every = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(HEADINGS) - 1)]
    for row in every:
        cells = [
            text.rjust(size) if name in RIGHT else text.ljust(size)
            for name, text, size in zip(HEADINGS, row, widths, strict=False)
        ]
        yield clip("  ".join([*cells, row[-1]]).rstrip(), width)


def status_text(status: Mapping[str, Any], width: int) -> str:
    """Return all of a status document for people."""
    rows = [row for worker in status["workers"] for row in worker_rows(worker)]
    return "\n".join([*head_lines(status, width), "", *table(rows, width)])
