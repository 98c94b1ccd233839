"""The environment of a CGI script (RFC 3875 section 4.1), made of a request's parameters and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from gateways.apps.choice import Choice

__all__ = ["meta_variables"]


def meta_variables(params: Mapping[str, str], choice: Choice, *, passed: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a script. Values are as ``os.fsdecode`` gives them: ``os.fsencode`` undoes it.

    ``params`` are what ``to_environ``, without a mount, has made of those that were sent; ``passed`` is what the
    operator adds, which wins over all that was sent.
    """
    raise NotImplementedError
