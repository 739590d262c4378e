"""QUERY_DIRECTORY: patterns, pages, flags, names of all kinds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.directory import ENTRY_PACKERS, DirectoryEntry, parse_entries
from quicfs.smb.messages.access import Access, FileAttribute
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.output import parse_output
from quicfs.smb.messages.query_directory import QueryDirectoryFlags, QueryDirectoryRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.wildcard import matcher
from tests.unit.smb.raw_client import RawClient, site

BOTH = FileInfoClass.ID_BOTH_DIRECTORY


async def query(
    client: RawClient,
    file_id: bytes,
    pattern: str = "*",
    *,
    info_class: int = BOTH,
    length: int = 65536,
    flags: int = 0,
) -> tuple[int, list[DirectoryEntry]]:
    body = QueryDirectoryRequest(file_id, info_class, pattern, length, flags).pack()
    answer = await client.ask(Command.QUERY_DIRECTORY, body)
    if answer.status:
        return answer.status, []
    return 0, list(parse_entries(info_class, parse_output(answer.message)))


async def names(client: RawClient, file_id: bytes, pattern: str = "*", **how: int) -> list[str]:
    found: list[str] = []
    while True:
        status, entries = await query(client, file_id, pattern, **how)
        if status:
            assert status in (NtStatus.NO_MORE_FILES, NtStatus.NO_SUCH_FILE)
            return found
        assert entries
        found += [entry.name for entry in entries]


@pytest.mark.parametrize("info_class", sorted(ENTRY_PACKERS))
def test_a_large_directory_in_pages(tmp_path: Path, info_class: int) -> None:
    expected = {f"file number {number:04}" for number in range(3000)}
    for name in expected:
        (tmp_path / name).touch()

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            root = await client.directory("")
            found = await names(client, root, info_class=info_class, length=20_000)
            assert len(found) == 3002
            assert set(found) == expected | {".", ".."}

    asyncio.run(main())


def test_flags(tmp_path: Path) -> None:
    for name in ("a", "b", "c.txt"):
        (tmp_path / name).touch()

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            root = await client.directory("")
            single = QueryDirectoryFlags.RETURN_SINGLE_ENTRY
            for _ in range(5):
                status, entries = await query(client, root, flags=single)
                assert (status, len(entries)) == (0, 1)
            assert await query(client, root, flags=single) == (NtStatus.NO_MORE_FILES, [])
            # The pattern of the first query stays until the scan starts anew.
            assert await query(client, root, "*.txt") == (NtStatus.NO_MORE_FILES, [])
            status, entries = await query(client, root, "*.txt", flags=QueryDirectoryFlags.RESTART_SCANS)
            assert [entry.name for entry in entries] == ["c.txt"]
            status, entries = await query(client, root, "B", flags=QueryDirectoryFlags.REOPEN)
            assert [entry.name for entry in entries] == ["b"]
            restart = QueryDirectoryFlags.RESTART_SCANS
            assert await query(client, root, "missing", flags=restart) == (NtStatus.NO_SUCH_FILE, [])
            assert await query(client, root, "q*", flags=restart) == (NtStatus.NO_SUCH_FILE, [])
            assert await query(client, root, flags=restart, length=20) == (NtStatus.INFO_LENGTH_MISMATCH, [])
            assert await query(client, root, info_class=99) == (NtStatus.INVALID_INFO_CLASS, [])
            file_id = await client.opened("a")
            assert await query(client, file_id) == (NtStatus.INVALID_PARAMETER, [])
            blind = await client.directory("", access=Access.FILE_READ_ATTRIBUTES)
            assert await query(client, blind) == (NtStatus.ACCESS_DENIED, [])

    asyncio.run(main())


def test_what_entries_say(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / "readonly").touch(0o400)
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "a:b").touch()
    (tmp_path / "dot.").touch()

    async def main() -> None:
        async with site(tmp_path) as here:
            client = await here.client()
            root = await client.directory("")
            _, entries = await query(client, root)
            found = {entry.name: entry for entry in entries}
            assert found[".hidden"].file_attributes == FileAttribute.HIDDEN
            assert found["readonly"].file_attributes == FileAttribute.READONLY
            assert found["dir"].file_attributes == FileAttribute.DIRECTORY
            assert found["file"].file_attributes == FileAttribute.NORMAL
            assert found["file"].end_of_file == 5
            assert found["file"].file_id == (tmp_path / "file").stat().st_ino
            # Links are what they lead to, where they do.
            assert found["link"].end_of_file == 5
            assert found["dangling"].file_attributes == FileAttribute.REPARSE_POINT
            assert {"a\uf022b", "dot\uf029"} <= set(found)
            _, entries = await query(client, root, info_class=100, flags=QueryDirectoryFlags.RESTART_SCANS)
            posix = {entry.name: entry for entry in entries}
            assert {"a:b", "dot.", "link"} <= set(posix)
            assert posix["link"].file_attributes == FileAttribute.REPARSE_POINT

    asyncio.run(main())


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", "a a.b .", ""),
        ("*.*", "a a.b", ""),
        ("*.txt", "a.txt A.TXT .txt a.b.txt", "txt a.txt.b atxt"),
        ("?.txt", "a.txt", "ab.txt .txt"),
        ("a?c", "abc a.c", "ac abbc"),
        ("<.txt", "a.txt a.b.txt", "a.txt.b a"),
        ("<", "a a.", "a.b"),
        ("a>>>", "a ab abc abcd", "abcde b"),
        (">>>.t", "abc.t ab.t a.t", "abcd.t"),
        ('a"', "a a.", "ab a.b"),
        ('a"b', "a.b", "ab"),
        ("<<<<x", "x abx", "xy"),
        ("", "", "a"),
    ],
)
def test_patterns(pattern: str, matching: str, others: str) -> None:
    matches = matcher(pattern, fold_case=True)
    assert [name for name in matching.split() if not matches(name)] == []
    assert [name for name in others.split() if matches(name)] == []


def test_patterns_made_to_take_long() -> None:
    assert not matcher("*a" * 100 + "b", fold_case=True)("a" * 255)
    assert not matcher("<a" * 100 + "b", fold_case=True)("a." * 127)
    assert not matcher("a" * 10_000, fold_case=True)("a")


def test_patterns_with_regard_to_case() -> None:
    assert not matcher("*.TXT", fold_case=False)("a.txt")
    assert matcher("*.TXT", fold_case=True)("a.txt")
