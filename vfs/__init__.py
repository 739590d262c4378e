"""The contract that joins file systems to the protocols that carry them, and the local tree."""

from quicfs.vfs.api import (
    HANDLE_MAX,
    NOW,
    Access,
    Attr,
    Caller,
    Change,
    DirEntry,
    DirPage,
    FileKind,
    FileSystem,
    FsError,
    LockKind,
    Node,
    OpenFile,
    OpenFlags,
    SetAttr,
    StatFs,
    Status,
    Watch,
)
from quicfs.vfs.local import LocalTree

assert __name__ == "quicfs.vfs", "import this package as quicfs.vfs"

__all__ = [
    "HANDLE_MAX",
    "NOW",
    "Access",
    "Attr",
    "Caller",
    "Change",
    "DirEntry",
    "DirPage",
    "FileKind",
    "FileSystem",
    "FsError",
    "LocalTree",
    "LockKind",
    "Node",
    "OpenFile",
    "OpenFlags",
    "SetAttr",
    "StatFs",
    "Status",
    "Watch",
]
