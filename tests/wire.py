"""Tools on bytes for every codec's tests: wires split in all ways, and FastCGI streams with legal noise put in.

Nothing here knows a codec: records are read and written by hand, so that a codec's error is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from gateways.codecs import Codec
from gateways.codecs.events import Body, ErrorOutput, Event, Refused
from gateways.errors import RemoteProtocolError

IDLE_ID = 0xFFF0
"""A request id that no test makes active."""
SHORT_WIRE = 2_000
"""Longer wires are cut at some offsets only."""


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


# -- splits -------------------------------------------------------------------------------------------------------


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


def splits(wire: bytes) -> Iterator[list[bytes]]:
    """In one piece; byte by byte; in every two pieces."""
    yield [wire]
    yield [wire[at : at + 1] for at in range(len(wire))]
    for at in range(1, len(wire), 1 + len(wire) // SHORT_WIRE):
        yield [wire[:at], wire[at:]]


def runs(make: Callable[[], Codec], wire: bytes, *, eof: bool = False) -> Outcome:
    """Return what the bytes mean; every split of them must mean the same."""
    whole = feed(make(), [wire], eof=eof)
    for pieces in splits(wire):
        assert feed(make(), pieces, eof=eof) == whole, f"split at {len(pieces[0])} of {len(wire)} bytes"
    return whole


def truncations(make: Callable[[], Codec], wire: bytes) -> Iterator[tuple[int, Outcome]]:
    """Yield, for each byte, the outcome of what is before it and the end of file; it never says more than the whole."""
    whole = feed(make(), [wire])
    for at in range(0, len(wire), 1 + len(wire) // SHORT_WIRE):
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


# -- FastCGI records ------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """One FastCGI record."""

    kind: int
    stream: int
    content: bytes = b""
    padding: bytes = b""

    def __bytes__(self) -> bytes:
        size = len(self.content)
        assert size <= 0xFFFF
        header = bytes((1, self.kind, self.stream >> 8, self.stream & 255, size >> 8, size & 255, len(self.padding), 0))
        return header + self.content + self.padding


def records(wire: bytes) -> list[Record]:
    """Read a wire that consists of whole records."""
    found = []
    while wire:
        assert wire[0] == 1
        content = 8 + int.from_bytes(wire[4:6], "big")
        padding = content + wire[6]
        assert len(wire) >= padding, "the wire ends within a record"
        found.append(Record(wire[1], int.from_bytes(wire[2:4], "big"), wire[8:content], wire[content:padding]))
        wire = wire[padding:]
    return found


def add_padding(wire: bytes, sizes: Iterable[int]) -> bytes:
    """Give the records padding of these sizes (0 to 255), in turn, that looks like the start of another record."""
    turn = cycle(sizes)
    return b"".join(
        bytes(Record(r.kind, r.stream, r.content, (b"\1\6\0\1\0\0\0\0" * 32)[: next(turn)])) for r in records(wire)
    )


def add_noise(wire: bytes, noise: Iterable[tuple[int, bytes]]) -> bytes:
    """Put records between those of ``wire``: each before the record whose index, modulo their number, is told."""
    pieces = [bytes(each) for each in records(wire)]
    count = len(pieces) + 1
    before: list[list[bytes]] = [[] for _ in range(count)]
    for index, data in noise:
        before[index % count].append(data)
    return b"".join(b"".join(more) + piece for more, piece in zip(before, [*pieces, b""], strict=True))


def split_streams(wire: bytes, kinds: Sequence[int], lengths: Iterable[int]) -> bytes:
    """Cut the records of these types into several, of these lengths in turn (from 1), with no regard to pairs."""
    turn = cycle(lengths)
    result: list[bytes] = []
    for each in records(wire):
        if each.kind not in kinds or not each.content:
            result.append(bytes(each))
            continue
        rest = each.content
        while rest:
            length = next(turn)
            assert length > 0
            result.append(bytes(Record(each.kind, each.stream, rest[:length])))
            rest = rest[length:]
    return b"".join(result)


def split_params(wire: bytes, lengths: Iterable[int]) -> bytes:
    """Cut the FCGI_PARAMS records into several; pairs straddle them."""
    return split_streams(wire, (4,), lengths)


def pairs(items: Iterable[tuple[str, str]], long: Iterable[bool] = (False,)) -> bytes:
    """Write name-value pairs; ``long`` tells in turn which lengths below 128 take 4 bytes nevertheless."""
    turn = cycle(long)
    parts = []
    for item in items:
        name, value = (text.encode("latin-1") for text in item)
        for size in (len(name), len(value)):
            wide = next(turn) or size > 127
            parts.append((size | 1 << 31).to_bytes(4, "big") if wide else bytes((size,)))
        parts += [name, value]
    return b"".join(parts)


TO_BOTH = [
    bytes(Record(12, 0)),
    bytes(Record(42, 0, b"what is this", b"\0\0\0\0")),
    bytes(Record(255, IDLE_ID, b"?")),
    *[bytes(Record(kind, IDLE_ID, b"\0" * 8)) for kind in range(2, 9)],
]
NOISE_TO_APPLICATION = [*TO_BOTH, bytes(Record(9, 0, b"\x0f\0FCGI_MPXS_CONNS")), bytes(Record(5, IDLE_ID))]
"""Records that a web server may send at any time and that change no request."""
NOISE_TO_FRONT = [
    *TO_BOTH,
    bytes(Record(11, 0, b"\x2a" + bytes(7))),
    bytes(Record(10, 0, b"\x0f\1FCGI_MPXS_CONNS1")),
    bytes(Record(6, IDLE_ID, b"Status: 500 No\r\n\r\n")),
    bytes(Record(3, IDLE_ID, bytes(8))),
]
"""Records that an application may send at any time and that change no response."""
