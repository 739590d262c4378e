"""An export as a `FileSystem`. Each call is one COMPOUND: what belongs together travels together."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from quicfs.nfs.client import directories, names, xattrs
from quicfs.nfs.client.attributes import FS, attr_of, changes_of, statfs_of
from quicfs.nfs.client.caching import MISSING
from quicfs.nfs.client.channel import Connect, Operation
from quicfs.nfs.client.client import Client
from quicfs.nfs.client.errors import CompoundFailed
from quicfs.nfs.client.link import Link
from quicfs.nfs.client.nodes import NfsNode, node_of, split
from quicfs.nfs.client.openfile import NfsOpenFile
from quicfs.nfs.client.opening import open_file
from quicfs.nfs.client.ranges import clone_range, copy_range
from quicfs.nfs.client.requests import GETATTR, GETFH, lookups, put
from quicfs.nfs.client.status import LOST_STATE, fs_error
from quicfs.nfs.client.walking import Walker, shown
from quicfs.nfs.rpc.message import AuthSys, Credential
from quicfs.nfs.v4.attributes import Attribute, Attributes
from quicfs.nfs.v4.const import Access as Nfs4Access
from quicfs.nfs.v4.const import Op, ShareAccess
from quicfs.nfs.v4.operations_files import AccessArgs, GetattrArgs, SetattrArgs
from quicfs.nfs.v4.types import ANONYMOUS
from quicfs.vfs.api import (
    HANDLE_MAX,
    Access,
    Attr,
    Caller,
    DirPage,
    FileKind,
    FileSystem,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
    StatFs,
)
from quicfs.vfs.status import FsError, Status

__all__ = ["NfsFileSystem", "this_process"]

_MAX_GIDS: Final = 16  # of AUTH_SYS (RFC 5531 appendix A)
_FOLLOWING: Final = {
    Access.READ: Nfs4Access.READ,
    Access.WRITE: Nfs4Access.MODIFY | Nfs4Access.EXTEND,
}


def this_process() -> AuthSys:
    """AUTH_SYS with this process's user and groups."""
    groups = [gid for gid in os.getgroups() if gid != os.getegid()][:_MAX_GIDS]
    return AuthSys(0, socket.gethostname()[:255], os.geteuid(), os.getegid(), tuple(groups))


class NfsFileSystem(FileSystem):
    """`connect` makes a connection to the server each time that one is needed; `export` is a path there.

    Attributes and names are believed for `attr_timeout` seconds, and for as long as the server promises that nobody
    changes them, which it is asked for if `delegations` says so.

    The first call connects, unless `connect` did, which reports problems as sentences (ConnectError). When the
    connection is lost, calls wait for a new one, `timeout` seconds at most, and each is carried out exactly once; when
    the server restarted, what is open and locked is reclaimed.
    """

    def __init__(
        self,
        connect: Connect,
        host: str,
        export: str = "/",
        *,
        credential: Credential | None = None,
        streams: int = 4,
        timeout: float = 30.0,
        attr_timeout: float = 1.0,
        delegations: bool = True,
    ) -> None:
        self.credential = credential or this_process()
        self._client = Client(
            connect,
            host,
            export,
            self.credential,
            streams,
            timeout,
            attr_timeout=attr_timeout,
            delegations=delegations,
        )
        self._use(self._client)

    def _use(self, client: Client) -> None:
        self.uplink: Link = client.link
        self.nodes = client.nodes
        self.poster = client.poster
        self.behind = client.behind
        self.unstable = client.unstable
        self.caches = client.caches
        self.delegations = client.delegations
        self.around = client.around
        self.walker = Walker(client.link, client.nodes, client.caches, client.root, self.credential)

    async def connect(self) -> None:
        """Connect now. ConnectError with a sentence when that fails."""
        await self.uplink.open()

    @property
    def root(self) -> Node:
        return self._client.root

    @property
    def read_limit(self) -> int:
        return self._client.read_limit

    @property
    def write_limit(self) -> int:
        return self._client.write_limit

    def need_minor_2(self, what: str) -> None:
        if self.uplink.minor < 2:
            raise FsError(Status.NOT_SUPPORTED, f"{what}: the server speaks NFSv4.1 only")

    # Ways to the server

    async def compound(self, operations: Sequence[Operation], what: str, **options: Any) -> list[Any]:
        """CompoundFailed, FsError."""
        return await self.uplink.compound(operations, what, credential=self.credential, **options)

    async def run(self, operations: Sequence[Operation], what: str, **options: Any) -> list[Any]:
        """FsError."""
        return await self.uplink.run(operations, what, credential=self.credential, **options)

    # Looking

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[Node, Attr]:
        base, parts = node_of(directory), split(path)
        if not parts:
            return base, await self.getattr(base)
        known = self.caches.walk(base, parts)
        if known is not None and not (follow and known[1].kind is FileKind.SYMLINK):
            return known
        await self.there(base)
        await self.behind.flush_named(parts[-1])
        tail = [*lookups(parts[-1:]), GETFH, GETATTR]
        try:
            _, fh, values = await self.walker.run(base, parts[:-1], tail)
        except CompoundFailed as failed:
            raise fs_error(failed, shown(base, parts)) from failed
        attr = attr_of(values.attributes)
        if follow and attr.kind is FileKind.SYMLINK:
            return await self.walker.walk(base, parts)
        return self.nodes.at(fh.object, attr.fileid, (base, path)), attr

    async def getattr(self, node: Node) -> Attr:
        known = self.caches.attr(node_of(node))
        if known is not None:
            return known
        await self.behind.flush(node_of(node))
        return await self.walker.getattr(await self.there(node))

    async def there(self, node: Node) -> NfsNode:
        """The node, which is known by its handle now: the root is only once there was a session."""
        found = node_of(node)
        if not found.fh:
            await self.uplink.session(asyncio.get_running_loop().time() + self.uplink.settings.timeout)
        return found

    async def readlink(self, node: Node) -> str:
        return await self.walker.readlink(node_of(node))

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        await self.behind.flush_all()
        return await directories.page(self, await self.there(directory), cookie, limit)

    async def statfs(self) -> StatFs:
        root = await self.there(self.root)
        values = await self.run([put(root), (Op.GETATTR, GetattrArgs(FS))], "/")
        return statfs_of(values[1].attributes)

    async def access(self, node: Node, wanted: Access) -> Access:
        asked = 0
        for bit in wanted:
            asked |= Nfs4Access.EXECUTE | Nfs4Access.LOOKUP if bit is Access.EXECUTE else _FOLLOWING[bit]
        target = await self.there(node)
        values = await self.run([put(target), (Op.ACCESS, AccessArgs(asked))], target.shown)
        allowed = values[1].access
        found = Access.NONE
        if allowed & Nfs4Access.READ:
            found |= Access.READ
        if allowed & (Nfs4Access.MODIFY | Nfs4Access.EXTEND):
            found |= Access.WRITE
        if allowed & (Nfs4Access.EXECUTE | Nfs4Access.LOOKUP):
            found |= Access.EXECUTE
        return found & wanted

    async def parent(self, node: Node) -> tuple[Node, Attr]:
        return await self.walker.parent(node_of(node))

    # Opening and making

    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        return await open_file(self, await self.there(directory), path, flags, mode)

    def new_file(self, flags: OpenFlags) -> NfsOpenFile:
        return NfsOpenFile(self, flags, self._client.next_owner())

    def keep(self, file: NfsOpenFile) -> None:
        self._client.opens.add(file)

    def forget(self, file: NfsOpenFile) -> None:
        self._client.opens.remove(file)

    async def reopen(self, file: NfsOpenFile) -> None:
        await self._client.opens.reopen(file, self.walker)

    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[Node, Attr]:
        return await names.create(self, await self.there(directory), path, FileKind.DIRECTORY, mode)

    async def symlink(self, directory: Node, path: str, target: str) -> tuple[Node, Attr]:
        return await names.create(
            self, await self.there(directory), path, FileKind.SYMLINK, 0o777, target=target
        )

    async def mknod(
        self, directory: Node, path: str, kind: FileKind, mode: int = 0o644, rdev: int = 0
    ) -> tuple[Node, Attr]:
        if kind in (FileKind.REGULAR, FileKind.DIRECTORY, FileKind.SYMLINK):
            raise FsError(Status.INVALID, f"{path}: no special file")
        return await names.create(self, await self.there(directory), path, kind, mode, rdev=rdev)

    async def link(self, node: Node, directory: Node, path: str) -> Attr:
        await self.behind.flush(node_of(node))
        return await names.link(self, node_of(node), await self.there(directory), path)

    # Changing and removing

    async def setattr(self, node: Node, changes: SetAttr) -> Attr:
        return await self.change(await self.there(node), changes, None)

    async def change(self, node: NfsNode, changes: SetAttr, file: NfsOpenFile | None) -> Attr:
        """SETATTR, by way of an open file if there is one: under a delegation it may wait, or need not be."""
        if file is None or (changes.size is not None and not file.access & ShareAccess.WRITE):
            writers = (each for each in node.opens if each.access & ShareAccess.WRITE and not each.closed)
            file = next(writers, file)
        made = changes_of(changes)
        if file is not None and (attr := self.behind.may(file)) is not None:
            behind = self.caches.of(node).behind
            made = _needed(made, attr if behind is None else behind.seen(attr))
            if made and self.behind.set(file, made):
                made = {}
        if not made:
            return await self.getattr(node)
        values = None
        if self.behind.has(node):
            if changes.size is None:
                made = dict(sorted({**self.behind.take_attributes(node), **made}.items()))
            values = await self.behind.flush_with(
                node, lambda stateid: [(Op.SETATTR, SetattrArgs(stateid, made)), GETATTR]
            )
        if values is None:
            values = await self._setattr(node, made, file)
        if changes.size is not None:
            self.unstable.cut(node, changes.size, 1 << 63)
        return attr_of(values[1].attributes)

    async def _setattr(self, node: NfsNode, made: Attributes, file: NfsOpenFile | None) -> list[Any]:
        if file is not None and Attribute.SIZE in made and file.access & ShareAccess.WRITE:
            return await file.run(
                lambda stateid: [(Op.SETATTR, SetattrArgs(stateid, made)), GETATTR], cache=True
            )
        # §18.30.3: only for a size does the stateid matter. But it names an open file that has no name any more.
        held = next((stateid for each in node.opens if (stateid := each.known) is not None), ANONYMOUS)
        if Attribute.SIZE in made:
            held = ANONYMOUS
        for stateid in (held, ANONYMOUS):
            operations = [put(node), (Op.SETATTR, SetattrArgs(stateid, made)), GETATTR]
            try:
                return (await self.compound(operations, node.shown, cache=True))[1:]
            except CompoundFailed as failed:
                if failed.status not in LOST_STATE or stateid is ANONYMOUS:
                    raise fs_error(failed, node.shown) from failed
        raise AssertionError("unreachable")

    async def unlink(self, directory: Node, path: str) -> None:
        await names.remove(self, await self.there(directory), path, directory_wanted=False)

    async def rmdir(self, directory: Node, path: str) -> None:
        await names.remove(self, await self.there(directory), path, directory_wanted=True)

    async def rename(
        self, source: Node, path: str, target: Node, new_path: str, *, replace: bool = True
    ) -> None:
        for each in (path, new_path):
            await self.behind.flush_named(each.rpartition("/")[2])
        one, two = await self.there(source), await self.there(target)
        await names.rename(self, one, path, two, new_path, replace=replace)
        self._client.renamed((one, path), (two, new_path))

    async def fsync(self, node: Node) -> None:
        """A file's data; names and attributes are on stable storage when the server has answered (RFC 8881 §2.2.1)."""
        await self.behind.flush(node_of(node))
        await self.unstable.commit(node_of(node))

    # Extended attributes

    async def getxattr(self, node: Node, name: str) -> bytes:
        return await xattrs.get(self, node_of(node), name)

    async def setxattr(
        self, node: Node, name: str, value: bytes, *, create: bool = False, replace: bool = False
    ) -> None:
        await xattrs.put_value(self, node_of(node), name, value, create=create, replace=replace)

    async def listxattr(self, node: Node) -> list[str]:
        return await xattrs.names(self, await self.there(node))

    async def removexattr(self, node: Node, name: str) -> None:
        await xattrs.remove(self, node_of(node), name)

    # Ranges

    async def copy_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        return await copy_range(self, source, offset, target, target_offset, length)

    async def clone_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> None:
        await clone_range(self, source, offset, target, target_offset, length)

    # More

    def as_caller(self, caller: Caller) -> FileSystem:
        """The same client of the server, calling for somebody else; the server must believe what AUTH_SYS says."""
        view = object.__new__(NfsFileSystem)
        machine = self.credential.machine if isinstance(self.credential, AuthSys) else socket.gethostname()
        view.credential = AuthSys(0, machine, caller.uid, caller.gid, caller.groups[:_MAX_GIDS])
        view._client = self._client
        view._use(self._client)
        return view

    async def handle(self, node: Node) -> bytes:
        fh = (await self.there(node)).fh
        if len(fh) > HANDLE_MAX:
            raise FsError(Status.NOT_SUPPORTED, "the server's handles are longer than the contract's")
        return fh

    async def from_handle(self, handle: bytes) -> tuple[Node, Attr]:
        node = self.nodes.at(handle, 0)
        attr = await self.getattr(node)
        node.fileid = attr.fileid
        return node, attr

    async def wait_for_lock(self, owner: bytes, timeout: float) -> None:
        await self._client.wait_for_lock(owner, timeout)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something to be done that nobody needs to wait for."""
        return self.uplink.spawn(work)

    async def close(self) -> None:
        client = self._client
        failed: list[FsError] = []
        if client.link.current is not None:
            await client.behind.flush_all()
            await client.unstable.commit_all(failed.append)
            await client.delegations.return_all()
            await client.poster.drain()
        await client.unstable.aclose()
        await client.poster.aclose()
        await client.link.aclose()
        if failed:
            raise failed[0]


def _needed(made: Attributes, attr: Attr) -> Attributes:
    """Without what is so already, as long as nobody else can change it. Owners are set all the same where that takes
    set-user-ID away."""
    had = {Attribute.MODE: attr.mode}
    if not attr.mode & (stat.S_ISUID | stat.S_ISGID):
        had |= {Attribute.OWNER: str(attr.uid), Attribute.OWNER_GROUP: str(attr.gid)}  # type: ignore[dict-item]
    return {name: value for name, value in made.items() if had.get(name, MISSING) != value}
