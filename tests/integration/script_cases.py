"""Requests for scripts of all kinds, good and bad: for whoever runs CGI scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CASES", "Case", "file_name", "write"]


@dataclass(frozen=True)
class Case:
    """One request for one script: ``text`` is shell, or a whole program."""

    text: str = "printf 'Content-Type: text/plain\\n\\nok'"
    method: str = "GET"
    more: str = ""
    """Of the URL."""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    mode: int = 0o755
    hangs: bool = False
    """It may, somewhere: each has a server of its own then."""


def head(*lines: str, end: str = "\\n", body: str = "ok") -> Case:
    return Case("printf '" + "".join(line + end for line in lines) + end + body + "'")


TEXT = "Content-Type: text/plain"
PRINT_ENV = "cat >/dev/null; printf 'Content-Type: text/x-env\\n\\n'; exec env -0"
CASES: dict[str, Case] = {
    "plain": Case(),
    "environment": Case(PRINT_ENV, headers=(("X-Own", "1"), ("Proxy", "http://evil"), ("Authorization", "Basic eDp5"))),
    "environment of a path": Case(PRINT_ENV, more="/a%20b//c/../d?x=%20&y"),
    "environment of a body": Case(PRINT_ENV, "POST", body=b"12345", headers=(("Content-Type", "a/b"),)),
    "environment of a body in chunks": Case(PRINT_ENV, "POST", body=b"12345", chunked=True),
    "arguments": Case(f"printf '{TEXT}\\n\\n'; echo \"$@\"; pwd | sed 's,.*/,,'", more="?one+two"),
    # The head
    "CRLF": head(TEXT, "X-A: 1", end="\\r\\n"),
    "bare LF": head(TEXT, "X-A: 1"),
    "nothing": Case("exit 0"),
    "no head": Case("printf 'text'"),
    "no head but an empty line": Case("printf '\\ntext'"),
    "no empty line": Case(f"printf '{TEXT}\\n'"),
    "no Content-Type": head("X-A: 1"),
    "a line that is none": head(TEXT, "nonsense"),
    "a folded line": head(TEXT, "X-A: 1", " 2"),
    "a name with a blank": head(TEXT, "X A: 1"),
    "a control character": head(TEXT, "X-A: 1\\0012"),
    "a head of 5 KB": Case(f"printf '{TEXT}\\nX-Long: '; head -c 5000 /dev/zero | tr '\\0' x; printf '\\n\\nok'"),
    "two of most": head(TEXT, "X-A: 1", "X-A: 2", "Set-Cookie: a=1", "Set-Cookie: b=2"),
    "two Content-Types": head(TEXT, "Content-Type: text/html"),
    "two Content-Lengths": head(TEXT, "Content-Length: 2", "Content-Length: 1"),
    "two Statuses": head(TEXT, "Status: 404 Not Found", "Status: 403 Forbidden"),
    "fields of the connection": head(TEXT, "Connection: close", "Keep-Alive: timeout=5", "Upgrade: h2c"),
    "Transfer-Encoding": head(TEXT, "Transfer-Encoding: chunked", body="2\\r\\nok\\r\\n0\\r\\n\\r\\n"),
    # The status
    "a status without a phrase": head(TEXT, "Status: 404"),
    "a phrase of its own": head(TEXT, "Status: 404 Gone Fishing"),
    "a status that nobody knows": head(TEXT, "Status: 499 Own"),
    "a status that is no number": head(TEXT, "Status: fine"),
    "a status of two digits": head(TEXT, "Status: 42"),
    "a status line": head("HTTP/1.1 404 Not Found", TEXT),
    "100": Case("printf 'Status: 100 Continue\\n\\nok'", hangs=True),
    "204 with a body": head("Status: 204 No Content", TEXT),
    "304 with a body": head("Status: 304 Not Modified", 'ETag: "x"'),
    # Redirects
    "a local redirect": head("Location: /cgi-bin/plain", body=""),
    "a local redirect with a query": head("Location: /cgi-bin/ask?x=1", body=""),
    "ask": Case(f"printf '{TEXT}\\n\\n%s %s' \"$REQUEST_METHOD\" \"$QUERY_STRING\"; cat"),
    "a local redirect of a POST": Case("cat >&2; printf 'Location: /cgi-bin/ask?x\\n\\n'", "POST", body=b"12345"),
    "a local redirect to itself": head("Location: /cgi-bin/a_local_redirect_to_itself", body=""),
    "a local redirect out of the root": head("Location: /elsewhere", body=""),
    "a local redirect with a cookie": head("Location: /cgi-bin/plain", "Set-Cookie: a=1", body=""),
    "a redirect": head("Location: http://localhost/", body=""),
    "a redirect with a document": head("Location: http://localhost/", "Status: 301 Moved Permanently", TEXT),
    "a relative redirect": head("Location: plain", body=""),
    # The body
    "HEAD": Case(method="HEAD"),
    "a Content-Length that is too small": head(TEXT, "Content-Length: 1"),
    "a Content-Length that is too large": head(TEXT, "Content-Length: 9"),
    "a body that is not read": Case(method="POST", body=bytes(2_000_000)),
    "a body in chunks": Case("exec 2>&1; printf 'X-A: 1\\n\\n'; wc -c", "POST", body=bytes(300_000), chunked=True),
    "writes before it reads": Case(
        f"printf '{TEXT}\\n\\n'; head -c 200000 /dev/zero; wc -c", "POST", body=bytes(400_000), hangs=True
    ),
    # The end
    "exit status 1": Case(f"printf '{TEXT}\\n\\nok'; exit 1"),
    "exit status 1, and nothing": Case("exit 1"),
    "killed": Case("kill -KILL $$"),
    "killed in its body": Case(f"printf '{TEXT}\\n\\npart'; kill -KILL $$"),
    "a child keeps its output": Case(f"printf '{TEXT}\\n\\nok'; sleep 2.5 &", hangs=True),
    "silent": Case("exec sleep 2.5", hangs=True),
    # stderr
    "standard error": Case(f"echo complaint >&2; printf '{TEXT}\\n\\nok'"),
    "standard error alone": Case("echo complaint >&2"),
    "200 KB of standard error": Case(f"head -c 200000 /dev/zero | tr '\\0' x >&2; printf '{TEXT}\\n\\nok'"),
    # No script
    "not executable": Case(mode=0o644),
    "no first line": Case("printf 'A: b\\n\\nok'\n"),
    "no such interpreter": Case("#!/no/such/interpreter\n"),
    "not there": Case(mode=0),
    "a directory": Case(mode=0o40755),
    ".hidden": Case(),
    "nph-script": Case(f"printf 'HTTP/1.1 201 Created\\r\\n{TEXT}\\r\\nContent-Length: 2\\r\\n\\r\\nok'"),
}  # fmt: skip


def file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", name)


def write(root: Path, name: str, case: Case) -> None:
    path = root / file_name(name)
    if case.mode == 0o40755:
        path.mkdir()
    elif case.mode:
        first = "" if case.text.startswith("#!") or name == "no first line" else "#!/bin/sh\n"
        path.write_text(first + case.text + "\n")
        path.chmod(case.mode)
