"""`quicfs serve` with NFS: beside SMB on one port, several folders, and who calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.integration.cli import Site, quicfs, refused, running
from tests.integration.handshake_rig import Authority

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a server that root runs acts for others")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


def port_of(line: str) -> str:
    return line.partition("+quic://")[2].partition("/")[0].rpartition(":")[2]


def keys(site: Site) -> list[str | Path]:
    return ["--listen", "localhost:0", "--cert", site.files.cert, "--key", site.files.key]


def test_two_protocols_and_two_folders_on_one_port(site: Site, tmp_path: Path) -> None:
    """draft-cel-nfsv4-rpc-over-quicv1-06 §3.2.1: what the client offers in its handshake decides."""
    music = tmp_path / "mp3"
    music.mkdir()
    (music / "song").write_text("la")
    (site.share / "plan").write_text("a")
    trust = ["--ca", site.files.ca]
    arguments = ["serve", site.share, f"music={music}", "--nfs", "--users", site.users, *keys(site)]
    with running(*arguments) as (_, line):
        port = port_of(line)
        smb, nfs = f"smb://alice@localhost:{port}", f"nfs://localhost:{port}"
        assert f"smb+quic://localhost:{port}/music and nfs+quic://localhost:{port}/music" in line
        assert quicfs("ls", nfs, *trust, password=None).stdout == "music\nshare\n"
        assert set(quicfs("ls", smb, *trust).stdout.split()) == {"music", "share"}
        for base in (smb, nfs):
            assert quicfs("cat", f"{base}/music/song", *trust).stdout == "la"
            assert quicfs("cat", f"{base}/share/plan", *trust).stdout == "a"
        refused(quicfs("ls", f"{nfs}/films", *trust), "exports no /films")


def test_nfs_alone_on_quic_and_tcp(site: Site, tmp_path: Path) -> None:
    (site.share / "file").write_text("x")
    trust = ["--ca", site.files.ca]
    arguments = ["serve", site.share, "--no-smb", "--nfs-tcp", "127.0.0.1:0", *keys(site)]
    log = tmp_path / "log"
    with running(*arguments, log=log) as (_, line):
        assert "smb" not in line and "TCP 127.0.0.1:" in line
        assert "NFS has no logins" in log.read_text()
        refused(quicfs("ls", f"smb://alice@localhost:{port_of(line)}/share", *trust))
        gateway = f"nfs://127.0.0.1:{line.partition('TCP 127.0.0.1:')[2].partition(';')[0]}"
        with running("gateway", "--to", gateway, *keys(site)) as (_, passing):
            url = passing.split()[1]
            assert "file" in quicfs("ls", f"{url}/share", *trust).stdout.split()


@root_only
def test_who_owns_what_is_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "open to all"
    folder.mkdir()
    folder.chmod(0o777)
    trust = ["--ca", site.files.ca]
    for options, owner in (
        ([], (65534, 65534)),
        (["--no-root-squash"], (0, 0)),
        (["--all-squash", "--anonuid", "850", "--anongid", "851"], (850, 851)),
    ):
        with running("serve", f"all={folder}", "--no-smb", "--nfs", *options, *keys(site)) as (_, line):
            url = f"nfs://localhost:{port_of(line)}/all/file"
            assert quicfs("put", tmp_path / "file", url, *trust).returncode == 0
            status = (folder / "file").stat()
            assert (status.st_uid, status.st_gid) == owner
            (folder / "file").unlink()


@root_only
def test_the_certificate_says_who_it_is(site: Site, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "staff")
    alice = authority.issue("alice", "alice.example.org", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    guest = authority.issue("guest", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    identities = tmp_path / "map"
    identities.write_text("alice.example.org = 850:851\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    options = ["--no-root-squash", "--identity-map", identities, "--client-ca", authority.path]
    with running("serve", folder, "--no-smb", "--nfs", *options, *keys(site)) as (_, line):
        url = f"nfs://localhost:{port_of(line)}/folder"
        for who, owner in ((alice, 850), (guest, 65534)):
            mine = ["--ca", site.files.ca, "--cert", who[0], "--key", who[1]]
            assert quicfs("put", identities, f"{url}/{owner}", *mine).returncode == 0
            assert (folder / str(owner)).stat().st_uid == owner
        assert quicfs("ls", url, "--ca", site.files.ca).returncode == 1
        identities.write_text("cn:guest = 900:900\n")
        for turn in range(5):  # the server looks once a second
            assert quicfs("put", identities, f"{url}/turn{turn}", *mine).returncode == 0
            if (folder / f"turn{turn}").stat().st_uid == 900:
                break
        else:
            raise AssertionError("the new map does not count")


def test_mistakes(site: Site, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("alice = nobody-of-this-name\n")
    wrong = ["--identity-map", tmp_path / "map"]
    refused(quicfs("serve", site.share, "--no-smb", "--nfs", *wrong, *keys(site)), "line 1", "no user")
    other = tmp_path / "x" / "share"
    other.mkdir(parents=True)
    refused(quicfs("serve", site.share, other, "--guest", *keys(site)), "two folders", "NAME=DIR")
    for arguments in (["--no-smb"], ["--no-smb", "--nfs", "--tcp", "127.0.0.1:0"]):
        assert quicfs("serve", site.share, *arguments, *keys(site)).returncode == 2


def test_two_servers_do_not_share_their_state(site: Site) -> None:
    with running("serve", site.share, "--no-smb", "--nfs", *keys(site)) as (_, line):
        listen = f"localhost:{port_of(line)}"
    arguments = ["serve", site.share, "--no-smb", "--nfs", *keys(site), "--listen", listen]
    with running(*arguments):
        refused(quicfs(*arguments), "another server")
