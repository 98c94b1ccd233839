"""The results of a conformance run as text, as JSON and as JUnit's XML."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any, Final
from xml.etree import ElementTree as ET

from gateways.wire.case import Rule
from gateways.wire.conform import Result

__all__ = ["as_dict", "case_dict", "detail_lines", "junit", "shown", "summary", "text_lines"]

SHOWN: Final = 160
"""Bytes of each direction in the text."""
DETAIL: Final = " " * 7
"""Before what is said of a failure: its level stands above."""
LABEL: Final = 10
NARROWEST: Final = 20
BYTES: Final = re.compile(r"\\x[0-9a-f]{2}|\\.|.")
ILLEGAL: Final = {code: "?" for code in range(32) if code not in (9, 10)}


def case_dict(case: Rule) -> dict[str, str]:
    """A case for JSON."""
    return {"id": case.id, "title": case.title, "section": case.section, "level": case.level, "needs": case.needs}


def as_dict(result: Result) -> dict[str, Any]:
    """A result for JSON; bytes are text of Python's form."""
    made: dict[str, Any] = case_dict(result.case) | {"verdict": result.verdict, "seconds": round(result.seconds, 3)}
    if result.verdict == "skip":
        made["reason"] = result.reason
    elif result.verdict == "fail":
        made |= {"expected": result.expected, "got": result.got}
        made |= {"sent": shown(result.sent, 4_096), "received": shown(result.received, 4_096)}
    return made


def shown(data: bytes, most: int = SHOWN) -> str:
    """Bytes as printable text."""
    return repr(data[:most])[2:-1] + (" ..." if len(data) > most else "")


def text_lines(results: Iterable[Result], *, every: bool = False, columns: int = 0) -> list[str]:
    """A table of what failed and was skipped, or of everything; below each failure what was sent and received.

    What is below is folded at ``columns``, 0: not at all.
    """
    rows = [result for result in results if every or result.verdict == "fail"]
    width = max((len(result.case.id) for result in rows), default=0)
    lines: list[str] = []
    for result in rows:
        case = result.case
        lines.append(f"{result.verdict.upper():4} {case.level:6} {case.id:{width}}  {case.title}")
        lines += [DETAIL + line for line in detail_lines(result, max(columns - len(DETAIL), 0))]
    return lines


def detail_lines(result: Result, columns: int = 0) -> list[str]:
    """What there is to say of a case that did not pass, in lines of at most so many columns, 0: of any length."""
    if result.verdict == "skip":
        return folded(result.reason, columns, bytewise=False)
    if result.verdict == "pass":
        return []
    width = max(columns - LABEL, NARROWEST) if columns else 0
    lines: list[str] = []
    for label, text, bytewise in (
        ("section", result.case.section, False),
        ("expected", result.expected, False),
        ("got", printable(result.got), False),
        ("sent", shown(result.sent), True),
        ("received", shown(result.received), True),
    ):
        first, *others = folded(text, width, bytewise=bytewise) or [""]
        lines += [f"{label:{LABEL}}{first}", *(" " * LABEL + other for other in others)]
    return lines


def folded(text: str, width: int, *, bytewise: bool) -> list[str]:
    """Lines of at most ``width`` characters, broken between words; ``bytewise``: between any two bytes as shown."""
    if not width or len(text) <= width:
        return [text]
    if not bytewise:
        return wrap(text, width)
    lines = [""]
    for byte in BYTES.findall(text):
        if len(lines[-1]) + len(byte) > width:
            lines.append("")
        lines[-1] += byte
    return lines


def printable(text: str) -> str:
    """Text of a server without what a terminal obeys."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def summary(results: Sequence[Result]) -> str:
    """The last line."""
    counts = Counter(result.verdict for result in results)
    levels = Counter(result.case.level for result in results if result.verdict == "fail")
    failed = ", ".join(f"{levels[level]} {level}" for level in ("MUST", "SHOULD") if levels[level])
    seconds = sum(result.seconds for result in results)
    return (
        f"{len(results)} cases: {counts['pass']} pass, {counts['fail']} fail{f' ({failed})' if failed else ''}, "
        f"{counts['skip']} skipped, {seconds:.1f} s"
    )


def junit(results: Sequence[Result], name: str) -> bytes:
    """The form that continuous integration reads. A SHOULD that fails is a failure of type SHOULD."""
    counts = Counter(result.verdict for result in results)
    suite = ET.Element(
        "testsuite",
        name=name,
        tests=str(len(results)),
        failures=str(counts["fail"]),
        skipped=str(counts["skip"]),
        errors="0",
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        group, _, last = result.case.id.rpartition(".")
        one = ET.SubElement(suite, "testcase", classname=group, name=last, time=f"{result.seconds:.3f}")
        if result.verdict == "skip":
            ET.SubElement(one, "skipped", message=result.reason)
        elif result.verdict == "fail":
            message = f"expected {result.expected}; got {printable(result.got)}"
            failure = ET.SubElement(one, "failure", message=message.translate(ILLEGAL), type=result.case.level)
            lines = [
                result.case.title,
                result.case.section,
                f"sent {shown(result.sent)}",
                f"received {shown(result.received)}",
            ]
            failure.text = "\n".join(lines).translate(ILLEGAL)
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document
