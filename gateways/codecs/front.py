"""The base of the web-server side's codecs; ``fronts`` is their registry."""

from __future__ import annotations

from gateways.codecs import Codec

__all__ = ["FrontCodec"]


class FrontCodec(Codec):
    """A Codec the other way round: Request, Body, EndOfBody, Abort go out, and the response's events come in.

    A response ends with EndOfResponse, or with Refused where it broke a rule; errors of a connection are raised. All
    have the status hint 502.
    """

    @property
    def active(self) -> int:
        """Requests whose response is not whole."""
        raise NotImplementedError

    @property
    def complete(self) -> bool:
        """All that was asked for has come, and only the peer's close is awaited, if anything."""
        raise NotImplementedError
