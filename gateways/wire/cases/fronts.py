"""All cases for web servers, by protocol."""

from __future__ import annotations

from typing import Final

from gateways.wire.cases import front_fastcgi, front_single
from gateways.wire.front import FrontCase

__all__ = ["FRONT_SUITES"]

FRONT_SUITES: Final[dict[str, list[FrontCase]]] = {
    "fastcgi": front_fastcgi.CASES,
    "scgi": front_single.SCGI,
    "uwsgi": front_single.UWSGI,
}
