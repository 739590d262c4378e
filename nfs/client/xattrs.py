"""Extended attributes (RFC 8276): those of users. On the wire their names have no "user." before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.nodes import NfsNode
from quicfs.nfs.client.requests import put
from quicfs.nfs.client.status import fs_error
from quicfs.nfs.v4.const import Op, SetxattrOption, Stat
from quicfs.nfs.v4.operations_xattr import (
    GetxattrArgs,
    ListxattrsArgs,
    RemovexattrArgs,
    SetxattrArgs,
)
from quicfs.vfs.status import FsError, Status

if TYPE_CHECKING:
    from quicfs.nfs.client.filesystem import NfsFileSystem

__all__ = ["get", "names", "put_value", "remove"]

_PREFIX: Final = "user."
_LIST: Final = 65_536  # bytes of names in one answer


def _wire(fs: NfsFileSystem, name: str) -> str:
    fs.need_minor_2("extended attributes")
    if not name.startswith(_PREFIX) or len(name) == len(_PREFIX):
        raise FsError(Status.NOT_SUPPORTED, f"{name}: only attributes of users")
    return name[len(_PREFIX) :]


async def get(fs: NfsFileSystem, node: NfsNode, name: str) -> bytes:
    operation = (Op.GETXATTR, GetxattrArgs(_wire(fs, name)))
    values = await fs.run([put(node), operation], f"{node.shown}: {name}")
    value: bytes = values[1].value
    return value


async def put_value(
    fs: NfsFileSystem, node: NfsNode, name: str, value: bytes, *, create: bool, replace: bool
) -> None:
    option = SetxattrOption.EITHER
    if create:
        option = SetxattrOption.CREATE
    elif replace:
        option = SetxattrOption.REPLACE
    operation = (Op.SETXATTR, SetxattrArgs(option, _wire(fs, name), bytes(value)))
    await fs.run([put(node), operation], f"{node.shown}: {name}", cache=True)


async def names(fs: NfsFileSystem, node: NfsNode) -> list[str]:
    fs.need_minor_2("extended attributes")
    found: list[str] = []
    cookie = 0
    while True:
        try:
            operation = (Op.LISTXATTRS, ListxattrsArgs(cookie, _LIST))
            values = await fs.compound([put(node), operation], node.shown)
        except CompoundFailed as failed:
            if failed.status is Stat.NOXATTR:
                return found
            raise fs_error(failed, node.shown) from failed
        result = values[1]
        found += [_PREFIX + name for name in result.names]
        if result.eof or not result.names:
            return found
        cookie = result.cookie


async def remove(fs: NfsFileSystem, node: NfsNode, name: str) -> None:
    operation = (Op.REMOVEXATTR, RemovexattrArgs(_wire(fs, name)))
    await fs.run([put(node), operation], f"{node.shown}: {name}", cache=True)
