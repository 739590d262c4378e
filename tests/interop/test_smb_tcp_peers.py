"""The server on TCP against clients that we did not write: Samba's smbclient and impacket."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from impacket.smb3structs import (
    SMB2_DIALECT_002,
    SMB2_DIALECT_21,
    SMB2_DIALECT_30,
    SMB2_DIALECT_311,
)
from impacket.smbconnection import SessionError, SMBConnection

from quicfs.smb.auth import NtlmAuthenticator
from quicfs.smb.ntlm import TargetNames
from quicfs.smb.server import Share, SmbServer
from quicfs.smb.users import nt_hash
from quicfs.transport.tcp_stream import listen_tcp
from quicfs.vfs.local import LocalTree

pytestmark = pytest.mark.interop

USER, PASSWORD = "alice", "correct horse"


class OneUser:
    def find(self, name: str) -> bytes | None:
        return nt_hash(PASSWORD) if name.lower() == USER else None


@dataclass
class Served:
    folder: Path
    port: int


@pytest.fixture(params=[False, True], ids=["signed", "encrypted"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server in a thread of its own. Encrypted: clients that cannot encrypt are refused."""
    folder = tmp_path / "share"
    folder.mkdir()
    ready = threading.Event()
    stop: list[Callable[[], object]] = []
    ports: list[int] = []

    async def main() -> None:
        tree = LocalTree(folder)
        shares = {"share": Share("share", tree, comment="a folder"), "ro": Share("ro", tree, read_only=True)}
        authenticator = NtlmAuthenticator(OneUser(), TargetNames("QUICFS"))
        server = SmbServer(shares, authenticator, encryption_required=request.param)
        listener = await listen_tcp("127.0.0.1", 0, server.serve_stream)
        ports.append(listener.port)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        ready.set()
        await ended.wait()
        await listener.aclose()
        await tree.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert ready.wait(10)
        yield Served(folder, ports[0])
    finally:
        for end in stop:
            end()
        thread.join(20)
    assert not thread.is_alive()


def smbclient(
    served: Served, commands: str, *options: str, share: str = "share", password: str = PASSWORD
) -> str:
    """What smbclient says; it must succeed."""
    done = run_smbclient(served, commands, *options, share=share, password=password)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_smbclient(
    served: Served, commands: str, *options: str, share: str = "share", password: str = PASSWORD
) -> subprocess.CompletedProcess[str]:
    where = ["-L", "//127.0.0.1"] if not commands else [f"//127.0.0.1/{share}", "-c", commands]
    return subprocess.run(
        ["smbclient", "-p", str(served.port), "-U", f"{USER}%{password}", "-t", "60", *options, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        cwd=served.folder.parent,
    )


@pytest.fixture(autouse=True)
def _smbclient_is_there(require: Callable[..., None]) -> None:
    require("smbclient")


@pytest.mark.parametrize(
    "options",
    [
        ("-m", "SMB3_11"),
        ("-m", "SMB3_11", "--client-protection=encrypt"),
        ("-m", "SMB3_02"),
        ("-m", "SMB3_00"),
        ("-m", "SMB2_10"),
        ("-m", "SMB2_02"),
    ],
    ids=" ".join,
)
def test_smbclient_in_every_dialect(
    served: Served, options: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    encrypted = "encrypted" in request.node.name
    source = served.folder.parent / "source"
    source.write_bytes(os.urandom(3_000_001))
    commands = "mkdir d; put source d\\file; get d\\file back; rename d\\file moved; ls; del moved; rmdir d"
    done = run_smbclient(served, commands, *options)
    if encrypted and options[1].startswith("SMB2"):
        assert "NT_STATUS_ACCESS_DENIED" in done.stdout
        return
    assert done.returncode == 0, done.stdout
    assert (served.folder.parent / "back").read_bytes() == source.read_bytes()
    assert "moved" in done.stdout
    assert list(served.folder.iterdir()) == []


def test_smbclient_walks_a_tree(served: Served) -> None:
    tree = served.folder.parent / "tree"
    for number in range(200):
        path = tree / f"dir {number % 7}" / f"file ä {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 37))
    smbclient(served, "prompt off; recurse on; mput tree")
    (served.folder.parent / "down").mkdir()
    smbclient(served, "prompt off; recurse on; lcd down; mget tree")
    for path in tree.rglob("file*"):
        relative = path.relative_to(served.folder.parent)
        assert (served.folder / relative).read_bytes() == path.read_bytes()
        assert (served.folder.parent / "down" / relative).read_bytes() == path.read_bytes()
    assert "file ä 199" in smbclient(served, "recurse on; ls")
    smbclient(served, "deltree tree")
    assert list(served.folder.iterdir()) == []


def test_smbclient_lists_shares_and_space(served: Served) -> None:
    listed = smbclient(served, "")
    assert "share" in listed
    assert "a folder" in listed
    assert "blocks available" in smbclient(served, "du")
    (served.folder / "file").write_bytes(b"x" * 1000)
    said = smbclient(served, "allinfo file")
    assert "stream: [::$DATA], 1000 bytes" in said


def test_smbclient_is_refused(served: Served) -> None:
    assert "LOGON_FAILURE" in run_smbclient(served, "ls", password="wrong").stdout
    assert "BAD_NETWORK_NAME" in run_smbclient(served, "ls", share="missing").stdout
    (served.folder / "file").touch()
    assert "NT_STATUS" in run_smbclient(served, "del file; mkdir new", share="ro").stdout
    assert [path.name for path in served.folder.iterdir()] == ["file"]


@pytest.mark.parametrize("dialect", [SMB2_DIALECT_002, SMB2_DIALECT_21, SMB2_DIALECT_30, SMB2_DIALECT_311])
def test_impacket(served: Served, dialect: int, request: pytest.FixtureRequest) -> None:
    encrypted = "encrypted" in request.node.name
    connection = SMBConnection("127.0.0.1", "127.0.0.1", sess_port=served.port, preferredDialect=dialect)
    try:
        if encrypted and dialect < SMB2_DIALECT_30:
            with pytest.raises(SessionError):
                connection.login(USER, PASSWORD)
            return
        connection.login(USER, PASSWORD)
        assert connection.getDialect() == dialect
        assert "share\0" in [share["shi1_netname"] for share in connection.listShares()]
        data = os.urandom(500_000)
        connection.createDirectory("share", "sub")
        connection.putFile("share", "sub/file", io.BytesIO(data).read)
        out = io.BytesIO()
        connection.getFile("share", "sub/file", out.write)
        assert out.getvalue() == data
        found = {entry.get_longname(): entry for entry in connection.listPath("share", "sub\\*")}
        assert set(found) == {".", "..", "file"}
        assert found["file"].get_filesize() == len(data)
        connection.rename("share", "sub\\file", "sub\\other")
        connection.deleteFile("share", "SUB\\OTHER")
        connection.deleteDirectory("share", "sub")
        assert list(served.folder.iterdir()) == []
        with pytest.raises(SessionError, match="OBJECT_NAME_NOT_FOUND"):
            connection.deleteFile("share", "missing")
        with pytest.raises(SessionError, match="BAD_NETWORK_NAME"):
            connection.connectTree("missing")
        connection.logoff()
    finally:
        connection.close()
