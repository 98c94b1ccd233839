"""The tables of the documentation, and that they speak of cases that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateways.wire.cases import SUITES
from gateways.wire.cases.fronts import FRONT_SUITES
from tests.conform.table import BEGIN, DOCS, END, write

LEVELS = {case.id: case.level for suite in SUITES.values() for case in suite}
LEVELS |= {case.id: case.level for suite in FRONT_SUITES.values() for case in suite}


def result(case: str, verdict: str = "pass", level: str = "MUST", **more: str) -> dict[str, Any]:
    return {"id": case, "title": f"title of {case}", "section": "1.2 A|B", "level": level, "verdict": verdict} | more


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, str]:
    """Both pages, of two servers and a web server."""
    docs, results = tmp_path / "docs", tmp_path / "results"
    docs.mkdir()
    results.mkdir()
    (docs / "conformance.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    ours = [result("fastcgi.keep.two"), result("fastcgi.keep.not", level="SHOULD"), result("scgi.body.1")]
    other = [
        result("fastcgi.keep.two", "fail", expected="a close", got="status 200: b'x'"),
        result("fastcgi.keep.not", "fail", "SHOULD", expected="x", got="<nothing> | *x*"),
        result("fastcgi.role.0", "skip", reason="r"),
    ]
    front = [result("fastcgi.front.connection.one", "fail", expected="one", got="two")]
    for name, what in (("gateways_1.0", ours), ("Other_2.0-rc", other), ("nginx_1.22.1", front)):
        (results / f"{name}.json").write_text(json.dumps(what))
    assert list(write(results, docs)) == ["gateways 1.0", "nginx 1.22.1", "Other 2.0-rc"]
    return (docs / "conformance.md").read_text(), (docs / "peers.md").read_text()


def test_the_summary(made: tuple[str, str]) -> None:
    summary = made[0]
    assert summary.startswith(f"before\n{BEGIN}\n")
    assert summary.endswith(f"\n{END}\nafter\n")
    assert "old" not in summary
    lines = summary.splitlines()
    at = lines.index("### FastCGI")
    assert lines[at + 2 : at + 9] == [
        "|  | gateways 1.0 | Other 2.0-rc |",
        "| --- | ---: | ---: |",
        "| keep | ok | [2 of 2](peers.md#other-fastcgi-keep) |",
        "| role |  | skipped |",
        "| **MUST failed** | **0** of 1 | **1** of 2 |",
        "| **SHOULD failed** | **0** of 1 | **1** of 1 |",
        "| skipped | 0 | 1 |",
    ]
    at = lines.index("### FastCGI, web servers")
    assert lines[at + 4] == "| connection | [1 of 1](peers.md#nginx-fastcgi-front-connection) |"


def test_each_failure_links_to_its_case(made: tuple[str, str]) -> None:
    details = made[1]
    assert "fastcgi.keep: [two](#fastcgi.keep.two) | MUST | a close | status 200 |" in details
    assert "fastcgi.keep: [not](#fastcgi.keep.not) | SHOULD | x | &lt;nothing> \\| \\*x\\* |" in details
    assert (
        '| <a id="fastcgi.keep.two"></a>fastcgi.keep.two | MUST | title of fastcgi.keep.two | 1.2 A\\|B | Other |'
        in details
    )
    assert "fastcgi.role.0" not in details
    check_links(*made)


def test_the_pages_that_are_there() -> None:
    """Their links lead somewhere, and to cases that still are as they say."""
    summary, details = (DOCS / "conformance.md").read_text(), (DOCS / "peers.md").read_text()
    check_links(summary, details)
    rows = re.findall(r'^\| <a id="([^"]+)"></a>\S+ \| (\w+) \|', details, re.MULTILINE)
    assert rows
    for case, level in rows:
        assert LEVELS[case] == level, case


def check_links(summary: str, details: str) -> None:
    anchors = re.findall(r'<a id="([^"]+)">', details)
    assert len(set(anchors)) == len(anchors)
    links = re.findall(r"\]\(peers\.md#([^)]+)\)", summary) + re.findall(r"\]\(#([^)]+)\)", details)
    assert links
    assert set(links) <= set(anchors)
