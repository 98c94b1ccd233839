"""One FastCGI connection against a model of the specification: any records in any order, answered at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateways.codecs.events import Abort, Body, Closed, EndOfBody, EndOfResponse, ErrorOutput, Request, ResponseHead
from gateways.codecs.fastcgi import FastCGICodec
from gateways.codecs.refusal import error_response
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError, TruncatedMessage
from gateways.limits import Limits
from gateways.testing.framing.fastcgi_records import (
    ABORT,
    BEGIN,
    DATA,
    END,
    GET_VALUES_RESULT,
    PARAMS,
    STDERR,
    STDIN,
    STDOUT,
    UNKNOWN_TYPE,
    Record,
    ask,
    content,
    ended,
    pair,
    rec,
    records,
    unknown_type,
    values_result,
)
from gateways.testing.noise import chop
from tests.codecs.vectors import MORE, OFFSETS, Denied, Fault, fault, plain

MOST: Final = 2
LIMITS: Final = Limits(params_bytes=60, params_count=4, body_bytes=12, requests_per_connection=MOST)
MALFORMED: Final = Fault(MalformedMessage)
BUSY: Final = Fault(LimitExceeded, 503, "requests on one connection")
SINGLE: Final = ("A", "CONTENT_LENGTH")
LENGTHS: Final = {"": -1, "0": 0, "05": 5, "12": 12}

STREAMS = st.sampled_from([1, 1, 1, 1, 2, 2, 2, 3, 4, 256, 65_535, 0])
NO_CUTS: list[int] = []
PIECES = st.one_of(st.just(NO_CUTS), OFFSETS)
NUMBERS = st.integers(0, 11)
"""Mostly the newest active requests; else an id that is not."""
SELDOM = st.sampled_from([False] * 15 + [True])
"""Whether what ends the connection happens at all: most runs are to be long."""
PADDING = st.sampled_from([0, 0, 0, 1, 7, 255])
PAIRS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["A", "B", "HTTP_VIA"]), st.sampled_from(["", "x", "y"])),
        st.tuples(st.just("CONTENT_LENGTH"), st.sampled_from([*LENGTHS, "12", "13", "-1"])),
        st.tuples(st.just("LONG"), st.just("x" * 40)),
    ),
    max_size=4,
)


@dataclass
class Asked:
    """A request between FCGI_BEGIN_REQUEST and FCGI_END_REQUEST."""

    role: int
    keep: bool
    state: str = "params"
    sent: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0
    broken: bool = False
    """The parameters hold something that is no pair."""
    received: int = 0
    protocol_status: int = 0


class Connection(RuleBasedStateMachine):
    """Rules write records and say what they mean; the codec gets them in pieces, and late."""

    @initialize()
    def start(self) -> None:
        self.codec = FastCGICodec(LIMITS)
        self.asked: dict[int, Asked] = {}
        self.wire = b""
        self.events: list[object] = []
        self.error: Fault | None = None
        self.dead = False
        self.replies = b""
        self.not_kept = False
        self.closing = False

    # -- what the peer may do --

    def put(self, kind: int, stream: int, data: bytes = b"", padding: int = 0) -> bool:
        """Write a record; False where nobody reads it any more."""
        self.wire += rec(kind, stream, data, padding, junk=b"\1")
        return not self.dead

    def fail(self, error: Fault) -> None:
        self.dead = True
        self.error = error

    def pick(self, number: int) -> int:
        active = list(self.asked)[::-1]
        return active[number % len(active)] if active and number < 9 else (0, 4, 77)[number % 3]

    def refuse(self, stream: int, error: Fault) -> None:
        self.asked[stream].state = "refused"
        self.events.append(Denied(stream, error))

    def end(self, stream: int) -> None:
        del self.asked[stream]
        if self.not_kept and not self.asked:
            self.closing = True

    @rule(
        stream=STREAMS,
        role=st.sampled_from([1, 1, 1, 1, 2, 3, 257]),
        flags=st.sampled_from([1, 1, 1, 255, 0]),
        padding=PADDING,
        seldom=SELDOM,
    )
    def begin(self, stream: int, role: int, flags: int, padding: int, *, seldom: bool) -> None:
        if not seldom and (stream == 0 or stream in self.asked):
            return
        if not self.put(BEGIN, stream, role.to_bytes(2, "big") + bytes([flags]) + b"\0" * 5, padding):
            return
        if stream == 0 or stream in self.asked:
            self.fail(MALFORMED)
        elif len(self.asked) == 2 * MOST:
            self.fail(BUSY)
        else:
            keep = flags & 1 == 1
            self.not_kept = self.not_kept or not keep
            self.asked[stream] = asked = Asked(role, keep)
            if role > 2:
                asked.protocol_status = 3
                self.refuse(stream, Fault(MalformedMessage, 501))
            elif len(self.asked) > MOST:
                asked.protocol_status = 2
                self.refuse(stream, BUSY)

    @rule(stream=STREAMS, data=st.binary(max_size=10).filter(lambda data: len(data) != 8), seldom=SELDOM)
    def begin_badly(self, stream: int, data: bytes, *, seldom: bool) -> None:
        if seldom and self.put(BEGIN, stream, data):
            self.fail(MALFORMED)

    def params_record(self, stream: int, data: bytes, padding: int) -> None:
        if not self.put(PARAMS, stream, data, padding):
            return
        asked = self.asked.get(stream)
        if asked is None or asked.state == "refused":
            return
        if asked.state != "params":
            self.refuse(stream, MALFORMED)
        elif not data:
            self.end_of_params(stream, asked)
        elif asked.size + len(data) > 60:
            self.refuse(stream, Fault(LimitExceeded, 431, "stream of parameters"))
        else:
            asked.size += len(data)

    @rule(number=NUMBERS, sent=PAIRS, forms=st.integers(0, 255), at=PIECES, padding=PADDING)
    def params(self, number: int, sent: list[tuple[str, str]], forms: int, at: list[int], padding: int) -> None:
        self.params_block(self.pick(number), sent, forms, at, padding)

    def params_block(self, stream: int, sent: list[tuple[str, str]], forms: int, at: list[int], padding: int) -> None:
        block = b"".join(pair(name, value, long=forms >> 2 * each) for each, (name, value) in enumerate(sent))
        for part in chop(block, at):
            if part:
                self.params_record(stream, part, padding)
        asked = self.asked.get(stream)
        if asked is not None:
            asked.sent += sent

    @rule(
        number=NUMBERS,
        data=st.sampled_from([b"\2\2AA", b"\xff\xff\xff\xff\1A", b"\x80\0\0\5\0", b"\7\xff\xff\xff\xff"]),
    )
    def params_that_do_not_end(self, number: int, data: bytes) -> None:
        stream = self.pick(number)
        self.params_record(stream, data, 0)
        if stream in self.asked:
            self.asked[stream].broken = True
        self.params_record(stream, b"", 0)

    @rule(number=NUMBERS, padding=PADDING)
    def no_more_params(self, number: int, padding: int) -> None:
        self.params_record(self.pick(number), b"", padding)

    def end_of_params(self, stream: int, asked: Asked) -> None:
        values: dict[str, list[str]] = {}
        for name, value in asked.sent:
            values.setdefault(name, []).append(value)
        if asked.broken:
            # What does not end counts as one more.
            asked.sent.append(("", ""))
        if len(asked.sent) > 4:
            self.refuse(stream, Fault(LimitExceeded, 431, "number of parameters"))
            return
        if asked.broken:
            self.refuse(stream, MALFORMED)
            return
        params = {name: ", ".join(each) if name == "HTTP_VIA" else each[0] for name, each in values.items()}
        length = LENGTHS.get(params.get("CONTENT_LENGTH", ""))
        if any(len(set(each)) > 1 for name, each in values.items() if name != "HTTP_VIA"):
            self.refuse(stream, MALFORMED)
        elif params.get("CONTENT_LENGTH") == "13":
            self.refuse(stream, Fault(LimitExceeded, 413, "request body"))
        elif length is None:
            self.refuse(stream, MALFORMED)
        elif asked.role == 2:
            asked.state = "done"
            self.events += [Request(stream, params, 0, "authorizer", keep=asked.keep), EndOfBody(stream)]
        else:
            asked.state = "body"
            self.events.append(Request(stream, params, length, keep=asked.keep))

    @rule(number=NUMBERS, data=st.binary(max_size=6), padding=PADDING)
    def stdin(self, number: int, data: bytes, padding: int) -> None:
        self.stdin_record(self.pick(number), data, padding)

    def stdin_record(self, stream: int, data: bytes, padding: int) -> None:
        if not self.put(STDIN, stream, data, padding):
            return
        asked = self.asked.get(stream)
        if asked is None or asked.state in ("done", "refused"):
            return
        if asked.state == "params":
            self.refuse(stream, MALFORMED)
        elif not data:
            asked.state = "done"
            self.events.append(EndOfBody(stream))
        else:
            asked.received += len(data)
            if asked.received > 12:
                self.refuse(stream, Fault(LimitExceeded, 413, "request body"))
            else:
                self.events.append(Body(stream, data))

    @rule(
        stream=STREAMS, role=st.sampled_from([1, 1, 2]), sent=PAIRS, more=PAIRS, at=PIECES, body=st.binary(max_size=13)
    )
    def whole_request(
        self,
        stream: int,
        role: int,
        sent: list[tuple[str, str]],
        more: list[tuple[str, str]],
        at: list[int],
        body: bytes,
    ) -> None:
        self.begin(stream, role, 1, 0, seldom=False)
        self.params_block(stream, sent, 0, at, 0)
        if len(sent) > 2:
            self.params_block(stream, more, 0, [], 1)
        self.params_record(stream, b"", 0)
        if body:
            self.stdin_record(stream, body, 0)
        self.stdin_record(stream, b"", 0)

    @rule(number=NUMBERS, data=st.binary(max_size=2))
    def abort(self, number: int, data: bytes) -> None:
        stream = self.pick(number)
        if not self.put(ABORT, stream, data) or stream not in self.asked:
            return
        if self.asked[stream].state == "params":
            self.replies += rec(STDOUT, stream) + rec(END, stream, b"\0" * 8)
            self.end(stream)
        else:
            self.events.append(Abort(stream))

    @rule(
        names=st.lists(
            st.sampled_from(["FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS", "OTHER", ""]), unique=True
        )
    )
    def get_values(self, names: list[str]) -> None:
        self.wire += ask(*names)
        if not self.dead:
            known = {"FCGI_MAX_CONNS": "1024", "FCGI_MAX_REQS": "1024", "FCGI_MPXS_CONNS": "1"}
            self.replies += values_result({name: value for name, value in known.items() if name in names})

    @rule(number=NUMBERS, kind=st.sampled_from([0, 12, 42, 255]), data=st.binary(max_size=4), padding=PADDING)
    def unknown(self, number: int, kind: int, data: bytes, padding: int) -> None:
        stream = self.pick(number)
        if self.put(kind, stream, data, padding):
            self.replies += unknown_type(kind)

    @rule(
        number=NUMBERS,
        kind=st.sampled_from([END, STDOUT, STDERR, DATA, GET_VALUES_RESULT, UNKNOWN_TYPE]),
        data=st.binary(max_size=4),
    )
    def not_a_peer_s(self, number: int, kind: int, data: bytes) -> None:
        stream = self.pick(number)
        if self.put(kind, stream, data) and stream == 0:
            self.replies += unknown_type(kind)

    @rule(version=st.sampled_from([0, 2, 71]), seldom=SELDOM)
    def other_version(self, version: int, *, seldom: bool) -> None:
        if not seldom:
            return
        self.wire += bytes([version])
        if not self.dead:
            self.fail(MALFORMED)

    # -- what the codec makes of it --

    @rule(at=PIECES)
    def flush(self, at: list[int]) -> None:
        """Give the codec all that has been written, in any pieces; compare all that comes back."""
        events: list[object] = []
        error = None
        replies = b""
        for piece in chop(self.wire, at):
            try:
                events += self.codec.feed(piece)
            except RemoteProtocolError as raised:
                assert error is None
                error = fault(raised)
                events += raised.events
            replies += self.codec.data_to_send()
        assert plain(events) == plain(self.events)
        assert error == self.error
        assert replies == self.replies
        self.wire = self.replies = b""
        self.events = []
        self.error = None

    @rule(number=NUMBERS, at=PIECES, size=st.sampled_from([0, 5]), end=st.booleans())
    def answer(self, number: int, at: list[int], size: int, end: bool) -> None:
        stream = self.pick(number)
        self.flush(at)
        head = ResponseHead(stream, "200 OK", [], b"x" * size, end=end)
        if stream not in self.asked:
            with pytest.raises(LocalProtocolError):
                self.codec.send(head)
            return
        expected = [Record(STDOUT, stream, b"Status: 200 OK\r\n\r\n" + b"x" * size)]
        if end:
            expected += ended(stream, 0, self.asked[stream].protocol_status)
            self.end(stream)
        assert records(self.codec.send(head)) == expected

    @rule(number=NUMBERS, at=PIECES, app_status=st.sampled_from([0, 1, -1]))
    def end_of_answer(self, number: int, at: list[int], app_status: int) -> None:
        stream = self.pick(number)
        self.flush(at)
        if stream not in self.asked:
            with pytest.raises(LocalProtocolError):
                self.codec.send(EndOfResponse(stream, app_status))
            return
        assert self.codec.send(Body(stream, b"ab")) == rec(STDOUT, stream, b"ab")
        assert self.codec.send(ErrorOutput(stream, b"ab")) == rec(STDERR, stream, b"ab")
        expected = ended(stream, app_status, self.asked[stream].protocol_status)
        self.end(stream)
        assert records(self.codec.send(EndOfResponse(stream, app_status))) == expected

    @rule(at=PIECES)
    def answer_the_refused(self, at: list[int]) -> None:
        self.flush(at)
        for stream in [stream for stream, asked in self.asked.items() if asked.state == "refused"]:
            got = records(self.codec.send(error_response(stream, 503)))
            assert content(got, STDOUT, stream).startswith(b"Status: 503 ")
            assert got[-2:] == ended(stream, 0, self.asked[stream].protocol_status)
            self.end(stream)

    @precondition(lambda self: self.dead or len(self.asked) > 1)
    @rule(at=PIECES, held=st.booleans(), seldom=SELDOM)
    def close(self, at: list[int], held: bool, *, seldom: bool) -> None:
        self.flush(at)
        if not seldom:
            return
        if held and not self.dead:
            assert self.codec.feed(b"\1\5") == []
        if not self.dead and (held or any(asked.state in ("params", "body") for asked in self.asked.values())):
            with pytest.raises(TruncatedMessage):
                self.codec.feed_eof()
        else:
            assert self.codec.feed_eof() == [Closed()]
        self.dead = True
        assert self.codec.feed_eof() == [Closed()]

    @invariant()
    def nothing_else_has_changed(self) -> None:
        if self.wire:
            return
        held = sum(asked.size for asked in self.asked.values() if asked.state == "params")
        assert self.codec.buffered <= held + 2
        assert self.codec.closing == self.closing
        in_params = [stream for stream, asked in self.asked.items() if asked.state == "params"]
        assert self.codec.error_stream == (in_params[0] if in_params else 0)


TestConnection = Connection.TestCase
TestConnection.settings = settings(MORE, stateful_step_count=40)
