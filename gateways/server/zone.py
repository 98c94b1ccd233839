"""Local time for the logs: that of the process as it was started, whatever zone the application sets meanwhile.

Django sets TZ from its TIME_ZONE when it is loaded, so that the lines of the workers and those of the master would be
hours apart in one and the same file.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import tzinfo

__all__ = ["local", "stamp"]

_LOCALTIME: Final = "/etc/localtime"
_DIRECTORY: Final = "/usr/share/zoneinfo"
_GIVEN: Final = os.environ.get("TZ")
_EAST: Final = time.localtime().tm_gmtoff
"""Seconds east of Greenwich at the start: where the zone's rules cannot be read."""
_zone: tzinfo | None = None


def local(second: float) -> time.struct_time:
    """Return the moment ``second`` (Unix time), with its distance from UTC (``tm_gmtoff``)."""
    if os.environ.get("TZ") == _GIVEN:
        return time.localtime(second)
    from datetime import datetime, timedelta  # noqa: PLC0415  (few applications set a zone)

    here = datetime.fromtimestamp(second, _rules())
    east = here.utcoffset() or timedelta()
    return time.struct_time((*here.timetuple(), here.tzname(), int(east.total_seconds())))


def stamp(second: float) -> str:
    """Return the moment ``second`` (Unix time) as the error log and the slow log show it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", local(second))


def _rules() -> tzinfo:
    """Return the zone of the start, which the C library has forgotten by now (tzset(3): TZ, else /etc/localtime)."""
    global _zone  # noqa: PLW0603  (read once)
    if _zone is None:
        _zone = read(_GIVEN)
    return _zone


def read(name: str | None) -> tzinfo:
    """Return the zone that the variable TZ names; where its rules cannot be read, the distance of the start."""
    from datetime import timedelta, timezone  # noqa: PLC0415  (as above)
    from zoneinfo import ZoneInfo  # noqa: PLC0415  (as above)

    path = _LOCALTIME if name is None else os.path.join(_DIRECTORY, name.removeprefix(":") or "UTC")
    try:
        with open(path, "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):  # rules written out (TZ=CET-1CEST); no such file
        return timezone(timedelta(seconds=_EAST))
