"""Settings as a person would write them, and where each came from: for --print-config and for units.

The opposite of ``values``: what this writes, a setting's ``parse`` reads as the same value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gateways.settings import PROTOCOLS, Setting, Settings, schema_of
from gateways.values import size_text, time_text

__all__ = ["Row", "rows", "values_of", "written"]

HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting."""

    setting: Setting
    texts: tuple[str, ...]
    """Its values: none where it is unset, several only where it may be given more than once. A secret is stars."""
    source: str


def rows(settings: Settings) -> list[Row]:
    """All settings in the schema's order."""
    found: list[Row] = []
    for setting in schema_of(settings):
        texts = tuple(written(setting, value) for value in values_of(settings, setting))
        shown = tuple(HIDDEN for _ in texts) if setting.hidden_value else texts
        found.append(Row(setting, shown, settings.sources.get(setting.name, "default")))
    return found


def values_of(settings: Settings, setting: Setting) -> list[Any]:
    """The values of one setting; none where it is unset."""
    if setting.name in PROTOCOLS:
        return [address for protocol, address in settings.listeners if protocol == setting.name]
    for holder, key in (
        (settings, setting.key),
        (settings.timeouts, setting.key.removesuffix("_timeout")),
        (settings.limits, setting.key.removeprefix("max_")),
        (settings.scripts, setting.key),
        (settings.scripts and settings.scripts.limits, setting.key),
    ):
        # A tuple has an ``index`` that is no setting.
        if key in holder._fields if isinstance(holder, tuple) else hasattr(holder, key):
            value = getattr(holder, key)
            break
    else:
        raise AttributeError(setting.key)
    if setting.many:
        return list(value)
    unset = value is None or (value == "" and setting.default == "")
    return [] if unset else [value]


def written(setting: Setting, value: Any) -> str:  # noqa: ANN401 - each setting has its own type
    """One value as text."""
    if not setting.metavar:
        return "true" if value else "false"
    if setting.metavar == "TIME":
        return time_text(value)
    if setting.metavar == "SIZE":
        return size_text(value)
    if setting.metavar == "MODE":
        return f"{value:03o}"
    return str(value) or "/"  # an empty mount is the root
