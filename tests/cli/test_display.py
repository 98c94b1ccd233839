"""The status document as text: widths, times, sizes, histograms."""

from __future__ import annotations

import pytest

from gateways.cli.display import histogram_text, seconds_text, size_text, status_text
from tests.server.fake_master import histogram, status_document


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_no_line_is_too_wide(width: int) -> None:
    address = "/run/" + "x" * 300
    document = status_document(
        app="a" * 300, listeners=[{"protocol": "http", "address": address, "queue": 0, "backlog": 9}]
    )
    lines = status_text(document, width).splitlines()
    assert max(map(len, lines)) == max(width, 40)


def test_a_server_that_has_just_started() -> None:
    document = status_document(
        state="starting",
        ready=0,
        workers=[],
        times={},
        queue_time=histogram(),
        restarts={},
        listeners=[],
        uptime=0.01,
        busy_threads=0,
    )
    text = status_text(document, 80)
    assert "0 of 2 ready" in text
    assert "\nbusy      0 of 0 threads" in text
    for absent in ("times", "queued", "replaced", "listener"):
        assert f"\n{absent} " not in text
    assert text.endswith("\nWORKER  STATE  FOR  REQUESTS  MEMORY  REQUEST")


def test_a_hundred_workers_are_aligned() -> None:
    document = status_document()
    document["workers"] = [document["workers"][0] | {"pid": 10**number, "requests": 10**number} for number in range(8)]
    rows = status_text(document, 200).splitlines()[-25:]
    assert {row.index("generation") for row in rows if "generation" in row} == {rows[0].index("REQUEST", 40)}


def test_many_idle_threads_are_one_row() -> None:
    document = status_document()
    worker = document["workers"][0]
    busy = next(thread for thread in worker["threads"] if thread["state"] == "busy")
    idle = {"state": "idle", "for": 1.0, "requests": 2, "request": "", "protocol": ""}
    worker["threads"] = [busy | {"thread": 0}, *(idle | {"thread": number} for number in range(1, 17))]
    document["workers"] = [worker]
    rows = status_text(document, 200).splitlines()[-3:]
    assert rows[0].startswith(str(worker["pid"]))
    assert rows[1].split()[:2] == ["0", "busy"]
    assert rows[2].split() == ["...", "idle", "32", "16", "threads"]
    worker["threads"].pop()
    assert status_text(document, 200).count(" idle ") == 15


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0s"), (0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (59.6, "1m00s"), (185, "3m05s"),
        (3599.9, "1h00m"), (7380, "2h03m"), (86_399, "23h59m"), (446_400, "5d04h"), (1e9, "11574d01h"),
    ],
)  # fmt: skip
def test_times(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"), (0, "0"), (999, "999"), (1000, "1.0k"), (1024, "1.0k"), (102_400, "100k"), (1_048_576, "1.0M"),
        (8_400_000, "8.0M"), (999 * 1024**2, "999M"), (1023 * 1024**2, "1.0G"),
        (2.5 * 1024**4, "2.5T"), (1024**5, "1024T"),
    ],
)  # fmt: skip
def test_sizes(size: float | None, text: str) -> None:
    assert size_text(size) == text


def test_histograms() -> None:
    assert histogram_text([]) == ""
    assert histogram_text([histogram()]) == ""
    assert histogram_text([histogram(0.3), histogram(0.002)]) == "half within 5ms, 99 % within 500ms, mean 151ms"
    assert histogram_text([histogram(100.0)]) == "half over 60s, 99 % over 60s, mean 100s"
