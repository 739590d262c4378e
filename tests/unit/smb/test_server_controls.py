"""Links, copies, holes, locks, notifications, and requests that make no sense."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.reparse import SymlinkReparse, parse_symlink
from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.access import CreateDisposition, CreateOptions
from quicfs.smb.messages.change_notify import ChangeNotifyRequest, NotifyAction, parse_notifications
from quicfs.smb.messages.close import CloseRequest
from quicfs.smb.messages.header import ASYNC_COMMAND, Command, Header
from quicfs.smb.messages.ioctl import Fsctl
from quicfs.smb.messages.lock import LockElement, LockRequest
from quicfs.smb.messages.output import parse_output
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.ntstatus import NtStatus
from tests.unit.smb.file_requests import POSIX, ioctl, query, read, set_info, write
from tests.unit.smb.raw_client import READ, site

CREATE, OPEN = CreateDisposition.CREATE, CreateDisposition.OPEN


def test_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"content")

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("link", disposition=CREATE)
            link = SymlinkReparse("target", "target", True).pack()
            assert (await ioctl(client, Fsctl.SET_REPARSE_POINT, file_id, link))[0] == 0
            await client.close(file_id)
            assert os.readlink(tmp_path / "link") == "target"
            followed = await client.opened("link", disposition=OPEN, access=READ)
            assert await read(client, followed, 0, 10) == b"content"
            itself = await client.opened("link", disposition=OPEN, options=CreateOptions.OPEN_REPARSE_POINT)
            status, data = await ioctl(client, Fsctl.GET_REPARSE_POINT, itself)
            assert (status, parse_symlink(memoryview(data))) == (0, "target")
            assert (await ioctl(client, Fsctl.GET_REPARSE_POINT, followed))[0] == NtStatus.NOT_A_REPARSE_POINT
            assert await set_info(client, itself, FileInfoClass.DISPOSITION, b"\1") == 0
            await client.close(itself)
            assert not (tmp_path / "link").is_symlink()
            assert (tmp_path / "target").exists()
            for data, expected in (
                (b"x" * 4, NtStatus.IO_REPARSE_DATA_INVALID),
                (bytes(8), NtStatus.IO_REPARSE_TAG_INVALID),
            ):
                file_id = await client.opened("plain")
                assert (await ioctl(client, Fsctl.SET_REPARSE_POINT, file_id, data))[0] == expected

    asyncio.run(main())


def test_links_do_not_lead_out_of_the_share(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (share / "absolute").symlink_to(tmp_path / "secret")
    (share / "relative").symlink_to("../secret")
    (share / "up").symlink_to("..")

    async def main() -> None:
        async with site(share) as here:
            client = await here.client()
            for name in ("absolute", "relative", "up\\secret"):
                for contexts in ({}, POSIX):
                    status, _ = await client.create(name, access=READ, disposition=OPEN, contexts=contexts)
                    assert status != 0

    asyncio.run(main())


def test_copy_chunk(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(range(256)) * 16)

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            source, target = await client.opened("source"), await client.opened("target")
            _, key = await ioctl(client, Fsctl.SRV_REQUEST_RESUME_KEY, source)
            chunks = struct.pack("<24sIIQQII", key[:24], 1, 0, 256, 10, 512, 0)
            status, answer = await ioctl(client, Fsctl.SRV_COPYCHUNK, target, chunks)
            assert (status, struct.unpack("<III", answer)) == (0, (1, 0, 512))
            assert (tmp_path / "target").read_bytes() == bytes(10) + bytes(range(256)) * 2
            beyond = struct.pack("<24sIIQQII", key[:24], 1, 0, 4000, 0, 512, 0)
            assert (await ioctl(client, Fsctl.SRV_COPYCHUNK, target, beyond))[0] == NtStatus.INVALID_VIEW_SIZE
            unknown = struct.pack("<24sIIQQII", bytes(24), 1, 0, 0, 0, 512, 0)
            assert (await ioctl(client, Fsctl.SRV_COPYCHUNK, target, unknown))[
                0
            ] == NtStatus.OBJECT_NAME_NOT_FOUND
            status, answer = await ioctl(
                client, Fsctl.SRV_COPYCHUNK, target, struct.pack("<24sII", key[:24], 999, 0)
            )
            assert status == NtStatus.INVALID_PARAMETER
            assert struct.unpack("<III", answer)[0] == 256

    asyncio.run(main())


def test_sparse_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            await write(client, file_id, 0, b"x" * 65536)
            await write(client, file_id, 1 << 20, b"y" * 65536)
            assert (await ioctl(client, Fsctl.SET_SPARSE, file_id))[0] == 0
            status, data = await ioctl(
                client, Fsctl.QUERY_ALLOCATED_RANGES, file_id, struct.pack("<QQ", 0, 1 << 21)
            )
            assert status == 0
            assert list(struct.iter_unpack("<QQ", data)) == [(0, 65536), (1 << 20, 65536)]
            assert (await ioctl(client, Fsctl.SET_ZERO_DATA, file_id, struct.pack("<QQ", 0, 4096)))[0] == 0
            assert await read(client, file_id, 4095, 2) == b"\0x"
            bad = struct.pack("<QQ", 5, 4)
            assert (await ioctl(client, Fsctl.SET_ZERO_DATA, file_id, bad))[0] == NtStatus.INVALID_PARAMETER

    asyncio.run(main())


def test_other_controls(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            assert (await ioctl(client, Fsctl.DFS_GET_REFERRALS, b"\xff" * 16))[0] == NtStatus.NOT_FOUND
            assert (await ioctl(client, 0x123456, b"\xff" * 16))[0] == NtStatus.INVALID_DEVICE_REQUEST
            assert (await ioctl(client, Fsctl.PIPE_TRANSCEIVE, b"\xff" * 16))[0] == NtStatus.FILE_CLOSED

    asyncio.run(main())


def test_extended_attributes_are_declined(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            for data in (b"", b"\xff" * 16, bytes(8)):
                contexts = {create_contexts.EXTENDED_ATTRIBUTES: data}
                assert (await client.create("file", contexts=contexts))[0] == NtStatus.EAS_NOT_SUPPORTED
            file_id = await client.opened("file")
            assert (await query(client, file_id, FileInfoClass.FULL_EA)).status == NtStatus.NO_EAS_ON_FILE
            assert (
                await set_info(client, file_id, FileInfoClass.FULL_EA, b"\xff" * 20)
                == NtStatus.INVALID_INFO_CLASS
            )

    asyncio.run(main())


def lock(file_id: bytes, *locks: tuple[int, int, int]) -> bytes:
    return LockRequest(file_id, [LockElement(*one) for one in locks]).pack()


def test_locks_bind_other_opens(tmp_path: Path) -> None:
    exclusive, shared, unlock = 0x12, 0x11, 4

    async def main() -> None:
        async with site(tmp_path) as here:
            one, two = await here.client(), await here.client(user=b"bob")
            mine, theirs = await one.opened("file"), await two.opened("file")
            await write(one, mine, 0, b"0123456789")
            assert (await one.ask(Command.LOCK, lock(mine, (0, 5, exclusive)))).status == 0
            assert await read(two, theirs, 0, 2) == NtStatus.FILE_LOCK_CONFLICT
            assert await read(two, theirs, 5, 2) == b"56"
            assert await read(one, mine, 0, 2) == b"01"
            assert await write(two, theirs, 4, b"x") == NtStatus.FILE_LOCK_CONFLICT
            assert (
                await two.ask(Command.LOCK, lock(theirs, (2, 1, shared)))
            ).status == NtStatus.LOCK_NOT_GRANTED
            assert (
                await one.ask(Command.LOCK, lock(mine, (0, 4, unlock)))
            ).status == NtStatus.RANGE_NOT_LOCKED
            assert (await one.ask(Command.LOCK, lock(mine, (0, 5, unlock)))).status == 0
            assert (await two.ask(Command.LOCK, lock(theirs, (2, 1, shared)))).status == 0
            assert (await one.ask(Command.LOCK, lock(mine, (0, 5, shared)))).status == 0
            bad = lock(mine, ((1 << 64) - 1, 5, exclusive))
            assert (await one.ask(Command.LOCK, bad)).status == NtStatus.INVALID_LOCK_RANGE

    asyncio.run(main())


def test_a_lock_that_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            one, two = await here.client(), await here.client(user=b"bob")
            mine, theirs = await one.opened("file"), await two.opened("file")
            assert (await one.ask(Command.LOCK, lock(mine, (0, 5, 2)))).status == 0
            await two.start(Command.LOCK, lock(theirs, (0, 5, 2)))
            (interim,) = await two.read()
            assert interim.status == NtStatus.PENDING
            assert interim.header.flags & ASYNC_COMMAND
            await one.close(mine)
            (granted,) = await two.read()
            assert granted.status == 0
            assert granted.header.async_id == interim.header.async_id

    asyncio.run(main())


def test_change_notify(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            directory = await client.directory("")
            ask = ChangeNotifyRequest(directory, 0xFFF).pack()
            await client.start(Command.CHANGE_NOTIFY, ask)
            assert (await client.read())[0].status == NtStatus.PENDING
            (tmp_path / "new").touch()
            (answer,) = await client.read()
            assert (NotifyAction.ADDED, "new") in parse_notifications(parse_output(answer.message))

    asyncio.run(main())


@pytest.mark.parametrize("how", ["cancel", "close", "logoff", "disconnect"])
def test_a_pending_request_ends(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            directory = await client.directory("quiet")
            message_id = await client.start(
                Command.CHANGE_NOTIFY, ChangeNotifyRequest(directory, 0xFFF).pack()
            )
            (interim,) = await client.read()
            if how == "cancel":
                cancel = Header(
                    Command.CANCEL,
                    message_id,
                    client.session_id,
                    0,
                    interim.header.async_id,
                    flags=ASYNC_COMMAND,
                )
                await client.send_raw(client.sign(cancel.pack() + EMPTY_BODY))
                (answer,) = await client.read()
                assert answer.status == NtStatus.CANCELLED
                assert answer.header.async_id == interim.header.async_id
                assert answer.header.credits == 0
                return
            bodies = {
                "close": (Command.CLOSE, CloseRequest(directory).pack()),
                "logoff": (Command.LOGOFF, EMPTY_BODY),
                "disconnect": (Command.TREE_DISCONNECT, EMPTY_BODY),
            }
            await client.start(*bodies[how])
            answers = [(await client.read())[0], (await client.read())[0]]
            statuses = {answer.header.command: answer.status for answer in answers}
            assert statuses[bodies[how][0]] == 0
            assert statuses[Command.CHANGE_NOTIFY] in (NtStatus.NOTIFY_CLEANUP, NtStatus.CANCELLED)

    asyncio.run(main())


def test_short_bodies_are_refused_and_harm_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            for command in range(5, 18):
                if command == Command.CANCEL:
                    continue
                for body in (b"", b"\0", bytes(4), b"\xff" * 60):
                    answer = await client.ask(command, body)
                    assert answer.status == NtStatus.INVALID_PARAMETER, (command, body)
            assert await client.close(await client.opened("file")) == 0

    asyncio.run(main())
