"""Plays a case against a server and notes what it answered; what that means is for ``oracles``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from gateways.codecs.fastcgi_records import FCGI_END_REQUEST, FCGI_STDOUT
from gateways.wire import fastcgi, single
from gateways.wire.case import Context, Failure, response_head
from gateways.wire.cases import answers_as_echo
from gateways.wire.fuzz.case import Asked, FuzzCase, Step
from gateways.wire.link import Link, Silent
from gateways.wire.target import Target

__all__ = ["Ability", "Answer", "Seen", "find_abilities", "play"]

GRACE: Final = 0.05
"""How long a server may take to answer, or to close, where nothing is owed."""
ENOUGH: Final = 4_000_000
"""Bytes that are read of an answer to a connection on which rules are broken."""


@dataclass(frozen=True, slots=True)
class Ability:
    """What a server can do, as far as cases depend on it."""

    echo: bool = True
    """It runs the echo application."""
    kept: bool = True
    """FastCGI: its connections outlive a request."""
    multiplexed: bool = True
    """FastCGI: requests of one connection may be interleaved."""
    concurrent: bool = True
    """It serves a connection while another one is open."""


@dataclass(slots=True)
class Answer:
    """What one request got. For SCGI and uwsgi the id is 1 and ``whole`` the end of the connection."""

    number: int
    content: bytes = b""
    whole: bool = False
    protocol_status: int = 0

    def status(self, protocol: str) -> int:
        """Of the response, 0 where there is none; raises Failure."""
        return int(response_head(self.content, protocol)[0].status[:3]) if self.content else 0

    def body(self, protocol: str) -> bytes:
        """What follows the head; raises Failure."""
        return response_head(self.content, protocol)[1]


@dataclass(slots=True)
class Seen:
    """What came back on one connection."""

    answers: list[tuple[Asked, Answer]] = field(default_factory=list)
    """Of the requests that had to be answered."""
    others: dict[int, Answer] = field(default_factory=dict)
    """On a connection where rules are broken: by id."""
    failure: Failure | None = None
    """What was no answer of this protocol."""
    silent: bool = False
    """It neither answered nor closed in time."""
    refused: str = ""
    """There was no connection."""

    def contents(self) -> list[bytes]:
        """All that the application said."""
        return [answer.content for _, answer in self.answers] + [answer.content for answer in self.others.values()]


class Player:
    """One connection of a case."""

    def __init__(self, context: Context, case: FuzzCase, link: int) -> None:
        self.protocol = case.protocol
        self.strict = case.strict(link)
        self.asked = [each for each in case.asked if each.link == link]
        self.turn = 0
        self.seen = Seen()
        self.talk: fastcgi.Talk | None = None
        self.link: Link | None = None
        self.over = False
        try:
            if case.protocol == "fastcgi":
                self.talk = fastcgi.Talk(context)
                self.link = self.talk.link
            else:
                self.link = context.open()
        except OSError as error:
            self.over, self.seen.refused = True, error.strerror or str(error)
        self.expect()

    def expect(self) -> None:
        """Say which requests come now."""
        if self.talk is not None and self.strict:
            self.talk.expect(*[each.number for each in self.asked if each.turn == self.turn])

    def do(self, step: Step) -> None:
        """Take one step; after the first failure nothing is done any more."""
        if self.over or self.link is None:
            return
        try:
            if step.do == "send":
                self.link.send(step.data)
            elif step.do == "end":
                self.link.end()
            elif step.do == "reset":
                self.link.reset()
                self.over = True
            elif step.do == "wait":
                self.wait()
        except Failure as failure:
            self.over, self.seen.failure = True, failure
        except Silent:
            self.over = self.seen.silent = True

    def wait(self) -> None:
        """Take the answers to what was asked up to now; on a connection where rules are broken, to all."""
        if not self.strict:
            self.take_any()
            return
        mine = [each for each in self.asked if each.turn == self.turn]
        self.turn += 1
        if self.talk is None:
            self.take_single(mine)
            return
        try:
            self.talk.answers(*[each.number for each in mine])
        except Failure as failure:
            if isinstance(failure.__cause__ or failure.__context__, Silent):
                self.over = self.seen.silent = True
            else:
                self.over, self.seen.failure = True, failure
        for each in mine:
            reply = self.talk.replies[each.number]
            self.seen.answers.append(
                (each, Answer(each.number, bytes(reply.stdout), reply.ended, reply.protocol_status))
            )
        self.expect()

    def take_single(self, mine: list[Asked]) -> None:
        """Read to the end of a connection that carries one request."""
        link = self.link
        if link is None or not mine:
            return
        try:
            while link.more():
                pass
        except Silent:
            self.over = self.seen.silent = True
        self.seen.answers.append((mine[0], Answer(1, bytes(link.buffer), bool(link.buffer) and not self.seen.silent)))

    def finish(self) -> None:
        """Wait for what is still owed, or see what comes."""
        if self.strict and any(each.turn >= self.turn for each in self.asked):
            self.do(Step("wait"))
        elif not self.strict and not self.over and self.link is not None:
            self.do(Step("end"))
            self.do(Step("wait"))

    def take_any(self) -> None:
        """Read what comes until the server closes, or says nothing for a moment."""
        link = self.link
        if link is None:
            return
        link.seconds = min(link.seconds, GRACE)
        if self.talk is None:
            try:
                while link.received_bytes < ENOUGH and link.more():
                    pass
                self.seen.others[1] = Answer(1, bytes(link.buffer), bool(link.buffer) and link.eof)
            except Silent:
                self.seen.others[1] = Answer(1, bytes(link.buffer))
            return
        try:
            while link.received_bytes < ENOUGH and (record := self.talk.record()) is not None:
                answer = self.seen.others.setdefault(record.number, Answer(record.number))
                if record.kind == FCGI_STDOUT:
                    answer.content += record.content
                elif record.kind == FCGI_END_REQUEST and len(record.content) == 8:
                    answer.whole, answer.protocol_status = True, record.content[4]
        except Failure as failure:
            if not isinstance(failure.__context__, Silent):
                raise


def play(case: FuzzCase, target: Target, seconds: float) -> list[Seen]:
    """Take the steps, and return what was seen on each connection; raises nothing that a server can cause."""
    context = Context(target, seconds, echo=False)
    players: dict[int, Player] = {}
    try:
        for step in case.steps:
            if step.do == "pause":
                time.sleep(step.seconds)
                continue
            if step.link not in players:
                players[step.link] = Player(context, case, step.link)
            players[step.link].do(step)
        for strict in (True, False):
            for player in players.values():
                if player.strict == strict:
                    player.finish()
        return [players[link].seen if link in players else Seen() for link in range(case.links)]
    finally:
        context.close()


# -- what it can do -----------------------------------------------------------------------------------------------


def find_abilities(target: Target, seconds: float) -> Ability:
    """Ask the server; raises Failure where it answers nothing, and OSError."""
    context = Context(target, seconds, echo=False)
    try:
        echo = answers_as_echo(context)
        kept = multiplexed = False
        if target.protocol == "fastcgi":
            kept = keeps(target, seconds)
            multiplexed = kept and mixes(target, seconds)
        return Ability(echo, kept, multiplexed, is_concurrent(target, seconds))
    finally:
        context.close()


def keeps(target: Target, seconds: float) -> bool:
    """Whether a second request is answered on a connection of FastCGI."""
    context = Context(target, seconds, echo=False)
    try:
        talk = fastcgi.Talk(context)
        first, second = [talk.ask(1, context.params(), flags=fastcgi.KEEP) for _ in range(2)]
    except (Failure, Silent):
        return False
    else:
        return first.ended and second.ended
    finally:
        context.close()


def mixes(target: Target, seconds: float) -> bool:
    """Whether FCGI_MPXS_CONNS is 1 (FastCGI 1.0 section 4.1)."""
    context = Context(target, min(seconds, 1.0), echo=False)
    try:
        talk = fastcgi.Talk(context)
        talk.send(fastcgi.ask("FCGI_MPXS_CONNS"))
        return talk.managed()[0].content == fastcgi.pair("FCGI_MPXS_CONNS", "1")
    except (Failure, Silent):
        return False
    finally:
        context.close()


def is_concurrent(target: Target, seconds: float) -> bool:
    """Whether a request is served while another connection has sent half of one."""
    other = Context(target, seconds, echo=False)
    context = Context(target, min(seconds, 1.0), echo=False)
    try:
        begun = other.open()
        half = fastcgi.begin(1) if target.protocol == "fastcgi" else single.head(target.protocol, other.params())[:3]
        begun.send(half)
        answers_as_echo(context)
    except (Failure, Silent, OSError):
        return False
    else:
        return True
    finally:
        other.close()
        context.close()
