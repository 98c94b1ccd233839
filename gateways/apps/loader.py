"""From "package.module:attribute" to the application, with errors that a person can act on.

The caller has put the directory in which the application lives first on ``sys.path``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from gateways.errors import WorkerBootError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["Target", "load", "parse"]

DEFAULT_ATTRIBUTE: Final = "application"
LISTED: Final = 8
"""Names that a message lists at most."""
FACTORY_VERBS: Final = ("create_", "make_", "build_", "get_")


@dataclass(frozen=True, slots=True)
class Target:
    """A name of an application, taken apart."""

    module: str
    attribute: str
    """Dots go on from attribute to attribute."""
    factory: bool
    """Written with ``()``: call it without arguments, its result is the application."""


def load(spec: str) -> WSGIApplication:
    """Import the module, find the attribute, call the factory; raise WorkerBootError with what to do.

    What the user's own code raises stays chained to it as its cause.
    """
    target = parse(spec)
    module = import_module(target, spec)
    found = find(module, target, spec)
    if target.factory:
        found = call_factory(found, spec)
    check(found, target, spec)
    return cast("WSGIApplication", found)


def parse(spec: str) -> Target:
    """Take the name apart without importing anything; WorkerBootError where it cannot be one."""
    module, colon, attribute = spec.partition(":")
    if "/" in module or os.sep in module or module.endswith(".py"):
        raise path_refusal(module, attribute, spec)
    factory = attribute.endswith("()")
    name = attribute.removesuffix("()") if colon else DEFAULT_ATTRIBUTE
    if "(" in name:
        raise WorkerBootError(
            f"cannot read the application {spec!r}: a factory is called without arguments, as in "
            f"{module}:{name.partition('(')[0]}(); put the arguments into a function of your own"
        )
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise WorkerBootError(
            f"cannot read the application {spec!r}: write package.module:attribute, for example shop.wsgi:application"
        )
    return Target(module, name, factory)


def path_refusal(path: str, attribute: str, spec: str) -> WorkerBootError:
    """A file was named where a module is wanted."""
    file = PurePath(path)
    where = f" with --chdir {file.parent}" if len(file.parts) > 1 else ""
    return WorkerBootError(
        f"{spec!r} names a file, and an application is named by its module: "
        f"did you mean {file.stem}:{attribute or DEFAULT_ATTRIBUTE}{where}?"
    )


def import_module(target: Target, spec: str) -> ModuleType:
    """Import the user's module; tell a module that is not there from one that fails."""
    try:
        return importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{target.module}.".startswith(f"{error.name}."):
            raise missing_module(error.name, spec) from None
        raise import_failure(target, error) from error
    except (Exception, SystemExit) as error:
        raise import_failure(target, error) from error


def import_failure(target: Target, error: BaseException) -> WorkerBootError:
    """The user's code raised while it was imported."""
    repeats = f"'python -c \"import {target.module}\"' repeats it"
    closed = closed_directory() if isinstance(error, ModuleNotFoundError) else ""
    if closed:
        repeats = (
            f"the user {user_name()} may not read {closed} of the Python path: let that user, or choose another one"
        )
    elif isinstance(error, PermissionError):
        repeats = f"{repeats} where the user {user_name()} runs it"
    return WorkerBootError(
        f"importing {target.module} failed with {describe(error)}; the traceback shows where, and {repeats}"
    )


def closed_directory() -> str:
    """The first directory of the Python path that is there and that this user may not read, or ""."""
    for entry in sys.path:
        try:
            os.stat(entry or ".")
        except PermissionError:
            return entry
        except OSError:
            continue
        if not os.access(entry or ".", os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            return entry or os.getcwd()
    return ""


def user_name() -> str:
    """The user of this process."""
    import pwd  # noqa: PLC0415 - for a message only

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def missing_module(name: str, spec: str) -> WorkerBootError:
    """There is no module of this name: the nearest thing that there is."""
    parent, _, leaf = name.rpartition(".")
    container = sys.modules.get(parent)
    if container is not None and hasattr(container, leaf):
        return WorkerBootError(f"no module named {name!r}, but {parent} has it: did you mean {parent}:{leaf}?")
    if container is not None:
        places = list(getattr(container, "__path__", []))
        where = f"the package {parent}" if places else f"{parent}, which is a module and not a package"
        advice = "check the name"
    else:
        places = sys.path[:1]
        where = "the Python path"
        advice = "start gateways in the directory that holds it, or give that directory with --chdir"
        if closed := closed_directory():
            advice = f"the user {user_name()} may not read {closed}, which is part of it"
    close = difflib.get_close_matches(leaf, [entry.name for entry in pkgutil.iter_modules(places)], n=1)
    if close:
        advice = f"did you mean {f'{parent}.' if parent else ''}{close[0]}?"
    return WorkerBootError(f"cannot load the application {spec!r}: no module named {name!r} in {where}; {advice}")


def find(module: ModuleType, target: Target, spec: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    """Follow the dots of the attribute."""
    found: Any = module
    walked = target.module
    for part in target.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise missing_attribute(found, part, walked, target, spec) from None
        walked = f"{walked}:{part}" if walked == target.module else f"{walked}.{part}"
    return found


def missing_attribute(holder: object, name: str, walked: str, target: Target, spec: str) -> WorkerBootError:
    """The attribute is not there: the callables that are."""
    start = f"cannot load the application {spec!r}: {walked} has no attribute {name!r}"
    if walked != target.module:
        return WorkerBootError(f"{start}; check the name")
    names = callables(holder)
    if not names:
        return WorkerBootError(f"{start}, nor anything else that can be called; is it the right module?")
    close = names if len(names) == 1 else difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    others = [suggestion(target.module, other) for other in names if other not in close][:LISTED]
    if not close:
        return WorkerBootError(f"{start}; it has {', '.join(others)}")
    also = f" (there is also {', '.join(others)})" if others else ""
    return WorkerBootError(f"{start}; did you mean {suggestion(target.module, close[0])}?{also}")


def suggestion(module: str, name: str) -> str:
    """How to write it, with the call where the name is a factory's."""
    return f"{module}:{name}{'()' if name.startswith(FACTORY_VERBS) else ''}"


def callables(holder: object) -> list[str]:
    """Public names of what can be called, without functions and classes that were imported from elsewhere."""
    names: list[str] = []
    for name, value in vars(holder).items():
        defined = getattr(value, "__module__", None) == getattr(holder, "__name__", None)
        if not name.startswith("_") and callable(value) and (defined or not is_definition(value)):
            names.append(name)
    return names


def is_definition(value: object) -> bool:
    """A function or a class, not an object that can be called."""
    return inspect.isroutine(value) or inspect.isclass(value)


def call_factory(factory: Any, spec: str) -> Any:  # noqa: ANN401 - whatever the user's module holds
    """Call the factory."""
    if not callable(factory):
        raise WorkerBootError(
            f"{spec!r} calls an object of type {type(factory).__name__}, which is no factory: leave the () away"
        )
    if inspect.iscoroutinefunction(factory):
        raise WorkerBootError(f"the factory {spec!r} is a coroutine function; gateways calls a plain function")
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise WorkerBootError(
            f"the factory {spec!r} failed with {describe(error)}; the traceback shows where"
        ) from error


def check(found: Any, target: Target, spec: str) -> None:  # noqa: ANN401 - whatever the user's module holds
    """Refuse what cannot be a WSGI application."""
    what = f"what {spec!r} returned" if target.factory else repr(spec)
    if not callable(found):
        raise WorkerBootError(
            f"{what} is not a WSGI application: it is of type {type(found).__name__} and cannot be called"
        )
    called = found if is_definition(found) else type(found).__call__
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(called):
        raise WorkerBootError(
            f"{what} is an ASGI application (a coroutine function), and gateways needs WSGI: "
            "wrap it, for example with a2wsgi.ASGIMiddleware, or name a WSGI application"
        )
    try:
        inspect.signature(found).bind(None, None)
    except TypeError:
        hint = "" if target.factory else f"; if it is a factory, write {target.module}:{target.attribute}()"
        raise WorkerBootError(
            f"{what} cannot be called with (environ, start_response), so it is not a WSGI application{hint}"
        ) from None
    except ValueError:  # no signature to be had: some callables written in C
        return


def describe(error: BaseException) -> str:
    """Type and message in one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
