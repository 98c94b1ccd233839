"""What is unusual about a legal case, in a few words: by this, faults with the same symptom are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gateways.testing.framing.fastcgi_records import (
    GET_VALUES,
    PARAMS,
    STDIN,
    UNKNOWN_TYPE,
    Record,
    records,
)
from gateways.wire.fuzz.case import Asked, FuzzCase

__all__ = ["features"]

LARGE = 30_000


def features(case: FuzzCase) -> frozenset[str]:
    """Return them; none of a case in which every connection breaks rules."""
    found: set[str] = set()
    for link in range(case.links):
        if case.strict(link):
            asked = [each for each in case.asked if each.link == link]
            for each in asked:
                found.update(_of_request(each))
            if case.protocol == "fastcgi":
                wire = b"".join(step.data for step in case.steps if step.link == link)
                found.update(_of_connection(asked))
                found.update(_of_records(records(wire), {each.number for each in asked}))
    return frozenset(found)


def _of_request(asked: Asked) -> Iterator[str]:
    params = dict(asked.params)
    if asked.body:
        yield "a body" if len(asked.body) < LARGE else "a large body"
        if "CONTENT_LENGTH" not in params:
            yield "no CONTENT_LENGTH"
        elif params["CONTENT_LENGTH"].startswith("0"):
            yield "zeros before CONTENT_LENGTH"
    if any(len(value) > LARGE for value in params.values()):
        yield "a large parameter"
    if any(not name.isascii() or not name.isprintable() for name in params):
        yield "odd names"
    if any(not value.isascii() or not value.isprintable() for value in params.values()):
        yield "odd values"
    if asked.role != "responder":
        yield asked.role


def _of_connection(asked: list[Asked]) -> Iterator[str]:
    turns = Counter(each.turn for each in asked)
    if len(turns) > 1:
        yield "several requests"
    if max(turns.values(), default=0) > 1:
        yield "interleaved"
    if any(each.aborted for each in asked):
        yield "an abort"
    if any(each.number > 255 for each in asked):
        yield "an id above 255"


def _of_records(wire: list[Record], ids: set[int]) -> Iterator[str]:
    streams = Counter((each.kind, each.stream) for each in wire if each.content)
    if any(count > 1 for (kind, number), count in streams.items() if kind == PARAMS and number in ids):
        yield "FCGI_PARAMS in several records"
    if any(count > 1 for (kind, number), count in streams.items() if kind == STDIN and number in ids):
        yield "FCGI_STDIN in several records"
    for each in wire:
        if each.padding:
            yield "padding"
        if each.kind == GET_VALUES:
            yield "FCGI_GET_VALUES"
        elif each.kind > UNKNOWN_TYPE:
            yield "an unknown type"
        elif each.stream not in ids:
            yield "a record of an inactive id"
