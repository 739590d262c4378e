"""Directory entries at the client: the fast way for level 100 agrees with the plain one, and takes no nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.smb.client.attributes import attr_of_entry
from quicfs.smb.client.entries import INFO_CLASS, named_attributes
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.fscc.directory import ENTRY_PACKERS, DirectoryEntry, EntryList, parse_entries
from quicfs.smb.fscc.posix import PosixFileType, PosixInfo, mode_to_wire
from quicfs.smb.fscc.reparse import ReparseTag
from quicfs.smb.fscc.sid import EVERYONE, Sid, gid_sid, uid_sid
from quicfs.smb.messages.access import FileAttribute
from quicfs.vfs.api import FileKind

TIME = 133_000_000_000_000_000


def entry(name: str, kind: PosixFileType = PosixFileType.REGULAR, owner: Sid | None = None) -> DirectoryEntry:
    attributes = {
        PosixFileType.DIRECTORY: FileAttribute.DIRECTORY,
        PosixFileType.SYMLINK: FileAttribute.REPARSE_POINT,
    }.get(kind, FileAttribute.NORMAL)
    posix = PosixInfo(
        TIME,
        TIME + 1,
        TIME + 2,
        TIME + 3,
        77,
        4096,
        attributes,
        12345678901,
        5,
        2,
        ReparseTag.SYMLINK if kind is PosixFileType.SYMLINK else 0,
        mode_to_wire(0o4751, kind),
        owner or uid_sid(1000),
        gid_sid(100),
        name,
    )
    return DirectoryEntry(
        name, TIME, TIME + 1, TIME + 2, TIME + 3, 77, 4096, int(attributes), 0, 12345678901, posix
    )


def packed(info_class: int, *entries: DirectoryEntry) -> memoryview:
    chain = EntryList(1 << 20)
    for one in entries:
        assert chain.append(ENTRY_PACKERS[info_class](one))
    return memoryview(bytes(chain.packed))


SOME = (
    entry("."),
    entry("file"),
    entry("dir", PosixFileType.DIRECTORY),
    entry("link", PosixFileType.SYMLINK),
    entry("pipe", PosixFileType.FIFO),
    entry("日本語 😀", owner=Sid(22, (1, 42))),
    entry("x" * 255, owner=EVERYONE),
    entry(".."),
)


def test_level_100_agrees_with_the_plain_way() -> None:
    data = packed(INFO_CLASS[True], *SOME)
    plain = [
        (found.name, attr_of_entry(found))
        for found in parse_entries(INFO_CLASS[True], data)
        if found.name not in (".", "..")
    ]
    assert list(named_attributes(data, posix=True)) == plain
    kinds = [attr.kind for _, attr in plain]
    assert kinds[:4] == [FileKind.REGULAR, FileKind.DIRECTORY, FileKind.SYMLINK, FileKind.FIFO]
    assert plain[0][1].mode == 0o4751
    assert [attr.uid for _, attr in plain][:5] == [1000, 1000, 1000, 1000, 42]


def test_without_the_extensions() -> None:
    data = packed(INFO_CLASS[False], *SOME)
    found = dict(named_attributes(data, posix=False))
    assert set(found) == {"file", "dir", "link", "pipe", "日本語 😀", "x" * 255}
    assert (found["file"].mode, found["dir"].mode) == (0o644, 0o755)
    assert found["dir"].kind is FileKind.DIRECTORY


@pytest.mark.parametrize("posix", [True, False])
def test_names_come_back_as_they_are(posix: bool) -> None:
    data = packed(INFO_CLASS[posix], entry("back\uf026slash"))
    assert [name for name, _ in named_attributes(data, posix=posix)] == ["back\\slash"]


def test_samba_sends_backslashes_as_they_are() -> None:
    data = packed(INFO_CLASS[True], entry("a\\b"))
    assert [name for name, _ in named_attributes(data, posix=True)] == ["a\\b"]


@pytest.mark.parametrize(
    ("posix", "name"),
    [
        *((posix, name) for posix in (True, False) for name in ("a/b", "../up", "a\0b", "")),
        (False, "a\\b"),
        (False, "\\"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(posix: bool, name: str) -> None:
    with pytest.raises(SmbProtocolError):
        list(named_attributes(packed(INFO_CLASS[posix], entry(name)), posix=posix))


def test_nothing() -> None:
    assert list(named_attributes(memoryview(b""), posix=True)) == []


@given(st.data(), st.booleans())
def test_noise(data: st.DataObject, posix: bool) -> None:
    buffer = bytearray(packed(INFO_CLASS[posix], *SOME))
    for _ in range(data.draw(st.integers(0, 6))):
        buffer[data.draw(st.integers(0, len(buffer) - 1))] = data.draw(st.integers(0, 255))
    del buffer[data.draw(st.integers(0, len(buffer))) :]
    try:
        found = list(named_attributes(memoryview(bytes(buffer)), posix=posix))
    except SmbProtocolError:
        return
    assert all("/" not in name and name not in ("", ".", "..") for name, _ in found)
