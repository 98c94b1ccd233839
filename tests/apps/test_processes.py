"""Scripts as processes: started, signalled as a group, reaped; as whom they run."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateways.apps.choice import Choice, ScriptRefused
from gateways.apps.identities import Identities
from gateways.apps.processes import Launcher, Process, shell_of
from gateways.errors import ConfigError
from gateways.limits import ScriptLimits
from tests.apps.scripts import Root, alive
from tests.server.pools import within

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root changes users")


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
    assert process.await_exit(5)
    assert process.code is None
    assert process.reap() == process.reap() == 3
    process.close()
    process.signal(signal.SIGKILL)  # nothing: the number may be another's


def test_a_group_of_its_own_is_signalled(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "sleep 60 & echo $!", "wait")
    os.set_blocking(process.stdout, True)
    child = int(os.read(process.stdout, 100))
    assert os.getsid(process.pid) == os.getpgid(process.pid) == os.getpgid(child) == process.pid
    assert not process.await_exit(0.01)
    process.signal(signal.SIGTERM)
    assert read(process.stdout) == b""
    assert process.await_exit(5)
    assert process.reap() == -signal.SIGTERM
    within(lambda: not alive(child), "so is its child")
    process.close()


def test_a_read_of_what_somebody_else_has_taken_does_not_wait(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "exec sleep 2")
    for fd in (process.stdout, process.stderr):
        with pytest.raises(BlockingIOError):
            os.read(fd, 1)
    process.signal(signal.SIGKILL)
    process.await_exit(5)
    process.reap()
    process.close()


def test_the_script_s_own_ends_wait(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "grep flags: /proc/self/fdinfo/1 /proc/self/fdinfo/2")
    flags = [int(word, 8) for word in read(process.stdout).split()[1::2]]
    assert flags
    assert not any(flag & os.O_NONBLOCK for flag in flags)
    process.await_exit(5)
    process.reap()
    process.close()


def test_signals_are_a_new_program_s(launcher: Launcher, root: Root) -> None:
    process = start(launcher, root, "grep -E 'SigBlk|SigIgn' /proc/self/status")
    blocked, ignored = (int(mask, 16) for mask in read(process.stdout).split()[1::2])
    assert not blocked
    assert not ignored & ~(3 << 31), "32 and 33 are the C library's own"
    process.await_exit(5)
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
    process.await_exit(5)
    process.reap()
    process.close()
    launcher.close()


# -- as whom --------------------------------------------------------------------------------------------------


def choice_of(root: Root, name: str, uid: int, gid: int, mode: int = 0o755) -> Choice:
    path = root.sh(f"{name}/script", "echo")
    if ROOT:
        os.chown(path, uid, gid)
        os.chown(path.parent, uid, gid)
    return Choice(str(path), "/script", "", (str(path),), uid, gid, stat.S_IFREG | mode)


@pytest.mark.skipif(ROOT, reason="root can")
def test_only_root_changes_users(root: Root) -> None:
    assert Identities("").of(choice_of(root, "own", os.geteuid(), os.getegid())) is None
    with pytest.raises(ConfigError, match="only root"):
        Identities("nobody")


@as_root
def test_scripts_run_as_their_owners(root: Root) -> None:
    nobody = pwd.getpwnam("nobody")
    for spec in ("", "owner"):
        identity = Identities(spec).of(choice_of(root, "nobody", nobody.pw_uid, 0))
        assert identity is not None
        assert (identity.uid, identity.gid) == (nobody.pw_uid, nobody.pw_gid)
        assert 0 not in identity.groups


@as_root
def test_scripts_run_as_one_user(root: Root) -> None:
    identity = Identities("nobody").of(choice_of(root, "root", 0, 0))
    assert identity is not None
    assert identity.uid == pwd.getpwnam("nobody").pw_uid


@as_root
@pytest.mark.parametrize("name", ["root", "no-such-user"])
def test_never_as_root(name: str) -> None:
    with pytest.raises(ConfigError):
        Identities(name)


@as_root
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "told"),
    [
        (0, 0, 0o755, "belongs to root"),
        (65534, 65534, 0o775, "others can write it"),
        (65534, 65534, 0o757, "others can write it"),
        (54321, 0, 0o755, "group is root's"),
    ],
)
def test_what_may_not_run_as_its_owner(root: Root, uid: int, gid: int, mode: int, told: str) -> None:
    with pytest.raises(ScriptRefused) as raised:
        Identities("owner").of(choice_of(root, f"d{uid}{mode}", uid, gid, mode))
    assert told in raised.value.reason


@as_root
def test_an_owner_without_an_account_has_the_group_of_each_file(root: Root) -> None:
    identities = Identities("owner")
    for gid in (54322, 54323):
        identity = identities.of(choice_of(root, f"unknown{gid}", 54321, gid))
        assert identity is not None
        assert (identity.gid, identity.groups) == (gid, (gid,))
    with pytest.raises(ScriptRefused, match="group is root's"):
        identities.of(choice_of(root, "unknown0", 54321, 0))


@as_root
def test_a_directory_that_others_can_write(root: Root) -> None:
    choice = choice_of(root, "open", 65534, 65534)
    directory = Path(choice.path).parent
    directory.chmod(0o777)
    with pytest.raises(ScriptRefused, match="directory"):
        Identities("owner").of(choice)
    directory.chmod(0o755)
    os.chown(directory, 54321, 54321)
    with pytest.raises(ScriptRefused, match="directory"):
        Identities("owner").of(choice)


@as_root
def test_a_directory_above_that_others_can_change(root: Root) -> None:
    """Its owner could have it lead to another user's script for the look, and to one of his own for the start."""
    found = choice_of(root, "theirs", 65534, 65534)
    top = root.directory / "mine"
    (top / "below").mkdir(parents=True)
    os.chown(top, 54321, 54321)
    (top / "now").symlink_to(Path(found.path).parent)
    real = choice_of(root, "mine/below", 65534, 65534)
    for path in (top / "now" / "script", Path(real.path)):
        choice = replace(found, path=str(path), root=str(root.directory))
        with pytest.raises(ScriptRefused, match=r"^403: .* others can write a directory above it"):
            Identities("owner").of(choice)
    os.chown(top, 65534, 65534)
    assert Identities("owner").of(replace(real, root=str(root.directory))) is not None
    top.chmod(0o775)
    with pytest.raises(ScriptRefused, match="above"):
        Identities("owner").of(replace(real, root=str(root.directory)))


@as_root
def test_the_user_is_really_another(root: Root) -> None:
    launcher = Launcher(ScriptLimits())
    identity = Identities("nobody").of(choice_of(root, "who", 0, 0))
    path = root.sh("id", f"{shutil.which('id')} -u; {shutil.which('id')} -G; touch {root.directory}/made")
    process = launcher.start([str(path)], {}, str(root.directory), identity, stdin=False)
    assert read(process.stdout).split() == [b"65534", b"65534"]
    assert b"denied" in read(process.stderr)
    process.await_exit(5)
    process.reap()
    process.close()
    launcher.close()
