"""What a start warns of: settings that are accepted, and do not do what whoever wrote them meant. Changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from gateways.settings import Settings

__all__ = ["Log", "advise"]

_USER: Final = 0o100
_GROUP: Final = 0o010
_OTHERS: Final = 0o001
_WRITE_OTHERS: Final = 0o002
_ACL: Final = "system.posix_acl_access"


class Log(Protocol):
    """What this file tells the log."""

    def warning(self, message: str) -> None:
        """Something that its operator should look at."""


def advise(settings: Settings, log: Log) -> None:
    """Tell the log all there is to say; called when the listeners are open, or in their place by ``check``."""
    if settings.unused:
        log.warning(
            f"nobody serves what was passed as {', '.join(settings.unused)}: listeners are named, and then only "
            "they count; name these too, or none at all"
        )
    if settings.slow_log and not settings.slow_request:
        log.warning("--slow-log stays empty without --slow-request TIME, which says what is slow")
    for _, address in settings.listeners:
        if address.kind == "unix":
            if os.geteuid() == 0 and not settings.socket_owner and not settings.socket_mode & _WRITE_OTHERS:
                log.warning(
                    f"only root can connect to {address}, and the workers of web servers are not root, so that they "
                    "answer 502 or 503; give the socket to their group, as in --socket-owner :www-data"
                )
            for sentence in unreachable(address.path, settings.socket_mode, settings.socket_owner):
                log.warning(sentence)


def unreachable(path: str, mode: int, owner: str) -> Iterator[str]:
    """Say which directory keeps those away whom the socket's mode and owner let in; nothing where that is nobody."""
    user, _, group = owner.partition(":")
    if not mode & _WRITE_OTHERS and not owner:
        return
    try:
        made = os.stat(path)
    except OSError:  # it has not been made
        return
    for directory in reversed(Path(os.path.abspath(path)).parents):
        try:
            found = os.stat(directory)
        except OSError:
            return
        of_group = group and found.st_gid == made.st_gid and found.st_mode & _GROUP
        of_user = user and not group and found.st_uid == made.st_uid and found.st_mode & _USER
        if not (found.st_mode & _OTHERS or of_group or of_user or has_acl(directory)):
            who = f"the group {group}" if group else f"the user {user}" if user else "other users"
            yield (
                f"{who} cannot connect to {path}: its directory {directory} has mode {stat.S_IMODE(found.st_mode):o}, "
                f"so that a web server answers 502; chmod o+x {directory}, or choose another directory"
            )
            return


def has_acl(directory: Path) -> bool:
    """Whether more than the mode says who may search it (acl(5))."""
    try:
        return bool(os.getxattr(directory, _ACL)) if hasattr(os, "getxattr") else False
    except OSError:
        return False
