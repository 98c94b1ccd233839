"""The web servers and other programs of the system that the tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str) -> str:
    """Return the path of a program. Without it the test is skipped, or fails where CI=true promises it."""
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    if found is not None:
        return found
    reason = f"{program} is not installed; tests/run installs it where it may"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
