"""The direction of imports, as docs/architecture.md draws it: left never imports right.

errors, limits <- codecs <- environ, body <- apps <- server <- start <- cli; client, wire and testing on codecs.
settings knows what an address and a socket's mode are; in the server only the master and its workers know settings.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateways

PACKAGE = Path(gateways.__file__).parent

BASE = {"errors", "limits"}
CODECS = BASE | {"codecs"}
REQUEST = CODECS | {"environ", "body"}
SERVER = REQUEST | {"apps", "build", "server"}
TOOLS = {"client", "wire", "testing", "frontends"}

MAY_IMPORT: dict[str, set[str]] = {
    # part: what it may import beside itself. A dotted name is one module, which may do more than its part, or less.
    "": {"start"},
    "build": set(),
    "errors": set(),
    "limits": set(),
    "codecs": BASE,
    "environ": CODECS,
    "body": CODECS,
    "client": CODECS,
    "client.control": CODECS | {"server.rundir"},
    "testing": CODECS,
    "wire": CODECS | {"client", "testing"},
    "apps": REQUEST,
    "apps.upstream": REQUEST | {"client"},
    "server": SERVER,
    "server.advice": SERVER | {"settings"},
    "server.outlets": SERVER | {"settings"},
    "server.service": SERVER | {"settings"},
    "server.signals": set(),
    "server.worker": SERVER | {"settings"},
    "start": SERVER | {"values"},
    "frontends": BASE,
    "frontends.systemd": BASE | {"settings", "written", "server.address"},
    "schema": set(),
    "script_settings": BASE | {"schema", "values"},
    "settings": BASE | {"schema", "script_settings", "server.address", "server.inherited", "server.sockets", "values"},
    "values": BASE | {"server.address"},
    "written": BASE | {"settings", "values"},
    "cli": SERVER | TOOLS | {"settings", "start", "written"},
    "cli.remote": SERVER | TOOLS | {"settings", "values"},
    "__main__": {"cli"},
}

NOT_IN_CODECS = {
    "asyncio",
    "io",
    "logging",
    "os",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}


def module_names() -> dict[str, str]:
    """Return module name -> source, for every file of the package."""
    sources = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ("gateways", *file.relative_to(PACKAGE).with_suffix("").parts)
        sources[".".join(parts).removesuffix(".__init__")] = file.read_text(encoding="utf-8")
    return sources


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a source imports, wherever in it: also late and for typing only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_direction(module: str, source: str) -> list[str]:
    """Return what a module imports against the order."""
    name = module.removeprefix("gateways").removeprefix(".")
    part = name.partition(".")[0]
    assert part in MAY_IMPORT, f"say in MAY_IMPORT where {module} stands"
    allowed = MAY_IMPORT.get(name, MAY_IMPORT[part]) | {part, "__version__"}
    ours = (other.removeprefix("gateways.") for other in imported(source) if other.startswith("gateways."))
    return [other for other in ours if not any(f"{other}.".startswith(f"{name}.") for name in allowed)]


def forbidden_in_codecs(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported(source)} & NOT_IN_CODECS


def test_no_module_imports_against_the_order() -> None:
    sources = module_names()
    assert {"gateways", "gateways.errors", "gateways.codecs", "gateways.codecs.events"} <= set(sources)
    assert {module: bad for module, source in sources.items() if (bad := wrong_direction(module, source))} == {}


def test_codecs_do_no_io() -> None:
    codecs = {name: source for name, source in module_names().items() if name.startswith("gateways.codecs")}
    assert len(codecs) >= 2
    assert {name: bad for name, source in codecs.items() if (bad := forbidden_in_codecs(source))} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gateways.errors", "import gateways.codecs"),
        ("gateways.codecs", "from gateways import environ"),
        ("gateways.codecs.scgi", "def late():\n    from gateways.server.pool import Pool"),
        ("gateways.environ", "from gateways.apps.wsgi import run"),
        ("gateways.apps.wsgi", "from gateways import client"),
        ("gateways.server.pool", "if TYPE_CHECKING:\n    import gateways.cli"),
        ("gateways.settings", "from gateways.server import master"),
        ("gateways", "import gateways.server"),
    ],
)
def test_an_import_against_the_order_is_found(module: str, source: str) -> None:
    assert wrong_direction(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gateways.codecs.scgi", "from gateways.codecs.events import Body\nfrom gateways import __version__"),
        ("gateways.apps.upstream", "from gateways.client import Client"),
        ("gateways.settings", "from gateways.server.address import parse_address"),
        ("gateways.cli.serve", "import gateways\nimport click\nfrom gateways.server import master"),
    ],
)
def test_an_import_in_the_order_is_not(module: str, source: str) -> None:
    assert not wrong_direction(module, source)


@pytest.mark.parametrize("source", ["import os.path", "from time import monotonic", "import socket as s"])
def test_io_in_a_codec_is_found(source: str) -> None:
    assert forbidden_in_codecs(source)


def test_importing_the_package_alone_is_light() -> None:
    code = "import sys; old = set(sys.modules); import gateways; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) - {"__future__"} == {"gateways"}
