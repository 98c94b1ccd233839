"""Requests that are known again by a token, and wires of them, for one server."""

from __future__ import annotations

import hashlib
from typing import Final

from hypothesis import strategies as st

from gateways.testing.framing import Image, fastcgi, scgi, uwsgi
from gateways.testing.model import WireRequest
from gateways.testing.requests import bodies, params as any_params
from gateways.wire.fuzz.corpus import foreign
from gateways.wire.fuzz.play import Ability
from gateways.wire.fuzz.wrong import WRONG
from gateways.wire.target import Target

__all__ = ["Wires"]

ILLEGAL: Final = {
    "fastcgi": fastcgi.illegal_requests,
    "scgi": scgi.illegal_requests,
    "uwsgi": uwsgi.illegal_requests,
}
RESERVED: Final = frozenset(("CONTENT_LENGTH", "HTTP_PROXY", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "SCGI"))
"""What a request's parameters are not drawn from, beside those that the target has: they frame it, or are dropped."""
_PLACES: Final = st.integers(0, 20)
_ROLES: Final = st.sampled_from(["responder"] * 9 + ["authorizer"])
_PARAMS: Final = {protocol: any_params(protocol) for protocol in ILLEGAL}
_BODIES: Final = bodies()
_LENGTHS: Final = st.sampled_from(["{}", "{}", "{}", "0{}", ""])


class Wires:
    """What the cases of one campaign are made of; ``start`` says which tokens come next."""

    def __init__(self, target: Target, ability: Ability) -> None:
        self.target = target
        self.protocol = target.protocol
        self.ability = ability
        self._name = ""
        self._tokens = 0
        self.made: dict[str, WireRequest] = {}
        """By token."""
        # Made once: to make and check a strategy costs as much as to draw from it.
        self.requests = _requests(self)
        """Requests that the server has to serve."""
        self.illegal = ILLEGAL[target.protocol]()
        self.wrong = st.sampled_from(WRONG[target.protocol])
        self.foreign = st.sampled_from(foreign(target.protocol))
        self._images = {most: self._wires(self.requests, most) for most in (1, 2)}

    def start(self, name: str) -> None:
        """Begin with the tokens of this name."""
        self._name, self._tokens = name, 0
        self.made.clear()

    def token(self) -> str:
        """The next one."""
        self._tokens += 1
        text = f"{self.protocol}/{self._name}/{self._tokens}"
        return "GWFZ" + hashlib.sha256(text.encode()).hexdigest()[:16].upper()

    def image(self, draw: st.DrawFn, *, most: int = 1) -> Image:
        """Draw a wire of a new request, of FastCGI up to two at the same time."""
        return draw(self._images[most])

    def framed(self, draw: st.DrawFn, request: WireRequest) -> Image:
        """Draw a wire of this one."""
        return draw(self._wires(st.just(request), 1))

    def _wires(self, requests: st.SearchStrategy[WireRequest], most: int) -> st.SearchStrategy[Image]:
        if self.protocol == "fastcgi":
            return fastcgi.request_images(requests, most=most if self.ability.multiplexed else 1)
        return scgi.request_images(requests) if self.protocol == "scgi" else uwsgi.request_images(requests)


@st.composite
def _requests(draw: st.DrawFn, wires: Wires) -> WireRequest:
    """Draw a request with a token: in a value, in a name, and at the end of its body."""
    protocol, token = wires.protocol, wires.token()
    base = wires.target.request_params()
    given = [pair for pair in draw(_PARAMS[protocol]) if pair[0] not in RESERVED and pair[0] not in base]
    body, form, role = draw(_BODIES), draw(_LENGTHS), draw(_ROLES)
    at, place = draw(_PLACES), draw(_PLACES)
    if protocol != "fastcgi":
        role = "responder"
    if role == "authorizer":
        body = b""
    if body:
        body += token.encode()
        base["REQUEST_METHOD"] = "POST"
    own = [("HTTP_X_FUZZ", token), (f"FUZZ_{token}", "1")]
    every = [*given[:at], *base.items(), *own, *given[at:]]
    length = ("CONTENT_LENGTH", (form or "{}").format(len(body)))
    if protocol == "scgi":
        every = [("CONTENT_LENGTH", str(len(body))), ("SCGI", "1"), *every]
    elif form or (body and protocol == "uwsgi"):
        every.insert(place, length)
    wires.made[token] = WireRequest(tuple(every), body, role, keep=wires.ability.kept)
    return wires.made[token]
