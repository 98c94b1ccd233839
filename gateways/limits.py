"""Every number that the codecs, the request body and the waits obey: Limits (how much), Timeouts (how long).

ScriptLimits is for the programs that ``gateways scripts`` starts.

Limits are checked before anything is buffered, so no peer can make a connection hold more.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_LIMITS", "DEFAULT_TIMEOUTS", "Limits", "ScriptLimits", "Timeouts"]


class Limits(NamedTuple):
    """What one connection may ask of us. Sizes are in bytes; 0 is no limit only where it says so."""

    params_bytes: int = 131_072
    """One request's block of parameters or header. nginx's default header buffers hold 32 KiB; uwsgi's own
    16-bit size ends at 65,535; a 60 KB cookie through SCGI is real."""
    params_count: int = 1_000
    """Parameters or header fields of one request. Precedents: PHP's max_input_vars 1,000; gunicorn's 100 fields."""
    body_bytes: int = 0
    """One request body; 0 is no limit, since the web server in front has its own (nginx: client_max_body_size)."""
    body_buffer: int = 262_144
    """Body bytes held for a request whose application has not asked for them yet."""
    requests_per_connection: int = 32
    """Requests at the same time on one multiplexed FastCGI connection; beyond it the answer is FCGI_OVERLOADED."""
    drain_bytes: int = 16_777_216
    """Unread body bytes taken and thrown away after the answer, so that the peer can read it before the close."""


class Timeouts(NamedTuple):
    """How long each wait for a peer may take, in seconds. No wait is without one."""

    head: float = 30.0
    """From accepting a connection, or from the first byte of a later request, to a whole request head."""
    body: float = 60.0
    """Between two pieces of a request body that the application waits for (nginx: client_body_timeout 60)."""
    write: float = 60.0
    """Until the peer takes the next byte of a response (nginx: send_timeout 60)."""
    keepalive: float = 75.0
    """An idle kept connection; longer than the 60 s after which nginx's upstream keepalive closes its side."""
    drain: float = 5.0
    """Taking an unread request body after the answer (nginx: lingering_timeout 5)."""
    graceful: float = 30.0
    """Running requests may take this long to finish when the server stops."""
    boot: float = 60.0
    """A worker may take this long to load the application."""


class ScriptLimits(NamedTuple):
    """What CGI scripts may take. Sizes are in bytes, times in seconds; 0 is no limit."""

    concurrency: int = 20
    """Scripts that run at the same time in one worker; never 0."""
    per_script: int = 0
    """Of them, those of one and the same program."""
    queue: int = 100
    """Requests that wait for a script to end; beyond it the answer is 503."""
    script_timeout: float = 60.0
    """From the start of a script to its end; how long a request waits in the queue, too."""
    idle_timeout: float = 30.0
    """Without a byte from the script, or taken by it."""
    cpu_seconds: int = 0
    """CPU time of each process of a script (RLIMIT_CPU)."""
    memory: int = 0
    """Address space of each process of a script (RLIMIT_AS)."""
    open_files: int = 0
    """Descriptors of each process of a script (RLIMIT_NOFILE)."""
    processes: int = 0
    """Processes of the user that the script runs as, others of its own among them (RLIMIT_NPROC)."""
    max_output: int = 0
    """What a script writes to its standard output, its head included."""


DEFAULT_LIMITS = Limits()
DEFAULT_TIMEOUTS = Timeouts()
