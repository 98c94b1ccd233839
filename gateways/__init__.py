"""One Python application, one worker pool, behind any web server: FastCGI, SCGI, uwsgi, CGI and HTTP.

Importing this package imports nothing else: the parts are ``gateways.codecs``, ``gateways.server`` and so on.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
