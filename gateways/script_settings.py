"""The part of the settings that is for scripts alone: which there are, and what each may take."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateways.errors import ConfigError
from gateways.limits import ScriptLimits
from gateways.schema import Setting, rare
from gateways.values import count, directory, duration, file_name, mount_point, size, switch, text, time_text

__all__ = ["NOT_FOR_SCRIPTS", "RARE_FOR_SCRIPTS", "SCRIPT_SETTINGS", "Scripts", "scripts_of"]

NOT_FOR_SCRIPTS: Final = frozenset(
    (
        "app", "chdir", "chroot", "mount", "preload", "reload", "request-timeout", "slow-log", "slow-request",
        "threads", "uwsgi-modifier30", "warm-up",
    )
)  # fmt: skip
"""Of ``serve``: what is about Python applications, or has another meaning here."""
RARE_FOR_SCRIPTS: Final = frozenset(("max-requests", "max-rss", "pool"))
"""Shown by ``--help-all`` alone: no memory grows here, and one worker is enough."""
MOST_THREADS: Final = 1024
DEFAULTS: Final = ScriptLimits()
OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class Scripts:
    """Which programs answer, and how they are run."""

    root: str = ""
    """The directory below which they are; or empty, and ``script`` is the only one."""
    script: str = ""
    index: tuple[str, ...] = ()
    interpreter: tuple[str, ...] = ()
    """Extension and command as one text each, as a person writes them: ``.php=/usr/bin/php-cgi``."""
    env: tuple[str, ...] = ()
    """NAME or NAME=VALUE."""
    script_user: str = ""
    python_warm: bool = False
    python_import: tuple[str, ...] = ()
    limits: ScriptLimits = DEFAULTS
    passed: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """What ``env`` means: the names with their values."""

    def __str__(self) -> str:
        return f"scripts in {self.root}" if self.root else self.script

    @property
    def interpreters(self) -> dict[str, tuple[str, ...]]:
        """Extension -> command."""
        pairs = (entry.partition("=") for entry in self.interpreter)
        return {extension: tuple(shlex.split(command)) for extension, _, command in pairs}

    @property
    def threads(self) -> int:
        """Room on the scoreboard: for each request that runs or waits, and one that hears that there is no more."""
        return self.limits.concurrency + self.limits.queue + 1


def scripts_of(values: Mapping[str, Any], environ: Mapping[str, str]) -> Scripts:
    """Bring the parsed values together; raises ConfigError."""
    root, script = values["root"], values["script"]
    if not root and not script:
        raise ConfigError(
            "no scripts given: name their directory with --root, or one with --script, "
            "for example: gateways scripts --root /srv/cgi-bin --http 8000"
        )
    if root and script:
        raise ConfigError("--root is for all scripts of a directory and --script for a single one: give one of them")
    if values["script_user"] and values["user"]:
        raise ConfigError(
            "--user gives up what --script-user needs: to change the user of each script; give one of them"
        )
    if values["python_import"] and not values["python_warm"]:
        raise ConfigError("--python-import is for the Python of --python-warm: give both")
    limits = ScriptLimits(**{name: values[name] for name in ScriptLimits._fields})
    env = values["env"] or ()
    passed: dict[str, str] = {}
    for entry in env:
        name, given, value = entry.partition("=")
        if given:
            passed[name] = value
        elif name in environ:
            passed[name] = environ[name]
    scripts = Scripts(
        root=root or "",
        script=script or "",
        index=values["index"] or (),
        interpreter=values["interpreter"] or (),
        env=env,
        script_user=values["script_user"],
        python_warm=values["python_warm"],
        python_import=values["python_import"] or (),
        limits=limits,
        passed=passed,
    )
    if script and os.path.splitext(script)[1] not in scripts.interpreters and not os.access(script, os.X_OK):
        raise ConfigError(f"--script {script} cannot be executed; chmod +x it, or name its --interpreter")
    if scripts.threads > MOST_THREADS:
        raise ConfigError(
            f"--concurrency {limits.concurrency} and --queue {limits.queue} are more than {MOST_THREADS - 1} together; "
            "give the rest to more --workers"
        )
    return scripts


def program(value: object) -> str:
    """The absolute path of a file that exists."""
    path = file_name(value)
    if not os.path.isfile(path):
        raise ValueError(f"{value!r} is not a file")
    return path


def plain_name(value: object) -> str:
    """The name of a file, without a directory."""
    name = text(value)
    if "/" in name or name in (".", ".."):
        raise ValueError(f"{value!r} is not a plain file name")
    return name


def interpreter(value: object) -> str:
    """``.EXT=PROGRAM``, perhaps with arguments; the program is looked for on PATH."""
    extension, given, command = text(value).partition("=")
    if not given or not re.fullmatch(r"\.?[A-Za-z0-9_+~-]+", extension):
        raise ValueError(f"{value!r} is not an extension and a program; write them as in .php=/usr/bin/php-cgi")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{value!r} cannot be read: {error}") from None
    found = shutil.which(words[0]) if words else None
    if found is None:
        raise ValueError(f"{value!r} names no program that can be executed")
    return f".{extension.removeprefix('.')}={shlex.join([os.path.abspath(found), *words[1:]])}"


def variable(value: object) -> str:
    """NAME, to be passed on, or NAME=VALUE."""
    written = text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(=.*)?", written, re.DOTALL):
        raise ValueError(f"{value!r} is neither the name of a variable nor NAME=VALUE")
    return written


def module(value: object) -> str:
    """The dotted name of a Python module."""
    written = text(value)
    if not all(part.isidentifier() for part in written.split(".")):
        raise ValueError(f"{value!r} is not the name of a module")
    return written


def shown(name: str) -> str:
    """A default of ScriptLimits as a person would write it."""
    value = getattr(DEFAULTS, name)
    if not value:
        return OFF
    return time_text(value) if name.endswith("_timeout") else str(value)


def limit(name: str, metavar: str, words: str, *, common: bool = False) -> Setting:
    """The entry of one field of ScriptLimits."""
    key = name.replace("-", "_")
    if metavar == "TIME":
        parse: Any = duration(zero=True)
    elif metavar == "SIZE":
        parse = size(0)
    else:
        parse = count(1 if key == "concurrency" else 0)
    return Setting(name, "Scripts", metavar, words, parse, getattr(DEFAULTS, key), shown(key), common=common)


SCRIPT_SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("root", "Scripts", "DIR", "run the programs below DIR", directory, ""),
    Setting("script", "Scripts", "FILE", "run this one for all requests", program, ""),
    Setting("mount", "Scripts", "PREFIX", "DIR's URL path, where no file is sent", mount_point),
    Setting("index", "Scripts", "NAME", "run it where a directory is asked for", plain_name, many=True),
    Setting("interpreter", "Scripts", "EXT=FILE", "run names that end so with it", interpreter, many=True),
    Setting("env", "Scripts", "NAME[=VALUE]", "pass or set a variable", variable, many=True),
    Setting("script-user", "Scripts", "USER", "run them as USER, or owner: the file's", text, ""),
    rare("python-warm", "Scripts", "", "fork Python scripts, modules imported", switch, default=False),
    rare("python-import", "Scripts", "MODULE", "import it for them beforehand", module, many=True),
    limit("concurrency", "N", "scripts of a worker at the same time", common=True),
    limit("per-script", "N", "of one and the same program"),
    limit("queue", "N", "requests that wait for their turn"),
    limit("script-timeout", "TIME", "let a script run, at most", common=True),
    limit("idle-timeout", "TIME", "let it neither write nor read"),
    limit("cpu-seconds", "N", "CPU time of each process"),
    limit("memory", "SIZE", "address space of each process", common=True),
    limit("open-files", "N", "descriptors of each process"),
    limit("processes", "N", "processes of the user"),
    limit("max-output", "SIZE", "bytes of one response"),
)
