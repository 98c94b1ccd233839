"""An application as a program of its own, which finds out how it was started: ``gateways.run`` and ``gateways cgi``.

A CGI script is started for each request, so nothing is imported here that this request does not need.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from gateways.errors import ConfigError
from gateways.limits import DEFAULT_LIMITS, DEFAULT_TIMEOUTS, Limits, Timeouts

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["run", "start"]

EXIT_MISTAKE: Final = 2
HOW: Final = (
    "this program is for a web server to start, as a CGI script or as a FastCGI process whose descriptor 0 listens "
    "(mod_fcgid, lighttpd's bin-path, spawn-fcgi), and it was started as neither; to try one request here: "
    "REQUEST_METHOD=GET PATH_INFO=/ before the same command; to serve by itself: gateways serve MODULE:NAME --http 8000"
)


def run(
    application: WSGIApplication,
    *,
    threads: int = 1,
    mount: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> None:
    """Serve ``application`` in the way that this process was started for; return when that is done.

    As a CGI script: answer the one request. With a listening descriptor 0: serve FastCGI until SIGTERM, with
    ``threads`` threads. From a shell: say so and exit with code 2. ``mount`` is the URL prefix of the application where
    the web server does not tell it. Raises ValueError for arguments that cannot be.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}, and one there must be")
    if mount is not None:
        from gateways.values import mount_point  # noqa: PLC0415  (most have none)

        mount = mount_point(mount)
    try:
        start(lambda: application, threads=threads, mount=mount, limits=limits, timeouts=timeouts)
    except ConfigError as error:
        sys.stderr.write(f"gateways: {error}\n")
        sys.exit(EXIT_MISTAKE)


def start(load: Callable[[], Any], *, threads: int, mount: str | None, limits: Limits, timeouts: Timeouts) -> None:
    """Do as ``run`` with the application that ``load`` returns; raises ConfigError, and what ``load`` raises."""
    if _is_socket(0) and _listens(0):
        from gateways.server.managed import serve_managed  # noqa: PLC0415  (not for a CGI script)

        serve_managed(load, os.environ, threads=threads, mount=mount, limits=limits, timeouts=timeouts)
    elif "REQUEST_METHOD" in os.environ or "GATEWAY_INTERFACE" in os.environ:
        from gateways.server.once import answer_once  # noqa: PLC0415  (as above, the other way round)

        os.environ.pop("HTTP_PROXY", None)  # httpoxy, CVE-2016-5385: a header field of the client's
        answer_once(load, os.environb, mount=mount, limits=limits, timeouts=timeouts)
    else:
        raise ConfigError(HOW)


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False


def _listens(fd: int) -> bool:
    from gateways.server.inherited import is_listening  # noqa: PLC0415  (needs socket)

    return is_listening(fd)
