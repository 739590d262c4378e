"""Commands that need no server: certificates, users, configuration."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.integration.cli import PASSWORD, quicfs, refused


def test_certificates(tmp_path: Path) -> None:
    done = quicfs("cert", "init", "--dir", tmp_path / "c", "--name", "files.example.org", "--name", "::1")
    assert done.returncode == 0 and str(tmp_path / "c" / "ca.pem") in done.stdout
    refused(quicfs("cert", "init", "--dir", tmp_path / "c", "--name", "x"), "ca.pem", "--force")
    before = (tmp_path / "c" / "ca.pem").read_bytes()
    assert quicfs("cert", "init", "--dir", tmp_path / "c", "--renew").returncode == 0
    assert (tmp_path / "c" / "ca.pem").read_bytes() == before
    assert quicfs("cert", "init", "--dir", tmp_path / "c", "--name", "x", "--force").returncode == 0
    assert (tmp_path / "c" / "ca.pem").read_bytes() != before


def test_users(tmp_path: Path) -> None:
    users = tmp_path / "users"
    for name in ("alice", "bob", "alice"):
        assert quicfs("user", "add", name, "--users", users).returncode == 0
    assert quicfs("user", "list", "--users", users).stdout == "alice\nbob\n"
    assert stat.S_IMODE(users.stat().st_mode) == 0o600 and PASSWORD not in users.read_text()
    assert quicfs("user", "remove", "bob", "--users", users).returncode == 0
    assert quicfs("user", "list", "--users", users).stdout == "alice\n"
    refused(quicfs("user", "remove", "bob", "--users", users), "no user bob")


def test_password_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    arguments = ["user", "add", "alice", "--users", tmp_path / "users"]
    done = quicfs(*arguments, "--password-file", tmp_path / "password", password=None)
    assert done.returncode == 0
    refused(quicfs(*arguments, password=None), "no terminal", "--password-file", "QUICFS_PASSWORD")
    refused(quicfs(*arguments, "--password-file", tmp_path / "none", password=None), str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "#a", "x" * 200])
def test_names_that_nobody_can_have(tmp_path: Path, name: str) -> None:
    refused(quicfs("user", "add", name, "--users", tmp_path / "users"), "cannot be a user's name")
    assert not (tmp_path / "users").exists()


def test_users_in_no_folder(tmp_path: Path) -> None:
    refused(quicfs("user", "add", "alice", "--users", tmp_path / "none" / "users"), str(tmp_path / "none"))
    refused(quicfs("user", "list", "--users", tmp_path / "none"), "quicfs user add")


def test_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "quicfs.toml"
    file.write_text(
        f'[user.add]\nusers = "{tmp_path / "users"}"\n[cert.init]\ndir = "{tmp_path / "c"}"\nname = ["a.example"]\n'
    )
    assert quicfs("--config", file, "user", "add", "alice").returncode == 0
    assert (tmp_path / "users").exists()
    assert quicfs("cert", "init", "--config", file).returncode == 0
    assert (tmp_path / "c" / "server.pem").exists()


def test_configuration_that_means_nothing(tmp_path: Path) -> None:
    file = tmp_path / "quicfs.toml"
    file.write_text("[serve]\nlissten = ':443'\n")
    refused(quicfs("serve", tmp_path, "--config", file), str(file), "'serve.lissten'")
    file.write_text("serve = [\n")
    refused(quicfs("serve", tmp_path, "--config", file), str(file), "TOML")
    assert quicfs("serve", tmp_path, "--config", tmp_path / "none").returncode == 2
