"""Workers that could not be had, or died as soon as they were there: how long the next try waits. It has no clock."""

from __future__ import annotations

from typing import Final

from gateways.server.policy import back_off

__all__ = ["Failures"]

_STEADY: Final = 5.0  # seconds after which a worker that dies has not died of its start
_FORGOTTEN: Final = 60.0  # seconds after which the crashes before do not count any more
_AT_ONCE: Final = 2  # so many such deaths more than there are workers, until the next ones have to wait
_LONGEST: Final = 4  # failed boots, whose pause (4 s) is the longest: whoever can crash a worker must not stop all


class Failures:
    """What the policy has to know of them: ``count`` in a row, the ``last`` one's time."""

    count: int = 0
    last: float = 0.0
    _crashes: int = 0
    """Workers in a row that died soon after they had become ready."""
    _last_crash: float = 0.0

    @property
    def pause(self) -> float:
        """Seconds from the last failure to the next try."""
        return back_off(self.count)

    @property
    def until(self) -> float:
        """When the next try may be."""
        return self.last + self.pause

    def booted(self) -> None:
        """A worker has become ready."""
        self.count = 0

    def not_booted(self, now: float) -> None:
        """No worker has come of a try."""
        self.count += 1
        self.last = now

    def crashed(self, now: float, ready_since: float, workers: int) -> str:
        """One of ``workers`` has died that served; returns what is to be said where the next one has to wait."""
        if now - ready_since > _STEADY or now - self._last_crash > _FORGOTTEN:
            self._crashes = 0
        if now - ready_since > _STEADY:
            return ""
        self._crashes += 1
        self._last_crash = now
        beyond = self._crashes - (workers + _AT_ONCE)  # one cause may have ended all of them
        if beyond <= 0:
            return ""
        self.count = min(beyond, _LONGEST)
        self.last = now
        return f"{self._crashes} workers in a row died soon after their start; next try in {self.pause:g} s"
