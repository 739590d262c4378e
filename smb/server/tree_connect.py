"""TREE_CONNECT and TREE_DISCONNECT at the server ([MS-SMB2] §3.3.5.7 and §3.3.5.8)."""

from __future__ import annotations

from typing import Final

from quicfs.smb import limits
from quicfs.smb.errors import SmbError
from quicfs.smb.messages.access import Access
from quicfs.smb.messages.simple import EMPTY_BODY, check_empty
from quicfs.smb.messages.tree import ShareFlags, ShareType, TreeConnectRequest, TreeConnectResponse
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.session import Tree
from quicfs.smb.server.shares import IPC_SHARE

__all__ = ["READ_ONLY_ACCESS", "handle_tree_connect", "handle_tree_disconnect"]

READ_ONLY_ACCESS: Final = int(Access.FILE_GENERIC_READ | Access.FILE_GENERIC_EXECUTE)


async def handle_tree_connect(request: Request) -> Reply:
    asked = TreeConnectRequest.parse(request.message)
    session = request.valid_session
    server = request.connection.server
    # \\server\share: the server's name is not ours to judge.
    name = asked.path.rpartition("\\")[2]
    if not asked.path.startswith("\\\\") or not name:
        raise SmbError(NtStatus.BAD_NETWORK_NAME)
    if len(session.trees) >= limits.MAX_TREES:
        raise SmbError(NtStatus.INSUFFICIENT_RESOURCES)
    tree_id = session.next_tree_id
    if name.upper() == IPC_SHARE:
        access = READ_ONLY_ACCESS | int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
        tree = Tree(tree_id, session, None, access, None, None)
        response = TreeConnectResponse(ShareType.PIPE, ShareFlags.NO_CACHING, 0, access)
    else:
        share = server.find_share(name)
        if share is None:
            raise SmbError(NtStatus.BAD_NETWORK_NAME)
        # Anonymous sessions see the list of shares, nothing in them; guests are a choice of the administrator.
        if session.is_anonymous:
            raise SmbError(NtStatus.ACCESS_DENIED)
        access = READ_ONLY_ACCESS if share.read_only else int(Access.FILE_ALL_ACCESS)
        state, names = server.state_of(share)
        tree = Tree(tree_id, session, share, access, state, names)
        response = TreeConnectResponse(share.kind, ShareFlags.MANUAL_CACHING, 0, access)
    session.next_tree_id += 1
    session.trees[tree_id] = tree
    request.tree = tree
    request.chain.tree_id = tree_id
    return Reply(response.pack())


async def handle_tree_disconnect(request: Request) -> Reply:
    check_empty(request.message)
    session = request.valid_session
    tree = request.valid_tree
    await request.connection.close_opens(session, tree.tree_id)
    session.trees.pop(tree.tree_id, None)
    return Reply(EMPTY_BODY)
