"""What users get wrong: one line on stderr that names the thing and the remedy, exit status 1, no traceback."""

from __future__ import annotations

import datetime
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quicfs import certs
from quicfs.places import existing_certificate
from tests.integration.cli import PASSWORD, Site, command, quicfs, refused

Trust = list[str | Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"), "localhost")


@pytest.fixture(scope="module")
def url(site: Site) -> Iterator[str]:
    with site.serving() as url:
        yield url


@pytest.fixture
def trust(site: Site) -> Trust:
    return ["--ca", site.files.ca]


@contextmanager
def serving_with(site: Site, files: certs.CertificateFiles) -> Iterator[str]:
    with site.serving("--cert", files.cert, "--key", files.key) as url:
        yield url


def test_it_works_at_all(url: str, trust: Trust) -> None:
    assert quicfs("ls", url, *trust).returncode == 0


# Who logs in, and to what


def test_wrong_password(url: str, trust: Trust) -> None:
    refused(quicfs("ls", url, *trust, password=PASSWORD + "x"), "alice", "password")


def test_unknown_user(url: str, trust: Trust) -> None:
    refused(quicfs("ls", url.replace("alice", "mallory"), *trust), "mallory", "password")


def test_no_user_where_guests_are_not_let_in(url: str, trust: Trust) -> None:
    refused(quicfs("ls", url.replace("alice@", ""), *trust), "guest")


def test_unknown_share(url: str, trust: Trust) -> None:
    refused(quicfs("ls", url + "x", *trust), "'sharex'", "quicfs ls")


@pytest.mark.parametrize("verb", ["ls", "cat", "stat", "rm"])
def test_path_that_is_not_there(url: str, trust: Trust, verb: str) -> None:
    refused(quicfs(verb, f"{url}/nothing/here", *trust), "nothing/here", "no such file")


def test_directories_where_files_are_meant(url: str, trust: Trust, site: Site, tmp_path: Path) -> None:
    (site.share / "folder").mkdir(exist_ok=True)
    (site.share / "folder" / "file").touch()
    for arguments in (["rm", f"{url}/folder"], ["get", f"{url}/folder", tmp_path], ["cat", f"{url}/folder"]):
        refused(quicfs(*arguments, *trust), "folder", "is a directory", "-r")
    refused(quicfs("put", tmp_path, url, *trust), str(tmp_path), "-r")
    refused(quicfs("mkdir", f"{url}/folder", *trust), "folder", "taken")


# Certificates


def test_wrong_authority(url: str, tmp_path: Path) -> None:
    other = certs.create(tmp_path / "other", ["localhost"])
    refused(quicfs("ls", url, "--ca", other.ca), "localhost", "not signed by a trusted CA", "--ca")
    refused(quicfs("ls", url), "localhost", "not signed by a trusted CA", "--ca")


def test_wrong_host_name(url: str, trust: Trust) -> None:
    refused(quicfs("ls", url.replace("localhost", "127.0.0.1"), *trust), "127.0.0.1", "certificate", "name")


def test_expired_certificate(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certs, "SERVER_LIFETIME", certs.CLOCK_SKEW / 2)
    old = certs.create(tmp_path / "old", ["localhost"])
    with serving_with(site, old) as url:
        refused(quicfs("ls", url, "--ca", old.ca), "localhost", "expired", "renew")


def test_certificate_that_is_not_valid_yet(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certs, "CLOCK_SKEW", -datetime.timedelta(days=1))
    early = certs.create(tmp_path / "early", ["localhost"])
    with serving_with(site, early) as url:
        refused(quicfs("ls", url, "--ca", early.ca), "localhost", "clock")


@pytest.mark.parametrize("content", ["", "no PEM\n"])
def test_authorities_that_cannot_be_read(url: str, tmp_path: Path, content: str) -> None:
    (tmp_path / "ca.pem").write_text(content)
    refused(quicfs("ls", url, "--ca", tmp_path / "ca.pem"), str(tmp_path / "ca.pem"))
    refused(quicfs("ls", url, "--ca", tmp_path / "none.pem"), str(tmp_path / "none.pem"))


# Where to


def test_closed_port(trust: Trust) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    refused(quicfs("ls", f"smb://alice@localhost:{port}/share", *trust), f"localhost:{port}", "server runs")


def test_host_that_says_nothing(trust: Trust) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        refused(quicfs("ls", f"smb://alice@127.0.0.1:{port}/share", *trust), "127.0.0.1", "no answer", "UDP")


def test_name_that_does_not_resolve(trust: Trust) -> None:
    refused(quicfs("ls", "smb://alice@no-such-host.invalid/share", *trust), "no-such-host.invalid", "resolve")


# Servers


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    refused(quicfs("serve", tmp_path / "none", "--guest"), str(tmp_path / "none"), "does not exist")
    (tmp_path / "file").touch()
    refused(quicfs("serve", tmp_path / "file", "--guest"), str(tmp_path / "file"), "no directory")


def test_server_without_users(tmp_path: Path, site: Site) -> None:
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    if os.geteuid() == 0 and Path("/etc/quicfs/users").exists():
        pytest.skip("this machine has users of its own")
    refused(quicfs("serve", site.share, env=environment), "quicfs user add", "--users", "--guest")
    users = tmp_path / "users"
    refused(quicfs("serve", site.share, "--users", users), str(users), "quicfs user add")
    users.write_text("alice:nonsense\n")
    users.chmod(0o600)
    refused(quicfs("serve", site.share, "--users", users), str(users), "line 1")
    users.chmod(0o644)
    refused(quicfs("serve", site.share, "--users", users), str(users), "chmod 600")


def test_server_without_certificate(tmp_path: Path, site: Site) -> None:
    if os.geteuid() == 0 and (existing_certificate() or Path("/run/quicfs/agent.sock").exists()):
        pytest.skip("this machine has a certificate or an agent of its own")
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}
    refused(quicfs("serve", site.share, "--guest", env=environment), "quicfs cert init", "--cert")


def test_key_of_another_certificate(tmp_path: Path, site: Site) -> None:
    arguments = ["serve", site.share, "--guest", "--cert", site.files.cert, "--key", site.files.ca_key]
    refused(quicfs(*arguments), str(site.files.ca_key), "do not match")


def test_port_that_is_taken(site: Site, url: str) -> None:
    port = url.partition("localhost:")[2].partition("/")[0]
    arguments = ["serve", site.share, "--guest", "--cert", site.files.cert, "--key", site.files.key]
    refused(quicfs(*arguments, "--listen", f"localhost:{port}"), port, "--listen")
    refused(quicfs(*arguments, "--listen", "192.0.2.1:4433"), "192.0.2.1", "--listen")


def test_names_that_no_share_can_have(site: Site) -> None:
    for name in ("a/b", "a\\b", "x" * 100, "\n"):
        refused(quicfs("serve", site.share, "--guest", "--share", name), "--share")


# Mounting


def test_mount_point_that_is_not_fit(url: str, trust: Trust, site: Site, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    refused(quicfs("mount", url, tmp_path / "full", *trust), str(tmp_path / "full"), "not empty", "nonempty")
    refused(quicfs("mount", url, tmp_path / "none", *trust), str(tmp_path / "none"), "mkdir")
    refused(quicfs("mount", url, tmp_path / "full" / "file", *trust), "file", "not a directory")


def test_mount_options_that_mean_nothing(url: str, trust: Trust, tmp_path: Path) -> None:
    refused(quicfs("mount", url, tmp_path, *trust, "-o", "ro,bogus=3"), "bogus=3", "attr_timeout")
    refused(quicfs("mount", url, tmp_path, *trust, "-o", "attr_timeout=soon"), "attr_timeout", "soon")


def test_mount_that_the_server_refuses(require, url: str, trust: Trust, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    require("fuse")
    for foreground in ([], ["--foreground"]):
        refused(quicfs("mount", url, tmp_path, *trust, *foreground, password="wrong"), "alice", "password")
        refused(quicfs("mount", url + "x", tmp_path, *trust, *foreground), "'sharex'")
        refused(quicfs("mount", f"{url}/none", tmp_path, *trust, *foreground), "none", "no such file")


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    refused(quicfs("umount", tmp_path), str(tmp_path), "not a mount point")
    refused(quicfs("umount", "/proc"), "/proc", "umount(8)")


# A machine that lacks something


def without(hidden: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a mount namespace where a script has hidden something."""
    script = f"{hidden} && exec {shlex.join(command(*arguments))}"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ | {"QUICFS_PASSWORD": PASSWORD},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_no_fuse_device(require, url: str, trust: Trust, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    require("root", "fuse")
    devices = tmp_path / "dev"
    devices.mkdir()
    binds = []
    for name in ("null", "zero", "random", "urandom"):
        (devices / name).touch()
        binds.append(f"mount --bind /dev/{name} {devices / name}")
    hide = " && ".join([*binds, f"mount --rbind {devices} /dev"])
    (tmp_path / "mount").mkdir()
    refused(without(hide, "mount", url, tmp_path / "mount", *trust), "/dev/fuse", "modprobe fuse")


def test_no_gnutls(require, url: str, trust: Trust) -> None:  # type: ignore[no-untyped-def]
    require("root", "libgnutls")
    found = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    library = next(line.split(" => ")[1] for line in found.splitlines() if "libgnutls.so.30" in line)
    hide = f"mount --bind /dev/null {library}"
    refused(without(hide, "ls", url, *trust), "libgnutls.so.30", "install")
