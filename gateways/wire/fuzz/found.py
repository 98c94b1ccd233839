"""What a campaign has found, by class: one case each, as files and in hypothesis's example databases."""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from gateways.errors import ConfigError
from gateways.wire.fuzz.case import FuzzCase, from_dict, to_dict
from gateways.wire.fuzz.features import features
from gateways.wire.fuzz.oracles import Finding

if TYPE_CHECKING:
    from hypothesis.database import ExampleDatabase

__all__ = ["Found", "Store", "open_database", "read_cases", "saved_cases", "slug"]

MOST_CLASSES: Final = 200
LONGEST_NAME: Final = 80
MOST_CAUSES: Final = 20
"""Of one symptom. Beyond so many, a new class is counted and not kept."""


@dataclass(slots=True)
class Found:
    """A class of findings."""

    finding: Finding
    """The first one."""
    case: FuzzCase
    """The smallest."""
    count: int = 0
    again: bool = False
    """The case led to it a second time."""
    file: str = ""
    features: frozenset[str] = frozenset()
    """What is unusual about the smallest case: the same symptom without one of these has another cause."""

    @property
    def name(self) -> str:
        """The class."""
        return self.finding.name + (f" ({', '.join(sorted(self.features))})" if self.features else "")

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``, and beside the case in its file."""
        return {
            "oracle": self.finding.oracle,
            "what": self.finding.what,
            "detail": self.finding.detail,
            "again": self.again,
            "count": self.count,
            "number": self.case.number,
            "bytes": self.case.size,
            "file": self.file,
        }


class Store:
    """All classes of one campaign."""

    def __init__(self, directory: str | None = None, database: ExampleDatabase | None = None) -> None:
        self.directory = directory
        self.database = database
        self.classes: dict[str, Found] = {}
        self.dropped = 0
        """Findings of more classes than are kept."""
        self.unsure = 0
        """Differences between two servers that were not seen again."""

    def count(self, finding: Finding, case: FuzzCase) -> bool:
        """Count it; True where its class is new, and a case is wanted."""
        same = [found for found in self.classes.values() if found.finding.name == finding.name]
        have = features(case)
        for found in same:
            if found.features <= have:
                found.count += 1
                return False
        if len(same) >= MOST_CAUSES or len(self.classes) >= MOST_CLASSES:
            self.dropped += 1
            return False
        return True

    def add(self, finding: Finding, case: FuzzCase, *, again: bool) -> None:
        """Keep the case of a new class."""
        found = Found(finding, case, 1, again, "", features(case))
        if known := self.classes.get(found.name):
            known.count += 1
            return
        self.classes[found.name] = found
        if self.directory is not None:
            found.file = os.path.join(self.directory, f"{case.protocol}-{slug(found.name)}.json")
            with open(found.file, "w", encoding="utf-8") as file:
                json.dump(document(found), file, indent=1)
                file.write("\n")
        if self.database is not None:
            self.database.save(key(case.protocol), json.dumps(document(found)).encode())


def slug(name: str) -> str:
    """A class as the name of a file, never that of another class."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}-{zlib.crc32(name.encode()):08x}"


def document(found: Found) -> dict[str, Any]:
    """The content of a case's file."""
    return {"finding": {name: value for name, value in found.as_dict().items() if name not in ("file", "count")}} | (
        to_dict(found.case)
    )


def parse(text: str | bytes) -> tuple[FuzzCase, Finding]:
    """Read it; raises ConfigError."""
    try:
        data = json.loads(text)
        about = data["finding"]
        finding = Finding(str(about["oracle"]), str(about["what"]), str(about.get("detail", "")))
    except KeyError as error:
        raise ConfigError(f"this is no case of gateways fuzz: it has no {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"this is no case of gateways fuzz: {error}") from None
    return from_dict(data), finding


def read_cases(path: str) -> list[tuple[str, FuzzCase, Finding]]:
    """The case of a file, or all of a directory, with their names; raises ConfigError."""
    try:
        names = [path]
        if os.path.isdir(path):
            names = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".json"))
        found = []
        for name in names:
            with open(name, encoding="utf-8") as file:
                text = file.read()
            try:
                found.append((name, *parse(text)))
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not found:
        raise ConfigError(f"{path} has no cases")
    return found


# -- a shared database --------------------------------------------------------------------------------------------


def key(protocol: str) -> bytes:
    """Where the cases of a protocol are."""
    return b"gateways-fuzz/" + protocol.encode()


def saved_cases(database: ExampleDatabase, protocol: str) -> list[tuple[FuzzCase, Finding]]:
    """What this campaign and others have saved, the smallest first; what another version wrote is left out."""
    found = []
    for text in database.fetch(key(protocol)):
        try:
            found.append(parse(text))
        except ConfigError:
            continue
    return sorted(found, key=lambda each: (each[0].size, each[0].number))


def open_database(place: str) -> ExampleDatabase:
    """A directory or redis://HOST:PORT/DB; raises ConfigError."""
    from hypothesis.database import DirectoryBasedExampleDatabase  # noqa: PLC0415 - an extra

    scheme = urlsplit(place).scheme
    if scheme and scheme not in ("redis", "rediss"):
        raise ConfigError(f"{place} is neither a directory nor redis://HOST:PORT")
    if not scheme:
        try:  # hypothesis says nothing where it cannot write
            os.makedirs(place, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot use {place}: {error.strerror}") from None
        if not os.access(place, os.W_OK | os.X_OK):
            raise ConfigError(f"cannot use {place}: it may not be written")
        return DirectoryBasedExampleDatabase(place)
    try:
        from hypothesis.extra.redis import RedisExampleDatabase  # noqa: PLC0415 - needs the package redis
        from redis import Redis  # noqa: PLC0415
    except ImportError:
        raise ConfigError(f"{place} needs the package redis: pip install redis") from None
    connection = Redis.from_url(place)
    try:
        connection.ping()
    except Exception as error:  # noqa: BLE001 - redis has many
        raise ConfigError(f"cannot use {place}: {error}") from None
    return RedisExampleDatabase(connection)
