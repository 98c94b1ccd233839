"""The server's own log: one line a fact on stderr, tracebacks of applications behind their request's line.

The only place, with the access log to come, that touches ``logging``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from typing import Any, Final

from gateways.apps import Exchange

__all__ = ["ErrorLog", "configure", "escape"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST: Final = 2000

_logger = logging.getLogger("gateways")


def configure(level: str) -> None:
    """Send the log to stderr, from ``level`` upwards (``debug``, ``info``, ``warning``, ``error``)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s [%(process)d] %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())


class _Formatter(logging.Formatter):
    """Sets tracebacks in, so that no text within one passes for a line of the log."""

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802  (logging's own signature)
        """Return the traceback, each line behind a bar, without control characters."""
        lines = super().formatException(ei).split("\n")
        return "\n".join("  | " + _UNSEEN.sub(_hex, line) for line in lines)


def _hex(found: re.Match[str]) -> str:
    return f"\\x{ord(found.group()):02x}"


def escape(text: str) -> str:
    r"""Return one line: control characters and backslashes as ``\xHH``, so that no peer can forge a line."""
    return _CONTROL.sub(_hex, text[:_LONGEST])


def _request_line(exchange: Exchange) -> str:
    params = exchange.request.params
    path = params.get("REQUEST_URI") or params.get("PATH_INFO", "")
    client = params.get("REMOTE_ADDR") or exchange.peer
    return escape(f"{exchange.protocol} {client} {params.get('REQUEST_METHOD', '-')} {path}")


class ErrorLog:
    """What the server and the applications have to say."""

    def info(self, message: str) -> None:
        """Something that went as it should."""
        _logger.info("%s", message)

    def warning(self, message: str) -> None:
        """Something that its operator should look at."""
        _logger.warning("%s", escape(message))

    def failure(self, message: str, error: BaseException | None = None) -> None:
        """Something that failed, with the traceback of ``error``."""
        _logger.error("%s", message, exc_info=error)

    def refused(self, protocol: str, peer: str, reason: str) -> None:
        """A request or a connection was refused, or died: who it was and why."""
        _logger.warning("%s", escape(f"refused: {protocol} {peer}: {reason}"))

    def notice(self, exchange: Exchange, message: str) -> None:
        """Something about one request."""
        _logger.warning("%s: %s", _request_line(exchange), escape(message))

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        """An application failed on one request: its line, and the traceback."""
        _logger.error("%s: %s", _request_line(exchange), escape(message), exc_info=error)

    def output(self, text: str) -> None:
        """What an application wrote to wsgi.errors, as it is."""
        stream = sys.stderr
        if stream is not None:  # as without a descriptor 2
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more: no reason to fail requests
                stream.write(text)
                stream.flush()
