"""systemd's units: what is in them, line by line, and that systemd itself finds no fault with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gateways.cli.config import installed_version
from gateways.errors import ConfigError
from gateways.frontends.systemd import units, value, word
from gateways.settings import PROTOCOLS, Settings, load_settings

PROGRAM = ("/srv/shop/.venv/bin/gateways",)
SECRET = "correct-horse-battery"


def load(arguments: Mapping[str, object] | None = None) -> Settings:
    return load_settings({"app": "shop:app", "chdir": "/usr", **(arguments or {})}, {})


def made(arguments: Mapping[str, object] | None = None, **options: object) -> dict[str, str]:
    name, version = options.get("name", "gateways"), options.get("version")
    assert isinstance(name, str)
    assert version is None or isinstance(version, int)
    return units(load(arguments), PROGRAM, name=name, version=version)


def entries(text: str) -> dict[str, list[str]]:
    """Name -> its values, of a unit; comments are left out."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, content = line.partition("=")
            found.setdefault(name, []).append(content)
    return found


def service(arguments: Mapping[str, object] | None = None, version: int | None = None) -> dict[str, list[str]]:
    return entries(made(arguments, version=version)["gateways.service"])


# Sockets


def test_one_protocol_has_one_socket_of_the_service_s_name() -> None:
    settings = {"fastcgi": ("/run/shop.sock", "9000"), "socket_owner": "shop:www-data", "backlog": "100"}
    files = made(settings, name="shop")
    assert list(files) == ["shop.socket", "shop.service"]
    assert entries(files["shop.socket"]) == {
        "Description": ["shop:app, fastcgi"],
        "ListenStream": ["/run/shop.sock", "127.0.0.1:9000"],
        "FileDescriptorName": ["fastcgi"],
        "Backlog": ["100"],
        "SocketMode": ["0660"],
        "SocketUser": ["shop"],
        "SocketGroup": ["www-data"],
        "WantedBy": ["sockets.target"],
    }


def test_several_protocols_have_a_socket_each() -> None:
    files = made({"fastcgi": ("/run/shop.sock",), "scgi": ("4000",), "http": (":8000",)})
    names = ["gateways-fastcgi.socket", "gateways-scgi.socket", "gateways-http.socket"]
    assert list(files) == [*names, "gateways.service"]
    for name in names:
        found = entries(files[name])
        assert found["Service"] == ["gateways.service"]
        assert found["FileDescriptorName"] == [name.removeprefix("gateways-").removesuffix(".socket")]
        assert found["FileDescriptorName"][0] in PROTOCOLS
    found = entries(files["gateways.service"])
    assert found["Sockets"] == found["Requires"] == found["Also"] == [" ".join(names)]
    assert found["After"] == ["network.target " + " ".join(names)]


@pytest.mark.parametrize(
    ("address", "stream"),
    [
        ("9000", "127.0.0.1:9000"),
        (":9000", "9000"),
        ("0.0.0.0:9000", "0.0.0.0:9000"),
        ("localhost:9000", "127.0.0.1:9000"),
        ("[::1]:9000", "[::1]:9000"),
        ("/run/shop.sock", "/run/shop.sock"),
        ("/run/50%/a b", "/run/50%%/a b"),
        ("./run/s", os.path.abspath("run/s")),
        ("@shop", "@shop"),
    ],
)
def test_each_kind_of_address(address: str, stream: str) -> None:
    assert entries(made({"http": (address,)})["gateways.socket"])["ListenStream"] == [stream]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("fd:3", "systemd numbers the descriptors itself: name an address in the place of fd:3"),
        ("shop.example:9000", "systemd resolves no host names: write an IP address in the place of shop.example:9000"),
        ("127.0.0.1:0", "systemd takes no port 0: name a port in the place of 127.0.0.1:0"),
        ("/run/a\nb", r"systemd's units cannot hold '/run/a\\nb'"),
        ("/run/a ", "systemd's units cannot hold '/run/a '"),
        ("/run/a\\", r"systemd's units cannot hold '/run/a\\\\'"),
        ("/run/\udcff", r"systemd's units cannot hold '/run/\\udcff'"),
    ],
)
def test_an_address_that_systemd_cannot_have(address: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        made({"http": (address,)})


def test_a_socket_that_only_root_could_use_says_so() -> None:
    assert "#SocketGroup=www-data" in made({"fastcgi": ("/run/s",)})["gateways.socket"]
    assert "#SocketGroup" not in made({"fastcgi": ("/run/s",), "socket_mode": "666"})["gateways.socket"]
    assert "#SocketGroup" not in made({"fastcgi": ("/run/s",), "socket_owner": "shop"})["gateways.socket"]
    assert "Socket" not in "".join(entries(made({"fastcgi": ("9000",)})["gateways.socket"]))


# The service


def test_the_service() -> None:
    found = service({"fastcgi": ("/run/shop.sock",), "user": "shop", "group": "www-data", "umask": "027"})
    assert found["Type"] == ["notify"]
    assert found["ExecReload"] == [f"{PROGRAM[0]} reload --control /run/gateways-control/socket"]
    assert found["WorkingDirectory"] == ["/usr"]
    assert found["ExecStart"] == [f"{PROGRAM[0]} serve shop:app --control /run/gateways-control/socket"]
    assert found["RuntimeDirectory"] == ["gateways-control"]
    assert (found["User"], found["Group"], found["UMask"]) == (["shop"], ["www-data"], ["0027"])
    assert "DynamicUser" not in found
    assert found["WatchdogSec"] == ["30"]
    assert (found["TimeoutStartSec"], found["TimeoutStopSec"]) == (["70"], ["40"])
    assert found["Requires"] == found["Also"] == ["gateways.socket"]
    assert "Sockets" not in found
    assert found["RestartPreventExitStatus"] == ["2"]


@pytest.mark.parametrize(("version", "kind"), [(252, "notify"), (253, "notify-reload"), (257, "notify-reload")])
def test_without_a_control_socket_a_reload_is_a_signal_that_not_every_systemd_waits_for(
    version: int, kind: str
) -> None:
    found = service({"control": "off"}, version=version)
    assert found["Type"] == [kind]
    assert found.get("ExecReload") == (["/bin/kill -HUP $MAINPID"] if kind == "notify" else None)


def test_options_follow_and_what_the_units_say_does_not() -> None:
    settings: dict[str, object] = {
        "http": ("8000",),
        "socket_mode": "600",
        "workers": "4",
        "threads": "2",
        "preload": True,
        "mount": "/",
        "max_age": "7d",
        "max_rss": "200M",
        "head_timeout": "500ms",
        "allow_from": ("10.0.0.0/8", "::1"),
        "access_log": "-",
        "access_format": '%h "%r" $x',
        "control": "/run/shop/control",
        "metrics": "9100",
        "user": "shop",
        "backlog": "1024",
    }
    assert service(settings)["ExecStart"][0] == (
        f"{PROGRAM[0]} serve shop:app --mount / --preload --workers 4 --threads 2 --max-age 7d --max-rss 200M "
        "--head-timeout 0.5s --allow-from 10.0.0.0/8 --allow-from ::1/128 --access-log - "
        r'--access-format "%%h \"%%r\" $$x" --metrics 127.0.0.1:9100 --control /run/shop/control'
    )
    assert service(settings)["RuntimeDirectory"] == ["shop"]
    assert service(settings)["ExecReload"] == [f"{PROGRAM[0]} reload --control /run/shop/control"]


def test_the_command_line_of_the_unit_means_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from gateways import cli
    from gateways.cli import serve

    given = {"workers": "3", "slow_request": "0.25", "max_drain_bytes": "1500", "rolling": True, "mount": "/"}
    before = load(given)
    (line,) = entries(units(before, PROGRAM)["gateways.service"])["ExecStart"]
    seen: list[Settings] = []

    def configured(arguments: dict[str, object]) -> None:
        del arguments["print_config"], arguments["as_json"]
        seen.append(load_settings(arguments, {}))

    monkeypatch.setattr(serve, "configured", configured)
    assert cli.run([*line.split()[1:], "--chdir", "/usr"]) == 0
    (after,) = seen
    assert after == replace(before, control="/run/gateways-control/socket")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            {"access_log": "/var/log/shop/a", "error_log": "/var/log/shop/e", "pid_file": "/var/run/shop/pid"},
            {"LogsDirectory": ["shop"], "RuntimeDirectory": ["gateways-control shop"]},
        ),
        ({"slow_log": "/var/log/a/b/slow", "control": "off"}, {"LogsDirectory": ["a/b"]}),
        ({"access_log": "/srv/log/a", "user": "shop", "control": "off"}, {"ReadWritePaths": ["/srv/log"]}),
        ({"access_log": "syslog", "error_log": "-", "control": "off"}, {}),
        ({"pid_file": "/run/pid", "chroot": "/", "user": "shop", "control": "off"}, {}),
    ],
)
def test_systemd_makes_the_directories(arguments: dict[str, object], lines: dict[str, list[str]]) -> None:
    found = service(arguments)
    names = ("LogsDirectory", "RuntimeDirectory", "StateDirectory", "CacheDirectory", "ReadWritePaths")
    assert {name: found[name] for name in names if name in found} == lines


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"pid_file": "/run/shop.pid"}, "--pid-file /run/shop.pid: only root .* as in /run/gateways/shop.pid"),
        ({"access_log": "/var/log/a", "user": "shop"}, "--access-log /var/log/a: only root .* /var/log/gateways/a"),
        ({"error_log": "/srv/e"}, "--error-log /srv/e: the user that systemd makes .* as in /var/log/gateways/e"),
        ({"fastcgi": ("/run/shop/s",), "pid_file": "/run/shop/pid"}, "/run/shop cannot be for the sockets and"),
    ],
)
def test_a_file_that_the_service_could_not_write(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        service(arguments)


def test_the_file_of_the_settings_is_named_and_not_copied(tmp_path: Path) -> None:
    config = tmp_path / "shop.toml"
    config.write_text(
        'app = "shop:app"\nfastcgi = "/run/shop.sock"\nworkers = 3\nchdir = "/usr"\naccess-log = "/var/log/shop/a"\n'
        f'secret = "{SECRET}"'
    )
    settings = load_settings({"config": str(config), "threads": "2", "scgi": ("4000",)}, {})
    files = units(settings, PROGRAM, name="shop", config=str(config))
    found = entries(files["shop.service"])
    assert found["ExecStart"][0] == (
        f"{PROGRAM[0]} serve --config {config} --chdir /usr --scgi 127.0.0.1:4000 --threads 2 "
        "--control /run/shop-control/socket"
    )
    assert found["LogsDirectory"] == ["shop"]
    assert "EnvironmentFile" not in found
    assert "ListenStream=/run/shop.sock" in files["shop-fastcgi.socket"]


def test_the_secret_stays_out() -> None:
    files = made({"secret": SECRET}, name="shop")
    assert SECRET not in "".join(files.values())
    assert entries(files["shop.service"])["EnvironmentFile"] == ["/etc/shop.env"]
    assert "GATEWAYS_SECRET=..." in files["shop.service"]
    assert "EnvironmentFile" not in service()


def test_without_a_user_systemd_makes_one() -> None:
    found = service()
    assert found["DynamicUser"] == ["yes"]
    assert "User" not in found


def test_chroot_needs_root_and_its_capabilities() -> None:
    found = service({"chroot": "/", "user": "shop", "group": "shop"})
    assert "User" not in found
    assert "DynamicUser" not in found
    assert "CapabilityBoundingSet" not in found
    assert "--user shop --group shop --chroot /" in found["ExecStart"][0]


def test_without_a_control_socket() -> None:
    assert "RuntimeDirectory" not in service({"control": "off"})
    assert service({"control": "off"})["ExecStart"][0].endswith(" --control off")


def test_the_times_that_systemd_waits_follow_from_ours() -> None:
    found = service({"boot_timeout": "90", "graceful_timeout": "2.5", "rolling": True, "workers": "4"})
    assert (found["TimeoutStartSec"], found["TimeoutStopSec"]) == (["370"], ["13"])
    assert service({"boot_timeout": "90", "preload": True})["WatchdogSec"] == ["100"]
    assert service({"boot_timeout": "5", "preload": True})["WatchdogSec"] == ["30"]


@pytest.mark.parametrize(
    ("chdir", "needed", "home", "private_tmp"),
    [
        ("/srv/shop", (), True, True),
        ("/home/shop", (), False, True),
        ("/homes", (), True, True),
        ("/srv/shop", ("/root/env/bin/python",), False, True),
        ("/tmp/shop", (), True, False),  # noqa: S108 - a text
    ],
)
def test_what_the_application_needs_is_not_hidden(
    chdir: str, needed: tuple[str, ...], home: bool, private_tmp: bool
) -> None:
    found = entries(units(Settings("shop:app", chdir=chdir), PROGRAM, needed)["gateways.service"])
    assert ("ProtectHome" in found, "PrivateTmp" in found) == (home, private_tmp)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a@", "x" * 201])
def test_no_name_of_a_unit(name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a unit"):
        made(name=name)


# The syntax


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("shop:app", "shop:app"),
        ("shop:create_app()", '"shop:create_app()"'),
        ("", '""'),
        (";", '";"'),
        ("a b", '"a b"'),
        ("100%", '"100%%"'),
        ("$HOME", '"$$HOME"'),
        ('"\\', '"\\"\\\\"'),
        ("a\nb\x7f", '"a\\x0ab\\x7f"'),
        ("\udcff", '"\\xff"'),
        ("é", '"é"'),
    ],
)
def test_a_word_of_a_command_line(text: str, written: str) -> None:
    assert word(text) == written


def test_a_value() -> None:
    assert value("50%") == "50%%"
    with pytest.raises(ConfigError, match="units cannot hold"):
        value("a\x00")


# systemd itself


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"fastcgi": ("/run/shop.sock",), "socket_owner": ":root", "user": "root", "group": "root", "umask": "027"},
        {
            "fastcgi": ("@shop", "9000"),
            "http": ("[::1]:80", ":81"),
            "access_format": '%h "%r" $x é\n;',
            "secret": SECRET,
        },
        {"access_log": "/var/log/shop/a", "pid_file": "/run/shop/pid"},
        {"access_log": "/srv/a b/50%/log", "user": "root", "chroot": "/"},
        {"error_log": "/srv/a b/50%/log", "user": "daemon"},
        {"http": ("/run/a b/50%",), "chroot": "/", "user": "root", "control": "off"},
    ],
)
def test_systemd_finds_no_fault(tmp_path: Path, arguments: dict[str, object]) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:  # a convenience, and no server of ours: what it does is tested without it too
        pytest.skip("systemd-analyze is not installed")
    files = units(load(arguments), (sys.executable, "-m", "gateways"), name="shop", version=installed_version())
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [program, "verify", *(str(tmp_path / name) for name in files)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or re.search(r"\bshop\b", line)]
    assert ours == []
    assert done.returncode == 0, done.stderr
