"""An App around another one: who does not bring the shared secret gets 403, and nobody behind it sees the secret.

The front end sends it as the parameter GATEWAYS_SECRET: a client's header fields come as HTTP_*, so none of them can
pass for it. Over HTTP there are only header fields: it is Gateways-Secret, which a proxy in front must set itself.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from gateways.apps import App, Course, WatchedExchange
from gateways.codecs.refusal import error_response
from gateways.errors import PeerClosed

__all__ = ["SecretApp"]


class Log(Protocol):
    """What this file tells the log."""

    def notice(self, exchange: WatchedExchange, message: str) -> None:
        """Something about one request that its operator should know."""


class SecretApp:
    """``app``, for requests that bring ``secret``; its text is compared as UTF-8."""

    def __init__(self, app: App, secret: str, log: Log) -> None:
        if not secret:
            raise ValueError("an empty secret would be no secret")
        self._app = app
        self._secret = secret.encode("utf-8", "surrogateescape")
        self._log = log

    def __call__(self, exchange: WatchedExchange) -> Course | None:
        """Answer one request."""
        request = exchange.request
        params = request.params
        given = params.pop("GATEWAYS_SECRET", "")
        field = params.pop("HTTP_GATEWAYS_SECRET", "")
        if exchange.protocol == "http":
            given = field
        if hmac.compare_digest(given.encode("latin-1"), self._secret):
            return self._app(exchange)
        name = "header field Gateways-Secret" if exchange.protocol == "http" else "parameter GATEWAYS_SECRET"
        self._log.notice(exchange, f"403: the {name} {'is wrong' if given else 'is missing'} (--secret)")
        try:
            exchange.send(error_response(request.stream, 403, params.get("REQUEST_METHOD", "") == "HEAD"))
        except PeerClosed as error:
            self._log.notice(exchange, str(error))
        return None
