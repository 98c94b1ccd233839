from __future__ import annotations

import pickle

import pytest

from gateways import errors
from gateways.errors import (
    BodyError,
    ConfigError,
    GatewayError,
    LimitExceeded,
    LocalProtocolError,
    MalformedMessage,
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    TruncatedMessage,
    WorkerBootError,
)

EACH: list[GatewayError] = [
    GatewayError("what"),
    ProtocolError("scgi", "what"),
    RemoteProtocolError("scgi", "what", 408),
    MalformedMessage("scgi", "what", 501),
    TruncatedMessage("scgi", "what"),
    LimitExceeded("scgi", "headers", 3, 2, 431),
    LocalProtocolError("scgi", "what"),
    PeerClosed("what"),
    BodyError("what", 413),
    ConfigError("what"),
    WorkerBootError("what"),
]


def test_all_names_are_one_tree() -> None:
    assert {type(error).__name__ for error in EACH} == set(errors.__all__) - {"RequestTimeout"}  # which is no Exception
    assert sorted(errors.__all__) == errors.__all__


@pytest.mark.parametrize(
    ("kind", "parent"),
    [
        (ProtocolError, GatewayError),
        (RemoteProtocolError, ProtocolError),
        (MalformedMessage, RemoteProtocolError),
        (TruncatedMessage, RemoteProtocolError),
        (LimitExceeded, RemoteProtocolError),
        (LocalProtocolError, ProtocolError),
        (PeerClosed, GatewayError),
        (BodyError, GatewayError),
        (BodyError, OSError),
        (ConfigError, GatewayError),
        (WorkerBootError, GatewayError),
    ],
)
def test_parents(kind: type[Exception], parent: type[Exception]) -> None:
    assert parent in kind.__bases__


def test_ours_is_never_theirs() -> None:
    assert not issubclass(LocalProtocolError, RemoteProtocolError)


def test_a_protocol_error_tells_its_protocol_and_a_status() -> None:
    error = MalformedMessage("uwsgi", "modifier1 9 is not served here", 501)
    assert str(error) == "uwsgi: modifier1 9 is not served here"
    assert (error.protocol, error.message, error.status_hint) == ("uwsgi", "modifier1 9 is not served here", 501)


def test_statuses_by_default() -> None:
    assert MalformedMessage("scgi", "what").status_hint == 400
    assert TruncatedMessage("scgi", "what").status_hint == 400
    assert LocalProtocolError("scgi", "what").status_hint == 500
    assert BodyError("what").status_hint == 400


def test_a_limit_tells_its_numbers() -> None:
    error = LimitExceeded("scgi", "header netstring", 70_000, 65_536, 431)
    assert str(error) == "scgi: header netstring is 70000, more than the limit of 65536"
    assert (error.limit, error.value, error.maximum, error.status_hint) == ("header netstring", 70_000, 65_536, 431)


def test_a_body_error_is_what_applications_expect_of_input() -> None:
    error = BodyError("the peer closed 3 bytes early", 408)
    assert str(error) == "the peer closed 3 bytes early"
    assert (error.message, error.status_hint, error.errno) == ("the peer closed 3 bytes early", 408, None)


def test_events_are_of_one_error() -> None:
    one = MalformedMessage("scgi", "what")
    one.events = [1]
    assert MalformedMessage("scgi", "what").events == ()


@pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)
def test_each_survives_pickling(error: GatewayError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own bytes)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)
