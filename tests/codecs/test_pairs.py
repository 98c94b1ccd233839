from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.codecs.pairs import (
    content_length,
    encode_fastcgi_pairs,
    encode_scgi_headers,
    encode_uwsgi_vars,
    fastcgi_list,
    merge_repeated,
    parse_fastcgi_pairs,
    parse_scgi_headers,
    parse_uwsgi_vars,
)
from gateways.errors import LimitExceeded, LocalProtocolError, MalformedMessage, RemoteProtocolError
from gateways.testing.noisy import mutated
from tests.codecs.vectors import LATIN1, NAMES

Parse = Callable[[bytes, int], dict[str, str]]
Pairs = list[tuple[str, str]]

PARSERS: Final[list[Parse]] = [parse_fastcgi_pairs, parse_scgi_headers, parse_uwsgi_vars]
ENCODERS = [encode_fastcgi_pairs, encode_scgi_headers, encode_uwsgi_vars]
PROTOCOLS = ["fastcgi", "scgi", "uwsgi"]
EACH = pytest.mark.parametrize(("parse", "encode"), list(zip(PARSERS, ENCODERS, strict=True)), ids=PROTOCOLS)

# The same bytes in both directions: what encode writes is what parse reads.
SAME: dict[str, tuple[Pairs, bytes, bytes, bytes]] = {
    # name: pairs, FastCGI, SCGI, uwsgi
    "nothing": ([], b"", b"", b""),
    "one": ([("A", "b")], b"\1\1Ab", b"A\0b\0", b"\1\0A\1\0b"),
    "two": ([("A", "b"), ("CD", "efg")], b"\1\1Ab\2\3CDefg", b"A\0b\0CD\0efg\0", b"\1\0A\1\0b\2\0CD\3\0efg"),
    "an empty value": ([("REMOTE_USER", "")], b"\13\0REMOTE_USER", b"REMOTE_USER\0\0", b"\13\0REMOTE_USER\0\0"),
    "empty values in a row": ([("A", ""), ("B", "")], b"\1\0A\1\0B", b"A\0\0B\0\0", b"\1\0A\0\0\1\0B\0\0"),
    "octets of UTF-8": (
        [("PATH_INFO", "/caf\xc3\xa9")],
        b"\11\6PATH_INFO/caf\xc3\xa9",
        b"PATH_INFO\0/caf\xc3\xa9\0",
        b"\11\0PATH_INFO\6\0/caf\xc3\xa9",
    ),
    "octets in a name": ([("\xff\x80", "\xfe")], b"\2\1\xff\x80\xfe", b"\xff\x80\0\xfe\0", b"\2\0\xff\x80\1\0\xfe"),
    "127 bytes": (
        [("A", "b" * 127)],
        b"\1\x7fA" + b"b" * 127,
        b"A\0" + b"b" * 127 + b"\0",
        b"\1\0A\x7f\0" + b"b" * 127,
    ),
    "128 bytes": (
        [("A", "b" * 128)],
        b"\1\x80\0\0\x80A" + b"b" * 128,
        b"A\0" + b"b" * 128 + b"\0",
        b"\1\0A\x80\0" + b"b" * 128,
    ),
    "a name of 127 bytes": (
        [("A" * 127, "b")],
        b"\x7f\1" + b"A" * 127 + b"b",
        b"A" * 127 + b"\0b\0",
        b"\x7f\0" + b"A" * 127 + b"\1\0b",
    ),
    "a name of 128 bytes": (
        [("A" * 128, "b" * 256)],
        b"\x80\0\0\x80\x80\0\1\0" + b"A" * 128 + b"b" * 256,
        b"A" * 128 + b"\0" + b"b" * 256 + b"\0",
        b"\x80\0" + b"A" * 128 + b"\0\1" + b"b" * 256,
    ),
    "a cookie of 60,000 bytes": (
        [("HTTP_COOKIE", "c" * 60_000), ("A", "b")],
        b"\13\x80\0\xea\x60HTTP_COOKIE" + b"c" * 60_000 + b"\1\1Ab",
        b"HTTP_COOKIE\0" + b"c" * 60_000 + b"\0A\0b\0",
        b"\13\0HTTP_COOKIE\x60\xea" + b"c" * 60_000 + b"\1\0A\1\0b",
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("which", range(3), ids=PROTOCOLS)
def test_both_directions(name: str, which: int) -> None:
    pairs, block = SAME[name][0], SAME[name][which + 1]
    assert ENCODERS[which](pairs) == block
    assert PARSERS[which](block, len(pairs)) == dict(pairs)
    assert list(PARSERS[which](block, 10)) == [each for each, _ in pairs]


FASTCGI_READ: dict[str, tuple[bytes, dict[str, str]]] = {
    "4 bytes for a short name": (b"\x80\0\0\1\1Ab", {"A": "b"}),
    "4 bytes for a short value": (b"\1\x80\0\0\1Ab", {"A": "b"}),
    "4 bytes for both": (b"\x80\0\0\1\x80\0\0\1Ab", {"A": "b"}),
    "4 bytes for an empty value": (b"\1\x80\0\0\0A\1\1Bc", {"A": "", "B": "c"}),
}


@pytest.mark.parametrize("name", FASTCGI_READ)
def test_fastcgi_lengths_in_either_form(name: str) -> None:
    block, params = FASTCGI_READ[name]
    assert parse_fastcgi_pairs(block, 10) == params
    assert fastcgi_list(block) == list(params.items())


FASTCGI_BAD: dict[str, bytes] = {
    "only the length of a name": b"\1",
    "only the lengths": b"\1\1",
    "no value": b"\1\1A",
    "value too short": b"\1\2Ab",
    "after a good pair": b"\1\1Ab\1\2Ab",
    "within 4 bytes of a name's length": b"\x80\0\0",
    "within 4 bytes of a value's length": b"\1\x80\0\0",
    "no length of a value": b"\x80\0\0\1",
    "name of 2^31-1": b"\xff\xff\xff\xff\1Ab",
    "value of 2^31-1": b"\1\xff\xff\xff\xffAb",
    "sum of 2^32-2": b"\xff\xff\xff\xff\xff\xff\xff\xffAb",
    "sum that is small in 32 bits": b"\xff\xff\xff\xff\xff\xff\xff\xff" + b"A" * 64,
    "sum past 2^31": b"\x80\0\0\1\xff\xff\xff\xffAb",
    "no name": b"\0\1b",
    "neither name nor value": b"\0\0",
    "no name, twice": b"\0\0\0\0",
    "a repeated name, then one without": b"\1\1Ab\1\1Ab\0\1c",
}


@pytest.mark.parametrize("name", FASTCGI_BAD)
def test_fastcgi_pairs_that_are_none(name: str) -> None:
    with pytest.raises(MalformedMessage, match=r"^fastcgi: ") as caught:
        parse_fastcgi_pairs(FASTCGI_BAD[name], 10)
    assert caught.value.status_hint == 400


@pytest.mark.parametrize("name", [name for name in FASTCGI_BAD if "name, t" not in name and not name.startswith("n")])
def test_fastcgi_lists_that_are_none(name: str) -> None:
    with pytest.raises(MalformedMessage, match=r"^fastcgi: "):
        fastcgi_list(FASTCGI_BAD[name])


def test_a_fastcgi_list_keeps_what_is_repeated_or_empty() -> None:
    assert fastcgi_list(b"\0\0\1\0A\1\1Ab\0\1c") == [("", ""), ("A", ""), ("A", "b"), ("", "c")]


UWSGI_BAD: dict[str, bytes] = {
    "half a length": b"\1",
    "only a length": b"\1\0",
    "name too short": b"\2\0A",
    "no value": b"\1\0A",
    "half a value's length": b"\1\0A\1",
    "value too short": b"\1\0A\2\0b",
    "value missing": b"\1\0A\1\0",
    "name of 65,535": b"\xff\xffA\1\0b",
    "value of 65,535": b"\1\0A\xff\xffb",
    "after a good one": b"\1\0A\1\0b\1\0A\2\0b",
    "no name": b"\0\0\1\0b",
    "neither name nor value": b"\0\0\0\0",
    "no name, twice": b"\0\0\0\0\0\0\0\0",
    "a repeated name, then one without": b"\1\0A\1\0b\1\0A\1\0b\0\0\0\0",
}


@pytest.mark.parametrize("name", UWSGI_BAD)
def test_uwsgi_variables_that_are_none(name: str) -> None:
    with pytest.raises(MalformedMessage, match=r"^uwsgi: "):
        parse_uwsgi_vars(UWSGI_BAD[name], 10)


SCGI_BAD: dict[str, bytes] = {
    "no NUL": b"A",
    "no value": b"A\0",
    "value without its NUL": b"A\0b",
    "bytes after the last NUL": b"A\0b\0c",
    "an odd string": b"A\0b\0C\0",
    "only a NUL": b"\0",
    "no name": b"\0b\0",
    "neither name nor value": b"\0\0",
    "no name, twice": b"\0\0\0\0",
    "a repeated name, then one without": b"A\0b\0A\0b\0\0c\0",
}


@pytest.mark.parametrize("name", SCGI_BAD)
def test_scgi_headers_that_are_none(name: str) -> None:
    with pytest.raises(MalformedMessage, match=r"^scgi: "):
        parse_scgi_headers(SCGI_BAD[name], 10)


@EACH
def test_as_many_pairs_as_the_limit(parse: Parse, encode: Callable[[Pairs], bytes]) -> None:
    pairs = [(f"NAME_{number}", "v") for number in range(5)]
    assert parse(encode(pairs[:4]), 4) == dict(pairs[:4])
    with pytest.raises(LimitExceeded) as caught:
        parse(encode(pairs), 4)
    assert caught.value.status_hint == 431
    assert (caught.value.value, caught.value.maximum) == (5, 4)


@EACH
def test_repeated_pairs_count_towards_the_limit(parse: Parse, encode: Callable[[Pairs], bytes]) -> None:
    assert parse(encode([("HTTP_A", "b")] * 4), 4) == {"HTTP_A": "b, b, b, b"}
    with pytest.raises(LimitExceeded):
        parse(encode([("HTTP_A", "b")] * 5), 4)


@EACH
def test_no_pair_where_none_may_come(parse: Parse, encode: Callable[[Pairs], bytes]) -> None:
    assert parse(b"", 0) == {}
    with pytest.raises(LimitExceeded):
        parse(encode([("A", "b")]), 0)


MERGED: dict[str, tuple[Pairs, dict[str, str]]] = {
    "nothing": ([], {}),
    "nothing twice": ([("A", "b"), ("C", "d")], {"A": "b", "C": "d"}),
    "a field": ([("HTTP_VIA", "a"), ("HTTP_VIA", "b"), ("HTTP_VIA", "c")], {"HTTP_VIA": "a, b, c"}),
    "the same twice": ([("HTTP_ACCEPT", "a"), ("HTTP_ACCEPT", "a")], {"HTTP_ACCEPT": "a, a"}),
    "an empty one": ([("HTTP_VIA", ""), ("HTTP_VIA", "b")], {"HTTP_VIA": ", b"}),
    "a cookie": ([("HTTP_COOKIE", "a=1"), ("B", "c"), ("HTTP_COOKIE", "b=2")], {"HTTP_COOKIE": "a=1; b=2", "B": "c"}),
    "a host": ([("HTTP_HOST", "a"), ("HTTP_HOST", "a")], {"HTTP_HOST": "a"}),
    "a length": ([("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "5")], {"CONTENT_LENGTH": "5"}),
    "a length as a field": ([("HTTP_CONTENT_LENGTH", "5")] * 2, {"HTTP_CONTENT_LENGTH": "5"}),
    "a coding": ([("HTTP_TRANSFER_ENCODING", "chunked")] * 2, {"HTTP_TRANSFER_ENCODING": "chunked"}),
    # Debian's nginx 1.22 sends REMOTE_USER twice: from the stock file and from its own fastcgi_params.
    "REMOTE_USER": ([("REMOTE_USER", ""), ("REMOTE_USER", "")], {"REMOTE_USER": ""}),
    # include fastcgi_params; fastcgi_param SCRIPT_NAME ""; is how Flask's documentation has it, and many others'.
    "SCRIPT_NAME": ([("SCRIPT_NAME", "/x"), ("A", "b"), ("SCRIPT_NAME", "")], {"SCRIPT_NAME": "", "A": "b"}),
    "PATH_INFO": ([("PATH_INFO", ""), ("PATH_INFO", "/x"), ("PATH_INFO", "/y")], {"PATH_INFO": "/y"}),
    "names in two cases": ([("Http_Via", "a"), ("HTTP_VIA", "b")], {"Http_Via": "a", "HTTP_VIA": "b"}),
    "httpoxy, which environ drops": ([("HTTP_PROXY", "a"), ("HTTP_PROXY", "b")], {"HTTP_PROXY": "a, b"}),
    # wsgi.* is the server's to set (PEP 3333): a front end must not choose it.
    "wsgi.*": ([("wsgi.url_scheme", "https"), ("A", "b"), ("wsgi.", ""), ("wsgi.input", "x")], {"A": "b"}),
    "wsgi.*, twice, and another": (
        [("wsgi.input", "x"), ("HTTP_A", "b"), ("wsgi.input", "y"), ("HTTP_A", "c")],
        {"HTTP_A": "b, c"},
    ),
    "nearly wsgi.*": (
        [("WSGI.input", "a"), ("wsgi", "b"), ("wsgi_input", "c"), ("x.wsgi.y", "d"), ("HTTP_A", "wsgi.input")],
        {"WSGI.input": "a", "wsgi": "b", "wsgi_input": "c", "x.wsgi.y": "d", "HTTP_A": "wsgi.input"},
    ),
    # X-A and X_A have one name here; which came first nobody can tell, so they are one field.
    "X_A beside X-A": ([("HTTP_X_A", "a"), ("HTTP_X_A", "b")], {"HTTP_X_A": "a, b"}),
}


@pytest.mark.parametrize("name", MERGED)
def test_repeated_names(name: str) -> None:
    pairs, params = MERGED[name]
    assert merge_repeated(pairs, "scgi") == params
    for parse, encode in zip(PARSERS, ENCODERS, strict=True):
        assert parse(encode(pairs), 10) == params


@pytest.mark.parametrize(
    "pairs",
    [
        [("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "6")],
        [("CONTENT_LENGTH", ""), ("CONTENT_LENGTH", "6")],
        [("HTTP_CONTENT_LENGTH", "5"), ("HTTP_CONTENT_LENGTH", "6")],
        [("HTTP_HOST", "a"), ("HTTP_HOST", "b")],
        [("HTTP_TRANSFER_ENCODING", "chunked"), ("HTTP_TRANSFER_ENCODING", "identity")],
        [("REMOTE_USER", "a"), ("REMOTE_USER", "")],
        [("REQUEST_METHOD", "GET"), ("HTTP_A", "b"), ("REQUEST_METHOD", "POST")],
        [("HTTPS", "on"), ("HTTPS", "off")],
        [("CONTENT_TYPE", "a/b"), ("CONTENT_TYPE", "a/c")],
    ],
)
def test_repeated_names_of_which_one_would_have_to_be_guessed(pairs: Pairs) -> None:
    for parse, encode, protocol in zip(PARSERS, ENCODERS, PROTOCOLS, strict=True):
        with pytest.raises(MalformedMessage, match="came twice, with different values") as caught:
            parse(encode(pairs), 10)
        assert caught.value.protocol == protocol


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("", -1),
        ("0", 0),
        ("5", 5),
        ("05", 5),  # leading zeros are digits (RFC 3875 section 4.1.2); nothing else can be meant
        ("00", 0),
        ("000000000000000005", 5),
        ("999999999999999999", 10**18 - 1),
    ],
)
def test_content_length(text: str, length: int) -> None:
    assert content_length({"CONTENT_LENGTH": text}, "scgi") == length


def test_no_content_length() -> None:
    assert content_length({"HTTP_CONTENT_LENGTH": "5"}, "scgi") == -1


@pytest.mark.parametrize(
    "text",
    [
        "+5", "-1", "-0", " 5", "5 ", "\t5", "5\n", "\xa05", "1_0", "1,1", "5, 5", "5;5", "0x5", "5.0", "1e3", "five",
        "5\0",
        "\xb2",  # str.isdigit() takes it
        "٣".encode().decode("latin-1"),
        "1" * 19, "0" * 19, "9223372036854775807", "9223372036854775808", "1" * 5_000,
    ],
)  # fmt: skip
def test_a_content_length_that_is_none(text: str) -> None:
    with pytest.raises(MalformedMessage, match="CONTENT_LENGTH is not a number of bytes") as caught:
        content_length({"CONTENT_LENGTH": text}, "scgi")
    assert caught.value.status_hint == 400
    assert len(str(caught.value)) < 250


def test_scgi_cannot_carry_a_nul() -> None:
    for pair in [("A", "b\0c"), ("A\0B", "c"), ("", "c")]:
        with pytest.raises(LocalProtocolError, match="a NUL byte or have no name"):
            encode_scgi_headers([("A", "b"), pair])


def test_uwsgi_ends_at_65535_bytes() -> None:
    block = encode_uwsgi_vars([("A", "b" * 65_530)])
    assert len(block) == 65_535
    assert parse_uwsgi_vars(block, 1) == {"A": "b" * 65_530}
    for pairs in ([("A", "b" * 65_531)], [("A" * 65_536, "")], [("A", "b" * 65_530), ("C", "")]):
        with pytest.raises(LocalProtocolError, match="pass 65535 bytes"):
            encode_uwsgi_vars(pairs)


PARAMS = st.dictionaries(NAMES, LATIN1, max_size=12)


@given(PARAMS)
def test_round_trip_fastcgi(params: dict[str, str]) -> None:
    block = encode_fastcgi_pairs(params.items())
    assert parse_fastcgi_pairs(block, 12) == params
    assert fastcgi_list(block) == list(params.items())


@given(PARAMS, st.integers(0, 2**32 - 1))
def test_round_trip_fastcgi_in_the_longer_form(params: dict[str, str], which: int) -> None:
    block = b""
    for number, pair in enumerate(params.items()):
        for bit, text in enumerate(pair):
            long = which >> (2 * number + bit) & 1 or len(text) > 127
            block += struct.pack(">I", len(text) | 1 << 31) if long else bytes([len(text)])
        block += "".join(pair).encode("latin-1")
    assert parse_fastcgi_pairs(block, 12) == params


@given(PARAMS)
def test_round_trip_uwsgi(params: dict[str, str]) -> None:
    assert parse_uwsgi_vars(encode_uwsgi_vars(params.items()), 12) == params


@given(st.dictionaries(NAMES, LATIN1, max_size=12))
def test_round_trip_scgi(params: dict[str, str]) -> None:
    without = {name.replace("\0", "N"): value.replace("\0", "N") for name, value in params.items()}
    assert parse_scgi_headers(encode_scgi_headers(without.items()), 12) == without


FEW = st.lists(
    st.tuples(
        st.sampled_from(["A", "HTTP_A", "HTTP_COOKIE", "HTTP_HOST", "CONTENT_LENGTH", "HTTP_B"]),
        st.sampled_from(["", "1", "b"]),
    ),
    max_size=8,
)


@given(FEW)
def test_repeated_names_mean_the_same_in_all_protocols(pairs: Pairs) -> None:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    single = ("A", "HTTP_HOST", "CONTENT_LENGTH")
    expected: dict[str, str] | None = {
        name: each[0] if name in single else ("; " if name == "HTTP_COOKIE" else ", ").join(each)
        for name, each in values.items()
    }
    if any(len(set(values.get(name, []))) > 1 for name in single):
        expected = None
    for parse, encode in zip(PARSERS, ENCODERS, strict=True):
        try:
            result: dict[str, str] | None = parse(encode(pairs), 8)
        except MalformedMessage:
            result = None
        assert result == expected
        assert result is None or expected is None or list(result) == list(expected)


SHORT = [SAME[name][1:] for name in SAME if "cookie" not in name]


@pytest.mark.parametrize("which", range(3), ids=PROTOCOLS)
@given(st.data())
def test_any_bytes_are_params_or_an_error_of_the_peer(which: int, data: st.DataObject) -> None:
    block = data.draw(st.one_of(st.binary(max_size=60), mutated([blocks[which] for blocks in SHORT])))
    try:
        params = PARSERS[which](block, 6)
    except RemoteProtocolError:
        return
    assert "" not in params
    assert not any(name.startswith("wsgi.") for name in params)
    assert len(params) <= 6
    assert sum(map(len, [*params, *params.values()])) <= len(block)
    if which == 0:
        assert {name for name, _ in fastcgi_list(block) if not name.startswith("wsgi.")} == set(params)
