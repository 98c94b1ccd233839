"""``gateways conform URL``: a conformance run against any live FastCGI, SCGI or uwsgi server, or a web server.

Exit code 0: no MUST has failed; 1: one has (with ``--strict``, also a SHOULD); 2: it could not be run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import click

from gateways.cli.remote import timeout_option
from gateways.wire.case import Rule
from gateways.wire.cases.fronts import FRONT_SUITES
from gateways.wire.conform import Result, choose, probe, run_cases, select
from gateways.wire.fronts import FrontRun
from gateways.wire.report import as_dict, case_dict, junit, summary, text_lines
from gateways.wire.target import PROTOCOLS, parse_target
from gateways.wire.web import parse_front_end

__all__ = ["command"]

EXIT_FAILED: Final = 1
TIMEOUT: Final = 5.0
STYLES: Final[dict[str, dict[str, Any]]] = {
    "PASS": {"fg": "green"},
    "FAIL": {"fg": "red", "bold": True},
    "SKIP": {"fg": "yellow"},
}


def take_params(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=VALUE, any number of times."""
    params: dict[str, str] = {}
    for text in value:
        name, mark, rest = text.partition("=")
        if not mark or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", ctx, param)
        params[name] = rest.encode("utf-8", "surrogateescape").decode("latin-1")
    return params


@click.command
@click.argument("url", required=False)
@click.option(
    "--front-end",
    metavar="URL",
    help="Check this web server, http://HOST:PORT/path, whose backend is --listen.",
)
@click.option("--listen", metavar="ADDR", help="Be the backend here: written like URL.")
@click.option(
    "--param",
    "params",
    multiple=True,
    callback=take_params,
    metavar="NAME=VALUE",
    help="A parameter of every request, such as SCRIPT_FILENAME for php-fpm and fcgiwrap.",
)
@click.option(
    "--only", multiple=True, metavar="ID", help="These cases: an id, the beginning of one, or a pattern with *."
)
@click.option(
    "--list", "as_list", is_flag=True, help="Show the cases and run none; without URL those of every protocol."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an array, one object a case.")
@click.option("--junit", "junit_file", type=click.File("wb", lazy=False), metavar="FILE", help="Write JUnit XML, too.")
@click.option("--all", "every", is_flag=True, help="Show also the cases that pass or are skipped.")
@click.option("--strict", is_flag=True, help="A SHOULD that fails counts like a MUST.")
@timeout_option(TIMEOUT, "How long the server may do nothing in a case")
@click.pass_context
def command(
    ctx: click.Context,
    url: str | None,
    front_end: str | None,
    listen: str | None,
    params: dict[str, str],
    only: tuple[str, ...],
    as_list: bool,
    as_json: bool,
    junit_file: BinaryIO | None,
    every: bool,
    strict: bool,
    timeout: float,
) -> int:
    """Check a live server against its protocol, rule by rule.

    URL is fastcgi://HOST:PORT/path or fastcgi+unix:///path/of.sock, and so for scgi and uwsgi. The server should run
    the echo application (gateways.wire.echo.echo_wsgi:application, echo.php, echo.c); without it only the cases that
    look at the protocol alone are run. Half of the cases send what no web server sends: not for production.

    With --front-end and --listen the other side is checked: what a web server sends, and how it takes answers.
    """
    if front_end is not None or listen is not None:
        if url is not None or params:
            raise click.UsageError("--front-end and --listen go with neither URL nor --param", ctx)
        backend = parse_target(listen) if listen is not None else None
        protocol = backend.protocol if backend else None
        rules = select(protocol, only, FRONT_SUITES)
        if as_list:
            show_list([case_dict(rule) for rule in rules], as_json=as_json)
            return 0
        if front_end is None or backend is None:
            raise click.UsageError("--front-end and --listen go together", ctx)
        with FrontRun(parse_front_end(front_end), backend, timeout) as run:
            run.probe()
            results = run_all(run.run_cases(rules), rules, backend.protocol)
        name = f"gateways conform --front-end {backend.protocol}"
        return report(results, name, junit_file, as_json=as_json, every=every, strict=strict, wanted=len(rules))
    target = parse_target(url, params) if url is not None else None
    cases = choose(target.protocol if target else None, only)
    if as_list:
        show_list([case_dict(case) for case in cases], as_json=as_json)
        return 0
    if target is None:
        raise click.UsageError("which server? URL is missing", ctx)
    echo = probe(target, timeout)
    results = run_all(run_cases(target, cases, timeout, echo=echo), cases, target.protocol)
    note = "" if echo else "The server does not run the echo application: cases that need it were skipped."
    name = f"gateways conform {target.protocol}"
    return report(results, name, junit_file, as_json=as_json, every=every, strict=strict, wanted=len(cases), note=note)


def run_all(running: Iterator[Result], cases: Sequence[Rule], protocol: str) -> list[Result]:
    """Run, with progress on a terminal."""
    found: list[Result] = []
    progress: contextlib.AbstractContextManager[Iterable[Result]] = contextlib.nullcontext(running)
    if sys.stderr.isatty():
        progress = click.progressbar(running, length=len(cases), label=protocol, file=sys.stderr, width=24)
    with contextlib.suppress(KeyboardInterrupt), progress as results:  # what is there is worth telling
        for result in results:
            found.append(result)  # noqa: PERF402 - an interrupt leaves what extend() has taken so far to chance
    return found


def report(
    results: list[Result],
    name: str,
    junit_file: BinaryIO | None,
    *,
    as_json: bool,
    every: bool,
    strict: bool,
    wanted: int,
    note: str = "",
) -> int:
    """Write the results wherever they are wanted, and return the exit code; raises Abort where some are missing."""
    if junit_file is not None:
        junit_file.write(junit(results, name))
        junit_file.close()
    if as_json:
        click.echo(json.dumps([as_dict(result) for result in results], indent=1))
    else:
        show(results, every=every)
        if note:
            click.echo(note)
        click.echo(summary(results))
    if len(results) < wanted:
        click.echo(f"interrupted after {len(results)} of {wanted} cases", err=True)
        raise click.Abort
    counted = ("MUST", "SHOULD") if strict else ("MUST",)
    return EXIT_FAILED if any(each.verdict == "fail" and each.case.level in counted for each in results) else 0


def show(results: list[Result], *, every: bool) -> None:
    """Print the results, on a terminal in its width and in colours."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    colours = False if os.environ.get("NO_COLOR") else None  # None: on a terminal
    for line in text_lines(results, every=every, columns=columns):
        verdict, rest = line[:4], line[4:]
        style = STYLES.get(verdict)
        click.echo(click.style(verdict, **style) + rest if style else click.style(line, dim=True), color=colours)


def show_list(cases: list[dict[str, str]], *, as_json: bool) -> None:
    """``--list``."""
    if as_json:
        click.echo(json.dumps(cases, indent=1))
        return
    width = max(len(case["id"]) for case in cases)
    for case in cases:
        click.echo(f"{case['id']:{width}}  {case['level']:6}  {case['needs']:4}  {case['title']} ({case['section']})")
    per = {protocol: sum(case["id"].startswith(protocol + ".") for case in cases) for protocol in PROTOCOLS}
    click.echo(", ".join(f"{count} {protocol}" for protocol, count in per.items() if count))
