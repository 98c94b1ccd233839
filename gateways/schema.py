"""One entry of the settings' schema, of which everything about a setting follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["PREFIX", "Setting", "rare"]

PREFIX: Final = "GATEWAYS_"
"""Of every variable."""


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
    common: bool = True
    """Shown by ``--help``; the others by ``--help-all``."""
    hidden_value: bool = False
    """A secret: never shown."""

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


def rare(
    name: str, group: str, metavar: str, words: str, parse: Callable[[object], Any], default: Any = None,  # noqa: ANN401
    shown: str = "", *, many: bool = False,
) -> Setting:  # fmt: skip
    """An entry that ``--help-all`` alone shows."""
    return Setting(name, group, metavar, words, parse, default, shown, many=many, common=False)
