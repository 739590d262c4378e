"""The secret that a server keeps between its runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from quicfs.places import state_directory
from quicfs.reset_key import kept_reset_key


def test_it_is_made_once_and_for_nobody_else(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    key = kept_reset_key(directory)
    assert key is not None and len(key) == 32
    assert kept_reset_key(directory) == key
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "reset.key").write_bytes(b"short")
    key = kept_reset_key(tmp_path)
    assert key is not None and kept_reset_key(tmp_path) == key


def test_where_nothing_can_be_kept_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert kept_reset_key(tmp_path / "file" / "below") is None


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
    assert state_directory() == Path("/var/lib/one")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/alice/.state")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert state_directory() == Path("/home/alice/.state/quicfs")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_directory() == Path("/var/lib/quicfs-server")
