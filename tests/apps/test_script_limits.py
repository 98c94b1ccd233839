"""Limits of scripts, all together and each."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateways.limits import ScriptLimits
from tests.apps.scripts import HEAD, MIB, Root, answering, pid_in
from tests.server.peers import request
from tests.server.pools import within


def test_200_requests_at_a_limit_of_20(root: Root) -> None:
    root.sh("busy", *HEAD, "sleep 0.05; echo ok")
    most = 0
    limits = ScriptLimits(concurrency=20, queue=200)
    with answering(root, "scgi", threads=220, limits=limits) as (served, app):
        peers = [served.connect() for _ in range(200)]
        for peer in peers:
            peer.send(request("scgi", "/busy"))
        answers = []
        for peer in peers:
            with peer:
                answers.append(peer.answer())
                most = max(most, app.turns.taken)
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"ok\n")}
        assert 5 < most <= 20


def test_503_beyond_the_queue(root: Root, note: Path) -> None:
    root.sh("waits", f"echo $$ >{note}", f"while [ ! -s {note}.go ]; do sleep 0.02; done", *HEAD, "echo ok")
    go = root.note(note.name + ".go")
    limits = ScriptLimits(concurrency=1, queue=1)
    with answering(root, limits=limits) as (served, app), served.connect() as one, served.connect() as two:
        one.send(request("http", "/waits"))
        within(lambda: app.turns.taken == 1, "the first runs")
        two.send(request("http", "/waits"))
        within(lambda: app.turns.waiting == 1, "the second waits")
        with served.connect() as three:
            answer = three.get("/waits")
        assert answer.status == 503
        assert b"Retry-After: " in answer.head
        served.log.only("1 scripts run already, and 1 requests wait")
        go.write_text("go\n")
        assert one.answer().body == b"ok\n"
        assert two.answer().body == b"ok\n"


def test_a_client_that_goes_away_while_it_waits(root: Root, note: Path) -> None:
    root.sh("first", f"echo $$ >{note}", "sleep 60")
    limits = ScriptLimits(concurrency=1, queue=1)
    with answering(root, limits=limits) as (served, app), served.connect() as one:
        one.send(request("http", "/first"))
        pid_in(note)
        with served.connect() as two:
            two.send(request("http", "/first"))
            within(lambda: app.turns.waiting == 1, "the second waits")
        within(lambda: app.turns.waiting == 0, "it waits no more")


@pytest.mark.parametrize(
    ("limits", "lines", "told"),
    [
        (ScriptLimits(cpu_seconds=1), ["while :; do :; done"], "killed by SIGXCPU"),
        (ScriptLimits(open_files=10), ["exec 11</dev/null", *HEAD], "exit status"),
        (ScriptLimits(max_output=1000), ["head -c 2000 /dev/zero"], "more than 1000 bytes"),
    ],
)
def test_limits_of_one_script(root: Root, limits: ScriptLimits, lines: list[str], told: str) -> None:
    root.sh("limited", *lines)
    with answering(root, limits=limits) as (served, _):
        with served.connect() as peer:
            assert peer.get("/limited").status == 502
        assert told in served.log.lines[-1]


def test_memory_is_limited(root: Root) -> None:
    root.python("memory", "try:\n x = bytearray(512 << 20)\nexcept MemoryError:\n print('A: b\\n\\nno memory')")
    with answering(root, limits=ScriptLimits(memory=256 * MIB)) as (served, _), served.connect() as peer:
        assert peer.get("/memory").body == b"no memory\n"


def test_the_limits_are_there_before_the_script_is(root: Root) -> None:
    root.sh("told", *HEAD, "ulimit -t; ulimit -v; ulimit -n; ulimit -p 2>/dev/null || ulimit -u", 'echo "$0 $1 $2"')
    limits = ScriptLimits(cpu_seconds=5, memory=512 * MIB, open_files=40, processes=300)
    with answering(root, limits=limits) as (served, _), served.connect() as peer:
        told = peer.get("/told").body.decode().split()
    assert told == ["5", str(512 * 1024), "40", "300", str(root.directory / "told")]


def test_output_within_its_limit(root: Root) -> None:
    root.sh("exact", "printf 'A: b\\n\\n'", "head -c 994 /dev/zero")
    with answering(root, limits=ScriptLimits(max_output=1000)) as (served, _), served.connect() as peer:
        assert len(peer.get("/exact").body) == 994
