"""The contract that joins file systems to the protocols that carry them, and the local tree."""

from quicfs.vfs.api import (
    NOW,
    Attr,
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
)

assert __name__ == "quicfs.vfs", "import this package as quicfs.vfs"

__all__ = [
    "NOW",
    "Attr",
    "Change",
    "DirEntry",
    "DirPage",
    "FileKind",
    "FileSystem",
    "FsError",
    "LockKind",
    "Node",
    "OpenFile",
    "OpenFlags",
    "SetAttr",
    "StatFs",
    "Status",
]
