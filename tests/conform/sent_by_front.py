"""What the web server of ``fake_front`` sends to its backend: parameters and their encoding, with one rule broken."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

from gateways.wire.fastcgi import begin, pair, rec
from gateways.wire.single import netstring, packet, strings, variables

__all__ = ["Asked", "encode"]

Pairs = list[tuple[str, str]]


def decoded(text: str) -> str:
    return unquote_to_bytes(text.encode("latin-1")).decode("latin-1")


@dataclass
class Asked:
    """One request of a client."""

    method: str
    target: str
    version: str
    fields: Pairs
    body: bytes
    has_body: bool
    chunked: bool
    address: tuple[str, int]

    def sent_body(self, rule: str) -> bytes:
        return self.body + (b"x" if rule == "body-plus" else b"")

    def pairs(self, rule: str) -> Pairs:
        """The parameters."""
        path, _, query = self.target.partition("?")
        if rule == "query-last-mark":
            query = self.target.rpartition("?")[2] if "?" in self.target else ""
        elif rule == "query-decoded":
            query = decoded(query)
        length = str(len(self.sent_body(rule)))
        name = decoded(path)
        made = {
            "CONTENT_LENGTH": length,
            "REQUEST_METHOD": self.method.lower() if rule == "method-lower" else self.method,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": rule[9:] if rule.startswith("protocol-") else self.version,
            "SERVER_NAME": self.address[0],
            "SERVER_PORT": str(self.address[1]),
            "REMOTE_ADDR": "localhost" if rule == "remote-name" else "127.0.0.1",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": path if rule == "path-raw" else decoded(name) if rule == "path-twice" else name,
            "REQUEST_URI": decoded(self.target) if rule == "uri-decoded" else self.target,
        }
        if rule == "query-absent" and not query:
            del made["QUERY_STRING"]
        for gone in {"no-server": ("SERVER_NAME",), "no-gateway": ("GATEWAY_INTERFACE",)}.get(rule, ()):
            del made[gone]
        if rule == "no-path":
            made["SCRIPT_NAME"] = made["REQUEST_URI"] = "/"
        pairs = [*made.items(), *self.headers(rule)]
        if rule == "nameless":
            pairs.append(("", "x"))
        if rule == "duplicates":
            pairs.append(("QUERY_STRING", query))
        return pairs

    def headers(self, rule: str) -> Pairs:
        """The parameters that header fields become."""
        found: dict[str, str] = {}
        apart: Pairs = []
        fields = self.fields[:50] if rule == "50-fields" else self.fields
        for at, (name, text) in enumerate(fields):
            key = "HTTP_" + name.upper().replace("-", "_")
            if key in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"):
                if key == "HTTP_CONTENT_TYPE" and rule != "no-type":
                    found["CONTENT_TYPE"] = text.strip()
                continue
            if (
                ("_" in name and rule != "underscore-passed")
                or (key == "HTTP_PROXY" and rule != "httpoxy")
                or (key == "HTTP_COOKIE" and rule == "no-cookie")
            ):
                continue
            value = self.value(rule, text)
            if rule == "empty-is-next" and not value:
                value = fields[at + 1][1].strip()
            if rule == "digits-dropped":
                key = re.sub(r"\d", "", key)
            if key == "HTTP_HOST" and rule == "host-without-port":
                value = value.partition(":")[0]
            if key == "HTTP_X_CONFORM_A" and rule == "value-off-by-one":
                value += "x"
            if key in found and rule == "repeated-apart":
                apart.append((key, value))
            else:
                found[key] = f"{found[key]}, {value}" if key in found else value
        return [*found.items(), *apart]

    @staticmethod
    def value(rule: str, text: str) -> str:
        """The value of a parameter that a header field's becomes."""
        value = text.strip(" \t") if rule != "unstripped" else text.removeprefix(" ")
        if rule == "ascii-only":
            return value.encode("ascii", "ignore").decode()
        if rule == "unquoted":
            return unquote(value, "latin-1")
        if rule == "escaped":
            return value.replace("\\", "\\\\")
        return value[:900] if rule == "values-cut" else value


def encode(protocol: str, rule: str, asked: Asked, pairs: Pairs, body: bytes, *, keep: bool) -> bytes:
    """The whole request."""
    post = asked.method == "POST"
    if protocol == "fastcgi":
        return fastcgi(rule if post or rule.startswith("no-stdin-end") else "", pairs, body, asked, keep=keep)
    tail = b"surplus" if rule == "surplus" and post else b""
    if protocol == "uwsgi":
        if rule == "bad-length" and post:
            pairs = [(name, "+" + value if name == "CONTENT_LENGTH" else value) for name, value in pairs]
        block = variables(pairs)
        size = len(block) - 1 if rule == "datasize" and post else -1
        return packet(block, 5 if rule == "modifier" else 0, 0, size) + body + tail
    if rule == "length-empty" and post:
        pairs = [(name, "" if name == "CONTENT_LENGTH" else value) for name, value in pairs]
        body = b""
    one = [] if rule == "no-scgi" else [("SCGI", "1")]
    pairs = [*pairs[1:], *one, pairs[0]] if rule == "length-last" else [pairs[0], *one, *pairs[1:]]
    block = strings(pairs)
    if rule == "no-last-nul" and post:
        block = block[:-1]
    head = netstring(block)
    if rule == "netstring-zero":
        head = b"0" + head
    if rule == "no-comma" and post:
        head = head[:-1] + b";"
    return head + body + tail


def fastcgi(rule: str, pairs: Pairs, body: bytes, asked: Asked, *, keep: bool) -> bytes:
    block = b"".join([pair(name, value) for name, value in pairs])
    if rule == "length":
        block += pair("CONTENT_LENGTH", str(len(body) + 1))
    if rule == "pairs":
        block += b"\x05\x05ab"
    flags = int(keep) | (4 if rule == "flags" else 0)
    start = begin(1, flags, 3 if rule == "role" else 1)
    if rule == "begin-length":
        start = rec(1, 1, start[8:12])
    if rule == "begin-reserved":
        start = start[:-1] + b"\1"
    parts = [start]
    if rule == "twice":
        parts.append(start)
    if rule == "order":
        parts += [rec(4, 1, block), rec(5, 1, body[:1]), rec(4, 1)]
        body = body[1:]
    else:
        parts += [rec(4, 1, block), rec(4, 1)]
    more = {
        "types": rec(6, 1, b"x"), "id": rec(5, 0, b"x"), "inactive": rec(5, 77, b"x"), "management": rec(9, 1),
        "params-end": rec(4, 1, b"x"), "data": rec(8, 1, b"x"),
    }  # fmt: skip
    parts.append(more.get(rule, b""))
    for at in range(0, len(body), 32_768):
        parts.append(
            rec(5, 1, body[at : at + 32_768], 3, reserved=int(rule == "reserved"), version=1 + (rule == "version"))
        )
    kind = "get" if not asked.has_body else "post" if body else "empty"
    if rule != f"no-stdin-end-{kind}":
        parts.append(rec(5, 1))
    if rule == "stdin-end":
        parts.append(rec(5, 1))
    if rule == "cut":
        parts.append(struct.pack(">BB", 1, 5))
    return b"".join(parts)
