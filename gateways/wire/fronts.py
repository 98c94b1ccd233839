"""The runner for web servers: it plays the backend, asks over HTTP, and has a verdict for each case.

After a case that failed, and where connections are kept, a plain request is sent; a web server that does not serve that
any more is given up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, final

from gateways.errors import ConfigError
from gateways.wire.backend import Backend, Peer, SCGIPeer, UWSGIPeer
from gateways.wire.backend_fastcgi import FastCGIPeer
from gateways.wire.case import Failure, Skip
from gateways.wire.conform import Result
from gateways.wire.front import AT_ONCE, FrontCase, FrontContext, plain
from gateways.wire.hub import Hub
from gateways.wire.target import Target
from gateways.wire.web import FrontEnd

__all__ = ["FrontRun"]

PEERS: Final[dict[str, type[Peer]]] = {"fastcgi": FastCGIPeer, "scgi": SCGIPeer, "uwsgi": UWSGIPeer}
TRIES: Final = 12
PAUSE: Final = 0.25
"""Seconds between two tries: lighttpd leaves a backend alone for a second, and others are started anew."""


@final
class FrontRun:
    """One web server and the backend for it, which listens for the length of a ``with`` block."""

    def __init__(self, front: FrontEnd, listen: Target, seconds: float) -> None:
        """Listen; raises ConfigError."""
        self.front = front
        self.protocol = listen.protocol
        self.seconds = seconds
        self.backend = Backend(listen)
        self.hub = Hub()
        self.hub.listen(self.backend.socket, PEERS[self.protocol])

    def __enter__(self) -> FrontRun:
        """Return self; leaving closes everything."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.hub.close()
        self.backend.close()

    def context(self) -> FrontContext:
        """What a case runs with."""
        return FrontContext(self.front, self.protocol, self.hub, self.seconds)

    def probe(self) -> None:
        """Send a plain request; raises ConfigError where it is not served."""
        where = f"http://{self.front.authority}{self.front.path}/"
        try:
            self._plain()
        except OSError as error:
            raise ConfigError(f"cannot connect to {where}: {error.strerror or error}") from None
        except Failure as error:
            raise ConfigError(f"{where} does not pass a plain request to {self.protocol} here: {error}") from None

    def run_case(self, case: FrontCase) -> Result:
        """Run one case; raises nothing that a web server can cause."""
        context = self.context()
        start = time.monotonic()
        try:
            case.run(context)
        except Skip as reason:
            return Result(case, "skip", time.monotonic() - start, str(reason))
        except Failure as failure:
            seconds = time.monotonic() - start
            return Result(case, "fail", seconds, "", failure.expected, failure.got, *context.shown())
        except OSError as error:
            seconds = time.monotonic() - start
            return Result(case, "fail", seconds, "", "a connection to the web server", str(error))
        finally:
            context.close()
        return Result(case, "pass", time.monotonic() - start)

    def run_cases(self, cases: Iterable[FrontCase]) -> Iterator[Result]:
        """Run all, one after another."""
        gone = ""
        for case in cases:
            if gone:
                yield Result(case, "skip", reason=gone)
                continue
            result = self.run_case(case)
            yield result
            # What a case leaves behind on kept connections is not the next one's to find.
            if (result.verdict == "fail" or self.hub.wires) and not self.lives():
                gone = f"the web server has not served any more since {case.id}"

    def lives(self) -> bool:
        """Whether plain requests are served; where not, it is asked again: it may be started anew."""
        for _ in range(TRIES):
            try:
                self._plain(AT_ONCE if self.hub.wires else 1)
            except (Failure, OSError):
                time.sleep(min(PAUSE, self.seconds / 4))
            else:
                return True
        return False

    def _plain(self, count: int = 1) -> None:
        """Have plain requests served at the same time; raises Failure and OSError."""
        context = self.context()
        try:
            exchanges = [context.ask() for _ in range(count)]
            for arrival in [exchange.arrives() for exchange in exchanges]:
                arrival.answer(plain(self.protocol))
            for exchange in exchanges:
                response = exchange.response()
                if response.status != 200:
                    raise Failure("status 200 for the client", str(response))
        finally:
            context.close()
