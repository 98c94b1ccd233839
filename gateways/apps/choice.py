"""Which program below a root answers a request, by what the web server says; docs/scripts.md has the rules.

What is chosen is a regular file whose real path lies in the root. A client's part in it is the URL's path alone. It
is not defended against those who may write into the root, whose programs run anyway: between the look at a file
and its start they may put another one in its place.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from gateways.environ import normal_path

__all__ = ["Choice", "Chooser", "ScriptRefused"]

_PROXY: Final = "proxy:"  # Apache's mod_proxy: proxy:fcgi://host:port/path
_DROPPED: Final = ("CONTENT_LENGTH", "CONTENT_TYPE", "DOCUMENT_URI", "PATH_TRANSLATED")
"""What a local redirect leaves of a request's parameters behind."""


class ScriptRefused(Exception):
    """No program may answer. Clients see ``status`` alone; ``reason`` is for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(slots=True, frozen=True)
class Choice:
    """A program, and how the URL's path is split for it."""

    path: str
    """Its real path."""
    script_name: str
    """As parameters are: bytes as latin-1, decoded once. So is the next."""
    path_info: str
    argv: tuple[str, ...]
    """What to execute: ``path``, behind its interpreter where its extension has one."""
    uid: int
    gid: int
    mode: int
    """Of the file, as stat tells them."""
    root: str = ""
    """The real path of the root; empty where the program is the only one."""
    prefix: str = ""
    """The URL path of the root."""


class Chooser:
    """Chooses below ``root``, or always ``script``: one of them is None.

    ``index`` are names that are tried in a directory, ``interpreters`` go by extension (``.php``). ``mount`` is the URL
    path of the root where web servers do not name files. Raises OSError where there is no root, or no script.
    """

    def __init__(
        self,
        root: str | None,
        *,
        script: str | None,
        index: tuple[str, ...],
        interpreters: Mapping[str, tuple[str, ...]],
        mount: str | None = None,
    ) -> None:
        if (root is None) == (script is None):
            raise ValueError("either a root or a script")
        self._given = os.path.abspath(root) if root is not None else ""
        self._root = os.path.realpath(root, strict=True) if root is not None else ""
        self._script = os.path.realpath(script, strict=True) if script is not None else ""
        self._index = index
        self._interpreters = interpreters
        self._mount = _latin1(mount or "")

    def choose(self, params: Mapping[str, str]) -> Choice:
        """Return the program for a request; raises ScriptRefused.

        ``params`` are what ``to_environ``, without a mount, has made of those that were sent.
        """
        raise NotImplementedError

    def redirect(self, params: Mapping[str, str], choice: Choice, location: str) -> dict[str, str]:
        """Return the parameters, for ``choose``, of what a local redirect asks for (RFC 3875 section 6.2.2).

        ``location`` is a script's ``/path?query``, ``choice`` the program that has said it and ``params`` what it was
        chosen by. The method is GET, or HEAD where it was that; there is no body. Raises ScriptRefused where the path
        is outside of the root's.
        """
        raise NotImplementedError


def _latin1(path: str) -> str:
    """Return a path of the file system, or an option, as parameters are."""
    return os.fsencode(path).decode("latin-1")
