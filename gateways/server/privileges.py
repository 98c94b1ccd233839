"""From root to the user whom the workers run as: checked before anything is bound, done in each worker after its fork.

Supplementary groups are those that the system's group file gives the user, as with nginx and systemd, also where
--group names another primary group; a number without a name has none. HOME, USER and LOGNAME become the user's, as su
makes them: with root's HOME, libraries would look for their files where they may not. Nothing is done about files: what
root has opened stays open, and no file changes its owner.

With --user or --group a worker can gain no privileges any more: what has the setuid or setgid bit runs without it
(PR_SET_NO_NEW_PRIVS). That concerns sudo, and Postfix's sendmail.
"""

from __future__ import annotations

import grp
import os
import pwd
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gateways.errors import ConfigError, WorkerBootError

__all__ = ["check", "drop", "user_id", "warn_root"]

LARGEST_ID: Final = 0xFFFFFFFE
"""4294967295 is -1, which setresuid(2) takes for "as it was"."""
DIGITS_OF_ID: Final = 10
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

Prctl = Callable[[int, int], int]
"""prctl(2) with one argument; -1 where it fails."""


class Log(Protocol):
    """What this file tells the log."""

    def warning(self, message: str) -> None:
        """Something that its operator should look at."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to become; -1 is nobody else."""

    uid: int = -1
    gid: int = -1
    name: str = ""
    """Empty for a number that no user has."""
    home: str = "/"


def check(user: str, group: str, chroot: str) -> None:
    """Raise ConfigError where ``drop`` could not do what is asked; called before anything is bound, changes nothing.

    ``user`` and ``group`` are names or numbers, "" for none; ``chroot`` is an absolute path, or "".
    """
    wanted = identity(user, group)
    if chroot and not Path(chroot).is_dir():
        raise ConfigError(f"--chroot {chroot} is not a directory")
    if os.geteuid() == 0:
        return
    if wanted.uid not in (-1, os.geteuid()):
        raise ConfigError(f"--user {user}: only root can become another user; start as root, or leave --user away")
    if group and wanted.gid != os.getegid():
        raise ConfigError(f"--group {group}: only root can take another group; start as root, or leave --group away")
    if chroot:
        raise ConfigError(f"--chroot {chroot}: only root can do that; start as root, with --user, or leave it away")


def warn_root(log: Log, user: str) -> None:
    """Say, once at the start, that the application is going to run as root, where nobody has asked for that."""
    if os.geteuid() == 0 and not user:
        log.warning(
            "the application runs as root, and whoever finds a hole in it has the machine; "
            "let its workers run as somebody else: --user NAME"
        )


def drop(user: str, group: str, umask: int | None, chroot: str, log: Log) -> None:
    """Make this process that of ``user``, for good: in a worker just forked, before any thread and the application.

    Arguments as for ``check``; ``umask`` None leaves it as it is. The current directory stays where it lies within
    ``chroot``, else it becomes the new root. Raises WorkerBootError.
    """
    if umask is not None:
        os.umask(umask)
    try:
        wanted = identity(user, group)
    except ConfigError as error:
        raise WorkerBootError(str(error)) from None
    prctl = find_prctl(log) if user or group else None  # now: after chroot(2) there are no libraries
    dumpable = prctl is not None and prctl(PR_GET_DUMPABLE, 0) == 1
    privileged = os.geteuid() == 0
    try:
        if privileged:
            take_groups(wanted)
        if chroot:
            enter(chroot)
        if privileged:
            become(wanted)
    except OSError as error:
        raise WorkerBootError(
            f"cannot give up root (--user, --group, --chroot): {error.strerror}; the master needs CAP_SETUID, "
            "CAP_SETGID and CAP_SYS_CHROOT"
        ) from None
    if prctl is not None:
        # The kernel has taken it away (commit_creds): without it /proc/self is root's and nobody gets a core dump.
        if dumpable:
            prctl(PR_SET_DUMPABLE, 1)
        if prctl(PR_SET_NO_NEW_PRIVS, 1) != 0:
            log.warning("the system has no PR_SET_NO_NEW_PRIVS: setuid programs keep their meaning for the application")
    if privileged and wanted.uid > 0 and not os.access(".", os.R_OK | os.X_OK):
        log.warning(f"--user {user} may not read the directory {os.getcwd()}: nothing can be imported from there")


# Who that is


def identity(user: str, group: str) -> Identity:
    """Look up who is meant; raises ConfigError."""
    gid = group_id(group) if group else -1
    if not user:
        return Identity(gid=gid)
    uid, entry = find_user(user, "--user")
    if entry is not None:
        return Identity(uid, gid if group else entry.pw_gid, entry.pw_name, entry.pw_dir)
    if not group:
        raise ConfigError(f"--user {user}: nobody has this number, so its group is not known; give --group too")
    return Identity(uid, gid)


def user_id(name: str, option: str) -> int:
    """Return the uid of a name or number that was given for ``option``; raises ConfigError."""
    return find_user(name, option)[0]


def find_user(name: str, option: str) -> tuple[int, pwd.struct_passwd | None]:
    """The uid of a name or number, and who has it; raises ConfigError."""
    if name.isascii() and name.isdigit():
        uid = number(name, option)
        try:
            return uid, pwd.getpwuid(uid)
        except KeyError:
            return uid, None
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):  # ValueError: a NUL
        raise ConfigError(f"{option} {name!r}: this machine knows no such user; 'getent passwd' lists them") from None
    return entry.pw_uid, entry


def group_id(name: str) -> int:
    """The gid of a name or number; raises ConfigError."""
    if name.isascii() and name.isdigit():
        return number(name, "--group")
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise ConfigError(f"--group {name!r}: this machine knows no such group; 'getent group' lists them") from None


def number(digits: str, option: str) -> int:
    """The id that ``digits`` name."""
    if len(digits) > DIGITS_OF_ID or int(digits) > LARGEST_ID:
        raise ConfigError(f"{option} {digits}: the largest number of a user or group is {LARGEST_ID}")
    return int(digits)


# Becoming it


def take_groups(wanted: Identity) -> None:
    """Take the user's supplementary groups: by name, hence before the group file is out of reach."""
    if wanted.name:
        os.initgroups(wanted.name, wanted.gid)
    elif wanted.gid != -1:
        os.setgroups([wanted.gid])


def enter(chroot: str) -> None:
    """Make ``chroot`` the root directory, and be within it: a current directory outside would be a way out."""
    root = os.path.realpath(chroot)
    here = os.path.realpath(os.getcwd())
    inside = here[len(root.rstrip("/")) :] if (here + "/").startswith(root.rstrip("/") + "/") else ""
    os.chdir(root)
    os.chroot(".")
    os.chdir(inside or "/")


def become(wanted: Identity) -> None:
    """Take group and user, see that there is no way back, and tell the application who it is; raises OSError."""
    if wanted.gid != -1:
        os.setgid(wanted.gid)
    if wanted.uid == -1:
        return
    os.setuid(wanted.uid)
    if wanted.uid != 0:
        no_way_back(wanted)
    os.environ["HOME"] = wanted.home
    for variable in ("USER", "LOGNAME"):
        os.environ.pop(variable, None)
        if wanted.name:
            os.environ[variable] = wanted.name


def no_way_back(wanted: Identity) -> None:
    """Try to become root again (setuid(2): nobody may); raises WorkerBootError where that works."""
    ways: list[Callable[[int], None]] = [os.seteuid, os.setuid]
    if wanted.gid != 0:
        ways += [os.setegid, os.setgid]
    for way in ways:
        try:
            way(0)
        except OSError:
            continue
        raise WorkerBootError("root was given up, and could be regained: the system's capabilities are set up wrongly")
    if {os.getuid(), os.geteuid()} != {wanted.uid} or {os.getgid(), os.getegid()} != {wanted.gid}:
        raise WorkerBootError("root was given up, and the process is somebody else than was asked for")


def find_prctl(log: Log) -> Prctl | None:
    """Return prctl(2), or None where there is none."""
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415  (a third of a megabyte, which only this function needs)

        function = ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError) as error:
        log.warning(f"cannot call prctl ({error}): setuid programs keep their meaning for the application")
        return None
    zero = ctypes.c_ulong(0)

    def prctl(option: int, value: int) -> int:
        result: int = function(option, ctypes.c_ulong(value), zero, zero, zero)
        return result

    return prctl
