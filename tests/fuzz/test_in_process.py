"""That atheris drives the targets and what it finds is told. Where there is none of it, that is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import gateways.codecs
from gateways.errors import ConfigError
from gateways.wire.in_process import Outcome, find_targets, run_in_process
from tests.fuzz.test_targets import TARGETS

HERE = Path(__file__).parent
FINDS = """
import gateways.codecs


def one_input(data):
    if data.startswith(b"{"):
        raise ValueError("a brace")


def seeds():
    return [b"z1", b"z2"]
"""
PLAIN = (gateways.codecs.__file__ or "").endswith(".py")
atheris = pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not on this Python")


@pytest.mark.skipif(importlib.util.find_spec("atheris") is not None, reason="atheris is here")
def test_without_atheris() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'gateways\[fuzz-in-process\]'"):
        run_in_process(directory=HERE, runs=1)


@atheris
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_shows_nothing(name: str) -> None:
    told: list[Outcome] = []
    if not PLAIN:
        with pytest.raises(ConfigError, match="only the plain one can be fuzzed"):
            run_in_process([name], directory=HERE, runs=1)
        return
    outcomes = run_in_process([name], directory=HERE, runs=500, seed=1, seconds=20, tell=told.append)
    assert outcomes == told
    assert [outcome.error for outcome in outcomes] == [""], str(outcomes[0])
    assert outcomes[0].coverage > 30
    assert str(outcomes[0]).startswith(f"{name}: nothing in ")


@atheris
def test_a_finding(tmp_path: Path) -> None:
    directory = tmp_path / "tests" / "fuzz"
    directory.mkdir(parents=True)
    (directory / "fuzz_brace.py").write_text(FINDS)
    corpus, cases = tmp_path / "corpus", tmp_path / "cases"
    if not PLAIN:
        with pytest.raises(ConfigError, match="only the plain one can be fuzzed"):
            run_in_process(directory=directory, runs=1)
        return
    [found] = run_in_process(directory=directory, runs=200_000, seed=1, corpus=corpus, cases=cases)
    assert (found.target, found.error) == ("brace", "ValueError: a brace")
    assert found.data.startswith(b"{")
    assert (cases / "brace.bin").read_bytes() == found.data
    assert (corpus / "brace" / "seed-0").read_bytes() == b"z1"
    assert str(found) == f"brace: ValueError: a brace\n    {found.data!r}"


def test_what_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no target is called 'x'; there are cgi, "):
        run_in_process(["x"], directory=HERE)
    with pytest.raises(ConfigError, match="needs the source"):
        find_targets(tmp_path)


@atheris
def test_a_target_that_does_not_start(tmp_path: Path) -> None:
    directory = tmp_path / "tests" / "fuzz"
    directory.mkdir(parents=True)
    (directory / "fuzz_bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ConfigError, match=r"(?s)the target bad does not run: .*nothing_of_that_name"):
        run_in_process(directory=directory, runs=1)
