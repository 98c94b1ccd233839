"""One case against one server, or two, with all oracles: what a campaign, shrinking and ``--replay`` have in common."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gateways.wire import fastcgi, single
from gateways.wire.fuzz.case import Asked, FuzzCase, Step
from gateways.wire.fuzz.oracles import Finding, differences, judge
from gateways.wire.fuzz.play import Ability, Seen, play
from gateways.wire.fuzz.watch import Watch
from gateways.wire.target import Target

__all__ = ["Trial", "plain_case"]

REMEMBERED: Final = 200_000
"""Tokens of earlier cases that are known when they come back."""
TRANSFERRED: Final = 60_000
"""Bytes of parameters, with room for the target's own."""
LEAKS: Final = 8
"""How often a case is repeated to see that each time a descriptor stays open."""
PACES: Final = 50
SOON: Final = 0.1
MANY: Final = 40
PAUSE: Final = 0.01
GONE: Final = ("no connection", "unanswered")


def plain_case(target: Target, asked: Iterable[Asked], kind: str = "plain") -> FuzzCase:
    """These requests in the simplest framing, each on a connection of its own."""
    steps, requests = [], []
    for link, each in enumerate(asked):
        params = target.request_params() | dict(each.params)
        if each.body:
            params["CONTENT_LENGTH"] = str(len(each.body))
        if target.protocol == "fastcgi":
            wire = fastcgi.request(1, params, each.body, role=1 if each.role == "responder" else 2)
        else:
            wire = single.message(target.protocol, params, each.body)
        steps.append(Step("send", link, wire))
        requests.append(replace(each, link=link, number=1, turn=0))
    return FuzzCase(target.protocol, kind, tuple(steps), tuple(requests))


def is_transferable(asked: Asked) -> bool:
    """Whether every protocol can carry the request: uwsgi has 64 KiB for parameters, SCGI ends each with NUL."""
    texts = [text for pair in asked.params for text in pair]
    return not asked.aborted and sum(map(len, texts)) + 4 * len(texts) < TRANSFERRED and "\0" not in "".join(texts)


class Trial:
    """A server under test; ``other`` is compared with it, ``watch`` sees its processes."""

    def __init__(
        self, target: Target, ability: Ability, seconds: float, other: Target | None = None, watch: Watch | None = None
    ) -> None:
        self.target = target
        self.ability = ability
        self.seconds = seconds
        """For each answer; a server that has to start anew has as long as was given first."""
        self._patience = seconds
        self.other = other
        self.watch = watch
        self._tokens: OrderedDict[str, None] = OrderedDict()
        self._probes = 0
        self._times: deque[float] = deque(maxlen=PACES)

    def run(self, case: FuzzCase) -> list[Finding]:
        """Play it and ask every oracle; the server is asked a good request after it."""
        mine = {asked.token for asked in case.asked}
        seen = play(case, self.target, self.seconds)
        found = judge(case, seen, lambda token: token not in mine and token in self._tokens, echo=self.ability.echo)
        if self.other is not None:
            found += self._compare(case, seen)
        self._remember(mine)
        if self.watch is not None:
            found += [
                Finding(
                    "process gone", "the process of --pid" if pid == self.watch.pid else "one below --pid", str(pid)
                )
                for pid in self.watch.gone()
            ][:1]
        return [*found, *self.probe()]

    def again(self, case: FuzzCase, finding: Finding) -> bool:
        """Whether the case leads to a finding of the same class; the server is waited for before."""
        if not self.recovered():
            return False
        if finding.oracle == "descriptors":
            return self.leaks(case)
        return any(each.name == finding.name for each in self.run(case))

    def replay(self, case: FuzzCase, finding: Finding) -> list[Finding]:
        """What is found with a kept case, that which it was kept for first."""
        self.recovered()
        if finding.oracle == "descriptors":
            return [finding] if self.leaks(case) else []
        return sorted(self.run(case), key=lambda each: each.name != finding.name)

    def probe(self) -> list[Finding]:
        """What is wrong with the answer to a request that is known to be good."""
        self._probes += 1
        text = f"{os.getpid()}/{time.time_ns()}/{self._probes}"
        token = "GWFZ" + hashlib.sha256(text.encode()).hexdigest()[:16].upper()
        params = (("HTTP_X_FUZZ", token), (f"FUZZ_{token}", "1"))
        case = plain_case(self.target, [Asked(0, 1, token, params)])
        start = time.monotonic()
        seen = play(case, self.target, self.seconds)
        self._times.append(time.monotonic() - start)
        found = judge(case, seen, self._tokens.__contains__, echo=self.ability.echo)
        self._remember([token])
        return [Finding("afterwards", each.name, each.detail) for each in found]

    @property
    def pace(self) -> float:
        """Seconds within which this server answers when nothing is wrong: many times what it takes for most."""
        usual = sorted(self._times)
        return max(SOON, MANY * usual[len(usual) // 2]) if usual else self._patience

    def recovered(self) -> bool:
        """Whether the server answers; where not, it is waited for, as long as for any answer."""
        deadline = time.monotonic() + self._patience
        while any(each.what.startswith(GONE) for each in self.probe()):
            if time.monotonic() > deadline:
                return False
            time.sleep(PAUSE)
        if self.watch is not None:
            self.watch.gone()  # what had gone has been told
        return True

    def leaks(self, case: FuzzCase) -> bool:
        """Whether a descriptor stays open for each time that the case is played."""
        if self.watch is None:
            return False
        before = self.watch.settled(0, 0.05).descriptors
        for _ in range(LEAKS):
            play(case, self.target, self.seconds)
        self.probe()
        return self.watch.settled(before, 0.1).descriptors >= before + LEAKS

    def _compare(self, case: FuzzCase, seen: list[Seen]) -> list[Finding]:
        """Give the other server the same bytes, or where it has another protocol the same requests."""
        other = self.other
        if other is None:
            return []
        if other.protocol == case.protocol:
            return differences(case, seen, play(case, other, self.seconds))
        pairs = [pair for link, each in enumerate(seen) if case.strict(link) for pair in each.answers]
        pairs = [(asked, answer) for asked, answer in pairs if is_transferable(asked)]
        ours = [Seen([(replace(asked, number=1), replace(answer, number=1))]) for asked, answer in pairs]
        theirs = play(plain_case(other, [asked for asked, _ in pairs], case.kind), other, self.seconds)
        return differences(case, ours, theirs, other.protocol)

    def _remember(self, tokens: Iterable[str]) -> None:
        self._tokens.update(dict.fromkeys(tokens))
        while len(self._tokens) > REMEMBERED:
            self._tokens.popitem(last=False)
