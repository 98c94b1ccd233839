from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase

import pytest

from gateways.errors import ConfigError
from gateways.wire.cases.fronts import FRONT_SUITES
from gateways.wire.conform import select
from gateways.wire.front import FrontCase
from gateways.wire.fronts import FrontRun
from gateways.wire.report import text_lines
from gateways.wire.target import Target
from gateways.wire.web import FrontEnd
from tests.conform.fake_front import FakeFront
from tests.conform.fake_multiplex import MultiplexFront

PATIENT = 5.0
HASTY = 0.3
"""For web servers that hang: nothing but a failure is expected of these."""
PACKETS = 10
"""How often a case about packets is tried: the system may join two that were sent apart."""

REQUESTS = {
    "params.method.*": "method-lower",
    "params.query.question": "query-last-mark",
    "params.query.none": "query-absent",
    "params.query.*": "query-decoded",
    "params.protocol.1.1": "protocol-HTTP/1.0",
    "params.protocol.1.0": "protocol-HTTP/1.1",
    "params.server": "no-server",
    "params.remote": "remote-name",
    "params.gateway": "no-gateway",
    "params.path.told": "no-path",
    "params.path.once": "path-twice",
    "params.path.uri": "uri-decoded",
    "params.path.*": "path-raw",
    "params.host": "host-without-port",
    "params.type": "no-type",
    "params.cookie": "no-cookie",
    "params.header.name": "digits-dropped",
    "params.header.size.*": "value-off-by-one",
    "params.header.bytes.punctuation": "escaped",
    "params.header.bytes.percent": "unquoted",
    "params.header.bytes.*": "ascii-only",
    "params.header.empty": "empty-is-next",
    "params.header.blanks": "unstripped",
    "params.header.repeated": "repeated-apart",
    "params.header.underscore": "underscore-passed",
    "params.header.many": "50-fields",
    "params.header.much.*": "values-cut",
    "params.httpoxy": "httpoxy",
    "params.names": "nameless",
    "params.duplicates": "duplicates",
    "requests.sequence": "params-remembered",
    "requests.concurrent": "answers-mixed",
    "body.chunked.served": "chunked-refused",
    "body.chunked.*": "chunks-kept",
    "client.short": "short-served",
    "client.leaves": "abort-ignored",
}
RESPONSES = {
    "response.status.200": "status-500",
    "response.status.204*": "body-always",
    "response.status.304": "body-always",
    "response.status.no-reason": "reason-needed",
    "response.status.none": "status-needed",
    "response.status.*": "status-200",
    "response.location.alone": "location-200",
    "response.location.status": "location-302",
    "response.head.lf": "crlf-needed",
    "response.head.split.*": "one-read",
    "response.head.bytes": "one-read",
    "response.head.cookies": "fields-joined",
    "response.head.type": "type-text",
    "response.head.lower": "lower-dropped",
    "response.head.no-blank": "blank-needed",
    "response.head.empty": "empty-refused",
    "response.head.octets": "ascii-response",
    "response.head.long": "long-cut",
    "response.head.many": "20-headers",
    "response.head.large.*": "head-4k",
    "response.body.pieces": "one-read",
    "response.body.slow": "one-read",
    "response.body.to-head": "head-body",
    "response.body.early": "status-200",
    "response.body.*": "response-plus",
    "response.broken.length.short": "length-passed",
    "response.broken.length.long": "length-filled",
    "response.broken.*": "lenient",
    "response.gone.*": "lenient",
}
FASTCGI = {
    "record.id": "id",
    "record.active": "inactive",
    "record.whole": "cut",
    "record.*": "=",
    "management.id": "management",
    "begin.once": "twice",
    "begin.role": "role",
    "begin.flags": "flags",
    "begin.*": "=-",
    "params.pairs": "pairs",
    "params.end": "params-end",
    "params.first": "order",
    "stdin.end": "stdin-end",
    "stdin.length": "length",
    "stdin.data": "data",
    "ends.*": "no-stdin-end",
    "keep.not-asked": "keep-unasked",
    "keep.reused": "never-reused",
    "keep.own": "params-remembered",
    "keep.closed": "stale",
    "keep.early": "body-remembered",
    "keep.failed": "answer-remembered",
    "keep.end-split": "end-content-left",
    "keep.management": "idle-bytes",
    "multiplex.ids": "same-id",
    "multiplex.bodies": "bodies-mixed",
    "multiplex.left": "abort-closes",
    "multiplex.failed": "refusal-closes",
    "multiplex.*": "answers-joined",
    "answer.stdout.records.*": "first-stdout",
    "answer.stdout.padded.*": "padding-in-content",
    "answer.stdout.longest*": "records-32k",
    "answer.stdout.65528": "records-32k",
    "answer.stdout.many": "100-records",
    "answer.packets.*": "one-read",
    "answer.stdout.no-end": "end-needed",
    "answer.end.apart": "one-read",
    "answer.end.app-status*": "app-status",
    "answer.end.reserved": "reserved-checked",
    "answer.end.missing": "eof-hang",
    "answer.record.reserved-set": "reserved-checked",
    "answer.stderr.alone": "lenient",
    "answer.stderr.*": "stderr-in-stdout",
    "answer.end.*": "lenient",
    "answer.unknown.*": "management-refused",
    "answer.other.stdout": "ids-ignored",
    "answer.bad.version": "version-ignored",
    "answer.bad.id": "ids-ignored",
    "answer.bad.cut": "lenient",
}
SCGI = {
    "netstring.length": "netstring-zero",
    "netstring.comma": "no-comma",
    "headers.strings": "no-last-nul",
    "headers.first": "length-last",
    "headers.length": "length-empty",
    "headers.scgi": "no-scgi",
    "headers.once": "duplicates",
    "body.counted": "surplus",
    "connection.one": "surplus",
}
UWSGI = {
    "packet.modifiers": "modifier",
    "packet.size": "datasize",
    "packet.length": "bad-length",
    "body.counted": "surplus",
    "connection.one": "surplus",
}
COMMON = REQUESTS | {"body.*": "body-plus"} | RESPONSES
BREAKS = {"fastcgi": FASTCGI | COMMON, "scgi": SCGI | COMMON, "uwsgi": UWSGI | COMMON}
"""For each case, or group of them, the rule that a web server must break to fail it; the first that matches counts."""
WIDE = {"status-500", "no-stdin-end-get", "length-empty"}
"""Rules without which not even a plain request is served."""
KINDS = [("fastcgi", True), ("fastcgi", False), ("scgi", False), ("uwsgi", False)]
ALL = [case for suite in FRONT_SUITES.values() for case in suite]


class Fronts:
    """A web server of each protocol, and one that keeps connections; each with the backend that judges it."""

    def __init__(self, stack: ExitStack) -> None:
        self.made: dict[tuple[str, bool], tuple[FakeFront, FrontRun]] = {}
        for protocol, keep in KINDS:
            self.add(protocol, keep, stack.enter_context(FakeFront(protocol, keep=keep)), stack)
        self.add("multiplex", True, stack.enter_context(MultiplexFront()), stack)

    def add(self, name: str, keep: bool, fake: FakeFront, stack: ExitStack) -> None:
        target = Target(fake.protocol, fake.backend)
        run = stack.enter_context(FrontRun(FrontEnd("127.0.0.1", fake.port), target, PATIENT))
        self.made[name, keep] = fake, run

    def of(self, case: FrontCase) -> tuple[FakeFront, FrontRun]:
        """The web server that can break the case's rule."""
        protocol = case.id.partition(".")[0]
        if case.id.startswith("fastcgi.front.multiplex."):
            return self.made["multiplex", True]
        return self.made[protocol, protocol == "fastcgi"]


@pytest.fixture(scope="module")
def fronts() -> Iterator[Fronts]:
    with ExitStack() as stack:
        yield Fronts(stack)


def rule_for(case: FrontCase) -> str:
    protocol, _, name = case.id.partition(".front.")
    rule = next(rule for pattern, rule in BREAKS[protocol].items() if fnmatchcase(name, pattern))
    last = name.rpartition(".")[2]
    if rule == "no-stdin-end":
        return f"{rule}-{last}"
    return {"=": last, "=-": name.replace(".", "-")}.get(rule, rule)


@pytest.mark.parametrize(("protocol", "keep"), KINDS)
def test_a_web_server_that_breaks_no_rule_passes_all(fronts: Fronts, protocol: str, keep: bool) -> None:
    fake, run = fronts.made[protocol, keep]
    fake.breaks("")
    run.seconds = PATIENT
    run.probe()
    results = list(run.run_cases(FRONT_SUITES[protocol]))
    bad = [result for result in results if result.verdict == "fail"]
    assert not bad, "\n".join(text_lines(bad))
    skipped = {result.case.id.removeprefix("fastcgi.front.") for result in results if result.verdict == "skip"}
    if keep:
        assert {name for name in skipped if not name.startswith("multiplex.")} == {"keep.not-asked"}
    else:
        assert all(name.startswith(("keep.", "multiplex.")) and name != "keep.not-asked" for name in skipped)


def test_one_that_multiplexes_passes_those_cases(fronts: Fronts) -> None:
    fake, run = fronts.made["multiplex", True]
    fake.breaks("")
    run.seconds = PATIENT
    results = list(run.run_cases(select("fastcgi", ["fastcgi.front.multiplex"], FRONT_SUITES)))
    assert [result.verdict for result in results] == ["pass"] * 6, "\n".join(text_lines(results, every=True))


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_each_case_fails_with_a_web_server_that_breaks_its_rule(fronts: Fronts, case: FrontCase) -> None:
    rule = rule_for(case)
    fake, run = fronts.of(case)
    run.seconds = HASTY
    verdict = "pass"
    for _ in range(PACKETS if rule == "one-read" else 1):
        fake.breaks(rule)
        verdict = run.run_case(case).verdict
        if verdict != "pass":
            break
    assert verdict == "fail", rule


@pytest.mark.parametrize("protocol", FRONT_SUITES)
def test_a_broken_rule_is_a_narrow_one(fronts: Fronts, protocol: str) -> None:
    """The plain request is served all the same, so it is the case's own rule that fails it."""
    unserved = set()
    for rule, (fake, run) in {rule_for(case): fronts.of(case) for case in FRONT_SUITES[protocol]}.items():
        run.seconds = 1.0
        run.hub.close()
        fake.breaks(rule)
        try:
            run.probe()
        except ConfigError:
            unserved.add(rule)
    assert unserved <= WIDE


def test_every_row_is_of_use() -> None:
    for protocol, suite in FRONT_SUITES.items():
        names = [case.id.partition(".front.")[2] for case in suite]
        used = {next(pattern for pattern in BREAKS[protocol] if fnmatchcase(name, pattern)) for name in names}
        assert used == set(BREAKS[protocol])


def test_numbers() -> None:
    assert {protocol: len(suite) for protocol, suite in FRONT_SUITES.items()} == {
        "fastcgi": 215,
        "scgi": 145,
        "uwsgi": 141,
    }
    assert len({case.id for case in ALL}) == len(ALL)
    assert all(case.id.startswith(f"{protocol}.front.") for protocol, suite in FRONT_SUITES.items() for case in suite)
    assert all(case.title and case.section for case in ALL)


def test_the_choice_of_cases() -> None:
    assert [case.id for case in select("scgi", ["scgi.front.netstring"], FRONT_SUITES)] == [
        "scgi.front.netstring.length",
        "scgi.front.netstring.comma",
    ]
