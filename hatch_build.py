"""What the compiled build tells the C compiler beside what mypyc does; used where HATCH_BUILD_HOOKS_ENABLE is set."""

from __future__ import annotations

import os
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["CompilerFlags"]

# Functions of one module set are called and inlined without a look at whether another library replaces them: 6 per
# cent of a request's time. What Python itself has to find (PyInit_*) is marked as visible in the code.
FLAGS = ("-fno-semantic-interposition", "-fvisibility=hidden", "-fno-plt")


class CompilerFlags(BuildHookInterface):  # type: ignore[type-arg]  (generic, and about a configuration that nobody has)
    """Runs before mypyc's hook, which starts the compiler with this environment."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  (the interface)
        """Set CFLAGS, what is there already first, where gcc and clang are the compilers."""
        if sys.platform == "linux":
            os.environ["CFLAGS"] = " ".join([os.environ.get("CFLAGS", ""), *FLAGS]).strip()
