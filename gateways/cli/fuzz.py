"""``gateways fuzz URL``: drawn and damaged requests against a live FastCGI, SCGI or uwsgi server, judged by oracles.

Exit code 0: nothing was found; 1: something was (with ``--replay``: still is); 2: it could not be run.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gateways.cli.conform import take_params
from gateways.cli.remote import take_time, timeout_option
from gateways.errors import ConfigError
from gateways.wire.conform import probe
from gateways.wire.fuzz.case import FuzzCase
from gateways.wire.fuzz.found import Store, open_database, read_cases
from gateways.wire.fuzz.oracles import Finding
from gateways.wire.fuzz.play import Ability, find_abilities
from gateways.wire.fuzz.trial import Trial
from gateways.wire.fuzz.watch import Watch
from gateways.wire.in_process import run_in_process
from gateways.wire.target import Target, parse_target

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from gateways.wire.fuzz.campaign import Bounds, Campaign

__all__ = ["command"]

EXIT_FOUND: Final = 1
INTERRUPTED: Final = "interrupted"
TIMEOUT: Final = 3.0
COUNT: Final = 20_000
TIME: Final = "60s"
STEPS: Final = 1_000
"""Of the progress bar."""


def take_shard(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Read I/N."""
    first, mark, second = value.partition("/")
    if not (mark and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise click.BadParameter(f"{value!r} is not I/N, from 1/N to N/N", ctx, param)
    return int(first), int(second)


@click.command
@click.argument("url", required=False)
@click.argument("other", required=False, metavar="[URL2]")
@click.option(
    "--param",
    "params",
    multiple=True,
    callback=take_params,
    metavar="NAME=VALUE",
    help="A parameter of every request, such as SCRIPT_FILENAME for php-fpm and fcgiwrap.",
)
@click.option("--seed", type=click.IntRange(0), metavar="N", help="The same cases for the same number [any].")
@click.option("--count", type=click.IntRange(1), default=COUNT, metavar="N", help=f"Cases at most [{COUNT}].")
@click.option("--time", "seconds", callback=take_time, default=TIME, metavar="TIME", help=f"Time at most [{TIME}].")
@click.option(
    "--shard", callback=take_shard, default="1/1", metavar="I/N", help="The I-th of N parts of a seed's cases."
)
@click.option(
    "--pid", type=click.IntRange(1), metavar="PID", help="The server's first process: watch it and its children."
)
@click.option("--cases", type=click.Path(file_okay=False), metavar="DIR", help="Keep the case of each finding here.")
@click.option("--replay", type=click.Path(exists=True), metavar="CASE", help="Play a kept case, or all of a directory.")
@click.option(
    "--database",
    metavar="PLACE",
    help="Share cases with other runs: a directory, or redis://HOST:PORT (hypothesis's example databases).",
)
@click.option("--in-process", is_flag=True, help="Fuzz gateways' own codecs by coverage, with atheris; without URL.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@timeout_option(TIMEOUT, "How long the server may take for an answer")
@click.pass_context
def command(
    ctx: click.Context,
    url: str | None,
    other: str | None,
    params: dict[str, str],
    seed: int | None,
    count: int,
    seconds: float,
    shard: tuple[int, int],
    pid: int | None,
    cases: str | None,
    replay: str | None,
    database: str | None,
    in_process: bool,
    as_json: bool,
    timeout: float,
) -> int:
    """Look for what a live server does wrong, with requests that nobody has thought of.

    URL is fastcgi://HOST:PORT/path or fastcgi+unix:///path/of.sock, and so for scgi and uwsgi. With URL2 both servers
    are compared. They should run the echo application (gateways.wire.echo.echo_wsgi:application, echo.php, echo.c).
    Most of what is sent is wrong on purpose: not for production. It needs the extra gateways[fuzz].
    """
    if in_process:
        if url is not None:
            raise click.UsageError("--in-process needs no server: give no URL", ctx)
        return fuzz_codecs(seconds, count, seed or 0, cases, as_json=as_json)
    if url is None:
        raise click.UsageError("which server? URL is missing", ctx)
    target = parse_target(url, params)
    second = parse_target(other, params) if other is not None else None
    kept = read_cases(replay) if replay is not None else []
    for name, case, finding in kept:
        if case.protocol != target.protocol:
            raise ConfigError(f"{name} is no case of {target.protocol}")
        if finding.oracle == "differs" and second is None:
            raise ConfigError(f"{name} is a difference between two servers: give two URLs")
    if replay is None:
        need_hypothesis()
    if cases is not None:
        make_directory(cases)
    trial = Trial(target, ability_of(target, timeout), timeout, second, Watch(pid) if pid is not None else None)
    if second is not None:
        probe(second, timeout)
    if kept:
        return play_again(trial, kept, as_json=as_json)
    from gateways.wire.fuzz.campaign import Bounds  # noqa: PLC0415 - hypothesis is an extra

    store = Store(cases, open_database(database) if database is not None else None)
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 32)
    campaign = run(trial, seed, store, Bounds(count, seconds, *shard))
    if as_json:
        click.echo(json.dumps(as_dict(campaign, url, other, seed), indent=1))
    else:
        show(campaign, seed)
    if campaign.ended == INTERRUPTED:
        raise click.Abort
    return EXIT_FOUND if store.classes else 0


def fuzz_codecs(seconds: float, count: int, seed: int, cases: str | None, *, as_json: bool) -> int:
    """``--in-process``: all targets share the time, each has so many runs. Raises ConfigError."""
    outcomes = run_in_process(
        seconds=seconds,
        runs=count,
        seed=seed,
        cases=Path(cases) if cases is not None else None,
        tell=lambda outcome: None if as_json else click.echo(str(outcome)),
    )
    if as_json:
        rows = [{**outcome._asdict(), "data": outcome.data.hex()} for outcome in outcomes]
        click.echo(json.dumps(rows, indent=1))
    return EXIT_FOUND if any(outcome.error for outcome in outcomes) else 0


def make_directory(path: str) -> None:
    """For the cases; raises ConfigError."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the directory {path}: {error.strerror}") from None


def need_hypothesis() -> None:
    """Import it, and keep its own files out of the current directory; raises ConfigError."""
    first = "hypothesis" not in sys.modules
    try:
        from hypothesis import configuration  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError("gateways fuzz draws its cases with hypothesis: pip install 'gateways[fuzz]'") from None
    if first and not os.environ.get("HYPOTHESIS_STORAGE_DIRECTORY"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        configuration.set_hypothesis_home_dir(os.path.join(cache, "gateways", "hypothesis"))


def ability_of(target: Target, seconds: float) -> Ability:
    """Ask the server what it can do; raises ConfigError where it does not answer."""
    probe(target, seconds)
    return find_abilities(target, seconds)


def run(trial: Trial, seed: int, store: Store, bounds: Bounds) -> Campaign:
    """Run, with progress on a terminal; an interrupt ends it, and what was found is still told."""
    from gateways.wire.fuzz.campaign import Campaign  # noqa: PLC0415 - hypothesis is an extra
    from gateways.wire.fuzz.generate import Generator  # noqa: PLC0415 - as above

    campaign = Campaign(trial, Generator(trial.target, seed, trial.ability), store, bounds)
    try:
        if not sys.stderr.isatty():
            for _ in campaign.run():
                pass
            return campaign
        bar: ProgressBar[int]
        with click.progressbar(
            length=STEPS,
            label=trial.target.protocol,
            file=sys.stderr,
            width=12,  # all of it fits into 80 columns
            show_eta=False,
            item_show_func=lambda _: state(campaign),
        ) as bar:
            for _ in campaign.run():
                part = max(campaign.done / bounds.count, campaign.seconds / bounds.seconds)
                bar.update(min(int(part * STEPS), STEPS) - bar.pos)
    except KeyboardInterrupt:
        campaign.ended = INTERRUPTED
    return campaign


def state(campaign: Campaign) -> str:
    """What the bar says."""
    classes = campaign.store.classes
    total = sum(found.count for found in classes.values())
    return f"{campaign.done} cases, {campaign.rate:.0f}/s, {total} found, {len(classes)} classes"


def show(campaign: Campaign, seed: int) -> None:
    """Print the findings, and a line about the run."""
    store = campaign.store
    for found in store.classes.values():
        click.echo(f"{found.count:6}  {found.name}")
        again = "" if found.again else ", not seen again"
        click.echo(f"        {printable(found.finding.detail)}")
        click.echo(f"        case {found.case.number}: {found.case.size} bytes{again}{in_file(found.file)}")
    if store.dropped:
        click.echo(f"{store.dropped:6}  more, of classes beyond the first {len(store.classes)}")
    if store.unsure:
        click.echo(f"{store.unsure:6}  differences that were not seen again, and are not kept")
    ability = campaign.trial.ability
    if not ability.echo:
        click.echo("The server does not run the echo application: what it makes of requests was not looked at.")
    click.echo(
        f"seed {seed}: {campaign.done} cases, {campaign.rate:.0f}/s, ended by: {campaign.ended}; "
        f"{sum(found.count for found in store.classes.values())} findings in {len(store.classes)} classes; "
        f"slowest: {campaign.slowest[0]:.2f} s, case {campaign.slowest[1]}"
    )


def in_file(name: str) -> str:
    """Where it is kept."""
    return f", {name}" if name else ""


def printable(text: str) -> str:
    """One line without control characters."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def as_dict(campaign: Campaign, url: str, other: str | None, seed: int) -> dict[str, Any]:
    """For ``--json``."""
    ability = campaign.trial.ability
    return {
        "url": url,
        "other": other,
        "seed": seed,
        "shard": f"{campaign.bounds.shard}/{campaign.bounds.shards}",
        "cases": campaign.done,
        "seconds": round(campaign.seconds, 3),
        "ended": campaign.ended,
        "slowest": {"seconds": round(campaign.slowest[0], 3), "number": campaign.slowest[1]},
        "server": {name: getattr(ability, name) for name in ("echo", "kept", "multiplexed", "concurrent")},
        "findings": [{"class": name, **found.as_dict()} for name, found in campaign.store.classes.items()],
    }


def play_again(trial: Trial, kept: Iterable[tuple[str, FuzzCase, Finding]], *, as_json: bool) -> int:
    """``--replay``: whether each case still leads to what it was kept for, or to something else."""
    results = []
    if not trial.ability.echo:
        click.echo(
            "The server does not run the echo application: what it makes of requests is not looked at.", err=True
        )
    for name, case, finding in kept:
        found = trial.replay(case, finding)
        still = any(each.name == finding.name for each in found)
        results.append({"file": name, "class": finding.name, "still": still, "found": [each.name for each in found]})
        if not as_json:
            click.echo(f"{'FAIL' if still else 'else' if found else 'pass'}  {name}: {finding.name}")
            for each in found:
                click.echo(f"      found {each.name}: {printable(each.detail)}")
    if as_json:
        click.echo(json.dumps(results, indent=1))
    return EXIT_FOUND if any(each["still"] or each["found"] for each in results) else 0
