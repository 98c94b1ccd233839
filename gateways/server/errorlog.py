"""The server's own log: one line a fact, with tracebacks and stacks behind their line; on stderr, or in syslog.

The only place that touches ``logging``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from typing import Any, Final

from gateways.apps import Exchange
from gateways.server.logfiles import ERROR, INFO, WARNING, LogTarget, SyslogTarget
from gateways.server.zone import stamp

__all__ = ["ErrorLog", "configure", "escape", "set_in"]

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST: Final = 2000

_logger = logging.getLogger("gateways")


def configure(level: str, target: LogTarget | None = None) -> None:
    """Send the log from ``level`` upwards (``debug``, ``info``, ``warning``, ``error``) to ``target``, else to stderr.

    Where the target is a file, the caller moves it to descriptor 2, so that applications' own output lands there too.
    """
    handler = logging.StreamHandler(sys.stderr) if target is None else _TargetHandler(target)
    form = "%(levelname)s %(message)s"
    if not isinstance(target, SyslogTarget):  # which has date and process itself
        form = f"%(asctime)s [%(process)d] {form}"
    handler.setFormatter(_Formatter(form))
    _logger.handlers[:] = [handler]
    _logger.propagate = False
    _logger.setLevel(level.upper())


class _Formatter(logging.Formatter):
    """Sets tracebacks in, so that no text within one passes for a line of the log; knows the server's own time zone."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  (as below)
        """Return when that was."""
        return stamp(record.created)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401, N802  (logging's own signature)
        """Return the traceback, each line behind a bar, without control characters."""
        return set_in(super().formatException(ei))


class _TargetHandler(logging.Handler):
    """Writes a record in one piece, however many lines it has."""

    def __init__(self, target: LogTarget) -> None:
        super().__init__()
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Write or send the record."""
        try:
            self.put(self.format(record) + "\n", record.levelno)
        except Exception:  # noqa: BLE001  (as every handler of logging does)
            self.handleError(record)

    def put(self, text: str, level: int) -> None:
        """Write or send the text."""
        data = text.encode("utf-8", "backslashreplace")
        if isinstance(self.target, SyslogTarget):
            severity = ERROR if level >= logging.ERROR else WARNING if level >= logging.WARNING else INFO
            self.target.send(severity, data)
        else:
            self.target.write(data)


def _hex(found: re.Match[str]) -> str:
    return f"\\x{ord(found.group()):02x}"


def escape(text: str) -> str:
    r"""Return one line: control characters and backslashes as ``\xHH``, so that no peer can forge a line."""
    return _CONTROL.sub(_hex, text[:_LONGEST])


def set_in(text: str) -> str:
    """Return each line behind a bar, without control characters, so that none passes for a line of the log."""
    return "\n".join("  | " + _UNSEEN.sub(_hex, line) for line in text.rstrip("\n").split("\n"))


def _entry(message: str) -> str:
    """Return the first line, and the others set in."""
    first, _, rest = message.partition("\n")
    return f"{_UNSEEN.sub(_hex, first)}\n{set_in(rest)}" if rest else _UNSEEN.sub(_hex, first)


def _request_line(exchange: Exchange) -> str:
    return escape(f"{exchange.protocol} {exchange.client} {exchange.line}")


class ErrorLog:
    """What the server and the applications have to say."""

    def info(self, message: str) -> None:
        """Something that went as it should."""
        _logger.info("%s", _entry(message))

    def warning(self, message: str) -> None:
        """Something that its operator should look at."""
        _logger.warning("%s", escape(message))

    def failure(self, message: str, error: BaseException | None = None) -> None:
        """Something that failed, with the traceback of ``error``; a message of several lines is set in."""
        _logger.error("%s", _entry(message), exc_info=error)

    def block(self, message: str, text: str, level: str = "warning") -> None:
        """Something with lines that belong to it, stacks mostly, all in one write; ``level`` as for ``configure``."""
        number: int = getattr(logging, level.upper())
        _logger.log(number, "%s\n%s", escape(message), set_in(text))

    def refused(self, protocol: str, peer: str, reason: str) -> None:
        """A request or a connection was refused, or died: who it was and why."""
        _logger.warning("%s", escape(f"refused: {protocol} {peer}: {reason}"))

    def notice(self, exchange: Exchange, message: str) -> None:
        """Something about one request."""
        _logger.warning("%s: %s", _request_line(exchange), escape(message))

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        """An application failed on one request: its line, and the traceback."""
        _logger.error("%s: %s", _request_line(exchange), escape(message), exc_info=error)

    def output(self, exchange: Exchange, text: str) -> None:
        """What an application wrote to wsgi.errors, whatever the log's level: its request's line, then as any entry.

        Past the locks of ``logging``: RequestTimeout may be raised here, and would leave one of them held for ever.
        """
        message = f"{_request_line(exchange)}: {_entry(text)}"
        record = logging.LogRecord(_logger.name, logging.WARNING, "", 0, message, None, None)
        for handler in _logger.handlers:
            message = handler.format(record)
            if isinstance(handler, _TargetHandler):
                handler.put(message + "\n", logging.WARNING)
                return
        stream = sys.stderr
        if stream is not None:  # as without a descriptor 2
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more: no reason to fail requests
                stream.write(message + "\n")
                stream.flush()
