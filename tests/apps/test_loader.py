"""Finding an application by its name; every failure says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateways.apps.loader import Target, load, parse, user_name
from gateways.errors import WorkerBootError
from tests.server.fake_master import other_user, short_directory

MODULE = """
from json import dumps
from pathlib import Path

def application(environ, start_response):
    return [b"application"]

def app(environ, start_response):
    return [b"app"]

class Site:
    def __call__(self, environ, start_response):
        return [b"site"]
    def handle(self, environ, start_response):
        return [b"handle"]

class PerRequest:
    def __init__(self, environ, start_response):
        self.environ = environ

class Space:
    pass

site = Site()
space = Space()
space.inner = site
number = 5

def create_app():
    return application

def create_site(name="x"):
    return site

def create_nothing():
    return None

def create_failure():
    raise LookupError("no  such\\nshop")

def create_exit():
    raise SystemExit

async def create_later():
    return application

async def asgi(scope, receive, send):
    pass

class Asgi:
    async def __call__(self, scope, receive, send):
        pass

asgi_site = Asgi()

def create_asgi():
    return asgi_site
"""
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into a directory that is first on ``sys.path``; it is forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_module(name: str, source: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def shop(write: Write) -> None:
    write("shop_x/__init__.py", "")
    write("shop_x/wsgi.py", MODULE)


def failure(spec: str) -> WorkerBootError:
    with pytest.raises(WorkerBootError) as caught:
        load(spec)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ("shop", Target("shop", "application", factory=False)),
        ("shop.wsgi:app", Target("shop.wsgi", "app", factory=False)),
        ("shop:api.wsgi", Target("shop", "api.wsgi", factory=False)),
        ("shop:create_app()", Target("shop", "create_app", factory=True)),
    ],
)
def test_names(spec: str, target: Target) -> None:
    assert parse(spec) == target


@pytest.mark.parametrize(
    "spec", ["", ":app", "shop:", "shop:()", "shop..wsgi:app", "shop:a b", "shop:a:b", "shop-x:app"]
)
def test_no_names(spec: str) -> None:
    with pytest.raises(WorkerBootError, match=r"write package.module:attribute, for example shop.wsgi:application"):
        parse(spec)


@pytest.mark.parametrize(
    ("spec", "advice"),
    [
        ("app.py", "did you mean app:application?"),
        ("app.py:site", "did you mean app:site?"),
        ("./app.py", "did you mean app:application?"),
        ("src/shop/app.py:site", "did you mean app:site with --chdir src/shop?"),
        ("/srv/shop", "did you mean shop:application with --chdir /srv?"),
    ],
)
def test_a_file_is_no_module(spec: str, advice: str) -> None:
    assert str(failure(spec)).endswith(advice)


def test_a_factory_takes_no_arguments() -> None:
    assert "as in shop:create_app(); put the arguments" in str(failure("shop:create_app('production')"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("spec", "body"),
    [
        ("shop_x.wsgi", b"application"),
        ("shop_x.wsgi:app", b"app"),
        ("shop_x.wsgi:site", b"site"),
        ("shop_x.wsgi:site.handle", b"handle"),
        ("shop_x.wsgi:space.inner", b"site"),
        ("shop_x.wsgi:create_app()", b"application"),
        ("shop_x.wsgi:create_site()", b"site"),
    ],
)
def test_load(spec: str, body: bytes) -> None:
    assert list(load(spec)({}, lambda *_: lambda _: None)) == [body]


@pytest.mark.usefixtures("shop")
def test_a_class_may_be_an_application() -> None:
    assert callable(load("shop_x.wsgi:PerRequest"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shop_y.wsgi:app", "no module named 'shop_y' in the Python path; did you mean shop_x?"),
        ("xyzzy:app", "no module named 'xyzzy' in the Python path; start gateways in the directory that holds it"),
        ("shop_x.wsgy:app", "no module named 'shop_x.wsgy' in the package shop_x; did you mean shop_x.wsgi?"),
        ("shop_x.xyzzy:app", "no module named 'shop_x.xyzzy' in the package shop_x; check the name"),
        ("shop_x.wsgi.app", "no module named 'shop_x.wsgi.app', but shop_x.wsgi has it: did you mean shop_x.wsgi:app?"),
        ("shop_x.wsgi.xyzzy:app", "in shop_x.wsgi, which is a module and not a package; check the name"),
    ],
)
def test_a_module_that_is_not_there(spec: str, sentence: str) -> None:
    error = failure(spec)
    assert sentence in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize(
    ("source", "cause", "sentence"),
    [
        (
            "import xyzzy_missing",
            ModuleNotFoundError,
            "failed with ModuleNotFoundError: No module named 'xyzzy_missing'",
        ),
        (
            "import broken_x.more",
            ModuleNotFoundError,
            "failed with ModuleNotFoundError: No module named 'broken_x.more'",
        ),
        ("from json import xyzzy", ImportError, "failed with ImportError: cannot import name 'xyzzy'"),
        ("def (", SyntaxError, "failed with SyntaxError: "),
        ("raise KeyError('SECRET_KEY')", KeyError, "failed with KeyError: 'SECRET_KEY'"),
        ("raise SystemExit(3)", SystemExit, "failed with SystemExit: 3"),
        ("assert False", AssertionError, "failed with AssertionError; the traceback"),
    ],
)
def test_a_module_that_fails_keeps_its_traceback(
    write: Write, source: str, cause: type[BaseException], sentence: str
) -> None:
    write("broken_x.py", source)
    error = failure("broken_x:app")
    assert f"importing broken_x {sentence}" in str(error)
    assert isinstance(error.__cause__, cause)


def test_what_this_user_may_not_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_directory() as directory:
        directory.chmod(0o755)
        closed = directory / "closed"
        closed.mkdir(0o700)
        (closed / "far_x.py").touch()
        (directory / "near_x.py").write_text("import far_x")
        (directory / "own_x.py").touch(0o600)
        monkeypatch.syspath_prepend(str(directory))
        monkeypatch.syspath_prepend(str(closed))
        with other_user():
            name = user_name()
            assert f"the user {name} may not read {closed}, which is part of it" in str(failure("far_x:app"))
            error = str(failure("near_x:app"))
            assert "ModuleNotFoundError: No module named 'far_x'" in error
            assert f"the user {name} may not read {closed} of the Python path" in error
            assert f"repeats it where the user {name} runs it" in str(failure("own_x:app"))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shop_x.wsgi:aplication", "shop_x.wsgi has no attribute 'aplication'; did you mean shop_x.wsgi:application?"),
        ("shop_x.wsgi:create_ap", "did you mean shop_x.wsgi:create_app()?"),
        ("shop_x.wsgi:xyzzy", "has no attribute 'xyzzy'; it has shop_x.wsgi:application, shop_x.wsgi:app, "),
        ("shop_x.wsgi:site.xyzzy", "shop_x.wsgi:site has no attribute 'xyzzy'; check the name"),
        ("shop_x:app", "shop_x has no attribute 'app', nor anything else that can be called"),
    ],
)
def test_an_attribute_that_is_not_there(spec: str, sentence: str) -> None:
    assert sentence in str(failure(spec))


def test_the_only_callable_is_meant_and_imported_ones_are_not_listed(write: Write) -> None:
    write("flat_x.py", "from json import dumps\nfrom pathlib import Path\ndef site(environ, start_response): pass\n")
    assert str(failure("flat_x:xyzzy")).endswith("did you mean flat_x:site?")


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("shop_x.wsgi:number", "is of type int and cannot be called"),
        ("shop_x.wsgi:create_nothing()", "what 'shop_x.wsgi:create_nothing()' returned is not a WSGI application"),
        ("shop_x.wsgi:number()", "calls an object of type int, which is no factory: leave the () away"),
        ("shop_x.wsgi:create_later()", "is a coroutine function; gateways calls a plain function"),
        ("shop_x.wsgi:asgi", "is an ASGI application (a coroutine function), and gateways needs WSGI: wrap it"),
        ("shop_x.wsgi:asgi_site", "is an ASGI application"),
        ("shop_x.wsgi:create_asgi()", "what 'shop_x.wsgi:create_asgi()' returned is an ASGI application"),
        ("shop_x.wsgi:create_app", "if it is a factory, write shop_x.wsgi:create_app()"),
        ("shop_x.wsgi:Site", "cannot be called with (environ, start_response)"),
    ],
)
def test_what_is_no_wsgi_application(spec: str, sentence: str) -> None:
    assert sentence in str(failure(spec))


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("name", "cause", "sentence"),
    [
        ("create_failure", LookupError, "failed with LookupError: no such shop; the traceback"),
        ("create_exit", SystemExit, "failed with SystemExit; the traceback"),
    ],
)
def test_a_factory_that_fails_keeps_its_traceback(name: str, cause: type[BaseException], sentence: str) -> None:
    error = failure(f"shop_x.wsgi:{name}()")
    assert sentence in str(error)
    assert isinstance(error.__cause__, cause)


def test_a_callable_without_a_signature_is_trusted(write: Write) -> None:
    write("native_x.py", "application = dict.fromkeys\nother = min\n")
    found: object = load("native_x:other")
    assert found is min
