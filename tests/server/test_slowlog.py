"""The slow log: whole entries in one write, in a file of their own or in the error log."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gateways.server.logfiles import LogTarget, open_target
from gateways.server.slowlog import SlowLog
from tests.server.pools import MemoryLog

STACKS = 'Thread 0x1 (most recent call first):\n  File "shop.py", line 7 in pay\n'


class Blocks(MemoryLog):
    """Keeps its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str, str]] = []

    def block(self, message: str, text: str, level: str = "warning") -> None:
        self.blocks.append((message, text, level))


class Entries(LogTarget):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.entries.append(line)


def test_without_a_file_it_is_the_error_log() -> None:
    log = Blocks()
    SlowLog(None, log).stacks("scgi GET /pay", 5.0123, 77, STACKS, "--slow-request")
    assert log.blocks == [("scgi GET /pay: 5.012 s in worker 77 (--slow-request)", STACKS, "warning")]


def test_each_entry_has_its_time_and_is_one_write() -> None:
    target = Entries()
    log = Blocks()
    slow = SlowLog(target, log)
    slow.stacks("scgi GET /pay", 5.0123, 77, STACKS, "--slow-request")
    slow.stacks("http GET /", 1, 78, STACKS, "--slow-request")
    first, second = (entry.decode() for entry in target.entries)
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d " + rf"\[{os.getpid()}\] "
    assert re.fullmatch(
        stamp + r"scgi GET /pay: 5\.012 s in worker 77 \(--slow-request\)\n"
        r"  \| Thread 0x1 \(most recent call first\):\n"
        r'  \|   File "shop\.py", line 7 in pay\n',
        first,
    )
    assert re.match(stamp + r"http GET /: 1\.000 s in worker 78", second)
    assert log.blocks == []


def test_no_request_can_forge_an_entry() -> None:
    forged = "GET /\n2026-01-01 00:00:00 [1] GET /forged\r\x1b\\"
    target = Entries()
    SlowLog(target, Blocks()).stacks(forged, 1.0, 1, forged, forged)
    (entry,) = target.entries
    first, *rest = entry.decode().split("\n")
    assert first.count("GET /\\x0a2026-01-01 00:00:00 [1] GET /forged\\x0d\\x1b\\x5c") == 2
    assert rest == ["  | GET /", "  | 2026-01-01 00:00:00 [1] GET /forged\\x0d\\x1b\\", ""]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "slow.log"
    target = open_target(str(path), stream=2, kind="slow")
    try:
        SlowLog(target, Blocks()).stacks("http GET /caf\xe9\udc80", 1.0, 1, STACKS, "--slow-request")
    finally:
        target.close()
    assert "http GET /caf\xe9\\udc80: 1.000 s" in path.read_text(encoding="utf-8")
