from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

import pytest

from gateways.wire.case import Case, Context, Failure
from gateways.wire.cases import ALIVE, SUITES
from gateways.wire.conform import choose, probe, run_case, run_cases
from gateways.wire.report import text_lines
from gateways.wire.target import Target, parse_target
from tests.conform.fake_fastcgi import FastCGIFake
from tests.conform.fake_single import SCGIFake, UWSGIFake
from tests.conform.fakes import Fake

PATIENT = 5.0
HASTY = 0.1
"""For servers that hang: nothing but a failure is expected of these."""
PACKETS = 100
"""How often a case about packets is tried: the system may join two that were sent apart."""

FASTCGI = {
    "framing.padding-junk.*": "padding-checked",
    "framing.padding.*": "padding-in-content",
    "framing.reserved.*": "reserved-checked",
    "framing.split.*": "request-in-one-read",
    "framing.split*": "header-in-one-read",
    "framing.id.1": "answers-as-2",
    "framing.id.*": "answers-as-1",
    "framing.begin-reserved": "begin-reserved-checked",
    "framing.flags.fe": "flags-nonzero",
    "framing.flags.ff": "flags-equal",
    "framing.version.*": "version-ignored",
    "framing.foreign.*": "errors-hang",
    "framing.cut.stdin": "eof-serves",
    "framing.cut.*": "eof-hang",
    "framing.begin-length.*": "begin-any-length",
    "params.value.[01]": "value-off-by-one",
    "params.value.12[67]": "value-off-by-one",
    "params.value.*": "short-lengths",
    "params.name.9": "name-off-by-one",
    "params.name.12[67]": "name-off-by-one",
    "params.name.*": "short-lengths",
    "params.long-form.*": "short-lengths",
    "params.split.*": "pairs-per-record",
    "params.records.*": "pairs-per-record",
    "params.*over-64k": "params-64k",
    "params.none": "no-params-hang",
    "params.bad.*": "lenient",
    "params.survives.*": "fatal-errors",
    "params.much.*": "fatal-much",
    "stdin.body.*": "body-plus",
    "stdin.records.*": "first-stdin-record",
    "stdin.no-length": "by-length",
    "stdin.empty-length": "by-length",
    "stdin.no-body-*": "content-length-required",
    "stdin.records-in-body": "body-plus",
    "stdin.shorter": "waits-for-length",
    "stdin.longer": "leftover",
    "stdin.extra-end": "inactive-closes",
    "stdin.late": "late-taken",
    "stdin.parts": "first-stdin-record",
    "stdin.bad-length.*": "any-length",
    "stdin.unread.*": "unread-no-answer",
    "stdin.unread-kept": "leftover",
    "order.early-body": "early-stdin-dropped",
    "order.*": "fatal-errors",
    "stdout.size.65536": "one-record",
    "stdout.size.1*0*": "one-record",
    "stdout.size.131072": "one-record",
    "stdout.size.*": "response-plus",
    "stdout.end": "no-stdout-end",
    "stdout.app-status": "app-status",
    "stdout.nothing-after": "end-twice",
    "stderr.apart": "stderr-in-stdout",
    "values.all": "values-mpxs",
    "values.then-request": "values-silent",
    "values.between-requests": "values-silent",
    "values.within.*": "values-silent",
    "values.*": "values-everything",
    "unknown-type.*": "unknown-silent",
    "inactive.within.*": "ids-ignored",
    "inactive.*": "inactive-closes",
    "hostile.begin-0": "id-0-served",
    "hostile.values-64k": "eof-hang",
    "hostile.values-*": "fatal-errors",
    "hostile.*": "eof-hang",
    "response.no-line": "status-line",
    "role.then-next": "role-closes",
    "role.authorizer": "authorizer-waits",
    "role.filter": "filter-hang",
    "role.*": "any-role",
    "keep.not": "always-keep",
    "keep.forgotten": "params-remembered",
    "keep.*": "never-keep",
    "pipelined.*": "one-at-a-time",
    "multiplex.as-told": "cannot-multiplex",
    "multiplex.*": "ids-ignored",
    "active-id.begin": "fatal-errors",
    "active-id.*": "merged",
    "abort.stdin-end": "inactive-closes",
    "abort.beside": "abort-all",
    "abort.close": "fatal-abort",
    "abort.*": "abort-ignored",
    "disconnect.*": "fatal-eof",
    "limits.requests.*": "fatal-many",
    "limits.*": "no-limits",
}
COUNTED = {
    "body.after.*": "trailing-refused",
    "body.unread.*": "unread-no-answer",
    "body.*": "body-plus",
    "length.absent": "content-length-required",
    "length.empty": "content-length-required",
    "length.zero": "zero-refused",
    "length.bad.*": "any-length",
    "split.*": "one-read",
    "end.early": "early-end",
    "params.value.*": "value-off-by-one",
    "params.name.*": "name-off-by-one",
    "cut.body.*": "eof-serves",
    "cut.*": "eof-hang",
    "disconnect.*": "fatal-eof",
    "connections.silent": "serial",
    "connections.interleaved": "body-plus",
}
SCGI = COUNTED | {
    "response.no-line": "status-line",
    "foreign.*": "errors-hang",
    "order.first": "silent",
    "order.*": "order-strict",
    "netstring.*": "netstring-ignored",
    "headers.*": "lenient",
}
UWSGI = COUNTED | {
    "foreign.*": "errors-hang",
    "modifier1.*": "any-modifier",
    "modifier2": "modifier2-checked",
    "datasize.full": "datasize-15-bits",
    "datasize.nothing": "empty-served",
    "datasize.too-large": "eof-serves",
    "datasize.too-small": "lenient",
    "vars.*": "lenient",
    "response.line": "no-status-line",
    "variables.data": "fatal-file",
}
COMMON = {
    "params.bytes.utf-8": "ascii-only",
    "params.bytes.latin-1": "ascii-only",
    "params.bytes.high": "ascii-only",
    "params.bytes.controls": "controls-dropped",
    "params.bytes.newline": "controls-dropped",
    "params.bytes.equals": "cut-at-equals",
    "params.bytes.percent": "unquoted",
    "params.bytes.blanks": "stripped",
    "params.hundreds": "100-params",
    "params.httpoxy": "httpoxy",
    "response.status.200": "status-500",
    "response.status.*": "status-200",
    "response.fields": "bad-field",
    "response.crlf": "bare-lf",
    "response.no-chunks": "chunked",
    "response.no-hop": "connection",
    "response.one-status": "two-status",
    "response.length": "wrong-length",
    "response.type": "no-type",
    "response.small": "large-head",
    "response.size.*": "response-plus",
    "response.stderr": "stderr-in-stdout",
    "response.method.get": "silent",
    "response.method.*": "get-only",
}
BREAKS = {"fastcgi": FASTCGI | COMMON, "scgi": SCGI | COMMON, "uwsgi": UWSGI | COMMON}
"""For each case, or group of them, the rule that a server must break to fail it; the first that matches counts."""
FAKES = {"fastcgi": FastCGIFake, "scgi": SCGIFake, "uwsgi": UWSGIFake}
ALL = [case for suite in SUITES.values() for case in suite]


@pytest.fixture(scope="module")
def fakes() -> Iterator[dict[str, Fake]]:
    with FastCGIFake() as fastcgi, SCGIFake() as scgi, UWSGIFake() as uwsgi:
        yield {"fastcgi": fastcgi, "scgi": scgi, "uwsgi": uwsgi}


def target_of(fake: Fake) -> Target:
    return parse_target(f"{fake.protocol}://127.0.0.1:{fake.port}/")


def rule_for(case: Case) -> str:
    protocol, _, name = case.id.partition(".")
    return next(rule for pattern, rule in BREAKS[protocol].items() if fnmatchcase(name, pattern))


@pytest.mark.parametrize("protocol", FAKES)
def test_a_server_that_breaks_no_rule_passes_all(fakes: dict[str, Fake], protocol: str) -> None:
    fake = fakes[protocol]
    fake.breaks("")
    target = target_of(fake)
    assert probe(target, PATIENT)
    results = list(run_cases(target, SUITES[protocol], PATIENT, echo=True))
    assert [result.verdict for result in results] == ["pass"] * len(results), "\n".join(text_lines(results))


def test_a_modifier_may_be_refused_by_a_packet(fakes: dict[str, Fake]) -> None:
    fakes["uwsgi"].breaks("packet-answer")
    results = list(run_cases(target_of(fakes["uwsgi"]), choose("uwsgi", ["uwsgi.modifier1"]), PATIENT, echo=True))
    assert {result.verdict for result in results} == {"pass"}, "\n".join(text_lines(results))


def test_a_second_begin_may_be_refused_and_the_first_go_on(fakes: dict[str, Fake]) -> None:
    fakes["fastcgi"].breaks("second-refused")
    [case] = choose("fastcgi", ["fastcgi.active-id.begin"])
    assert run_case(case, target_of(fakes["fastcgi"]), PATIENT, echo=True).verdict == "pass"


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_each_case_fails_with_a_server_that_breaks_its_rule(fakes: dict[str, Fake], case: Case) -> None:
    fake = fakes[case.id.partition(".")[0]]
    rule = rule_for(case)
    verdict = "pass"
    for _ in range(PACKETS if "one-read" in rule else 1):
        fake.breaks(rule)
        verdict = run_case(case, target_of(fake), HASTY, echo=True).verdict
        if verdict != "pass":
            break
    assert verdict == "fail", rule


@pytest.mark.parametrize("protocol", FAKES)
def test_a_broken_rule_is_a_narrow_one(fakes: dict[str, Fake], protocol: str) -> None:
    """The plain request is served all the same, so it is the case's own rule that fails it."""
    fake = fakes[protocol]
    unserved = set()
    for rule in {rule_for(case) for case in SUITES[protocol]}:
        fake.breaks(rule)
        context = Context(target_of(fake), 1.0, echo=True)
        try:
            ALIVE[protocol](context)
        except Failure:
            unserved.add(rule)
        finally:
            context.close()
    assert unserved <= {"answers-as-2", "bad-field", "silent"}


def test_every_row_is_of_use() -> None:
    for protocol, suite in SUITES.items():
        assert {rule_for(case) for case in suite} == set(BREAKS[protocol].values())


def test_numbers() -> None:
    counts = {protocol: len(suite) for protocol, suite in SUITES.items()}
    assert counts["fastcgi"] >= 150
    assert counts["scgi"] >= 80
    assert counts["uwsgi"] >= 80
    assert len({case.id for case in ALL}) == len(ALL)
    assert all(case.id.partition(".")[0] in SUITES for case in ALL)
    assert all(case.title and case.section for case in ALL)
