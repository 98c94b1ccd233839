"""The program started again in its own process; here it is a script that tells how it was started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.server.peers import SECONDS

SCRIPT = """
import json, os, signal, socket, sys, time
from gateways.server.handover import VARIABLE, Handed, HandedListener
from gateways.server.upgrade import Upgrade

def directory():
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "one that is gone"

def tell(**facts):
    facts.update(argv=sys.argv, cwd=directory(), pid=os.getpid(), variable=os.environ.get("COLOUR"))
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(facts) + "\\n")

def main():
    if sys.argv[1:2] == ["check"]:
        tell(step="check", stdin=os.fstat(0).st_rdev == os.stat(os.devnull).st_rdev)
        time.sleep(float(os.environ.get("CHECK_SECONDS", 0)))
        print("not for everybody")
        print("for the log", file=sys.stderr)
        sys.exit(int(os.environ.get("CHECK_CODE", 0)))
    if VARIABLE in os.environ:
        handed = Handed.read(os.environ[VARIABLE])
        tell(
            step="second", blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), wanted=handed.wanted,
            name=socket.socket(fileno=handed.listeners[0].fd).getsockname(),
        )
        return
    environment = {**os.environ, "COLOUR": "new"}
    steps = os.environ["STEPS"].split()
    if "nowhere" in steps:
        os.rmdir(os.getcwd())
    upgrade = Upgrade(environment)
    os.chdir("/")
    if "possible" in steps:
        tell(step="possible", possible=upgrade.possible)
    if "check" in steps:
        assert upgrade.result() is None and not upgrade.checking and upgrade.deadline is None
        begun = time.monotonic()
        upgrade.begin(float(os.environ.get("PATIENCE", 60)))
        assert upgrade.checking and upgrade.deadline > begun
        if "forget" in steps:
            upgrade.end_check()
            assert not upgrade.checking
            code = upgrade.result()
        else:
            while (code := upgrade.result()) is None:
                assert upgrade.checking
                time.sleep(0.01)
        assert not upgrade.checking and upgrade.deadline is None and upgrade.result() is None
        tell(step="checked", code=code)
    if "execute" in steps:
        listener = socket.create_server(("127.0.0.1", 0))
        handed = Handed((HandedListener("http", "x", listener.fileno()),), (), 1, 0.0, 0, 5, {})
        tell(step="first", name=listener.getsockname())
        print("printed before", end="")
        if "remove" in steps:
            gone = os.environ["TOLD"] + ".d"
            os.mkdir(gone)
            os.chdir(gone)
            os.rmdir(gone)
        if "fail" in steps:
            upgrade._words[0] = "/nowhere/python"
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
        try:
            upgrade.execute(handed, [signal.SIGHUP, signal.SIGTERM])
        except OSError as error:
            tell(
                step="failed", error=error.errno, inheritable=os.get_inheritable(listener.fileno()),
                blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            )

if __name__ == "__main__":
    main()
"""


class Program:
    """The script, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.script = directory / "again.py"
        self.script.write_text(SCRIPT, encoding="utf-8")
        self.output = ""
        self.errors = ""

    def run(self, *words: str, steps: str, cwd: Path | None = None, **variables: str) -> list[dict[str, Any]]:
        """Run Python with ``words``, and return what the script has told."""
        told = self.directory / "told"
        told.write_text("", encoding="utf-8")
        places = [str(self.directory), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(place for place in places if place)
        environment = {**os.environ, "PYTHONPATH": path, "PWD": str(cwd or self.directory)}
        environment |= {"TOLD": str(told), "STEPS": steps, "COLOUR": "old", **variables}
        done = subprocess.run(
            [sys.executable, *words],
            env=environment, cwd=cwd or self.directory, capture_output=True, text=True, check=True, timeout=3 * SECONDS,
        )  # fmt: skip
        self.output, self.errors = done.stdout, done.stderr
        return [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


# -- command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "possible"),
    [
        (["{script}", "serve", "shop:app"], True),
        (["{script}", "serve"], True),
        (["again.py", "serve", "shop:app", "--http", "127.0.0.1:8000", "--workers=2"], True),
        (["-m", "again", "serve", "shop:app"], True),
        (["-X", "dev", "-W", "error", "{script}", "serve", "shop:app"], True),
        (["-u", "-m", "again", "serve", "a b", "", "-", "--", "serve"], True),
        (["-c", "import again; again.main()", "serve", "shop:app"], True),
        (["{script}"], False),
        (["{script}", "demo"], False),
        (["{script}", "--workers", "2", "serve", "shop:app"], False),
        (["{script}", "demo", "serve"], False),
        (["{other}", "shop:app"], False),
        (["{other}", "serve", "shop:app"], False),
        (["-c", "import sys, again; sys.argv = ['g', 'serve', 'x']; again.main()"], False),
        (["-c", "import sys, again; sys.argv = ['g', 'serve', 'x']; again.main()", "x"], False),
    ],
)
def test_what_can_be_repeated(program: Program, words: list[str], possible: bool) -> None:
    other = program.directory / "other.py"  # a person's own start script
    other.write_text("import sys, again; sys.argv[1:] = ['serve', 'shop:app', '--http', ':80']\n"
                     "again.main()\n", encoding="utf-8")  # fmt: skip
    words = [word.format(script=program.script, other=other) for word in words]
    (told,) = program.run(*words, steps="possible")
    assert told["possible"] is possible


# -- the check --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_check_is_the_same_command_line(program: Program, code: int) -> None:
    words = ["serve", "shop:app", "--name", "serve", "-x"]
    check, checked = program.run(str(program.script), *words, steps="check", CHECK_CODE=str(code))
    assert check["step"] == "check"
    assert check["argv"][1:] == ["check", *words[1:]]
    assert check["cwd"] == str(program.directory), "where the server was started, wherever it has gone since"
    assert check["variable"] == "new", "with the environment that it was given"
    assert check["pid"] != checked["pid"]
    assert check["stdin"]
    assert checked["code"] == code
    assert program.output == ""
    assert program.errors == "for the log\n"


def test_a_check_by_module(program: Program) -> None:
    check, checked = program.run("-m", "again", "serve", "x", steps="check")
    assert check["argv"][1:] == ["check", "x"]
    assert checked["code"] == 0


def test_a_check_that_takes_too_long(program: Program) -> None:
    """It is killed, and nobody waits for it."""
    *_, checked = program.run(str(program.script), "serve", "x", steps="check", PATIENCE="0.3", CHECK_SECONDS="1000")
    assert checked["code"] == -signal.SIGKILL


def test_a_check_that_nobody_wants_any_more(program: Program) -> None:
    *_, checked = program.run(str(program.script), "serve", "x", steps="check forget", CHECK_SECONDS="1000")
    assert checked["code"] is None


# -- the new program --------------------------------------------------------------------------------------------------


def test_the_new_program(program: Program) -> None:
    words = ["serve", "shop:app", "a b"]
    first, second = program.run(str(program.script), *words, steps="execute")
    assert second["step"] == "second"
    assert second["pid"] == first["pid"], "the same process"
    assert second["argv"][1:] == words
    assert second["cwd"] == str(program.directory)
    assert second["variable"] == "new"
    assert second["wanted"] == 5
    assert second["name"] == first["name"], "the same sockets"
    assert {signal.SIGHUP, signal.SIGTERM} <= set(second["blocked"]), "until it has handlers"
    assert program.output == "printed before"


def test_a_new_program_that_is_not_there(program: Program) -> None:
    """Everything is as before."""
    _, failed = program.run(str(program.script), "serve", "x", steps="execute fail")
    assert failed["step"] == "failed"
    assert failed["cwd"] == "/"
    assert failed["inheritable"] is False
    assert failed["blocked"] == [signal.SIGWINCH]


def test_a_directory_that_is_a_symbolic_link(program: Program) -> None:
    """A deployment has switched it meanwhile: the new program starts in the new one."""
    releases = [program.directory / name for name in ("one", "two")]
    for release in releases:
        release.mkdir()
    current = program.directory / "current"
    current.symlink_to(releases[0])
    switched = SCRIPT.replace('os.chdir("/")', f'os.chdir("/"); os.unlink({str(current)!r}); '
                              f"os.symlink({str(releases[1])!r}, {str(current)!r})")  # fmt: skip
    program.script.write_text(switched, encoding="utf-8")
    _, second = program.run(str(program.script), "serve", "x", steps="execute", cwd=current)
    assert second["cwd"] == str(releases[1])


@pytest.mark.parametrize("wrong", ["", "/", "/nowhere", "relative"])
def test_a_shell_that_names_another_directory(program: Program, wrong: str) -> None:
    """PWD counts only where it is true."""
    _, second = program.run(str(program.script), "serve", "x", steps="execute", PWD=wrong)
    assert second["cwd"] == str(program.directory)


def test_a_directory_that_has_been_removed(program: Program) -> None:
    """That of the server: the new program starts where that was started, or all stays as it is."""
    _, second = program.run(str(program.script), "serve", "x", steps="execute remove")
    assert (second["step"], second["cwd"]) == ("second", str(program.directory))
    _, failed = program.run(str(program.script), "serve", "x", steps="execute remove fail")
    assert (failed["step"], failed["cwd"]) == ("failed", "one that is gone")
    assert failed["inheritable"] is False
    assert failed["blocked"] == [signal.SIGWINCH]


def test_a_start_in_a_directory_that_has_been_removed(program: Program) -> None:
    """As with a whole path for --chdir; there is nowhere else for the new program to start."""
    gone = program.directory / "gone"
    gone.mkdir()
    _, second = program.run(str(program.script), "serve", "x", steps="nowhere execute", cwd=gone)
    assert (second["step"], second["cwd"]) == ("second", "/")
