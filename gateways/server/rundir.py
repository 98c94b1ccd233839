"""Where a server's control socket lies when nobody says so: one file a server, in a directory of its user.

Server and client find it by the same rule. Nothing here touches a socket or the environment.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from typing import Final

from gateways.errors import ConfigError

__all__ = ["NAME", "control_directory", "control_path", "is_private", "make_private", "search_directories"]

SYSTEM: Final = "/run"
"""Of root (Filesystem Hierarchy Standard 3.0, section 3.15)."""
USERS: Final = "/run/user"
"""Where systemd has the runtime directories of the others."""
NAME: Final = re.compile(r"([1-9][0-9]{0,9})\.sock")
"""Of a control socket in such a directory: its master's process id."""


def control_path(directory: str, pid: int) -> str:
    """Return the path of the control socket of the master ``pid``."""
    return f"{directory}/{pid}.sock"


def control_directory(runtime: str | None) -> str:
    """Return the directory of our user's control sockets, which need not exist.

    ``runtime`` is the user's runtime directory; it does not count where it is not ours (``su`` leaves another's).
    """
    uid = os.geteuid()
    if uid == 0 and os.path.isdir(SYSTEM):
        return f"{SYSTEM}/gateways"
    if uid != 0 and runtime and os.path.isabs(runtime) and owner(runtime) == uid:
        return f"{runtime.rstrip('/')}/gateways"
    return f"{tempfile.gettempdir()}/gateways-{uid}"


def search_directories(runtime: str | None) -> list[str]:
    """Return all directories in which a server of our user may have its socket, each once.

    A server may have been started without the variable that we have, or with the one that we have not.
    """
    usual = f"{USERS}/{os.geteuid()}"
    return list(dict.fromkeys(control_directory(place) for place in (runtime, usual, None)))


def owner(path: str) -> int:
    """Return the uid of the owner of a directory, -1 where there is none."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def is_private(directory: str) -> bool:
    """Whether this is a directory in which nobody but us, and root, can put or replace anything."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def make_private(directory: str) -> None:
    """Make a directory with mode 0700, or take it where it is ours alone already; raises ConfigError.

    In the temporary folder anybody may have put something else there first, also a symbolic link.
    """
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"cannot make the directory {directory} for the control socket: {error.strerror}; "
            "choose a path with --control, or --control off"
        ) from error
    if not is_private(directory):
        raise ConfigError(
            f"{directory} must be a directory that belongs to the user who runs gateways and that nobody else may "
            "write in; remove it, or choose a path for the control socket with --control"
        )
