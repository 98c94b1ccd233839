"""systemd's units for a server: from its settings to the text of a service and its sockets. Pure; nothing is installed.

systemd listens and passes the sockets on (systemd.socket(5)), so that connections wait while the service restarts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from gateways.errors import ConfigError
from gateways.server.address import Address
from gateways.settings import PROTOCOLS, SETTINGS, Settings
from gateways.written import values_of, written

__all__ = ["units"]

NOTIFY_RELOAD: Final = 253
"""The first systemd with Type=notify-reload; an older one ignores the line, and then waits for no notification."""
OWN: Final = {
    "/run": "RuntimeDirectory",
    "/var/log": "LogsDirectory",
    "/var/lib": "StateDirectory",
    "/var/cache": "CacheDirectory",
}
"""Where systemd makes directories for a service's user (systemd.exec(5))."""
MARGIN: Final = 10  # seconds by which systemd is more patient than gateways itself
WATCHDOG: Final = 30  # seconds; the master says twice as often that it lives
ELSEWHERE: Final = {"app", *PROTOCOLS, "socket-mode", "socket-owner", "chdir", "umask", "secret", "control"}
"""What is no option of ExecStart. A process table would show the secret to every account."""
HARDENING: Final = (
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "# AF_NETLINK tells how many connections wait.",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)
HOMES: Final = ("/home", "/root", "/run/user")
TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - looked for in paths, nothing is written there
PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_./:=,@+-]+")
UNIT_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,200}")


def units(
    settings: Settings,
    program: Sequence[str],
    needed: Sequence[str] = (),
    *,
    name: str = "gateways",
    version: int | None = None,
    config: str = "",
) -> dict[str, str]:
    """File name -> text: the sockets, one unit for each protocol, then the service.

    ``program`` is how gateways is called, with an absolute path; ``needed`` are other files that it must be able to
    read. ``version`` is systemd's, None for the newest; ``config`` is the file of the settings, as their sources name
    it: the service reads it again. Raises ConfigError for what systemd cannot do.
    """
    if not UNIT_NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for a unit; use letters, digits and . _ -")
    by_protocol: dict[str, list[str]] = {}
    for protocol, address in settings.listeners:
        by_protocol.setdefault(protocol, []).append(listen_stream(address, settings.chdir))
    service = f"{name}.service"
    files: dict[str, str] = {}
    for protocol, streams in by_protocol.items():
        file = f"{name}.socket" if len(by_protocol) == 1 else f"{name}-{protocol}.socket"
        other = "" if len(by_protocol) == 1 else service
        files[file] = joined(socket_unit(settings, protocol, streams, other))
    owned = directories(settings, name, [stream for streams in by_protocol.values() for stream in streams])
    if config:
        needed = (*needed, os.path.abspath(config))
    files[service] = joined(service_unit(settings, program, needed, name, list(files), version, config, owned))
    return files


# Sockets


def listen_stream(address: Address, directory: str) -> str:
    """The address as ListenStream= takes it."""
    if address.kind == "fd":
        raise ConfigError(f"systemd numbers the descriptors itself: name an address in the place of {address}")
    if address.kind == "abstract":
        return value(f"@{address.path}")
    if address.kind == "unix":
        return value(os.path.normpath(os.path.join(directory, address.path)))
    if address.port == 0:
        raise ConfigError(f"systemd takes no port 0: name a port in the place of {address}")
    host = "127.0.0.1" if address.host == "localhost" else address.host
    if not host:
        return str(address.port)
    if ":" not in host and not re.fullmatch(r"[0-9.]+", host):
        raise ConfigError(f"systemd resolves no host names: write an IP address in the place of {address}")
    return value(str(Address("tcp", host, address.port)))


def socket_unit(settings: Settings, protocol: str, streams: Sequence[str], service: str) -> Iterator[str]:
    """The lines of one socket unit; ``service`` where it has another name."""
    yield "[Unit]"
    yield f"Description={value(settings.app)}, {protocol}"
    yield ""
    yield "[Socket]"
    yield from (f"ListenStream={stream}" for stream in streams)
    yield "# The name tells gateways the protocol."
    yield f"FileDescriptorName={protocol}"
    if service:
        yield f"Service={service}"
    yield f"Backlog={settings.backlog}"
    if any(stream.startswith("/") for stream in streams):
        yield f"SocketMode=0{settings.socket_mode:03o}"
        user, _, group = settings.socket_owner.partition(":")
        if user:
            yield f"SocketUser={value(user)}"
        if group:
            yield f"SocketGroup={value(group)}"
        if not settings.socket_owner and not settings.socket_mode & 0o006:
            yield "# Only root can connect; the web server can once its group is here (--socket-owner :www-data)."
            yield "#SocketGroup=www-data"
    yield ""
    yield "[Install]"
    yield "WantedBy=sockets.target"


# The service


def service_unit(
    settings: Settings, program: Sequence[str], needed: Sequence[str], name: str, sockets: Sequence[str],
    version: int | None, config: str, owned: Sequence[str],
) -> Iterator[str]:  # fmt: skip
    """The lines of the service unit."""
    names = " ".join(sockets)
    yield "[Unit]"
    yield f"Description=gateways, {value(settings.app)}"
    yield f"Requires={names}"
    yield f"After=network.target {names}"
    yield ""
    yield "[Service]"
    control = settings.control or f"/run/{name}-control/socket"
    if control != "off":
        yield "Type=notify"
        yield "# `systemctl reload` waits until new workers serve, and fails where the old ones go on."
        yield f"ExecReload={words([*program, 'reload', '--control', control])}"
    elif version is not None and version < NOTIFY_RELOAD:
        yield f"# For systemd {NOTIFY_RELOAD} and later: Type=notify-reload without ExecReload=; it waits for reloads."
        yield "Type=notify"
        yield "ExecReload=/bin/kill -HUP $MAINPID"
    else:
        yield "# `systemctl reload` sends SIGHUP, and waits until new workers serve or the old ones go on."
        yield f"# For systemd before {NOTIFY_RELOAD}: Type=notify and ExecReload=/bin/kill -HUP $MAINPID"
        yield "Type=notify-reload"
    if len(sockets) > 1:
        yield f"Sockets={names}"
    yield f"WorkingDirectory={value(settings.chdir)}"
    if config:
        yield "# The file is read at each start; sockets and directories are those that it named when this was written."
    yield f"ExecStart={command(settings, program, control, config)}"
    if settings.secret and not of_file(settings, "secret", config):
        yield "# It holds the line GATEWAYS_SECRET=... and only root may read it (mode 600)."
        yield f"EnvironmentFile=/etc/{name}.env"
    yield from identity(settings)
    if settings.umask is not None:
        yield f"UMask=0{settings.umask:03o}"
    if not settings.control:
        yield f"# gateways status --control {control}"
    yield from owned
    yield ""
    yield from supervision(settings)
    yield ""
    yield from hardening(settings, [settings.chdir, program[0], *needed])
    yield ""
    yield "[Install]"
    yield "WantedBy=multi-user.target"
    yield f"Also={names}"


def command(settings: Settings, program: Sequence[str], control: str, config: str) -> str:
    """ExecStart: without the listeners, since the sockets are passed, and without what the file says.

    Where there is a file, which may name listeners, all the others are named: each takes the socket at its address.
    """
    arguments = [*program, "serve"]
    if not of_file(settings, "app", config):
        arguments.append(settings.app)
    if config:
        arguments += ["--config", os.path.abspath(config)]
        if of_file(settings, "chdir", config):  # it may be relative
            arguments += ["--chdir", settings.chdir]
        for protocol, address in settings.listeners:
            if not of_file(settings, protocol, config):
                arguments += [f"--{protocol}", str(address)]
    skipped = ELSEWHERE if settings.chroot else ELSEWHERE | {"user", "group"}
    for setting in SETTINGS:
        found = values_of(settings, setting)
        if setting.name in skipped or found == ([] if setting.default is None else [setting.default]):
            continue
        if of_file(settings, setting.name, config):
            continue
        if not setting.metavar:
            arguments.append(setting.option)
            continue
        for each in found:
            arguments += [setting.option, written(setting, each)]
    if not of_file(settings, "control", config):
        arguments += ["--control", control]
    return words(arguments)


def of_file(settings: Settings, name: str, config: str) -> bool:
    """Whether the file has said it."""
    return bool(config) and settings.sources.get(name, "").endswith(f" in {config}")


def written_files(settings: Settings) -> Iterator[tuple[str, str]]:
    """Option and path of each file that the server makes."""
    for option in ("access-log", "error-log", "slow-log", "pid-file", "control"):
        path = getattr(settings, option.replace("-", "_"))
        if path.startswith("/"):
            yield f"--{option}", path
    if settings.metrics is not None and settings.metrics.kind == "unix":
        yield "--metrics", os.path.abspath(settings.metrics.path)


def directories(settings: Settings, name: str, streams: Sequence[str]) -> list[str]:
    """The lines by which systemd makes the directories of what the server writes; raises ConfigError for others."""
    own: dict[str, list[str]] = {}
    if not settings.control:
        own["/run"] = [f"{name}-control"]
    others: list[str] = []
    for option, path in written_files(settings):
        parent = re.sub(r"^/var/run(?=/|$)", "/run", os.path.dirname(os.path.normpath(path)))
        base = next((base for base in OWN if f"{parent}/".startswith(f"{base}/")), "")
        if settings.chroot or settings.user in (
            "root",
            "0",
        ):  # root may write anywhere, but the directory must be there
            if base and parent != base:
                own.setdefault(base, []).append(os.path.relpath(parent, base))
        elif parent == base:
            raise ConfigError(
                f"{option} {path}: only root may write in {parent}, and the service is not; choose a directory of its "
                f"own, as in {parent}/{name}/{os.path.basename(path)}"
            )
        elif base:
            own.setdefault(base, []).append(os.path.relpath(parent, base))
        elif settings.user:
            others.append(parent)
        elif not below([parent], TEMPORARY):
            raise ConfigError(
                f"{option} {path}: the user that systemd makes for the service can write in no such directory; choose "
                f"one of its own, as in /var/log/{name}/{os.path.basename(path)}, or name a --user who may"
            )
    for directory in own.get("/run", []):
        if below(streams, [f"/run/{directory}"]):
            raise ConfigError(
                f"/run/{directory} cannot be for the sockets and for the service's own files, since systemd removes it "
                f"when the service stops; choose another directory for one of them, as in /run/{name}-own"
            )
    lines = [f"{OWN[base]}={value(' '.join(dict.fromkeys(found)))}" for base, found in own.items()]
    if "/run" in own:
        lines.append("RuntimeDirectoryMode=0755")
    if others:
        lines.append(f"# {value(settings.user)} must be able to write there.")
        lines += [f"ReadWritePaths={word(path)}" for path in dict.fromkeys(others)]
    return lines


def identity(settings: Settings) -> Iterator[str]:
    """Who the service runs as."""
    if settings.chroot:
        yield "# It starts as root, since --chroot needs that; --user is for the workers."
        return
    if settings.user:
        yield f"User={value(settings.user)}"
    else:
        yield "# A user that exists while the service runs, and writes where systemd lets it; --user is for another."
        yield "DynamicUser=yes"
    if settings.group:
        yield f"Group={value(settings.group)}"


def supervision(settings: Settings) -> Iterator[str]:
    """What systemd does when something takes long or fails."""
    boots = settings.workers if settings.rolling else 1
    # With --preload the master is silent while it loads the application anew.
    silence = math.ceil(settings.timeouts.boot) + MARGIN if settings.preload else 0
    yield f"WatchdogSec={max(WATCHDOG, silence)}"
    yield f"TimeoutStartSec={math.ceil(settings.timeouts.boot * boots) + MARGIN}"
    yield f"TimeoutStopSec={math.ceil(settings.timeouts.graceful) + MARGIN}"
    yield "# The master tells its workers to stop."
    yield "KillMode=mixed"
    yield "Restart=on-failure"
    yield "RestartSec=1"
    yield "# 2 is a mistake in the configuration: it does not go away."
    yield "RestartPreventExitStatus=2"
    yield "# A worker that the kernel kills for its memory is replaced by the master."
    yield "OOMPolicy=continue"
    yield "# One for each connection."
    yield "LimitNOFILE=65536"


def hardening(settings: Settings, needed: Sequence[str]) -> Iterator[str]:
    """What the service may not do."""
    paths = [*needed, settings.access_log, settings.error_log, settings.slow_log, settings.pid_file, settings.control]
    yield "# Take a line out where the application needs what it forbids."
    yield "NoNewPrivileges=yes"
    if not settings.chroot:
        yield "CapabilityBoundingSet="
    yield "ProtectSystem=full"
    if below(paths, HOMES):
        yield "# Not ProtectHome=yes: files of the application are in a home directory."
    else:
        yield "ProtectHome=yes"
    if below(paths, TEMPORARY):
        yield "# Not PrivateTmp=yes: files of the application are in a directory for temporary files."
    else:
        yield "PrivateTmp=yes"
    yield from HARDENING


def below(paths: Iterable[str], directories: Sequence[str]) -> bool:
    """One of the paths is in one of the directories."""
    return any(f"{path}/".startswith(f"{directory}/") for path in paths for directory in directories)


# The syntax


def value(text: str) -> str:
    """A text as the value of a setting that takes no quotes (systemd.syntax(7)); % begins a specifier."""
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text) or text != text.strip() or text.endswith("\\"):
        raise ConfigError(f"systemd's units cannot hold {text!r}; choose a name of plain characters")
    return text.replace("%", "%%")


def word(text: str) -> str:
    """One word of a command line (systemd.service(5), "Command lines")."""
    if PLAIN_WORD.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"' + re.sub(r"[\x00-\x1f\x7f\udc80-\udcff]", hexadecimal, escaped) + '"'


def words(arguments: Iterable[str]) -> str:
    """A command line."""
    return " ".join(word(argument) for argument in arguments)


def hexadecimal(found: re.Match[str]) -> str:
    r"""A byte as ``\xHH``; a surrogate stands for one that is no UTF-8 (PEP 383)."""
    return f"\\x{ord(found.group()) & 0xFF:02x}"


def joined(lines: Iterable[str]) -> str:
    """The text of a file."""
    return "".join(f"{line}\n" for line in lines)
