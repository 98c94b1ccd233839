"""The one tree of exceptions; it knows nothing of sockets, codecs or applications.

A protocol error carries the name of its protocol and ``status_hint``, the HTTP status with which a
server answers it, so that whoever catches one needs no table of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "BodyError",
    "ConfigError",
    "GatewayError",
    "LimitExceeded",
    "LocalProtocolError",
    "MalformedMessage",
    "PeerClosed",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestTimeout",
    "TruncatedMessage",
    "WorkerBootError",
]


class GatewayError(Exception):
    """The base of every exception that gateways raises on purpose."""


class ProtocolError(GatewayError):
    """A rule of a protocol was broken; ``status_hint`` is the HTTP status that says so."""

    def __init__(self, protocol: str, message: str, status_hint: int = 400) -> None:
        super().__init__(protocol, message, status_hint)
        self.protocol = protocol
        self.message = message
        self.status_hint = status_hint

    def __str__(self) -> str:
        return f"{self.protocol}: {self.message}"


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules. A codec that raised it reads no further byte.

    ``events`` are those that the same call had already completed: what a codec says does not depend on how
    the bytes were split.
    """

    events: Sequence[object] = ()


class MalformedMessage(RemoteProtocolError):
    """The peer sent bytes that no reading of the specification allows."""


class TruncatedMessage(RemoteProtocolError):
    """The peer closed in the middle of a message."""


class LimitExceeded(RemoteProtocolError):
    """The peer sent more of something than ``gateways.limits`` allows."""

    def __init__(self, protocol: str, limit: str, value: int, maximum: int, status_hint: int) -> None:
        super().__init__(protocol, f"{limit} is {value}, more than the limit of {maximum}", status_hint)
        self.args = (protocol, limit, value, maximum, status_hint)  # so that it pickles
        self.limit = limit
        self.value = value
        self.maximum = maximum


class LocalProtocolError(ProtocolError):
    """Our own caller (an application, mostly) asked for something that the protocol forbids."""

    def __init__(self, protocol: str, message: str, status_hint: int = 500) -> None:
        super().__init__(protocol, message, status_hint)


class PeerClosed(GatewayError):
    """The peer went away, or stood still past the deadline, while we wrote to it."""


class BodyError(GatewayError, OSError):
    """A request body could not be read to its end: cut short, too long, too slow, too large.

    It is an OSError because that is what applications expect ``wsgi.input`` to raise.
    """

    def __init__(self, message: str, status_hint: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.status_hint = status_hint

    def __str__(self) -> str:
        return self.message


class RequestTimeout(BaseException):
    """Raised within an application that has taken longer for one request than --request-timeout allows.

    No GatewayError and no Exception: an application that goes on after any Exception would go on after this one too.
    """


class ConfigError(GatewayError):
    """What a person configured cannot work; the message says what, where, and what to do."""


class WorkerBootError(GatewayError):
    """A worker could not load the application; the message says what to do.

    ``found``: there is such an application, and it failed. What it raised is the cause, if it raised anything.
    """

    def __init__(self, message: str, *, found: bool = False) -> None:
        super().__init__(message)
        self._found = found

    @property
    def found(self) -> bool:
        """It is the application that has failed, not its name."""
        return self._found or self.__cause__ is not None
