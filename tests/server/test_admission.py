"""Who may connect: networks, users and FCGI_WEB_SERVER_ADDRS, on real sockets; and a log that nobody can flood."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import re
import socket
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, strategies as st

from gateways.apps import App, Exchange
from gateways.codecs.proxy import parse_proxy_header
from gateways.errors import ConfigError
from gateways.limits import DEFAULT_LIMITS
from gateways.server.admission import Admission, Network, Networks
from gateways.server.exchange import Exchange as ServerExchange
from gateways.server.listener import Listener
from gateways.server.poller import make_poller
from gateways.server.pool import Pool
from gateways.server.protocols import BehindProxy, Connector, Protocols
from tests.server.peers import PROTOCOLS, SECONDS, Address, Peer, request
from tests.server.pools import TIMEOUTS, MemoryLog, hello, reply, within

NOT_OURS: Final = "192.0.2.0/24"  # for documentation (RFC 5737): nobody comes from there
US: Final = os.geteuid()


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


# -- networks


@pytest.mark.parametrize(
    ("networks", "host", "inside"),
    [
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "127.0.0.1", False),
        ("2001:db8::/32", "2001:db8:ffff::", True),
        ("2001:db8::/32", "2001:db9::", False),
        ("fe80::/10", "fe80::1%lo", True),
        # what comes by IPv4 to a socket of both families
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("10.0.0.0/8", "::ffff:11.1.2.3", False),
        ("::/0", "::ffff:10.1.2.3", False),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "11.1.2.3", False),
        ("::ffff:0:0/96", "203.0.113.9", True),
        ("192.0.2.0/24 10.0.0.0/8 ::1", "10.0.0.1", True),
        ("192.0.2.0/24 10.0.0.0/8 ::1", "::1", True),
        ("192.0.2.0/24 10.0.0.0/8 ::1", "::2", False),
        ("0.0.0.0/0 ::/0", "localhost", False),
        ("0.0.0.0/0 ::/0", "", False),
        ("0.0.0.0/0 ::/0", "1.2.3", False),
        ("0.0.0.0/0 ::/0", "1:2", False),
    ],
)
def test_networks(networks: str, host: str, inside: bool) -> None:
    assert Networks(nets(*networks.split())).have((host, 4711)) is inside
    assert Networks(nets(*networks.split())).have((host, 4711, 0, 0)) is inside


@pytest.mark.parametrize("peer", ["", "/run/client.sock", b"\0abstract", None, (2, 4711)])
def test_peers_without_an_address_are_nowhere(peer: object) -> None:
    """Those of unix sockets, and of others that a descriptor may be (AF_VSOCK)."""
    assert not Networks(nets("0.0.0.0/0", "::/0")).have(peer)


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 128),
)
def test_networks_are_those_of_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
) -> None:
    network = ipaddress.ip_network(f"{base}/{min(length, base.max_prefixlen)}", strict=False)
    mapped = getattr(address, "ipv4_mapped", None) or getattr(base, "ipv4_mapped", None)
    if mapped is None:
        assert Networks([network]).have((str(address), 1)) is (address in network)


def test_no_network_is_empty() -> None:
    assert not Networks(())
    assert Networks(nets("::1"))
    assert not Networks(()).have(("127.0.0.1", 1))


# -- what may be configured


def test_users_by_name_and_number() -> None:
    name = pwd.getpwuid(US).pw_name
    for users in ((name,), (str(US),), ("4294967294", name)):
        assert Admission(allow_user=users).concerns(socket.AF_UNIX, "http")


@pytest.mark.parametrize("user", ["nobody-has-this-name", "-1", "", "4294967295", "1" * 40, "a\0b", "\udcff"])
def test_an_unknown_user(user: str) -> None:
    with pytest.raises(ConfigError, match="--allow-user"):
        Admission(allow_user=[user])


@pytest.mark.parametrize("text", ["127.0.0.1", " 192.0.2.7 , 127.0.0.1", "192.0.2.7,::1,127.0.0.1"])
def test_web_servers(text: str) -> None:
    admission = Admission(web_servers=text)
    assert admission.concerns(socket.AF_INET, "fastcgi")
    assert not admission.concerns(socket.AF_INET, "scgi")
    assert not admission.concerns(socket.AF_UNIX, "fastcgi")


@pytest.mark.parametrize(
    "text", ["localhost", "10.0.0.0/8", "127.0.0.1,", ",", "127.0.0.1;::1", "1.2.3", "127.0.0.1:80"]
)
def test_web_servers_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"FCGI_WEB_SERVER_ADDRS: '.*' is no IP address"):
        Admission(web_servers=text)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_list_is_none(text: str) -> None:
    assert not Admission(web_servers=text).concerns(socket.AF_INET, "fastcgi")


def test_whom_the_lists_concern() -> None:
    """A listener on which nobody can be refused accepts as if there were no lists."""
    by_address = Admission(nets(NOT_OURS))
    by_user = Admission(allow_user=[str(US)])
    for protocol in (*PROTOCOLS, "auto"):
        assert by_address.concerns(socket.AF_INET, protocol)
        assert by_address.concerns(socket.AF_INET6, protocol)
        assert not by_address.concerns(socket.AF_UNIX, protocol)
        assert by_user.concerns(socket.AF_UNIX, protocol)
        assert not by_user.concerns(socket.AF_INET, protocol)
        assert not Admission().concerns(socket.AF_INET, protocol)
        assert not Admission().concerns(socket.AF_UNIX, protocol)


# -- on real sockets


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Door:
    """A listener with its pool, which the test itself leads step by step."""

    def __init__(self, sock: socket.socket, protocol: str, admission: Admission, proxies: Networks, app: App) -> None:
        self.log = MemoryLog()
        self.clock = Clock()
        self.poller = make_poller(one_shot=False)
        self.pool = Pool(
            app, self.log, threads=1, limits=DEFAULT_LIMITS, timeouts=TIMEOUTS, poller=self.poller, clock=self.clock
        )
        connector: Connector = Protocols(
            DEFAULT_LIMITS, host="a", port="1", max_conns=1, max_reqs=1, admission=admission
        )
        if proxies:
            connector = BehindProxy(connector, proxies)
        self.sock = sock
        self.listener = Listener(self.pool, sock, protocol, connector, admission)
        self.address = sock.getsockname()[:2] if sock.family != socket.AF_UNIX else sock.getsockname()

    def step(self) -> None:
        me = self.pool._leader
        self.pool._poll(me)
        while self.pool.ready:
            self.pool.ready.popleft().on_ready()

    def connect(self, protocol: str = "http") -> Peer:
        return Peer(self.address, protocol)

    def ask(self, protocol: str, first: bytes = b"") -> bytes:
        """Send a request and return what came of it; a reset is nothing."""
        with self.connect(protocol) as peer:
            peer.send(first + request(protocol))
            self.step()
            try:
                return peer.read()
            except ConnectionResetError:  # it was closed with the request unread
                return b""


@contextlib.contextmanager
def door(
    admission: Admission, protocol: str = "http", *, family: int = socket.AF_INET, proxies: str = "", app: App = hello
) -> Iterator[Door]:
    with socket.socket(family) as sock:
        if family == socket.AF_UNIX:
            sock.bind(f"\0gateways-test-{os.getpid()}-{sock.fileno()}")
        else:
            sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        sock.listen(100)
        sock.setblocking(False)
        made = Door(sock, protocol, admission, Networks(nets(*proxies.split())), app)
        try:
            yield made
            assert not made.pool.connections
            assert not made.log.failures
        finally:
            made.listener.close()
            made.poller.close()
            for fd in (made.pool._wake_in, made.pool._wake_out):
                os.close(fd)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("auto", [False, True])
def test_tcp_peers(protocol: str, auto: bool) -> None:
    name = "auto" if auto else protocol
    with door(Admission(nets(NOT_OURS, "127.0.0.0/8")), name) as made:
        assert b"hello" in made.ask(protocol)
        assert made.log.lines == []
    with door(Admission(nets(NOT_OURS)), name) as made, made.connect(protocol) as peer:
        host, port = peer.sock.getsockname()
        made.step()
        assert peer.read() == b"", "closed at once, before a byte has come"
        made.log.only(f"refused: {name} {host}:{port}: its address is not in --allow-from")


def test_a_refused_peer_gets_no_answer_to_its_request() -> None:
    with door(Admission(nets(NOT_OURS))) as made:
        assert made.ask("http") == b""
        assert len(made.log.lines) == 1


def test_tcp_lists_do_not_concern_unix_sockets_and_the_other_way_round() -> None:
    with door(Admission(nets(NOT_OURS), web_servers="192.0.2.7"), "fastcgi", family=socket.AF_UNIX) as made:
        assert b"hello" in made.ask("fastcgi")
    with door(Admission(allow_user=[str(US + 1)])) as made:
        assert b"hello" in made.ask("http")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_ipv4_to_a_socket_of_both_families() -> None:
    for networks, served in (("127.0.0.0/8", True), ("::/0", False)):
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::ffff:127.0.0.1", 0))  # of IPv4 the loopback alone
            sock.listen(5)
            sock.setblocking(False)
            made = Door(sock, "http", Admission(nets(networks)), Networks(()), hello)
            made.address = ("127.0.0.1", sock.getsockname()[1])
            try:
                assert (b"hello" in made.ask("http")) is served
                if not served:
                    made.log.only("refused: http ::ffff:127.0.0.1:")
            finally:
                made.listener.close()
                made.poller.close()
                for fd in (made.pool._wake_in, made.pool._wake_out):
                    os.close(fd)


def test_unix_peers() -> None:
    with door(Admission(allow_user=[str(US)]), family=socket.AF_UNIX) as made:
        assert b"hello" in made.ask("http")
        assert made.log.lines == []
    with door(Admission(allow_user=[str(US + 1)]), family=socket.AF_UNIX) as made:
        with made.connect() as peer:
            made.step()
            assert peer.read() == b""
        made.log.only(f"refused: http unix (uid {US}): none of --allow-user")


def connected_by(user: str, address: Address) -> socket.socket:
    """A unix socket that a process of another user has connected."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                os.setuid(pwd.getpwnam(user).pw_uid)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(address)
                    socket.send_fds(theirs, [b"s"], [sock.fileno()])
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        ours.settimeout(SECONDS)
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    sock = socket.socket(fileno=fd)
    sock.settimeout(SECONDS)
    return sock


@pytest.mark.skipif(US != 0, reason="only root can be somebody else")
def test_a_unix_peer_of_another_user() -> None:
    """It is the user who connects that counts, whoever has the socket afterwards."""
    with door(Admission(allow_user=["nobody"]), family=socket.AF_UNIX) as made:
        sock = connected_by("nobody", made.address)
        with sock:
            sock.sendall(request("http"))
            made.step()
            assert b"hello" in sock.recv(1000)
        made.ask("http")
        made.log.only("refused: http unix (uid 0): none of --allow-user")


# -- FCGI_WEB_SERVER_ADDRS


def test_web_servers_on_a_fastcgi_listener() -> None:
    with door(Admission(web_servers="192.0.2.7,127.0.0.1"), "fastcgi") as made:
        assert b"hello" in made.ask("fastcgi")
    with door(Admission(web_servers="192.0.2.7"), "fastcgi") as made, made.connect("fastcgi") as peer:
        made.step()
        assert peer.read() == b"", "at once"
        made.log.only("its address is not in FCGI_WEB_SERVER_ADDRS")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_web_servers_on_an_auto_listener(protocol: str) -> None:
    """The list is for FastCGI; whoever speaks something else there is not meant."""
    with door(Admission(web_servers="192.0.2.7,127.0.0.1"), "auto") as made:
        assert b"hello" in made.ask(protocol)
    with door(Admission(web_servers="192.0.2.7"), "auto") as made:
        assert (b"hello" in made.ask(protocol)) is (protocol != "fastcgi")
        if protocol == "fastcgi":
            made.log.only("refused: fastcgi 127.0.0.1:")


def test_web_servers_on_an_auto_listener_from_the_poller() -> None:
    """The connection has its place there by then, and gives it back."""
    with door(Admission(web_servers="192.0.2.7"), "auto") as made, made.connect("fastcgi") as peer:
        made.step()
        assert len(made.pool.connections) == 1
        peer.send(request("fastcgi"))
        made.step()
        assert peer.is_closed()
        assert not made.pool.connections


def test_web_servers_on_an_auto_unix_socket() -> None:
    with door(Admission(web_servers="192.0.2.7"), "auto", family=socket.AF_UNIX) as made:
        assert b"hello" in made.ask("fastcgi")


def test_both_lists_must_have_it() -> None:
    for allow_from, web_servers in ((NOT_OURS, "127.0.0.1"), ("127.0.0.1", "192.0.2.7")):
        with door(Admission(nets(allow_from), web_servers=web_servers), "fastcgi") as made:
            assert made.ask("fastcgi") == b""


# -- and the PROXY protocol

CLAIM: Final = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"


@pytest.mark.parametrize("protocol", ["http", "fastcgi", "auto"])
def test_it_is_the_real_peer_that_counts(protocol: str) -> None:
    """What a PROXY header claims lets nobody in and keeps nobody out, in any list."""
    assert parse_proxy_header(CLAIM) == (("203.0.113.7", 4711), len(CLAIM))
    asked = "http" if protocol == "http" else "fastcgi"
    seen: list[str] = []

    def app(exchange: Exchange) -> None:
        assert isinstance(exchange, ServerExchange)
        seen.append(exchange.peer)
        reply(exchange, b"hello")

    real = Admission(nets("127.0.0.1"), web_servers="127.0.0.1")
    with door(real, protocol, proxies="127.0.0.1", app=app) as made:
        assert b"hello" in made.ask(asked, CLAIM)
        assert seen == ["203.0.113.7:4711"]
    claimed = [Admission(nets("203.0.113.7"))]
    if protocol != "http":
        claimed.append(Admission(web_servers="203.0.113.7"))
    for admission in claimed:
        with door(admission, protocol, proxies="127.0.0.1", app=app) as made:
            assert made.ask(asked, CLAIM) == b""
            made.log.only(" 127.0.0.1:")
    assert len(seen) == 1


# -- the log


def test_the_log_cannot_be_flooded() -> None:
    with door(Admission(nets(NOT_OURS))) as made:
        for _ in range(20):
            assert made.ask("http") == b""
            made.clock.now += 0.01
        assert len(made.log.lines) == 1
        made.clock.now += 1
        made.ask("http")
        assert len(made.log.lines) == 2
        assert made.log.lines[1].endswith("its address is not in --allow-from (19 more since the last such line)")
        made.clock.now += 1
        made.ask("http")
        assert made.log.lines[2].endswith("its address is not in --allow-from")


def test_all_listeners_share_the_limit() -> None:
    admission = Admission(nets(NOT_OURS))
    with door(admission) as one, door(admission) as other:
        one.ask("http")
        other.ask("http")
        assert len(one.log.lines + other.log.lines) == 1


def test_refused_peers_take_no_turn_of_others() -> None:
    """64 in a row and no more, refused ones too."""
    with door(Admission(nets(NOT_OURS))) as made, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(made.connect()) for _ in range(80)]
        made.step()
        assert sum(peer.is_closed() for peer in peers) == 64
        made.step()
        assert all(peer.is_closed() for peer in peers)


def test_a_failure_of_the_look_closes_the_socket() -> None:
    class Broken(Admission):
        def admits(self, pool: Pool, protocol: str, fd: int, peer: object) -> bool:
            raise ZeroDivisionError

    with door(Broken(nets(NOT_OURS))) as made, made.connect() as peer:
        with pytest.raises(ZeroDivisionError):
            made.step()
        assert peer.read() == b""


def test_the_last_of_a_flood_are_counted_too() -> None:
    admission = Admission(nets(NOT_OURS))
    admission.rest_after = 0.1
    with door(admission) as made:
        for _ in range(4):
            assert made.ask("http") == b""
        within(lambda: sum(map(refused_in, made.log.lines)) == 4, "all four are told")
        assert made.log.lines[1].startswith("refused: http others: ")


def refused_in(line: str) -> int:
    """How many peers a line tells of."""
    found = re.search(r"\b([0-9]+) more since the last", line)
    return int(found[1]) if found else 1
