"""Our own server: nothing is found with it, whatever the protocol, and it holds nothing back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateways.wire.fuzz.campaign import Bounds, Campaign
from gateways.wire.fuzz.found import Store
from gateways.wire.fuzz.generate import Generator
from gateways.wire.fuzz.play import Ability, find_abilities
from gateways.wire.fuzz.trial import Trial
from gateways.wire.fuzz.watch import Watch
from gateways.wire.target import PROTOCOLS, parse_target
from tests.servers import Gateways, open_directory, running

APP = "gateways.wire.echo.echo_wsgi:application"
SECONDS = 10.0
CASES = 400


@pytest.mark.processes
def test_nothing_is_found() -> None:
    with open_directory() as directory:
        options = ("--workers", "1", "--threads", "4")
        server = Gateways(directory, APP, *options, python_path=Path(directory), protocols=PROTOCOLS)
        with running(server):
            for protocol in PROTOCOLS:
                target = parse_target(f"{protocol}+unix://{server.address[protocol, 'unix']}")
                ability = find_abilities(target, SECONDS)
                assert ability == Ability(kept=protocol == "fastcgi", multiplexed=protocol == "fastcgi")
                trial = Trial(target, ability, SECONDS, watch=Watch(server.pid))
                campaign = Campaign(trial, Generator(target, 20, ability), Store(), Bounds(CASES, 120.0))
                for _ in campaign.run():
                    pass
                assert campaign.store.classes == {}, protocol
                assert campaign.done == CASES
        assert "Traceback" not in server.text()
