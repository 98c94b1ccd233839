"""Scripts as processes: started, also as another user, signalled as a group, reaped."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
from collections.abc import Iterator

import pytest

from gateways.apps.identities import identity_of
from gateways.apps.processes import Launcher, Process, shell_of
from gateways.limits import ScriptLimits
from tests.apps.scripts import Root, alive, has_ended
from tests.server.pools import within


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(ScriptLimits())
    yield launcher
    launcher.close()


def start(launcher: Launcher, root: Root, *lines: str, stdin: bool = False) -> Process:
    path = root.sh("process", *lines)
    return launcher.start([str(path)], {"A": "b"}, str(root.directory), None, stdin=stdin)


def read(fd: int) -> bytes:
    data = b""
    os.set_blocking(fd, True)
    while block := os.read(fd, 65_536):
        data += block
    return data


def test_a_process_from_start_to_end(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "cat", 'echo "$A $(pwd)"', "echo error >&2", "exit 3", stdin=True)
    os.write(process.stdin, b"input ")
    assert not process.exited()
    process.close_stdin()
    assert read(process.stdout) == f"input b {root.directory}\n".encode()
    assert read(process.stderr) == b"error\n"
    assert has_ended(process, 5)
    assert process.code is None
    assert process.reap() == process.reap() == 3
    process.close()
    process.signal(signal.SIGKILL)  # nothing: the number may be another's


def test_a_group_of_its_own_is_signalled(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "sleep 60 & echo $!", "wait")
    os.set_blocking(process.stdout, True)
    child = int(os.read(process.stdout, 100))
    assert os.getsid(process.pid) == os.getpgid(process.pid) == os.getpgid(child) == process.pid
    assert not has_ended(process, 0.01)
    process.signal(signal.SIGTERM)
    assert read(process.stdout) == b""
    assert has_ended(process, 5)
    assert process.reap() == -signal.SIGTERM
    within(lambda: not alive(child), "so is its child")
    process.close()


def test_a_read_of_what_somebody_else_has_taken_does_not_wait(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "exec sleep 2")
    for fd in (process.stdout, process.stderr):
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
    process.signal(signal.SIGKILL)
    has_ended(process, 5)
    process.reap()
    process.close()


def test_the_script_s_own_ends_wait(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "grep flags: /proc/self/fdinfo/1 /proc/self/fdinfo/2")
    flags = [int(word, 8) for word in read(process.stdout).split()[1::2]]
    assert flags
    assert not any(flag & os.O_NONBLOCK for flag in flags)
    has_ended(process, 5)
    process.reap()
    process.close()


def test_signals_are_a_new_program_s(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "grep -E 'SigBlk|SigIgn' /proc/self/status")
    blocked, ignored = (int(mask, 16) for mask in read(process.stdout).split()[1::2])
    assert not blocked
    assert not ignored & ~(3 << 31), "32 and 33 are the C library's own"
    has_ended(process, 5)
    process.reap()
    process.close()


def test_what_cannot_be_started_leaves_nothing_open(launcher: Launcher, root: Root) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        launcher.start([str(root.directory / "nothing")], {}, str(root.directory), None, stdin=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_server_without_a_free_descriptor_starts_nothing(launcher: Launcher, root: Root) -> None:
    path = str(root.sh("process", "echo"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.listdir("/proc/self/fd")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 2, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            launcher.start([path], {}, str(root.directory), None, stdin=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_shell_without_limits() -> None:
    assert shell_of(ScriptLimits(script_timeout=1, max_output=1)) == ()
    assert shell_of(ScriptLimits(cpu_seconds=1))[:2] == ("/bin/sh", "-c")


def test_a_limit_above_the_server_s_own_is_that(root: Root) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    launcher = Launcher(ScriptLimits(open_files=hard + 1))
    process = start(launcher, root, "ulimit -n; ulimit -H -n")
    assert read(process.stdout).split() == [str(hard).encode()] * 2
    has_ended(process, 5)
    process.reap()
    process.close()
    launcher.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")
def test_the_user_is_really_another(root: Root) -> None:
    launcher = Launcher(ScriptLimits())
    identity = identity_of(pwd.getpwnam("nobody"))
    path = root.sh("id", f"{shutil.which('id')} -u; {shutil.which('id')} -G; touch {root.directory}/made")
    process = launcher.start([str(path)], {}, str(root.directory), identity, stdin=False)
    assert read(process.stdout).split() == [b"65534", b"65534"]
    assert b"denied" in read(process.stderr)
    has_ended(process, 5)
    process.reap()
    process.close()
    launcher.close()
