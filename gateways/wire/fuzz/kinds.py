"""The kinds of cases, as strategies: sequences, framings, broken rules, and connections beside one another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Final

from hypothesis import strategies as st

from gateways.codecs.events import Request
from gateways.testing.framing import ERROR, REFUSED, Illegal, Image, fastcgi
from gateways.testing.framing.fastcgi_records import ABORT, rec, records
from gateways.testing.model import Pairs
from gateways.testing.noise import byte_by_byte, chop, truncate
from gateways.wire.fuzz.case import Asked, Do, FuzzCase, Step
from gateways.wire.fuzz.wires import Wires
from gateways.wire.fuzz.wrong import ID, Build

__all__ = ["broken", "kinds_of"]

PAUSE: Final = 0.002
SERVED: Final = ("begin-active", "request-cut")
"""Rules that are broken after a request that may have been served by then."""


def kinds_of(wires: Wires) -> dict[str, st.SearchStrategy[FuzzCase]]:
    """Every kind that the server can be asked, by name."""
    kinds = {
        "sequence": sequence(wires),
        "framing": framings(wires),
        "illegal": illegal(wires),
        "cut": cut_short(wires),
        "foreign": of_others(wires),
    }
    if wires.ability.concurrent:
        kinds["beside"] = beside(wires)
    if wires.protocol == "fastcgi" and wires.ability.kept:
        kinds["abort"] = aborted(wires)
    return kinds


@st.composite
def sequence(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """One to three requests after another on a connection, some at the same time."""
    steps: list[Step] = []
    asked: list[Asked] = []
    several = wires.protocol == "fastcgi" and wires.ability.kept
    turns = draw(st.integers(1, 3)) if several else 1
    for turn in range(turns):
        image = wires.image(draw, most=2)
        steps += [*sends(draw, image.wire), Step("wait")]
        asked += carried(wires, image, 0, turn)
    return FuzzCase(wires.protocol, "sequence", tuple(steps), tuple(asked))


@st.composite
def framings(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """One request in two framings, on two connections."""
    request = draw(wires.requests)
    steps: list[Step] = []
    asked: list[Asked] = []
    for link in range(2):
        if link and len(dict(request.params)) == len(request.params):
            request = replace(request, params=shuffled(draw, request.params, wires.protocol))
        image = wires.framed(draw, request)
        steps += [*sends(draw, image.wire, link), Step("wait", link)]
        asked += carried(wires, image, link)
    return FuzzCase(wires.protocol, "framing", tuple(steps), tuple(asked))


@st.composite
def illegal(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """Bytes that break one rule: nothing else, or a request that is whole beside it."""
    # What is made of them can be seen where the peer stays.
    rule, build = draw(wires.wrong)
    if draw(st.booleans()):
        case = broken(wires, rule, build)
        return replace(case, steps=tuple(sends(draw, case.steps[0].data)))
    bad: Illegal = draw(wires.illegal)
    must = bad.rule.name not in SERVED and bad.rule.outcomes <= {ERROR, REFUSED}
    return FuzzCase(wires.protocol, "illegal", tuple(sends(draw, bad.wire)), (), (0,), bad.rule.name if must else "")


def broken(wires: Wires, rule: str, build: Build) -> FuzzCase:
    """A new request that breaks this rule."""
    token = wires.token()
    params = wires.target.request_params() | {"HTTP_X_FUZZ": token}
    asked = Asked(0, ID if wires.protocol == "fastcgi" else 1, token, tuple(params.items()))
    return FuzzCase(wires.protocol, "illegal", (Step("send", 0, build(params)),), (asked,), (0,), rule)


@st.composite
def cut_short(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """A legal wire, or several, of which the last is not whole when the peer leaves."""
    image = wires.image(draw, most=2)
    before = draw(st.sampled_from([b"", image.wire]))
    steps = sends(draw, before + truncate(image.wire, draw(_PLACES) % len(image.wire)))
    return FuzzCase(wires.protocol, "cut", (*steps, *ends(draw)), tuple(carried(wires, image, 0)), (0,))


@st.composite
def of_others(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """Bytes of another protocol: alone, before a request, behind it or within."""
    other = draw(wires.foreign)
    if draw(st.booleans()):
        return FuzzCase(wires.protocol, "foreign", (*sends(draw, other), *ends(draw)), (), (0,))
    image = wires.image(draw)
    at = min(draw(_PLACES), len(image.wire))
    steps = sends(draw, image.wire[:at] + other + image.wire[at:])
    return FuzzCase(wires.protocol, "foreign", (*steps, *ends(draw)), tuple(carried(wires, image, 0)), (0,))


@st.composite
def beside(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """Two connections at the same time: legal ones, or a legal one beside any other."""
    image = wires.image(draw, most=2)
    asked = carried(wires, image, 0)
    mine = sends(draw, image.wire)
    loose = draw(st.booleans())
    if loose:
        theirs = [*sends(draw, draw(wires.illegal).wire, 1), *ends(draw, 1)]
    else:
        image = wires.image(draw, most=2)
        theirs = sends(draw, image.wire, 1)
        asked += carried(wires, image, 1)
    steps = []
    for turn in draw(_TURNS):
        steps += [mine.pop(0)] if turn and mine else [theirs.pop(0)] if theirs else []
    return FuzzCase(wires.protocol, "beside", (*steps, *mine, *theirs), tuple(asked), (1,) if loose else ())


@st.composite
def aborted(draw: st.DrawFn, wires: Wires) -> FuzzCase:
    """A request that is aborted before its end, then another one with its id."""
    number = draw(fastcgi.ids())
    first, then = [
        draw(fastcgi.request_images(wires.requests, most=1, streams=st.just(number), noise=False)) for _ in range(2)
    ]
    whole = [bytes(each) for each in records(first.wire)]
    # Without the last record it is not whole, so it cannot have been ended when the abort comes.
    kept = b"".join(whole[: draw(st.integers(1, max(len(whole) - 1, 1)))])
    steps = [*sends(draw, kept), Step("send", 0, rec(ABORT, number)), Step("wait"), *sends(draw, then.wire)]
    asked = [replace(each, aborted=True) for each in carried(wires, first, 0)]
    return FuzzCase(wires.protocol, "abort", (*steps, Step("wait")), (*asked, *carried(wires, then, 0, 1)))


_TURNS: Final = st.lists(st.booleans(), max_size=12)
_PLACES: Final = st.integers(0, 1 << 10)
_CUTS: Final = st.lists(st.integers(0, 1 << 20), max_size=3)
_MANNERS: Final = st.sampled_from(["cuts"] * 6 + ["pauses", "bytes"])
_WAITS: Final[tuple[Do, ...]] = ()
_ENDS: Final = st.sampled_from([_WAITS, _WAITS, ("end",), ("end",), ("reset",), ("pause", "reset")])
SMALL: Final = 300


def sends(draw: st.DrawFn, wire: bytes, link: int = 0) -> list[Step]:
    """Draw the writes of a wire: a few, some with pauses; a short one also byte by byte."""
    manner = draw(_MANNERS)
    pieces = byte_by_byte(wire) if manner == "bytes" and len(wire) <= SMALL else chop(wire, draw(_CUTS))
    steps = [Step("send", link, piece) for piece in pieces if piece]
    if manner == "pauses":
        return [each for step in steps for each in (step, Step("pause", link, seconds=PAUSE))]
    return steps


def ends(draw: st.DrawFn, link: int = 0) -> list[Step]:
    """Draw how the peer leaves: it waits, closes its side, or resets at once or a little later."""
    return [Step("pause", link, seconds=PAUSE) if do == "pause" else Step(do, link) for do in draw(_ENDS)]


def carried(wires: Wires, image: Image, link: int, turn: int = 0) -> list[Asked]:
    """The requests of a wire; what a parameter that comes twice means is the server's affair."""
    found = []
    for number, events in image.expected.items():
        for event in events:
            if isinstance(event, Request):
                token = event.params["HTTP_X_FUZZ"]
                request = wires.made[token]
                times = Counter(name for name, _ in request.params)
                params = tuple(pair for pair in request.params if times[pair[0]] == 1)
                found.append(Asked(link, number, token, params, request.body, request.role, turn))
    return found


def shuffled(draw: st.DrawFn, params: Pairs, protocol: str) -> Pairs:
    """The same parameters in another order; of SCGI, the first two stay (its document has them first)."""
    first = 2 if protocol == "scgi" else 0
    turn = first + draw(st.integers(0, len(params)))
    rest = params[turn:] + params[first:turn]
    return (*params[:first], *(rest if draw(st.booleans()) else reversed(rest)))
