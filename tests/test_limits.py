from __future__ import annotations

import pytest

from gateways.limits import DEFAULT_LIMITS, DEFAULT_TIMEOUTS, Limits, Timeouts


def test_the_defaults() -> None:
    assert Limits() == DEFAULT_LIMITS
    assert Timeouts() == DEFAULT_TIMEOUTS
    assert Limits(params_bytes=1) != DEFAULT_LIMITS


@pytest.mark.parametrize("numbers", [DEFAULT_LIMITS, DEFAULT_TIMEOUTS])
def test_they_do_not_change(numbers: Limits | Timeouts) -> None:
    for name in numbers._fields:
        with pytest.raises(AttributeError):
            setattr(numbers, name, 1)


def test_only_the_body_is_without_a_limit() -> None:
    assert [name for name, number in DEFAULT_LIMITS._asdict().items() if not number] == ["body_bytes"]


def test_no_wait_is_without_an_end() -> None:
    assert all(0 < seconds < 3600 for seconds in DEFAULT_TIMEOUTS)


def test_what_web_servers_send_fits() -> None:
    assert DEFAULT_LIMITS.params_bytes >= 65_535  # all that uwsgi's datasize can say; a 60 KB cookie through SCGI
    assert DEFAULT_TIMEOUTS.keepalive > 60  # nginx's upstream keepalive_timeout: its side is to close first
