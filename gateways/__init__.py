"""One Python application, one worker pool, behind any web server: FastCGI, SCGI, uwsgi, CGI and HTTP.

Importing this package imports nothing else: the parts are ``gateways.codecs``, ``gateways.server`` and so on, and
``gateways.run`` is imported when it is first asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gateways.start import run

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name != "run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gateways.start import run as found  # noqa: PLC0415

    return found
