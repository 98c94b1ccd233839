"""The access log: one line a request, in Apache's combined form, as JSON, or by a format of Apache's atoms.

The format becomes a flat plan once: the pieces of a line, and where those that differ come from. A line is then a few
look-ups, one join, one check and one write. The check takes all plain characters away: what is left must be what the
format itself leaves, else some value needs escaping. What an application has left in its environ may be anything.
"""

from __future__ import annotations

import os
import re
import time
from json.encoder import encode_basestring_ascii
from typing import Any, Final
from urllib.parse import quote_from_bytes

from gateways.errors import ConfigError
from gateways.server.logfiles import LogTarget
from gateways.server.zone import local

__all__ = ["ATOMS", "AccessLog", "Plan"]

COMBINED: Final = '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"'
ATOMS: Final = (
    "%h %l %u %t %r %s %>s %b %B %m %U %q %H %D %T %{s}T %{ms}T %{us}T %p %v %P %{NAME}i %{NAME}e "
    "%{protocol}x %{duration}x %{queue}x %{traceparent}x %%"
)
"""docs/access-log.md says what each is."""
CLIENT_GONE: Final = "499"
"""nginx's, for a client that went before it was answered."""

# What a place shows, if not a parameter.
_DASH: Final = 0
_TIME: Final = 1
_STATUS: Final = 2
_SIZE_OR_DASH: Final = 3
_SIZE: Final = 4
_DURATION: Final = 5
_PATH: Final = 6
_QUERY: Final = 7
_MICROSECONDS: Final = 8
_MILLISECONDS: Final = 9
_SECONDS: Final = 10
_WORKER: Final = 11
_PROTOCOL: Final = 12
_QUEUE: Final = 13

# What a place shows where its parameter is missing, if not "-" or null.
_NOTHING: Final = 0
_PEER: Final = 1
_REBUILT: Final = 2
_SERVER_NAME: Final = 3

_KINDS: Final[dict[str, int]] = {
    "l": _DASH, "t": _TIME, "s": _STATUS, ">s": _STATUS, "b": _SIZE_OR_DASH, "B": _SIZE, "U": _PATH, "q": _QUERY,
    "D": _MICROSECONDS, "T": _SECONDS, "{s}T": _SECONDS, "{ms}T": _MILLISECONDS, "{us}T": _MICROSECONDS,
    "P": _WORKER, "{protocol}x": _PROTOCOL, "{duration}x": _DURATION, "{queue}x": _QUEUE,
}  # fmt: skip
_PARAMETERS: Final[dict[str, tuple[str, int]]] = {
    "h": ("REMOTE_ADDR", _PEER), "u": ("REMOTE_USER", _NOTHING), "m": ("REQUEST_METHOD", _NOTHING),
    "H": ("SERVER_PROTOCOL", _NOTHING), "p": ("SERVER_PORT", _NOTHING), "v": ("SERVER_NAME", _NOTHING),
    "{traceparent}x": ("HTTP_TRACEPARENT", _NOTHING),
}  # fmt: skip
_JSON_TEXTS: Final[tuple[tuple[str, str, int], ...]] = (
    # field, the parameter that it shows, and what instead
    ("client", "REMOTE_ADDR", _PEER),
    ("user", "REMOTE_USER", _NOTHING),
    ("method", "REQUEST_METHOD", _NOTHING),
    ("uri", "REQUEST_URI", _REBUILT),
    ("http_version", "SERVER_PROTOCOL", _NOTHING),
    ("host", "HTTP_HOST", _SERVER_NAME),
    ("referer", "HTTP_REFERER", _NOTHING),
    ("user_agent", "HTTP_USER_AGENT", _NOTHING),
    ("traceparent", "HTTP_TRACEPARENT", _NOTHING),
)

_ATOM: Final = re.compile(r"%(>s|%|(?:\{[^}]*\})?[A-Za-z])")
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.1
_NOT_IN_A_LINE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")  # a tab may separate
_PATH_SAFE: Final = "/!$&'()*+,;=:@~"  # RFC 3986 section 3.3
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in any locale
_STAMPS: Final = 64
_PLAIN: Final = bytes([byte for byte in range(0x20, 0x7F) if byte not in b'"\\'])
_UNPLAIN: Final = re.compile(r"[^ !#-\[\]-~]")
_LETTERS: Final[dict[str, str]] = {
    "\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"',
}  # fmt: skip
_UNSEEN: Final = re.compile(rb"[\x00-\x1f\x7f\\]|\xc2[\x80-\x9f]")  # control characters, of Unicode too; the backslash
_JSON_NULLS: Final[list[str]] = [text for field, _, _ in _JSON_TEXTS for text in (f',"{field}":', "null")]
_JSON_NAMES: Final[list[tuple[int, str, int]]] = [
    (2 * number + 1, name, instead) for number, (_, name, instead) in enumerate(_JSON_TEXTS)
]
_JSON_LEFT: Final[list[bytes]] = [
    # 7 names of fields and 2 texts that are not among _JSON_TEXTS
    b'"' * 2 * (len(_JSON_TEXTS) + shown + 7 + 2) + b"\n"
    for shown in range(len(_JSON_TEXTS) + 1)
]
"""How many texts are shown -> what is left of a line without its plain characters, where none needs escaping."""


class Plan:
    """What a format string has become; raises ConfigError for one that cannot be."""

    def __init__(self, form: str) -> None:
        self.pieces: list[str] = []
        """The whole line, with a dash wherever there is nothing to show."""
        self.names: list[tuple[int, str, int]] = []
        """Index of a piece, the parameter that it shows, and what instead."""
        self.kinds: list[tuple[int, int]] = []
        """Index of a piece, and what else it shows."""
        bad = _NOT_IN_A_LINE.search(form)
        if bad is not None:
            raise ConfigError(f"the access log's format holds {bad.group()!r}, which does not belong in a line")
        literals = ""
        at = 0
        while True:
            percent = form.find("%", at)
            literal = form[at:] if percent < 0 else form[at:percent]
            self.pieces.append(literal)
            literals += literal
            if percent < 0:
                break
            found = _ATOM.match(form, percent)
            if found is None:
                raise unknown(form[percent : percent + 2])
            self._atom(found.group(1), found.group())
            at = found.end()
        if not self.names and not self.kinds:
            raise ConfigError(f"the access log's format {form!r} shows nothing; there are combined, json and {ATOMS}")
        self.pieces.append("\n")
        self.left: bytes = f"{literals}\n".encode().translate(None, _PLAIN)
        """What is left of a line without its plain characters, where no value needs escaping."""

    def _atom(self, atom: str, written: str) -> None:
        if atom == "%":
            self.pieces.append("%")
        elif atom == "r":
            self._name("REQUEST_METHOD", _NOTHING)
            self.pieces.append(" ")
            self._name("REQUEST_URI", _REBUILT)
            self.pieces.append(" ")
            self._name("SERVER_PROTOCOL", _NOTHING)
        elif atom in _KINDS:
            self.kinds.append((len(self.pieces), _KINDS[atom]))
            self.pieces.append("-")
        elif atom in _PARAMETERS:
            name, instead = _PARAMETERS[atom]
            self._name(name, instead)
        elif atom.endswith("}i") and _FIELD_NAME.fullmatch(atom[1:-2]):
            name = atom[1:-2].upper().replace("-", "_")
            self._name(name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}", _NOTHING)
        elif atom.endswith("}e") and atom != "{}e":
            self._name(atom[1:-2], _NOTHING)
        else:
            raise unknown(written)

    def _name(self, name: str, instead: int) -> None:
        self.names.append((len(self.pieces), name, instead))
        self.pieces.append("-")


def unknown(atom: str) -> ConfigError:
    """Say what there is instead."""
    return ConfigError(f"the access log's format holds {atom!r}, no atom; there are combined, json and {ATOMS}")


class AccessLog:
    """Writes a line for each request; ``worker`` is the process id to show, by default that of the process.

    Raises ConfigError for a format that cannot be.
    """

    def __init__(self, target: LogTarget, form: str, *, worker: int | None = None) -> None:
        plan = Plan(COMBINED if form in ("combined", "json") else form)
        self._target = target
        self.worker: int = worker or 0
        self._json: bool = form == "json"
        self._pieces: list[str] = plan.pieces
        self._names: list[tuple[int, str, int]] = plan.names
        self._kinds: list[tuple[int, int]] = plan.kinds
        self._left: bytes = plan.left
        self._stamps: dict[int, str] = {}
        """Second -> its text."""

    def record(
        self, params: dict[str, Any], protocol: str, peer: str, status: str, sent: int, finished: float, taken: float,
        queued: float,
    ) -> None:  # fmt: skip
        """Write the line of one request.

        ``params`` is its environ, whatever the application has made of it. ``status`` as ``200 OK``, empty where the
        client went before; ``sent`` in bytes; ``finished`` in Unix seconds; ``taken`` and ``queued`` in seconds,
        ``queued`` less than 0 where it is not known.
        """
        if self._json:
            self._target.write(self._object(params, protocol, peer, status, sent, finished, taken, queued))
            return
        pieces = self._pieces.copy()
        for at, name, instead in self._names:
            value = params.get(name)
            if type(value) is not str:
                if value is None and not instead:
                    continue
                value = plain(value)
            pieces[at] = value or (other(instead, params, peer) if instead else "") or "-"
        for at, kind in self._kinds:
            if kind == _TIME:
                second = int(finished - taken)
                pieces[at] = self._stamps.get(second) or self._stamp(second)
            elif kind == _STATUS:
                pieces[at] = status[:3] or CLIENT_GONE
            elif kind == _SIZE_OR_DASH:
                pieces[at] = str(sent) if sent else "-"
            elif kind == _PROTOCOL:
                pieces[at] = protocol
            elif kind == _DURATION:
                pieces[at] = f"{taken:.6f}"
            elif kind == _QUEUE:
                pieces[at] = f"{queued:.6f}" if queued >= 0.0 else "-"
            else:
                pieces[at] = self._rare(kind, params, sent, taken)
        line = "".join(pieces).encode("utf-8", "surrogatepass")
        if line.translate(None, _PLAIN) != self._left:
            for at, _, _ in self._names:
                pieces[at] = log_item(pieces[at])
            for at, _ in self._kinds:
                pieces[at] = log_item(pieces[at])
            line = "".join(pieces).encode()
        self._target.write(line)

    def _object(
        self, params: dict[str, Any], protocol: str, peer: str, status: str, sent: int, finished: float, taken: float,
        queued: float,
    ) -> bytes:  # fmt: skip
        """Return the line in JSON."""
        texts = _JSON_NULLS.copy()
        shown = 0
        for at, name, instead in _JSON_NAMES:
            value = params.get(name)
            if type(value) is not str:
                if value is None and not instead:
                    continue
                value = plain(value)
            text = value or (other(instead, params, peer) if instead else "")
            if text:
                shown += 1
                texts[at] = f'"{text}"'
        begun = finished - taken
        second = int(begun)
        stamp = self._stamps.get(second) or self._stamp(second)
        numbers = (
            f'"status":{status[:3] or CLIENT_GONE},"bytes":{sent},"protocol":"{protocol}","duration":{taken:.6f},'
            f'"queue":{format(queued, ".6f") if queued >= 0.0 else "null"},"worker":{self.worker or os.getpid()}'
        )
        head = f'{{"time":"{stamp}{int((begun - second) * 1000.0):03d}Z"'
        line = f"{head}{''.join(texts)},{numbers}}}\n".encode("utf-8", "surrogatepass")
        if line.translate(None, _PLAIN) != _JSON_LEFT[shown]:
            for at, _, _ in _JSON_NAMES:
                if texts[at] != "null":
                    texts[at] = json_item(texts[at][1:-1])
            line = f"{head}{''.join(texts)},{numbers}}}\n".encode()
        return line

    def _rare(self, kind: int, params: dict[str, Any], sent: int, taken: float) -> str:
        """Return the text of a place that few formats have."""
        if kind == _SIZE:
            return str(sent)
        if kind == _WORKER:
            return str(self.worker or os.getpid())
        if kind == _MICROSECONDS:
            return str(int(taken * 1_000_000.0))
        if kind == _MILLISECONDS:
            return str(int(taken * 1000.0))
        if kind == _SECONDS:
            return str(int(taken))
        if kind == _PATH:
            return text_of(params, "SCRIPT_NAME") + text_of(params, "PATH_INFO") or "-"
        if kind == _QUERY:
            query = text_of(params, "QUERY_STRING")
            return f"?{query}" if query else ""
        return "-"

    def _stamp(self, second: int) -> str:
        """Return the text of a second, which most requests share with others."""
        if len(self._stamps) >= _STAMPS:
            self._stamps.clear()
        if self._json:
            utc = time.gmtime(second)
            stamp = (
                f"{utc.tm_year:04d}-{utc.tm_mon:02d}-{utc.tm_mday:02d}"
                f"T{utc.tm_hour:02d}:{utc.tm_min:02d}:{utc.tm_sec:02d}."
            )
        else:
            here = local(second)
            east = here.tm_gmtoff // 60
            zone = f"{'-' if east < 0 else '+'}{abs(east) // 60:02d}{abs(east) % 60:02d}"
            stamp = (
                f"[{here.tm_mday:02d}/{_MONTHS[here.tm_mon - 1]}/{here.tm_year:04d}"
                f":{here.tm_hour:02d}:{here.tm_min:02d}:{here.tm_sec:02d} {zone}]"
            )
        self._stamps[second] = stamp
        return stamp


def plain(value: object) -> str:
    """Return a value of a subclass of str as str itself would; "" for anything else."""
    return str.__str__(value) if issubclass(type(value), str) else ""


def text_of(params: dict[str, Any], name: str) -> str:
    """Return a parameter; "" where there is none, or no text."""
    value = params.get(name)
    return value if type(value) is str else plain(value)


def other(instead: int, params: dict[str, Any], peer: str) -> str:
    """Return what is shown instead of a parameter that is missing."""
    if instead == _PEER:
        return peer
    if instead == _SERVER_NAME:
        return text_of(params, "SERVER_NAME")
    return rebuilt(params)


def rebuilt(params: dict[str, Any]) -> str:
    """Return the URI where REQUEST_URI is missing, as PEP 3333 has it ("URL Reconstruction")."""
    path = quote_from_bytes(raw(text_of(params, "SCRIPT_NAME") + text_of(params, "PATH_INFO")), _PATH_SAFE)
    query = text_of(params, "QUERY_STRING")
    return f"{path}?{query}" if query else path


def raw(text: str) -> bytes:
    """Return the bytes that came, or UTF-8 where an application has put in what cannot have come."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def log_item(text: str) -> str:
    r"""Return a text as Apache's ap_escape_logitem() does: control characters and bytes from 0x80 on as \xHH."""
    return _UNPLAIN.sub(_log_escape, text)


def _log_escape(found: re.Match[str]) -> str:
    character = found.group()
    return _LETTERS.get(character) or "".join([f"\\x{byte:02x}" for byte in raw(character)])


def json_item(text: str) -> str:
    r"""Return a string of JSON: UTF-8 as its characters; other bytes, control characters and backslashes as \xHH."""
    return encode_basestring_ascii(_UNSEEN.sub(_json_escape, raw(text)).decode("utf-8", "backslashreplace"))


def _json_escape(found: re.Match[bytes]) -> bytes:
    return b"".join([b"\\x%02x" % byte for byte in found.group()])
