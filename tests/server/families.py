"""Workers of a master that is the test: real processes, which run scripts of the test."""

from __future__ import annotations

import atexit
import socket
from collections.abc import Callable, Iterator

from gateways.server.channel import READY, STOP, Channel, Message
from gateways.server.process import WorkerProcess
from gateways.server.scoreboard import Board, Row
from gateways.server.workers import Workers
from tests.server.forks import alone
from tests.server.pools import within

__all__ = ["SLOTS", "Family", "Script", "orders", "stay"]

SLOTS = 4
Script = Callable[[Channel, Board, int], object]


class Family(Workers):
    """Workers that are killed at the end of the test."""

    def __init__(self, *, max_requests: int = 0, max_age: float = 0.0, threads: int = 2, slots: int = SLOTS) -> None:
        super().__init__(Board(slots, threads), max_requests=max_requests, max_age=max_age)
        self.ended: list[tuple[WorkerProcess, int, list[Row]]] = []

    def start(self, script: Script, generation: int = 1, now: float = 100.0) -> WorkerProcess:
        def body(control: socket.socket, slot: int) -> int:
            atexit._clear()  # the test runner's
            code = script(Channel(control), self.board, slot)
            return code if isinstance(code, int) else 0

        alone()
        return self.spawn(body, generation, now)

    def start_ready(self, script: Script | None = None) -> WorkerProcess:
        worker = self.start(script or stay)
        self.await_ready(worker)
        return worker

    def await_ready(self, worker: WorkerProcess) -> None:
        within(lambda: self.hear(worker), "it is ready")

    def await_end(self, worker: WorkerProcess) -> tuple[int, list[Row]]:
        """Wait until it is reaped; returns its exit code and what it served."""

        def look() -> bool:
            self.ended.extend(self.reap())
            return any(each is worker for each, _, _ in self.ended)

        within(look, "it is reaped")
        return next((code, rows) for each, code, rows in self.ended if each is worker)

    def end(self) -> None:
        for worker in self:
            self.kill(worker)
            self.await_end(worker)
        self.homeless.close()


def orders(channel: Channel) -> Iterator[Message]:
    """All that the master says, until it has gone."""
    while (messages := channel.receive()) is not None:
        yield from messages


def stay(channel: Channel, board: Board, slot: int) -> None:
    """Be ready, and leave when told to."""
    channel.send(READY)
    for message in orders(channel):
        if message.kind == STOP:
            return
