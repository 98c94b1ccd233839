"""Python scripts that are forked: they cannot tell, but by the clock."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateways.apps.choice import Chooser
from gateways.apps.identities import identity_of
from gateways.apps.processes import Launcher, Process, Starter
from gateways.apps.script import ScriptApp
from gateways.apps.warm import WarmLauncher, command_of, first_line
from gateways.apps.warm_keeper import Command, Keeper, Wanted
from gateways.apps.warm_process import WarmProcess
from gateways.apps.warm_scan import is_plain, names
from gateways.apps.warm_server import Guard, trusted
from gateways.client.control import call
from gateways.limits import ScriptLimits
from tests.apps.scripts import MIB, PYTHON, USER, Root, alive, has_ended, pid_in, root_directory
from tests.server.peers import SECONDS, Peer, request
from tests.server.pools import MemoryLog, Served, within
from tests.servers import Server, running, wait_until

NOBODY = identity_of(pwd.getpwnam(USER)) if USER else None
PASSED = {"LANG": "C.UTF-8", "TZ": "UTC"}
as_root = pytest.mark.skipif(not USER, reason="only root changes users")
no_pidfd = not hasattr(os, "pidfd_open")
pytestmark = pytest.mark.skipif(no_pidfd, reason="there is nothing to see the end of another's child by")


class Outcome(tuple[str, str, int]):
    """What a script has written, to both, and its status."""

    __slots__ = ()


def launcher_of(
    root: Root, log: MemoryLog | None = None, limits: ScriptLimits | None = None, passed: dict[str, str] | None = None
) -> WarmLauncher:
    return WarmLauncher(
        limits or ScriptLimits(), log or MemoryLog(), scripts=str(root.directory), named=(), passed=passed or PASSED
    )


def script(root: Root, name: str, *lines: str, options: str = "") -> Path:
    return root.put(name, "\n".join([f"#!{PYTHON} {options}".rstrip(), *lines, ""]))


def start(launcher: Starter, path: Path, env: dict[str, str] | None = None, *, stdin: bool = False) -> Process:
    whole = {"PATH": os.defpath, **PASSED, **(env or {})}
    return launcher.start([str(path)], whole, str(path.parent), NOBODY, stdin=stdin)


def finish(process: Process, body: bytes | None = None) -> Outcome:
    if body is not None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            os.write(process.stdin, body)
        process.close_stdin()
    try:
        with ThreadPoolExecutor(2) as both:
            out, err = both.map(read, (process.stdout, process.stderr))
        assert has_ended(process, 20)
        out, err = (re.sub(rb" at 0x[0-9a-f]+", b"", data) for data in (out, err))
        out = re.sub(rb"(SigIgn:(?:\t|\\t))[0-9a-f]{9}", rb"\1", out)  # 32 and 33 are the C library's own
        return Outcome((out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), process.reap()))
    finally:
        process.close()


def read(fd: int) -> bytes:
    data = b""
    os.set_blocking(fd, True)
    while block := os.read(fd, 65_536):
        data += block
    return data


def warm_up(launcher: WarmLauncher, path: Path, count: int = 1) -> None:
    """Have a script's fork server started."""
    finish(start(launcher, path))
    within(lambda: len(launcher.pids) == count, "the fork server has imported all")


@pytest.fixture(scope="module")
def cold() -> Iterator[Launcher]:
    with contextlib.closing(Launcher(ScriptLimits())) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def shared() -> Iterator[Root]:
    with root_directory() as root:
        root.directory.chmod(0o755)  # so that scripts find what is beside them
        yield root


@pytest.fixture(scope="module")
def warm(shared: Root) -> Iterator[WarmLauncher]:
    with contextlib.closing(launcher_of(shared)) as launcher:
        warm_up(launcher, script(shared, "first", ""))
        yield launcher


# -- a script cannot tell -------------------------------------------------------------------------------------

STREAMS = "for s in (sys.stdin, sys.stdout, sys.stderr):"
TABLE: dict[str, list[str]] = {
    "the module": ["print(__name__, __file__, __doc__, __package__, __spec__, __loader__.path, sorted(globals()))"],
    "is itself": ["print(sys.modules['__main__'].__dict__ is globals(), __builtins__)"],
    "its name": ["print(sys.argv, sys.orig_argv, sys.executable, open('/proc/self/comm').read())"],
    "paths": ["print(sys.path, sys.prefix, os.getcwd(), sys.flags, sys._xoptions, sys.warnoptions)"],
    "the environment": ["print(dict(os.environ))", "sys.stdout.flush()", "os.system('env -0 | sort -z')"],
    "the time zone": ["import time", "print(time.tzname, time.localtime(0))"],
    "streams": [
        STREAMS,
        " print(s.name, s.mode, s.encoding, s.errors, s.newlines, s.line_buffering, s.write_through, s.seekable())",
        " print(s.buffer.raw.name, s.buffer.mode, s.closed, type(s.buffer), s.fileno())",
        "print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)",
    ],
    "input": ["print(ascii(sys.stdin.read()))"],
    "binary input": ["print(sys.stdin.buffer.read())"],
    "output in other codes": ["sys.stdout.buffer.write(bytes(range(256)))", "print('\\xe4\\u20ac\\udc80')"],
    "what cannot be encoded": ["print('\\ud800')"],
    "descriptors": ["print(sorted(os.listdir('/proc/self/fd')))"],
    "the session": ["print(os.getsid(0) == os.getpgrp() == os.getpid(), os.isatty(0))"],
    "the user": ["print(os.getresuid(), os.getresgid(), os.getgroups())"],
    "its own /proc": ["print(os.stat('/proc/self/fd').st_uid, os.access('/proc/self/environ', os.R_OK))"],
    "the mask": ["m = os.umask(0)", "print(m)"],
    "signals": [  # without SigQ, which counts the signals of all the user's processes (proc_pid_status(5))
        "import signal",
        "print([(n, str(signal.getsignal(n))) for n in sorted(signal.valid_signals())], signal.pthread_sigmask(0, ()))",
        "print([l for l in open('/proc/self/status') if l.startswith(('SigP', 'SigB', 'SigI', 'SigC', 'No', 'Cap'))])",
    ],
    "limits": ["import resource", "print([resource.getrlimit(n) for n in range(16)])"],
    "exit 3": ["sys.exit(3)"],
    "exit with nothing": ["sys.exit()"],
    "exit with a text": ["print('x')", "sys.exit('the text')"],
    "exit 300": ["sys.exit(300)"],
    "exit -1": ["sys.exit(-1)"],
    "_exit": ["print('lost')", "os._exit(5)"],
    "a signal": ["import signal", "os.kill(os.getpid(), signal.SIGTERM)"],
    "interrupted": ["import signal", "os.kill(os.getpid(), signal.SIGINT)", "while True: pass"],
    "an exception": ["def f(n):", "  return 1 / n", "print('before')", "f(0)"],
    "exceptions": ["try:", "  {}['a']", "except KeyError as e:", "  raise ValueError('b') from e"],
    "a syntax error": ["print('never')", "this is none"],
    "a hook": ["sys.excepthook = lambda kind, error, trace: print('hook', kind, error, trace.tb_lineno)", "1 / 0"],
    "a hook that fails": ["def hook(*a): raise OSError('h')", "sys.excepthook = hook", "1 / 0"],
    "a hook that exits": ["def hook(*a): sys.exit(9)", "sys.excepthook = hook", "1 / 0"],
    "the end": [
        "import atexit, threading, time",
        "atexit.register(print, 'at exit')",
        "atexit.register(lambda: 1 / 0)",
        "said = threading.Event()",
        "threading.Thread(target=lambda: (said.wait(), time.sleep(0.05), print('thread'))).start()",
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "class C:",
        "  def __del__(self): print('deleted', os.getpid() > 1)",
        "a = C(); b = [C()]; b.append(b)",
        "print('main')",
        "said.set()",
    ],
    "the last exception": [
        "import atexit",
        "atexit.register(lambda: print(repr(sys.last_value), sys.last_type, sys.last_traceback.tb_lineno))",
        "atexit.register(lambda: print(getattr(sys, 'last_exc', None)))",
        "1 / 0",
    ],
    "its thread": ["import threading", "print(threading.main_thread().native_id == os.getpid())"],
    "another standard output": [
        "import io",
        "sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-16')",
        "print(1)",
    ],
    "a closed standard output": ["print('lost')", "os.close(1)"],
    "its processes": [
        "import subprocess",
        "print(subprocess.run(['sh', '-c', 'echo $0 $A'], stdout=-1).stdout, flush=True)",
        "if not os.fork(): print('child'); sys.exit(1)",
        "print(os.waitstatus_to_exitcode(os.wait()[1]))",
    ],
    "exec": ["os.execvp('sh', ['sh', '-c', 'echo $A; ls /proc/self/fd; grep SigIgn /proc/self/status'])"],
    "imports beside it": ["import beside", "print(beside.name, beside.__file__, beside.rest)"],
    "pickle": ["import pickle", "class C: pass", "print(pickle.dumps(C()), pickle.loads(pickle.dumps(C)) is C)"],
    "inspect": ["import inspect", "def f(): return 1", "print(inspect.getsource(f), len(inspect.stack()) > 0)"],
    "nobody's names": ["print([n for n in ('job', 'run', 'warm', 'control') if n in globals()])"],
}
ENV = {"A": "b c", "N\udcffN": "\udcff\xe4", "EMPTY": "", "TZ": "Asia/Tokyo"}


@pytest.fixture(scope="module", autouse=True)
def hangup() -> Iterator[None]:
    """As a worker has it: these tests may run under nohup, and what a program ignores its children ignore."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        *((name, None) for name in TABLE),
        *((name, b"a\r\nb\nc\xff") for name in ("input", "binary input", "streams", "descriptors")),
    ],
)
def test_a_script_cannot_tell(cold: Launcher, warm: WarmLauncher, shared: Root, name: str, body: bytes | None) -> None:
    shared.put("beside.py", "import sqlite3\nname = __name__\nrest = sqlite3.__name__\n", 0o644)
    path = script(shared, "told", "import os, sys", *TABLE[name])
    expected = finish(start(cold, path, ENV, stdin=body is not None), body)
    process = start(warm, path, ENV, stdin=body is not None)
    assert isinstance(process, WarmProcess)
    assert finish(process, body) == expected


@pytest.mark.parametrize("options", ["-u", "-I", "-SEs", "-OO", "-bb"])
def test_options_of_the_first_line(cold: Launcher, shared: Root, options: str) -> None:
    path = script(
        shared, "options", "import sys", "print(sys.flags, sys.path, sys.orig_argv)", "assert 0", options=options
    )
    with contextlib.closing(launcher_of(shared)) as launcher:
        warm_up(launcher, path)
        process = start(launcher, path)
        assert isinstance(process, WarmProcess)
        assert finish(process) == finish(start(cold, path))
        path = script(shared, "options", "import sys", *TABLE["streams"], options=options)
        assert finish(start(launcher, path)) == finish(start(cold, path))


@pytest.mark.parametrize(
    "passed", [{"LC_ALL": "C"}, {"LANG": "C"}, {"PYTHONIOENCODING": "latin-1:replace"}, {"A": "b"}]
)
def test_encodings_of_the_operator_s_choice(shared: Root, passed: dict[str, str]) -> None:
    path = script(shared, "coded", "import sys, os", *TABLE["streams"], "print('\\u20ac', dict(os.environ))")
    with (
        contextlib.closing(launcher_of(shared, passed=passed)) as launcher,
        contextlib.closing(Launcher(ScriptLimits())) as other,
    ):
        both = [one.start([str(path)], passed, "/", NOBODY, stdin=False) for one in (launcher, other)]
        assert finish(both[0]) == finish(both[1])
        within(lambda: launcher.pids, "it is warm")
        both = [one.start([str(path)], passed, "/", NOBODY, stdin=False) for one in (launcher, other)]
        assert isinstance(both[0], WarmProcess)
        assert finish(both[0]) == finish(both[1])


def test_packages_of_the_script_s_user(cold: Launcher, shared: Root) -> None:
    passed = {"HOME": str(shared.directory / "home")}
    path = script(shared, "user", "import site, sys",
                  "print(site.getusersitepackages(), sys.path, site.ENABLE_USER_SITE)",
                  "try: import of_the_user", "except ImportError as error: print(error)")  # fmt: skip
    place = Path(finish(cold.start([str(path)], passed, "/", NOBODY, stdin=False))[0].split()[0])
    place.mkdir(parents=True)
    (place / "of_the_user.py").write_text("print('imported')\n")
    (place / "more.pth").write_text(f"{shared.directory}\n")
    with contextlib.closing(launcher_of(shared, passed=passed)) as launcher:
        expected = finish(launcher.start([str(path)], passed, "/", NOBODY, stdin=False))
        within(lambda: launcher.pids, "it is warm")
        process = launcher.start([str(path)], passed, "/", NOBODY, stdin=False)
        assert isinstance(process, WarmProcess)
        assert finish(process) == expected
    assert str(place) in expected[0] or sys.prefix != sys.base_prefix


def test_sources_of_other_kinds(cold: Launcher, warm: WarmLauncher, shared: Root) -> None:
    latin = shared.directory / "latin"
    latin.write_bytes(f"#!{PYTHON}\n# coding: latin-1\nprint(ascii('\xe4'))\n".encode("latin-1"))
    archive = shared.directory / "archive"
    with archive.open("wb") as file:
        file.write(f"#!{PYTHON}\n".encode())
        with zipfile.ZipFile(file, "w") as content:
            content.writestr("__main__.py", "import sys, signal\nprint(sys.argv, signal.getsignal(signal.SIGPIPE))\n")
    secret = script(shared, "secret", "print('read')")
    for path in (latin, archive, secret):
        path.chmod(0o755 if path != secret else 0o711)
        process = start(warm, path)
        assert isinstance(process, WarmProcess)
        assert finish(process) == finish(start(cold, path))


def test_limits_of_the_system(shared: Root) -> None:
    limits = ScriptLimits(cpu_seconds=7, memory=512 * MIB, open_files=40, processes=300)
    path = script(shared, "limited", *TABLE["limits"], "x = bytearray(600 << 20)")
    with contextlib.closing(launcher_of(shared, limits=limits)) as launcher:
        first = finish(start(launcher, path))
        assert "MemoryError" in first[1]
        within(lambda: launcher.pids, "it is warm")
        process = start(launcher, path)
        assert isinstance(process, WarmProcess)
        assert finish(process) == first


def test_the_environment_holds_nothing_else(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "env", "import os, ctypes", "libc = ctypes.CDLL(None)",
                  "libc.getenv.restype = ctypes.c_char_p",
                  "print(dict(os.environ), libc.getenv(b'A'), libc.getenv(b'LANG'), libc.getenv(b'HOME'))")  # fmt: skip
    process = start(warm, path, {"A": "b"})
    assert finish(process)[0] == f"{ ({'PATH': os.defpath, **PASSED, 'A': 'b'}) } b'b' b'C.UTF-8' None\n"


def test_what_cannot_be_started(cold: Launcher, warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "forbidden", "print('never')")
    path.chmod(0o644)
    fds = len(os.listdir("/proc/self/fd"))
    for launcher in (cold, warm):
        with pytest.raises(PermissionError):
            start(launcher, path)
        with pytest.raises(FileNotFoundError):
            launcher.start([str(path)], PASSED, str(shared.directory / "nowhere"), NOBODY, stdin=False)
        with pytest.raises(ValueError, match="null byte"):
            start(launcher, path, {"A": "a\0b"})
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_module_of_the_script_s_own_wins(cold: Launcher, warm: WarmLauncher, shared: Root) -> None:
    for name, own in (
        ("none/html.txt", False), ("none/json", False), ("none/csv/data", False), ("file/html.py", True),
        ("package/csv/__init__.py", True), ("early/os.py", False),
    ):  # fmt: skip
        (shared.directory / name).parent.parent.mkdir(exist_ok=True)
        shared.put(name, "name = 'own'\n", 0o644)
        path = script(shared, f"{name.partition('/')[0]}/uses", "import html, json, csv, os, sys",
                      "print(sys.orig_argv, html.__file__, json.__file__, csv.__file__, os.__file__)")  # fmt: skip
        process = start(warm, path)
        assert isinstance(process, WarmProcess)
        assert process.cold == own, name
        assert finish(process) == finish(start(cold, path))


def test_one_request_does_not_see_another(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "marks", "import os, sys, json",
                  "print(getattr(json, 'mark', 'none'), 'beside2' in sys.modules)",
                  "json.mark = 1", "import beside2", "print(beside2.text)", "os.environ['LATER'] = '1'")  # fmt: skip
    for text in ("one", "other"):
        shared.put("beside2.py", f"text = {text!r}\n", 0o644)
        assert finish(start(warm, path)) == (f"none False\n{text}\n", "", 0)


def test_a_script_that_is_edited(warm: WarmLauncher, shared: Root) -> None:
    for number in range(3):
        path = script(shared, "edited", f"print({number})")
        assert finish(start(warm, path))[0] == f"{number}\n"


def test_each_has_random_numbers_of_its_own(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "dice", "import random, tempfile, uuid, os", "d = tempfile._RandomNameSequence()",
                  "print(random.random(), next(d), uuid.uuid4(), os.urandom(4).hex())")  # fmt: skip
    answers = [finish(start(warm, path))[0].split() for _ in range(5)]
    assert all(len(set(column)) == 5 for column in zip(*answers, strict=True))


def test_what_is_not_closed_is_written(warm: WarmLauncher, shared: Root) -> None:
    note = shared.note("open-file")
    other = shared.note("other-file")
    path = script(shared, "writes", f"f = open({str(note)!r}, 'w')", "f.write('all of it')", "def g(): return f",
                  f"b = open({str(other)!r}, 'wb')", "b.write(b'of this, too')")  # fmt: skip
    assert finish(start(warm, path)) == ("", "", 0)
    assert (note.read_text(), other.read_text()) == ("all of it", "of this, too")


def test_it_is_imported_already(warm: WarmLauncher, shared: Root) -> None:
    path = script(
        shared, "modules", "import sys", "print('html.parser' in sys.modules, 'gateways/apps' in str(sys.path))"
    )
    assert finish(start(warm, path))[0] == "True False\n"


# -- processes ------------------------------------------------------------------------------------------------


def test_the_group_is_signalled(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "group", "import subprocess", "p = subprocess.Popen(['sleep', '60'])",
                  "print(p.pid, flush=True)", "p.wait()")  # fmt: skip
    process = start(warm, path)
    child = int(os.read(process.stdout, 100))
    assert os.getpgid(child) == process.pid
    assert not process.exited()
    assert not has_ended(process, 0.01)
    process.signal(signal.SIGTERM)
    assert has_ended(process, 5)
    assert process.exited()
    assert process.code is None
    assert process.reap() == process.reap() == -signal.SIGTERM
    process.signal(signal.SIGKILL)  # nothing: the number may be another's
    process.close()
    within(lambda: not alive(child), "its child is gone")


def test_nothing_is_left(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "short", "import os", "print(os.getpid())")
    (server,) = warm.pids
    finish(start(warm, path))
    ours = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        pid = int(finish(start(warm, path))[0])
        assert not Path(f"/proc/{pid}").exists()
    assert len(os.listdir("/proc/self/fd")) == ours
    within(lambda: len(os.listdir(f"/proc/{server}/fd")) == 4, "the standard three and its orders are open there")
    assert len(os.listdir(f"/proc/{server}/task")) == 1


def test_a_fork_server_that_is_killed(shared: Root) -> None:
    path = script(shared, "lives", "import time, sys", "print(1, flush=True)", "sys.stdin.read()", "print(2)")
    log = MemoryLog()
    with contextlib.closing(launcher_of(shared, log)) as launcher:
        warm_up(launcher, path)
        process, other = (start(launcher, path, stdin=True) for _ in range(2))
        assert isinstance(process, WarmProcess)
        assert os.read(process.stdout, 2) == os.read(other.stdout, 2) == b"1\n"
        (server,) = launcher.pids
        os.kill(server, signal.SIGKILL)
        assert finish(start(launcher, path)) == ("1\n2\n", "", 0)
        within(lambda: launcher.pids not in ([], [server]), "it is started again")
        log.only("has died, signal SIGKILL; it is started again")
        assert finish(process, b"") == ("2\n", "", 0)
        other.signal(signal.SIGTERM)
        assert finish(other)[0] == ""
        process = start(launcher, path)
        assert isinstance(process, WarmProcess)
        assert finish(process) == ("1\n2\n", "", 0)
        (server,) = launcher.pids
    within(lambda: not alive(server), "it ends with its worker")


def test_a_fork_server_that_does_not_answer(shared: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateways.apps.warm_process._PATIENCE", 0.2)
    path = script(shared, "once", "print(1)")
    with contextlib.closing(launcher_of(shared)) as launcher:
        warm_up(launcher, path)
        (server,) = launcher.pids
        os.kill(server, signal.SIGSTOP)
        process = start(launcher, path)
        assert not isinstance(process, WarmProcess)
        assert finish(process) == ("1\n", "", 0)
        within(lambda: launcher.pids not in ([], [server]), "it is started again")


def test_it_ends_when_its_worker_is_killed(shared: Root) -> None:
    path = script(shared, "simple", "print(1)")
    with contextlib.closing(launcher_of(shared)) as launcher:
        warm_up(launcher, path)
        (server,) = launcher.pids
        (keeper,) = launcher._keepers.values()
        assert keeper._control is not None
        keeper._closed.set()
        keeper._control.shutdown(2)  # as the end of the process does
        within(lambda: not alive(server), "it has gone")


# -- what it is not for ---------------------------------------------------------------------------------------


def test_variables_that_the_interpreter_obeys_from_its_start(warm: WarmLauncher, shared: Root) -> None:
    path = script(shared, "lang", "import os", "print(os.environ['LANG'])")
    process = start(warm, path, {"LANG": "de_DE"})
    assert not isinstance(process, WarmProcess)
    assert finish(process) == ("de_DE\n", "", 0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#!/usr/bin/python3", Command("/usr/bin/python3", ())),
        ("#! /usr/bin/python3.11 -u ", Command("/usr/bin/python3.11", ("-u",))),
        ("#!/usr/bin/env python3", Command("/found/python3", ())),
        ("#!/usr/bin/env -S python3 -u -I", Command("/found/python3", ("-u", "-I"))),
        ("#!/usr/bin/env python3 -u", None),
        ("#!/usr/bin/env -i python3", None),
        ("#!/usr/bin/env A=b", None),
        ("#!/usr/bin/env nothing", None),
        ("#!/usr/bin/env", None),
        ("#!/usr/bin/env -S", None),
        ("#!/usr/bin/env -S \v", None),
        ("#!/usr/bin/python3 -u -I", None),  # the kernel makes that one word
        ("#!/usr/bin/python3 -c", None),
        ("#!/usr/bin/python3 -Wd", None),
        ("#!/bin/sh", None),
        ("#!", None),
        ("print()", None),
    ],
)
def test_first_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, expected: Command | None) -> None:
    path = tmp_path / "script"
    path.write_text(f"{line}\nprint()\n")
    monkeypatch.setattr("shutil.which", lambda name, path: "/found/python3" if name == "python3" else None)
    assert command_of([str(path)], "/path") == expected


def test_interpreters_of_extensions(tmp_path: Path) -> None:
    assert command_of(["/usr/bin/python3", "-u", "/nothing"], "") == Command("/usr/bin/python3", ("-u",))
    assert command_of(["/usr/bin/php-cgi", "/nothing"], "") is None
    assert command_of(["/nothing"], "") is None
    os.mkfifo(tmp_path / "fifo")
    assert first_line(str(tmp_path / "fifo"), "") == []


def test_a_script_without_a_first_line(warm: WarmLauncher, shared: Root) -> None:
    path = shared.put("plain.py", "import sys\nprint(sys.argv, sys.orig_argv)\n", 0o644)
    process = warm.start([str(PYTHON), str(path)], PASSED, "/", NOBODY, stdin=False)
    assert isinstance(process, WarmProcess)
    assert finish(process)[0] == f"{[str(path)]} {[PYTHON, str(path)]}\n"


def test_what_scripts_import(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "one.py").write_text("import a.b, c as d\nfrom e import f, g\nfrom . import h\ndef i():\n import j\n")
    (tmp_path / "below" / "two").write_text(
        "#!/usr/bin/env python3\ntry:\n import k\nexcept E:\n import l\nimport this\n"
    )
    (tmp_path / "three.py").write_text("no python")
    (tmp_path / "four").write_text("import m")
    os.mkfifo(tmp_path / "five.py")
    assert sorted(names(str(tmp_path))) == ["a.b", "c", "e", "e.f", "e.g", "k", "l"]
    assert names(str(tmp_path / "below" / "two")) == ["k", "l"]
    plain = ["json", "email.message"]
    assert [name for name in (*plain, "this", "test.x", "venv.__main__", "a b", "a..b", "") if is_plain(name)] == plain


def test_what_scripts_import_from_places_of_their_own(tmp_path: Path) -> None:
    """What is installed under the same name may be another one."""
    (tmp_path / "one.py").write_text("import json, requests")
    (tmp_path / "two.py").write_text("import sys\nsys.path.insert(0, '/srv/lib')\nimport html.parser, markdown")
    assert sorted(names(str(tmp_path))) == ["html.parser", "json", "sys"]


def keeper_log(root: Root, *named: str, path: Path) -> list[str]:
    """Return what is said of modules when a fork server starts, not as root."""
    log = MemoryLog()
    wanted = Wanted(str(root.directory), named, {"PYTHONPATH": str(path), "PATH": os.defpath}, root=False)
    keeper = Keeper(Command(str(PYTHON), ()), wanted, None, log)
    try:
        within(lambda: keeper.pid, "it has imported what it can")
    finally:
        keeper.close()
    return log.lines


def test_modules_that_are_not_imported(root: Root, tmp_path: Path) -> None:
    root.put("beside.py", "", 0o644)
    (tmp_path / "threads.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()"
    )
    (tmp_path / "exits.py").write_text("raise SystemExit(1)")
    (tmp_path / "link.py").symlink_to(root.directory / "beside.py")
    (tmp_path / "good.py").write_text("")
    lines = keeper_log(root, "threads", "exits", "link", "good", path=tmp_path)
    assert [line.partition(": ")[2] for line in lines if "threads" in line] == [
        "threads starts threads, so it is not imported beforehand"
    ]
    assert any("--python-import exits" in line and "SystemExit: 1" in line for line in lines)
    assert any("--python-import link" in line and "not to be imported beforehand" in line for line in lines)
    assert len(lines) == 3


@as_root
def test_root_trusts_root_alone(tmp_path: Path) -> None:
    assert trusted("/usr/lib")
    assert not trusted("/tmp")  # noqa: S108
    assert not trusted("/no/such/thing")
    guard = Guard("/srv/cgi-bin", careful=True)
    (tmp_path / "module.py").write_text("")
    assert guard.find_spec("no_such_module") is None
    with pytest.raises(ImportError, match="beforehand"):  # below /tmp, which all can write
        guard.find_spec("module", [str(tmp_path)])


@as_root
def test_an_interpreter_that_others_can_write(root: Root) -> None:
    assert NOBODY is not None
    link = root.directory / "python3"
    link.symlink_to(str(PYTHON))
    os.chown(link, NOBODY.uid, NOBODY.gid, follow_symlinks=False)
    path = root.put("own", f"#!{link}\nimport os\nprint(os.getuid())\n")
    log = MemoryLog()
    with contextlib.closing(launcher_of(root, log)) as launcher:
        for _ in range(2):
            assert finish(start(launcher, path))[0] == f"{NOBODY.uid}\n"
        assert launcher.pids == []
    log.only("others than root can write it")


@as_root
@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH"])
def test_variables_that_are_not_for_root(root: Root, tmp_path: Path, name: str) -> None:
    path = script(root, "passed", "print(1)")
    log = MemoryLog()
    passed = {name: str(tmp_path)} if name == "PYTHONPATH" else {name: ""}
    with contextlib.closing(launcher_of(root, log, passed=passed)) as launcher:
        finish(launcher.start([str(path)], passed, "/", NOBODY, stdin=False))
        within(lambda: log.lines, "it is told")
        assert launcher.pids == []
    log.only("its scripts are started cold")


@as_root
def test_a_script_cannot_touch_the_fork_server(warm: WarmLauncher, shared: Root) -> None:
    (server,) = warm.pids
    path = script(shared, "attacks", "import os, signal",
                  f"for f in (lambda: os.kill({server}, 9), lambda: open('/proc/{server}/mem'), lambda: os.setuid(0)):",
                  "  try: print(f())", "  except PermissionError: print('no')")  # fmt: skip
    assert finish(start(warm, path))[0] == "no\nno\nno\n"
    assert warm.pids == [server]


# -- requests -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(
    root: Root, path: Path, limits: ScriptLimits | None = None, threads: int = 4
) -> Iterator[tuple[Served, ScriptApp, WarmLauncher]]:
    limits = limits or ScriptLimits()
    log = MemoryLog()
    launcher = launcher_of(root, log, limits)
    chooser = Chooser(str(root.directory), script=None, index=(), interpreters={})
    app = ScriptApp(chooser, log, limits=limits, passed=PASSED, user=USER, launcher=launcher)
    try:
        warm_up(launcher, path)
        with Served(app, "http", threads=threads, log=log) as served:
            yield served, app, launcher
            within(lambda: not app.turns.taken, "every script has ended")
    finally:
        app.close()


HEAD = "print('Content-Type: text/plain\\n')"


def test_50_at_the_same_time(root: Root) -> None:
    path = script(root, "many", "import os, sys", HEAD, "print(os.environ['QUERY_STRING'], len(sys.stdin.read()))")
    with serving(root, path, ScriptLimits(concurrency=20), threads=60) as (served, _, launcher):
        peers = [served.connect() for _ in range(50)]
        for number, peer in enumerate(peers):
            peer.send(request("http", f"/many?{number}", b"x" * number))
        for number, peer in enumerate(peers):
            with peer:
                assert peer.answer().body == f"{number} {number}\n".encode()
        (server,) = launcher.pids
        children = Path(f"/proc/{server}/task/{server}/children")
        within(lambda: not children.read_text(), "no child is left, not even dead")
    assert not alive(server)


def test_a_script_that_takes_too_long(root: Root, note: Path) -> None:
    path = script(root, "long", "import os, sys, subprocess, signal", "signal.signal(15, signal.SIG_IGN)",
                  "if not os.environ.get('QUERY_STRING'): sys.exit()",
                  f"open({str(note)!r}, 'w').write(f'{{subprocess.Popen([\"sleep\", \"60\"]).pid}}\\n')",
                  "signal.pause()")  # fmt: skip
    with serving(root, path, ScriptLimits(script_timeout=0.5)) as (served, _, _):
        with served.connect() as peer:
            assert peer.get("/long?x").status == 504
        child = pid_in(note)
        within(lambda: not alive(child), "the group is killed")


def test_a_client_that_goes_away(root: Root, note: Path) -> None:
    path = script(root, "alone", "import os, sys, time", "if not os.environ.get('QUERY_STRING'): sys.exit()",
                  f"open({str(note)!r}, 'w').write(f'{{os.getpid()}}\\n')", "time.sleep(60)")  # fmt: skip
    with serving(root, path) as (served, _, _):
        with served.connect() as peer:
            peer.send(request("http", "/alone?x"))
            pid = pid_in(note)
        within(lambda: not alive(pid), "it is ended")


def test_exit_statuses_are_told(root: Root) -> None:
    path = script(root, "fails", "import sys", "sys.stderr.write('why\\n')", "sys.exit(7)")
    with serving(root, path) as (served, _, _):
        with served.connect() as peer:
            assert peer.get("/fails").status == 502
        assert any("stderr: why" in line for line in served.log.lines)
        assert "exit status 7" in served.log.lines[-1]


def test_the_whole_server(root: Root) -> None:
    path = script(
        root, "whole", HEAD, "import os, sys", "print(os.getppid(), os.getpid(), 'html.parser' in sys.modules)"
    )
    control, sock = root.directory / "control", root.directory / "http"
    argv = [sys.executable, "-m", "gateways", "scripts", "--root", str(root.directory), "--python-warm", "--control"]
    argv += [str(control), "--http", str(sock), "--socket-mode", "666", *(["--script-user", USER] if USER else [])]

    def ask() -> list[str]:
        with Peer(str(sock), "http") as peer:
            return peer.get(f"/{path.name}").body.decode().split()

    def warm_parent() -> int:
        """Return the fork server."""
        answer: list[str] = []

        def forked() -> bool:
            answer[:] = ask()
            return answer[-1] == "True"

        within(forked, "scripts are forked")
        return int(answer[0])

    server = Server(root.directory, argv)
    with running(server):
        wait_until(lambda: " is ready" in server.text(), "it serves")
        first = warm_parent()
        os.kill(first, signal.SIGKILL)
        ask()
        second = warm_parent()
        assert second != first
        list(call(str(control), "reload", SECONDS))
        within(lambda: not alive(second), "the fork server of the old worker has gone")
        third = warm_parent()
        assert server.stop() == 0
    assert not alive(third)
    assert "has died, signal SIGKILL; it is started again" in server.text()


def test_nothing_of_another_request_is_in_memory(warm: WarmLauncher, shared: Root) -> None:
    lines = [
        "import os, re",
        "found = set()",
        "with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as mem:",
        "  for line in maps:",
        "    area, rights = line.split()[:2]",
        "    if rights.startswith('rw') and 'vv' not in line:",
        "      start, end = (int(n, 16) for n in area.split('-'))",
        "      mem.seek(start)",
        "      found.update(re.findall(rb'secre[t]-[0-9]{8}', mem.read(end - start)))",
        "print(sorted(found))",
    ]
    path = script(shared, "scans", *lines)
    assert finish(start(warm, path, {"A": "secret-12345678"}))[0] == "[b'secret-12345678']\n"
    assert finish(start(warm, path, {"A": "secret-87654321"}))[0] == "[b'secret-87654321']\n"
