"""Symbolic links as reparse points at the server ([MS-FSCC] §2.1.2.4, [MS-FSA] §2.1.5.10.15 and .36)."""

from __future__ import annotations

from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.fscc.reparse import SymlinkReparse
from quicfs.smb.messages.access import Access
from quicfs.smb.names import name_to_wire
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen
from quicfs.vfs import FileKind

__all__ = ["get", "set_symlink"]

_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_WRITE_ATTRIBUTES)


async def get(open_: FileOpen) -> bytes:
    if open_.kind is not FileKind.SYMLINK:
        raise SmbError(NtStatus.NOT_A_REPARSE_POINT)
    target = await open_.tree.fs.readlink(open_.node)
    relative = not target.startswith("/")
    names = "\\".join(name_to_wire(name, posix=True) for name in target.split("/"))
    return SymlinkReparse(names, names, relative).pack()


async def set_symlink(open_: FileOpen, target: str) -> None:
    """Turn the empty file or directory of this open into a link: that is how Windows and Linux make one."""
    open_.require(_WRITES)
    tree, fs = open_.tree, open_.tree.fs
    if tree.disk.read_only:
        raise SmbError(NtStatus.ACCESS_DENIED)
    if not open_.path or not target or "\0" in target:
        raise SmbError(NtStatus.IO_REPARSE_DATA_INVALID)
    if open_.kind is FileKind.DIRECTORY:
        await fs.rmdir(fs.root, open_.path)  # NOT_EMPTY as it should
    elif open_.kind is FileKind.REGULAR:
        if (await open_.getattr()).size:
            raise SmbError(NtStatus.IO_REPARSE_DATA_INVALID)
        await fs.unlink(fs.root, open_.path)
    else:
        raise SmbError(NtStatus.IO_REPARSE_TAG_MISMATCH)
    node, attr = await fs.symlink(fs.root, open_.path, _restored(target))
    if open_.file is not None:
        await open_.file.close()
        open_.file = None
    tree.state.remove(open_)
    open_.node, open_.kind = node, FileKind.SYMLINK
    open_.state = tree.state.add(open_, attr.fileid)


def _restored(target: str) -> str:
    return target.replace("\uf026", "\\")
