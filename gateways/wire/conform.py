"""The runner: one case after another against a live server, a verdict for each, and that the server still lives.

A case has its own connections. After one that failed, a request that is known to be good is sent on a new one; a
server that does not answer that is given up, and what is left is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias, TypeVar

from gateways.errors import ConfigError
from gateways.wire.case import Case, Context, Failure, Rule, Skip
from gateways.wire.cases import ALIVE, SUITES, answers_as_echo
from gateways.wire.link import Link, Silent
from gateways.wire.target import Target

__all__ = ["Result", "Verdict", "choose", "probe", "run_case", "run_cases", "select"]

AnyCase = TypeVar("AnyCase", bound=Rule)
Verdict: TypeAlias = Literal["pass", "fail", "skip"]
NO_ECHO: Final = "the server does not run the echo application"


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case."""

    case: Rule
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    """Why it was skipped."""
    expected: str = ""
    got: str = ""
    sent: bytes = b""
    """The first bytes of the last connection."""
    received: bytes = b""


def choose(protocol: str | None, patterns: Iterable[str]) -> list[Case]:
    """The cases for servers, as ``select`` has it."""
    return select(protocol, patterns, SUITES)


def select(protocol: str | None, patterns: Iterable[str], suites: Mapping[str, Sequence[AnyCase]]) -> list[AnyCase]:
    """The cases of a protocol, None is all; with ``patterns`` those whose id is one, matches it or lies below it.

    Raises ConfigError where a pattern matches none.
    """
    cases = [case for name, suite in suites.items() if protocol in (None, name) for case in suite]
    wanted = list(patterns)
    if not wanted:
        return cases
    for pattern in wanted:
        if not any(matches(case.id, pattern) for case in cases):
            raise ConfigError(f"no case is called {pattern!r}; --list shows all")
    return [case for case in cases if any(matches(case.id, pattern) for pattern in wanted)]


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern of ``--only`` means this case."""
    return name == pattern or name.startswith(pattern.rstrip(".") + ".") or fnmatchcase(name, pattern)


def probe(target: Target, seconds: float) -> bool:
    """Whether the echo application answers; raises ConfigError where no server does."""
    context = Context(target, seconds, echo=False)
    try:
        return answers_as_echo(context)
    except OSError as error:
        raise ConfigError(f"cannot connect to {where(target)}: {error.strerror or error}") from None
    except Failure as error:
        raise ConfigError(f"{where(target)} does not answer a plain request in {target.protocol}: {error}") from None
    finally:
        context.close()


def where(target: Target) -> str:
    """The address for a sentence."""
    return target.address if isinstance(target.address, str) else f"{target.address[0]}:{target.address[1]}"


def run_case(case: Case, target: Target, seconds: float, *, echo: bool) -> Result:
    """Run one case; raises nothing that a server can cause."""
    if case.needs == "echo" and not echo:
        return Result(case, "skip", reason=NO_ECHO)
    context = Context(target, seconds, echo=echo)
    start = time.monotonic()
    try:
        case.run(context)
    except Skip as reason:
        return Result(case, "skip", time.monotonic() - start, str(reason))
    except Failure as failure:
        return failed(case, start, context.links, failure.expected, failure.got)
    except Silent:
        return failed(case, start, context.links, "an answer", f"nothing for {seconds:g} s")
    except OSError as error:
        return failed(case, start, context.links, "a connection", str(error))
    finally:
        context.close()
    return Result(case, "pass", time.monotonic() - start)


def failed(case: Case, start: float, links: list[Link], expected: str, got: str) -> Result:
    """The result of a failure, with what its last connection saw."""
    sent = bytes(links[-1].sent) if links else b""
    received = bytes(links[-1].received) if links else b""
    return Result(case, "fail", time.monotonic() - start, "", expected, got, sent, received)


def run_cases(target: Target, cases: Iterable[Case], seconds: float, *, echo: bool) -> Iterator[Result]:
    """Run all, one after another."""
    gone = ""
    for case in cases:
        if gone:
            yield Result(case, "skip", reason=gone)
            continue
        result = run_case(case, target, seconds, echo=echo)
        yield result
        if result.verdict == "fail" and not lives(target, seconds):
            gone = f"the server has not answered any more since {case.id}"


def lives(target: Target, seconds: float) -> bool:
    """Whether a good request is served; where not, it is asked twice more."""
    for _ in range(3):
        context = Context(target, seconds, echo=False)
        try:
            ALIVE[target.protocol](context)
        except (Failure, Silent):
            continue
        except OSError:
            time.sleep(min(1.0, seconds / 4))  # it may be started anew
        else:
            return True
        finally:
            context.close()
    return False
