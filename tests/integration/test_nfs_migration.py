"""NFS while the client moves to other addresses (RFC 9000 §9): same connection, same session, same opens."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from quicfs import certs
from quicfs.agents import client_net
from quicfs.client_nfs import connect_rpc
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.rpc.quic import RpcConnection
from quicfs.nfs.rpc.service import Program
from quicfs.options import AgentOptions
from quicfs.transport import sockaddr
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import SockOpt
from quicfs.url import Address
from quicfs.vfs.api import LockKind, OpenFlags
from tests.integration.nfs_rig import EXPORT, serving

PIECE = 64 << 10
PLACES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")


def test_files_stay_open_while_the_client_moves(tmp_path: Path, require: Callable[..., None]) -> None:
    require("libgnutls")
    folder, state = tmp_path / "folder", tmp_path / "state"
    folder.mkdir()
    state.mkdir()
    files = certs.create(tmp_path / "certificates", ["localhost", "127.0.0.1"])
    connections: list[QuicSocket] = []

    async def main(port: int) -> None:
        async with client_net(AgentOptions(ca=files.ca)) as net:

            async def connect(programs: Sequence[Program]) -> RpcConnection:
                connection = await connect_rpc(net, Address("127.0.0.1", port), programs)
                assert isinstance(connection.conn, QuicSocket)
                connections.append(connection.conn)
                return connection

            fs = NfsFileSystem(connect, "127.0.0.1", EXPORT, timeout=20.0)
            await fs.connect()
            flags = OpenFlags.READ | OpenFlags.WRITE | OpenFlags.CREATE
            file, _, _ = await fs.open(fs.root, "a", flags, 0o644)
            await file.lock(0, 1, LockKind.EXCLUSIVE, owner=1)
            session = fs.uplink.current
            content = bytearray()
            dice = random.Random(1)
            (conn,) = connections
            for place in PLACES:
                asked = False
                while conn.getsockname()[0] != place:
                    with contextlib.suppress(
                        OSError
                    ):  # the server has to give connection IDs for more paths first
                        if not asked:
                            conn.setsockopt(SockOpt.CONNECTION_MIGRATION, sockaddr.pack((place, 0)))
                            asked = True
                    piece = dice.randbytes(PIECE)
                    await file.write(len(content), piece)
                    content += piece
                    await fs.lookup(fs.root, "a")
                await file.fsync()
            assert bytes(await file.read(0, len(content))) == content
            assert fs.uplink.current is session is not None
            await file.close()
            await fs.close()
            assert (folder / "a").read_bytes() == content

    with serving(folder, state, cert=files.cert, key=files.key) as (_, port):
        asyncio.run(asyncio.wait_for(main(port), 60))
    assert len(connections) == 1
