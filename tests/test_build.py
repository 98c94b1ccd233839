"""Which build the tests run on: all of the hot path is compiled, or none of it.

tests/run sets GATEWAYS_EXPECT_BUILD, so that neither build can be tested twice under the other's name.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import gateways

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(gateways.__file__).parent
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def hot_path() -> list[str]:
    """Return the names of the modules that pyproject.toml has mypyc compile."""
    hook = tomllib.loads(PYPROJECT.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    names = set()
    for pattern in hook["include"]:
        assert pattern.startswith("/gateways/"), pattern
        for file in PACKAGE.parent.glob(pattern.lstrip("/")):
            parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
            names.add(".".join(parts).removesuffix(".__init__"))
    return sorted(names)


def is_compiled(name: str) -> bool:
    file = importlib.import_module(name).__file__
    assert file is not None
    return file.endswith(tuple(EXTENSION_SUFFIXES))


def test_the_hot_path_has_its_modules() -> None:
    assert {"gateways.codecs", "gateways.codecs.events", "gateways.codecs.scgi"} <= set(hot_path())


def test_all_of_the_hot_path_is_of_one_build() -> None:
    builds = {name: is_compiled(name) for name in hot_path()}
    assert len(set(builds.values())) == 1, builds


def test_it_is_the_build_that_was_asked_for() -> None:
    expected = os.environ.get("GATEWAYS_EXPECT_BUILD")
    if expected is None:
        pytest.skip("GATEWAYS_EXPECT_BUILD is not set; tests/run sets it")
    assert expected in {"compiled", "plain"}
    from gateways.codecs import scgi

    assert scgi.__file__ is not None
    if expected == "compiled":
        assert scgi.__file__.endswith(tuple(EXTENSION_SUFFIXES))
        assert PACKAGE.parent == Path(sysconfig.get_path("platlib")), "not the installed package"
        libraries = [ctypes.CDLL(str(path)) for path in PACKAGE.parent.glob("*__mypyc.*.so")]
        assert any(hasattr(library, f"PyInit_{Path(library._name).name.split('.')[0]}") for library in libraries)
        if sys.platform == "linux":
            inside = "CPyDef_pool___Pool___run"
            assert not any(hasattr(library, inside) for library in libraries), "hatch_build.py has had no effect"
    else:
        assert scgi.__file__.endswith(".py")
