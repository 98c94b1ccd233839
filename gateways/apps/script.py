"""One request through one CGI script (RFC 3875): which, when, with what environment, and what its answer means.

It knows events and processes; not sockets, not which protocol carries them.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Final, Protocol

from gateways.apps import Course, Exchange, WatchedExchange
from gateways.apps.choice import Choice, ScriptRefused
from gateways.apps.identities import Identities
from gateways.apps.processes import Launcher, Process, Starter
from gateways.apps.pump import Failed, Pump
from gateways.apps.reaper import Reaper
from gateways.apps.script_response import ErrorLines, ScriptResponse
from gateways.apps.turns import Turns
from gateways.apps.variables import meta_variables
from gateways.apps.wait import NEVER, Wait
from gateways.environ import to_environ
from gateways.errors import BodyError, LocalProtocolError, PeerClosed, RemoteProtocolError
from gateways.limits import ScriptLimits

__all__ = ["ScriptApp"]

REDIRECTS: Final = 10
_EXIT: Final = 0.25
"""Seconds that a script which has closed its standard output is expected to take for its end."""
_LAST_GRACE: Final = 0.5
"""Seconds between SIGTERM and SIGKILL where the worker itself has to end."""
_STATUSES: Final = {
    errno.EAGAIN: 503,
    errno.ENOMEM: 503,
    errno.EMFILE: 503,
    errno.ENFILE: 503,
    errno.E2BIG: 431,
}
"""Of what keeps a script from its start, where that is not its own fault."""
_AHEAD: Final = 65_536
"""Bytes of a body that are read while its request waits for a turn."""
_LOOK: Final = 0.25
"""Seconds after which a request that waits for its turn looks whether there still is a reason to."""
_ID: Final = re.compile(r"[!-~]{1,64}")


class Log(Protocol):
    """What this file tells the log."""

    def notice(self, exchange: Exchange, message: str) -> None:
        """Something about one request that its operator should know."""

    def exception(self, exchange: Exchange, message: str, error: BaseException) -> None:
        """A bug of ours: the request's line, the message, and the traceback."""


class Scripts(Protocol):
    """Who chooses the script of a request: a Chooser."""

    def choose(self, params: Mapping[str, str], protocol: str) -> Choice:
        """Return the program; raises ScriptRefused."""

    def redirect(self, params: Mapping[str, str], choice: Choice, location: str) -> dict[str, str]:
        """Return the parameters of a local redirect; raises ScriptRefused."""


class ScriptApp:
    """CGI scripts as an App: one object for all requests of a worker; ``close`` ends what is left of them.

    ``user`` is as for Identities, ``passed`` as for meta_variables; ``launcher`` is closed with this.
    Raises ConfigError.
    """

    def __init__(
        self, scripts: Scripts, log: Log, *, limits: ScriptLimits, passed: Mapping[str, str], user: str = "",
        launcher: Starter | None = None,
    ) -> None:  # fmt: skip
        self.scripts = scripts
        self._log = log
        self._limits = limits
        self._passed = passed
        self._identities = Identities(user)
        self._launcher: Starter = launcher or Launcher(limits)
        self.turns = Turns(limits.concurrency, limits.per_script, limits.queue)
        self._reaper = Reaper()
        self._running: set[Process] = set()
        self._serial = itertools.count(1)
        self._mutex = threading.Lock()
        self._leaving = threading.Event()

    def end_in(self, seconds: float) -> None:
        """The worker leaves: what still runs in so many seconds is ended, and no more is started: it would live on."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no room for a thread: better now than never
            self._end()

    def _end(self) -> None:
        self._leaving.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in list(self._running):
                process.signal(number)
            if number == signal.SIGTERM:
                time.sleep(_LAST_GRACE)

    def close(self) -> None:
        """Kill every script that still runs: the worker ends."""
        for process in list(self._running):
            process.signal(signal.SIGKILL)
        self._reaper.close()
        self._launcher.close()

    def __call__(self, exchange: WatchedExchange) -> Course:
        """Answer one request."""
        return _Run(self, exchange).run()

    def name(self, params: Mapping[str, str]) -> str:
        """Return the name of a request in the log and for the script: the web server's own, if it has given one."""
        given = params.get("UNIQUE_ID", "")
        if _ID.fullmatch(given):
            return given
        with self._mutex:
            serial = next(self._serial)
        return f"{os.getpid()}-{serial}"

    # -- for a run ----------------------------------------------------------------------------------------------

    def start(self, params: Mapping[str, str], choice: Choice, name: str, *, stdin: bool) -> Process:
        """Start a script; raises Failed, ScriptRefused."""
        if self._leaving.is_set():
            raise Failed(503, "the worker leaves, and no script is started any more")
        env = meta_variables(params, choice, passed=self._passed, body=stdin)
        env["UNIQUE_ID"] = name
        identity = self._identities.of(choice)
        try:
            process = self._launcher.start(choice.argv, env, os.path.dirname(choice.path), identity, stdin=stdin)
        except OSError as error:
            reason = f"cannot be started: {error.strerror}"
            if error.errno == errno.ENOEXEC:
                reason += "; has it a first line such as #!/bin/sh?"
            raise Failed(_STATUSES.get(error.errno or 0, 502), reason) from None
        except ValueError as nul:
            raise Failed(502, f"cannot be started: {nul}") from None
        self._running.add(process)
        if self._leaving.is_set():  # nobody may look at it any more
            process.signal(signal.SIGKILL)
        return process

    def await_turn(self, choice: Choice, wait: Wait, hopeless: Callable[[], bool]) -> Course:
        """Go on until a script may run; raises Failed, and PeerClosed where nobody waits any more."""
        turn = self.turns.ask(choice.path, wait.wake)
        if turn.granted:
            return
        if turn.reason:
            raise Failed(503, turn.reason)
        since = time.monotonic()
        deadline = since + (self._limits.script_timeout or NEVER)
        try:
            while not turn.granted:
                now = time.monotonic()
                if now >= deadline:
                    raise Failed(503, f"no turn came in {now - since:.0f} s")  # noqa: TRY301  (the turn is left)
                if hopeless():
                    why = f"the peer has gone, or wants no answer, before {choice.path} was started"
                    raise PeerClosed(why)  # noqa: TRY301  (as above)
                wait.until = min(deadline, now + _LOOK)
                yield wait
        except BaseException:
            self.turns.leave(turn)
            raise

    def part(self, process: Process, choice: Choice, errors: ErrorLines, until: float) -> None:
        """A request is through with its script, which may run on until then."""

        def over() -> None:
            self._running.discard(process)
            self.turns.give(choice.path)

        if process.code is None:
            errors.detach()
            self._reaper.take(process, errors, over, until)
        else:
            process.close()
            over()

    @property
    def limits(self) -> ScriptLimits:
        """What scripts may take."""
        return self._limits

    @property
    def log(self) -> Log:
        """Where it is told."""
        return self._log


class _Run:
    """One request, and the scripts that it leads to."""

    def __init__(self, app: ScriptApp, exchange: WatchedExchange) -> None:
        self._app = app
        self._log = app.log
        self._exchange = exchange
        self._name = app.name(exchange.request.params)
        self._wait = Wait()
        self._tell = teller(app.log, exchange, self._name)
        self._response = ScriptResponse(exchange, self._name, self._tell)

    def run(self) -> Course:
        """Answer the request."""
        response = self._response
        try:
            yield from self._answer()
        except (Failed, ScriptRefused) as refused:  # a name has one type for mypyc
            self._tell(f"{refused.status}: {refused.reason}")
            response.fail(refused.status)
        except (PeerClosed, LocalProtocolError) as gone:
            self._tell(str(gone))
            response.give_up()
        except (BodyError, RemoteProtocolError) as broken:
            self._tell(str(broken))
            response.fail(broken.status_hint)
        except Exception as error:  # noqa: BLE001  (a bug of ours costs its request, never the thread)
            self._log.exception(self._exchange, f"[{self._name}] the script's request failed", error)
            response.fail(500)

    def _answer(self) -> Course:
        exchange = self._exchange
        body = exchange.body
        scripts = self._app.scripts
        protocol = exchange.protocol
        sent = exchange.request.params
        choice = scripts.choose(sent, protocol)
        params: Mapping[str, str] = to_environ(sent, protocol, None)
        stdin = not body.ended or body.held > 0
        if not stdin:
            body.read1()  # where it is broken, it must not pass for an empty one
        for _ in range(REDIRECTS + 1):
            yield from self._script(params, choice, stdin=stdin)
            location = self._response.redirect
            if not location:
                return
            try:
                params = scripts.redirect(params, choice, location)
                choice = scripts.choose(params, protocol)
            except ScriptRefused:  # a page of the web server's own, perhaps: nothing to complain of
                self._response.pass_redirect_on()
                return
            stdin = False
            self._response.begin()
        raise Failed(502, f"more than {REDIRECTS} local redirects, at last to {choice.path}")

    def _script(self, params: Mapping[str, str], choice: Choice, *, stdin: bool) -> Course:
        """Have one script answer; raises Failed, ScriptRefused, PeerClosed, LocalProtocolError."""
        app = self._app
        yield from app.await_turn(choice, self._wait, self._hopeless)
        try:
            process = app.start(params, choice, self._name, stdin=stdin)
        except BaseException:
            app.turns.give(choice.path)
            raise
        until = 0.0
        try:
            until = yield from self._attend(process, choice)
        except Failed as error:
            raise Failed(error.status, f"{choice.path} {error.reason}") from None
        finally:
            app.part(process, choice, self._response.lines, until)

    def _attend(self, process: Process, choice: Choice) -> Generator[Wait, None, float]:
        """Move bytes until the script has answered; returns until when it may run on. Raises Failed, PeerClosed."""
        response = self._response
        pump = Pump(self._exchange, process, response, self._app.limits, self._wait)
        if self._app.limits.script_timeout:
            self._exchange.write_by(pump.deadline)
        try:
            yield from pump.run()
            if pump.gone:
                raise PeerClosed(f"the peer has gone, or wants no answer, while {choice.path} ran")
            exited = yield from pump.settle(_EXIT)
        finally:
            self._exchange.write_by(0.0)
            response.end_errors()
        # Whose output others hold is not reaped before its group has been signalled.
        code = process.reap() if exited and process.stdout < 0 else None
        if pump.left_behind:
            self._tell(f"{choice.path} has ended, and what it has started holds its standard output: that is killed")
        response.finish(choice.path, code, cut=pump.late > 0)
        return 0.0 if pump.left_behind else pump.deadline

    def _hopeless(self) -> bool:
        """Nobody waits for the answer any more."""
        exchange = self._exchange
        body = exchange.body
        # Where requests share a connection, nobody else reads while a body is not whole: an abort may come behind it.
        ahead = not exchange.request.expects_continue and body.taking < _AHEAD
        events, _ = exchange.watch(ahead)
        poll = select.poll()
        poll.register(exchange.fileno(), events)
        found = poll.poll(0)
        return exchange.hear(found[0][1] if found else 0)


def teller(log: Log, exchange: WatchedExchange, name: str) -> Callable[[str], None]:
    """Return what says something about a request; as a method of its run it would close a circle of references."""

    def tell(message: str) -> None:
        log.notice(exchange, f"[{name}] {message}")

    return tell
