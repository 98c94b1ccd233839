"""docs/testing.md: every example runs, and every rule has what a reader needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("source", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_run(source: str, tmp_path: Path) -> None:
    file = tmp_path / "example.py"  # hypothesis reads it
    file.write_text(source)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(source, str(file), "exec"), names)  # noqa: S102
    for name, value in names.items():
        if name.startswith("test_") and callable(value):
            value()


@pytest.mark.parametrize("module", ["model", "noise", "peers", "framing.fastcgi_records"])
def test_what_needs_no_hypothesis(module: str) -> None:
    code = f"import sys; sys.modules['hypothesis'] = None; import gateways.testing.{module}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
