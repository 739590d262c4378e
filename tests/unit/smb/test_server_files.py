"""CREATE and what is done with open files: content, attributes, names."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from quicfs.smb.filetime import filetime_from_ns
from quicfs.smb.fscc import file_info
from quicfs.smb.fscc.classes import FileInfoClass, FsInfoClass
from quicfs.smb.fscc.posix import PosixFsInfo, PosixInfo, mode_from_wire
from quicfs.smb.fscc.security import SecurityDescriptor, descriptor_of_mode
from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.access import Access, CreateAction, CreateDisposition, CreateOptions
from quicfs.smb.messages.close import CloseRequest, CloseResponse, FlushRequest
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.info import InfoType
from quicfs.smb.messages.output import parse_output
from quicfs.smb.messages.read import ReadRequest
from quicfs.smb.ntstatus import NtStatus
from tests.unit.smb.file_requests import POSIX, query, read, set_info, write
from tests.unit.smb.raw_client import READ, site

CREATE, OPEN, SUPERSEDE = CreateDisposition.CREATE, CreateDisposition.OPEN, CreateDisposition.SUPERSEDE
OVERWRITE, OVERWRITE_IF = CreateDisposition.OVERWRITE, CreateDisposition.OVERWRITE_IF
DIRECTORY, NON_DIRECTORY = CreateOptions.DIRECTORY_FILE, CreateOptions.NON_DIRECTORY_FILE


def test_dispositions(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()

            async def act(name: str, disposition: int, **how: int) -> int:
                status, response = await client.create(name, disposition=disposition, **how)  # type: ignore[arg-type]
                if response is None:
                    return status
                await client.close(response.file_id)
                return response.create_action

            assert await act("file", OPEN) == NtStatus.OBJECT_NAME_NOT_FOUND
            assert await act("file", OVERWRITE) == NtStatus.OBJECT_NAME_NOT_FOUND
            assert await act("file", CREATE) == CreateAction.CREATED
            assert await act("file", CREATE) == NtStatus.OBJECT_NAME_COLLISION
            (tmp_path / "file").write_bytes(b"content")
            assert await act("file", OPEN) == CreateAction.OPENED
            assert await act("file", CreateDisposition.OPEN_IF) == CreateAction.OPENED
            assert (tmp_path / "file").stat().st_size == 7
            assert await act("file", OVERWRITE) == CreateAction.OVERWRITTEN
            assert (tmp_path / "file").stat().st_size == 0
            assert await act("file", SUPERSEDE) == CreateAction.SUPERSEDED
            assert await act("new", OVERWRITE_IF) == CreateAction.CREATED
            assert await act("other", SUPERSEDE) == CreateAction.CREATED
            assert await act("file", 6) == NtStatus.INVALID_PARAMETER
            assert await act("dir", CREATE, options=DIRECTORY) == CreateAction.CREATED
            assert await act("dir", OPEN, options=NON_DIRECTORY) == NtStatus.FILE_IS_A_DIRECTORY
            assert await act("file", OPEN, options=DIRECTORY) == NtStatus.NOT_A_DIRECTORY
            assert await act("dir", OPEN, options=DIRECTORY | NON_DIRECTORY) == NtStatus.INVALID_PARAMETER
            assert await act("no\\file", OPEN) == NtStatus.OBJECT_PATH_NOT_FOUND
            assert await act("no\\file", CREATE) == NtStatus.OBJECT_PATH_NOT_FOUND
            assert await act("file\\x", OPEN) == NtStatus.OBJECT_PATH_NOT_FOUND
            assert await act("", OPEN) == CreateAction.OPENED

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("\\file", NtStatus.INVALID_PARAMETER),
        ("..", NtStatus.OBJECT_PATH_SYNTAX_BAD),
        ("dir\\..\\..\\etc", NtStatus.OBJECT_PATH_SYNTAX_BAD),
        ("a/b", NtStatus.OBJECT_NAME_INVALID),
        ("a*", NtStatus.OBJECT_NAME_INVALID),
        ("file:stream", NtStatus.OBJECT_NAME_INVALID),
        ("nul\0", NtStatus.OBJECT_NAME_INVALID),
        ("a\\\\b", NtStatus.OBJECT_NAME_INVALID),
        ("x" * 300, NtStatus.NAME_TOO_LONG),
        ("x" * 5000, NtStatus.OBJECT_NAME_INVALID),
    ],
)
def test_bad_names(tmp_path: Path, name: str, status: int) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            assert (await (await here.client()).create(name))[0] == status

    asyncio.run(main())


def test_content(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            assert await write(client, file_id, 0, b"hello world") == 11
            assert await write(client, file_id, (1 << 64) - 1, b"!") == 1  # the end of the file
            assert await read(client, file_id, 6, 100) == b"world!"
            assert await read(client, file_id, 12, 1) == NtStatus.END_OF_FILE
            assert await read(client, file_id, 0, 0) == b""
            assert await read(client, file_id, 1 << 63, 1) == NtStatus.INVALID_PARAMETER
            assert await write(client, file_id, (1 << 63) - 1, b"x") == NtStatus.INVALID_PARAMETER
            answer = await client.ask(Command.READ, ReadRequest(file_id, 6, 100, 7).pack())
            assert answer.status == NtStatus.END_OF_FILE
            assert (await client.ask(Command.FLUSH, FlushRequest(file_id).pack())).status == 0
            answer = await client.ask(Command.CLOSE, CloseRequest(file_id, 1).pack())
            assert CloseResponse.parse(answer.message).end_of_file == 12

    asyncio.run(main())


def test_rights_of_the_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            reader = await client.opened("file", access=READ)
            assert await write(client, reader, 0, b"x") == NtStatus.ACCESS_DENIED
            assert (
                await set_info(client, reader, FileInfoClass.END_OF_FILE, bytes(8)) == NtStatus.ACCESS_DENIED
            )
            assert await set_info(client, reader, FileInfoClass.DISPOSITION, b"\1") == NtStatus.ACCESS_DENIED
            looker = await client.opened("file", access=Access.FILE_READ_ATTRIBUTES)
            assert await read(client, looker, 0, 1) == NtStatus.ACCESS_DENIED
            appender = await client.opened("file", access=Access.FILE_APPEND_DATA)
            assert await write(client, appender, 0, b"x") == NtStatus.ACCESS_DENIED
            assert await write(client, appender, 7, b"x") == 1
            for access in (0, 1 << 26, Access.ACCESS_SYSTEM_SECURITY):
                assert (await client.create("file", access=access))[1] is None
            directory = await client.directory("dir")
            assert await read(client, directory, 0, 1) == NtStatus.INVALID_DEVICE_REQUEST

    asyncio.run(main())


def test_a_read_only_share(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client(share="readonly")
            assert (await client.create("file"))[0] == NtStatus.ACCESS_DENIED
            assert (await client.create("new", access=READ))[0] == NtStatus.ACCESS_DENIED
            assert (await client.create("file", access=READ, disposition=OVERWRITE))[
                0
            ] == NtStatus.ACCESS_DENIED
            file_id = await client.opened("file", access=Access.MAXIMUM_ALLOWED)
            assert await read(client, file_id, 0, 10) == b"content"
            basic = file_info.BasicInfo(0, 0, 5, 0, 0).pack()
            assert await set_info(client, file_id, FileInfoClass.BASIC, basic) == NtStatus.ACCESS_DENIED

    asyncio.run(main())


def test_sharing(tmp_path: Path) -> None:
    write_access = int(Access.FILE_WRITE_DATA)

    async def main() -> None:
        async with site(tmp_path) as here:
            one, two = await here.client(), await here.client(user=b"bob")
            file_id = await one.opened("file", access=READ, share=1)
            assert (await two.create("file", access=write_access))[0] == NtStatus.SHARING_VIOLATION
            assert (await two.create("file", access=READ, share=2))[0] == NtStatus.SHARING_VIOLATION
            assert (await two.create("file", access=READ, share=1))[0] == 0
            assert (await two.create("file", access=Access.FILE_READ_ATTRIBUTES, share=0))[0] == 0
            assert (await two.create("file", access=READ, disposition=OVERWRITE))[
                0
            ] == NtStatus.SHARING_VIOLATION
            assert await one.close(file_id) == 0

    asyncio.run(main())


def test_delete_waits_for_the_last_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            one = await client.opened("file")
            two = await client.opened("file")
            assert await set_info(client, one, FileInfoClass.DISPOSITION, b"\1") == 0
            assert await client.close(one) == 0
            assert (await client.create("file"))[0] == NtStatus.DELETE_PENDING
            assert (tmp_path / "file").exists()
            assert await client.close(two) == 0
            assert not (tmp_path / "file").exists()
            on_close = await client.opened("other", options=CreateOptions.DELETE_ON_CLOSE)
            assert (tmp_path / "other").exists()
            await client.close(on_close)
            assert not (tmp_path / "other").exists()
            status, _ = await client.create("x", access=READ, options=CreateOptions.DELETE_ON_CLOSE)
            assert status == NtStatus.ACCESS_DENIED

    asyncio.run(main())


def test_posix_delete_takes_the_name_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            kept = await client.opened("file", contexts=POSIX)
            assert await write(client, kept, 0, b"still here") == 10
            one = await client.opened("file", contexts=POSIX)
            flags = struct.pack("<I", 3)
            assert await set_info(client, one, FileInfoClass.DISPOSITION_EX, flags) == 0
            await client.close(one)
            assert not (tmp_path / "file").exists()
            assert await read(client, kept, 0, 10) == b"still here"
            await client.close(await client.opened("file", contexts=POSIX))
            assert (tmp_path / "file").stat().st_size == 0

    asyncio.run(main())


def test_deleting_directories(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            directory = await client.directory("dir")
            (tmp_path / "dir" / "file").touch()
            disposition = FileInfoClass.DISPOSITION
            assert await set_info(client, directory, disposition, b"\1") == NtStatus.DIRECTORY_NOT_EMPTY
            (tmp_path / "dir" / "file").unlink()
            assert await set_info(client, directory, disposition, b"\1") == 0
            assert await set_info(client, directory, disposition, b"\0") == 0
            assert await set_info(client, directory, disposition, b"\1") == 0
            await client.close(directory)
            assert not (tmp_path / "dir").exists()
            root = await client.directory("")
            assert await set_info(client, root, disposition, b"\1") == NtStatus.CANNOT_DELETE

    asyncio.run(main())


def test_read_only_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o444)

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            assert (await client.create("file"))[0] == NtStatus.ACCESS_DENIED
            file_id = await client.opened("file", access=READ | Access.DELETE | Access.FILE_WRITE_ATTRIBUTES)
            assert await set_info(client, file_id, FileInfoClass.DISPOSITION, b"\1") == NtStatus.CANNOT_DELETE
            normal = file_info.BasicInfo(0, 0, 0, 0, 0x80).pack()
            assert await set_info(client, file_id, FileInfoClass.BASIC, normal) == 0
            assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
            assert await set_info(client, file_id, FileInfoClass.DISPOSITION, b"\1") == 0

    asyncio.run(main())


def test_rename(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("one")
            (tmp_path / "dir").mkdir()
            (tmp_path / "taken").write_bytes(b"old")

            async def rename(name: str, *, replace: bool = False) -> int:
                data = file_info.RenameInfo(name, replace).pack()
                return await set_info(client, file_id, FileInfoClass.RENAME, data)

            assert await rename("taken") == NtStatus.OBJECT_NAME_COLLISION
            assert await rename("dir\\two") == 0
            assert (tmp_path / "dir" / "two").exists()
            assert await rename("dir\\TWO") == 0
            assert os.listdir(tmp_path / "dir") == ["TWO"]
            assert await rename("no\\two") == NtStatus.OBJECT_NAME_NOT_FOUND
            assert await rename("dir", replace=True) == NtStatus.ACCESS_DENIED
            assert await rename("taken", replace=True) == 0
            assert (tmp_path / "taken").read_bytes() == b""
            directory = await client.directory("dir")
            inside = await client.opened("dir\\inside")
            data = file_info.RenameInfo("moved").pack()
            assert await set_info(client, directory, FileInfoClass.RENAME, data) == 0
            answer = await query(client, inside, FileInfoClass.NAME)
            assert file_info.parse_name(parse_output(answer.message)) == "\\moved\\inside"
            assert await set_info(client, inside, FileInfoClass.DISPOSITION, b"\1") == 0
            await client.close(inside)
            assert os.listdir(tmp_path / "moved") == []

    asyncio.run(main())


def test_rename_over_an_open_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            for posix, expected in ((False, NtStatus.ACCESS_DENIED), (True, NtStatus.SUCCESS)):
                contexts = POSIX if posix else {}
                target = await client.opened("target", contexts=contexts)
                source = await client.opened("source", contexts=contexts)
                data = file_info.RenameInfo("target", True).pack()
                assert await set_info(client, source, FileInfoClass.RENAME, data) == expected
                await client.close(target)
                await client.close(source)

    asyncio.run(main())


def test_hard_links(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("one")
            data = file_info.RenameInfo("two").pack()
            assert await set_info(client, file_id, FileInfoClass.LINK, data) == 0
            assert (tmp_path / "two").stat().st_nlink == 2
            assert await set_info(client, file_id, FileInfoClass.LINK, data) == NtStatus.OBJECT_NAME_COLLISION

    asyncio.run(main())


def test_attributes(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            await write(client, file_id, 0, b"12345")
            when = 1_600_000_000_123_456_700
            basic = file_info.BasicInfo(0, filetime_from_ns(when), filetime_from_ns(when + 100), 0, 0)
            assert await set_info(client, file_id, FileInfoClass.BASIC, basic.pack()) == 0
            assert (tmp_path / "file").stat().st_mtime_ns == when + 100
            found = file_info.AllInfo.parse(
                parse_output((await query(client, file_id, FileInfoClass.ALL)).message)
            )
            assert found.basic.last_access_time == filetime_from_ns(when)
            assert found.standard.end_of_file == 5
            assert found.standard.number_of_links == 1
            assert found.name == "\\file"
            assert found.file_id == (tmp_path / "file").stat().st_ino
            never = file_info.BasicInfo(0, (1 << 64) - 1, (1 << 64) - 2, 0, 0)
            assert await set_info(client, file_id, FileInfoClass.BASIC, never.pack()) == 0
            assert (tmp_path / "file").stat().st_mtime_ns == when + 100
            for size in (3, 1 << 33):
                assert (
                    await set_info(client, file_id, FileInfoClass.END_OF_FILE, struct.pack("<Q", size)) == 0
                )
                assert (tmp_path / "file").stat().st_size == size
            huge = struct.pack("<Q", 1 << 63)
            assert (
                await set_info(client, file_id, FileInfoClass.END_OF_FILE, huge) == NtStatus.INVALID_PARAMETER
            )
            assert (
                await set_info(client, file_id, FileInfoClass.BASIC, b"short") == NtStatus.INVALID_PARAMETER
            )
            assert await set_info(client, file_id, 250, b"") == NtStatus.INVALID_INFO_CLASS

    asyncio.run(main())


@pytest.mark.parametrize("info_class", [4, 5, 6, 7, 8, 9, 14, 16, 17, 18, 22, 28, 34, 35, 48, 59, 100])
def test_every_file_class_answers_and_keeps_to_the_buffer(tmp_path: Path, info_class: int) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("a file with a name")
            whole = parse_output((await query(client, file_id, info_class)).message)
            assert whole
            for length in (0, len(whole) - 1, len(whole)):
                answer = await query(client, file_id, info_class, output_length=length)
                assert answer.status in (0, NtStatus.BUFFER_OVERFLOW, NtStatus.INFO_LENGTH_MISMATCH)
                if answer.status != NtStatus.INFO_LENGTH_MISMATCH:
                    assert len(parse_output(answer.message)) <= length

    asyncio.run(main())


@pytest.mark.parametrize("info_class", sorted(FsInfoClass))
def test_every_file_system_class(tmp_path: Path, info_class: int) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            root = await client.directory("")
            answer = await query(client, root, info_class, InfoType.FILESYSTEM)
            if info_class == FsInfoClass.CONTROL:
                assert answer.status == NtStatus.INVALID_INFO_CLASS
                return
            assert answer.status == 0
            data = parse_output(answer.message)
            if info_class == FsInfoClass.POSIX:
                assert PosixFsInfo.parse(data).total_blocks == os.statvfs(tmp_path).f_blocks

    asyncio.run(main())


def test_posix_create_and_information(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            status, response = await client.create("Fi:le?", contexts=POSIX, disposition=CREATE)
            assert status == 0
            assert response is not None
            assert (tmp_path / "Fi:le?").stat().st_mode & 0o7777 == 0o640
            context = create_contexts.PosixCreateResponse.parse(
                memoryview(response.contexts[create_contexts.POSIX])
            )
            assert context.nlink == 1
            assert mode_from_wire(context.mode)[0] == 0o640
            info = PosixInfo.parse(parse_output((await query(client, response.file_id, 100)).message))
            assert info.inode == (tmp_path / "Fi:le?").stat().st_ino
            # Exact names: another spelling is another file.
            assert (await client.create("fi:le?", contexts=POSIX, disposition=OPEN))[
                0
            ] == NtStatus.OBJECT_NAME_NOT_FOUND
            assert (await client.create("a/b", contexts=POSIX))[0] == NtStatus.OBJECT_PATH_NOT_FOUND
            assert (await client.create("a\uf026b", contexts=POSIX))[0] == 0
            assert (tmp_path / "a\\b").exists()

    asyncio.run(main())


def test_case_does_not_matter_to_others(tmp_path: Path) -> None:
    (tmp_path / "Dir").mkdir()
    (tmp_path / "Dir" / "File").write_bytes(b"x")

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            assert (await client.create("DIR\\FILE", disposition=OPEN))[0] == 0
            assert (await client.create("dir\\new", disposition=CREATE))[0] == 0
            assert sorted(os.listdir(tmp_path / "Dir")) == ["File", "new"]
            assert (await client.create("DIR\\NEW", disposition=CREATE))[0] == NtStatus.OBJECT_NAME_COLLISION
            assert (await client.create("a\uf022b", disposition=CREATE))[0] == 0
            assert (tmp_path / "a:b").exists()

    asyncio.run(main())


def test_security_descriptors(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            file_id = await client.opened("file")
            new = descriptor_of_mode(0o4711, 0, 0).pack()
            assert await set_info(client, file_id, 0, new, InfoType.SECURITY, 4) == 0
            assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o4711
            answer = await query(client, file_id, 0, InfoType.SECURITY, additional=7)
            found = SecurityDescriptor.parse(parse_output(answer.message))
            stat = (tmp_path / "file").stat()
            assert (found.mode, found.uid, found.gid) == (0o4711, stat.st_uid, stat.st_gid)
            answer = await query(client, file_id, 0, InfoType.SECURITY, additional=7, output_length=10)
            assert answer.status == NtStatus.BUFFER_TOO_SMALL
            assert (
                await set_info(client, file_id, 0, new[:30], InfoType.SECURITY, 4)
                == NtStatus.INVALID_PARAMETER
            )

    asyncio.run(main())
