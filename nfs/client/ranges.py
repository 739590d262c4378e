"""COPY and CLONE inside the server (RFC 7862 §15.2, §15.13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quicfs.nfs.client.channel import Operation
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.openfile import NfsOpenFile
from quicfs.nfs.client.requests import SAVEFH, put
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.client.tries import Tries
from quicfs.nfs.v4.const import Op, StableHow
from quicfs.nfs.v4.operations_io import CloneArgs, CopyArgs
from quicfs.nfs.v4.types import StateId
from quicfs.vfs.api import OpenFile
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["clone_range", "copy_range"]


async def _both(
    fs: NfsFileSystem,
    source: NfsOpenFile,
    target: NfsOpenFile,
    build: Callable[[StateId, StateId], Operation],
) -> Any:
    what = f"{source.shown} to {target.shown}"
    tries = Tries(target)
    while True:
        one, two = await source.stateid(), await target.stateid()
        operations = [put(source.nfs_node), SAVEFH, put(target.nfs_node), build(one, two)]
        try:
            return (await fs.compound(operations, what, cache=True))[3]
        except CompoundFailed as failed:
            if not tries.again(failed.status):
                raise fs_error(failed, what) from failed
            # Which of them the server does not know, it does not say.
            source.forgotten(one)
            target.forgotten(two)


def _ours(
    fs: NfsFileSystem, source: OpenFile, target: OpenFile, what: str
) -> tuple[NfsOpenFile, NfsOpenFile]:
    if not isinstance(source, NfsOpenFile) or not isinstance(target, NfsOpenFile):
        raise FsError(Status.CROSS_DEVICE, "copying between file systems")
    if source.fs.uplink is not fs.uplink or target.fs.uplink is not fs.uplink:
        raise FsError(Status.CROSS_DEVICE, "copying between servers")
    fs.need_minor_2(what)
    return source, target


async def copy_range(
    fs: NfsFileSystem, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
) -> int:
    one, two = _ours(fs, source, target, "copying inside the server")
    for file in (one, two):
        await fs.behind.flush(file.nfs_node)
    if length <= 0:
        return 0
    # A count beyond the end of the source is an error (RFC 7862 §15.2.3).
    size = (await one.getattr()).size
    length = min(length, size - offset)
    if length <= 0:
        return 0

    def build(from_: StateId, to: StateId) -> Operation:
        return Op.COPY, CopyArgs(from_, to, offset, target_offset, length, True, True, [])

    result = await _both(fs, one, two, build)
    response = result.response
    if response.callback_id is not None:
        raise FsError(Status.NOT_SUPPORTED, "the server copies in the background only")
    if response.committed == StableHow.UNSTABLE:
        fs.unstable.touched(two.nfs_node, response.writeverf)
    fs.unstable.cut(two.nfs_node, target_offset, target_offset + response.count)
    count: int = response.count
    return count


async def clone_range(
    fs: NfsFileSystem, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
) -> None:
    one, two = _ours(fs, source, target, "cloning")
    for file in (one, two):
        await fs.behind.flush(file.nfs_node)

    def build(from_: StateId, to: StateId) -> Operation:
        return Op.CLONE, CloneArgs(from_, to, offset, target_offset, length)

    await _both(fs, one, two, build)
    fs.unstable.touched(two.nfs_node)
    fs.unstable.cut(two.nfs_node, target_offset, target_offset + length if length else 1 << 63)
