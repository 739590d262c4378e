"""The table of commands: who handles each, and what must be there before ([MS-SMB2] §3.3.5.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from quicfs.smb.messages.header import Command
from quicfs.smb.server.change_notify import handle_change_notify
from quicfs.smb.server.close import handle_close, handle_flush
from quicfs.smb.server.create import handle_create
from quicfs.smb.server.ioctl import handle_ioctl
from quicfs.smb.server.lock import handle_lock
from quicfs.smb.server.negotiate import handle_negotiate
from quicfs.smb.server.query_directory import handle_query_directory
from quicfs.smb.server.query_info import handle_query_info
from quicfs.smb.server.read_write import handle_read, handle_write
from quicfs.smb.server.request import Reply, Request
from quicfs.smb.server.session_setup import handle_logoff, handle_session_setup
from quicfs.smb.server.set_info import handle_set_info
from quicfs.smb.server.simple import handle_echo, handle_oplock_break
from quicfs.smb.server.tree_connect import handle_tree_connect, handle_tree_disconnect

__all__ = ["COMMANDS", "CommandSpec"]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    handle: Callable[[Request], Awaitable[Reply]]
    needs_session: bool = True
    needs_tree: bool = True
    serial: bool = False  # nothing else is looked at until it is done


# CANCEL is not here: it gets no answer and is taken out of turn.
COMMANDS: Final[dict[int, CommandSpec]] = {
    Command.NEGOTIATE: CommandSpec(handle_negotiate, needs_session=False, needs_tree=False, serial=True),
    Command.SESSION_SETUP: CommandSpec(
        handle_session_setup, needs_session=False, needs_tree=False, serial=True
    ),
    Command.LOGOFF: CommandSpec(handle_logoff, needs_tree=False, serial=True),
    Command.TREE_CONNECT: CommandSpec(handle_tree_connect, needs_tree=False, serial=True),
    Command.TREE_DISCONNECT: CommandSpec(handle_tree_disconnect, serial=True),
    Command.CREATE: CommandSpec(handle_create),
    Command.CLOSE: CommandSpec(handle_close),
    Command.FLUSH: CommandSpec(handle_flush),
    Command.READ: CommandSpec(handle_read),
    Command.WRITE: CommandSpec(handle_write),
    Command.LOCK: CommandSpec(handle_lock),
    Command.IOCTL: CommandSpec(handle_ioctl),
    Command.ECHO: CommandSpec(handle_echo, needs_session=False, needs_tree=False),
    Command.QUERY_DIRECTORY: CommandSpec(handle_query_directory),
    Command.CHANGE_NOTIFY: CommandSpec(handle_change_notify),
    Command.QUERY_INFO: CommandSpec(handle_query_info),
    Command.SET_INFO: CommandSpec(handle_set_info),
    Command.OPLOCK_BREAK: CommandSpec(handle_oplock_break),
}
