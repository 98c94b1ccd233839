from __future__ import annotations

import json
from functools import cache

import pytest

from gateways.errors import ConfigError
from gateways.testing.framing import fastcgi, scgi, uwsgi
from gateways.wire.fuzz.case import Asked, FuzzCase, Step, from_dict, joined, to_dict
from gateways.wire.fuzz.corpus import corpus, foreign
from gateways.wire.fuzz.generate import Generator
from gateways.wire.fuzz.play import Ability
from gateways.wire.fuzz.wrong import WRONG
from gateways.wire.target import PROTOCOLS, Target

RULES = {"fastcgi": fastcgi.RULES, "scgi": scgi.RULES, "uwsgi": uwsgi.RULES}


def generator(protocol: str, seed: int = 1, ability: Ability | None = None) -> Generator:
    return Generator(Target(protocol, "/nowhere"), seed, ability or Ability())


@cache
def some(protocol: str, number: int = 0) -> list[FuzzCase]:
    return generator(protocol).chunk(number)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_seed_gives_the_same_cases(protocol: str) -> None:
    cases = some(protocol)
    assert cases == generator(protocol).chunk(0)
    assert len(cases) > 100
    assert len({case.number for case in cases}) == len(cases)
    assert {case.number.split("/")[0] for case in cases} == {"1"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_campaign_begins_with_every_rule(protocol: str) -> None:
    rules = [case.rule for case in some(protocol)[: len(WRONG[protocol])]]
    assert rules == [rule for rule, _ in WRONG[protocol]]
    assert set(rules) <= set(RULES[protocol])


def test_another_seed_and_another_chunk_give_others() -> None:
    first = some("scgi")
    assert first not in (generator("scgi", 2).chunk(0), generator("scgi").chunk(1))


def test_every_kind_comes() -> None:
    assert {case.kind for case in some("fastcgi")} == {
        "sequence",
        "framing",
        "illegal",
        "cut",
        "foreign",
        "beside",
        "abort",
        "damaged",
    }


def test_what_the_server_cannot_do_is_not_asked() -> None:
    cases = generator("fastcgi", 1, Ability(kept=False, multiplexed=False, concurrent=False)).chunk(0)
    assert not {case.kind for case in cases} & {"beside", "abort"}
    for case in cases:
        if case.kind == "sequence":
            assert len(case.asked) == 1


def test_each_request_has_a_token_of_its_own_that_is_sent() -> None:
    cases = [case for case in some("uwsgi") if case.kind in ("sequence", "beside")]
    tokens = [asked.token for case in cases for asked in case.asked]
    assert len(set(tokens)) == len(tokens) > 10
    for case in cases:
        for asked in case.asked:
            sent = b"".join(step.data for step in case.steps if step.link == asked.link)
            assert sent.count(asked.token.encode()) == 2 + (asked.token.encode() in asked.body)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_corpus_is_that_of_conform(protocol: str) -> None:
    wires = corpus(protocol)
    assert len(wires) > 80
    assert max(map(len, wires)) <= 4_096
    assert not [wire for wire in wires if b"size=" in wire]
    assert b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" in foreign(protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_has_the_whole_case(protocol: str) -> None:
    for case in some(protocol)[-60:]:
        found = from_dict(json.loads(json.dumps(to_dict(case))))
        assert (found, found.number) == (case, case.number)


def test_bytes_of_a_file_can_be_read() -> None:
    case = FuzzCase("scgi", "damaged", (Step("send", 0, b"3:A\\\0\xff\n,"), Step("end")))
    assert to_dict(case)["steps"][0]["bytes"] == r"3:A\x5c\x00\xff\x0a,"


@pytest.mark.parametrize(
    "change",
    [
        {"gateways-fuzz": 2},
        {"steps": [{"do": "dance", "link": 0}]},
        {"steps": [{"do": "send", "link": 0, "bytes": r"\y"}]},
        {"steps": 5},
        {"requests": [{}]},
    ],
)
def test_what_is_no_case(change: dict[str, object]) -> None:
    good = to_dict(FuzzCase("scgi", "damaged", (Step("end"),)))
    with pytest.raises(ConfigError):
        from_dict(good | change)


def test_joined_cases_expect_what_the_last_does() -> None:
    one = FuzzCase("scgi", "sequence", (Step("send", 0, b"a"), Step("wait")), (Asked(0, 1, "A"),))
    two = FuzzCase("scgi", "beside", (Step("send", 0, b"b"), Step("send", 1, b"c")), (Asked(1, 1, "B"),), (0,))
    both = joined([one, two])
    assert [(step.link, step.data) for step in both.steps] == [(0, b"a"), (0, b""), (1, b"b"), (2, b"c")]
    assert [(asked.link, asked.token) for asked in both.asked] == [(0, "A"), (2, "B")]
    assert both.loose == (0, 1)
