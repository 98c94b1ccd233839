"""Servers that are broken on purpose: each oracle finds its own, shrinks it, and finds it again from the file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from gateways.testing.framing.fastcgi_records import PARAMS, STDIN, begin, rec
from gateways.wire.fuzz.campaign import Bounds, Campaign
from gateways.wire.fuzz.case import Asked, FuzzCase, Step
from gateways.wire.fuzz.features import features
from gateways.wire.fuzz.found import Found, Store, read_cases, slug
from gateways.wire.fuzz.generate import Generator
from gateways.wire.fuzz.oracles import Finding
from gateways.wire.fuzz.play import Ability, find_abilities
from gateways.wire.fuzz.trial import Trial
from gateways.wire.fuzz.watch import Watch
from gateways.wire.target import PROTOCOLS, Target, parse_target
from tests.fuzzing.broken import Broken, BrokenFastCGI, BrokenSCGI, BrokenUWSGI

PATIENT = 5.0
HASTY = 0.5
"""For an answer of a server that hangs."""
FAKES = {"fastcgi": BrokenFastCGI, "scgi": BrokenSCGI, "uwsgi": BrokenUWSGI}
CHUNKS = 6
"""In which something has to be found: another Python or hypothesis draws other cases."""
SMALLEST = 330
"""Bytes of the smallest legal request, or a few more: a web server's usual parameters and the token."""


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Broken]]:
    with BrokenFastCGI() as fastcgi, BrokenSCGI() as scgi, BrokenUWSGI() as uwsgi:
        yield {"fastcgi": fastcgi, "scgi": scgi, "uwsgi": uwsgi}


@cache
def cases_of(protocol: str, number: int = 0) -> list[FuzzCase]:
    return Generator(Target(protocol, ""), 1, Ability()).chunk(number)


def target_of(server: Broken) -> Target:
    return parse_target(f"{server.protocol}://127.0.0.1:{server.port}/")


def search(trial: Trial, name: str, kinds: tuple[str, ...] = ()) -> tuple[FuzzCase, Finding]:
    """The first of some cases whose class begins so."""
    seen = set()
    for case in itertools.chain.from_iterable(cases_of(trial.target.protocol, number) for number in range(CHUNKS)):
        if not kinds or case.kind in kinds:
            for finding in trial.run(case):
                if finding.name.startswith(name):
                    return case, finding
                seen.add(finding.name)
            if seen:
                trial.recovered()
    pytest.fail(f"{name} was not found, but {seen}")


def run(trial: Trial, name: str, store: Store | None = None) -> Found:
    """The first finding of a campaign whose class begins so."""
    store = store if store is not None else Store()
    bounded = Bounds(2_000, 100.0, plays=150)
    campaign = Campaign(trial, Generator(trial.target, 1, trial.ability), store, bounded)
    for _ in campaign.run():
        for each, found in store.classes.items():
            if each.startswith(name):
                return found
    pytest.fail(f"{name} was not found, but {list(store.classes)}")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_found_where_nothing_is_broken(servers: dict[str, Broken], protocol: str) -> None:
    servers[protocol].breaks("")
    target = target_of(servers[protocol])
    ability = find_abilities(target, PATIENT)
    assert ability == Ability(kept=protocol == "fastcgi", multiplexed=protocol == "fastcgi")
    trial = Trial(target, ability, PATIENT)
    assert [finding for case in cases_of(protocol)[:150] for finding in trial.run(case)] == []


@pytest.mark.parametrize(
    ("protocol", "rule", "name"),
    [
        ("fastcgi", "dies", "afterwards: unanswered: the connection closed"),
        ("scgi", "dies", "afterwards: unanswered: the connection closed"),
        ("uwsgi", "dies", "afterwards: unanswered: the connection closed"),
        ("fastcgi", "pairs-per-record", "unanswered: the connection closed"),
        ("fastcgi", "padding-in-content", "unanswered: the connection closed"),
        ("fastcgi", "params-kept", "foreign data: of another request of the connection"),
        ("fastcgi", "params-remembered", "afterwards: foreign data: of another connection"),
        ("scgi", "params-remembered", "foreign data: of another connection"),
        ("fastcgi", "end-twice", "malformed: records of active requests only"),
        ("fastcgi", "answers-as-2", "malformed: records of active requests only"),
        ("scgi", "body-plus", "changed: the body"),
        ("uwsgi", "lower", "changed: a parameter has another value"),
        ("uwsgi", "get-only", "unanswered: the connection closed"),
        ("uwsgi", "bad-field", "malformed: "),
    ],
)
def test_every_oracle_finds_what_is_broken(servers: dict[str, Broken], protocol: str, rule: str, name: str) -> None:
    servers[protocol].breaks(rule)
    trial = Trial(target_of(servers[protocol]), Ability(), PATIENT)
    case, finding = search(trial, name)
    assert any(trial.again(case, finding) for _ in range(5))  # a reset may overtake what it follows


@pytest.mark.parametrize(
    ("protocol", "rule", "wire", "broken"),
    [
        ("fastcgi", "lenient", begin(7, 1) + rec(PARAMS, 7, b"\x80") + rec(PARAMS, 7) + rec(STDIN, 7), "length-cut"),
        ("scgi", "netstring-ignored", b"024:CONTENT_LENGTH\x000\0SCGI\x001\0,", "length-zeros"),
        ("uwsgi", "lenient", b"\0\1\0\0\1", "size-cut"),
    ],
)
def test_a_broken_rule_is_served(
    servers: dict[str, Broken], protocol: str, rule: str, wire: bytes, broken: str
) -> None:
    case = FuzzCase(protocol, "illegal", (Step("send", 0, wire),), (), (0,), broken)
    trial = Trial(target_of(servers[protocol]), Ability(), PATIENT)
    for rules, found in (("", []), (rule, [f"accepted: {broken}"])):
        servers[protocol].breaks(rules)
        assert [finding.name for finding in trial.run(case)] == found


@pytest.mark.parametrize(
    ("protocol", "rule", "kind", "name"),
    [
        ("fastcgi", "abort-ignored", "abort", "unanswered: nothing in time"),
        ("scgi", "stuck", "foreign", "afterwards: unanswered: nothing in time"),
    ],
)
def test_a_server_that_hangs(servers: dict[str, Broken], protocol: str, rule: str, kind: str, name: str) -> None:
    servers[protocol].breaks(rule)
    search(Trial(target_of(servers[protocol]), Ability(), HASTY), name, (kind,))


def test_one_request_in_two_framings(servers: dict[str, Broken]) -> None:
    """Without the echo application nothing says which of the answers is the wrong one."""
    servers["fastcgi"].breaks("many-records")
    trial = Trial(target_of(servers["fastcgi"]), Ability(echo=False), PATIENT)
    search(trial, "framing: 200 / 404", ("framing",))


def test_descriptors_that_stay_open(servers: dict[str, Broken]) -> None:
    servers["scgi"].breaks("descriptors")
    trial = Trial(target_of(servers["scgi"]), Ability(), PATIENT, watch=Watch(os.getpid()))
    found = run(trial, "descriptors: stay open")
    assert found.again
    assert found.case.size <= 64


@pytest.mark.parametrize(
    ("protocol", "rule", "name", "most"),
    [
        ("scgi", "dies", "afterwards: unanswered: the connection closed", 8),
        ("fastcgi", "pairs-per-record", "unanswered: the connection closed", 2 * SMALLEST),
        ("uwsgi", "lower", "changed: a parameter has another value", 2 * SMALLEST),
        ("uwsgi", "params-remembered", "foreign data: of another connection", 5 * SMALLEST),
    ],
)
def test_a_case_is_made_small_and_kept(
    servers: dict[str, Broken], tmp_path: Path, protocol: str, rule: str, name: str, most: int
) -> None:
    server = servers[protocol]
    server.breaks(rule)
    target = target_of(server)
    found = run(Trial(target, Ability(), PATIENT), name, Store(str(tmp_path)))
    assert found.again
    assert found.case.size <= most
    # From the file, with another trial: it still fails, and no more once the server is mended.
    [(_, case, finding)] = [each for each in read_cases(str(tmp_path)) if each[0] == found.file]
    assert case == found.case
    server.breaks(rule)
    assert Trial(target, Ability(), PATIENT).replay(case, finding)[0].name == found.finding.name
    server.breaks("")
    assert Trial(target, Ability(), PATIENT).replay(case, finding) == []


def test_two_servers_of_one_protocol(servers: dict[str, Broken]) -> None:
    servers["uwsgi"].breaks("")
    with BrokenUWSGI() as other:
        other.breaks("lower")
        trial = Trial(target_of(servers["uwsgi"]), Ability(), PATIENT, target_of(other))
        search(trial, "differs: a parameter", ("sequence",))
        other.breaks("get-only")
        search(trial, "differs: 200 / nothing", ("sequence",))


def test_the_smallest_case_of_a_difference_breaks_its_rule_still(
    servers: dict[str, Broken], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where servers differ on less, too: other bytes may be right, or break another rule."""
    monkeypatch.setattr(Trial, "again", lambda trial, case, finding: True)
    trial = Trial(target_of(servers["scgi"]), Ability(), PATIENT)
    campaign = Campaign(trial, Generator(trial.target, 1, Ability()), Store(), Bounds(400, 60))
    case = next(case for case in cases_of("scgi") if case.rule and "rules" in case.number)
    assert campaign.smallest(Finding("differs", f"{case.rule}: 400 / 200", ""), case) == case
    assert campaign.smallest(Finding("malformed", "anything", ""), case) != case


def test_two_protocols(servers: dict[str, Broken]) -> None:
    for protocol in ("fastcgi", "scgi"):
        servers[protocol].breaks("")
    trial = Trial(target_of(servers["fastcgi"]), Ability(), PATIENT, target_of(servers["scgi"]))
    assert [finding for case in cases_of("fastcgi")[:100] for finding in trial.run(case)] == []
    servers["scgi"].breaks("body-plus")
    search(trial, "differs: the body", ("sequence",))


def test_a_server_that_does_not_come_back_ends_the_campaign(servers: dict[str, Broken]) -> None:
    servers["uwsgi"].breaks("fatal-errors")
    trial = Trial(target_of(servers["uwsgi"]), Ability(), HASTY)
    campaign = Campaign(trial, Generator(trial.target, 1, Ability()), Store(), Bounds(400, 60))
    for _ in campaign.run():
        pass
    assert campaign.ended == "the server does not answer any more"
    assert not campaign.store.classes["afterwards: unanswered: the connection closed"].again


def test_a_class_is_kept_once_and_counted(servers: dict[str, Broken], tmp_path: Path) -> None:
    servers["scgi"].breaks("body-plus")
    trial = Trial(target_of(servers["scgi"]), Ability(), PATIENT)
    store = Store(str(tmp_path))
    campaign = Campaign(trial, Generator(trial.target, 1, Ability()), store, Bounds(100, 60, plays=100))
    for _ in campaign.run():
        pass
    assert (campaign.done, campaign.ended) == (100, "count")
    assert [path.name for path in tmp_path.iterdir()] == ["scgi-changed-the-body-a-body.json"]
    assert store.classes["changed: the body (a body)"].count > 5


def test_one_symptom_of_two_causes(servers: dict[str, Broken]) -> None:
    """The second is found, though each of its cases looks like one of the first."""
    store = Store()
    plain = FuzzCase("scgi", "sequence", (), (Asked(0, 1, "A", (("A", "b"),)),))
    body = replace(plain, asked=(Asked(0, 1, "A", (("A", "b"), ("CONTENT_LENGTH", "1")), b"x"),))
    steps = (Step("send", 0, b"x"), Step("wait"))
    plain, body = [replace(case, steps=steps) for case in (plain, body)]
    finding = Finding("unanswered", "the connection closed")
    assert store.count(finding, body)
    store.add(finding, body, again=True)
    assert not store.count(finding, body)
    assert store.count(finding, plain)
    store.add(finding, plain, again=True)
    assert {name: found.count for name, found in store.classes.items()} == {
        "unanswered: the connection closed (a body)": 2,
        "unanswered: the connection closed": 1,
    }


def test_long_classes_have_files_of_their_own() -> None:
    names = [slug(f"changed: the body ({'a body, ' * 20}{last})") for last in "ab"]
    assert len(set(names)) == 2
    assert max(map(len, names)) < 100


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_unusual_about_a_case(protocol: str) -> None:
    said = {word for case in cases_of(protocol) for word in features(case)}
    assert said >= {"a body", "odd names", "odd values"}
    if protocol == "fastcgi":
        assert said >= {"padding", "interleaved", "several requests", "an abort", "FCGI_PARAMS in several records"}
    assert not any(features(case) for case in cases_of(protocol) if case.kind == "damaged")


def test_shards_have_each_a_part() -> None:
    trial = Trial(Target("scgi", ""), Ability(), PATIENT)

    def chunks(shard: int) -> list[str]:
        cases = Campaign(trial, Generator(trial.target, 5, Ability()), Store(), Bounds(1, 1, shard, 2)).cases()
        return list(dict.fromkeys(next(cases).number.split("/")[1] for _ in range(300)))

    assert chunks(1) == ["0", "2"]
    assert chunks(2) == ["1", "3"]
