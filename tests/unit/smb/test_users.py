"""The file of users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicfs.smb.users import UserDb, UserDbError, nt_hash


def made(path: Path) -> UserDb:
    db = UserDb(path)
    db.add("Alice", "secret")
    return db


def test_the_hash_is_the_one_of_the_specification() -> None:
    # [MS-NLMP] §4.2.2.1.2
    assert nt_hash("Password").hex() == "a4f49c406510bdcab6824ee7c30fd852"


def test_adding_finding_removing(tmp_path: Path) -> None:
    path = tmp_path / "users"
    made(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["users"]
    db = UserDb.load(path)
    db.add("Zoë", "другой")
    assert db.find("ALICE") == db.find("alice") == nt_hash("secret")
    assert db.find("zOË") == nt_hash("другой")
    assert db.find("bob") is None
    db.add("ALICE", "new")
    assert db.names() == ["ALICE", "Zoë"]
    assert UserDb.load(path).find("Alice") == nt_hash("new")
    assert db.remove("alice")
    assert not db.remove("alice")
    assert UserDb.load(path).names() == ["Zoë"]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "users"
    made(path)
    server = UserDb.load(path)
    assert server.find("bob") is None
    UserDb.load(path).add("bob", "x")
    assert server.find("bob") == nt_hash("x")


def test_a_file_that_became_unusable_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "users"
    made(path)
    server = UserDb.load(path)
    path.chmod(0o644)
    assert server.find("alice") is None
    assert "nobody can log in" in caplog.text
    caplog.clear()
    path.chmod(0o600)
    assert server.find("alice")
    path.unlink()
    assert server.find("alice") is None
    assert server.find("alice") is None
    assert len(caplog.records) == 1  # said once, not at each login
    made(path)
    assert server.find("alice")


@pytest.mark.parametrize("mode", [0o644, 0o606, 0o660, 0o602, 0o601])
def test_a_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "users"
    made(path)
    path.chmod(mode)
    with pytest.raises(UserDbError, match="chmod 600"):
        UserDb.load(path)


@pytest.mark.parametrize(
    "text",
    ["alice", "alice:", "alice:abc", ":" + "0" * 32, "alice:" + "0" * 33, "a/b:" + "0" * 32],
)
def test_malformed_lines_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"# remark\n\n{text}\n")
    path.chmod(0o600)
    with pytest.raises(UserDbError, match="line 3 of"):
        UserDb.load(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserDbError, match="quicfs user add"):
        UserDb.load(tmp_path / "none")
    with pytest.raises(UserDbError):
        UserDb.load(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\n")
    (tmp_path / "bytes").chmod(0o600)
    with pytest.raises(UserDbError, match="UTF-8"):
        UserDb.load(tmp_path / "bytes")
    with pytest.raises(UserDbError, match="folder"):
        UserDb(tmp_path / "none" / "users").add("alice", "x")


@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "#a", " a", "a ", "DOMAIN\\a", "x" * 105])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserDbError, match="cannot be a user's name"):
        UserDb(tmp_path / "users").add(name, "x")
    assert not (tmp_path / "users").exists()
