"""CGI parameters, as a front end sent them, to a WSGI environ (PEP 3333). Pure functions, no I/O.

Front ends disagree on SCRIPT_NAME and PATH_INFO (nginx's stock files send no PATH_INFO over FastCGI and SCGI,
Apache puts the whole path into SCRIPT_NAME); ``split_path`` makes them right. Everything else goes through
untouched, but for the few names that would deceive an application.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_to_bytes

from gateways.errors import MalformedMessage

__all__ = ["request_path", "split_path", "to_environ", "url_scheme"]

_ON: Final = frozenset(("on", "1", "yes", "true", "https"))


def to_environ(params: dict[str, str], protocol: str, mount: str | None) -> dict[str, Any]:
    """Make ``params`` itself into an environ, all but its ``wsgi.*`` names, and return it.

    ``mount`` is the prefix of the URL path below which the application lives: ``""`` for the root, None to
    derive it from what the front end sent. Raises MalformedMessage where the front end sent no REQUEST_METHOD.
    """
    if not params.get("REQUEST_METHOD"):
        raise MalformedMessage(protocol, "no REQUEST_METHOD among the parameters")
    if "HTTP_PROXY" in params:  # httpoxy, CVE-2016-5385: it would pass for an environment variable
        del params["HTTP_PROXY"]
    if "HTTP_TRANSFER_ENCODING" in params:  # the front end, or our own codec, has taken the coding off
        del params["HTTP_TRANSFER_ENCODING"]
    if "HTTP_CONTENT_LENGTH" in params:  # RFC 3875 section 4.1.18: sent as CONTENT_LENGTH, which alone counts
        del params["HTTP_CONTENT_LENGTH"]
    if "HTTP_CONTENT_TYPE" in params:
        del params["HTTP_CONTENT_TYPE"]
    if "wsgi." in "\n".join(params):  # ours to set, never the wire's
        for name in [name for name in params if name.startswith("wsgi.")]:
            del params[name]
    if not params.get("CONTENT_LENGTH", "0"):  # empty and absent are the same, and int("") fails
        del params["CONTENT_LENGTH"]

    path = params.get("PATH_INFO")
    if mount is None and path and not params.get("SCRIPT_NAME"):  # nginx over uwsgi, Caddy: right as it is
        params["SCRIPT_NAME"] = ""
    else:
        params["SCRIPT_NAME"], params["PATH_INFO"] = split_path(params, mount)

    if "QUERY_STRING" not in params:
        params["QUERY_STRING"] = params.get("REQUEST_URI", "").partition("?")[2]
    # PEP 3333: SERVER_NAME and SERVER_PORT are never empty; nginx's server_name may be "".
    if not params.get("SERVER_NAME"):
        params["SERVER_NAME"] = host_name(params.get("HTTP_HOST", "")) or "localhost"
    if not params.get("SERVER_PORT"):
        params["SERVER_PORT"] = "443" if url_scheme(params) == "https" else "80"
    if not params.get("SERVER_PROTOCOL"):
        params["SERVER_PROTOCOL"] = "HTTP/1.0"
    return params


def url_scheme(params: dict[str, str]) -> str:
    """Return ``https`` or ``http``: from HTTPS, REQUEST_SCHEME or UWSGI_SCHEME, the first that is there."""
    https = params.get("HTTPS")
    if https:
        return "https" if https.lower() in _ON else "http"
    scheme = params.get("REQUEST_SCHEME") or params.get("UWSGI_SCHEME")
    return "https" if scheme and scheme.lower() == "https" else "http"


def host_name(host: str) -> str:
    """Return the name in a Host field, without its port; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]" if "]" in host else ""
    return host.partition(":")[0]


def request_path(params: dict[str, str]) -> str:
    """Return the path of REQUEST_URI decoded once, as latin-1 text of its bytes; "" where it has none (``*``)."""
    target = params.get("REQUEST_URI", "").partition("?")[0]
    if not target.startswith("/"):
        # RFC 9112 section 3.2.2: absolute-form
        scheme, mark, rest = target.partition("://")
        if not mark or not scheme.isalpha():
            return ""
        slash = rest.find("/")
        target = rest[slash:] if slash >= 0 else "/"
    if "%" not in target:
        return target
    return unquote_to_bytes(target.encode("latin-1")).decode("latin-1")


def split_path(params: dict[str, str], mount: str | None) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO, decoded exactly once (FRONTENDS: "What each sends").

    An explicit mount wins over all that was sent. A path outside of it comes from a front end that has cut
    the prefix off itself, and is PATH_INFO whole.
    """
    script = params.get("SCRIPT_NAME", "")
    path = params.get("PATH_INFO", "")
    # Apache's mod_proxy_uwsgi says SCRIPT_NAME=/app/ with PATH_INFO=/; and "/" is the root, which is "".
    if script.endswith("/") and path.startswith("/"):
        script = script.rstrip("/")

    if not path:
        script, path = _without_path_info(params, script)
    elif script:
        script, path = _both(params, script, path)

    if mount is None:
        return script, path
    whole = script + path
    if whole == mount or whole.startswith(mount + "/"):
        return mount, whole[len(mount) :]
    return mount, path or whole


def _without_path_info(params: dict[str, str], script: str) -> tuple[str, str]:
    """Split where the front end sent no PATH_INFO, or an empty one."""
    whole = params.get("DOCUMENT_URI") or request_path(params)  # nginx; the rest
    if not script:
        return "", whole
    if whole.startswith(script + "/"):  # a SCRIPT_NAME set by hand: a mount
        return script, whole[len(script) :]
    if "PATH_INFO" in params or params.get("SERVER_SOFTWARE", "").startswith("lighttpd/"):
        return script, ""  # the mount itself was asked for
    if params.get("REQUEST_URI", "") and not whole:
        return "", ""
    # nginx over FastCGI, Apache's mod_proxy_fcgi and mod_proxy_scgi, HAProxy: SCRIPT_NAME is the whole path.
    return "", script


def _both(params: dict[str, str], script: str, path: str) -> tuple[str, str]:
    """Split where the front end sent both, which may overlap."""
    whole = params.get("DOCUMENT_URI") or request_path(params)
    if whole == script and path != script:
        # Apache's proxy-scgi-pathinfo: SCRIPT_NAME is the whole path, PATH_INFO the same again, still encoded.
        if unquote_to_bytes(path.encode("latin-1")).decode("latin-1") == script:
            return "", script
    elif whole == path and whole != script + path:
        # nginx's stock uwsgi_params (PATH_INFO=$document_uri) beside a SCRIPT_NAME set by hand.
        if path == script:
            return script, ""
        if path.startswith(script + "/"):
            return script, path[len(script) :]
        return "", path
    return script, path
