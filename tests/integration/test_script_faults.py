"""What goes wrong with scripts behind real web servers: killed, left behind, given up by their clients, too many."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.scripts import Answer, ScriptServer, ask
from tests.servers import LOOPBACK, SECONDS, Apache, Nginx, free_port, open_directory, running, wait_until

LIMIT = 20
HEAD = "printf 'Content-Type: text/plain\\n\\n'"
SCRIPTS = {
    "ok": f"{HEAD}; echo ok",
    "upper": f"{HEAD}; exec tr a-z A-Z",
    "waits": "exec sleep 60",
    "waits-in-its-body": f"{HEAD}; echo part; echo $$ >>$NOTE; exec sleep 60",
    "endless": f"{HEAD}; exec yes",
    "reads": "exec cat >/dev/null",
    "leaves": f"sleep 60 </dev/null >/dev/null 2>&1 & echo $! >>$NOTE; {HEAD}; echo ok",
    "leaves-with-output": f"sleep 60 & echo $! >>$NOTE; {HEAD}; echo ok",
    "slow": f"mkdir $NOTE.$$; {HEAD}; ls -d $NOTE.* 2>/dev/null | wc -l; sleep 0.1; rmdir $NOTE.$$",
}


@dataclass
class Estate:
    notes: Path
    scripts: ScriptServer
    ports: dict[str, int]

    def pids(self, name: str, count: int = 1) -> list[int]:
        """Wait until the scripts of this name have told so many pids."""
        note = self.notes / name

        def look() -> list[int] | None:
            lines = note.read_text().split("\n")[:-1] if note.exists() else []
            return [int(line) for line in lines] if len(lines) >= count else None

        return wait_until(look, f"{count} pids of {name}")


def processes_of(parent: int) -> list[int]:
    """Return the pids of its children."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    with ExitStack() as stack:
        top = stack.enter_context(open_directory())
        root, notes = top / "cgi-bin", top / "notes"
        for directory, mode in ((root, 0o755), (notes, 0o777)):
            directory.mkdir()
            directory.chmod(mode)
        for name, text in SCRIPTS.items():
            path = root / name
            pid = "" if "$NOTE" in text and "leaves" not in name else "echo $$ >>$NOTE"
            path.write_text(f"#!/bin/sh\nNOTE={notes}/{name}\n{pid}\n{text}\n")
            path.chmod(0o755)
        options = ("--root", str(root), "--mount", "/cgi-bin", "--concurrency", str(LIMIT), "--queue", "200")
        scripts = stack.enter_context(running(ScriptServer(top / "server", *options)))
        ports = {"nginx": free_port(), "streamed": free_port(), "apache": free_port()}
        ports["http"] = scripts.http_port
        address = scripts.address["fastcgi", "unix"]
        stock = f"include {Nginx.stock('fastcgi_params')}; fastcgi_pass unix:{address};"
        for name in ("nginx", "apache"):
            (top / name).mkdir()
        text = (
            f"server {{ listen {LOOPBACK}:{ports['nginx']}; client_max_body_size 0; location / {{ {stock} }} }}\n"
            f"server {{ listen {LOOPBACK}:{ports['streamed']}; client_max_body_size 0; location / {{ {stock} "
            "fastcgi_request_buffering off; fastcgi_buffering off; } }\n"
        )
        stack.enter_context(running(Nginx(top / "nginx", text, [ports["nginx"], ports["streamed"]])))
        conf = f'ProxyPass "/cgi-bin" "fcgi://{LOOPBACK}:{scripts.fastcgi_port}"\n'
        stack.enter_context(running(Apache(top / "apache", conf, [ports["apache"]])))
        yield Estate(notes, scripts, ports)


@pytest.fixture(autouse=True)
def afterwards(estate: Estate) -> Iterator[None]:
    """Nothing is left of the scripts, and the same worker serves."""
    for note in estate.notes.iterdir():
        note.unlink()
    (worker,) = processes_of(estate.scripts.pid)
    yield
    wait_until(lambda: not processes_of(worker), "the worker has no child left, a zombie neither")
    assert processes_of(estate.scripts.pid) == [worker]
    assert ask(estate.ports["nginx"], "/cgi-bin/ok").body == b"ok\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_script_that_is_killed(estate: Estate, number: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, estate.ports["nginx"], "/cgi-bin/waits")
        os.kill(estate.pids("waits")[0], number)
        assert answer.result(SECONDS).status == 502
    wait_until(
        lambda: f"waits ended without a response head, killed by {number.name}" in estate.scripts.text(), "the log"
    )


@pytest.mark.parametrize("way", ["nginx", "apache"])
def test_a_script_that_is_killed_in_its_body(estate: Estate, way: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, estate.ports[way], "/cgi-bin/waits-in-its-body")
        os.kill(estate.pids("waits-in-its-body")[0], signal.SIGKILL)
        found = answer.result(SECONDS)
    # How much has gone out by then is the web server's business.
    assert found.cut or found.status in {502, 503}


@pytest.mark.parametrize("name", ["leaves", "leaves-with-output"])
def test_a_script_that_leaves_a_child(estate: Estate, name: str) -> None:
    answer = ask(estate.ports["nginx"], f"/cgi-bin/{name}")
    assert (answer.status, answer.body, answer.cut) == (200, b"ok\n", False)
    _, child = estate.pids(name, 2)
    if name == "leaves":
        assert runs(child)  # what has let go of everything may stay, as a daemon does
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: not runs(child), "the child has been ended")


@pytest.mark.parametrize("way", ["nginx", "streamed"])
def test_a_client_that_goes_while_the_script_is_silent(estate: Estate, way: str) -> None:
    with socket.create_connection((LOOPBACK, estate.ports[way]), SECONDS) as client:
        client.sendall(b"GET /cgi-bin/waits HTTP/1.0\r\n\r\n")
        (pid,) = estate.pids("waits")
    wait_until(lambda: not runs(pid), "the script has been ended")


@pytest.mark.parametrize("way", ["nginx", "streamed", "apache"])
def test_a_client_that_goes_in_the_middle_of_the_answer(estate: Estate, way: str) -> None:
    with socket.create_connection((LOOPBACK, estate.ports[way]), SECONDS) as client:
        client.sendall(b"GET /cgi-bin/endless HTTP/1.0\r\n\r\n")
        assert client.recv(65_536, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200 OK\r\n")
    wait_until(lambda: not runs(estate.pids("endless")[0]), "the script has been ended")


@pytest.mark.parametrize("way", ["streamed", "apache"])
def test_a_client_that_goes_in_the_middle_of_its_request(estate: Estate, way: str) -> None:
    with socket.create_connection((LOOPBACK, estate.ports[way]), SECONDS) as client:
        client.sendall(b"POST /cgi-bin/reads HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n" + bytes(100_000))
        (pid,) = estate.pids("reads")
    wait_until(lambda: not runs(pid), "the script has been ended")


def test_200_slow_scripts_at_a_limit_of_20(estate: Estate) -> None:
    def one(_: int) -> Answer:
        return ask(estate.ports["nginx"], "/cgi-bin/slow")

    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(one, range(200)))
    assert {answer.status for answer in answers} == {200}
    counts = [int(answer.body) for answer in answers]
    assert 5 < max(counts) <= LIMIT
    assert "slow has ended" not in estate.scripts.text(), "none has left anything behind"


@pytest.mark.parametrize("way", ["nginx", "streamed", "apache", "http"])
def test_a_filter_of_a_large_body(estate: Estate, way: str) -> None:
    """It writes while it reads; nginx sends nothing more of a request once it has the head of the answer."""
    body = b"shout\n" * 500_000
    answer = ask(estate.ports[way], "/cgi-bin/upper", "POST", body)
    assert (answer.status, answer.body == body.upper()) == (200, True)
