"""Scripted peers against plain sockets, and against each other."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from gateways.testing.peers import (
    Close,
    Pause,
    Played,
    Receive,
    Reset,
    Send,
    ShutDown,
    Step,
    UntilEnd,
    cut,
    in_pieces,
    play,
    server,
)


def test_both_sides_play() -> None:
    with server([Receive(until=b"\n"), *in_pieces([b"he", b"", b"llo"], 0.01)], [Send(b"second")]) as peer:
        assert play(peer.address, [Send(b"hi\n"), UntilEnd()]) == Played(b"hello", "closed")
        assert play(peer.address, [UntilEnd()]) == Played(b"second", "closed")
        assert peer.wait() == [Played(b"hi\n", ""), Played(b"", "")]
    with pytest.raises(OSError, match="refused"):
        play(peer.address, [])


def test_a_unix_socket(tmp_path: Path) -> None:
    with server([Receive(3), Send(b"x")], path=str(tmp_path / "s")) as peer:
        assert peer.address == str(tmp_path / "s")
        assert play(peer.address, [Send(b"abc"), UntilEnd()]).received == b"x"


def test_an_end_at_a_given_byte() -> None:
    with server(cut(b"hello", 3), cut(b"hello", 3, reset=True)) as peer:
        assert play(peer.address, [UntilEnd()]) == Played(b"hel", "closed")
        assert play(peer.address, [UntilEnd()]).ended == "reset"


def test_a_client_that_resets() -> None:
    with server([UntilEnd()], [UntilEnd()]) as peer:
        play(peer.address, [Send(b"ab"), Reset()])
        play(peer.address, [Send(b"ab"), Close(), Send(b"never")])
        assert [each.ended for each in peer.wait()] == ["reset", "closed"]
        assert peer.connections[1].received == b"ab"


def test_half_closed() -> None:
    with server([UntilEnd(), Send(b"all of it")]) as peer:
        assert play(peer.address, [Send(b"ab"), ShutDown(), UntilEnd()]).received == b"all of it"
        assert peer.wait()[0].received == b"ab"


def test_what_does_not_come_is_late() -> None:
    with server([Receive(99)]) as peer:
        assert play(peer.address, [Send(b"a"), UntilEnd()], seconds=0.2) == Played(b"", "late")


@pytest.mark.parametrize("script", [[Receive(99)], [Pause(60.0)], [UntilEnd()]])
def test_the_end_of_the_block_stops_the_script(script: list[Step]) -> None:
    with server(script, script) as peer:
        start = time.monotonic()
        sock = socket.create_connection(peer.address)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError, match="not all is played"):
            peer.wait(0.01)
    assert time.monotonic() - start < 5
    sock.close()
    assert peer.connections in ([], [Played(b"", "late")])
