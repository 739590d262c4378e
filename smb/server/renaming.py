"""New names for open files: rename and hard links ([MS-FSA] §2.1.5.15.11 and §2.1.5.15.6)."""

from __future__ import annotations

from quicfs.smb.errors import SmbError
from quicfs.smb.fscc.file_info import RenameInfo
from quicfs.smb.names import path_from_wire
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.opens import FileOpen
from quicfs.vfs import Attr, FileKind, FsError, Status

__all__ = ["link", "rename"]


async def rename(open_: FileOpen, wanted: RenameInfo) -> None:
    tree, fs = open_.tree, open_.tree.fs
    if not open_.path:
        raise SmbError(NtStatus.ACCESS_DENIED)
    new, target = await _target(open_, wanted.name)
    if new == open_.path:
        return
    # Another spelling of the file's own name is no collision.
    if target is not None and not _is_own_name(open_, new, target):
        _check_replaced(open_, wanted, target)
    replace = wanted.replace_if_exists or target is not None
    await fs.rename(fs.root, open_.path, fs.root, new, replace=replace)
    old = open_.path
    tree.state.renamed(old, new)
    tree.names.renamed(old, new)


def _is_own_name(open_: FileOpen, path: str, target: Attr) -> bool:
    return target.fileid == open_.state.fileid and path.casefold() == open_.path.casefold()


def _check_replaced(open_: FileOpen, wanted: RenameInfo, target: Attr) -> None:
    if not wanted.replace_if_exists:
        raise SmbError(NtStatus.OBJECT_NAME_COLLISION)
    # POSIX semantics replace what is open, and an empty directory by a directory.
    if open_.posix:
        return
    if target.kind is FileKind.DIRECTORY or open_.tree.state.find(target.fileid) is not None:
        raise SmbError(NtStatus.ACCESS_DENIED)


async def link(open_: FileOpen, wanted: RenameInfo) -> None:
    fs = open_.tree.fs
    if open_.kind is FileKind.DIRECTORY:
        raise SmbError(NtStatus.FILE_IS_A_DIRECTORY)
    new, target = await _target(open_, wanted.name)
    if target is not None:
        _check_replaced(open_, wanted, target)
        if target.fileid == open_.state.fileid:
            return
        await fs.unlink(fs.root, new)
    await fs.link(open_.node, fs.root, new)
    open_.tree.names.created(new)


async def _target(open_: FileOpen, name: str) -> tuple[str, Attr | None]:
    """The path that a client means, and what is there."""
    fs = open_.tree.fs
    # Clients send the leading separator now and then, though §2.2.39 has none.
    path = path_from_wire(name.removeprefix("\\"), posix=open_.posix)
    if not path:
        raise SmbError(NtStatus.OBJECT_NAME_INVALID)
    for attempt in (path, None):
        candidate = attempt
        if candidate is None:
            if open_.posix:
                break
            candidate = await open_.tree.names.resolve(path)
            if candidate == path:
                break
        try:
            _, attr = await fs.lookup(fs.root, candidate)
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                raise
            continue
        return path if _is_own_name(open_, candidate, attr) else candidate, attr
    parent, _, last = path.rpartition("/")
    if parent and not open_.posix:
        path = f"{await open_.tree.names.find(parent)}/{last}"
    return path, None
