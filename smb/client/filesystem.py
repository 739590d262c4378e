"""A share as a `FileSystem`. Each call is one round trip: what belongs together travels as one compound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from quicfs.smb.client import requests
from quicfs.smb.client.copying import copy_range
from quicfs.smb.client.errors import RequestFailed
from quicfs.smb.client.following import joined, redirected, shown
from quicfs.smb.client.link import Connect, Link
from quicfs.smb.client.listing import Listings
from quicfs.smb.client.login import SessionSettings
from quicfs.smb.client.node import SmbNode, split
from quicfs.smb.client.openfile import SmbOpenFile
from quicfs.smb.client.operation import CLOSE_RELATED, Answer, Operation, ioctl, set_info
from quicfs.smb.client.requests import LINK_ITSELF
from quicfs.smb.client.session import Session
from quicfs.smb.client.setting import changes_of
from quicfs.smb.client.statfs import statfs_from, statfs_query
from quicfs.smb.client.watching import SmbWatch
from quicfs.smb.errors import SmbError
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.file_info import DispositionFlags, RenameInfo, pack_u32
from quicfs.smb.fscc.reparse import SymlinkReparse, pack_nfs_symlink, parse_symlink
from quicfs.smb.messages.access import CreateDisposition, CreateOptions
from quicfs.smb.messages.close import FlushRequest
from quicfs.smb.messages.create import RELATED_FILE_ID
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.ioctl import Fsctl, IoctlResponse
from quicfs.smb.ntlm import Credentials
from quicfs.smb.ntstatus import NtStatus
from quicfs.vfs.api import (
    Attr,
    DirPage,
    FileKind,
    FileSystem,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
    StatFs,
    Watch,
)
from quicfs.vfs.status import FsError, Status

__all__ = ["SmbFileSystem"]

T = TypeVar("T")

_MAX_LINKS: Final = 40  # symbolic links followed in one path, as Linux has it
_REPARSE_SIZE: Final = 16384  # bytes of a reparse point ([MS-FSCC] §2.1.2.1)
_BACKSLASH: Final = "\uf026"  # how a backslash inside a name travels
_DIRECTORY: Final = int(CreateOptions.DIRECTORY_FILE)
_FILE: Final = int(CreateOptions.NON_DIRECTORY_FILE)
_FLUSH: Final = Operation(Command.FLUSH, (FlushRequest(RELATED_FILE_ID).pack(),))

_ON_THE_WAY: Final = frozenset({NtStatus.STOPPED_ON_SYMLINK, NtStatus.OBJECT_PATH_NOT_FOUND})

# What servers say to a request that they do not know at all.
_UNKNOWN: Final = frozenset(
    {
        NtStatus.NOT_SUPPORTED,
        NtStatus.INVALID_PARAMETER,
        NtStatus.INVALID_INFO_CLASS,
        NtStatus.INVALID_DEVICE_REQUEST,
        NtStatus.NOT_IMPLEMENTED,
    }
)
# Windows lets few users make symbolic links of its own kind.
_NO_SUCH_LINKS: Final = _UNKNOWN | {NtStatus.NOT_A_REPARSE_POINT, NtStatus.PRIVILEGE_NOT_HELD}


class SmbFileSystem(FileSystem):
    """`connect` makes a stream to the server each time that one is needed; `host` and `share` are names.

    The first call connects, unless `connect` did, which reports problems as sentences (ConnectError).
    When the connection is lost, calls wait for a new one, `timeout` seconds at most; open files are opened
    again by their path.
    """

    def __init__(
        self,
        connect: Connect,
        host: str,
        share: str,
        credentials: Credentials | None = None,
        *,
        timeout: float = 30.0,
        encrypt: bool = False,
    ) -> None:
        settings = SessionSettings(host, share, credentials or Credentials(), timeout, encrypt)
        self._link = Link(connect, settings)
        self._root = SmbNode(None, "", 0)
        self._posix: bool | None = None
        self._listings = Listings()
        self._plain_delete = False  # the server knows no FileDispositionInformationEx

    async def connect(self) -> None:
        """Connect and log in now. ConnectError with a sentence when that fails."""
        session = await self._link.open()
        self._posix = session.connection.posix

    @property
    def root(self) -> Node:
        return self._root

    # Ways to the server

    async def _run(self, operation: Callable[[Session], Awaitable[T]], what: str, *, again: bool = True) -> T:
        return await self._link.run(operation, what, again=again)

    async def _names(self, path: str) -> list[str]:
        return split(path, posix=await self._has_posix())

    async def _has_posix(self) -> bool:
        if self._posix is None:
            self._posix = (await self._link.session()).connection.posix
        return self._posix

    async def _compound(
        self, what: str, parse: Callable[[list[Answer]], T], *operations: Operation, again: bool = True
    ) -> T:
        async def exchange(session: Session) -> T:
            return parse(await session.compound(operations))

        return await self._run(exchange, what, again=again)

    async def _resolving(
        self,
        directory: Node,
        path: str,
        attempt: Callable[[Session, str], Awaitable[T]],
        *,
        again: bool = True,
    ) -> tuple[T, list[str]]:
        """`attempt` with the path on the wire, and once more for each symbolic link on the way.

        Also gives the names, from the root, that led to the result.
        """
        base = _node(directory)
        names = [*_names_of(base), *(await self._names(path))]
        for _ in range(_MAX_LINKS):
            wire = "\\".join(names)

            async def once(session: Session, wire: str = wire) -> T | RequestFailed:
                try:
                    return await attempt(session, wire)
                except RequestFailed as error:
                    if error.status in _ON_THE_WAY:
                        return error
                    raise

            result = await self._run(once, shown(names), again=again)
            if not isinstance(result, RequestFailed):
                return result, names
            if result.status == NtStatus.STOPPED_ON_SYMLINK:
                names = redirected(names, wire, result)
            else:
                names = await self._around_link(names)
        raise FsError(Status.LOOP, path)

    async def _around_link(self, names: list[str]) -> list[str]:
        """For servers that do not say where a symbolic link is (Samba with POSIX extensions).

        NOT_FOUND when there is none on the way.
        """
        posix = await self._has_posix()
        for count in range(1, len(names)):
            wire = "\\".join(names[:count])

            async def look(session: Session, wire: str = wire) -> Attr:
                return await self._look(session, wire, LINK_ITSELF, posix)

            attr = await self._run(look, shown(names))
            if attr.kind is FileKind.SYMLINK:
                node = self._root.at(names[:count], attr.fileid)
                return joined(names, names[: count - 1], await self.readlink(node), names[count:])
            if attr.kind is not FileKind.DIRECTORY:
                raise FsError(Status.NOT_DIR, shown(names[:count]))
        raise FsError(Status.NOT_FOUND, shown(names))

    # Looking

    async def lookup(self, directory: Node, path: str, *, follow: bool = False) -> tuple[Node, Attr]:
        posix = await self._has_posix()
        options = 0 if follow else LINK_ITSELF

        async def attempt(session: Session, wire: str) -> Attr:
            return await self._look(session, wire, options, posix)

        attr, names = await self._resolving(directory, path, attempt)
        if names:
            return self._root.at(names, attr.fileid), attr
        self._root.fileid = attr.fileid
        return self._root, attr

    async def _look(self, session: Session, wire: str, options: int, posix: bool) -> Attr:
        request = requests.create(wire, requests.ATTRIBUTES, posix=posix, options=options)
        if posix:
            answers = await session.compound((request, CLOSE_RELATED))
            _, attr = requests.create_response(answers[0])
            if attr is not None:
                return attr
        answers = await session.compound((request, *requests.attr_query(posix=posix), CLOSE_RELATED))
        return requests.attr_from(answers, 1, posix=posix)

    async def getattr(self, node: Node) -> Attr:
        smb = _node(node)
        if smb.opens:  # also right after the name was removed
            file = smb.opens[-1]
            assert isinstance(file, SmbOpenFile)
            return await file.getattr()
        posix = await self._has_posix()

        async def look(session: Session) -> Attr:
            return await self._look(session, smb.path, LINK_ITSELF, posix)

        attr = await self._run(look, smb.shown)
        self._same(smb, attr)
        return attr

    def _same(self, node: SmbNode, attr: Attr) -> None:
        """STALE when another object has taken the node's path."""
        if node is self._root or not node.fileid:
            node.fileid = attr.fileid
        elif attr.fileid and attr.fileid != node.fileid:
            raise FsError(Status.STALE, node.shown)

    async def readlink(self, node: Node) -> str:
        smb = _node(node)
        posix = await self._has_posix()

        def target_of(answers: list[Answer]) -> str | None:
            return parse_symlink(memoryview(IoctlResponse.parse(answers[1].message).output))

        target = await self._compound(
            smb.shown,
            target_of,
            requests.create(smb.path, requests.ATTRIBUTES, posix=posix, options=LINK_ITSELF),
            ioctl(Fsctl.GET_REPARSE_POINT, b"", output=_REPARSE_SIZE),
            CLOSE_RELATED,
        )
        if target is None:
            raise FsError(Status.INVALID, f"{smb.shown} is no symbolic link")
        return target.replace(_BACKSLASH, "\\")

    async def readdir(self, directory: Node, cookie: int = 0, limit: int = 1024) -> DirPage:
        smb = _node(directory)
        return await self._listings.page(self._link, smb, cookie, limit, posix=await self._has_posix())

    async def statfs(self) -> StatFs:
        posix = await self._has_posix()
        root = requests.create("", requests.ATTRIBUTES, posix=posix, options=_DIRECTORY)

        def sizes(answers: list[Answer]) -> StatFs:
            return statfs_from(answers, 1, posix=posix)

        return await self._compound("/", sizes, root, *statfs_query(posix=posix), CLOSE_RELATED)

    # Opening and making

    async def open(
        self, directory: Node, path: str, flags: OpenFlags, mode: int = 0o644
    ) -> tuple[OpenFile, Attr, bool]:
        posix = await self._has_posix()
        file = SmbOpenFile(self._link, flags, posix=posix)

        async def attempt(session: Session, wire: str) -> tuple[Attr, bool]:
            return await file.open(session, wire, mode)

        # Trying twice could say EXISTS for a file that the first try made.
        again = OpenFlags.EXCLUSIVE not in flags
        (attr, created), names = await self._resolving(directory, path, attempt, again=again)
        if attr.kind is FileKind.SYMLINK:
            await file.close()
            raise FsError(Status.LOOP, shown(names))
        file.adopt(self._root.at(names, attr.fileid))
        return file, attr, created

    async def mkdir(self, directory: Node, path: str, mode: int = 0o755) -> tuple[Node, Attr]:
        posix = await self._has_posix()

        async def attempt(session: Session, wire: str) -> Attr:
            request = requests.create(
                wire,
                requests.ATTRIBUTES,
                posix=posix,
                disposition=CreateDisposition.CREATE,
                options=_DIRECTORY,
                mode=mode,
            )
            more = [] if posix else requests.attr_query(posix=posix)
            answers = await session.compound((request, *more, CLOSE_RELATED))
            if posix and (attr := requests.create_response(answers[0])[1]) is not None:
                return attr
            if posix:
                return await self._look(session, wire, LINK_ITSELF, posix)
            return requests.attr_from(answers, 1, posix=posix)

        attr, names = await self._resolving(directory, path, attempt, again=False)
        return self._root.at(names, attr.fileid), attr

    async def symlink(self, directory: Node, path: str, target: str) -> tuple[Node, Attr]:
        posix = await self._has_posix()
        absolute = target.startswith("/")
        names = target.replace("\\", _BACKSLASH).replace("/", "\\")
        native = SymlinkReparse(names, names, not absolute).pack()

        async def attempt(session: Session, wire: str) -> Attr:
            try:
                return await self._make_link(session, wire, native, posix)
            except SmbError as error:
                if error.status not in _NO_SUCH_LINKS:
                    raise
            try:
                return await self._make_link(session, wire, pack_nfs_symlink(target), posix)
            except SmbError as error:
                if error.status in _NO_SUCH_LINKS:
                    raise FsError(Status.NOT_SUPPORTED, "symbolic links on this server") from error
                raise

        attr, where = await self._resolving(directory, path, attempt, again=False)
        return self._root.at(where, attr.fileid), attr

    async def _make_link(self, session: Session, wire: str, reparse: bytes, posix: bool) -> Attr:
        request = requests.create(
            wire,
            requests.WRITE | requests.REMOVE,
            posix=posix,
            disposition=CreateDisposition.CREATE,
            options=_FILE | LINK_ITSELF,
            mode=0o777,
        )
        asked = requests.attr_query(posix=posix)
        answers = await session.exchange(
            (request, ioctl(Fsctl.SET_REPARSE_POINT, reparse, output=0), *asked, CLOSE_RELATED)
        )
        if not answers[0].status and answers[1].status:
            # Half of it worked: take the empty file away again.
            await self._delete(session, wire, _FILE, posix)
        for answer in answers:
            if answer.status:
                raise RequestFailed(answer)
        return requests.attr_from(answers, 2, posix=posix)

    async def link(self, node: Node, directory: Node, path: str) -> Attr:
        posix = await self._has_posix()
        source, target = _node(node), _node(directory)
        wire = "\\".join([*_names_of(target), *(await self._names(path))])

        def attributes(answers: list[Answer]) -> Attr:
            return requests.attr_from(answers, 2, posix=posix)

        return await self._compound(
            f"{source.shown} as {path}",
            attributes,
            requests.create(source.path, requests.CHANGE, posix=posix, options=LINK_ITSELF | _FILE),
            set_info(FileInfoClass.LINK, RenameInfo(requests.on_wire(wire, posix=posix)).pack()),
            *requests.attr_query(posix=posix),
            CLOSE_RELATED,
            again=False,
        )

    # Changing and removing

    async def setattr(self, node: Node, changes: SetAttr) -> Attr:
        smb = _node(node)
        posix = await self._has_posix()

        async def attempt(session: Session) -> Attr:
            wanted = changes_of(changes, session.clock_offset_ns, posix=posix)
            answers = await session.compound(
                (
                    requests.create(smb.path, wanted.access, posix=posix, options=LINK_ITSELF),
                    *wanted.operations(RELATED_FILE_ID),
                    *requests.attr_query(posix=posix),
                    CLOSE_RELATED,
                )
            )
            return requests.attr_from(answers, 1 + len(wanted.settings), posix=posix)

        if smb.opens and smb.gone:
            file = smb.opens[-1]
            assert isinstance(file, SmbOpenFile)
            return await file.setattr(changes)
        return await self._run(attempt, smb.shown)

    async def unlink(self, directory: Node, path: str) -> None:
        await self._remove(directory, path, _FILE)

    async def rmdir(self, directory: Node, path: str) -> None:
        await self._remove(directory, path, _DIRECTORY)

    async def _remove(self, directory: Node, path: str, options: int) -> None:
        posix = await self._has_posix()

        async def attempt(session: Session, wire: str) -> None:
            await self._delete(session, wire, options, posix)

        _, names = await self._resolving(directory, path, attempt, again=False)
        self._root.at(names[:-1], 0).forget(names[-1])

    async def _delete(self, session: Session, wire: str, options: int, posix: bool) -> None:
        try:
            await session.compound(self._removal(wire, options, posix))
        except SmbError as error:
            if self._plain_delete or error.status not in _UNKNOWN:
                raise
            self._plain_delete = True
            await session.compound(self._removal(wire, options, posix))

    def _removal(self, wire: str, options: int, posix: bool) -> Sequence[Operation]:
        """With POSIX semantics, where the server has them: the name goes now, open files stay usable."""
        if self._plain_delete:
            removal = set_info(FileInfoClass.DISPOSITION, b"\1")
        else:
            flags = DispositionFlags.DELETE | DispositionFlags.POSIX_SEMANTICS
            flags |= DispositionFlags.IGNORE_READONLY_ATTRIBUTE
            removal = set_info(FileInfoClass.DISPOSITION_EX, pack_u32(flags))
        request = requests.create(wire, requests.REMOVE, posix=posix, options=options | LINK_ITSELF)
        return request, removal, CLOSE_RELATED

    async def rename(
        self, source: Node, path: str, target: Node, new_path: str, *, replace: bool = True
    ) -> None:
        posix = await self._has_posix()
        new_names = [*_names_of(_node(target)), *(await self._names(new_path))]
        change = RenameInfo(requests.on_wire("\\".join(new_names), posix=posix), replace).pack()

        async def attempt(session: Session, wire: str) -> None:
            await session.compound(
                (
                    requests.create(wire, requests.REMOVE, posix=posix, options=LINK_ITSELF),
                    set_info(FileInfoClass.RENAME, change),
                    CLOSE_RELATED,
                )
            )

        _, names = await self._resolving(source, path, attempt, again=False)
        if names != new_names and names:
            parent = self._root.at(new_names[:-1], 0)
            self._root.at(names[:-1], 0).move(names[-1], parent, new_names[-1])

    async def fsync(self, node: Node) -> None:
        """FLUSH. Servers that flush no directories have their names on disk as their own rules say."""
        smb = _node(node)
        if smb.opens:
            file = smb.opens[-1]
            assert isinstance(file, SmbOpenFile)
            await file.fsync()
            return
        posix = await self._has_posix()
        try:
            await self._compound(
                smb.shown,
                list,
                requests.create(smb.path, requests.WRITE, posix=posix, options=LINK_ITSELF),
                _FLUSH,
                CLOSE_RELATED,
            )
        except FsError as error:
            if error.status not in (Status.NOT_SUPPORTED, Status.INVALID, Status.BAD_FILE):
                raise

    # More

    def watch(self, directory: Node, *, recursive: bool = False) -> Watch:
        return SmbWatch(self._link, _node(directory), recursive=recursive)

    async def copy_range(
        self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int
    ) -> int:
        if not isinstance(source, SmbOpenFile) or not isinstance(target, SmbOpenFile):
            raise FsError(Status.CROSS_DEVICE, "copying between file systems")
        return await copy_range(source, offset, target, target_offset, length)

    async def close(self) -> None:
        await self._link.aclose()


def _node(node: Node) -> SmbNode:
    if not isinstance(node, SmbNode):
        raise FsError(Status.STALE, "a node of another file system")
    return node


def _names_of(node: SmbNode) -> list[str]:
    path = node.path
    return path.split("\\") if path else []
