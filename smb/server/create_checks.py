"""The checks of CREATE that need nothing but the request, the share and the object's attributes."""

from __future__ import annotations

from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.messages import create_contexts
from quicfs.smb.messages.access import Access, CreateDisposition, CreateOptions, FileAttribute
from quicfs.smb.messages.create import CreateRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import attributes
from quicfs.smb.server.session import Tree
from quicfs.vfs import Attr, FileKind

__all__ = ["check_existing", "check_new", "check_request", "check_writable", "granted_access"]

_DIRECTORY: Final = int(CreateOptions.DIRECTORY_FILE)
_NON_DIRECTORY: Final = int(CreateOptions.NON_DIRECTORY_FILE)
_OPEN_BY_FILE_ID: Final = int(CreateOptions.OPEN_BY_FILE_ID)
_ENCRYPTED: Final = int(FileAttribute.ENCRYPTED)
_READ_ONLY: Final = int(FileAttribute.READONLY)
_DELETE_ON_CLOSE: Final = int(CreateOptions.DELETE_ON_CLOSE)
_OVERWRITING: Final = (
    CreateDisposition.SUPERSEDE,
    CreateDisposition.OVERWRITE,
    CreateDisposition.OVERWRITE_IF,
)
# §3.3.5.9: the generic rights and what they stand for ([MS-FSA] §2.1.5.1).
_GENERIC: Final = (
    (int(Access.GENERIC_ALL), int(Access.FILE_ALL_ACCESS)),
    (int(Access.GENERIC_READ), int(Access.FILE_GENERIC_READ)),
    (int(Access.GENERIC_WRITE), int(Access.FILE_GENERIC_WRITE)),
    (int(Access.GENERIC_EXECUTE), int(Access.FILE_GENERIC_EXECUTE)),
)
_VALID_ACCESS: Final = 0xF31F01FF
_MAXIMUM_ALLOWED: Final = int(Access.MAXIMUM_ALLOWED)
_SYSTEM_SECURITY: Final = int(Access.ACCESS_SYSTEM_SECURITY)
_DELETE: Final = int(Access.DELETE)
_WRITES: Final = int(Access.FILE_WRITE_DATA | Access.FILE_APPEND_DATA)
_MAX_IMPERSONATION: Final = 3
_ZERO_TIME: Final = bytes(8)


def check_request(asked: CreateRequest) -> None:
    """What contradicts itself."""
    options = asked.options
    if asked.disposition > CreateDisposition.OVERWRITE_IF or asked.impersonation_level > _MAX_IMPERSONATION:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    if options & _DIRECTORY and (options & _NON_DIRECTORY or asked.disposition in _OVERWRITING):
        raise SmbError(NtStatus.INVALID_PARAMETER)
    if asked.share_access & ~7:
        raise SmbError(NtStatus.INVALID_PARAMETER)
    if options & _OPEN_BY_FILE_ID:
        raise SmbError(NtStatus.NOT_SUPPORTED)
    if asked.file_attributes & _ENCRYPTED:
        raise SmbError(NtStatus.ACCESS_DENIED)
    # There are no earlier versions, so none is found.
    when = asked.contexts.get(create_contexts.TIMEWARP)
    if when is not None and bytes(when) != _ZERO_TIME:
        raise SmbError(NtStatus.OBJECT_NAME_NOT_FOUND)
    if create_contexts.EXTENDED_ATTRIBUTES in asked.contexts:
        raise SmbError(NtStatus.EAS_NOT_SUPPORTED)


def granted_access(asked: CreateRequest, maximal: int) -> int:
    """The rights of the open. ACCESS_DENIED when the share does not give what is asked for."""
    access = asked.desired_access
    if access == 0 or access & ~_VALID_ACCESS:
        raise SmbError(NtStatus.ACCESS_DENIED)
    if access & _SYSTEM_SECURITY:
        raise SmbError(NtStatus.PRIVILEGE_NOT_HELD)
    for generic, specific in _GENERIC:
        if access & generic:
            access = access & ~generic | specific
    if access & _MAXIMUM_ALLOWED:
        access = access & ~_MAXIMUM_ALLOWED | maximal
    if access & ~maximal:
        raise SmbError(NtStatus.ACCESS_DENIED)
    if asked.options & _DELETE_ON_CLOSE and not access & _DELETE:
        raise SmbError(NtStatus.ACCESS_DENIED)
    return access


def check_writable(tree: Tree) -> None:
    if tree.disk.read_only:
        raise SmbError(NtStatus.ACCESS_DENIED)


def check_existing(asked: CreateRequest, access: int, attr: Attr, *, overwrite: bool, posix: bool) -> None:
    """[MS-FSA] §2.1.5.1.2 and §2.1.5.1.2.1."""
    if attr.kind is FileKind.DIRECTORY:
        if asked.options & _NON_DIRECTORY:
            raise SmbError(NtStatus.FILE_IS_A_DIRECTORY)
        if overwrite:
            raise SmbError(NtStatus.OBJECT_NAME_COLLISION)
    else:
        if asked.options & _DIRECTORY:
            raise SmbError(NtStatus.NOT_A_DIRECTORY)
        if overwrite and attr.kind is not FileKind.REGULAR:
            raise SmbError(NtStatus.ACCESS_DENIED)
    if not posix and attributes.is_read_only(attr):
        if overwrite or (access & _WRITES and not asked.desired_access & _MAXIMUM_ALLOWED):
            raise SmbError(NtStatus.ACCESS_DENIED)
        if asked.options & _DELETE_ON_CLOSE:
            raise SmbError(NtStatus.CANNOT_DELETE)


def check_new(asked: CreateRequest) -> None:
    if asked.file_attributes & _READ_ONLY and asked.options & _DELETE_ON_CLOSE:
        raise SmbError(NtStatus.CANNOT_DELETE)
