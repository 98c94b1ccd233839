"""Tells the service manager how the server is (sd_notify(3)); does nothing where nobody wants to know.

It never raises and never waits: what the manager does not take at once goes along with the next message.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["Notifier"]

LONGEST_STATUS: Final = 900  # characters; the manager takes messages of 4096 bytes
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
STATES: Final = ("READY", "RELOADING", "MONOTONIC_USEC", "STOPPING")
"""Each call about one of them makes what was said before obsolete."""
NO_LIMIT: Final = 2**64 - 1  # USEC_INFINITY


class Notifier:
    """One service manager's socket. ``address`` is NOTIFY_SOCKET, ``watchdog_usec`` 0 where there is no watchdog."""

    def __init__(
        self, address: str | None = None, watchdog_usec: int = 0, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._name = socket_name(address or "")
        self._clock = clock
        self._socket: socket.socket | None = None
        self._unsent: dict[str, str] = {}
        self.watchdog_interval = watchdog_usec / 2_000_000 if self._name and watchdog_usec else None
        """Seconds between two calls of ``watchdog``: half of what the manager allows; None where it expects none."""
        self._connect()  # now: the path may be out of reach once privileges are dropped

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Notifier:
        """What the environment of the process ``pid`` says; anything that makes no sense counts as absent."""
        usec = environ.get("WATCHDOG_USEC", "")
        meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)  # sd_watchdog_enabled(3)
        allowed = int(usec) if meant and re.fullmatch(r"[0-9]{1,20}", usec, re.ASCII) else 0
        return cls(environ.get("NOTIFY_SOCKET"), allowed if allowed < NO_LIMIT else 0)

    @property
    def active(self) -> bool:
        """Somebody wants to know."""
        return bool(self._name)

    def ready(self, status: str = "") -> bool:
        """The server serves: after the start and after each reload, whether or not that brought new code."""
        return self._state({"READY": "1"}, status)

    def reloading(self, status: str = "") -> bool:
        """A reload begins, and ``ready`` will tell its end; Type=notify-reload needs the time, systemd 253 and up."""
        return self._state({"RELOADING": "1", "MONOTONIC_USEC": str(self._clock() // 1000)}, status)

    def stopping(self, status: str = "") -> bool:
        """The server is about to end."""
        return self._state({"STOPPING": "1"}, status)

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        self._unsent["STATUS"] = one_line(text)
        return self._send({})

    def watchdog(self) -> bool:
        """The server is alive; to be called every ``watchdog_interval`` seconds."""
        return self._send({"WATCHDOG": "1"})

    def close(self) -> None:
        """Give up the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _state(self, fields: dict[str, str], status: str) -> bool:
        for name in STATES:
            self._unsent.pop(name, None)
        self._unsent |= fields
        if status:
            self._unsent["STATUS"] = one_line(status)
        return self._send({})

    def _send(self, passing: dict[str, str]) -> bool:
        """Send ``passing`` and all that is unsent; False where that must wait for the next call."""
        if not self._name:
            self._unsent.clear()
            return True
        lines = [f"{name}={value}" for name, value in {**self._unsent, **passing}.items()]
        message = "\n".join(lines).encode("utf-8", "backslashreplace")
        for _ in range(2):  # the manager's socket may be a new one
            sock = self._socket or self._connect()
            if sock is None:
                return False
            try:
                sock.send(message)
            except BlockingIOError:
                return False
            except OSError:
                self.close()
            else:
                self._unsent.clear()
                return True
        return False

    def _connect(self) -> socket.socket | None:
        if not self._name:
            return None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError:
            return None
        try:
            sock.setblocking(False)
            sock.connect(self._name)
        except OSError:
            sock.close()
            return None
        self._socket = sock
        return sock


def socket_name(address: str) -> str:
    """The name to connect to; nothing for an address that is no unix socket's (vsock:, relative, with a NUL)."""
    if "\0" in address or not address.startswith(("/", "@")):
        return ""
    return f"\0{address[1:]}" if address.startswith("@") else address


def one_line(text: str) -> str:
    """Without the line ends that would begin another field."""
    return CONTROL.sub(" ", text)[:LONGEST_STATUS]
