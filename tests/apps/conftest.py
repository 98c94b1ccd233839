"""A directory of scripts for a module's tests, and a file in which a script tells something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.scripts import Root, root_directory


@pytest.fixture(scope="module")
def root() -> Iterator[Root]:
    with root_directory() as found:
        yield found


@pytest.fixture
def note(root: Root, request: pytest.FixtureRequest) -> Path:
    return root.note(f"note-{abs(hash(request.node.name))}")
