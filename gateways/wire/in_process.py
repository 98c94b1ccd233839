"""``gateways fuzz --in-process``: our own codecs fuzzed by coverage, with atheris (libFuzzer).

A target is a file ``fuzz_NAME.py`` in the source's ``tests/fuzz``: ``one_input(data)`` raises for what must not be,
and ``seeds()`` returns bytes to start from. Each runs in a process of its own, for libFuzzer ends its process where it
finds something: ``python -m gateways.wire.in_process FILE``, with libFuzzer's own options, is that process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from gateways.errors import ConfigError

__all__ = ["Outcome", "find_targets", "run_in_process"]

LONGEST: Final = 4_096
"""Bytes of an input."""
SLOW: Final = 10
"""Seconds that one input may take."""
STARTING: Final = 60.0
"""Seconds that a target may take beside those that it was given."""
DONE: Final = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+)")
RAISED: Final = re.compile(r"=== Uncaught Python exception: ===\n(.*)")
STOPPED: Final = re.compile(r"ERROR: libFuzzer: (.*)")


class Outcome(NamedTuple):
    """What became of one target."""

    target: str
    runs: int
    """0 where it found something before the end."""
    coverage: int
    """Places of the code that were reached, as libFuzzer counts them."""
    error: str = ""
    """What was found; empty where nothing was."""
    data: bytes = b""
    """The input that shows it."""

    def __str__(self) -> str:
        if self.error:
            return f"{self.target}: {self.error}\n    {self.data!r}"
        return f"{self.target}: nothing in {self.runs:,} runs, {self.coverage} places reached"


def find_targets(directory: Path | None = None) -> dict[str, Path]:
    """Return the targets by name; raises ConfigError where the source is not here."""
    places = (
        [directory] if directory else [Path(__file__).parents[2] / "tests" / "fuzz", Path("tests", "fuzz").absolute()]
    )
    for place in places:
        if found := sorted(place.glob("fuzz_*.py")):
            return {path.stem.removeprefix("fuzz_"): path for path in found}
    raise ConfigError("--in-process needs the source of gateways: there is no tests/fuzz here")


def run_in_process(
    only: Iterable[str] = (),
    *,
    seconds: float = 0.0,
    runs: int = -1,
    seed: int = 0,
    directory: Path | None = None,
    corpus: Path | None = None,
    cases: Path | None = None,
    tell: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Run each target, or those that are named, so often, and all together for so long; -1 and 0 are no bound.

    ``seed`` makes a run repeatable, 0 is any. ``corpus``: inputs are kept there, by target, and taken from there the
    next time. ``cases``: what shows a finding is written there. Raises ConfigError where it cannot be run.
    """
    targets = find_targets(directory)
    names = list(only) or list(targets)
    if unknown := [name for name in names if name not in targets]:
        raise ConfigError(f"no target is called {unknown[0]!r}; there are {', '.join(targets)}")
    if importlib.util.find_spec("atheris") is None:
        raise ConfigError("--in-process needs atheris: pip install 'gateways[fuzz-in-process]' (Linux, x86-64)")
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="gateways-fuzz-") as scratch:
        for name in names:
            kept = (corpus or Path(scratch)).absolute() / name
            kept.mkdir(parents=True, exist_ok=True)
            share = max(1.0, seconds / len(names)) if seconds else 0.0
            options = [f"-max_total_time={round(share)}"] if share else []
            options += [f"-runs={runs}", f"-seed={seed}", f"-artifact_prefix={scratch}/{name}-", str(kept)]
            outcomes.append(run_target(name, targets[name], options, Path(scratch), share))
            if cases is not None and outcomes[-1].error:
                cases.mkdir(parents=True, exist_ok=True)
                (cases / f"{name}.bin").write_bytes(outcomes[-1].data)
            tell(outcomes[-1])
    return outcomes


def run_target(name: str, file: Path, options: list[str], scratch: Path, seconds: float) -> Outcome:
    """Run one to its end; raises ConfigError where it does not start."""
    root = file.absolute().parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])}
    argv = [sys.executable, "-m", "gateways.wire.in_process", str(file), *options]
    argv += [f"-max_len={LONGEST}", f"-timeout={SLOW}", "-rss_limit_mb=2048"]
    try:
        done = subprocess.run(  # noqa: S603 - this Python
            argv, cwd=root, env=env, capture_output=True, text=True, errors="replace", check=False,
            timeout=seconds + STARTING if seconds else None,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the target {name} does not end") from None
    said = done.stdout + done.stderr
    if done.returncode == 0 and (found := DONE.search(said)):
        return Outcome(name, int(found[1]), int(found[2]))
    written = sorted(scratch.glob(f"{name}-*"))
    if not written:
        raise ConfigError(f"the target {name} does not run: {said.strip()[-400:]}")
    told = RAISED.search(said) or STOPPED.search(said)
    return Outcome(name, 0, 0, told[1] if told else f"exit code {done.returncode}", written[0].read_bytes())


def main() -> None:
    """Be the process of one target."""
    import atheris  # noqa: PLC0415 - an extra, and nothing of gateways that is fuzzed may be imported before it

    file = Path(sys.argv.pop(1))
    with atheris.instrument_imports(include=["gateways.codecs"]):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{file} is no target")
        target = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(target)
    codecs = sys.modules["gateways.codecs"].__file__ or ""
    if not codecs.endswith(".py"):
        raise SystemExit("the compiled build does not tell what it reaches: only the plain one can be fuzzed")
    corpus = Path(sys.argv[next(at for at in range(len(sys.argv) - 1, -1, -1) if not sys.argv[at].startswith("-"))])
    if corpus.is_dir():
        for number, data in enumerate(target.seeds()):
            (corpus / f"seed-{number}").write_bytes(data)
    atheris.Setup(sys.argv, target.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
