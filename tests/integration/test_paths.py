"""SCRIPT_NAME and PATH_INFO through every configuration: decoded exactly once, REQUEST_URI raw (FRONTENDS 5.1)."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Estate, Site
from tests.integration.fronts import FRONTS

PATHS = {
    "/": "/",
    "/plain/path": "/plain/path",
    "/plain/path/": "/plain/path/",
    "/caf%C3%A9": "/café",
    "/100%25": "/100%",
    "/a%2525b%2541": "/a%25b%41",
    "/a%20b+c": "/a b+c",
    "/x;p=1/y;q,r=2": "/x;p=1/y;q,r=2",
    "/~u/@:!$&'()*": "/~u/@:!$&'()*",
    "/%7Eu/%41": "/~u/A",
}
QUERIES = {"/q?": "", "/q?a=1": "a=1", "/q?a=%20?b=/?c%3D%C3%A9": "a=%20?b=/?c%3D%C3%A9"}


def latin1(text: str) -> str:
    return text.encode().decode("latin-1")


@pytest.mark.parametrize("site", FRONTS, indirect=True, ids=lambda front: front.name)
def test_paths(site: Site) -> None:
    front = site.front
    cases = {raw: (latin1(path), "") for raw, path in PATHS.items()}
    cases |= {raw: ("/q", query) for raw, query in QUERIES.items()}
    cases["/two//slashes"] = ("/two/slashes" if front.merges else "/two//slashes", "")
    if front.encoded_slash:
        cases["/a%2Fb"] = ("/a/b", "")
    if front.server != "lighttpd":  # it answers 400 to what is no UTF-8
        cases["/%E9"] = ("/\xe9", "")
    found, expected = {}, {}
    for raw, (path, query) in cases.items():
        answer = site.ask(raw)
        if answer.status != 200:
            found[raw] = (str(answer.status), "", "", "")
        else:
            environ = answer.json()
            found[raw] = tuple(environ[name] for name in ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI"))
        expected[raw] = (latin1(front.script), path, query, front.prefix + raw)
    assert found == expected


@pytest.mark.parametrize(
    "site", [front for front in FRONTS if front.prefix], indirect=True, ids=lambda front: front.name
)
def test_the_mount_itself(site: Site, estate: Estate) -> None:
    answer = site.ask("")
    if answer.status in (301, 308, 404):  # a location /app/ leads there; ProxyPass /app/ and a regex do not match
        assert site.front.name.startswith(("nginx-conf", "apache-")), answer
        return
    environ = answer.json()
    assert environ["SCRIPT_NAME"] == latin1(site.front.script)
    assert environ["PATH_INFO"] in ("", "/")
