"""CREATE at the server ([MS-SMB2] §3.3.5.9; [MS-FSA] §2.1.5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quicfs.smb import limits
from quicfs.smb.errors import SmbError
from quicfs.smb.fscc.security import SecurityDescriptor
from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.access import Access, CreateAction, CreateDisposition, CreateOptions, FileAttribute
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.names import path_from_wire
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes, create_checks, pipes
from quicfs.smb.server.attributes import REPARSE_TAGS
from quicfs.smb.server.opens import FileOpen
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.session import Tree
from quicfs.vfs import Attr, FileKind, FsError, Node, OpenFile, OpenFlags, SetAttr, Status

__all__ = ["handle_create"]

_ATTEMPTS: Final = 4  # when the name comes and goes between looking and opening
_READS: Final = int(Access.FILE_READ_DATA | Access.FILE_EXECUTE)
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
# Plain integers: arithmetic on flags of the enum module costs more than the rest of a check.
_DIRECTORY: Final = int(CreateOptions.DIRECTORY_FILE)
_WRITE_THROUGH: Final = int(CreateOptions.WRITE_THROUGH)
_DELETE_ON_CLOSE: Final = int(CreateOptions.DELETE_ON_CLOSE)
_OPEN_REPARSE_POINT: Final = int(CreateOptions.OPEN_REPARSE_POINT)
_READ_ONLY: Final = int(FileAttribute.READONLY)

# What a disposition does with a name that is there, and with one that is not (None: it fails).
_EXISTING: Final = {
    CreateDisposition.SUPERSEDE: CreateAction.SUPERSEDED,
    CreateDisposition.OPEN: CreateAction.OPENED,
    CreateDisposition.CREATE: None,
    CreateDisposition.OPEN_IF: CreateAction.OPENED,
    CreateDisposition.OVERWRITE: CreateAction.OVERWRITTEN,
    CreateDisposition.OVERWRITE_IF: CreateAction.OVERWRITTEN,
}
_ABSENT_FAILS: Final = (CreateDisposition.OPEN, CreateDisposition.OVERWRITE)


@dataclass(slots=True)
class _Wish:
    """A CREATE request, understood and checked against its share."""

    tree: Tree
    path: str
    access: int
    asked: CreateRequest
    disposition: CreateDisposition
    posix: bool
    mode: int | None

    def has(self, option: int) -> bool:
        return bool(self.asked.options & option)


@dataclass(slots=True)
class _Found:
    node: Node
    attr: Attr
    file: OpenFile | None
    action: CreateAction


async def handle_create(request: Request) -> Reply:
    asked = CreateRequest.parse(request.message)
    tree = request.valid_tree
    session = tree.session
    if len(session.opens) >= limits.MAX_OPENS:
        raise SmbError(NtStatus.TOO_MANY_OPENED_FILES)
    if tree.share is None:
        return pipes.create(request, tree, asked)
    wish = _understand(tree, asked)
    found = await _find_or_make(wish)
    try:
        # The tree or the session may have ended meanwhile, and nobody would close the open any more.
        if session.trees.get(tree.tree_id) is not tree:
            raise SmbError(NtStatus.NETWORK_NAME_DELETED)
        open_ = _register(wish, found)
    except BaseException:
        if found.file is not None:
            await found.file.close()
        raise
    session.opens[open_.file_id] = open_
    request.chain.file_id, request.chain.failed = open_.file_id, None
    return Reply(_response(wish, found, open_))


def _understand(tree: Tree, asked: CreateRequest) -> _Wish:
    contexts = asked.contexts
    create_checks.check_request(asked)
    # The context counts only where NEGOTIATE settled on the extensions.
    posix_context = contexts.get(create_contexts.POSIX)
    if not tree.session.connection.negotiation.posix:
        posix_context = None
    posix = posix_context is not None
    mode: int | None = None
    if posix_context is not None:
        mode = create_contexts.parse_posix_mode(memoryview(posix_context)) & 0o7777
    elif create_contexts.SECURITY_DESCRIPTOR in contexts:
        mode = SecurityDescriptor.parse(memoryview(contexts[create_contexts.SECURITY_DESCRIPTOR])).mode
    access = create_checks.granted_access(asked, tree.maximal_access)
    path = path_from_wire(asked.name, posix=posix)
    return _Wish(tree, path, access, asked, CreateDisposition(asked.disposition), posix, mode)


async def _find_or_make(wish: _Wish) -> _Found:
    fs = wish.tree.fs
    follow = not wish.has(_OPEN_REPARSE_POINT)
    for _ in range(_ATTEMPTS):
        try:
            node, attr = await fs.lookup(fs.root, wish.path, follow=follow)
        except FsError as error:
            if error.status is Status.NOT_DIR:
                raise SmbError(NtStatus.OBJECT_PATH_NOT_FOUND) from None
            if error.status is not Status.NOT_FOUND:
                raise
            if await _spelled_otherwise(wish):
                continue
            if wish.disposition in _ABSENT_FAILS:
                await _raise_not_found(wish)
            try:
                return await _make(wish)
            except FsError as made:
                if made.status is Status.NOT_FOUND:
                    raise SmbError(NtStatus.OBJECT_PATH_NOT_FOUND) from None
                if made.status is not Status.EXISTS:
                    raise
                # Somebody else made it just now, or it is a link that leads nowhere.
                follow = False
            continue
        try:
            return await _take_existing(wish, node, attr)
        except FsError as error:
            if error.status is not Status.NOT_FOUND:
                raise
    raise SmbError(NtStatus.SHARING_VIOLATION)


async def _spelled_otherwise(wish: _Wish) -> bool:
    """Correct the case of the path's names, for clients that do not care about it."""
    if wish.posix:
        return False
    spelled = await wish.tree.names.resolve(wish.path)
    if spelled == wish.path:
        return False
    original = wish.path.rpartition("/")[2]
    wish.path = spelled
    if await _exists(wish):
        return True
    # Only its directory is spelled otherwise (or somebody removed it just now): the name stays the client's.
    parent = spelled.rpartition("/")[0]
    wish.path = f"{parent}/{original}" if parent else original
    return False


async def _exists(wish: _Wish) -> bool:
    fs = wish.tree.fs
    try:
        await fs.lookup(fs.root, wish.path, follow=True)
    except FsError:
        return False
    return True


async def _parent_is_missing(wish: _Wish) -> bool:
    fs = wish.tree.fs
    parent = wish.path.rpartition("/")[0]
    if not parent:
        return False
    try:
        _, attr = await fs.lookup(fs.root, parent, follow=True)
    except FsError:
        return True
    return attr.kind is not FileKind.DIRECTORY


async def _raise_not_found(wish: _Wish) -> None:
    """Windows tells a missing directory on the way from a missing name."""
    if await _parent_is_missing(wish):
        raise SmbError(NtStatus.OBJECT_PATH_NOT_FOUND)
    raise SmbError(NtStatus.OBJECT_NAME_NOT_FOUND)


async def _take_existing(wish: _Wish, node: Node, attr: Attr) -> _Found:
    action = _EXISTING[wish.disposition]
    if action is None:
        raise SmbError(NtStatus.OBJECT_NAME_COLLISION)
    overwrite = action is not CreateAction.OPENED
    create_checks.check_existing(wish.asked, wish.access, attr, overwrite=overwrite, posix=wish.posix)
    if overwrite:
        create_checks.check_writable(wish.tree)
    state = wish.tree.state.find(attr.fileid)
    if state is not None:
        if state.delete_pending:
            raise SmbError(NtStatus.DELETE_PENDING)
        state.check_sharing(wish.access | (_WRITES if overwrite else 0), wish.asked.share_access)
    file: OpenFile | None = None
    if attr.kind is FileKind.REGULAR and (wish.access & (_READS | _WRITES) or overwrite):
        fs = wish.tree.fs
        flags = _flags(wish.access)
        if overwrite:
            flags |= OpenFlags.WRITE | OpenFlags.TRUNCATE
        file, attr, _ = await fs.open(fs.root, wish.path, flags)
        node = file.node
        if overwrite:
            attr = await _prepare(wish, file, attr, new=False)
    return _Found(node, attr, file, action)


async def _make(wish: _Wish) -> _Found:
    create_checks.check_writable(wish.tree)
    create_checks.check_new(wish.asked)
    fs = wish.tree.fs
    share = wish.tree.disk
    if not wish.path:
        raise SmbError(NtStatus.OBJECT_NAME_COLLISION)
    if wish.has(_DIRECTORY):
        mode = share.directory_mode if wish.mode is None else wish.mode
        node, attr = await fs.mkdir(fs.root, wish.path, mode)
        wish.tree.names.created(wish.path)
        return _Found(node, attr, None, CreateAction.CREATED)
    mode = share.file_mode if wish.mode is None else wish.mode
    if wish.asked.file_attributes & _READ_ONLY and not wish.posix:
        mode &= ~0o222
    flags = _flags(wish.access) | OpenFlags.CREATE | OpenFlags.EXCLUSIVE
    file, attr, _ = await fs.open(fs.root, wish.path, flags, mode)
    wish.tree.names.created(wish.path)
    attr = await _prepare(wish, file, attr, new=True)
    return _Found(file.node, attr, file, CreateAction.CREATED)


def _flags(access: int) -> OpenFlags:
    reads, writes = access & _READS, access & _WRITES
    if writes:
        return OpenFlags.READ | OpenFlags.WRITE if reads else OpenFlags.WRITE
    return OpenFlags.READ


async def _prepare(wish: _Wish, file: OpenFile, attr: Attr, *, new: bool) -> Attr:
    """What the contexts say of a file that begins empty."""
    try:
        size = wish.asked.contexts.get(create_contexts.ALLOCATION_SIZE)
        if size is not None and wish.access & _WRITES:
            # AlSi is a hint about space, not about the length; file systems here keep no such thing.
            create_contexts.parse_allocation_size(memoryview(size))
        if not new and wish.mode is not None and wish.posix:
            attr = await file.setattr(SetAttr(mode=wish.mode))
    except BaseException:
        await file.close()
        raise
    return attr


def _register(wish: _Wish, found: _Found) -> FileOpen:
    asked = wish.asked
    state = wish.tree.state.find(found.attr.fileid)
    if state is not None:
        # Again, for the file system was asked in between.
        if state.delete_pending:
            raise SmbError(NtStatus.DELETE_PENDING)
        state.check_sharing(wish.access, asked.share_access)
    open_ = FileOpen(
        wish.tree,
        found.node,
        found.attr.kind,
        wish.path,
        wish.access,
        asked.share_access,
        wish.posix,
        found.file,
        wish.has(_WRITE_THROUGH),
        wish.has(_DELETE_ON_CLOSE),
    )
    open_.state = wish.tree.state.add(open_, found.attr.fileid)
    return open_


def _response(wish: _Wish, found: _Found, open_: FileOpen) -> bytes:
    attr = found.attr
    contexts: dict[bytes, bytes | memoryview] = {}
    asked = wish.asked.contexts
    if create_contexts.QUERY_MAXIMAL_ACCESS in asked:
        maximal = create_contexts.MaximalAccess(NtStatus.SUCCESS, wish.tree.maximal_access)
        contexts[create_contexts.QUERY_MAXIMAL_ACCESS] = maximal.pack()
    if create_contexts.QUERY_ON_DISK_ID in asked:
        volume = wish.tree.disk_id
        contexts[create_contexts.QUERY_ON_DISK_ID] = create_contexts.pack_on_disk_id(attr.fileid, volume)
    if wish.posix:
        info = attributes.posix_info(attr, wish.tree.disk_id & 0xFFFFFFFF)
        contexts[create_contexts.POSIX] = create_contexts.PosixCreateResponse(
            info.nlink, info.reparse_tag, info.mode, info.owner, info.group
        ).pack()
    return CreateResponse(
        open_.file_id,
        found.action,
        *attributes.times(attr),
        attributes.allocation_size(attr),
        attributes.end_of_file(attr),
        attributes.file_attributes(attr, open_.name),
        0,
        1 if REPARSE_TAGS[attr.kind] else 0,
        contexts,
    ).pack()
