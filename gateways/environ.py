"""CGI parameters, as a front end sent them, to a WSGI environ (PEP 3333). Pure functions, no I/O.

Front ends disagree on SCRIPT_NAME and PATH_INFO (nginx's stock files send no PATH_INFO over FastCGI and SCGI,
Apache puts the whole path into SCRIPT_NAME); ``split_path`` makes them right. Everything else goes through
untouched, but for the few names that would deceive an application.
"""

from __future__ import annotations

from typing import Any, Final

from gateways.errors import MalformedMessage

__all__ = ["host_name", "normal_path", "request_line", "request_path", "split_path", "to_environ", "url_scheme"]

_ON: Final = frozenset(("on", "1", "yes", "true", "https"))


def to_environ(params: dict[str, str], protocol: str, mount: str | None) -> dict[str, Any]:
    """Make ``params`` itself into an environ, all but what belongs under ``wsgi.*``, and return it.

    The codecs let no ``wsgi.*`` name through. ``mount`` is the prefix of the URL path below which the application
    lives: ``""`` for the root, None to derive it from what the front end sent. Raises MalformedMessage where the
    front end sent no REQUEST_METHOD.
    """
    if not params.get("REQUEST_METHOD"):
        raise MalformedMessage(protocol, "no REQUEST_METHOD among the parameters")
    if "HTTP_PROXY" in params:  # httpoxy, CVE-2016-5385: it would pass for an environment variable
        del params["HTTP_PROXY"]
    if "HTTP_TRANSFER_ENCODING" in params:  # the front end, or our own codec, has taken the coding off
        del params["HTTP_TRANSFER_ENCODING"]
    if "HTTP_CONTENT_LENGTH" in params:  # RFC 3875 section 4.1.18: sent as CONTENT_LENGTH, which alone counts
        told = params.pop("HTTP_CONTENT_LENGTH")
        if protocol == "scgi" and told != params.get("CONTENT_LENGTH"):
            # nginx with scgi_request_buffering off, before github.com/nginx/nginx/pull/1118: CONTENT_LENGTH is what it
            # has read so far, and half an upload would pass for a whole one.
            raise MalformedMessage(
                protocol,
                f"CONTENT_LENGTH is {params.get('CONTENT_LENGTH', '')!r}, the client's Content-Length was "
                f"{told!r}; in nginx scgi_request_buffering must be on",
            )
    if "HTTP_CONTENT_TYPE" in params:
        del params["HTTP_CONTENT_TYPE"]
    if not params.get("CONTENT_LENGTH", "0"):  # empty and absent are the same, and int("") fails
        del params["CONTENT_LENGTH"]

    path = params.get("PATH_INFO")
    if mount is None and path and path[0] == "/" and not params.get("SCRIPT_NAME") and "SCRIPT_FILENAME" not in params:
        # nginx over uwsgi, or with our own parameter files: right as it is
        params["SCRIPT_NAME"] = ""
    else:
        params["SCRIPT_NAME"], params["PATH_INFO"] = split_path(params, protocol, mount)

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


def request_line(params: dict[str, str]) -> str:
    """Return method and path as they came, for logs: ``GET /a?b``."""
    return f"{params.get('REQUEST_METHOD', '-')} {params.get('REQUEST_URI') or params.get('PATH_INFO', '')}"


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
    return _unquoted(target)


def _unquoted(path: str) -> str:
    """Return latin-1 text with its percent-encoding decoded."""
    if "%" not in path:
        return path
    from urllib.parse import unquote_to_bytes  # noqa: PLC0415  (most paths need none, and a CGI script starts sooner)

    return unquote_to_bytes(path.encode("latin-1")).decode("latin-1")


def normal_path(path: str) -> str:
    """Return a decoded path as front ends see it: slashes merged, dot segments removed (RFC 3986 section 5.2.4).

    SCRIPT_NAME must be compared with this: against the path as the client wrote it, ``/a/x/../../a`` would let the
    client choose where ``/a`` is split.
    """
    if "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            if kept:
                kept.pop()
        elif part and part != ".":
            kept.append(part)
    if kept and parts[-1] in ("", ".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def split_path(params: dict[str, str], protocol: str, mount: str | None) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO, decoded exactly once (FRONTENDS: "What each sends").

    An explicit mount wins over all that was sent. A path outside of it comes from a front end that has cut
    the prefix off itself, and is PATH_INFO whole.
    """
    script = params.get("SCRIPT_NAME", "")
    path = params.get("PATH_INFO", "")
    if script and script[0] != "/":
        script = "" if script == "*" else "/" + script
    if params.get("SCRIPT_FILENAME", "").startswith("proxy:"):
        script, path = _apache(params, protocol, script, path)
    elif not path:
        script, path = _without_path_info(params, protocol, script)
    elif script:
        script, path = _both(params, protocol, script, path)
    if script.endswith("/"):  # mod_proxy_uwsgi says /app/ with PATH_INFO=/; and "/" is the root, which is ""
        script = script.rstrip("/")
        path = path or "/"
    if path and path[0] != "/":
        path = "/" + path

    if mount is None:
        return script, path
    whole = script + path
    if whole == mount or whole.startswith(mount + "/"):
        return mount, whole[len(mount) :]
    return mount, path or whole


def _without_path_info(params: dict[str, str], protocol: str, script: str) -> tuple[str, str]:
    """Split where the front end sent no PATH_INFO, or an empty one."""
    document = params.get("DOCUMENT_URI")
    if not script:
        return "", document or request_path(params)
    if protocol == "cgi":  # it is the script's own, always (RFC 3875 section 4.1.13)
        return script, ""
    if document:
        return _below_document(params, protocol, script, document)
    if params.get("SERVER_SOFTWARE", "").startswith("lighttpd/"):  # it leaves an empty PATH_INFO away
        return script, ""
    whole = normal_path(request_path(params))
    if not script.endswith("/") and whole.startswith(script + "/"):  # a SCRIPT_NAME set by hand: a mount
        return script, whole[len(script) :]
    if "PATH_INFO" in params or _names_a_file(params):  # the mount itself, or the script, was asked for
        return script, ""
    # Apache's mod_proxy_fcgi and mod_proxy_scgi, HAProxy: SCRIPT_NAME is the whole path.
    return "", script


def _below_document(params: dict[str, str], protocol: str, script: str, document: str) -> tuple[str, str]:
    """Split where DOCUMENT_URI tells the whole path: nginx, Caddy."""
    if document == script:
        # nginx's stock fastcgi_params make SCRIPT_NAME the whole path; the others leave it to be set by hand.
        if protocol == "fastcgi" and "PATH_INFO" not in params:
            return "", script
        return script, ""
    prefix = script.rstrip("/")
    if document.startswith(prefix + "/"):  # set by hand: a mount
        return prefix, document[len(prefix) :]
    if "PATH_INFO" in params:
        return script, ""
    if document.endswith("/") and script.startswith(document):  # nginx's fastcgi_index
        return "", document
    return script, document  # set by hand, for a prefix that has been cut off further in front


def _names_a_file(params: dict[str, str]) -> bool:
    """Apache runs the file of SCRIPT_FILENAME (mod_fcgid): SCRIPT_NAME is the script's even without PATH_INFO."""
    root = params.get("CONTEXT_DOCUMENT_ROOT", "")
    return root != "" and params.get("SCRIPT_FILENAME", "").startswith(root)


def _apache(params: dict[str, str], protocol: str, script: str, path: str) -> tuple[str, str]:
    """Split what Apache's mod_proxy sends: SCRIPT_FILENAME is ``proxy:fcgi://host`` and the path that it passes on.

    That path is the whole one without its mount, which SCRIPT_NAME and PATH_INFO tell in some configurations only.
    """
    scheme, _, rest = params["SCRIPT_FILENAME"][6:].partition("://")
    slash = rest.find("/")
    sent = rest[slash:] if slash >= 0 else "/"
    passed = sent
    if scheme != "uwsgi":  # which has it decoded already
        passed = _unquoted(sent)

    # SetHandler "proxy:fcgi://...": a file below the document root, and a split where that file would be.
    root = (params.get("CONTEXT_DOCUMENT_ROOT") or params.get("DOCUMENT_ROOT", "")).rstrip("/")
    if root and (normal_path(passed) + "/").startswith(root + "/"):
        if scheme == "uwsgi" or normal_path(path).startswith(root):
            return "", normal_path(request_path(params))
        return "", script + path

    if path and path == passed:  # mod_proxy_uwsgi, proxy-fcgi-pathinfo=unescape: right as it is
        return script, path
    if path and path == sent:
        # proxy-fcgi-pathinfo=1 and proxy-scgi-pathinfo=1: PATH_INFO is still encoded, and SCRIPT_NAME is the whole path
        # without the last segments, as many of them as have nothing to encode.
        whole = normal_path(request_path(params))
        if whole.endswith(passed):
            return whole[: len(whole) - len(passed)], passed
    if not path or path == sent:  # as shipped: SCRIPT_NAME is whole
        if script.endswith(passed):
            return script[: len(script) - len(passed)], passed
        if passed == "/":  # the mount itself was asked for
            return script, ""
        return "", script
    if script + path == passed:  # RewriteRule [P] in a <Directory> or .htaccess
        return "", passed
    return _both(params, protocol, script, path)


def _both(params: dict[str, str], protocol: str, script: str, path: str) -> tuple[str, str]:
    """Split where the front end sent both, which may overlap."""
    whole = normal_path(request_path(params))
    if script + path == whole:
        return script, path
    document = params.get("DOCUMENT_URI", "")
    if path == (document or whole):
        # PATH_INFO is the whole path, as in nginx's stock uwsgi_params, beside a SCRIPT_NAME set by hand.
        if path == script and protocol == "fastcgi":  # nginx's stock one, beside PATH_INFO=$fastcgi_script_name
            return "", path
        prefix = script.rstrip("/")
        if path == prefix or path.startswith(prefix + "/"):
            return prefix, path[len(prefix) :]
        if not document and protocol != "uwsgi":  # Apache has rewritten a URL to a script that clients never see
            return "", path
    return script, path
