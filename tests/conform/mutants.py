"""What ``gateways conform`` must notice: the checks of our own codecs, switched off one at a time.

``old`` stands exactly once in the file. ``case`` is one that fails where the server runs with ``new`` in its place.
``tests.conform.mutation`` runs them all; the tests see that each text is still there, and run some.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """One check less."""

    what: str
    file: str
    old: str
    new: str
    case: str


FASTCGI, PAIRS = "codecs/fastcgi.py", "codecs/pairs.py"
SCGI, UWSGI, SINGLE = "codecs/scgi.py", "codecs/uwsgi.py", "codecs/single.py"

MUTANTS: list[Mutant] = [
    # -- FastCGI: records ---------------------------------------------------------------------------------------------
    Mutant(
        "the version of a record",
        FASTCGI,
        "if data[at] != FCGI_VERSION_1:\n                    raise",
        "if False:\n                    raise",
        "fastcgi.framing.version.2.params",
    ),
    Mutant(
        "padding is not content",
        FASTCGI,
        "after = start + size + data[at + 6]",
        "after = start + size",
        "fastcgi.framing.padding.params.8",
    ),
    Mutant(
        "padding in the short way",
        FASTCGI,
        "self._head(1, stream, data[24 : 24 + size], events)",
        "self._head(1, stream, data[24 : 24 + size + data[22]], events)",
        "fastcgi.framing.padding.get.7",
    ),
    Mutant(
        "whose parameters these are, in the short way",
        FASTCGI,
        "or data[16:20] != _PARAMS_1\n",
        "or False\n",
        "fastcgi.inactive.within.instead",
    ),
    Mutant(
        "FCGI_KEEP_CONN in the short way",
        FASTCGI,
        "keep = data[10] & FCGI_KEEP_CONN != 0",
        "keep = True",
        "fastcgi.stdout.nothing-after",
    ),
    Mutant(
        "both bytes of a request id",
        FASTCGI,
        "(data[at + 2] << 8) | data[at + 3], data[start",
        "data[at + 3], data[start",
        "fastcgi.framing.id.256",
    ),
    Mutant(
        "both bytes of a length",
        FASTCGI,
        "size = (data[at + 4] << 8) | data[at + 5]",
        "size = data[at + 5]",
        "fastcgi.stdin.body.256",
    ),
    Mutant(
        "records of no active request",
        FASTCGI,
        "stream = self._streams.get(number)\n            if stream is None or",
        "stream = next(iter(self._streams.values()), None)\n            if stream is None or",
        "fastcgi.inactive.within.stdin",
    ),
    # -- FastCGI: FCGI_BEGIN_REQUEST ----------------------------------------------------------------------------------
    Mutant(
        "id 0",
        FASTCGI,
        "if number == FCGI_NULL_REQUEST_ID:\n            raise",
        "if False:\n            raise",
        "fastcgi.hostile.begin-0",
    ),
    Mutant(
        "the length of FCGI_BEGIN_REQUEST",
        FASTCGI,
        "if len(content) != _BEGIN_LEN:",
        "if False:",
        "fastcgi.framing.begin-length.7",
    ),
    Mutant("a second FCGI_BEGIN_REQUEST", FASTCGI, "if number in self._streams:", "if False:", "fastcgi.active-id.*"),
    Mutant(
        "unknown roles",
        FASTCGI,
        "if role != FCGI_RESPONDER and role != FCGI_AUTHORIZER:",
        "if False:",
        "fastcgi.role.4",
    ),
    Mutant(
        "both bytes of a role",
        FASTCGI,
        "role = (content[0] << 8) | content[1]",
        "role = content[1]",
        "fastcgi.role.257",
    ),
    Mutant(
        "FCGI_UNKNOWN_ROLE",
        FASTCGI,
        "stream.protocol_status = FCGI_UNKNOWN_ROLE\n",
        "pass\n",
        "fastcgi.role.65535",
    ),
    Mutant(
        "one bit of the flags",
        FASTCGI,
        "keep = content[2] & FCGI_KEEP_CONN != 0",
        "keep = content[2] != 0",
        "fastcgi.framing.flags.fe",
    ),
    Mutant(
        "requests at once",
        FASTCGI,
        "most = self._limits.requests_per_connection",
        "most = 1 << 20",
        "fastcgi.limits.waiting",
    ),
    # -- FastCGI: streams ---------------------------------------------------------------------------------------------
    Mutant(
        "the size of the parameters",
        FASTCGI,
        "size = stream.size + len(content)",
        "size = len(content)",
        "fastcgi.limits.params",
    ),
    Mutant(
        "FCGI_PARAMS after their end",
        FASTCGI,
        "if stream.state != _PARAMS:",
        "if False:",
        "fastcgi.order.params*",
    ),
    Mutant(
        "FCGI_STDIN before the end of FCGI_PARAMS",
        FASTCGI,
        "if stream.state == _PARAMS:\n            early",
        "if False:\n            early",
        "fastcgi.order.early-body",
    ),
    Mutant(
        "FCGI_STDIN after its end",
        FASTCGI,
        "elif stream.state == _BODY:  # after",
        "else:  # after",
        "fastcgi.stdin.late",
    ),
    Mutant(
        "an Authorizer has no FCGI_STDIN",
        FASTCGI,
        "if stream.role == FCGI_AUTHORIZER:",
        "if False:",
        "fastcgi.role.authorizer",
    ),
    Mutant(
        "abort of nothing",
        FASTCGI,
        "if stream is None:\n            return\n        if stream.state == _PARAMS:  # nobody",
        "if stream is None:\n            raise MalformedMessage('', '')\n        if stream.state == _PARAMS:  # nobody",
        "fastcgi.inactive.abort",
    ),
    Mutant(
        "abort before the parameters",
        FASTCGI,
        "if stream.state == _PARAMS:  # nobody above",
        "if False:  # nobody above",
        "fastcgi.abort.begin",
    ),
    # -- FastCGI: management, and the end -----------------------------------------------------------------------------
    Mutant(
        "unknown types",
        FASTCGI,
        "elif kind > FCGI_UNKNOWN_TYPE or kind == 0 or number == FCGI_NULL_REQUEST_ID:",
        "elif False:",
        "fastcgi.unknown-type.42",
    ),
    Mutant(
        "which type is unknown",
        FASTCGI,
        "bytes((kind, 0, 0, 0, 0, 0, 0, 0))",
        "bytes((0, 0, 0, 0, 0, 0, 0, 0))",
        "fastcgi.unknown-type.42",
    ),
    Mutant(
        "values that nobody asked for",
        FASTCGI,
        "for name, value in values if name in asked]",
        "for name, value in values]",
        "fastcgi.values.none",
    ),
    Mutant(
        "the close without FCGI_KEEP_CONN",
        FASTCGI,
        "if self._close_after and not self._streams:",
        "if False:",
        "fastcgi.keep.not",
    ),
    Mutant(
        "FCGI_END_REQUEST",
        FASTCGI,
        '_FINISH_1: Final = record(FCGI_STDOUT, 1) + record(FCGI_END_REQUEST, 1, b"\\0\\0\\0\\0\\0\\0\\0\\0")',
        "_FINISH_1: Final = record(FCGI_STDOUT, 1)",
        "fastcgi.stdout.end",
    ),
    Mutant(
        "the end of FCGI_STDOUT",
        FASTCGI,
        "_FINISH_1: Final = record(FCGI_STDOUT, 1) + ",
        "_FINISH_1: Final = ",
        "fastcgi.stdout.end",
    ),
    # -- name-value pairs ---------------------------------------------------------------------------------------------
    Mutant("names of 128 bytes", PAIRS, "if name_size < 128:", "if name_size < 256:", "fastcgi.params.name.128"),
    Mutant("values of 128 bytes", PAIRS, "if value_size < 128:", "if value_size < 256:", "fastcgi.params.value.128"),
    Mutant(
        "the top bit of a long length",
        PAIRS,
        "value_size = ((value_size & 127) << 24)",
        "value_size = (value_size << 24)",
        "fastcgi.params.long-form.value",
    ),
    Mutant(
        "the third byte of a long length",
        PAIRS,
        "name_size = ((name_size & 127) << 24) | (block[at + 1] << 16) | (block[at + 2] << 8) | ",
        "name_size = ((name_size & 127) << 24) | (block[at + 1] << 16) | ",
        "fastcgi.params.name.1000",
    ),
    Mutant(
        "the second byte of a long length",
        PAIRS,
        "value_size = ((value_size & 127) << 24) | (block[at + 1] << 16) | ",
        "value_size = ((value_size & 127) << 24) | ",
        "fastcgi.params.pair-over-64k",
    ),
    Mutant(
        "both bytes of a variable's length",
        PAIRS,
        "after += block[value + 1] << 8",
        "pass",
        "uwsgi.params.value.256",
    ),
    Mutant(
        "a pair longer than the stream",
        PAIRS,
        "if at == end:\n                break\n            name_size",
        "if at >= end:\n                break\n            name_size",
        "fastcgi.params.bad.value-too-long",
    ),
    Mutant(
        "a variable longer than the block",
        PAIRS,
        "if at == end:\n                break\n            name: i64 = at",
        "if at >= end:\n                break\n            name: i64 = at",
        "uwsgi.vars.value-too-long",
    ),
    Mutant(
        "a parameter without a name",
        PAIRS,
        "if not name:\n            raise",
        "if False:\n            raise",
        "uwsgi.vars.no-name",
    ),
    Mutant(
        "a header without a name",
        PAIRS,
        "if not name:\n            raise",
        "if False:\n            raise",
        "scgi.headers.no-name",
    ),
    Mutant("two values of one parameter", PAIRS, "elif before != value:", "elif False:", "scgi.headers.two-lengths"),
    Mutant(
        "an odd number of strings",
        PAIRS,
        "if strings[-1] or len(strings) % 2 == 0:",
        "if strings[-1]:",
        "scgi.headers.odd",
    ),
    Mutant(
        "bytes after the last NUL",
        PAIRS,
        "if strings[-1] or len(strings) % 2 == 0:",
        "if len(strings) % 2 == 0:",
        "scgi.headers.after-nul",
    ),
    Mutant(
        "the digits of CONTENT_LENGTH",
        PAIRS,
        "if not (text.isdigit() and text.isascii()) or len(text) > _MAX_DIGITS:",
        "if False:",
        "scgi.length.bad.plus",
    ),
    # -- SCGI ---------------------------------------------------------------------------------------------------------
    Mutant("the comma of the netstring", SCGI, "if data[end] != _COMMA:", "if False:", "scgi.netstring.no-comma"),
    Mutant(
        "a length that starts with 0",
        SCGI,
        "digits.isdigit() and digits[0] != _ZERO",
        "digits.isdigit()",
        "scgi.netstring.zero-first",
    ),
    Mutant(
        "the digits of the length",
        SCGI,
        "if digits.isdigit()",
        "if digits.lstrip(b'+').isdigit()",
        "scgi.netstring.plus",
    ),
    Mutant(
        "the size of the headers",
        SCGI,
        "if not 0 < size <= self._limits.params_bytes:",
        "if not size:",
        "scgi.netstring.endless",
    ),
    # -- uwsgi --------------------------------------------------------------------------------------------------------
    Mutant(
        "modifier1",
        UWSGI,
        "if modifier1 != _WSGI and modifier1 != _PING and not (modifier1 == _WSGI_SCRIPT_NAME and self._modifier30):",
        "if False:",
        "uwsgi.modifier1.5",
    ),
    Mutant(
        "both bytes of datasize", UWSGI, "size = data[1] | (data[2] << 8)", "size = data[1]", "uwsgi.params.value.256"
    ),
    Mutant("a block that is not whole", UWSGI, "if len(data) < end:", "if False:", "uwsgi.split"),
    # -- both ---------------------------------------------------------------------------------------------------------
    Mutant("what follows a body", SINGLE, "if len(data) > self._remaining:", "if False:", "uwsgi.body.after.bytes"),
    Mutant(
        "the connection ends within a body",
        SINGLE,
        "if state == _BODY:\n            self._state = _DEAD",
        "if False:\n            self._state = _DEAD",
        "scgi.cut.body.3",
    ),
    Mutant(
        "the status line of uwsgi",
        UWSGI,
        'status_prefix: str = "HTTP/1.1 "',
        'status_prefix: str = "Status: "',
        "uwsgi.response.line",
    ),
    Mutant("HTTP_PROXY", "environ.py", 'if "HTTP_PROXY" in params:', "if False:", "scgi.params.httpoxy"),
]
