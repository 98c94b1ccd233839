"""RFC 3875 section 4.1: what a web server tells a backend about a request, over any of the protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

from gateways.wire.backend import Arrival
from gateways.wire.case import Failure, Level, short
from gateways.wire.front import PAUSE, Exchange, FrontCase, FrontContext, Row, Run, plain, table

__all__ = ["cases", "fault", "framed", "is_equal"]

META: Final = "RFC 3875, 4.1"
FIELDS: Final = "RFC 3875, 4.1.18 Protocol-Specific Meta-Variables"
PATHS: Final = "RFC 3875, 4.1.5 PATH_INFO and 4.1.13 SCRIPT_NAME"
METHODS: Final[dict[str, Level]] = {
    "GET": "MUST", "HEAD": "MUST", "POST": "MUST", "PUT": "SHOULD", "DELETE": "SHOULD", "OPTIONS": "SHOULD",
}  # fmt: skip
SIZES: Final = (1, 126, 127, 128, 129, 255, 256, 3_000)
SAMPLES: Final = (("GET", None, 10), ("POST", b"", 200), ("POST", bytes(range(256)) * 300, 2_000), ("GET", None, 300))
MUCH: Final = (8, 24, 48)
"""Header fields of 1000 bytes each."""

Judge = Callable[[FrontContext, dict[str, str]], None]


def fault(context: FrontContext, name: str, rule: str) -> None:
    """No connection of the case has this fault."""
    for peer in context.peers:
        if name in peer.faults:
            raise Failure(rule, peer.faults[name])


def framed(name: str, rule: str) -> Run:
    """Requests of several kinds, none of which has this fault."""

    def run(context: FrontContext) -> None:
        for method, data, size in SAMPLES:
            exchange = context.ask(method, headers=[("X-Conform-A", "a" * size)], body=data)
            context.about_request = True
            context.hub.until(lambda made=exchange: broken(context, name) or made.over(), context.seconds)  # type: ignore[misc]
            fault(context, name, rule)
            context.arrived(exchange)
            context.hub.rest(PAUSE)
            fault(context, name, rule)

    return run


def broken(context: FrontContext, name: str) -> bool:
    """Whether a connection of the case has this fault."""
    return any(name in peer.faults for peer in context.peers)


def is_equal(params: dict[str, str], name: str, value: str | None) -> None:
    """The parameter has this value, None is: it is not there."""
    got = params.get(name)
    if got != value:
        raise Failure(f"{name} as {short(value)}", short(got))


def asked(
    judge: Judge, *, method: str = "GET", tail: str = "", query: str = "", headers: tuple[tuple[str, str], ...] = (),
    body: bytes | None = None, version: str = "1.1",
) -> Run:  # fmt: skip
    """One request, and a look at its parameters."""

    def run(context: FrontContext) -> None:
        exchange = context.ask(method, tail=tail, query=query, headers=headers, body=body, version=version)
        judge(context, context.arrived(exchange).params)

    return run


def has(name: str, value: str) -> Judge:
    """This parameter arrives so."""
    return lambda _, params: is_equal(params, name, value)


def path(rest: str) -> Judge:
    """SCRIPT_NAME and PATH_INFO together are the path, decoded once."""

    def judge(context: FrontContext, params: dict[str, str]) -> None:
        wanted = unquote_to_bytes(context.target(rest)).decode("latin-1")
        got = params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
        if got != wanted:
            raise Failure(f"SCRIPT_NAME and PATH_INFO together as {short(wanted)}", short(got))

    return judge


def told(context: FrontContext, params: dict[str, str]) -> None:
    """The path is told, in one form or another."""
    wanted = context.target("/told")
    uri = params.get("REQUEST_URI", "").partition("?")[0]
    both = params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
    if not uri.endswith(wanted) and not both.endswith(wanted):
        raise Failure(f"{wanted!r} in REQUEST_URI, or in SCRIPT_NAME and PATH_INFO", f"{short(uri)} and {short(both)}")


def uri(context: FrontContext, params: dict[str, str]) -> None:
    """REQUEST_URI is the request target as it came."""
    is_equal(params, "REQUEST_URI", context.target("/a%20b%2541", "q=%20+"))


def server(context: FrontContext, params: dict[str, str]) -> None:
    """SERVER_NAME is there, and SERVER_PORT is the port."""
    if not params.get("SERVER_NAME"):
        raise Failure("SERVER_NAME", short(params.get("SERVER_NAME")))
    is_equal(params, "SERVER_PORT", str(context.front.port))


def remote(_: FrontContext, params: dict[str, str]) -> None:
    """REMOTE_ADDR is an address."""
    if not set(params.get("REMOTE_ADDR", "x")) <= set("0123456789abcdefABCDEF.:"):
        raise Failure("an IP address in REMOTE_ADDR", short(params.get("REMOTE_ADDR")))


def host(context: FrontContext, params: dict[str, str]) -> None:
    """HTTP_HOST is the Host header field."""
    is_equal(params, "HTTP_HOST", context.front.authority)


def present(name: str) -> Judge:
    """This parameter is there, perhaps empty."""

    def judge(_: FrontContext, params: dict[str, str]) -> None:
        if name not in params:
            raise Failure(name, "no such parameter")

    return judge


def empty(_: FrontContext, params: dict[str, str]) -> None:
    """A field without a value is empty or absent, and does no harm to the next."""
    if params.get("HTTP_X_CONFORM_EMPTY", ""):
        raise Failure("HTTP_X_CONFORM_EMPTY empty", short(params["HTTP_X_CONFORM_EMPTY"]))
    is_equal(params, "HTTP_X_CONFORM_NEXT", "next")


def httpoxy(_: FrontContext, params: dict[str, str]) -> None:
    """A Proxy field is no HTTP_PROXY."""
    is_equal(params, "HTTP_PROXY", None)


def repeated(context: FrontContext) -> None:
    """Two fields of one name are one parameter."""
    name = "HTTP_X_CONFORM_A"
    arrival = context.arrived(context.ask(headers=[("X-Conform-A", "one"), ("X-Conform-A", "two")]))
    found = [value for key, value in arrival.pairs if key == name]
    if [value.replace(" ", "") for value in found] != ["one,two"]:
        raise Failure(f"{name} once, with both values", str(found))


def underscore(context: FrontContext) -> None:
    """A name with _ does not take the place of the one with -; such a request may be refused."""
    exchange = context.ask(headers=[("X-Conform-A", "trusted"), ("X_Conform_A", "forged")])
    context.hub.until(lambda: exchange.wire.eof or exchange.found(), context.seconds)
    if exchange.found():
        values = [value for key, value in context.arrived(exchange).pairs if key == "HTTP_X_CONFORM_A"]
        if values != ["trusted"]:
            raise Failure("the value of X-Conform-A alone", str(values))
    elif exchange.response().status < 400:
        raise Failure("the request at the backend, or a refusal", str(exchange.response()))


def fields(count: int, size: int) -> Run:
    """Many fields arrive whole, or the request is refused: never some of them."""

    def run(context: FrontContext) -> None:
        sent = {f"X-Conform-{at:02}": f"{at:02}" * (size // 2) for at in range(count)}
        exchange = context.ask(headers=sent.items())
        context.hub.until(lambda: exchange.wire.eof or exchange.found(), context.seconds)
        if not exchange.found():
            context.about_request = True
            if exchange.wire.eof and exchange.response().status >= 400:
                return
            raise Failure("the request at the backend, or a refusal", exchange.instead())
        params = context.arrived(exchange).params
        for name, value in sent.items():
            is_equal(params, "HTTP_" + name.upper().replace("-", "_"), value)

    return run


def names(name: str, rule: str) -> Run:
    """What is true of the names of all parameters."""

    def run(context: FrontContext) -> None:
        fields = [("Cookie", "a=b"), ("X-Conform-A", "a")]
        context.arrived(context.ask("POST", query="a=b", body=b"abc", headers=fields))
        fault(context, name, rule)

    return run


def sequence(context: FrontContext) -> None:
    """Requests one after another have each their own parameters and body."""
    for number in range(5):
        own = f"X-Conform-{number}"
        arrival = context.arrived(context.ask("POST", query=f"n={number}", headers=[(own, "yes")], body=b"%d" % number))
        is_equal(arrival.params, "QUERY_STRING", f"n={number}")
        is_equal(arrival.params, f"HTTP_X_CONFORM_{number}", "yes")
        is_equal(arrival.params, f"HTTP_X_CONFORM_{number - 1}", None)
        if arrival.body != b"%d" % number:
            raise Failure(f"the body of request {number}", repr(bytes(arrival.body[:60])))


def concurrent(context: FrontContext) -> None:
    """Requests at the same time, answered in the reverse order: each client gets its own."""
    exchanges: list[Exchange] = [context.ask(query=f"n={number}") for number in range(4)]
    arrivals: list[Arrival] = [exchange.arrives() for exchange in exchanges]
    for exchange, arrival in reversed(list(zip(exchanges, arrivals, strict=True))):
        arrival.answer(plain(context.protocol, arrival.params.get("QUERY_STRING", "").encode("latin-1")))
        response = exchange.response()
        number = exchanges.index(exchange)
        if response.body != f"n={number}".encode():
            raise Failure(f"the answer to request {number}", str(response))


def cases(protocol: str) -> list[FrontCase]:
    """The cases of one protocol."""
    values = (
        ("utf-8", "caf\xc3\xa9 \xe2\x82\xac", "octets of UTF-8"),
        ("latin-1", "caf\xe9 \xff", "octets of Latin-1"),
        ("punctuation", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "every ASCII character that is no letter and no digit"),
        ("percent", "%41%2F+%2500", "percent-encoding, which is not decoded"),
    )
    own = "X-Conform-A"
    seen = "HTTP_X_CONFORM_A"
    rows: list[Row] = [
        *(
            (f"params.method.{name.lower()}", f"REQUEST_METHOD of {name}", "RFC 3875, 4.1.12", level,
             asked(has("REQUEST_METHOD", name), method=name, body=b"" if name in ("POST", "PUT") else None))
            for name, level in METHODS.items()
        ),
        ("params.query.encoded", "QUERY_STRING is not decoded", "RFC 3875, 4.1.7", "MUST",
         asked(has("QUERY_STRING", "a=%26%3D%2B&b=c+d&&e"), query="a=%26%3D%2B&b=c+d&&e")),
        ("params.query.as-it-came", "QUERY_STRING is not normalized either", "RFC 3875, 4.1.7", "SHOULD",
         asked(has("QUERY_STRING", "a=%41%2f"), query="a=%41%2f")),
        ("params.query.question", "a question mark within the query", "RFC 3875, 4.1.7", "MUST",
         asked(has("QUERY_STRING", "a?b=/c?"), query="a?b=/c?")),
        ("params.query.none", "QUERY_STRING is there when it is empty", "RFC 3875, 4.1.7", "SHOULD",
         asked(present("QUERY_STRING"))),
        ("params.protocol.1.1", "SERVER_PROTOCOL", "RFC 3875, 4.1.16", "MUST",
         asked(has("SERVER_PROTOCOL", "HTTP/1.1"))),
        ("params.protocol.1.0", "SERVER_PROTOCOL of a request in HTTP/1.0", "RFC 3875, 4.1.16", "MUST",
         asked(has("SERVER_PROTOCOL", "HTTP/1.0"), version="1.0")),
        ("params.server", "SERVER_NAME and SERVER_PORT", "RFC 3875, 4.1.14, 4.1.15", "SHOULD", asked(server)),
        ("params.remote", "REMOTE_ADDR", "RFC 3875, 4.1.8", "SHOULD", asked(remote)),
        ("params.gateway", "GATEWAY_INTERFACE", "RFC 3875, 4.1.4", "SHOULD",
         asked(has("GATEWAY_INTERFACE", "CGI/1.1"))),
        ("params.path.told", "the path is told", META, "MUST", asked(told, tail="/told")),
        ("params.path.decoded", "a path, decoded", PATHS, "SHOULD", asked(path("/a%20b"), tail="/a%20b")),
        ("params.path.utf-8", "octets of UTF-8 in the path", PATHS, "SHOULD",
         asked(path("/caf%C3%A9"), tail="/caf%C3%A9")),
        ("params.path.once", "a path is decoded once", PATHS, "SHOULD", asked(path("/%2541"), tail="/%2541")),
        ("params.path.uri", "REQUEST_URI is as it came", "measured: all web servers send it", "SHOULD",
         asked(uri, tail="/a%20b%2541", query="q=%20+")),
        ("params.host", "HTTP_HOST", FIELDS, "SHOULD", asked(host)),
        ("params.type", "CONTENT_TYPE", "RFC 3875, 4.1.3", "MUST",
         asked(has("CONTENT_TYPE", 'text/x-conform; a="b"'), method="POST", body=b"abc",
               headers=(("Content-Type", 'text/x-conform; a="b"'),))),
        ("params.cookie", "HTTP_COOKIE", FIELDS, "MUST",
         asked(has("HTTP_COOKIE", 'a=b; c="d e"'), headers=(("Cookie", 'a=b; c="d e"'),))),
        ("params.header.name", "a field's name in capitals, with _ for -", FIELDS, "MUST",
         asked(has("HTTP_X_CONFORM_MIXED_9", "a"), headers=(("x-ConForm-mixed-9", "a"),))),
        *(
            (f"params.header.size.{size}", f"a field of {size} bytes", FIELDS, "MUST",
             asked(has(seen, "v" * size), headers=((own, "v" * size),)))
            for size in SIZES
        ),
        *(
            (f"params.header.bytes.{name}", title, FIELDS, "SHOULD", asked(has(seen, value), headers=((own, value),)))
            for name, value, title in values
        ),
        ("params.header.empty", "a field without a value", FIELDS, "MUST",
         asked(empty, headers=(("X-Conform-Empty", ""), ("X-Conform-Next", "next")))),
        ("params.header.blanks", "blanks around a value are none of it", "RFC 9110, 5.5", "SHOULD",
         asked(has(seen, "a  b"), headers=((own, "  a  b \t"),))),
        ("params.header.repeated", "two fields of one name are one parameter", FIELDS, "SHOULD", repeated),
        ("params.header.underscore", "a name with _ does not pass for one with -", "measured: nginx and Apache drop it",
         "SHOULD", underscore),
        ("params.header.many", "60 fields", FIELDS, "MUST", fields(60, 4)),
        *(
            (f"params.header.much.{count}000", f"{count} fields of 1000 bytes, all or none", FIELDS, "MUST",
             fields(count, 1_000))
            for count in MUCH
        ),
        ("params.httpoxy", "no HTTP_PROXY", "CVE-2016-5385", "SHOULD",
         asked(httpoxy, headers=(("Proxy", "http://attacker.example/"),))),
        ("params.names", "every parameter has a name", META, "MUST", names("names", "names")),
        ("params.duplicates", "no parameter is sent twice", META, "SHOULD", names("duplicates", "each name once")),
        ("requests.sequence", "five requests one after another", META, "MUST", sequence),
        ("requests.concurrent", "four requests at the same time", META, "MUST", concurrent),
    ]  # fmt: skip
    return table(f"{protocol}.front", rows)
