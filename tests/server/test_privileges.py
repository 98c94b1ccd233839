"""Giving up root, for real: in forked children, whose state the parent reads from /proc. Most of it needs root."""

from __future__ import annotations

import contextlib
import ctypes
import grp
import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from gateways.errors import ConfigError, WorkerBootError
from gateways.server.privileges import LARGEST_ID, check, drop, user_id, warn_root
from tests.server.pools import MemoryLog
from tests.servers import open_directory

ROOT: Final = os.geteuid() == 0
LINUX: Final = sys.platform == "linux"
needs_root = pytest.mark.skipif(not (ROOT and LINUX), reason="only root can give up root, and /proc is Linux's")

MAPPED: Final = LINUX and Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"]
needs_all_ids = pytest.mark.skipif(not MAPPED, reason="in a user namespace there are not all ids")

NOBODY: Final = pwd.getpwnam("nobody")
STRANGER: Final = 3_999_999_999
"""A number that no user has."""
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_SECUREBITS: Final = 28
SECBIT_NO_SETUID_FIXUP: Final = 4


class Child:
    """A forked process that has called a function and waits."""

    def __init__(self, pid: int, said: dict[str, Any]) -> None:
        self.pid = pid
        self.said = said
        """What the function returned, ``result``; or ``error`` and ``kind`` of what it raised."""

    @property
    def result(self) -> Any:  # noqa: ANN401  (whatever the function returns)
        assert "result" in self.said, self.said
        return self.said["result"]

    @property
    def status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def ids(self, name: str) -> list[int]:
        return [int(word) for word in self.status[name].split()]


@contextlib.contextmanager
def child(function: Callable[[], object]) -> Iterator[Child]:
    """Fork, call the function there, and keep the process until the end of the ``with`` block."""
    answer_in, answer_out = os.pipe()
    hold_in, hold_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(hold_out)
        said: dict[str, object] = {}
        try:
            said["result"] = function()
        except BaseException as error:  # noqa: BLE001  (told by the parent)
            said = {"kind": type(error).__name__, "error": str(error)}
        os.write(answer_out, json.dumps(said).encode())
        os.close(answer_out)
        os.read(hold_in, 1)
        os._exit(0)
    os.close(answer_out)
    os.close(hold_in)
    try:
        with open(answer_in, "rb") as file:
            yield Child(pid, json.loads(file.read()))
    finally:
        os.close(hold_out)
        os.waitpid(pid, 0)


def dropped(
    user: str = "",
    group: str = "",
    umask: int | None = None,
    chroot: str = "",
    then: Callable[[], object] | None = None,
) -> Callable[[], object]:
    """What a worker does; returns the log's lines, or what ``then`` returns afterwards."""

    def run() -> object:
        log = MemoryLog()
        drop(user, group, umask, chroot, log)
        return log.lines if then is None else then()

    return run


def unprivileged(function: Callable[[], object]) -> Callable[[], object]:
    """The same for a process that was never root."""

    def run() -> object:
        if ROOT:
            os.chdir("/")
            os.setgroups([])
            os.setgid(NOBODY.pw_gid)
            os.setuid(NOBODY.pw_uid)
        return function()

    return run


def prctl(option: int, value: int) -> int:
    result: int = ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3)
    return result


@pytest.fixture
def jail() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with open_directory() as directory:
        directory.chmod(0o755)
        (directory / "here").mkdir()
        (directory / "marker").touch()
        yield directory


# -- whom it becomes


def assert_is(made: Child, uid: int, gid: int) -> None:
    """All four ids, and nothing left of root."""
    assert made.ids("Uid") == [uid] * 4
    assert made.ids("Gid") == [gid] * 4
    for name in ("CapEff", "CapPrm", "CapAmb"):
        assert int(made.status[name], 16) == 0, name
    assert made.status["NoNewPrivs"] == "1"


@needs_root
@pytest.mark.parametrize("user", [NOBODY.pw_name, str(NOBODY.pw_uid)])
def test_a_user(user: str) -> None:
    with child(dropped(user)) as made:
        assert isinstance(made.result, list)
        assert_is(made, NOBODY.pw_uid, NOBODY.pw_gid)


@needs_root
@pytest.mark.parametrize("group", ["daemon", str(grp.getgrnam("daemon").gr_gid)])
def test_another_group(group: str) -> None:
    with child(dropped("nobody", group)) as made:
        gid = grp.getgrnam("daemon").gr_gid
        assert_is(made, NOBODY.pw_uid, gid)
        assert set(made.ids("Groups")) == set(os.getgrouplist("nobody", gid))


@needs_root
def test_supplementary_groups_are_those_of_the_user() -> None:
    """Of the user with most of them on this machine, and none of root's."""
    users = [entry for entry in pwd.getpwall() if entry.pw_uid != 0]
    entry = max(users, key=lambda each: len(os.getgrouplist(each.pw_name, each.pw_gid)))

    def run() -> object:
        os.setgroups([0, 1, 2, 3, 4])
        return dropped(entry.pw_name)()

    with child(run) as made:
        assert_is(made, entry.pw_uid, entry.pw_gid)
        assert set(made.ids("Groups")) == set(os.getgrouplist(entry.pw_name, entry.pw_gid))


@needs_root
@needs_all_ids
def test_a_number_that_nobody_has() -> None:
    def environment() -> object:
        return [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")]

    with child(dropped(str(STRANGER), str(STRANGER - 1), then=environment)) as made:
        assert made.result == ["/", None, None]
        assert_is(made, STRANGER, STRANGER - 1)
        assert made.ids("Groups") == [STRANGER - 1]


@needs_root
@needs_all_ids
def test_the_largest_numbers() -> None:
    with child(dropped(str(LARGEST_ID), str(LARGEST_ID))) as made:
        assert_is(made, LARGEST_ID, LARGEST_ID)


@needs_root
def test_a_group_alone() -> None:
    """Root with another group is still root."""
    gid = grp.getgrnam("daemon").gr_gid
    with child(dropped("", "daemon")) as made:
        assert made.ids("Uid") == [0] * 4
        assert made.ids("Gid") == [gid] * 4
        assert made.ids("Groups") == [gid]
        assert int(made.status["CapEff"], 16) != 0


@needs_root
@pytest.mark.parametrize("user", ["root", "0"])
def test_root_by_name(user: str) -> None:
    with child(dropped(user)) as made:
        assert made.result == []
        assert made.ids("Uid") == [0] * 4
        assert made.status["NoNewPrivs"] == "1"


@needs_root
def test_nothing_asked_for() -> None:
    def everything() -> object:
        return dict(os.environ)

    with child(lambda: None) as before, child(dropped(then=everything)) as made:
        for name in ("Uid", "Gid", "Groups", "CapEff", "NoNewPrivs", "Umask"):
            assert made.status[name] == before.status[name]
        assert made.result == dict(os.environ)


@needs_root
def test_the_environment_is_the_users() -> None:
    def environment() -> object:
        return [os.environ.get(name) for name in ("HOME", "USER", "LOGNAME", "PATH")]

    with child(dropped("nobody", then=environment)) as made:
        assert made.result == [NOBODY.pw_dir, "nobody", "nobody", os.environ.get("PATH")]


@needs_root
def test_a_process_that_is_this_user_already() -> None:
    with child(unprivileged(dropped("nobody", umask=0o027))) as made:
        assert made.result == []
        assert_is(made, NOBODY.pw_uid, NOBODY.pw_gid)
        assert made.status["Umask"] == "0027"


@pytest.mark.skipif(not LINUX, reason="/proc is Linux's")
@pytest.mark.parametrize("umask", [0o000, 0o027, 0o777])
@pytest.mark.parametrize("user", ["", "nobody"])
def test_umask(umask: int, user: str) -> None:
    """Always, also where nobody's user changes."""
    if user and not ROOT:
        pytest.skip("only root can give up root")
    with child(dropped(user, umask=umask)) as made:
        assert made.status["Umask"] == f"{umask:04o}"


# -- no way back


@needs_root
def test_no_way_back() -> None:
    def tries() -> object:
        worked = []
        for name, arguments in (
            ("setuid", (0,)), ("seteuid", (0,)), ("setreuid", (0, 0)), ("setresuid", (0, 0, 0)), ("setgid", (0,)),
            ("setegid", (0,)), ("setresgid", (0, 0, 0)), ("setgroups", ([0],)), ("chroot", ("/",)),
        ):  # fmt: skip
            with contextlib.suppress(PermissionError):
                getattr(os, name)(*arguments)
                worked.append(name)
        return worked

    with child(dropped("nobody", then=tries)) as made:
        assert made.result == []


@needs_root
def test_programs_with_the_setuid_bit_stay_without_it(jail: Path) -> None:
    program = jail / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)

    def effective() -> object:
        return subprocess.run([program, "-u"], check=True, capture_output=True, text=True, cwd="/").stdout.strip()

    with child(unprivileged(effective)) as before:
        if before.result != "0":
            pytest.skip("the directory for temporary files is mounted nosuid")
    with child(dropped("nobody", then=effective)) as made:
        assert made.result == str(NOBODY.pw_uid)


@needs_root
def test_capabilities_that_survive_are_found() -> None:
    """As securebits make them, which a container may have set."""

    def run() -> object:
        assert prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0
        return dropped("nobody")()

    with child(run) as made:
        assert made.said["kind"] == "WorkerBootError"
        assert "could be regained" in made.said["error"]


@needs_root
@pytest.mark.parametrize("chroot", [False, True])
def test_root_without_capabilities(chroot: bool, jail: Path) -> None:
    """As in a container that has dropped them."""

    def run() -> object:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
        assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
        return dropped("" if chroot else "nobody", chroot=str(jail) if chroot else "")()

    with child(run) as made:
        assert made.said["kind"] == "WorkerBootError"
        assert "Operation not permitted" in made.said["error"]
        assert "CAP_SETUID" in made.said["error"]


# -- /proc


@needs_root
def test_the_process_stays_visible_to_itself() -> None:
    """The kernel takes that away with the change of the user: /proc/self would be root's, and there were no cores."""

    def own() -> object:
        os.listdir("/proc/self/fd")
        Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
        Path("/proc/self/environ").read_bytes()
        return prctl(PR_GET_DUMPABLE, 0)

    def run() -> object:
        assert prctl(PR_SET_DUMPABLE, 1) == 0  # whatever other tests have made of this process
        return dropped("nobody", then=own)()

    with child(run) as made:
        assert made.result == 1
        assert os.stat(f"/proc/{made.pid}").st_uid == NOBODY.pw_uid
        assert os.stat(f"/proc/{made.pid}/fd").st_uid == NOBODY.pw_uid


@needs_root
def test_a_process_that_was_not_visible_does_not_become_so() -> None:
    def run() -> object:
        assert prctl(PR_SET_DUMPABLE, 0) == 0
        return dropped("nobody", then=lambda: prctl(PR_GET_DUMPABLE, 0))()

    with child(run) as made:
        assert made.result == 0


# -- chroot


def look() -> object:
    """Where the process is, and what it sees."""
    return [os.getcwd(), sorted(os.listdir("/")), sorted(os.listdir("."))]


@needs_root
def test_chroot(jail: Path) -> None:
    with child(dropped("nobody", chroot=str(jail), then=look)) as made:
        assert made.result == ["/", ["here", "marker"], ["here", "marker"]]
        assert_is(made, NOBODY.pw_uid, NOBODY.pw_gid)
        assert os.readlink(f"/proc/{made.pid}/root") == str(jail)
        assert os.readlink(f"/proc/{made.pid}/cwd") == str(jail)


@needs_root
@pytest.mark.parametrize("inside", ["", "here"])
def test_a_current_directory_within_the_new_root_stays(jail: Path, inside: str) -> None:
    def run() -> object:
        os.chdir(jail / inside)
        return dropped("nobody", chroot=str(jail), then=look)()

    with child(run) as made:
        assert made.result[0] == f"/{inside}"


@needs_root
def test_a_directory_beside_the_new_root_is_not_within_it(jail: Path) -> None:
    """/srv/app2 is not within /srv/app."""
    for name in ("app", "app2"):
        (jail / name).mkdir()

    def run() -> object:
        os.chdir(jail / "app2")
        return dropped("nobody", chroot=str(jail / "app"), then=look)()

    with child(run) as made:
        assert made.result == ["/", [], []]


@needs_root
def test_chroot_through_a_link(jail: Path) -> None:
    (jail / "link").symlink_to("here")

    def run() -> object:
        os.chdir(jail / "link")
        return dropped("nobody", chroot=str(jail / "link"), then=look)()

    with child(run) as made:
        assert made.result == ["/", [], []]


@needs_root
def test_chroot_to_the_root(jail: Path) -> None:
    def run() -> object:
        os.chdir(jail / "here")
        return dropped("nobody", chroot="/", then=os.getcwd)()

    with child(run) as made:
        assert made.result == str(jail / "here")


@needs_root
def test_chroot_as_root(jail: Path) -> None:
    with child(dropped(chroot=str(jail), then=look)) as made:
        assert made.result[0] == "/"
        assert made.ids("Uid") == [0] * 4


# -- what is said


@needs_root
def test_a_directory_that_the_user_may_not_read(jail: Path) -> None:
    """Nothing could be imported from it, which else would look like a module that is not there."""

    def run() -> object:
        os.chdir(jail / "here")
        return dropped("nobody")()

    for mode, warned in ((0o755, False), (0o700, True), (0o711, True)):
        (jail / "here").chmod(mode)
        with child(run) as made:
            expected = [f"--user nobody may not read the directory {jail}/here: nothing can be imported from there"]
            assert made.result == (expected if warned else [])


@needs_root
def test_the_program_is_no_worse_off_without_ctypes() -> None:
    def run() -> object:
        sys.modules["ctypes"] = None  # type: ignore[assignment]  # as where Python was built without libffi
        return dropped("nobody")()

    with child(run) as made:
        assert [line.partition("(")[0] for line in made.result] == ["cannot call prctl "]
        assert made.ids("Uid") == [NOBODY.pw_uid] * 4


@pytest.mark.parametrize(
    ("user", "group", "words"),
    [
        ("nobody-has-this-name", "", "--user 'nobody-has-this-name': this machine knows no such user"),
        ("nobody\0", "", "knows no such user"),
        ("-1", "", "knows no such user"),
        ("4294967295", "", "--user 4294967295: the largest number"),
        ("99999999999999999999", "0", "--user 99999999999999999999: the largest number"),
        ("1" * 5000, "0", "the largest number"),
        (str(STRANGER), "", "its group is not known; give --group too"),
        ("nobody", "nobody-has-this-name", "--group 'nobody-has-this-name': this machine knows no such group"),
        ("nobody", "4294967295", "--group 4294967295: the largest number"),
        ("", "-1", "knows no such group"),
        ("", "a\0b", "knows no such group"),
    ],
)
def test_unknown_ones(user: str, group: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(user, group, "")
    assert words in str(refused.value)
    with pytest.raises(WorkerBootError) as failed:
        drop(user, group, None, "", MemoryLog())
    assert words in str(failed.value)


def test_check_changes_nothing(tmp_path: Path) -> None:
    if not ROOT:
        pytest.skip("only root passes it")
    with child(lambda: None) as before, child(lambda: check("nobody", "daemon", str(tmp_path))) as made:
        assert made.result is None
        assert {name: made.status[name] for name in ("Uid", "Gid", "Groups", "NoNewPrivs")} == {
            name: before.status[name] for name in ("Uid", "Gid", "Groups", "NoNewPrivs")
        }


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_new_root_that_is_no_directory(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--chroot .* is not a directory"):
        check("", "", str(tmp_path / name))


@pytest.mark.parametrize(
    ("user", "group", "chroot", "words"),
    [
        ("root", "", "", "--user root: only root can become another user"),
        (str(STRANGER), "1", "", "only root can become another user"),
        ("", "root", "", "--group root: only root can take another group"),
        ("", "", "/", "--chroot /: only root can do that"),
    ],
)
def test_what_only_root_can_do(user: str, group: str, chroot: str, words: str) -> None:
    with child(unprivileged(lambda: check(user, group, chroot))) as made:
        assert made.said.get("kind") == "ConfigError"
        assert words in made.said["error"]


def test_without_root_ones_own_user_and_group_are_allowed() -> None:
    me = NOBODY if ROOT else pwd.getpwuid(os.geteuid())
    gid = NOBODY.pw_gid if ROOT else os.getegid()
    for user in ("", me.pw_name, str(me.pw_uid)):
        for group in ("", str(gid)):
            with child(unprivileged(lambda user=user, group=group: check(user, group, ""))) as made:  # type: ignore[misc]
                assert made.result is None


@pytest.mark.parametrize(("user", "said"), [("", True), ("root", False), ("nobody", False)])
def test_the_warning_of_root(user: str, said: bool) -> None:
    log = MemoryLog()
    warn_root(log, user)
    assert len(log.lines) == int(said and ROOT)
    assert all("--user NAME" in line for line in log.lines)


def test_nobody_else_is_warned() -> None:
    def run() -> object:
        log = MemoryLog()
        warn_root(log, "")
        return log.lines

    with child(unprivileged(run)) as made:
        assert made.result == []


def test_user_id() -> None:
    assert user_id("nobody", "--x") == user_id(str(NOBODY.pw_uid), "--x") == NOBODY.pw_uid
    assert user_id(str(STRANGER), "--x") == STRANGER
    with pytest.raises(ConfigError, match="--x 'nobody-has"):
        user_id("nobody-has-this-name", "--x")
