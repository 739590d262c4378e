"""Information classes of [MS-FSCC], descriptors and reparse points, written and read back."""

from __future__ import annotations

from typing import Any

import pytest

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.filetime import filetime_from_ns, ns_from_filetime
from quicfs.smb.fscc import file_info, filesystem, reparse
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.directory import ENTRY_PACKERS, DirectoryEntry, EntryList, parse_entries
from quicfs.smb.fscc.posix import PosixFileType, PosixFsInfo, PosixInfo, mode_from_wire, mode_to_wire
from quicfs.smb.fscc.security import SecurityDescriptor, descriptor_of_mode
from quicfs.smb.fscc.sid import Sid, gid_sid, uid_sid, unix_id
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.status import fs_error, ntstatus_from_status, status_from_ntstatus
from quicfs.vfs import Status

BASIC = file_info.BasicInfo(1, 2, 3, 4, 0x20)
STANDARD = file_info.StandardInfo(4096, 17, 1, False, True)
POSIX = PosixInfo(1, 2, 3, 4, 5, 6, 0x10, 7, 8, 9, 0, 0o1755 | 1 << 12, uid_sid(1), gid_sid(2))

SIZED: list[tuple[Any, int]] = [
    (BASIC, 40),
    (STANDARD, 24),
    (file_info.AllInfo(BASIC, STANDARD, 5, 0, 0x1F, 0, 0, "\\a"), 104),
    (file_info.NetworkOpenInfo(1, 2, 3, 4, 5, 6, 7), 56),
    (file_info.AttributeTagInfo(0x400, 0xA000000C), 8),
    (file_info.RenameInfo("dir\\newname", True), 42),
    (filesystem.FsVolumeInfo(9, 0xABCD, "share"), 28),
    (filesystem.FsSizeInfo(100, 50, 8, 512), 24),
    (filesystem.FsFullSizeInfo(100, 40, 50, 8, 512), 32),
    (filesystem.FsAttributeInfo(0x4F, 255, "NTFS"), 20),
    (PosixFsInfo(4096, 4096, 1, 2, 3, 4, 5, 6), 56),
    (descriptor_of_mode(0o750, 1000, 100), 20 + 20 + 20 + 8 + 28 * 3 + 20),
    (SecurityDescriptor(), 20),
]


@pytest.mark.parametrize(("original", "size"), SIZED, ids=lambda v: type(v).__name__)
def test_sizes_and_round_trips(original: Any, size: int) -> None:
    packed = original.pack()
    assert len(packed) == size
    parsed = type(original).parse(memoryview(packed))
    assert parsed.pack() == packed
    for length in range(size):
        try:
            type(original).parse(memoryview(packed)[:length])
        except SmbProtocolError:
            pass


@pytest.mark.parametrize("info_class", sorted(ENTRY_PACKERS))
def test_directory_entries(info_class: int) -> None:
    entries = [
        DirectoryEntry(name, 1, 2, 3, 4, 5, 6, 0x10, 0, 7, PosixInfo(**_fields(POSIX)))
        for name in (".", "..", "ä file", "x" * 255)
    ]
    chain = EntryList(4096)
    for entry in entries:
        assert chain.append(ENTRY_PACKERS[info_class](entry))
    parsed = list(parse_entries(info_class, memoryview(chain.packed)))
    assert [e.name for e in parsed] == [e.name for e in entries]
    if info_class not in (FileInfoClass.NAMES, FileInfoClass.POSIX):
        assert all(e.end_of_file == 5 and e.allocation_size == 6 for e in parsed)
    if info_class == FileInfoClass.ID_BOTH_DIRECTORY:
        assert all(e.file_id == 7 for e in parsed)
    if info_class == FileInfoClass.POSIX:
        assert parsed[2].posix is not None
        assert parsed[2].posix.owner == uid_sid(1)


def _fields(info: PosixInfo) -> dict[str, Any]:
    return {name: getattr(info, name) for name in PosixInfo.__dataclass_fields__}


def test_a_full_directory_buffer_takes_no_more() -> None:
    chain = EntryList(100)
    assert chain.append(bytes(40))
    before = bytes(chain.packed)
    assert not chain.append(bytes(60))
    assert chain.packed == before


def test_posix_information_of_a_file() -> None:
    packed = POSIX.pack(with_name=False)
    assert PosixInfo.parse(memoryview(packed)) == POSIX
    assert mode_from_wire(mode_to_wire(0o4755, PosixFileType.FIFO)) == (0o4755, PosixFileType.FIFO)


def test_mode_owner_and_group_in_a_descriptor() -> None:
    parsed = SecurityDescriptor.parse(memoryview(descriptor_of_mode(0o4751, 1000, 100).pack()))
    assert (parsed.mode, parsed.uid, parsed.gid) == (0o4751, 1000, 100)
    assert unix_id(Sid(22, (1, 5))) == ("uid", 5)
    assert unix_id(Sid(22, (2, 5))) == ("gid", 5)
    assert unix_id(Sid(5, (32, 544))) is None


@pytest.mark.parametrize("at", [0, 2, 20])
def test_broken_descriptors(at: int) -> None:
    packed = bytearray(descriptor_of_mode(0o750, 1, 2).pack())
    packed[at] = 0xFF
    packed[at + 1] = 0
    with pytest.raises(SmbProtocolError):
        SecurityDescriptor.parse(memoryview(packed))


def test_symbolic_links() -> None:
    link = reparse.SymlinkReparse("..\\a\\b", "..\\a\\b", True)
    assert reparse.parse_symlink(memoryview(link.pack())) == "../a/b"
    assert reparse.parse_symlink(memoryview(reparse.pack_nfs_symlink("../ä"))) == "../ä"
    assert reparse.parse_symlink(memoryview(b"\x23\0\0\x80\0\0\0\0")) is None
    packed = link.pack()
    for length in range(len(packed)):
        with pytest.raises(SmbProtocolError):
            reparse.parse_symlink(memoryview(packed)[:length])


def test_streams_and_names() -> None:
    streams = [("::$DATA", 5, 8), (":other:$DATA", 1, 4096)]
    assert file_info.parse_streams(memoryview(file_info.pack_streams(streams))) == streams
    assert file_info.parse_name(memoryview(file_info.pack_name("\\ä"))) == "\\ä"


def test_times() -> None:
    assert filetime_from_ns(0) == 116444736000000000
    now = 1_763_750_000_123_456_700
    assert ns_from_filetime(filetime_from_ns(now)) == now
    assert ns_from_filetime(filetime_from_ns(-100)) == -100
    assert filetime_from_ns(-(1 << 64)) == 1
    assert filetime_from_ns(1 << 80) == (1 << 63) - 1


def test_every_status_has_its_code_and_comes_back() -> None:
    for status in Status:
        assert status_from_ntstatus(ntstatus_from_status(status)) is status
    assert status_from_ntstatus(0xDEADBEEF) is Status.IO
    assert "0xdeadbeef" in str(fs_error(0xDEADBEEF))
    assert fs_error(NtStatus.OBJECT_PATH_NOT_FOUND, "x").status is Status.NOT_FOUND
