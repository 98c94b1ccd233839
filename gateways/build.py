"""Which of the two builds of the same source runs: compiled by mypyc, or plain Python."""

from __future__ import annotations

import importlib.util
import platform

from gateways import __version__

__all__ = ["build", "version_line"]


def build() -> str:
    """``compiled`` or ``plain``, told by the file that a module of the hot path would be loaded from."""
    spec = importlib.util.find_spec("gateways.codecs.scgi")
    origin = (spec.origin if spec is not None else None) or ".py"
    return "plain" if origin.endswith(".py") else "compiled"


def version_line() -> str:
    """One line with version, Python and build, for ``--version`` and the first line of the log."""
    return f"gateways {__version__} ({platform.python_implementation()} {platform.python_version()}, {build()})"
