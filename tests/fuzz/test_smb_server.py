"""Valid requests with bytes changed: the server answers or ends the connection, and never stumbles."""

from __future__ import annotations

import asyncio
import random
import struct
from pathlib import Path

import pytest

from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.access import CreateOptions
from quicfs.smb.messages.create import RELATED_FILE_ID, CreateRequest
from quicfs.smb.messages.header import RELATED_OPERATIONS, Command
from quicfs.smb.messages.info import QueryInfoRequest, SetInfoRequest
from quicfs.smb.messages.ioctl import Fsctl, IoctlRequest
from quicfs.smb.messages.lock import LockElement, LockRequest
from quicfs.smb.messages.negotiate import NegotiateRequest
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.query_directory import QueryDirectoryRequest
from quicfs.smb.messages.read import ReadRequest
from quicfs.smb.messages.session import SessionSetupRequest
from quicfs.smb.messages.tree import TreeConnectRequest
from quicfs.smb.messages.write import WriteRequest
from tests.unit.smb.raw_client import ALL, GUID, RawClient, Site, site

ROUNDS = 60
F = RELATED_FILE_ID
CREATE = CreateRequest(
    "dir\\file", ALL, 7, 3, contexts={b"MxAc": b"", create_contexts.POSIX: bytes(4), b"AlSi": bytes(8)}
).pack()
CREATE_DIRECTORY = CreateRequest("", ALL, 7, 1, CreateOptions.DIRECTORY_FILE).pack()
LINK = bytes.fromhex("0c0000a0 1000 0000 0000 0200 0200 0200 01000000 7800 7800".replace(" ", ""))
AFTER_CREATE = [
    (Command.READ, ReadRequest(F, 0, 100).pack()),
    (Command.WRITE, WriteRequest(F, 0, b"data").pack_head() + b"data"),
    (Command.LOCK, LockRequest(F, [LockElement(0, 5, 0x12), LockElement(9, 5, 0x11)]).pack()),
    (Command.SET_INFO, SetInfoRequest(F, 1, 4, bytes(40)).pack()),
    (
        Command.SET_INFO,
        SetInfoRequest(F, 1, 10, struct.pack("<B7xQI", 1, 0, 6) + "new".encode("utf-16-le")).pack(),
    ),
    (Command.SET_INFO, SetInfoRequest(F, 1, 20, bytes(8)).pack()),
    (
        Command.SET_INFO,
        SetInfoRequest(F, 3, 0, bytes.fromhex("0100048000000000000000000000000000000000"), 4).pack(),
    ),
    (Command.QUERY_INFO, QueryInfoRequest(F, 1, 18).pack()),
    (Command.QUERY_INFO, QueryInfoRequest(F, 2, 5).pack()),
    (Command.QUERY_INFO, QueryInfoRequest(F, 3, 0, 4096, 7).pack()),
    (Command.IOCTL, IoctlRequest(Fsctl.SET_REPARSE_POINT, F, LINK).pack()),
    (
        Command.IOCTL,
        IoctlRequest(Fsctl.SRV_COPYCHUNK, F, struct.pack("<24sIIQQII", b"k", 1, 0, 0, 0, 5, 0)).pack(),
    ),
    (Command.IOCTL, IoctlRequest(Fsctl.QUERY_ALLOCATED_RANGES, F, bytes(16)).pack()),
    (Command.IOCTL, IoctlRequest(Fsctl.SET_ZERO_DATA, F, struct.pack("<QQ", 0, 9)).pack()),
    (Command.QUERY_DIRECTORY, QueryDirectoryRequest(F, 37, "*").pack()),
]


def mutated(body: bytes, rng: random.Random) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(changed))
        changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.1:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


async def survived(here: Site, client: RawClient) -> RawClient | None:
    """Read what comes until our ECHO is answered; None when the server has ended the connection."""
    echo = client.message_id
    try:
        await client.send_raw(client.header(Command.ECHO).pack() + b"\4\0\0\0")
        while True:
            packet = await client.read_packet()
            if packet is None:
                return None
            if int.from_bytes(packet[24:32], "little") == echo:
                return client
    except ConnectionError:
        return None


@pytest.mark.parametrize("seed", range(6))
def test_mutated_requests(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        (tmp_path / "dir").mkdir()
        async with site(tmp_path) as here:
            client: RawClient | None = None
            for _ in range(ROUNDS):
                for command, body in AFTER_CREATE:
                    if client is None or client.message_id > 100_000:
                        client = await here.client()
                    first = CREATE_DIRECTORY if command == Command.QUERY_DIRECTORY else CREATE
                    packet = compound(
                        client, (Command.CREATE, mutated(first, rng)), (command, mutated(body, rng))
                    )
                    if rng.random() < 0.1:
                        packet = mutated(packet, rng)
                    await client.send_raw(packet)
                    client = await survived(here, client)

    asyncio.run(main())
    assert not [record for record in caplog.records if record.exc_info]


def compound(client: RawClient, *requests: tuple[int, bytes]) -> bytes:
    packet = b""
    for index, (command, body) in enumerate(requests):
        last = index == len(requests) - 1
        padding = b"" if last else bytes(-len(body) % 8)
        header = client.header(command, flags=RELATED_OPERATIONS if index else 0)
        header.next_command = 0 if last else 64 + len(body) + len(padding)
        packet += header.pack() + body + padding
    return packet


@pytest.mark.parametrize("seed", range(3))
def test_mutated_beginnings(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(seed)
    contexts = NegotiateContexts((1,), bytes(32), (2, 1), (2, 1), "server", 1, True)
    first = NegotiateRequest((0x0311,), GUID, 1, 0x44, contexts).pack()
    tree = TreeConnectRequest("\\\\server\\share").pack()

    async def main() -> None:
        async with site(tmp_path) as here:
            for _ in range(ROUNDS):
                client: RawClient | None = here.raw(secured=bool(rng.getrandbits(1)))
                assert client is not None
                await client.send_raw(client.header(Command.NEGOTIATE).pack() + mutated(first, rng))
                for command, body in (
                    (Command.SESSION_SETUP, SessionSetupRequest(b"token").pack()),
                    (Command.TREE_CONNECT, tree),
                ):
                    if client is not None:
                        client = await survived(here, client)
                    if client is not None:
                        await client.send_raw(client.header(command).pack() + mutated(body, rng))
                if client is not None:
                    await survived(here, client)
                    await client.stream.aclose()

    asyncio.run(main())
    assert not [record for record in caplog.records if record.exc_info]
