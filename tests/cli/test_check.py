"""``gateways check``: the same answer as ``serve`` would give, and nothing of the application is left afterwards."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateways.cli.check import examine
from gateways.errors import ConfigError
from gateways.settings import load_settings
from tests.servers import free_port, open_directory, wait_until

Done = subprocess.CompletedProcess[str]
Check = Callable[..., Done]
GOOD = "def app(environ, start_response): pass\n"
ROOT = os.geteuid() == 0


def run(command: str, *arguments: str, cwd: Path, program: tuple[str, str] = ("-m", "gateways")) -> Done:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GATEWAYS_")}
    return subprocess.run(
        [sys.executable, *program, command, *arguments],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """``gateways check site:app`` with options, where site.py has this source."""

    def check(source: str, *options: str) -> Done:
        (tmp_path / "site_.py").write_text(source)
        return run("check", "site_:app", *options, cwd=tmp_path)

    return check


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


# Good


def test_good(check: Check) -> None:
    socket = ("--fastcgi", "/run/shop.sock", "--socket-mode", "666")
    done = check(GOOD, *socket, "--http", "8000", "--workers", "2", "--threads", "4")
    assert done.returncode == 0
    assert done.stdout == (
        "configuration and application are good: site_:app, fastcgi on /run/shop.sock, http on 127.0.0.1:8000, "
        "workers 2 x 4 threads\n"
    )
    assert done.stderr == ""


def test_one_line_whatever_the_application_prints(check: Check) -> None:
    source = f"import atexit, os\nprint('hello')\nos.write(1, b'raw ')\natexit.register(print, 'bye')\n{GOOD}"
    done = check(source)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "configuration and application are good: site_:app, auto on 127.0.0.1:8000, workers 1\n"
    )
    assert done.stdout.count("\n") == 1
    for word in ("hello", "raw", "bye"):
        assert word in done.stderr


def test_nothing_is_bound(check: Check, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        done = check(GOOD, "--http", str(port), "--fastcgi", str(tmp_path / "s"), "--control", str(tmp_path / "c"))
    assert done.returncode == 0
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "c").exists()


def test_the_parent_keeps_its_directory_and_the_child_has_the_application_s(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "site_.py").write_text(f"import os\nassert os.getcwd() == {str(folder)!r}\n{GOOD}")
    assert run("check", "site_:app", "--chdir", "shop", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_the_application_is_loaded_as_the_workers_user() -> None:
    with open_directory() as directory:
        directory.chmod(0o755)
        source = f"import os\nassert (os.getuid(), os.getgid()) == (65534, 65533), os.getuid()\n{GOOD}"
        (directory / "site_.py").write_text(source)
        done = run("check", "site_:app", "--user", "65534", "--group", "65533", cwd=directory)
        assert (done.returncode, done.stderr) == (0, "")


# Mistakes: the sentence of serve


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "0"], "--workers: '0' is not a whole number from 1 to 1024"),
        (
            ["--fastcgi", "./s", "--socket-owner", "no-such-user"],
            "the user 'no-such-user', whom this machine does not know",
        ),
        (["--fastcgi", "./s", "--socket-owner", "4294967295"], "the number 4294967295, and the highest is 4294967294"),
        (["--fastcgi", "/run/" + "x" * 200], "bytes long, and the system takes"),
        (["--user", "no-such-user"], "this machine knows no such user"),
        (["--allow-user", "no-such-user"], "this machine knows no such user"),
        (["--access-log", "-", "--access-format", "%Q"], "'%Q', no atom"),
        (["--access-format", "%Q"], "'%Q', no atom"),
        (["--error-log", "none/e"], "cannot open the error log"),
        (["--access-log", "none/a"], "none/a: No such file or directory"),
        (["--slow-log", "/usr"], "cannot open the slow log /usr: Is a directory"),
        (["--slow-log", "site_.py/s"], "Not a directory"),
        (["--pid-file", "none/pid"], "none/pid: No such file or directory; choose another one"),
        (["--fastcgi", "none/s"], "cannot listen on none/s: none is not a directory; make it (mkdir -p none)"),
        (["--fastcgi", "./site_.py"], "cannot listen on ./site_.py: the path exists and is not a socket; remove it"),
        (["--control", "none/c"], "none is not a directory; make it (mkdir -p "),
        (["--config", "no.toml"], "cannot read the configuration file no.toml"),
    ],
)
def test_a_mistake_is_what_serve_says(check: Check, tmp_path: Path, options: list[str], sentence: str) -> None:
    done = check(GOOD, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    served = run("serve", "site_:app", "--http", "0", *options, cwd=tmp_path)
    assert served.returncode == 2
    assert served.stderr.endswith(done.stderr), "some of its log may come before"


def test_a_slow_log_without_a_time(check: Check, tmp_path: Path) -> None:
    done = check(GOOD, "--slow-log", "slow")
    assert done.returncode == 0
    assert done.stderr.startswith("gateways: --slow-log stays empty without --slow-request TIME")
    assert not (tmp_path / "slow").exists()


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("site_.py", "'site_.py' names a file, and an application is named by its module"),
        ("sight_:app", "no module named 'sight_' in the Python path; did you mean site_?"),
        ("site_:apple", "site_ has no attribute 'apple'; did you mean site_:app?"),
    ],
)
def test_an_application_that_is_not_there(tmp_path: Path, app: str, sentence: str) -> None:
    (tmp_path / "site_.py").write_text(GOOD)
    done = run("check", app, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_no_application(tmp_path: Path) -> None:
    done = run("check", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gateways: no application given: ")


# Applications that fail


def test_an_application_that_raises(check: Check, tmp_path: Path) -> None:
    done = check("1 / 0\n")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("Traceback") == 1
    sentence = "importing site_ failed with ZeroDivisionError: division by zero; the traceback shows where"
    assert done.stderr.splitlines()[-1].startswith(f"gateways: {sentence}")
    served = run("serve", "site_:app", "--http", "0", cwd=tmp_path)
    assert served.returncode == 3
    assert sentence in served.stderr


def test_an_application_that_fails_at_its_first_request(check: Check) -> None:
    source = "def app(environ, start_response):\n    environ['wsgi.errors'].write('asked')\n    import none_\n"
    assert check(source).returncode == 0
    done = check(source, "--warm-up", "/x")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("Traceback") == 1
    assert "GET /x: asked" in done.stderr
    raised = "ModuleNotFoundError: No module named 'none_'"
    assert done.stderr.endswith(
        f"gateways: the application raised {raised} when it was asked for http://localhost/x (--warm-up)\n"
    )
    refused = check(
        "def app(environ, start_response):\n    start_response('500 No', [])\n    return []", "--warm-up", "/x"
    )
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith(
        "gateways: the application answered 500 No when it was asked for http://localhost/x (--warm-up); "
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import os; os._exit(0)", "ended the process with exit code 0, without an error"),
        ("import os; os._exit(2)", "ended the process with exit code 2, without an error"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("raise SystemExit('enough')", "importing site_ failed with SystemExit: enough"),
        ("raise KeyboardInterrupt", "ended the process with exit code 3"),
    ],
)
def test_an_application_that_ends_the_process(check: Check, source: str, sentence: str) -> None:
    done = check(source)
    assert (done.returncode, done.stdout) == (3, "")
    assert sentence in done.stderr


@pytest.mark.parametrize("deaf", [False, True])
def test_an_application_that_takes_too_long(check: Check, deaf: bool) -> None:
    """Also one that has taken the timer away, as debuggers do."""
    cancel = "import faulthandler; faulthandler.cancel_dump_traceback_later()\n" if deaf else ""
    start = time.monotonic()
    done = check(f"{cancel}import time\ntime.sleep(60)\n", "--boot-timeout", "500ms")
    assert time.monotonic() - start < 20
    assert (done.returncode, done.stdout) == (3, "")
    assert "loading site_:app takes more than 0.5 s" in done.stderr
    assert deaf or "site_.py" in done.stderr, "where it stands"


def test_an_application_that_takes_too_long_where_this_process_is_slow(tmp_path: Path) -> None:
    """The child's timer has ended it before its parent looks for the first time."""
    (tmp_path / "site_.py").write_text("import time\ntime.sleep(60)\n")
    slow = "import os, time; os.register_at_fork(after_in_parent=lambda: time.sleep(1.2))"
    program = ("-c", f"{slow}; from gateways.cli import main; main()")
    done = run("check", "site_:app", "--boot-timeout", "500ms", cwd=tmp_path, program=program)
    assert (done.returncode, done.stdout) == (3, "")
    assert "loading site_:app takes more than 0.5 s" in done.stderr


def test_an_exit_function_that_hangs_does_not_matter(check: Check) -> None:
    start = time.monotonic()
    done = check(f"import atexit, time\natexit.register(time.sleep, 60)\n{GOOD}")
    assert time.monotonic() - start < 20
    assert done.returncode == 0


# What is left


def test_what_the_application_has_started_ends_with_it(check: Check, tmp_path: Path) -> None:
    source = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
{GOOD}"""
    assert check(source).returncode == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: gone(pid), "the application's child has ended")


def test_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'new')!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "gateways", "check", "site_:app"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until((tmp_path / "pid").exists, "the application is being loaded")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    wait_until(lambda: gone(int((tmp_path / "pid").read_text())), "the child has ended")


def test_ctrl_c_while_it_forks(tmp_path: Path) -> None:
    """What other modules do there (logging) swallows exceptions."""
    (tmp_path / "site_.py").write_text("import time\ntime.sleep(60)\n")
    program = """import os, runpy, signal, sys
os.register_at_fork(after_in_parent=lambda: (os.kill(os.getpid(), signal.SIGINT), [None for _ in range(1000)]))
sys.argv = ["gateways", "check", "site_:app"]
runpy.run_module("gateways", run_name="__main__", alter_sys=True)"""
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


def test_without_standard_streams(tmp_path: Path) -> None:
    (tmp_path / "site_.py").write_text(GOOD)
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m gateways check site_:app >&- 2>&-"],
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0


def test_what_watches_files_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``serve``: it is found out before the application is loaded."""
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "watchfiles" else find_spec(name))
    settings = load_settings({"app": "site_:app", "reload": True}, {})
    with pytest.raises(ConfigError, match="--reload needs watchfiles"):
        examine(settings)
