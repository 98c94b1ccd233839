"""As whom scripts run: as their owners, or as one user; and which may not."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from gateways.apps.choice import Choice, ScriptRefused
from gateways.apps.identities import Identities
from gateways.errors import ConfigError
from tests.apps.scripts import Root

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root changes users")


def choice_of(root: Root, name: str, uid: int, gid: int, mode: int = 0o755) -> Choice:
    path = root.sh(f"{name}/script", "echo")
    if ROOT:
        os.chown(path, uid, gid)
        os.chown(path.parent, uid, gid)
    return Choice(str(path), "/script", "", (str(path),), uid, gid, stat.S_IFREG | mode)


@pytest.mark.skipif(ROOT, reason="root can")
def test_only_root_changes_users(root: Root) -> None:
    assert Identities("").of(choice_of(root, "own", os.geteuid(), os.getegid())) is None
    with pytest.raises(ConfigError, match="only root"):
        Identities("nobody")


@as_root
def test_scripts_run_as_their_owners(root: Root) -> None:
    nobody = pwd.getpwnam("nobody")
    for spec in ("", "owner"):
        identity = Identities(spec).of(choice_of(root, "nobody", nobody.pw_uid, 0))
        assert identity is not None
        assert (identity.uid, identity.gid) == (nobody.pw_uid, nobody.pw_gid)
        assert 0 not in identity.groups


@as_root
def test_scripts_run_as_one_user(root: Root) -> None:
    identity = Identities("nobody").of(choice_of(root, "root", 0, 0))
    assert identity is not None
    assert identity.uid == pwd.getpwnam("nobody").pw_uid


@as_root
@pytest.mark.parametrize("name", ["root", "no-such-user"])
def test_never_as_root(name: str) -> None:
    with pytest.raises(ConfigError):
        Identities(name)


@as_root
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "told"),
    [
        (0, 0, 0o755, "belongs to root"),
        (65534, 65534, 0o775, "others can write it"),
        (65534, 65534, 0o757, "others can write it"),
        (54321, 0, 0o755, "group is root's"),
    ],
)
def test_what_may_not_run_as_its_owner(root: Root, uid: int, gid: int, mode: int, told: str) -> None:
    with pytest.raises(ScriptRefused) as raised:
        Identities("owner").of(choice_of(root, f"d{uid}{mode}", uid, gid, mode))
    assert told in raised.value.reason


@as_root
def test_an_owner_without_an_account_has_the_group_of_each_file(root: Root) -> None:
    identities = Identities("owner")
    for gid in (54322, 54323):
        identity = identities.of(choice_of(root, f"unknown{gid}", 54321, gid))
        assert identity is not None
        assert (identity.gid, identity.groups) == (gid, (gid,))
    with pytest.raises(ScriptRefused, match="group is root's"):
        identities.of(choice_of(root, "unknown0", 54321, 0))


@as_root
def test_a_directory_that_others_can_write(root: Root) -> None:
    choice = choice_of(root, "open", 65534, 65534)
    directory = Path(choice.path).parent
    directory.chmod(0o777)
    with pytest.raises(ScriptRefused, match="directory"):
        Identities("owner").of(choice)
    directory.chmod(0o755)
    os.chown(directory, 54321, 54321)
    with pytest.raises(ScriptRefused, match="directory"):
        Identities("owner").of(choice)


@as_root
def test_a_directory_above_that_others_can_change(root: Root) -> None:
    """Its owner could have it lead to another user's script for the look, and to one of his own for the start."""
    found = choice_of(root, "theirs", 65534, 65534)
    top = root.directory / "mine"
    (top / "below").mkdir(parents=True)
    os.chown(top, 54321, 54321)
    (top / "now").symlink_to(Path(found.path).parent)
    real = choice_of(root, "mine/below", 65534, 65534)
    for path in (top / "now" / "script", Path(real.path)):
        choice = replace(found, path=str(path), root=str(root.directory))
        with pytest.raises(ScriptRefused, match=r"^403: .* others can write a directory above it"):
            Identities("owner").of(choice)
    os.chown(top, 65534, 65534)
    assert Identities("owner").of(replace(real, root=str(root.directory))) is not None
    top.chmod(0o775)
    with pytest.raises(ScriptRefused, match="above"):
        Identities("owner").of(replace(real, root=str(root.directory)))
