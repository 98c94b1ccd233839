"""The time of the logs is that of the server's start, whatever zone an application sets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from gateways.server import zone
from tests.server.processes import served
from tests.servers import missing

WINTER = 1_768_478_400  # 2026-01-15 12:00 UTC
SUMMER = 1_784_116_800  # 2026-07-15 12:00 UTC
CODE = f"""
import os, time
from gateways.server.zone import local, stamp
print(stamp({WINTER}), stamp({SUMMER}), local({SUMMER}).tm_gmtoff)
os.environ["TZ"] = "Asia/Tokyo"
time.tzset()
print(stamp({WINTER}), stamp({SUMMER}), local({SUMMER}).tm_gmtoff)
os.environ.clear()
time.tzset()
print(stamp({WINTER}), stamp({SUMMER}), local({SUMMER}).tm_gmtoff)
"""


def told(name: str | None) -> list[str]:
    """What a process that was started with this TZ says, before and after it has got another one."""
    env = {key: value for key, value in os.environ.items() if key != "TZ"} | ({} if name is None else {"TZ": name})
    done = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "winter", "summer", "east"),
    [
        ("Europe/Berlin", "13:00", "14:00", 7200),
        (":America/New_York", "07:00", "08:00", -14400),
        ("Asia/Kolkata", "17:30", "17:30", 19800),
        ("", "12:00", "12:00", 0),
    ],
)
def test_named(name: str, winter: str, summer: str, east: int) -> None:
    if not Path("/usr/share/zoneinfo", name.removeprefix(":")).exists():
        missing("there are no rules of time zones here (tzdata)")
    assert told(name) == [f"2026-01-15 {winter}:00 2026-07-15 {summer}:00 {east}"] * 3


def test_rules_written_out_are_known_by_their_distance() -> None:
    """No file has them. What the zone has at the start is taken from there on."""
    first, *others = told("XXX-3:30")
    assert first == "2026-01-15 15:30:00 2026-07-15 15:30:00 12600"
    assert others == [first] * 2


def test_of_the_machine() -> None:
    first, *others = told(None)
    assert others == [first] * 2


def test_a_zone_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zone, "_EAST", -5400)
    found = zone.read("No/Such_Place")
    assert datetime.fromtimestamp(WINTER, found).utcoffset() == timedelta(seconds=-5400)


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_one_log_has_one_zone(preload: tuple[str, ...]) -> None:
    """An application sets its own: the lines of its worker are of the same one as those of the master."""
    with served("--access-log", "access", *preload) as server:
        server.get("/zone")
        server.get("/errors")
        server.await_log("a line")
        server.stop()
        stamps = re.findall(r"^([-\d]+ [:\d]+) \[\d+\] ", server.text(), re.MULTILINE)
        access = re.findall(r"\[(.* [-+]\d{4})\]", (server.directory / "access").read_text())
    now = datetime.now(timezone.utc)
    assert len(stamps) > 3
    assert all(abs(datetime.fromisoformat(each).astimezone() - now) < timedelta(minutes=5) for each in stamps)
    assert len(access) == 2
    offset = now.astimezone().strftime("%z")
    assert all(each.endswith(offset) for each in access)
