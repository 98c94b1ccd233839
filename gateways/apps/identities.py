"""As whom a script runs, where the server is root: as its file's owner, or as one user for all; never as root."""

from __future__ import annotations

import os
import pwd
import stat
from typing import Final

from gateways.apps.choice import Choice, ScriptRefused
from gateways.apps.processes import Identity
from gateways.errors import ConfigError

__all__ = ["Identities"]

OWNER: Final = "owner"
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_CACHED: Final = 256


class Identities:
    """Says for each script as whom it runs. ``user`` is a name, or ``owner``; empty is the same where this is root."""

    def __init__(self, user: str) -> None:
        self._root = os.geteuid() == 0
        self._one: Identity | None = None
        self._owners: dict[tuple[int, int], Identity] = {}
        if user and not self._root:
            raise ConfigError(f"--script-user {user} changes the user of scripts, and only root can do that")
        if user not in ("", OWNER):
            try:
                self._one = identity_of(pwd.getpwnam(user))
            except KeyError:
                raise ConfigError(f"--script-user: there is no user {user!r}") from None
            if not (self._one.uid and self._one.gid):
                raise ConfigError(f"--script-user {user}: scripts never run as root, nor in its group")

    def of(self, choice: Choice) -> Identity | None:
        """Return as whom a script runs; None: as the server itself. Raises ScriptRefused."""
        if not self._root:
            return None
        if self._one is not None:
            return self._one
        if not choice.uid:
            raise ScriptRefused(
                403, f"{choice.path} belongs to root, and scripts run as their owners; --script-user NAME changes that"
            )
        self._check(choice)
        ids = choice.uid, choice.gid
        known = self._owners.get(ids)
        if known is None:
            try:
                known = identity_of(pwd.getpwuid(choice.uid))
            except KeyError:
                known = Identity(choice.uid, choice.gid, (choice.gid,))  # Python 3.12.0 took () for root's own groups
            if not known.gid:
                raise ScriptRefused(403, f"{choice.path}: its owner's group is root's")
            if len(self._owners) < _CACHED:
                self._owners[ids] = known
        return known

    def _check(self, choice: Choice) -> None:
        """Nobody else may be able to write what runs as the owner (as Apache's suexec has it)."""
        directory = os.path.dirname(choice.path)
        try:
            around = os.stat(directory)
        except OSError as error:
            raise ScriptRefused(404, f"{directory}: {error.strerror}") from None
        if choice.mode & _WRITABLE:
            raise ScriptRefused(403, f"{choice.path} would run as its owner, but others can write it")
        if around.st_mode & _WRITABLE or around.st_uid not in (0, choice.uid):
            raise ScriptRefused(403, f"{choice.path} would run as its owner, but others can write its directory")
        # Who can exchange a directory can have it lead to another user's file for the look, and back for the start.
        while len(directory) > len(choice.root) > 0:
            directory = os.path.dirname(directory)
            try:
                above = os.lstat(directory)
            except OSError as error:
                raise ScriptRefused(404, f"{directory}: {error.strerror}") from None
            if above.st_mode & _WRITABLE or above.st_uid not in (0, choice.uid):
                raise ScriptRefused(
                    403, f"{choice.path} would run as its owner, but others can write a directory above it, {directory}"
                )


def identity_of(entry: pwd.struct_passwd) -> Identity:
    """Return a user with all groups; root's is none of them."""
    groups = tuple(group for group in os.getgrouplist(entry.pw_name, entry.pw_gid) if group)
    return Identity(entry.pw_uid, entry.pw_gid, groups)
