"""The typed settings: command line, environment and TOML file meet here and nowhere else.

``SETTINGS`` is the one schema, ``SCRIPTS`` what of it ``gateways scripts`` has, and more. From each entry follow the
option ``--head-timeout``, the variable ``GATEWAYS_HEAD_TIMEOUT`` and the TOML key ``head-timeout`` (``head_timeout`` is
the same). For each of them the command line wins over the environment, the environment over the file and the file over
the default.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from gateways.errors import ConfigError
from gateways.limits import DEFAULT_LIMITS, DEFAULT_TIMEOUTS, Limits, Timeouts
from gateways.schema import PREFIX, Setting, rare
from gateways.script_settings import NOT_FOR_SCRIPTS, RARE_FOR_SCRIPTS, SCRIPT_SETTINGS, Scripts, scripts_of
from gateways.server.address import Address
from gateways.values import (
    LOG_LEVELS,
    Network,
    Url,
    absolute,
    choice,
    count,
    directory,
    duration,
    file_name,
    level,
    listener,
    listening,
    log_target,
    memory,
    mount_point,
    network,
    octal_mode,
    secret_text,
    size,
    size_text,
    switch,
    text,
    url,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "CONFIG_VARIABLE",
    "PROTOCOLS",
    "SCRIPTS",
    "SETTINGS",
    "Scripts",
    "Setting",
    "Settings",
    "load_settings",
    "schema_of",
]

CONFIG_VARIABLE: Final = "GATEWAYS_CONFIG"
FOREIGN_VARIABLES: Final = frozenset({"GATEWAYS_EXPECT_BUILD", "GATEWAYS_HANDOVER"})
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
POOLS: Final = ("static", "dynamic", "ondemand")
LONGEST_AGE: Final = 365 * 86_400.0
DEFAULT_WORKER_IDLE: Final = 10.0
"""php-fpm's pm.process_idle_timeout."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``serve`` and ``scripts`` obey, whole and checked."""

    app: str
    """``package.module:attribute``; what is served instead, in words, where that is scripts."""
    listeners: tuple[tuple[str, Address], ...] = (DEFAULT_LISTENER,)
    """Protocol (one of PROTOCOLS) and address."""
    socket_mode: int = DEFAULT_SOCKET_MODE
    socket_owner: str = ""
    backlog: int = DEFAULT_BACKLOG
    workers: int = 1
    threads: int = 1
    mount: str | None = None
    warm_up: Url | None = None
    """Leading slash, no trailing slash, empty for the root; None leaves it to what the web server sends."""
    chdir: str = "."
    """Absolute where ``load_settings`` made it."""
    uwsgi_modifier30: bool = False
    limits: Limits = DEFAULT_LIMITS
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    preload: bool = False
    """The application is loaded in the master, before it forks."""
    reload: bool = False
    """The files of the application are watched, and a change is a reload."""
    pool: str = "static"
    """One of POOLS."""
    min_workers: int = 1
    """``dynamic``: as few workers as there may be."""
    worker_idle: float = DEFAULT_WORKER_IDLE
    """``dynamic`` and ``ondemand``: a worker that is not needed for so many seconds leaves."""
    rolling: bool = False
    """A reload replaces one worker at a time."""
    max_requests: int = 0
    """A worker is replaced after so many requests, and up to a tenth more; 0 is never. So for the next two."""
    max_age: float = 0.0
    """Seconds, and up to a tenth more."""
    max_rss: int = 0
    """Bytes of private memory."""
    request_timeout: float = 0.0
    """Seconds that the application may take for one request; 0 is no limit."""
    slow_request: float = 0.0
    """Seconds after which a request's stacks go to the slow log; 0 is never."""
    allow_from: tuple[Network, ...] = ()
    """Networks whose addresses may connect by TCP; empty is all."""
    allow_user: tuple[str, ...] = ()
    """Users whose processes may connect to a unix socket; empty is all."""
    proxy_from: tuple[Network, ...] = ()
    """Networks whose connections begin with a PROXY header."""
    secret: str = field(default="", repr=False)
    """What each request must bring as GATEWAYS_SECRET; empty is nothing."""
    user: str = ""
    group: str = ""
    umask: int | None = None
    chroot: str = ""
    """An absolute path, or empty."""
    log_level: str = "info"
    access_log: str = ""
    """A file, ``-`` for stdout, ``syslog`` or ``syslog:FACILITY``; empty is none."""
    access_format: str = "combined"
    """``combined``, ``json``, or a format string."""
    error_log: str = "-"
    """As access_log; ``-`` is stderr."""
    slow_log: str = ""
    """A file; empty is the error log."""
    control: str = ""
    """Path of the master's own socket; empty for one in the user's runtime directory, ``off`` for none."""
    metrics: Address | None = None
    pid_file: str = ""
    scripts: Scripts | None = None
    """Served in the place of an application."""
    unused: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """In words, sockets that this process was passed and that no listener means."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Setting's name -> where its value came from: ``--workers``, ``GATEWAYS_WORKERS``, ``workers in FILE``,
    ``default``, and for listeners ``systemd`` or ``descriptor 0``."""

    @property
    def shape(self) -> str:
        """The workers and what each does at a time, for people."""
        if self.scripts is not None:
            return f"{self.workers} x {self.scripts.limits.concurrency} scripts"
        return f"{self.workers} x {self.threads} threads" if self.threads > 1 else str(self.workers)


# The schema


def control_path(value: object) -> str:
    """The absolute path of a unix socket, or ``off``."""
    return OFF if value == OFF else file_name(value)


OFF: Final = "off"
LISTENER_HELPS: Final = {
    "fastcgi": "FastCGI for nginx, Apache, lighttpd, Caddy",
    "scgi": "SCGI for nginx, Apache, lighttpd",
    "uwsgi": "uwsgi for nginx, Apache",
    "http": "HTTP/1.1, for development",
    "auto": "any of them, told by the first byte",
}
TIMEOUT_HELPS: Final = {
    "head": "wait for a whole request head",
    "body": "wait for the next piece of a body",
    "write": "wait until the peer takes more",
    "keepalive": "wait on an idle kept connection",
    "drain": "take an unread body after the answer",
    "graceful": "at the end, let requests finish",
    "boot": "let a worker load the application",
}
LIMIT_HELPS: Final = {
    "params_bytes": "one request's header or parameters",
    "params_count": "how many parameters of one request",
    "body_bytes": "one request body",
    "body_buffer": "a body held before it is read",
    "requests_per_connection": "at once on a FastCGI connection",
    "drain_bytes": "unread body taken after the answer",
}
MAY_BE_ZERO: Final = frozenset({"keepalive", "drain", "graceful", "body_bytes", "drain_bytes"})


def timeout_settings() -> Iterable[Setting]:
    """One setting for each field of Timeouts."""
    for name, default in DEFAULT_TIMEOUTS._asdict().items():
        yield Setting(
            name=f"{name}-timeout".replace("_", "-"),
            group="Timeouts",
            metavar="TIME",
            help=TIMEOUT_HELPS.get(name, ""),
            parse=duration(zero=name in MAY_BE_ZERO),
            default=default,
            shown=f"{default:g}s",
            common=name == "graceful",
        )


def limit_settings() -> Iterable[Setting]:
    """One setting for each field of Limits."""
    for name, default in DEFAULT_LIMITS._asdict().items():
        minimum = 0 if name in MAY_BE_ZERO else 1
        is_size = name.endswith(("_bytes", "_buffer"))
        yield Setting(
            name=f"max-{name}".replace("_", "-"),
            group="Limits",
            metavar="SIZE" if is_size else "N",
            help=LIMIT_HELPS.get(name, ""),
            parse=size(minimum) if is_size else count(minimum),
            default=default,
            shown=(size_text(default) if is_size else str(default)) if default else OFF,
            common=False,
        )


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("app", "Application", "APP", "package.module:attribute", text, positional=True),
    Setting("mount", "Application", "PREFIX", "its URL prefix, whatever is sent", mount_point),
    Setting("chdir", "Application", "DIR", "run in DIR, and import from it", directory, ".", "."),
    Setting("preload", "Application", "", "load it once, before the workers are forked", switch, default=False),
    rare("warm-up", "Application", "URL", "a worker is ready when it has answered", url, None),
    Setting("reload", "Application", "", "for development: reload when a file changes", switch, default=False),
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
    rare("backlog", "Listen", "N", "connections that wait to be accepted", count(1), DEFAULT_BACKLOG, "1024"),
    rare("uwsgi-modifier30", "Listen", "", "take uwsgi's modifier1 30 too (old configs)", switch, default=False),
    Setting("workers", "Workers", "N", "processes; in a dynamic pool, at most", count(1, 1024), 1, "1"),
    Setting("threads", "Workers", "N", "threads of each worker", count(1, 1024), 1, "1"),
    Setting("pool", "Workers", "KIND", "static, dynamic or ondemand", choice(*POOLS), "static", "static"),
    rare("min-workers", "Workers", "N", "in a dynamic pool, at least", count(1, 1024), 1, "1"),
    rare(
        "worker-idle",
        "Workers",
        "TIME",
        "end workers that were idle so long",
        duration(zero=False),
        DEFAULT_WORKER_IDLE,
        "10s",
    ),
    rare("rolling", "Workers", "", "reload workers one at a time", switch, default=False),
    Setting("max-requests", "Workers", "N", "replace a worker after N requests", count(0), 0, OFF),
    rare(
        "max-age",
        "Workers",
        "TIME",
        "replace a worker after so long",
        duration(zero=True, longest=LONGEST_AGE),
        0.0,
        OFF,
    ),
    Setting("max-rss", "Workers", "SIZE", "replace a worker above this memory", memory, 0, OFF),
    Setting("request-timeout", "Timeouts", "TIME", "let a request run, at most", duration(zero=True), 0.0, OFF),
    Setting("slow-request", "Timeouts", "TIME", "log stacks of requests that take more", duration(zero=True), 0.0, OFF),
    *timeout_settings(),
    *limit_settings(),
    Setting("allow-from", "Security", "CIDR", "networks that may connect by TCP", network, many=True),
    rare("allow-user", "Security", "USER", "users that may connect by unix socket", text, many=True),
    rare("proxy-from", "Security", "CIDR", "networks that send a PROXY header first", network, many=True),
    Setting(
        "secret",
        "Security",
        "TEXT",
        "requests must bring it as GATEWAYS_SECRET",
        secret_text,
        "",
        hidden_value=True,
    ),
    Setting("user", "Security", "USER", "run workers as USER, when started as root", text, ""),
    Setting("group", "Security", "GROUP", "and as GROUP", text, ""),
    rare("umask", "Security", "MODE", "file mode mask of the workers", octal_mode),
    rare("chroot", "Security", "DIR", "root directory of the workers", directory, ""),
    Setting("access-log", "Logs", "FILE", "a line a request; - is stdout; or syslog", log_target, ""),
    Setting("access-format", "Logs", "FORMAT", "combined, json or a format", text, "combined", "combined"),
    Setting("error-log", "Logs", "FILE", "what went wrong; - is stderr; or syslog", log_target, "-", "-"),
    rare("slow-log", "Logs", "FILE", "a file of its own for slow requests", log_target, ""),
    Setting("log-level", "Logs", "LEVEL", ", ".join(LOG_LEVELS), level, "info", "info"),
    Setting("control", "Control", "PATH", "socket of gateways status, stop...; or off", control_path, ""),
    Setting("metrics", "Control", "ADDR", "OpenMetrics, /healthz and /readyz by HTTP", listening),
    rare("pid-file", "Control", "FILE", "the master's process id", file_name, ""),
)

SCRIPTS: Final[tuple[Setting, ...]] = (
    *SCRIPT_SETTINGS,
    *(
        replace(setting, common=setting.common and setting.name not in RARE_FOR_SCRIPTS)
        for setting in SETTINGS
        if setting.name not in NOT_FOR_SCRIPTS
    ),
)


def schema_of(settings: Settings) -> tuple[Setting, ...]:
    """The schema that they were made by."""
    return SETTINGS if settings.scripts is None else SCRIPTS


# The three places that settings come from

Given = dict[str, tuple[object, str]]
"""Setting's name -> what was written and where."""


def load_settings(
    arguments: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    schema: tuple[Setting, ...] = SETTINGS,
) -> Settings:
    """Bring command line, environment and file together; raise ConfigError, naming the place, for the first mistake.

    ``arguments`` has the settings' keys (``head_timeout``) and ``config``; None and an empty tuple are "not given".
    Where no listener is named, those count that this process was started with.
    """
    arguments = arguments or {}
    environ = os.environ if environ is None else environ
    file = arguments.get("config") or environ.get(CONFIG_VARIABLE)
    given: Given = from_file(str(file), schema) if file else {}
    given |= from_environment(environ, schema)
    given |= from_arguments(arguments, schema)
    if not any(name in given for name in PROTOCOLS):
        given |= from_descriptors(environ)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for setting in schema:
        if setting.name in given:
            written, sources[setting.name] = given[setting.name]
            values[setting.key] = parse_value(setting, written, sources[setting.name])
        else:
            values[setting.key], sources[setting.name] = setting.default, "default"
    if schema is SCRIPTS:
        scripts = values["scripts"] = scripts_of(values, environ)
        values |= {"app": str(scripts), "threads": scripts.threads, "chdir": "."}
    settings = assemble(values, sources)
    from gateways.server.inherited import meant  # noqa: PLC0415 - needs socket, and --help does not

    listeners, unused = meant(environ, os.getpid(), settings.listeners)
    return replace(settings, listeners=tuple(listeners), unused=tuple(unused))


def assemble(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    """Settings from the parsed values, and the checks that concern more than one of them."""
    if values["app"] is None:
        raise ConfigError(
            "no application given: name it as package.module:attribute, "
            "for example: gateways serve shop.wsgi:application --http 8000"
        )
    chdir = absolute(values["chdir"])
    listeners = tuple((name, from_here(address, chdir)) for name in PROTOCOLS for address in values[name] or ())
    if values["metrics"] is not None:
        values["metrics"] = from_here(values["metrics"], chdir)
    metrics = [("metrics", values["metrics"])] if values["metrics"] is not None else []
    check_listeners((*listeners, *metrics))
    if values["pool"] == "dynamic" and values["min_workers"] > values["workers"]:
        raise ConfigError(
            f"--min-workers {values['min_workers']} is more than --workers {values['workers']}, the most there may be"
        )
    taken = {entry.name for entry in fields(Settings)} & set(values)
    return Settings(
        **{key: values[key] for key in taken - {"chdir", "allow_from", "allow_user", "proxy_from"}},
        listeners=listeners or (DEFAULT_LISTENER,),
        chdir=chdir,
        allow_from=values["allow_from"] or (),
        allow_user=values["allow_user"] or (),
        proxy_from=values["proxy_from"] or (),
        limits=Limits(**{name: values[f"max_{name}"] for name in Limits._fields}),
        timeouts=Timeouts(**{name: values[f"{name}_timeout"] for name in Timeouts._fields}),
        sources=sources,
    )


def from_here(address: Address, chdir: str) -> Address:
    """As every path that is written, a socket's is one of the directory where it is written, not of ``--chdir``."""
    if address.kind != "unix" or os.path.isabs(address.path) or absolute(".") == chdir:
        return address  # short, where it may be: a socket's path has 107 bytes at most
    return replace(address, path=absolute(address.path))


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


def from_arguments(arguments: Mapping[str, object], schema: tuple[Setting, ...]) -> Given:
    """What the command line gave."""
    return {
        setting.name: (arguments[setting.key], setting.option)
        for setting in schema
        if arguments.get(setting.key) not in (None, ())
    }


def from_environment(environ: Mapping[str, str], schema: tuple[Setting, ...]) -> Given:
    """What the environment gave. An empty variable counts as absent: compose files and units leave such behind."""
    known = {setting.variable: setting for setting in schema}
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


def from_descriptors(environ: Mapping[str, str]) -> Given:
    """What systemd, or a FastCGI process manager, has passed to this process."""
    from gateways.server.inherited import passed  # noqa: PLC0415 - needs socket, and --help does not

    given: dict[str, tuple[list[str], str]] = {}
    for protocol, address in passed(environ, os.getpid(), PROTOCOLS):
        written, _ = given.setdefault(protocol, ([], "descriptor 0" if address.fd == 0 else "systemd"))
        written.append(str(address))
    return dict(given)


def from_file(path: str, schema: tuple[Setting, ...]) -> Given:
    """What the TOML file gave."""
    table = read_file(path)
    known = {setting.name: setting for setting in schema}
    given: Given = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ConfigError(f"{key!r} in {path} is no setting{did_you_mean(name, known)}; correct it or remove it")
        if name in given:
            raise ConfigError(f"{name!r} is given twice in {path}, with a dash and with an underscore; remove one")
        given[name] = (value, f"{key} in {path}")
    return given


def read_file(path: str) -> dict[str, Any]:
    """The names and values of a TOML file; raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"the configuration file {path} is nested too deep; settings are names and values") from None


def control_in(path: str) -> str | None:
    """The control socket that a server's TOML file names, None where it names none; raises ConfigError."""
    found = read_file(path).get("control")
    try:
        return None if found is None else control_path(found)
    except ValueError as error:
        raise ConfigError(f"control in {path}: {error}") from None


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The clause that names the closest name there is, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
