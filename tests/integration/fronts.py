"""The web servers' configurations under test: each is a Form, and each place where the application then lives a Front.

In a Form's text stand for: @p@ the protocol, @unix@ and @tcp@ the backend's addresses, @scheme@ Apache's name of the
protocol, @stock@ the folder of the distribution's own parameter files, @site@ the server's directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

__all__ = ["FORMS", "FRONTS", "MAIN", "NGINX_CONF", "Form", "Front", "named"]

NGINX_CONF = Path(__file__).parent.parent.parent / "nginx-conf"
SCHEMES = {"fastcgi": "fcgi", "scgi": "scgi", "uwsgi": "uwsgi"}
PROTOCOLS = tuple(SCHEMES)


@dataclass(frozen=True)
class Form:
    """One port of one web server process (``group``)."""

    name: str
    group: str
    protocol: str
    config: str
    backend: str = "plain"
    """``plain``, or the value of --mount: ``/`` or ``/app``."""
    tls: bool = False

    @property
    def server(self) -> str:
        return self.group.partition("-")[0]


@dataclass(frozen=True)
class Front:
    """A URL prefix of a Form where the application lives, and the SCRIPT_NAME that it must see there."""

    name: str
    form: Form
    prefix: str = ""
    script: str = ""

    @property
    def server(self) -> str:
        return self.form.server

    @property
    def protocol(self) -> str:
        return self.form.protocol

    @property
    def encoded_slash(self) -> bool:
        """%2F in a path reaches the application."""
        return self.server != "apache" or "AllowEncodedSlashes" in self.form.config

    @property
    def merges(self) -> bool:
        """Duplicate slashes are merged by the web server. nginx's proxy_pass passes the path as it came."""
        return self.protocol != "http"


@dataclass(frozen=True)
class Row:
    """A line of the tables below: a Form, for each protocol that it is meant for, with one Front."""

    name: str
    config: str
    prefix: str = ""
    script: str | None = None
    """Where it differs from the prefix."""
    backend: str = "plain"
    tls: bool = False
    protocols: tuple[str, ...] = PROTOCOLS

    def fronts(self, group: str) -> Iterator[Front]:
        for protocol in self.protocols:
            config = self.config.replace("@p@", protocol).replace("@scheme@", SCHEMES[protocol])
            form = Form(self.name.replace("@p@", protocol), group, protocol, config, self.backend, self.tls)
            yield Front(form.name, form, self.prefix, self.prefix if self.script is None else self.script)


STOCK = "include @stock@/@p@_params; @p@_pass"
NGINX = (
    # The distribution's files, unmodified
    Row("nginx-stock-@p@", f"location / {{ {STOCK} unix:@unix@; }}"),
    Row("nginx-stock-@p@-tcp", f"location / {{ {STOCK} @tcp@; }}"),
    Row("nginx-stock-@p@-mount", f"location /app {{ {STOCK} unix:@unix@; }}", "/app", backend="/app"),
    Row(
        "nginx-stock-@p@-tls",
        f"location / {{ @p@_param SSL_PROTOCOL $ssl_protocol; @p@_param CUSTOM 'a b=c\"'; {STOCK} unix:@unix@; }}",
        tls=True,
    ),
    Row(
        "nginx-stock-@p@-script-name",
        f"location /app {{ @p@_param SCRIPT_NAME /app; {STOCK} @tcp@; }}",
        "/app",
        protocols=("scgi", "uwsgi"),
    ),
    # PHP's ways, found in many answers on the web
    Row(
        "nginx-fastcgi-conf",
        "location / { include @stock@/fastcgi.conf; fastcgi_pass unix:@unix@; }",
        protocols=("fastcgi",),
    ),
    Row(
        "nginx-fastcgi-path-info",
        f"location / {{ fastcgi_param PATH_INFO $fastcgi_script_name; {STOCK} unix:@unix@; }}",
        protocols=("fastcgi",),
    ),
    Row(
        "nginx-fastcgi-split",
        "location /app { fastcgi_split_path_info ^(/app)(.*)$; fastcgi_param PATH_INFO $fastcgi_path_info; "
        f"{STOCK} unix:@unix@; }}",
        "/app",
        protocols=("fastcgi",),
    ),
    # What nginx-conf/ advises against: see its gateways_locations.scgi
    Row(
        "nginx-@p@-unbuffered",
        f"location / {{ scgi_request_buffering off; {STOCK} unix:@unix@; }}",
        protocols=("scgi",),
    ),
)

TCP, UNIX = "@scheme@://@tcp@", "unix:@unix@|@scheme@://localhost"
REWRITE = "RewriteEngine On\nRewriteRule"
FCGI_PATH_INFO = "SetEnvIf Request_URI . proxy-fcgi-pathinfo"
SCGI_PATH_INFO = "SetEnvIf Request_URI . proxy-scgi-pathinfo=1\n"
# mod_rewrite 2.4 does not know the scheme uwsgi://: it takes the whole for a path, and sends the request to itself.
REWRITABLE = ("fastcgi", "scgi")
APACHE = (
    Row("apache-@p@-proxypass", f'ProxyPass "/" "{TCP}/"'),
    Row("apache-@p@-proxypass-unix", f'SetEnv ap_trust_cgilike_cl 1\nProxyPass "/" "{UNIX}/"'),
    Row("apache-@p@-proxypass-app", f'ProxyPass "/app" "{TCP}"', "/app"),
    Row("apache-@p@-proxypass-app-slash", f'ProxyPass "/app/" "{TCP}/"', "/app"),
    Row("apache-@p@-proxypass-deep", f'ProxyPass "/a b/app" "{TCP}"', "/a%20b/app", "/a b/app"),
    Row("apache-@p@-proxypass-mount", f'ProxyPass "/app" "{TCP}"', "/app", backend="/app"),
    Row("apache-@p@-location-app", f'<Location "/app">\nProxyPass "{UNIX}"\n</Location>', "/app"),
    Row("apache-@p@-proxypassmatch", f'ProxyPassMatch "^/(.*)$" "{TCP}/$1"'),
    Row("apache-@p@-encoded-slashes", f'AllowEncodedSlashes On\nProxyPass "/" "{TCP}/"'),
    Row("apache-@p@-sethandler", f'<Location "/">\nSetHandler "proxy:{TCP}/"\n</Location>'),
    Row("apache-@p@-sethandler-unix", f'<Location "/">\nSetHandler "proxy:{UNIX}"\n</Location>'),
    # Here nothing that is sent tells the mount.
    Row(
        "apache-@p@-sethandler-mount",
        f'<Location "/app">\nSetHandler "proxy:{TCP}/"\n</Location>',
        "/app",
        backend="/app",
    ),
    Row("apache-@p@-tls", f'SSLOptions +StdEnvVars\nSetEnv CUSTOM "a b=c"\nProxyPass "/" "{TCP}/"', tls=True),
    Row("apache-@p@-flush", f'ProxyPass "/" "{TCP}/" flushpackets=on'),
    Row("apache-@p@-rewrite", f"{REWRITE} ^/(.*)$ {TCP}/$1 [P]", protocols=REWRITABLE),
    Row("apache-@p@-rewrite-unix", f'{REWRITE} ^/(.*)$ "{UNIX}/$1" [P]', protocols=REWRITABLE),
    Row("apache-@p@-rewrite-app", f"{REWRITE} ^/app/(.*)$ {TCP}/$1 [P]", "/app", protocols=REWRITABLE),
    Row(
        "apache-@p@-rewrite-directory",
        f'<Directory "@site@">\n{REWRITE} ^(.*)$ {TCP}/$1 [P]\n</Directory>',
        protocols=REWRITABLE,
    ),
    Row("apache-@p@-pathinfo", f'{FCGI_PATH_INFO}=1\nProxyPass "/" "{TCP}/"', protocols=("fastcgi",)),
    Row("apache-@p@-pathinfo-app", f'{FCGI_PATH_INFO}=1\nProxyPass "/app" "{TCP}"', "/app", protocols=("fastcgi",)),
    Row("apache-@p@-unescape", f'{FCGI_PATH_INFO}=unescape\nProxyPass "/" "{TCP}/"', protocols=("fastcgi",)),
    Row(
        "apache-@p@-unescape-app",
        f'{FCGI_PATH_INFO}=unescape\nProxyPass "/app" "{TCP}"',
        "/app",
        protocols=("fastcgi",),
    ),
    Row("apache-@p@-generic", f'ProxyFCGIBackendType GENERIC\nProxyPass "/" "{TCP}/"', protocols=("fastcgi",)),
    Row(
        "apache-@p@-generic-app",
        f'ProxyFCGIBackendType GENERIC\n{FCGI_PATH_INFO}=unescape\nProxyPass "/app" "{TCP}"',
        "/app",
        protocols=("fastcgi",),
    ),
    Row("apache-@p@-pathinfo", f'{SCGI_PATH_INFO}ProxyPass "/" "{TCP}/"', protocols=("scgi",)),
    Row("apache-@p@-pathinfo-app", f'{SCGI_PATH_INFO}ProxyPass "/app" "{TCP}"', "/app", protocols=("scgi",)),
)

LIGHTTPD = (
    Row("lighttpd-@p@-root", "", backend="plain"),
    Row("lighttpd-@p@-app", "server.stream-response-body = 1\n", "/app"),
    Row("lighttpd-@p@-app-mount", "", "/app", backend="/app"),
    # Without fix-root-scriptname lighttpd takes the first segment for the mount: only --mount / knows better.
    Row("lighttpd-@p@-nofix", "", backend="/"),
)


def lighttpd(row: Row) -> Iterator[Front]:
    """Yield the fronts of a row whose text is only what stands beside the server's own line."""
    fix = ', "fix-root-scriptname" => "enable"' if row.name.endswith("-root") else ""
    host = f'("{row.prefix or "/"}" => (("socket" => "@unix@", "check-local" => "disable"{fix})))'
    for protocol, before in (("fastcgi", "fastcgi"), ("scgi", "scgi"), ("uwsgi", 'scgi.protocol = "uwsgi"\nscgi')):
        yield from replace(row, config=f"{row.config}{before}.server = {host}", protocols=(protocol,)).fronts(
            "lighttpd"
        )


def published() -> Iterator[Front]:
    """Yield the fronts of nginx-conf/. Its files define the same names: one nginx has unix sockets, the other TCP."""
    for protocol in (*PROTOCOLS, "http"):
        for kind in ("unix", "tcp"):
            text = (NGINX_CONF / f"{protocol}-{kind}.conf").read_text()
            # Over HTTP only --mount can tell SCRIPT_NAME, and then all of the server is below it.
            prefix = "/app" if protocol == "http" and kind == "tcp" else ""
            form = Form(f"nginx-conf-{protocol}-{kind}", f"nginx-{kind}", protocol, text, prefix or "plain")
            yield Front(form.name, form, prefix, prefix)
            if protocol != "http":
                yield Front(f"{form.name}-mount", form, "/app", "/app")


FRONTS: list[Front] = [
    *(front for row in NGINX for front in row.fronts("nginx-stock")),
    *published(),
    *(front for row in APACHE for front in row.fronts("apache")),
    *(front for row in LIGHTTPD for front in lighttpd(row)),
]
FORMS = list({front.form.name: front.form for front in FRONTS}.values())


def named(pattern: str) -> list[Front]:
    """Return the fronts whose whole name the pattern matches; there must be some."""
    found = [front for front in FRONTS if re.fullmatch(pattern, front.name)]
    assert found, pattern
    return found


MAIN = [
    *named(r"nginx-conf-\w+-unix"),
    *named(r"nginx-stock-(fastcgi|scgi|uwsgi)"),
    *named(r"apache-\w+-proxypass"),
    *named(r"lighttpd-\w+-root"),
]
"""One of each server and protocol."""
