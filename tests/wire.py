"""What every codec's tests share: wires split in all ways, and what a codec makes of them. It knows no codec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from gateways.codecs import Codec
from gateways.codecs.events import Body, ErrorOutput, Event, Refused
from gateways.errors import RemoteProtocolError
from gateways.testing.noise import cuts, splits


@dataclass
class Fault:
    """An error as far as tests compare it: exceptions have no equality."""

    kind: type[RemoteProtocolError]
    status_hint: int
    words: str = field(compare=False)


@dataclass
class RefusedFault:
    """Stands for a Refused event."""

    stream: int
    fault: Fault


@dataclass
class Outcome:
    """What a codec made of some bytes; neighbouring pieces of one body are joined."""

    events: list[Event | RefusedFault]
    fault: Fault | None
    sent: bytes
    closing: bool


def joined(events: Iterable[Event]) -> list[Event | RefusedFault]:
    """Return the events without what the split of the bytes decides: where a body is cut."""
    result: list[Event | RefusedFault] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, Body):
            assert event.data, "a Body event is never empty"
            if isinstance(last, Body) and last.stream == event.stream:
                result[-1] = Body(event.stream, last.data + event.data)
                continue
        elif isinstance(event, ErrorOutput) and isinstance(last, ErrorOutput) and last.stream == event.stream:
            result[-1] = ErrorOutput(event.stream, last.data + event.data)
            continue
        result.append(RefusedFault(event.stream, fault_of(event.error)) if isinstance(event, Refused) else event)
    return result


def fault_of(error: RemoteProtocolError) -> Fault:
    return Fault(type(error), error.status_hint, str(error))


def feed(codec: Codec, pieces: Iterable[bytes], *, eof: bool = False) -> Outcome:
    """Feed the pieces; a codec that raised is dead, and says so by saying nothing."""
    events: list[Event] = []
    sent = b""
    fault = None
    for piece in [*pieces, None] if eof else pieces:
        try:
            events += codec.feed_eof() if piece is None else codec.feed(piece)
        except RemoteProtocolError as error:
            events += error.events  # type: ignore[arg-type]  # errors.py knows no events
            fault = fault_of(error)
        sent += codec.data_to_send()
        if fault is not None:
            assert codec.feed(b"\0") == codec.feed(b"1" * 20) == []
            break
    return Outcome(joined(events), fault, sent, codec.closing)


def runs(make: Callable[[], Codec], wire: bytes, *, eof: bool = False) -> Outcome:
    """Return what the bytes mean; every split of them must mean the same."""
    whole = feed(make(), [wire], eof=eof)
    for pieces in splits(wire):
        assert feed(make(), pieces, eof=eof) == whole, f"split at {len(pieces[0])} of {len(wire)} bytes"
    return whole


def truncations(make: Callable[[], Codec], wire: bytes) -> Iterator[tuple[int, Outcome]]:
    """Yield, for each byte, the outcome of what is before it and the end of file; it never says more than the whole."""
    whole = feed(make(), [wire])
    for at in [0, *cuts(len(wire))] if wire else []:
        cut = feed(make(), [wire[:at], b""])
        assert_starts(whole.events, cut.events)
        yield at, feed(make(), [wire[:at]], eof=True)


def assert_starts(events: Sequence[Event | RefusedFault], first: Sequence[Event | RefusedFault]) -> None:
    """``first`` are the first of ``events``; the last of them may be cut within its data."""
    if first and isinstance(last := first[-1], (Body, ErrorOutput)):
        full = events[len(first) - 1]
        assert isinstance(full, type(last))
        assert full.stream == last.stream
        assert full.data.startswith(last.data)
        first = first[:-1]
    assert list(events[: len(first)]) == list(first)
