"""The targets of ``gateways fuzz --in-process`` by themselves, on every Python; atheris is in ``test_in_process``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from gateways.testing.noise import mutate
from gateways.wire.in_process import find_targets

TARGETS = find_targets(Path(__file__).parent)


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"tests.fuzz.fuzz_{request.param}")


def test_each_codec_has_one() -> None:
    wanted = {
        "cgi",
        "fastcgi",
        "fastcgi_front",
        "http1",
        "pairs",
        "proxy",
        "scgi",
        "scgi_front",
        "uwsgi",
        "uwsgi_front",
    }
    assert set(TARGETS) == wanted


@pytest.mark.parametrize("name", TARGETS)
def test_it_is_short(name: str) -> None:
    assert len(TARGETS[name].read_text().splitlines()) <= 40


def test_the_vectors_and_damaged_ones_show_nothing(target: ModuleType) -> None:
    seeds = target.seeds()
    assert len(seeds) > 10
    for number, data in enumerate([b"", *seeds]):
        target.one_input(data)
        for count in (1, 3):
            target.one_input(mutate(data, number, count))
