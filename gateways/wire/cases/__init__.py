"""All cases, by protocol, and for each protocol the request that is known to be good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateways.wire import fastcgi, single
from gateways.wire.case import Case, Context, Failure
from gateways.wire.cases import (
    fastcgi_framing,
    fastcgi_management,
    fastcgi_params,
    fastcgi_requests,
    fastcgi_streams,
    response,
    scgi,
    uwsgi,
)

__all__ = ["ALIVE", "SUITES", "answers_as_echo"]

SUITES: Final[dict[str, list[Case]]] = {
    "fastcgi": [
        *fastcgi_framing.CASES,
        *fastcgi_params.CASES,
        *fastcgi_streams.CASES,
        *fastcgi_management.CASES,
        *fastcgi_requests.CASES,
        *response.cases("fastcgi"),
    ],
    "scgi": [*scgi.CASES, *response.cases("scgi")],
    "uwsgi": [*uwsgi.CASES, *response.cases("uwsgi"), *uwsgi.LAST],
}
ALIVE: Final[dict[str, Callable[[Context], None]]] = {
    "fastcgi": fastcgi.alive,
    "scgi": single.alive,
    "uwsgi": single.alive,
}


def answers_as_echo(context: Context) -> bool:
    """Whether the echo application is behind the server; raises Failure where nothing answers at all, and OSError."""
    trial = Context(context.target, context.seconds, echo=True)
    echo = True
    try:
        ALIVE[context.target.protocol](trial)
    except Failure:
        echo = False
    finally:
        trial.close()  # libfcgi takes no other connection before
    if not echo:
        ALIVE[context.target.protocol](context)
    return echo
