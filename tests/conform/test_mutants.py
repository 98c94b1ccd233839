"""That ``gateways conform`` notices where a check of our own codecs is switched off: see ``mutants``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateways.wire.conform import choose, run_case
from gateways.wire.report import text_lines
from gateways.wire.target import Target
from tests.conform.mutants import MUTANTS, Mutant
from tests.conform.mutation import changed, noticed, package, server

SOME = MUTANTS[::6]
"""As many as there is time for; ``python -m tests.conform.mutation`` runs all."""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with package() as made:
        yield made


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_each_can_still_be_made(mutant: Mutant) -> None:
    compile(changed(mutant), mutant.file, "exec")
    assert choose(mutant.case.partition(".")[0], [mutant.case])


def test_numbers() -> None:
    assert len(MUTANTS) >= 50
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.processes
@pytest.mark.parametrize("mutant", SOME, ids=lambda mutant: mutant.what)
def test_it_is_noticed(mutant: Mutant, directory: Path) -> None:
    results = noticed(mutant, directory)
    assert any(result.verdict == "fail" for result in results), "\n".join(text_lines(results, every=True))


@pytest.mark.processes
def test_an_unchanged_copy_passes_these_cases(directory: Path) -> None:
    """So it is the change that is noticed."""
    with server(directory) as sockets:
        for name in sorted({mutant.case for mutant in MUTANTS}):
            protocol = name.partition(".")[0]
            target = Target(protocol, str(sockets / protocol))
            results = [run_case(case, target, 10.0, echo=True) for case in choose(protocol, [name])]
            assert {result.verdict for result in results} == {"pass"}, "\n".join(text_lines(results))
