"""A flup server with the application of tests.echo: ``python -m tests.differential.flup_server PROTOCOL PATH``."""

from __future__ import annotations

import sys
from typing import Any

from tests.echo import app


def make(protocol: str, path: str) -> Any:  # noqa: ANN401  # flup has no types
    if protocol == "scgi":
        from flup.server.scgi import WSGIServer

        return WSGIServer(app, bindAddress=path)
    from flup.server.fcgi import WSGIServer

    return WSGIServer(app, bindAddress=path, multiplexed=protocol == "fastcgi-multiplexed")


if __name__ == "__main__":
    make(sys.argv[1], sys.argv[2]).run()
