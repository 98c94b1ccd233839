"""What every test shares: how hard hypothesis tries, and the markers that follow from where a test stands.

A test that needs a program of the system (nginx, apache2, ...) asks ``tests.servers.require`` for it: where it is
missing, the test is skipped and ``-ra`` shows it; under CI=true it fails.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
INTEGRATION = HERE / "integration"
FAULTS = HERE / "faults"
ONCE = {
    HERE / "cli" / "test_fuzz.py",
    HERE / "conform" / "test_cases.py",
    HERE / "conform" / "test_echo.py",
    HERE / "conform" / "test_fronts.py",
    HERE / "conform" / "test_peers.py",
    HERE / "fuzz" / "test_in_process.py",
    HERE / "fuzzing" / "test_campaign.py",
    HERE / "fuzzing" / "test_generate.py",
    HERE / "integration" / "test_front_conformance.py",
}

# No deadlines: on a busy machine they measure the neighbours.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci", deadline=None, max_examples=100, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("few", deadline=None, max_examples=10)  # on the other Pythons of tests/run
settings.register_profile("thorough", settings.get_profile("ci"), max_examples=10_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev"))


# pytest, hypothesis and thousands of items stay for good: to look at them again and again takes some of all the time.
gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(INTEGRATION):
            item.add_marker(pytest.mark.integration)
        if item.path in ONCE:
            item.add_marker(pytest.mark.once)
        module = getattr(item, "module", None)
        # tests.server.processes, tests.apps.scripts; the faults have the former by way of their conftest
        if hasattr(module, "served") or hasattr(module, "answering") or item.path.is_relative_to(FAULTS):
            item.add_marker(pytest.mark.processes)
