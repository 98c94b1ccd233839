from __future__ import annotations

import pytest

from gateways.errors import ConfigError
from gateways.wire.target import Target, parse_target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("fastcgi://127.0.0.1:9000", Target("fastcgi", ("127.0.0.1", 9000))),
        ("fastcgi://127.0.0.1:9000/a/b.php?x=1", Target("fastcgi", ("127.0.0.1", 9000), "/a/b.php", "x=1")),
        ("scgi://[::1]:4000/", Target("scgi", ("::1", 4000))),
        ("uwsgi+unix:///run/x.sock", Target("uwsgi", "/run/x.sock")),
        ("fastcgi+unix:///run/x.sock?a=b", Target("fastcgi", "/run/x.sock", "/", "a=b")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:9000", "http://127.0.0.1:80/", "fastcgi://127.0.0.1/", "fastcgi://:9000", "fastcgi://h:99999/",
     "fastcgi://h:x/", "fastcgi+unix://", "fastcgi+unix://run/x.sock", "fastcgi+tcp://h:1/"],
)  # fmt: skip
def test_what_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="fastcgi://HOST:PORT/path"):
        parse_target(url)


def test_parameters() -> None:
    target = parse_target("fastcgi://h:1/x.php?a=b", {"SCRIPT_FILENAME": "/srv/x.php", "HTTP_HOST": "other"})
    params = target.request_params()
    assert (params["REQUEST_URI"], params["SCRIPT_NAME"], params["QUERY_STRING"]) == ("/x.php?a=b", "/x.php", "a=b")
    assert (params["SCRIPT_FILENAME"], params["HTTP_HOST"]) == ("/srv/x.php", "other")
