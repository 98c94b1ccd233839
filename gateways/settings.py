"""The typed settings: command line, environment and TOML file meet here and nowhere else.

``SETTINGS`` is the one schema. From each entry follow the option ``--head-timeout``, the variable
``GATEWAYS_HEAD_TIMEOUT`` and the TOML key ``head-timeout`` (``head_timeout`` is the same). For each of them the
command line wins over the environment, the environment over the file and the file over the default.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from gateways.errors import ConfigError
from gateways.limits import DEFAULT_LIMITS, DEFAULT_TIMEOUTS, Limits, Timeouts
from gateways.server.address import Address, parse_address

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["PROTOCOLS", "SETTINGS", "Setting", "Settings", "load_settings"]

PREFIX: Final = "GATEWAYS_"
CONFIG_VARIABLE: Final = "GATEWAYS_CONFIG"
FOREIGN_VARIABLES: Final = frozenset({"GATEWAYS_EXPECT_BUILD", "GATEWAYS_SECRET"})
"""GATEWAYS_* names with a meaning elsewhere; GATEWAYS_TEST_* is left to test suites."""
FOREIGN_PREFIX: Final = "GATEWAYS_TEST_"

PROTOCOLS: Final = ("fastcgi", "scgi", "uwsgi", "http", "auto")
DEFAULT_LISTENER: Final = ("auto", Address("tcp", "127.0.0.1", 8000))
"""Where nothing is asked for: the address that people try first, in every protocol."""
DEFAULT_BACKLOG: Final = 1024
"""The kernel cuts it to net.core.somaxconn (4096 since Linux 5.4, 128 before) without a word."""
DEFAULT_SOCKET_MODE: Final = 0o660
"""Connecting needs write permission on the path. 0o666 would let every account of the machine skip the web server
and its access rules; with 0o660 the web server's group is given once: ``--socket-owner :www-data``."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
SIZE_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
MAXIMUM_SECONDS: Final = 86_400.0
"""Far below the 24.8 days at which a poller's milliseconds leave 31 bits."""
MAXIMUM_COUNT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``serve`` obeys, whole and checked."""

    app: str
    """``package.module:attribute``."""
    listeners: tuple[tuple[str, Address], ...] = (DEFAULT_LISTENER,)
    """Protocol (one of PROTOCOLS) and address."""
    socket_mode: int = DEFAULT_SOCKET_MODE
    socket_owner: str = ""
    backlog: int = DEFAULT_BACKLOG
    workers: int = 1
    threads: int = 1
    mount: str | None = None
    """Leading slash, no trailing slash, empty for the root; None leaves it to what the web server sends."""
    chdir: str = "."
    """Absolute where ``load_settings`` made it."""
    uwsgi_modifier30: bool = False
    limits: Limits = DEFAULT_LIMITS
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    log_level: str = "info"
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Setting's name -> where its value came from: ``--workers``, ``GATEWAYS_WORKERS``, ``workers in FILE``, or
    ``default``."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One entry of the schema."""

    name: str
    """As in the option and in TOML: ``head-timeout``."""
    group: str
    """The heading under which the help lists it."""
    metavar: str
    """Its type in one word; empty for a switch."""
    help: str
    parse: Callable[[object], Any]
    """From text, or from TOML's own types, to the value; raises ValueError or ConfigError with the reason."""
    default: Any = None
    shown: str = ""
    """The default as a person would write it."""
    many: bool = False
    """May be given more than once; a list in TOML, commas or spaces in the environment."""
    positional: bool = False

    @property
    def key(self) -> str:
        """The name as an identifier: ``head_timeout``."""
        return self.name.replace("-", "_")

    @property
    def option(self) -> str:
        """``--head-timeout``, or ``APP``."""
        return self.name.upper() if self.positional else f"--{self.name}"

    @property
    def variable(self) -> str:
        """``GATEWAYS_HEAD_TIMEOUT``."""
        return PREFIX + self.key.upper()


# Values: each takes the text of the command line or environment, or what TOML already typed.


def text(value: object) -> str:
    """Any text but the empty one."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def switch(value: object) -> bool:
    """A truth value."""
    word = str(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{value!r} is neither true nor false")


def count(minimum: int, maximum: int = MAXIMUM_COUNT) -> Callable[[object], int]:
    """Parse a whole number from ``minimum`` to ``maximum``."""

    def parse(value: object) -> int:
        digits = str(value) if not isinstance(value, bool) else ""
        if not re.fullmatch(r"[0-9]{1,18}", digits) or not minimum <= int(digits) <= maximum:
            upper = "up" if maximum == MAXIMUM_COUNT else f"to {maximum}"
            raise ValueError(f"{value!r} is not a whole number from {minimum} {upper}")
        return int(digits)

    return parse


def size(minimum: int) -> Callable[[object], int]:
    """Parse bytes as ``65536``, ``64k``, ``1M`` or ``1G``; the units are powers of 1024."""

    def parse(value: object) -> int:
        match = re.fullmatch(r"([0-9]{1,18})(?:([kmg])(?:i?b)?)?", str(value).lower())
        if match is None or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a size; write bytes, or a number with k, M or G, as in 64k")
        found = int(match[1]) * SIZE_UNITS[match[2] or ""]
        if found < minimum:
            raise ValueError(f"{value!r} is less than {minimum} byte")
        return found

    return parse


def duration(*, zero: bool) -> Callable[[object], float]:
    """Parse seconds as ``30``, ``2.5``, ``500ms``, ``30s``, ``2m`` or ``1h``."""

    def parse(value: object) -> float:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", str(value).lower())
        if match is None or isinstance(value, bool):
            raise ValueError(f"{value!r} is not a time; write seconds, or a number with ms, s, m or h, as in 500ms")
        found = float(match[1]) * DURATION_UNITS[match[2]]
        if found > MAXIMUM_SECONDS or (found == 0 and not zero):
            raise ValueError(f"{value!r} is not a time {'of 0' if zero else 'above 0'} to 24h")
        return found

    return parse


def octal_mode(value: object) -> int:
    """Permissions in octal digits. TOML's own integers are refused: ``440`` there means 0o670."""
    if not isinstance(value, str) or not re.fullmatch(r"(0o)?0?[0-7]{3}", value):
        raise ValueError(f"{value!r} is not a file mode; write three octal digits as text, as in '660'")
    return int(value, 8)


def mount_point(value: object) -> str:
    """A path prefix: leading slash, no trailing slash, nothing for the root."""
    prefix = text(value).strip("/")
    if re.search(r"[?#\s\x00-\x1f]|//", prefix):
        raise ValueError(f"{value!r} is not a path prefix; write it as in /shop")
    return f"/{prefix}" if prefix else ""


def directory(value: object) -> str:
    """The absolute path of a directory that exists."""
    path = absolute(text(value))
    if not Path(path).is_dir():
        raise ValueError(f"{value!r} is not a directory")
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
    word = str(value).lower()
    if word not in LOG_LEVELS:
        raise ValueError(f"{value!r} is none of {', '.join(LOG_LEVELS)}")
    return word


def listener(value: object) -> Address:
    """An address; TOML may hold a bare port as a number."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not an address")
    return parse_address(str(value))


def size_text(value: int) -> str:
    """The shortest way to write a size."""
    for unit in ("g", "m", "k"):
        if value and value % SIZE_UNITS[unit] == 0:
            return f"{value // SIZE_UNITS[unit]}{unit.upper() if unit != 'k' else unit}"
    return str(value)


# The schema

LISTENER_HELPS: Final = {
    "fastcgi": "FastCGI for nginx, Apache, lighttpd, Caddy",
    "scgi": "SCGI for nginx, Apache, lighttpd",
    "uwsgi": "uwsgi for nginx, Apache",
    "http": "HTTP/1.1, for development",
    "auto": "any of them, told by the first byte",
}
TIMEOUT_HELPS: Final = {
    "head": "a whole request head",
    "body": "between two pieces of a request body",
    "write": "until the peer takes more response",
    "keepalive": "an idle kept connection",
    "drain": "taking an unread body after the answer",
    "graceful": "running requests at the end",
    "boot": "a worker that loads the application",
}
LIMIT_HELPS: Final = {
    "params_bytes": "one request's header or parameters",
    "params_count": "how many parameters of one request",
    "body_bytes": "one request body, 0 for no limit",
    "body_buffer": "a body held before it is read",
    "requests_per_connection": "at once on a FastCGI connection",
    "drain_bytes": "unread body taken after the answer",
}
MAY_BE_ZERO: Final = frozenset({"keepalive", "drain", "graceful", "body_bytes", "drain_bytes"})


def timeout_settings() -> Iterable[Setting]:
    """One setting for each field of Timeouts."""
    for entry in fields(Timeouts):
        default: float = getattr(DEFAULT_TIMEOUTS, entry.name)
        yield Setting(
            name=f"{entry.name}-timeout".replace("_", "-"),
            group="Timeouts",
            metavar="TIME",
            help=TIMEOUT_HELPS.get(entry.name, ""),
            parse=duration(zero=entry.name in MAY_BE_ZERO),
            default=default,
            shown=f"{default:g}s",
        )


def limit_settings() -> Iterable[Setting]:
    """One setting for each field of Limits."""
    for entry in fields(Limits):
        default: int = getattr(DEFAULT_LIMITS, entry.name)
        minimum = 0 if entry.name in MAY_BE_ZERO else 1
        is_size = entry.name.endswith(("_bytes", "_buffer"))
        yield Setting(
            name=f"max-{entry.name}".replace("_", "-"),
            group="Limits",
            metavar="SIZE" if is_size else "N",
            help=LIMIT_HELPS.get(entry.name, ""),
            parse=size(minimum) if is_size else count(minimum),
            default=default,
            shown=size_text(default) if is_size else str(default),
        )


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("app", "Application", "APP", "package.module:attribute", text, positional=True),
    *(Setting(name, "Listen", "ADDR", LISTENER_HELPS[name], listener, many=True) for name in PROTOCOLS),
    Setting(
        "socket-mode",
        "Listen",
        "MODE",
        "permissions of unix sockets",
        octal_mode,
        DEFAULT_SOCKET_MODE,
        f"{DEFAULT_SOCKET_MODE:o}",
    ),
    Setting("socket-owner", "Listen", "OWNER", "their USER, USER:GROUP or :GROUP", text, ""),
    Setting(
        "backlog", "Listen", "N", "queue to accept, up to somaxconn", count(1), DEFAULT_BACKLOG, f"{DEFAULT_BACKLOG}"
    ),
    Setting("uwsgi-modifier30", "Listen", "", "take uwsgi's modifier1 30 too (old configs)", switch, default=False),
    Setting("mount", "Application", "PREFIX", "SCRIPT_NAME, where it is not what is sent", mount_point),
    Setting("chdir", "Application", "DIR", "run there; it is importable", directory, ".", "."),
    Setting("workers", "Workers", "N", "processes", count(1, 1024), 1, "1"),
    Setting("threads", "Workers", "N", "threads of each", count(1, 1024), 1, "1"),
    *timeout_settings(),
    *limit_settings(),
    Setting("log-level", "General", "LEVEL", "debug, info, warning or error", level, "info", "info"),
)


# The three places that settings come from

Given = dict[str, tuple[object, str]]
"""Setting's name -> what was written and where."""


def load_settings(arguments: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Bring command line, environment and file together; raise ConfigError, naming the place, for the first mistake.

    ``arguments`` has the settings' keys (``head_timeout``) and ``config``; None and an empty tuple are "not given".
    """
    arguments = arguments or {}
    environ = os.environ if environ is None else environ
    file = arguments.get("config") or environ.get(CONFIG_VARIABLE)
    given: Given = from_file(str(file)) if file else {}
    given |= from_environment(environ)
    given |= from_arguments(arguments)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        if setting.name in given:
            written, sources[setting.name] = given[setting.name]
            values[setting.key] = parse_value(setting, written, sources[setting.name])
        else:
            values[setting.key], sources[setting.name] = setting.default, "default"
    return assemble(values, sources)


def assemble(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Settings from the parsed values, and the checks that concern more than one of them."""
    if values["app"] is None:
        raise ConfigError(
            "no application given: name it as package.module:attribute, "
            "for example: gateways serve shop.wsgi:application --http 8000"
        )
    listeners = tuple((name, address) for name in PROTOCOLS for address in values[name] or ())
    check_listeners(listeners)
    return Settings(
        app=values["app"],
        listeners=listeners or (DEFAULT_LISTENER,),
        socket_mode=values["socket_mode"],
        socket_owner=values["socket_owner"],
        backlog=values["backlog"],
        workers=values["workers"],
        threads=values["threads"],
        mount=values["mount"],
        chdir=absolute(values["chdir"]),
        uwsgi_modifier30=values["uwsgi_modifier30"],
        limits=Limits(**{entry.name: values[f"max_{entry.name}"] for entry in fields(Limits)}),
        timeouts=Timeouts(**{entry.name: values[f"{entry.name}_timeout"] for entry in fields(Timeouts)}),
        log_level=values["log_level"],
        sources=sources,
    )


def check_listeners(listeners: tuple[tuple[str, Address], ...]) -> None:
    """An address can be listened on once; port 0 is another port each time."""
    seen: dict[Address, str] = {}
    for protocol, address in listeners:
        if address in seen and not (address.kind == "tcp" and address.port == 0):
            raise ConfigError(
                f"{address} is given twice, for {seen[address]} and for {protocol}; "
                "give each its own address, or use --auto for all protocols on one"
            )
        seen[address] = protocol


def parse_value(setting: Setting, written: object, source: str) -> Any:  # noqa: ANN401 - each setting has its own type
    """The value of what was written."""
    try:
        if not setting.many:
            return setting.parse(written)
        return tuple(setting.parse(item) for item in (written if isinstance(written, list | tuple) else [written]))
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from None


def from_arguments(arguments: Mapping[str, object]) -> Given:
    """What the command line gave."""
    return {
        setting.name: (arguments[setting.key], setting.option)
        for setting in SETTINGS
        if arguments.get(setting.key) not in (None, ())
    }


def from_environment(environ: Mapping[str, str]) -> Given:
    """What the environment gave. An empty variable counts as absent: compose files and units leave such behind."""
    known = {setting.variable: setting for setting in SETTINGS}
    given: Given = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable.startswith(FOREIGN_PREFIX) or variable in FOREIGN_VARIABLES:
            continue
        setting = known.get(variable)
        if setting is None:
            keys = (name.removeprefix(PREFIX) for name in (*known, CONFIG_VARIABLE))
            hint = did_you_mean(variable.removeprefix(PREFIX), keys, PREFIX)
            raise ConfigError(f"the environment variable {variable} is no setting{hint}; correct it or unset it")
        if value:
            given[setting.name] = (value.replace(",", " ").split() if setting.many else value, variable)
    return given


def from_file(path: str) -> Given:
    """What the TOML file gave."""
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error
    known = {setting.name: setting for setting in SETTINGS}
    given: Given = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ConfigError(f"{key!r} in {path} is no setting{did_you_mean(name, known)}; correct it or remove it")
        if name in given:
            raise ConfigError(f"{name!r} is given twice in {path}, with a dash and with an underscore; remove one")
        given[name] = (value, f"{key} in {path}")
    return given


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The clause that names the closest name there is, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
