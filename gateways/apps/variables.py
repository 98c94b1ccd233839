"""The environment of a CGI script (RFC 3875 section 4.1), made of a request's parameters and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final

from gateways import __version__
from gateways.apps.choice import Choice
from gateways.environ import url_scheme

__all__ = ["PATH", "meta_variables"]

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
"""What every shell can name. In lower case there is no meta-variable, but ``http_proxy``, which programs obey."""
_MADE_HERE: Final = frozenset(
    (
        "CONTENT_LENGTH", "CONTENT_TYPE", "GATEWAY_INTERFACE", "HTTPS", "PATH_INFO", "PATH_TRANSLATED",
        "REDIRECT_STATUS", "SCRIPT_FILENAME", "SCRIPT_NAME", "SERVER_SOFTWARE",
    )
)  # fmt: skip
_NOT_EMPTY: Final = frozenset(("AUTH_TYPE", "REMOTE_HOST", "REMOTE_IDENT", "REMOTE_USER"))
"""Some front ends send them empty, and scripts look whether they are there."""
_REFUSED: Final = frozenset(
    (
        # What a client would say of its own connection, or what is told by another name (httpoxy: CVE-2016-5385).
        "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_GATEWAYS_SECRET", "HTTP_PROXY", "HTTP_TRANSFER_ENCODING",
        "ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
        # What shells obey.
        "BASHOPTS", "CDPATH", "ENV", "FPATH", "GLOBIGNORE", "IFS", "NULLCMD", "PROMPT_COMMAND", "PS1", "PS2", "PS3",
        "PS4", "READNULLCMD", "SHELLOPTS", "ZDOTDIR",
        # What the C library obeys (those that glibc takes from set-user-id programs), and terminals' libraries.
        "GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH", "PATH_LOCALE",
        "RESOLV_HOST_CONF", "RES_OPTIONS", "SHLIB_PATH", "LIBPATH", "TERM", "TERMCAP", "TERMINFO", "TERMINFO_DIRS",
        "TERMPATH", "TZDIR",
        # What other libraries and programs take for a file to run or to read.
        "EDITOR", "OPENSSL_CONF", "OPENSSL_ENGINES", "OPENSSL_MODULES", "PAGER", "PHPRC", "PHP_INI_SCAN_DIR",
        "SSL_CERT_DIR", "SSL_CERT_FILE", "TCLLIBPATH", "VISUAL", "_JAVA_OPTIONS",
        # What a login sets, not a web server.
        "HOME", "LOGNAME", "MAIL", "OLDPWD", "PATH", "PWD", "SHELL", "TEMP", "TMP", "TMPDIR", "TMPPREFIX", "USER",
        "NOTIFY_SOCKET",
    )
)  # fmt: skip
_REFUSED_FAMILIES: Final = (
    "BASH_", "DYLD_", "FCGI_", "GATEWAYS_", "GLIBC_", "JAVA_", "JDK_JAVA_", "LD_", "LISTEN_", "LUA_", "MALLOC_",
    "NODE_", "PERL", "PYTHON", "RUBY", "_RLD",
)  # fmt: skip

_KNOWN: Final[dict[str, bool]] = {}
"""Names that came before, and whether they pass: a third of what the environment costs."""
_MOST_KNOWN: Final = 512
_LONGEST_KNOWN: Final = 64


def meta_variables(
    params: Mapping[str, str], choice: Choice, *, passed: Mapping[str, str], body: bool = True
) -> dict[str, str]:
    """Return the whole environment of a script. Values are as ``os.fsdecode`` gives them: ``os.fsencode`` undoes it.

    ``params`` are what ``to_environ``, without a mount, has made of those that were sent; ``passed`` is what the
    operator adds, which wins over all that was sent. ``body``: there may be one.
    """
    variables = {
        name: value if value.isascii() else _text(value)
        for name, value in params.items()
        if (_passes(name) if (known := _KNOWN.get(name)) is None else known)
        and (value or name not in _NOT_EMPTY)
        and "\0" not in value  # which no environment can hold
    }
    length = params.get("CONTENT_LENGTH", "")
    if (
        body and length != "0"
    ):  # sections 4.1.2 and 4.1.3: with a body alone; where it is of unknown length, there is the type
        if length:
            variables["CONTENT_LENGTH"] = length
        kind = params.get("CONTENT_TYPE")
        if kind and "\0" not in kind:
            variables["CONTENT_TYPE"] = _text(kind)
    if url_scheme(dict(params)) == "https":
        variables["HTTPS"] = "on"
    if choice.path_info:
        variables["PATH_INFO"] = _text(choice.path_info)
        if choice.root:
            variables["PATH_TRANSLATED"] = choice.root.rstrip("/") + variables["PATH_INFO"]
        elif "PATH_TRANSLATED" in params:
            variables["PATH_TRANSLATED"] = _text(params["PATH_TRANSLATED"])
    variables["GATEWAY_INTERFACE"] = "CGI/1.1"
    variables["PATH"] = PATH
    variables["REDIRECT_STATUS"] = "200"  # without it php-cgi answers nobody (cgi.force_redirect)
    variables["SCRIPT_FILENAME"] = choice.path
    variables["SCRIPT_NAME"] = _text(choice.script_name)
    variables["SERVER_SOFTWARE"] = f"gateways/{__version__}"
    variables.setdefault("QUERY_STRING", "")
    variables.setdefault("REMOTE_ADDR", "")
    if choice.root:
        variables.setdefault("DOCUMENT_ROOT", choice.root)
    variables.update(passed)
    return variables


def _passes(name: str) -> bool:
    """Whether a parameter may become a variable, by its name."""
    passes = (
        _NAME.fullmatch(name) is not None
        and name not in _MADE_HERE
        and name not in _REFUSED
        and not name.startswith(_REFUSED_FAMILIES)
    )
    if len(_KNOWN) < _MOST_KNOWN and len(name) <= _LONGEST_KNOWN:
        _KNOWN[name] = passes
    return passes


def _text(value: str) -> str:
    """Return a parameter, whose bytes are latin-1, as the file system's text."""
    return os.fsdecode(value.encode("latin-1"))
