"""What a setting may hold: from what was written to its value.

Each function takes the text of the command line or environment, or what TOML has typed, and returns the value; it
raises ValueError or ConfigError with the reason.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from gateways.errors import ConfigError
from gateways.server.address import Address, parse_address

__all__ = [
    "Network",
    "Url",
    "absolute",
    "choice",
    "count",
    "directory",
    "duration",
    "file_name",
    "level",
    "listener",
    "listening",
    "log_target",
    "mount_point",
    "network",
    "octal_mode",
    "secret_text",
    "shown",
    "size",
    "size_text",
    "switch",
    "text",
    "time_text",
    "url",
]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LEAST_MEMORY: Final = 1 << 20
SIZE_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
MAXIMUM_SECONDS: Final = 86_400.0
"""Far below the 24.8 days at which a poller's milliseconds leave 31 bits."""
MAXIMUM_COUNT: Final = 2**31 - 1
LONGEST_SHOWN: Final = 80
WIDEST_NUMBER: Final = 64  # bits: far beyond all that a setting may hold, and short enough to be written out


class Url(NamedTuple):
    """What is asked for by GET."""

    scheme: str
    host: str
    """The Host header."""
    target: str
    """Path and query, percent-encoded."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.target}"


def shown(value: object) -> str:
    """What was written, as a sentence names it: short, however long or deep it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, int) and value.bit_length() > WIDEST_NUMBER:
        return "so long a number"
    if isinstance(value, str) and len(value) > LONGEST_SHOWN:
        return f"{value[:LONGEST_SHOWN]!r}..."
    return repr(value)


def plain(value: object) -> str:
    """The text of a text or a number; nothing for all else, which is no single value."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return "" if isinstance(value, int) and value.bit_length() > WIDEST_NUMBER else str(value)


def number_text(value: object, *, zero: bool) -> str:
    """As ``plain``, in lower case. Where 0 may be, it may be written as ``off``."""
    found = plain(value).lower()
    return "0" if found == "off" and zero else found


def text(value: object) -> str:
    """Any text but the empty one. No name or path of the system can hold a NUL."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown(value)} is not a text")
    if "\0" in value:
        raise ValueError(f"{shown(value)} holds a NUL")
    return value


def secret_text(value: object) -> str:
    """What a web server can send as a parameter or header: printable ASCII. The sentences never show it."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
        raise ValueError("this is no secret: write printable ASCII characters, without a space at either end")
    return value


def switch(value: object) -> bool:
    """A truth value."""
    word = str(value).lower() if isinstance(value, bool) else plain(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{shown(value)} is neither true nor false")


def count(minimum: int, maximum: int = MAXIMUM_COUNT) -> Callable[[object], int]:
    """Parse a whole number from ``minimum`` to ``maximum``; ``off`` is 0."""

    def parse(value: object) -> int:
        digits = number_text(value, zero=minimum == 0)
        if not re.fullmatch(r"[0-9]{1,18}", digits) or not minimum <= int(digits) <= maximum:
            upper = "up" if maximum == MAXIMUM_COUNT else f"to {maximum}"
            raise ValueError(f"{shown(value)} is not a whole number from {minimum} {upper}")
        return int(digits)

    return parse


def size(minimum: int) -> Callable[[object], int]:
    """Parse bytes as ``65536``, ``64k``, ``1M`` or ``1G``; the units are powers of 1024. ``off`` is 0."""

    def parse(value: object) -> int:
        match = re.fullmatch(r"([0-9]{1,18})(?:([kmg])(?:i?b)?)?", number_text(value, zero=minimum == 0))
        if match is None:
            raise ValueError(f"{shown(value)} is not a size; write bytes, or a number with k, M or G, as in 64k")
        found = int(match[1]) * SIZE_UNITS[match[2] or ""]
        if found < minimum:
            raise ValueError(f"{shown(value)} is less than {minimum} byte")
        return found

    return parse


def memory(value: object) -> int:
    """The size of a process; ``off`` is 0. No worker is as small as what somebody writes who thinks of megabytes."""
    found = size(0)(value)
    if 0 < found < LEAST_MEMORY:
        raise ValueError(f"{shown(value)} is less than any worker has; write the unit too, as in 200M")
    return found


def duration(*, zero: bool, longest: float = MAXIMUM_SECONDS) -> Callable[[object], float]:
    """Parse seconds as ``30``, ``2.5``, ``500ms``, ``30s``, ``2m``, ``1h`` or ``7d``, to ``longest``; ``off`` is 0."""

    def parse(value: object) -> float:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|)", number_text(value, zero=zero))
        if match is None:
            raise ValueError(
                f"{shown(value)} is not a time; write seconds, or a number with ms, s, m, h or d, as in 500ms"
            )
        found = float(match[1]) * DURATION_UNITS[match[2]]
        if found > longest or (found == 0 and not zero):
            lowest = "of 0" if zero else "above 0"
            raise ValueError(f"{shown(value)} is not a time {lowest} to {time_text(longest)}")
        return found

    return parse


def octal_mode(value: object) -> int:
    """Permissions in octal digits. TOML's own integers are refused: ``440`` there means 0o670."""
    if not isinstance(value, str) or not re.fullmatch(r"(0o)?0?[0-7]{3}", value):
        raise ValueError(f"{shown(value)} is not a file mode; write three octal digits as text, as in '660'")
    return int(value, 8)


def mount_point(value: object) -> str:
    """A path prefix: leading slash, no trailing slash, nothing for the root."""
    prefix = text(value).strip("/")
    if re.search(r"[?#\s\x00-\x1f]|//", prefix):
        raise ValueError(f"{shown(value)} is not a path prefix; write it as in /shop")
    return f"/{prefix}" if prefix else ""


def url(value: object) -> Url:
    """A path, for the host ``localhost``, or a whole URL; percent-encoded."""
    written = text(value)
    if re.fullmatch(r"/[!\"$-~]*", written):
        return Url("http", "localhost", written)
    with contextlib.suppress(ValueError):
        parts = urlsplit(written)
        sound = re.fullmatch(r"https?://[!\"$-~]+", written) and parts.hostname and "@" not in parts.netloc
        if sound and (parts.port is None or parts.port):
            return Url(parts.scheme, parts.netloc, f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}")
    raise ValueError(
        f"{shown(value)} is no URL; write a path, as in /healthz, or http://HOST/PATH or https://HOST/PATH, "
        "percent-encoded"
    )


def directory(value: object) -> str:
    """The absolute path of a directory that exists."""
    path = absolute(text(value))
    if not os.path.isdir(path):  # no exception for a name that is too long
        raise ValueError(f"{shown(value)} is not a directory")
    return path


def absolute(path: str) -> str:
    """Make a path absolute. Symbolic links stay: a deployment switches one and reloads."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise ConfigError(
            "the current directory does not exist any more; change to another one (cd), or give --chdir a whole path"
        ) from None


def level(value: object) -> str:
    """A log level."""
    word = plain(value).lower()
    if word not in LOG_LEVELS:
        raise ValueError(f"{shown(value)} is none of {', '.join(LOG_LEVELS)}")
    return word


def listener(value: object) -> Address:
    """An address; TOML may hold a bare port as a number."""
    written = value if isinstance(value, str) else plain(value)
    if not isinstance(value, str) and not written.isdigit():
        raise ValueError(f"{shown(value)} is not an address")
    return parse_address(written)


def choice(*words: str) -> Callable[[object], str]:
    """Parse one of ``words``."""

    def parse(value: object) -> str:
        word = plain(value).lower()
        if word not in words:
            raise ValueError(f"{shown(value)} is none of {', '.join(words)}")
        return word

    return parse


def network(value: object) -> Network:
    """A network as ``10.0.0.0/8`` or one address of it; bits beyond the prefix are a mistake."""
    try:
        return ipaddress.ip_network(text(value))
    except ValueError as error:
        reason = ": it has bits beyond its prefix" if "host bits" in str(error) else ""
        raise ValueError(f"{shown(value)} is not a network such as 10.0.0.0/8 or ::1{reason}") from None


def file_name(value: object) -> str:
    """The absolute path of a file, which need not be there."""
    path = text(value)
    if path == "-" or path.endswith(("/", "/.", "/..")) or path in (".", ".."):
        raise ValueError(f"{shown(value)} names no file")
    return absolute(path)


def log_target(value: object) -> str:
    """As ``file_name``; ``-`` (the standard stream), ``syslog`` and ``syslog:FACILITY`` stand for themselves."""
    path = text(value)
    return path if path in ("-", "syslog") or path.startswith("syslog:") else file_name(path)


def listening(value: object) -> Address:
    """An address to listen on, by TCP or a unix path: for the metrics."""
    address = listener(value)
    if address.kind not in ("tcp", "unix"):
        raise ValueError(f"{shown(value)} is neither HOST:PORT nor a path")
    return address


def size_text(value: int) -> str:
    """The shortest way to write a size."""
    for unit in ("g", "m", "k"):
        if value and value % SIZE_UNITS[unit] == 0:
            return f"{value // SIZE_UNITS[unit]}{unit.upper() if unit != 'k' else unit}"
    return str(value)


def time_text(value: float) -> str:
    """A way to write a time that ``duration`` reads as the same."""
    if value and value % 3600 == 0:
        return f"{value / 86_400:.0f}d" if value % 86_400 == 0 else f"{value / 3600:.0f}h"
    return f"{value:.9f}".rstrip("0").rstrip(".") + ("s" if value else "")
