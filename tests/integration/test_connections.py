"""Connections are kept and used again; restarts and stops lose no request; a dead worker is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.conftest import APPS, Estate, Site, copy_parameters, published
from tests.integration.fronts import NGINX_CONF, Form, Front, named
from tests.servers import Gateways, Nginx, free_port, open_directory, running, wait_until

PROTOCOLS = ("fastcgi", "scgi", "uwsgi", "http")
TCP_TABLE = Path("/proc/net/tcp")


def ports_used(address: str) -> set[str]:
    """Return the ports from which connections to ``address`` were made: those open and those closed lately."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in TCP_TABLE.read_text().splitlines()[1:]]
    ends = [(row[1], row[2]) for row in rows if row[3] != "0A"]  # not the listener
    return {local for local, remote in ends if remote.endswith(port)} | {
        remote for local, remote in ends if local.endswith(port)
    }


@pytest.mark.skipif(not TCP_TABLE.exists(), reason="counts connections in Linux's /proc/net/tcp")
@pytest.mark.parametrize(
    ("site", "kept"),
    [
        *((front, True) for front in named(r"nginx-conf-(fastcgi|http)-tcp")),
        *((front, False) for front in named(r"nginx-stock-(fastcgi|scgi|uwsgi)-tcp|nginx-conf-(scgi|uwsgi)-tcp")),
    ],
    indirect=["site"],
    ids=lambda value: getattr(value, "name", ""),
)
def test_kept_connections_are_used_again(site: Site, estate: Estate, kept: bool) -> None:
    address = estate.backend(site.front.form.backend).address[site.front.protocol, "tcp"]
    for _ in range(3):
        site.ask("/")
    before = ports_used(address)
    for number in range(20):
        answer = site.ask("/", "POST", do="body", body=b"x" * number)
        assert answer.body.startswith(b"%d " % number)
    new = len(ports_used(address) - before)
    assert new <= 2 if kept else new >= 15


class Pair:
    """A gateways of its own behind an nginx of its own, with the files of nginx-conf/."""

    def __init__(self, stack: ExitStack, *options: str) -> None:
        self.notes = stack.enter_context(open_directory())
        directory, front = stack.enter_context(open_directory()), stack.enter_context(open_directory())
        self.gateways = Gateways(
            directory,
            "probe_site:application",
            *options,
            python_path=APPS,
            env={"GATEWAYS_TEST_NOTES": str(self.notes)},
        )
        ports = {protocol: free_port() for protocol in PROTOCOLS}
        files = {protocol: (NGINX_CONF / f"{protocol}-unix.conf").read_text() for protocol in PROTOCOLS}
        http = [published(files[name], ports[name], self.gateways.address[name, "unix"]) for name in PROTOCOLS]
        copy_parameters(front)
        self.nginx = Nginx(front, "\n".join(http), list(ports.values()))
        stack.enter_context(running(self.gateways))
        stack.enter_context(running(self.nginx))
        self.sites = {
            name: Site(Front(name, Form(name, "nginx-own", name, "")), ports[name], self.notes) for name in PROTOCOLS
        }


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_restart_under_nginx(stack: ExitStack) -> None:
    pair = Pair(stack)
    for round_ in range(3):
        for name, site in pair.sites.items():
            answer = site.ask("/", "POST", do="body", body=b"abc")  # a POST: nginx would not repeat it
            assert (round_, name, answer.status) == (round_, name, 200)
        assert pair.gateways.stop() == 0
        assert {name: site.ask("/").status for name, site in pair.sites.items()} == dict.fromkeys(PROTOCOLS, 502)
        pair.gateways.start()


def test_a_stop_lets_running_requests_finish(stack: ExitStack) -> None:
    pair = Pair(stack, "--threads", "4")
    held = []
    for name, site in pair.sites.items():
        connection = site.connect()
        site.send(connection, "/", do="hold", key=name)
        site.noted(name, "begun")
        held.append((name, site, connection))
    os.kill(pair.gateways.pid, signal.SIGTERM)
    wait_until(lambda: "SIGTERM: finishing" in pair.gateways.text(), "it has heard the signal")
    for name, site, connection in held:
        site.go(name)
        response = connection.getresponse()
        assert (name, response.status, response.read()) == (name, 200, b"held")
        connection.close()
    process = pair.gateways.process
    assert process is not None
    assert process.wait(60) == 0


def test_two_workers_answer_at_the_same_time_and_a_dead_one_is_replaced(stack: ExitStack) -> None:
    pair = Pair(stack, "--workers", "2")
    held = []
    for name in ("fastcgi", "uwsgi"):
        site = pair.sites[name]
        connection = site.connect()
        site.send(connection, "/", do="hold", key=name)
        site.noted(name, "begun")  # one thread each: the second is with the other worker
        held.append((name, connection))
    for name, connection in held:
        pair.sites[name].go(name)
        assert connection.getresponse().read() == b"held"
        connection.close()
    dead = int(pair.sites["scgi"].ask("/", do="process").body)
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: pair.gateways.text().count(" is ready") == 3, "the worker is replaced")
    for _ in range(10):
        for site in pair.sites.values():
            answer = site.ask("/", do="process")
            assert answer.status == 200
            assert int(answer.body) != dead
