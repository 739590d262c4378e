"""An NFS server on QUIC or TCP, and mounts of it, as processes of their own, made from the library alone.

As a program: `nfs_rig.py serve JSON` or `nfs_rig.py mount JSON`. It says one line when it is ready, and ends at SIGTERM
(or when the mount is unmounted).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quicfs.agents import client_net, server_net
from quicfs.fuse_mount import MountError, parse_options, serve_mount, unmount_path
from quicfs.nfs.client.channel import Connect, Connection
from quicfs.nfs.client.filesystem import NfsFileSystem
from quicfs.nfs.client.tcp import tcp_connector
from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.rpc.quic import ALPN, RpcConnection, rpc_config, serve_connection
from quicfs.nfs.rpc.service import Program
from quicfs.nfs.rpc.tcp import listen_tcp
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.server import NfsServer
from quicfs.options import AgentOptions
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from quicfs.vfs.local import LocalTree

EXPORT = "/export"


@contextlib.contextmanager
def _program(mode: str, settings: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, __file__, mode, json.dumps(settings)]
    log = settings.get("log", os.devnull)
    with (
        open(log, "ab") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()
            assert line, f"{mode} failed; see {log}"
            yield process, line
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def serving(
    folder: Path,
    state: Path,
    *,
    cert: Path | None = None,
    key: Path | None = None,
    port: int = 0,
    **more: Any,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server of `folder` on QUIC, or on TCP without a certificate; (its process, its port)."""
    settings = {"folder": str(folder), "state": str(state), "port": port, **more}
    if cert is not None:
        settings |= {"cert": str(cert), "key": str(key)}
    with _program("serve", settings) as (process, line):
        yield process, int(line)


@contextlib.contextmanager
def mounted(
    port: int, point: Path, *, ca: Path | None = None, export: str = EXPORT, options: str = "", **more: Any
) -> Iterator[subprocess.Popen[str]]:
    point.mkdir(exist_ok=True)
    settings = {"port": port, "point": str(point), "export": export, "options": options, **more}
    if ca is not None:
        settings["ca"] = str(ca)
    with _program("mount", settings) as (process, line):
        assert line == "ready", line
        try:
            yield process
        finally:
            with contextlib.suppress(MountError):
                unmount_path(str(point), lazy=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


# --- the processes


async def _told() -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


async def _serve(settings: dict[str, Any]) -> None:
    tree = LocalTree(settings["folder"])
    export = Export(EXPORT, tree, squash=Squash(no_root_squash=True))
    server = NfsServer(
        [export],
        state_directory=Path(settings["state"]),
        lease=settings.get("lease", 90.0),
        delegations=settings.get("delegations", True),
    )
    await server.start()
    if "cert" not in settings:
        listener = await listen_tcp("127.0.0.1", settings["port"], server.programs)
        print(listener.addresses[0][1], flush=True)
        await _told()
        await listener.aclose()
    else:
        await _serve_quic(settings, server)
    await server.aclose()
    await tree.close()


async def _serve_quic(settings: dict[str, Any], server: NfsServer) -> None:
    options = AgentOptions(cert=Path(settings["cert"]), key=Path(settings["key"]))
    async with server_net(options) as net:
        config = rpc_config(ConnectionConfig(reset_key=b"reset key of the test's server ."))
        listener = QuicSocket(net, config=config)
        listener.setsockopt(SockOpt.ALPN, ALPN)
        listener.bind(("127.0.0.1", settings["port"]))
        listener.listen()
        print(listener.getsockname()[1], flush=True)

        async def accept() -> None:
            tasks = set()
            while True:
                task = asyncio.create_task(serve(await listener.accept()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        async def serve(conn: QuicSocket) -> None:
            with contextlib.suppress(OSError):
                await conn.handshake(HandshakeRequest(MessageType.SERVERHELLO, 10_000, AuthMode.X509))
                await serve_connection(conn, server.programs)

        accepting = asyncio.create_task(accept())
        await _told()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await listener.close()


@contextlib.asynccontextmanager
async def _connector(settings: dict[str, Any]) -> AsyncIterator[Connect]:
    port = settings["port"]
    if "ca" not in settings:
        yield tcp_connector("127.0.0.1", port)
        return
    async with client_net(AgentOptions(ca=Path(settings["ca"]))) as net:

        async def connect(programs: Sequence[Program]) -> Connection:
            conn = QuicSocket(net.net, config=rpc_config(ConnectionConfig(keep_alive=15.0)))
            try:
                conn.setsockopt(SockOpt.ALPN, ALPN)
                conn.setsockopt(SockOpt.CONFIG, replace(conn.options, receive_session_ticket=0).pack())
                await conn.connect(("127.0.0.1", port))
                request = HandshakeRequest(MessageType.CLIENTHELLO, 5000, AuthMode.UNAUTH, "localhost")
                await conn.handshake(request)
            except ClosedError as error:
                await conn.close()
                raise ConnectionError(str(error)) from error
            except BaseException:
                await conn.close()
                raise
            return RpcConnection(conn, programs)

        yield connect


async def _mount(settings: dict[str, Any]) -> None:
    async with _connector(settings) as connect:
        options = parse_options(settings["options"])
        fs = NfsFileSystem(connect, "localhost", settings["export"], timeout=settings.get("timeout", 30.0))
        try:
            await fs.connect()
            serving = asyncio.ensure_future(
                serve_mount(fs, settings["point"], options, ready=lambda: print("ready", flush=True))
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await serving
        finally:
            await fs.close()


if __name__ == "__main__":
    asyncio.run({"serve": _serve, "mount": _mount}[sys.argv[1]](json.loads(sys.argv[2])))
