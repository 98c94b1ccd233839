"""What the codecs' tests share: the outcome of some bytes, however they are split.

It knows the Codec protocol and the events, and no codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from hypothesis import settings, strategies as st

from gateways.codecs import Codec
from gateways.codecs.events import Body, Closed, Event, Refused
from gateways.errors import LimitExceeded, RemoteProtocolError, TruncatedMessage
from gateways.testing.noise import cuts, splits
from gateways.testing.noisy import offsets

Make: TypeAlias = Callable[[], Codec]


class Fault(NamedTuple):
    """What of an error a test compares."""

    kind: type[RemoteProtocolError]
    status: int = 400
    limit: str = ""


class Denied(NamedTuple):
    """A Refused event, whose error has no equality."""

    stream: int
    fault: Fault


class Outcome(NamedTuple):
    """All that a codec has made of some bytes."""

    events: list[object]
    error: Fault | None
    message: str
    sent: bytes
    closing: bool


@dataclass(frozen=True)
class Vector:
    """Bytes and what they mean."""

    wire: bytes
    events: list[object]
    error: Fault | None = None
    sent: bytes = b""
    """What the codec answers by itself."""
    closing: bool = False
    clean: frozenset[int] = field(default_factory=lambda: frozenset({0}))
    """Offsets in the wire at which the peer may close."""


def fault(error: RemoteProtocolError) -> Fault:
    return Fault(type(error), error.status_hint, error.limit if isinstance(error, LimitExceeded) else "")


def plain(events: Iterable[object]) -> list[object]:
    """Make events comparable: neighbouring Body events are joined, for the cuts between them mean nothing."""
    result: list[object] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Body):
            assert event.data
            if isinstance(last, Body) and last.stream == event.stream:
                result[-1] = Body(event.stream, last.data + event.data)
                continue
        result.append(Denied(event.stream, fault(event.error)) if isinstance(event, Refused) else event)
    return result


def run(make: Make, pieces: Iterable[bytes], *, most: int = 1 << 40, eof: bool = False) -> Outcome:
    """Feed the pieces to a new codec, which may never hold more than ``most`` bytes and is dead after an error."""
    codec = make()
    events: list[Event] = []
    sent = b""
    for piece in [*pieces, None] if eof else pieces:
        try:
            events += codec.feed_eof() if piece is None else codec.feed(piece)
        except RemoteProtocolError as error:
            events += error.events  # type: ignore[arg-type]  # errors.py knows no events
            sent += codec.data_to_send()
            for more in ([piece] if piece else []) + [b"\0", b"1", b"\1"]:
                assert codec.feed(more) == []
            assert codec.feed_eof() == [Closed()]
            assert codec.data_to_send() == b""
            return Outcome(plain(events), fault(error), str(error), sent, codec.closing)
        sent += codec.data_to_send()
        assert codec.data_to_send() == b""
        assert codec.buffered <= most
    return Outcome(plain(events), None, "", sent, codec.closing)


def check(make: Make, vector: Vector, *, trailing: Sequence[bytes] = (), most: int = 1 << 40) -> None:
    """The vector holds however it is split, with other bytes after it, and cut short at each byte."""
    whole = run(make, [vector.wire], most=most)
    assert whole.events == plain(vector.events)
    assert whole.error == vector.error
    assert whole.sent == vector.sent
    assert whole.closing == vector.closing
    for pieces in splits(vector.wire):
        assert run(make, pieces, most=most) == whole
    for more in trailing:
        assert run(make, [vector.wire + more])[:4] == whole[:4]
        assert run(make, [vector.wire, more])[:4] == whole[:4]
    for at in [0, *cuts(len(vector.wire)), len(vector.wire)]:
        _check_cut(make, vector, whole, at)


def _check_cut(make: Make, vector: Vector, whole: Outcome, at: int) -> None:
    cut = run(make, [vector.wire[:at]], eof=True)
    assert whole.sent.startswith(cut.sent)
    if cut.error == vector.error and cut.error is not None and cut.message == whole.message:
        assert cut == whole
    elif at in vector.clean:
        assert cut.error is None
        assert cut.events.pop() == Closed()
        assert_starts(whole.events, cut.events)
    else:
        assert cut.error == Fault(TruncatedMessage)
        assert_starts(whole.events, cut.events)


def assert_starts(events: Sequence[object], first: Sequence[object]) -> None:
    """``first`` are the first of ``events``; the last may be part of a Body."""
    if first and isinstance(last := first[-1], Body):
        full = events[len(first) - 1]
        assert isinstance(full, Body)
        assert full.data.startswith(last.data)
        first = first[:-1]
    assert list(events[: len(first)]) == list(first)


MORE = settings(max_examples=4 * settings().max_examples)  # where most of the work is
OFFSETS = offsets()
LATIN1 = st.text(st.characters(max_codepoint=255))
NAMES = LATIN1.filter(lambda name: name and not name.startswith("wsgi."))
"""Names of parameters that reach the application."""
