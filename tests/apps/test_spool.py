"""Bytes on disk come back as they went."""

from __future__ import annotations

import resource

import pytest

from gateways.apps.spool import Spool


def test_first_in_first_out() -> None:
    spool = Spool()
    assert spool.take(10) == b""
    spool.put(b"one")
    spool.put(b"")
    spool.put(b"two" * 50_000)
    assert spool.take(4) == b"onet"
    spool.put(b"end")
    assert spool.take(1_000_000) == (b"two" * 50_000)[1:] + b"end"
    assert spool.take(10) == b""
    spool.put(b"again")
    assert spool.take(10) == b"again"
    spool.close()


def test_no_room() -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.put(bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        spool.close()
