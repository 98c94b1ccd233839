"""What must hold whatever was sent: the oracles over one case and over two servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from gateways.wire.case import Echo, Failure
from gateways.wire.fuzz.case import TOKEN, Asked, FuzzCase
from gateways.wire.fuzz.play import Answer, Seen
from gateways.wire.fuzz.wrong import ID

__all__ = ["Finding", "differences", "judge"]

LARGE: Final = 3_500
"""Bytes of parameters that a server may find too many (uWSGI's buffer is 4 KiB, the size of a page)."""
CANNOT_MULTIPLEX: Final = 1
UNKNOWN_ROLE: Final = 3
_PLAIN_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_SERVERS_OWN: Final = ("PATH_INFO", "SCRIPT_NAME", "HTTPS", "DOCUMENT_ROOT", "SCRIPT_FILENAME", "CONTENT_LENGTH")
"""Parameters that a server may set by itself, or write in another form."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An oracle that says no. ``oracle`` and ``what`` are its class: the same fault again has the same."""

    oracle: str
    what: str
    detail: str = ""

    @property
    def name(self) -> str:
        """The class."""
        return f"{self.oracle}: {self.what}"


def judge(case: FuzzCase, seen: list[Seen], foreign: Callable[[str], bool], *, echo: bool) -> list[Finding]:
    """Return all that is wrong with one case; ``foreign`` knows the tokens that other cases have sent."""
    found: list[Finding] = []
    for link, each in enumerate(seen):
        mine = {asked.token for asked in case.asked if asked.link == link}
        others = {asked.token for asked in case.asked if asked.link != link} - mine
        found += strangers(each.contents(), mine, lambda token, others=others: token in others or foreign(token))  # type: ignore[misc]
        if case.strict(link):
            found += strict(case, each, echo=echo)
        elif each.failure is not None and case.kind != "foreign" and speaks(case, link):
            found.append(Finding("malformed", each.failure.expected, each.failure.got))
    if case.rule:
        found += accepted(case, seen[0] if seen else Seen())
    if case.kind == "framing" and not found:
        found += same(case, seen)
    return found


def speaks(case: FuzzCase, link: int) -> bool:
    """Whether the first byte is the protocol's: a listener that tells protocols apart may take it for another."""
    first = b"".join(step.data for step in case.steps if step.link == link)[:1]
    return case.protocol != "fastcgi" or first == b"\1"


def tokens(content: bytes) -> set[str]:
    """All that stand in it."""
    return {found.decode("ascii") for found in TOKEN.findall(content)}


def strangers(contents: Iterable[bytes], mine: set[str], foreign: Callable[[str], bool]) -> list[Finding]:
    """What belongs to another connection's request."""
    for content in contents:
        for token in sorted(tokens(content) - mine):
            if foreign(token):
                at = content.find(token.encode("ascii"))
                return [Finding("foreign data", "of another connection", repr(content[max(at - 60, 0) : at + 60]))]
    return []


def strict(case: FuzzCase, seen: Seen, *, echo: bool) -> list[Finding]:
    """Each request was served, as it was sent."""
    if seen.refused:
        return [Finding("no connection", seen.refused)]
    found = []
    if seen.failure is not None:
        found.append(Finding("malformed", seen.failure.expected, seen.failure.got))
    for asked, answer in seen.answers:
        if not answer.whole:
            if seen.failure is None:
                what = "nothing in time" if seen.silent else "the connection closed"
                found.append(Finding("unanswered", what, f"after {len(answer.content)} bytes: {answer.content[:60]!r}"))
            break  # with it the connection is lost
        if not asked.aborted:
            found += one(case, asked, answer, [each for each, _ in seen.answers], echo=echo)
    return found


def one(case: FuzzCase, asked: Asked, answer: Answer, together: list[Asked], *, echo: bool) -> list[Finding]:
    """What is wrong with the answer to a legal request."""
    mixed = strangers([answer.content], {asked.token}, lambda token: token in {each.token for each in together})
    if mixed:
        return [Finding("foreign data", "of another request of the connection", mixed[0].detail)]
    if answer.protocol_status:
        if answer.protocol_status == CANNOT_MULTIPLEX and len(together) > 1:
            return []
        if answer.protocol_status == UNKNOWN_ROLE and asked.role != "responder":
            return []
        return [Finding("refused", f"protocolStatus {answer.protocol_status}")]
    try:
        status = answer.status(case.protocol)
    except Failure as failure:
        return [Finding("malformed", failure.expected, failure.got)]
    if not echo:
        return []
    if status != 200:
        if status >= 400 and sum(len(name) + len(value) for name, value in asked.params) > LARGE:
            return []
        return [Finding("refused", f"status {status}" if status else "an empty answer", repr(answer.content[:80]))]
    said = Echo.parse(answer.body(case.protocol))
    if said is None:
        return [Finding("changed", "no answer of the echo application", repr(answer.body(case.protocol)[:80]))]
    return changed(asked, said)


def changed(asked: Asked, said: Echo) -> list[Finding]:
    """Whether the application saw what was sent; parameters with odd names may be dropped."""
    for name, value in asked.params:
        got = said.params.get(name)
        if name in _SERVERS_OWN or (got is None and not _PLAIN_NAME.fullmatch(name)):
            continue
        if got != value:
            what = "a parameter is missing" if got is None else "a parameter has another value"
            return [Finding("changed", what, f"{name[:60]!r}: {value[:60]!r} was sent, {(got or '')[:60]!r} arrived")]
    promised = dict(asked.params).get("CONTENT_LENGTH")
    if said.body != asked.body and (promised or said.body):
        return [Finding("changed", "the body", f"{len(asked.body)} bytes were sent, {len(said.body)} arrived")]
    return []


def accepted(case: FuzzCase, seen: Seen) -> list[Finding]:
    """Whether what breaks a rule was served."""
    answer = seen.others.get(ID if case.protocol == "fastcgi" else 1) or seen.others.get(0)
    if answer is None or not answer.whole or answer.protocol_status or not answer.content:
        return []
    try:
        status = answer.status(case.protocol)
    except Failure as failure:
        return [Finding("malformed", failure.expected, failure.got)]
    return [] if status >= 400 else [Finding("accepted", case.rule, f"status {status}")]


def same(case: FuzzCase, seen: list[Seen]) -> list[Finding]:
    """Whether one request got the same answer in two framings."""
    texts = [outcome(case.protocol, each) for each in seen]
    if len(texts) == 2 and texts[0] != texts[1]:
        return [Finding("framing", " / ".join(sorted(texts)), "one request in two legal framings")]
    return []


def outcome(protocol: str, seen: Seen) -> str:
    """What became of the requests of a connection, in a few words."""
    if seen.refused:
        return "no connection"
    answers = [answer for _, answer in seen.answers] or list(seen.others.values())
    words = [_word(protocol, answer) for answer in sorted(answers, key=lambda each: each.number)]
    if seen.failure is not None:
        words.append("malformed")
    elif seen.silent:
        words.append("silent")
    return ", ".join(words) or "nothing"


def _word(protocol: str, answer: Answer) -> str:
    if answer.protocol_status:
        return f"protocolStatus {answer.protocol_status}"
    try:
        status = answer.status(protocol)
    except Failure:
        return "no response head"
    return f"{status}{'' if answer.whole else ' cut'}" if status else "ended" if answer.whole else "nothing"


def differences(case: FuzzCase, ours: list[Seen], theirs: list[Seen], protocol: str = "") -> list[Finding]:
    """What two servers have made of the same case, the second perhaps in another protocol; its outcome stands last."""
    protocol = protocol or case.protocol
    for link, (one_seen, other_seen) in enumerate(zip(ours, theirs, strict=True)):
        about = "" if case.strict(link) else f"{case.rule or case.kind}: "
        first, second = outcome(case.protocol, one_seen), outcome(protocol, other_seen)
        if first != second:
            return [Finding("differs", f"{about}{first} / {second}")]
        for (asked, answer), (_, other) in zip(one_seen.answers, other_seen.answers, strict=False):
            found = _echoes_differ(asked, echoed(answer, case.protocol), echoed(other, protocol))
            if found:
                return [Finding("differs", found)]
    return []


def echoed(answer: Answer, protocol: str) -> Echo | None:
    """What the echo application said."""
    try:
        return Echo.parse(answer.body(protocol))
    except Failure:
        return None


def _echoes_differ(asked: Asked, first: Echo | None, second: Echo | None) -> str:
    if first is None or second is None:
        return ""
    for name, _ in asked.params:
        if name not in _SERVERS_OWN and first.params.get(name) != second.params.get(name):
            return "a parameter"
    return "the body" if first.body != second.body else ""
