"""The one table between the contract's outcomes and NTSTATUS, read in both directions."""

from __future__ import annotations

from typing import Final

from quicfs.smb.ntstatus import NtStatus
from quicfs.vfs.status import FsError, Status

__all__ = ["fs_error", "ntstatus_from_status", "status_from_ntstatus"]

# Of the codes after a status, the first is sent; all of them are understood.
_TABLE: Final[dict[Status, tuple[NtStatus, ...]]] = {
    Status.NOT_FOUND: (
        NtStatus.OBJECT_NAME_NOT_FOUND,
        NtStatus.OBJECT_PATH_NOT_FOUND,
        NtStatus.NO_SUCH_FILE,
        NtStatus.NOT_FOUND,
        NtStatus.BAD_NETWORK_NAME,
        NtStatus.NO_SUCH_DEVICE,
        NtStatus.DELETE_PENDING,
    ),
    Status.EXISTS: (NtStatus.OBJECT_NAME_COLLISION,),
    Status.NOT_DIR: (NtStatus.NOT_A_DIRECTORY,),
    Status.IS_DIR: (NtStatus.FILE_IS_A_DIRECTORY,),
    Status.NOT_EMPTY: (NtStatus.DIRECTORY_NOT_EMPTY,),
    Status.ACCESS: (
        NtStatus.ACCESS_DENIED,
        NtStatus.NETWORK_ACCESS_DENIED,
        NtStatus.LOGON_FAILURE,
        NtStatus.ACCOUNT_DISABLED,
        NtStatus.ACCOUNT_RESTRICTION,
        NtStatus.PASSWORD_EXPIRED,
        NtStatus.NO_SUCH_USER,
        NtStatus.WRONG_PASSWORD,
    ),
    Status.NOT_PERMITTED: (NtStatus.PRIVILEGE_NOT_HELD, NtStatus.CANNOT_DELETE),
    Status.READ_ONLY: (NtStatus.MEDIA_WRITE_PROTECTED,),
    Status.NO_SPACE: (NtStatus.DISK_FULL,),
    Status.QUOTA: (NtStatus.QUOTA_EXCEEDED,),
    Status.TOO_BIG: (NtStatus.FILE_SYSTEM_LIMITATION,),
    Status.NAME_TOO_LONG: (NtStatus.NAME_TOO_LONG,),
    Status.BAD_NAME: (
        NtStatus.OBJECT_NAME_INVALID,
        NtStatus.OBJECT_PATH_INVALID,
        NtStatus.OBJECT_PATH_SYNTAX_BAD,
    ),
    Status.LOOP: (NtStatus.REPARSE_POINT_NOT_RESOLVED, NtStatus.STOPPED_ON_SYMLINK),
    Status.CROSS_DEVICE: (NtStatus.NOT_SAME_DEVICE,),
    Status.TOO_MANY_LINKS: (NtStatus.TOO_MANY_LINKS,),
    Status.INVALID: (
        NtStatus.INVALID_PARAMETER,
        NtStatus.NOT_A_REPARSE_POINT,
        NtStatus.INFO_LENGTH_MISMATCH,
        NtStatus.OBJECT_TYPE_MISMATCH,
        NtStatus.IO_REPARSE_DATA_INVALID,
        NtStatus.IO_REPARSE_TAG_MISMATCH,
    ),
    Status.BAD_FILE: (NtStatus.INVALID_HANDLE,),
    Status.STALE: (NtStatus.FILE_CLOSED, NtStatus.FILE_DELETED, NtStatus.FILE_RENAMED),
    Status.BUSY: (NtStatus.PIPE_BUSY, NtStatus.REQUEST_NOT_ACCEPTED),
    Status.SHARING: (NtStatus.SHARING_VIOLATION,),
    Status.LOCKED: (NtStatus.LOCK_NOT_GRANTED, NtStatus.FILE_LOCK_CONFLICT),
    Status.NO_DATA: (NtStatus.END_OF_FILE, NtStatus.NONEXISTENT_EA_ENTRY, NtStatus.NO_MORE_FILES),
    Status.RANGE: (NtStatus.INVALID_LOCK_RANGE, NtStatus.EA_TOO_LARGE, NtStatus.BUFFER_TOO_SMALL),
    Status.NO_RESOURCES: (
        NtStatus.INSUFFICIENT_RESOURCES,
        NtStatus.TOO_MANY_OPENED_FILES,
        NtStatus.NO_MEMORY,
    ),
    Status.NOT_SUPPORTED: (
        NtStatus.NOT_SUPPORTED,
        NtStatus.NOT_IMPLEMENTED,
        NtStatus.INVALID_DEVICE_REQUEST,
        NtStatus.INVALID_INFO_CLASS,
        NtStatus.EAS_NOT_SUPPORTED,
        NtStatus.FS_DRIVER_REQUIRED,
    ),
    Status.IO: (
        NtStatus.UNEXPECTED_IO_ERROR,
        NtStatus.UNSUCCESSFUL,
        NtStatus.IO_DEVICE_ERROR,
        NtStatus.INTERNAL_ERROR,
        NtStatus.PIPE_DISCONNECTED,
    ),
    Status.TIMEOUT: (NtStatus.IO_TIMEOUT,),
    Status.DISCONNECTED: (
        NtStatus.CONNECTION_DISCONNECTED,
        NtStatus.CONNECTION_RESET,
        NtStatus.NETWORK_NAME_DELETED,
        NtStatus.USER_SESSION_DELETED,
        NtStatus.NETWORK_SESSION_EXPIRED,
        NtStatus.SERVER_UNAVAILABLE,
    ),
}

_FROM_NTSTATUS: Final = {int(code): status for status, codes in _TABLE.items() for code in codes}
_TO_NTSTATUS: Final = {status: codes[0] for status, codes in _TABLE.items()}


def ntstatus_from_status(status: Status) -> NtStatus:
    return _TO_NTSTATUS[status]


def status_from_ntstatus(code: int) -> Status:
    """IO for codes that the table does not know."""
    return _FROM_NTSTATUS.get(code, Status.IO)


def fs_error(code: int, detail: str = "") -> FsError:
    """The contract's error for a failed response."""
    status = _FROM_NTSTATUS.get(code)
    if status is None:
        return FsError(Status.IO, f"{detail} (NTSTATUS 0x{code:08x})".strip())
    return FsError(status, detail)
