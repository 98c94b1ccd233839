"""nginx-conf/: nginx takes every file without a word of complaint, and the README speaks of each."""

from __future__ import annotations

import re
import subprocess

import pytest

from gateways.server.rundir import SYSTEM
from tests.integration.conftest import Estate, copy_parameters
from tests.integration.fronts import NGINX_CONF
from tests.servers import LOOPBACK, Nginx, free_port, open_directory

PROTOCOLS = ("fastcgi", "scgi", "uwsgi")


@pytest.mark.parametrize("group", ["nginx-unix", "nginx-tcp"])
def test_nginx_accepts_the_files(estate: Estate, group: str) -> None:
    server = estate.group(group)
    assert isinstance(server, Nginx)
    assert_accepted(server)


def test_nginx_accepts_all_that_is_for_scripts_at_once() -> None:
    with open_directory() as directory:
        copy_parameters(directory)
        port = free_port()
        text = "".join((NGINX_CONF / name).read_text() for name in ("scripts.conf", "git.conf"))
        assert_accepted(Nginx(directory, text.replace("listen 80;", f"listen {LOOPBACK}:{port};"), [port]))


def assert_accepted(server: Nginx) -> None:
    done = subprocess.run([*server.argv, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_the_readme_names_every_file() -> None:
    readme = (NGINX_CONF / "README.md").read_text()
    files = {file.name for file in NGINX_CONF.iterdir()} - {"README.md"}
    assert {name for name in files if f"`{name}`" not in readme} == set()
    assert {
        name for name in re.findall(r"`([\w.-]+\.(?:conf|fastcgi|scgi|uwsgi|http))`", readme) if name not in files
    } == set()


def test_no_socket_lies_where_a_server_keeps_nginx_out() -> None:
    """The README's reason: the directory of the control sockets is for root alone."""
    assert [file.name for file in NGINX_CONF.glob("*.conf") if f"{SYSTEM}/gateways/" in file.read_text()] == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_parameters_are_the_stock_ones_less_what_deceives(protocol: str) -> None:
    names = rf"^{protocol}_param\s+(\w+)"
    ours = re.findall(names, (NGINX_CONF / f"gateways_params.{protocol}").read_text(), re.MULTILINE)
    with open(Nginx.stock(f"{protocol}_params")) as file:
        stock = set(re.findall(names, file.read(), re.MULTILINE))
    assert len(ours) == len(set(ours)), "nginx sends a parameter as often as it is set"
    assert stock - set(ours) <= {
        "REMOTE_USER",
        "SCRIPT_NAME",
        "PATH_INFO",
        "REDIRECT_STATUS",
        "DOCUMENT_ROOT",
        "HTTP_HOST",
    }
    assert {"REMOTE_USER", "SCRIPT_NAME", "PATH_INFO"}.isdisjoint(ours)
