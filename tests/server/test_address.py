"""What a person may write for an address, and what is told to one who wrote something else."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateways.errors import ConfigError
from gateways.server.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("127.0.0.1:9000", Address("tcp", "127.0.0.1", 9000), "127.0.0.1:9000"),
        ("localhost:0", Address("tcp", "localhost", 0), "localhost:0"),
        ("[::1]:9000", Address("tcp", "::1", 9000), "[::1]:9000"),
        ("[fe80::1%eth0]:80", Address("tcp", "fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        (":9000", Address("tcp", "", 9000), ":9000"),
        ("9000", Address("tcp", "127.0.0.1", 9000), "127.0.0.1:9000"),
        ("65535", Address("tcp", "127.0.0.1", 65_535), "127.0.0.1:65535"),
        ("/run/app.sock", Address("unix", path="/run/app.sock"), "/run/app.sock"),
        ("/run/a:80", Address("unix", path="/run/a:80"), "/run/a:80"),
        ("./app.sock", Address("unix", path="./app.sock"), "./app.sock"),
        (".sock", Address("unix", path=".sock"), ".sock"),
        ("run/app.sock", Address("unix", path="run/app.sock"), "run/app.sock"),
        ("unix:/run/app.sock", Address("unix", path="/run/app.sock"), "/run/app.sock"),
        ("unix:app.sock", Address("unix", path="app.sock"), "unix:app.sock"),
        ("unix:8000", Address("unix", path="8000"), "unix:8000"),
        ("@shop", Address("abstract", path="shop"), "@shop"),
        ("fd:3", Address("fd", fd=3), "fd:3"),
        ("fd:0", Address("fd", fd=0), "fd:0"),
    ],
)
def test_forms(text: str, address: Address, canonical: str) -> None:
    assert parse_address(text) == address
    assert str(address) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("localhost", "there is no port in it"),
        ("localhost:", "'' is no port number"),
        ("localhost:http", "'http' is no port number"),
        ("localhost:+80", "'+80' is no port number"),
        ("localhost:8_0", "'8_0' is no port number"),
        ("localhost:٣", "is no port number"),
        ("65536", "the highest port is 65535"),
        ("9" * 5000, "the highest port is 65535"),
        ("::1:9000", "stands in brackets"),
        ("[::1]", "is no port number"),
        ("[::g]:80", "'::g' is no IPv6 address"),
        ("[]:80", "'' is no IPv6 address"),
        ("a b:80", "'a b' is no host name"),
        ("*:80", "for every interface write :80"),
        ("http://127.0.0.1:80", "leave the scheme away"),
        ("unix:", "names no file"),
        ("/run/", "names no file"),
        ("/run/a\0b", "names no file"),
        ("@", "the abstract name is empty"),
        ("fd:", "the number of a descriptor"),
        ("fd:-1", "the number of a descriptor"),
        ("fd:" + "9" * 10, "the number of a descriptor"),
    ],
)
def test_what_is_refused_says_why_and_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert reason in str(caught.value)
    assert "an address is HOST:PORT" in str(caught.value)


@given(st.text(alphabet="[]:./@%*ufdnix019a- \0é"))
def test_any_text_is_an_address_that_survives_its_own_text_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert parse_address(str(address)) == address
