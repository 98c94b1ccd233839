"""Which program below a root answers a request, by what the web server says; docs/scripts.md has the rules.

What is chosen is a regular file whose real path lies in the root. A client's part in it is the URL's path alone. It
is not defended against those who may write into the root, whose programs run anyway: between the look at a file
and its start they may put another one in its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from gateways.environ import normal_path, split_path

__all__ = ["Choice", "Chooser", "ScriptRefused"]

_PROXY: Final = "proxy:"  # Apache's mod_proxy: proxy:fcgi://host:port/path
_LONGEST: Final = 4096
"""Bytes of a path that a system takes (PATH_MAX), with its end."""
_PATH_ONLY: Final = getattr(os, "O_PATH", 0)  # Linux: needs no right to read the file, and waits for nobody
_DROPPED: Final = ("CONTENT_LENGTH", "CONTENT_TYPE", "DOCUMENT_URI", "PATH_TRANSLATED")
"""What a local redirect leaves of a request's parameters behind."""


class ScriptRefused(Exception):
    """No program may answer. Clients see ``status`` alone; ``reason`` is for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(slots=True)
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
        self._name = script or ""
        """What it is called by: its extension counts."""
        opened = _opened(self._root) if root is not None else None
        self._told = opened is not None and opened[0] == self._root
        """The system itself tells the real path of an open file."""
        self._index = index
        self._interpreters = interpreters
        self._mount = None if mount is None else _latin1(mount)

    def choose(self, params: Mapping[str, str], protocol: str) -> Choice:
        """Return the program for a request; raises ScriptRefused.

        ``params`` are what was sent over ``protocol``, before ``to_environ`` has them.
        """
        script, path = split_path(dict(params), protocol, None)
        if self._script:
            prefix, below = (script, path) if self._mount is None else self._below_mount(script, path)
            below = normal_path(below) if below else ""
            return self._program(self._script, prefix, below, prefix)
        name = params.get("SCRIPT_FILENAME", "") if self._mount is None else ""
        if name.startswith(_PROXY):
            name = _apache_path(name)
            if name == (path or "/"):  # ProxyPass to a URL without a directory: clients choose all of this path
                return self._at(script, path)
        if name:
            return self._by_file_name(name, params, script, path)
        prefix, below = self._below_mount(script, path)
        return self._at(prefix, below)

    def redirect(self, params: Mapping[str, str], choice: Choice, location: str) -> dict[str, str]:
        """Return the parameters, for ``choose``, of what a local redirect asks for (RFC 3875 section 6.2.2).

        ``location`` is a script's ``/path?query``, ``choice`` the program that has said it, and ``params`` what it was
        chosen by, now or before ``to_environ``. The method is GET, or HEAD where it was that; there is no body. Raises
        ScriptRefused where the path is outside of the root's.
        """
        target = location.partition("#")[0]
        written, _, query = target.partition("?")
        path = normal_path(_decoded(written))
        prefix = choice.prefix
        if path[:1] != "/" or not (path + "/").startswith(prefix + "/"):
            raise ScriptRefused(404, f"{choice.path} redirects to {location!r}, which is not below {prefix or '/'}")
        new = {name: value for name, value in params.items() if name not in _DROPPED}
        new["REQUEST_METHOD"] = "HEAD" if params.get("REQUEST_METHOD") == "HEAD" else "GET"
        new["REQUEST_URI"] = target
        new["QUERY_STRING"] = query
        below = path[len(prefix) :]
        if self._script:
            new["SCRIPT_NAME"], new["PATH_INFO"] = prefix, below
            new.pop("SCRIPT_FILENAME", None)  # Apache's has the path in it that was asked for
        else:
            new["SCRIPT_NAME"], new["PATH_INFO"] = path, ""
            new["SCRIPT_FILENAME"] = _latin1(self._root.rstrip("/")) + (below or "/")
        return new

    def _below_mount(self, script: str, path: str) -> tuple[str, str]:
        """Return the root's URL path and what follows. All that is not below the mount was cut in front."""
        mount = self._mount or ""
        whole = normal_path(script + path) if script + path else "/"
        if (whole + "/").startswith(mount + "/"):
            return mount, whole[len(mount) :]
        return mount, normal_path(path) if path else whole

    def _at(self, prefix: str, below: str) -> Choice:
        """Return the program of a URL path, of which ``prefix`` is the root's."""
        below = normal_path(below) if below else "/"
        script, rest = self._find(below)
        return self._program(self._root + _file_name(script), prefix + script, rest, prefix)

    def _by_file_name(self, name: str, params: Mapping[str, str], script: str, path: str) -> Choice:
        """Return the program of SCRIPT_FILENAME, which may have the PATH_INFO at its end.

        SCRIPT_NAME and PATH_INFO are made to fit: some front ends send the whole path as one of them.
        """
        below = self._below_root(name)
        file, rest = self._find(below)
        whole = script + path
        if not below.startswith(file):  # an index
            if whole.endswith(below):
                script, path = whole[: len(whole) - len(below)] + file, ""
        elif rest:
            script, path = (whole[: len(whole) - len(rest)] if whole.endswith(rest) else script), rest
        elif not script.endswith(file):
            named = params.get("SCRIPT_NAME", "")
            found = (whole + "/").find(file + "/")
            if found >= 0:
                script, path = whole[: found + len(file)], whole[found + len(file) :]
            elif named and "PATH_INFO" not in params:  # it is all the script's: the URL has another name for it
                script, path = named, ""
        prefix = script[: len(script) - len(file)] if script.endswith(file) else ""
        return self._program(self._root + _file_name(file), script, path, prefix)

    def _below_root(self, name: str) -> str:
        """Return the part of a file name that is below the root; raises ScriptRefused where it is not in there."""
        if name[0] == "/" and "/../" not in name + "/" and "\0" not in name:
            normal = normal_path(name)
            for base in (_latin1(self._given.rstrip("/")), _latin1(self._root.rstrip("/"))):
                if (normal + "/").startswith(base + "/"):
                    return normal[len(base) :] or "/"
            end = 0
            while 0 <= end < _LONGEST:  # another way to the same directory
                end = normal.find("/", end + 1)
                if end >= 0 and _is_same(_file_name(normal[:end]), self._root):
                    return normal[end:]
        raise ScriptRefused(403, f"SCRIPT_FILENAME is {name!r}, which is not in the root {self._root!r}")

    def _find(self, below: str) -> tuple[str, str]:
        """Return the first regular file in a path below the root, and the rest of the path."""
        if "\0" in below:
            raise ScriptRefused(404, f"a NUL in the path {below!r}")
        seen = ""
        for segment in below.split("/")[1:]:
            if not segment:
                break
            if segment[0] == ".":
                raise ScriptRefused(404, f"{seen}/{segment} has a name that starts with a dot")
            seen += "/" + segment
            path = self._root + _file_name(seen)
            try:
                mode = os.stat(path).st_mode
            except OSError as error:
                with contextlib.suppress(OSError):  # it is just being exchanged
                    self._hold_to_root(path, os.path.realpath(path))  # else links would tell what there is elsewhere
                _refuse(path, error)
            if stat.S_ISREG(mode):
                return seen, below[len(seen) :]
            if not stat.S_ISDIR(mode):
                raise ScriptRefused(403, f"{self._root}{_file_name(seen)} is neither a file nor a directory")
        if not below.endswith("/"):
            raise ScriptRefused(403, f"{self._root}{_file_name(seen)} is a directory, and no slash was asked for")
        for name in self._index:
            if os.path.isfile(f"{self._root}{_file_name(seen)}/{name}"):
                return f"{seen}/{_latin1(name)}", ""
        raise ScriptRefused(403, f"{self._root}{_file_name(seen)} is a directory without an index")

    def _program(self, file: str, script_name: str, path_info: str, prefix: str) -> Choice:
        """Return the choice of a file, if it may be run."""
        if "\0" in script_name or "\0" in path_info:
            raise ScriptRefused(404, f"a NUL in the path {script_name + path_info!r}")
        if "/../" in script_name + "/" or "/../" in path_info + "/":  # by a front end that passes paths on as they are
            raise ScriptRefused(404, f"two dots in the path {script_name + path_info!r}")
        if self._script:
            real, found = file, _look(file)
        else:
            real, found = self._real(file)
            self._hold_to_root(file, real)
        if not stat.S_ISREG(found.st_mode):
            raise ScriptRefused(403, f"{real} is not a file")
        interpreter = self._interpreters.get(os.path.splitext(self._name or file)[1], ())
        if not os.access(real, os.R_OK if interpreter else os.X_OK):
            raise ScriptRefused(403, f"{real} cannot be {'read' if interpreter else 'executed'}")
        return Choice(
            real, script_name, path_info, (*interpreter, real), found.st_uid, found.st_gid, found.st_mode, self._root,
            prefix,
        )  # fmt: skip

    def _hold_to_root(self, file: str, real: str) -> None:
        """Raise ScriptRefused where the real path of a file is not in the root."""
        if not real.startswith(self._root.rstrip("/") + "/"):
            raise ScriptRefused(403, f"{file} leads to {real}, which is not in the root {self._root!r}")

    def _real(self, file: str) -> tuple[str, os.stat_result]:
        """Return the real path of a file, and what that is; raises ScriptRefused."""
        opened = _opened(file) if self._told else None
        if opened is not None:
            return opened
        try:
            real = os.path.realpath(file, strict=True)
        except OSError as error:
            _refuse(file, error)
        return real, _look(real)


def _opened(file: str) -> tuple[str, os.stat_result] | None:
    """Return a file's real path as the system tells it; None where it does not, or no descriptor is left for it.

    realpath() asks about each directory on the way: that is half of what a choice costs.
    """
    if not _PATH_ONLY:
        return None
    try:
        fd = os.open(file, _PATH_ONLY)
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
    except OSError:  # no /proc
        return None
    finally:
        os.close(fd)


def _apache_path(name: str) -> str:
    """Return the path in Apache's ``proxy:fcgi://host:port/path``, decoded and normal."""
    scheme, _, rest = name[len(_PROXY) :].partition("://")
    slash = rest.find("/")
    path = rest[slash:] if slash >= 0 else "/"
    if scheme != "uwsgi":  # which has it decoded already
        path = _decoded(path.partition("?")[0])
    return path


def _decoded(path: str) -> str:
    """Return a URL's path decoded once, as latin-1 text of its bytes."""
    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


def _latin1(path: str) -> str:
    """Return a path of the file system, or an option, as parameters are."""
    return os.fsencode(path).decode("latin-1")


def _file_name(path: str) -> str:
    """Return a path of parameters as a file's."""
    return os.fsdecode(path.encode("latin-1"))


def _is_same(path: str, root: str) -> bool:
    """Whether both are one directory."""
    try:
        return os.path.samefile(path, root)
    except OSError:
        return False


def _look(path: str) -> os.stat_result:
    """Return what a path leads to; raises ScriptRefused."""
    try:
        return os.stat(path)
    except OSError as error:
        _refuse(path, error)


def _refuse(path: str, error: OSError) -> NoReturn:
    """Raise what a file that cannot be looked at means."""
    status = 403 if error.errno in (errno.EACCES, errno.EPERM) else 404
    raise ScriptRefused(status, f"{path}: {error.strerror}") from None
