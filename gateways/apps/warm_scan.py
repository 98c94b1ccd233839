"""What Python scripts import, for --python-warm: a program of its own, run without rights that the scripts have not.

Its arguments are a word and a path. ``imports``: the names of the modules that the scripts below a directory, or one
script, import at top level. ``paths``: the directories from which the interpreter imports at its start, for which it is
run with ``-I -S``. One name in each line. Standard library only: it runs with the scripts' interpreter.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]

import ast
import os
import stat
from collections.abc import Iterator

_MOST_FILES = 2_000
_MOST_BYTES = 262_144
_MOST_NAMES = 300
_PLACES = (b"sys.path", b"addsitedir", b"activate_this")
"""By what a script names places to import from."""
_NOT = frozenset(("antigravity", "idlelib", "test", "this", "tkinter", "turtle", "turtledemo"))
"""What does something when it is imported, or is for people at a screen."""


def scripts(root: str) -> Iterator[bytes]:
    """Yield the source of every Python script."""
    seen = 0
    files = (os.path.join(place, name) for place, _, names in os.walk(root) for name in sorted(names))
    for path in files if os.path.isdir(root) else [root]:
        seen += 1
        if seen > _MOST_FILES:
            return
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                continue
            with open(path, "rb") as file:
                source = file.read(_MOST_BYTES)
        except OSError:
            continue
        first = source.split(b"\n", 1)[0]
        if path.endswith(".py") or (first.startswith(b"#!") and b"python" in first):
            yield source


def imported(statements: list[ast.stmt]) -> Iterator[str]:
    """Yield what is imported when a script starts: not within functions and classes."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names if alias.name != "*")
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            for part in ("body", "orelse", "finalbody"):
                yield from imported(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from imported(handler.body)


def is_plain(name: str) -> bool:
    """Whether it is a module that may be imported for no more than having it."""
    parts = name.split(".")
    return parts[0] not in _NOT and all(part.isidentifier() and not part.startswith("__") for part in parts)


def names(root: str) -> list[str]:
    """Return the modules of all scripts, each once.

    Where one of them imports from a place that it names itself, what is installed may not be what it means: then those
    of the standard library alone.
    """
    found: dict[str, None] = {}
    places = False
    for source in scripts(root):
        places = places or any(word in source for word in _PLACES)
        if len(found) >= _MOST_NAMES:
            continue
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for name in imported(tree.body):
            if is_plain(name) and len(found) < _MOST_NAMES:
                found[name] = None
    known: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset())  # Python 3.10
    return [name for name in found if not places or name.partition(".")[0] in known]


def paths() -> Iterator[str]:
    """Yield where the standard library is, and what is installed beside it, as far as it exists."""
    import site  # noqa: PLC0415

    prefix = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))  # of a virtual environment, if it is one
    for place in [*sys.path, prefix, *site.getsitepackages([prefix, sys.prefix, sys.exec_prefix, sys.base_prefix])]:
        if os.path.exists(place):
            yield place


if __name__ == "__main__":
    for line in names(sys.argv[2]) if sys.argv[1] == "imports" else paths():
        sys.stdout.write(line + "\n")
