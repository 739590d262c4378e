"""The requests that make up the file system's calls, for servers with and without the POSIX extensions."""

from __future__ import annotations

from typing import Final

from quicfs.smb.client.attributes import attr_of_all_info, attr_of_create, attr_of_posix
from quicfs.smb.client.operation import Answer, Operation, query
from quicfs.smb.fscc.classes import FileInfoClass
from quicfs.smb.fscc.file_info import AllInfo, AttributeTagInfo
from quicfs.smb.fscc.posix import PosixInfo
from quicfs.smb.messages.access import (
    Access,
    CreateDisposition,
    CreateOptions,
    FileAttribute,
    ShareAccess,
)
from quicfs.smb.messages.create import RELATED_FILE_ID, CreateRequest, CreateResponse
from quicfs.smb.messages.create_contexts import POSIX, QUERY_ON_DISK_ID, pack_posix_mode
from quicfs.smb.messages.header import Command
from quicfs.smb.messages.output import parse_output
from quicfs.vfs.api import Attr

__all__ = [
    "ATTRIBUTES",
    "CHANGE",
    "LINK_ITSELF",
    "LIST",
    "READ",
    "REMOVE",
    "WRITE",
    "attr_from",
    "attr_query",
    "create",
    "create_response",
    "on_wire",
]

# Plain integers: IntFlag arithmetic costs more than the rest of a request.
ATTRIBUTES: Final = int(Access.FILE_READ_ATTRIBUTES)
READ: Final = int(Access.FILE_READ_DATA | Access.FILE_READ_ATTRIBUTES | Access.FILE_READ_EA)
WRITE: Final = int(
    Access.FILE_WRITE_DATA
    | Access.FILE_APPEND_DATA
    | Access.FILE_WRITE_ATTRIBUTES
    | Access.FILE_WRITE_EA
    | Access.FILE_READ_ATTRIBUTES
)
CHANGE: Final = int(Access.FILE_READ_ATTRIBUTES | Access.FILE_WRITE_ATTRIBUTES)
REMOVE: Final = int(Access.DELETE | Access.FILE_READ_ATTRIBUTES)
LIST: Final = int(Access.FILE_READ_DATA | Access.FILE_READ_ATTRIBUTES)
LINK_ITSELF: Final = int(CreateOptions.OPEN_REPARSE_POINT)
_ALL: Final = int(ShareAccess.ALL)
_DIRECTORY_FILE: Final = int(CreateOptions.DIRECTORY_FILE)
_POSIX_MODES: Final = [pack_posix_mode(mode) for mode in range(0o10000)]
_NO_CONTENT: Final = b""


def on_wire(path: str, *, posix: bool) -> str:
    """A path from the share's root. Here names are joined by backslashes; servers with the POSIX
    extensions take slashes, and Samba takes a backslash for part of a name then.
    """
    return path.replace("\\", "/") if posix else path


def create(
    path: str,
    access: int,
    *,
    posix: bool,
    disposition: int = CreateDisposition.OPEN,
    options: int = 0,
    mode: int = 0,
) -> Operation:
    """CREATE of `path` (see `on_wire`). `mode` counts when something is made."""
    contexts: dict[bytes, bytes | memoryview] = {QUERY_ON_DISK_ID: _NO_CONTENT}
    attributes = 0
    if posix:
        contexts[POSIX] = _POSIX_MODES[mode]
    elif mode and not mode & 0o200 and not options & _DIRECTORY_FILE:
        attributes = int(FileAttribute.READONLY)
    request = CreateRequest(
        on_wire(path, posix=posix),
        access,
        _ALL,
        disposition,
        options,
        attributes or int(FileAttribute.NORMAL),
        contexts=contexts,
    )
    return Operation(Command.CREATE, (request.pack(),))


def attr_query(*, posix: bool, file_id: bytes = RELATED_FILE_ID) -> list[Operation]:
    """What asks an open file for its attributes; see `attr_from`."""
    if posix:
        return [query(FileInfoClass.POSIX, file_id)]
    return [query(FileInfoClass.ALL, file_id), query(FileInfoClass.ATTRIBUTE_TAG, file_id)]


def attr_from(answers: list[Answer], at: int, *, posix: bool) -> Attr:
    """The attributes from the answers to `attr_query` that begin at `at`."""
    data = parse_output(answers[at].message)
    if posix:
        return attr_of_posix(PosixInfo.parse(data))
    info = AllInfo.parse(data)
    tag = AttributeTagInfo.parse(parse_output(answers[at + 1].message)).reparse_tag
    return attr_of_all_info(info, tag)


def create_response(answer: Answer) -> tuple[CreateResponse, Attr | None]:
    response = CreateResponse.parse(answer.message)
    return response, attr_of_create(response)
