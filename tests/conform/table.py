"""The tables of docs/conformance.md and docs/peers.md: ``python -m tests.conform.table DIRECTORY``.

The directory holds ``NAME_VERSION.json``, each what ``gateways conform --json`` printed of one server or, with
``--front-end``, of one web server; the arrays of several protocols in one file. ``tests.conform.peers`` writes such.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

DOCS = Path(__file__).parent.parent.parent / "docs"
BEGIN, END = "<!-- made by tests/conform/table.py -->", "<!-- end of what tests/conform/table.py makes -->"
TITLES = {"fastcgi": "FastCGI", "scgi": "SCGI", "uwsgi": "uwsgi", "http": "HTTP"}
SHOWN = 2
"""How many different answers are told of a group of cases."""
LONGEST = 80

Result: TypeAlias = "dict[str, Any]"
Peers: TypeAlias = "dict[str, list[Result]]"


def read(paths: Iterable[Path]) -> Peers:
    """Each peer's name and version, ours first, with its results."""
    ordered = sorted(paths, key=lambda path: (not path.stem.startswith("gateways"), path.stem.lower()))
    return {path.stem.replace("_", " "): json.loads(path.read_text()) for path in ordered}


def kind_of(case: str) -> str:
    """``fastcgi``, or ``fastcgi.front`` where a web server is judged."""
    protocol, second, *_ = case.split(".")
    return f"{protocol}.front" if second == "front" else protocol


def group_of(case: str) -> str:
    """What a line of the summary is about."""
    return case.removeprefix(kind_of(case) + ".").split(".")[0]


def title(kind: str) -> str:
    """A heading."""
    protocol, _, front = kind.partition(".")
    return f"{TITLES[protocol]}, web servers" if front else TITLES[protocol]


def count(results: Iterable[Result], **wanted: str) -> int:
    """How many results have these values."""
    return sum(all(result[name] == value for name, value in wanted.items()) for result in results)


def kinds_of(peers: Peers) -> list[str]:
    """All kinds, servers first."""
    found = {kind_of(result["id"]) for results in peers.values() for result in results}
    return sorted(found, key=lambda kind: (kind.endswith(".front"), list(TITLES).index(kind.partition(".")[0])))


def anchor(peer: str, kind: str, group: str = "") -> str:
    """Where the failures of a peer stand."""
    return "-".join(part for part in (peer.split(maxsplit=1)[0], *kind.split("."), group) if part).lower()


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def text(words: str) -> str:
    """Words of a server in a cell of a table."""
    words = re.sub(r"(127\.0\.0\.1):\d+", r"\1:PORT", re.sub(r"(status \d+)[:,] .*", r"\1", words, flags=re.DOTALL))
    shown = words if len(words) <= LONGEST else words[:LONGEST] + " ..."
    return shown.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def summary(peers: Peers) -> list[str]:
    """A table for each kind: a line for each group of cases, a column for each peer."""
    lines: list[str] = []
    for kind in kinds_of(peers):
        chosen = {peer: [each for each in results if kind_of(each["id"]) == kind] for peer, results in peers.items()}
        chosen = {peer: results for peer, results in chosen.items() if results}
        groups = list(dict.fromkeys(group_of(each["id"]) for results in chosen.values() for each in results))
        lines += ["", f"### {title(kind)}", "", line(["", *chosen]), line(["---", *["---:"] * len(chosen)])]
        for group in groups:
            cells = [
                cell(peer, kind, group, [each for each in results if group_of(each["id"]) == group])
                for peer, results in chosen.items()
            ]
            lines.append(line([group, *cells]))
        for level in ("MUST", "SHOULD"):
            cells = [
                f"**{count(each, verdict='fail', level=level)}** of {count(each, level=level)}"
                for each in chosen.values()
            ]
            lines.append(line([f"**{level} failed**", *cells]))
        lines.append(line(["skipped", *[str(count(results, verdict="skip")) for results in chosen.values()]]))
    return lines


def cell(peer: str, kind: str, group: str, results: list[Result]) -> str:
    """How a peer does in a group."""
    failed, skipped = count(results, verdict="fail"), count(results, verdict="skip")
    if failed:
        return f"[{failed} of {len(results)}](peers.md#{anchor(peer, kind, group)})"
    return "" if not results else "skipped" if skipped == len(results) else "ok"


def failures(peer: str, kind: str, results: list[Result]) -> list[str]:
    """What a peer failed, cases of one family in one row."""
    families: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        families.setdefault((result["id"].rpartition(".")[0], result["level"]), []).append(result)
    lines = [f'### <a id="{anchor(peer, kind)}"></a>{peer}, {title(kind)}', ""]
    lines += [line(["cases", "level", "wanted", "what came instead"]), line(["---"] * 4)]
    seen: set[str] = set()
    for (family, level), rows in families.items():
        group = group_of(rows[0]["id"])
        mark = "" if group in seen else f'<a id="{anchor(peer, kind, group)}"></a>'
        seen.add(group)
        links = ", ".join(f"[{each['id'].rpartition('.')[2]}](#{each['id']})" for each in rows)
        told = [some(each[name] for each in rows) for name in ("expected", "got")]
        lines.append(line([f"{mark}{family}: {links}", level, *told]))
    return [*lines, ""]


def some(words: Iterable[str]) -> str:
    """The first of what was said, each once."""
    different = list(dict.fromkeys(text(each) for each in words))
    return "; ".join(different[:SHOWN]) + ("; ..." if len(different) > SHOWN else "")


def cases(peers: Peers, kind: str) -> list[str]:
    """The cases that somebody failed, as the failures link to them."""
    found: dict[str, tuple[Result, list[str]]] = {}
    for peer, results in peers.items():
        for result in results:
            if result["verdict"] == "fail" and kind_of(result["id"]) == kind:
                found.setdefault(result["id"], (result, []))[1].append(peer.split()[0])
    order = [each["id"] for results in peers.values() for each in results]
    lines = [f"### {title(kind)}", "", line(["case", "level", "what is sent", "by", "failed by"]), line(["---"] * 5)]
    for case in sorted(found, key=order.index):
        result, who = found[case]
        cells = (result["level"], text(result["title"]), text(result["section"]), ", ".join(who))
        lines.append(line([f'<a id="{case}"></a>{case}', *cells]))
    return [*lines, ""]


def details(peers: Peers) -> str:
    """The whole of docs/peers.md."""
    lines = [
        "# What other servers fail",
        "",
        "Made by `python -m tests.conform.table`; how these servers were started, and the summary, are in",
        "[conformance.md](conformance.md). A case links to its rule below. A limit that a server is right to have is",
        "here where the case wants more: read the rule before the verdict.",
        "",
        "## Failures",
        "",
    ]
    for kind in kinds_of(peers):
        for peer, results in peers.items():
            if failed := [each for each in results if each["verdict"] == "fail" and kind_of(each["id"]) == kind]:
                lines += failures(peer, kind, failed)
    lines += ["## The cases", ""]
    for kind in kinds_of(peers):
        lines += cases(peers, kind)
    return "\n".join(lines).rstrip() + "\n"


def replaced(page: str, lines: list[str]) -> str:
    """The page with other lines between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/conformance.md has lost the lines {BEGIN!r} and {END!r}")
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after


def write(directory: Path, docs: Path = DOCS) -> Peers:
    """Make both pages of the results in a directory."""
    peers = read(directory.glob("*.json"))
    page = docs / "conformance.md"
    page.write_text(replaced(page.read_text(), summary(peers)))
    (docs / "peers.md").write_text(details(peers))
    return peers


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(", ".join(write(Path(sys.argv[1]))))  # noqa: T201
