"""Whether ``gateways conform`` notices each of ``mutants``: ``python -m tests.conform.mutation [WORD...]``.

For each a server is started from a copy of the package with that one change, and the cases that shall notice are run.
With words only those mutants in whose description, file or case one of them stands. Exit code 1 where one is missed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gateways
from gateways.wire.conform import Result, choose, run_case
from gateways.wire.report import text_lines
from gateways.wire.target import Target
from tests.backends import await_listening
from tests.conform.mutants import MUTANTS, Mutant

PACKAGE = Path(gateways.__file__).parent
APP = "gateways.wire.echo.echo_wsgi:application"
SECONDS = 1.0
"""How long a mutant may be silent; on our own server every case ends much sooner."""


@contextlib.contextmanager
def package() -> Iterator[Path]:
    """A copy of the package to change, interpreted whatever this one is; its directory."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        shutil.copytree(PACKAGE, Path(name, "gateways"), ignore=shutil.ignore_patterns("*.so"))
        yield Path(name)


def changed(mutant: Mutant) -> str:
    """The source with the change."""
    source = (PACKAGE / mutant.file).read_text()
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.what}: {mutant.old!r} stands {source.count(mutant.old)} times in {mutant.file}")
    return source.replace(mutant.old, mutant.new)


@contextlib.contextmanager
def server(directory: Path) -> Iterator[Path]:
    """A server of the copy; the directory of its sockets, which are named as the protocols."""
    with tempfile.TemporaryDirectory(prefix="gateways-") as name:
        sockets = {protocol: Path(name, protocol) for protocol in ("fastcgi", "scgi", "uwsgi")}
        argv = [sys.executable, "-m", "gateways", "serve", APP, "--threads", "4", "--workers", "1"]
        argv += [text for protocol, path in sockets.items() for text in (f"--{protocol}", str(path))]
        env = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"}
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            argv, cwd=directory, env=env, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        try:
            await_listening(process, list(sockets.values()))
            yield Path(name)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # the worker too, for a mutant may never come to an end
            process.wait()


def noticed(mutant: Mutant, directory: Path) -> list[Result]:
    """Run the cases against a server with this change; their results."""
    file = directory / "gateways" / mutant.file
    file.write_text(changed(mutant))  # not of the time of the source, so the bytecode that was copied is not taken
    try:
        with server(directory) as sockets:
            protocol = mutant.case.partition(".")[0]
            target = Target(protocol, str(sockets / protocol))
            return [run_case(case, target, SECONDS, echo=True) for case in choose(protocol, [mutant.case])]
    finally:
        shutil.copy2(PACKAGE / mutant.file, file)


def main() -> int:
    words = sys.argv[1:]
    missed = 0
    with package() as directory:
        for mutant in MUTANTS:
            if words and not any(word in " ".join(mutant) for word in words):
                continue
            results = noticed(mutant, directory)
            failed = [result for result in results if result.verdict == "fail"]
            missed += not failed
            said = f"{failed[0].case.id}: {failed[0].got[:90]}" if failed else "NOT NOTICED"
            print(f"{mutant.file:18} {mutant.what:45} {said}", flush=True)  # noqa: T201
            if not failed:
                print("\n".join(text_lines(results, every=True)))  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
