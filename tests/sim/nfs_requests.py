"""COMPOUNDs that succeed on a server of nfs_rig, with every kind of variable field: for tests that change them."""

from __future__ import annotations

from quicfs.nfs.server.fattr import WRITE_ONLY
from quicfs.nfs.v4 import operations_sessions
from quicfs.nfs.v4.attributes import Attribute, bitmap
from quicfs.nfs.v4.const import DataContent, FileType, LockType, Op, SetxattrOption
from quicfs.nfs.v4.operations_directories import (
    CreateArgs,
    CreateType,
    LinkArgs,
    ReaddirArgs,
    RemoveArgs,
    RenameArgs,
)
from quicfs.nfs.v4.operations_files import AccessArgs, GetattrArgs, SecinfoArgs, SetattrArgs, VerifyArgs
from quicfs.nfs.v4.operations_io import (
    AllocateArgs,
    CloneArgs,
    CommitArgs,
    CopyArgs,
    DeallocateArgs,
    IoAdviseArgs,
    ReadPlusArgs,
    SeekArgs,
)
from quicfs.nfs.v4.operations_open import CloseArgs, LocktArgs
from quicfs.nfs.v4.operations_sessions import BackchannelCtlArgs
from quicfs.nfs.v4.operations_xattr import GetxattrArgs, ListxattrsArgs, RemovexattrArgs, SetxattrArgs
from quicfs.nfs.v4.types import CURRENT, CbSecSys, LockOwner
from tests.sim.nfs_files import BOTH, ROOT, Opened, downgrade_op, lock_op, open_named, read_op, write_op
from tests.sim.nfs_rig import Operation

HUGE = 0xFFFFFFFF
EVERYTHING = ((1 << 87) - 1) & ~WRITE_ONLY
"""All attributes that can be asked for."""


def requests(file: Opened) -> list[list[Operation]]:
    """`file` is open for reading and writing, and called "file"."""
    attributes = {Attribute.MODE: 0o600, Attribute.OWNER: "0", Attribute.OWNER_GROUP: "0"}
    stateid = file.stateid
    return [
        [file.put, read_op(stateid), write_op(stateid, b"data"), (Op.COMMIT, CommitArgs(0, 0))],
        [file.put, (Op.GETATTR, GetattrArgs(EVERYTHING)), (Op.ACCESS, AccessArgs(0x3F))],
        [file.put, (Op.SETATTR, SetattrArgs(stateid, attributes)), (Op.VERIFY, VerifyArgs(attributes))],
        [file.put, (Op.SETXATTR, SetxattrArgs(SetxattrOption.EITHER, "name", b"value"))],
        [file.put, (Op.GETXATTR, GetxattrArgs("name")), (Op.LISTXATTRS, ListxattrsArgs(0, 4096))],
        [file.put, (Op.REMOVEXATTR, RemovexattrArgs("name"))],
        [*ROOT, (Op.CREATE, CreateArgs(CreateType(FileType.LNK, linkdata="target"), "a", attributes))],
        [*ROOT, (Op.SAVEFH, None), (Op.RENAME, RenameArgs("a", "b")), (Op.REMOVE, RemoveArgs("b"))],
        [
            *ROOT,
            (Op.CREATE, CreateArgs(CreateType(FileType.DIR), "dir", attributes)),
            (Op.LOOKUPP, None),
            (Op.REMOVE, RemoveArgs("dir")),
        ],
        [*ROOT, (Op.READDIR, ReaddirArgs(0, bytes(8), 4096, 4096, bitmap(attributes)))],
        [*ROOT, (Op.SECINFO, SecinfoArgs("file"))],
        [file.put, (Op.SAVEFH, None), *ROOT, (Op.LINK, LinkArgs("hard")), (Op.REMOVE, RemoveArgs("hard"))],
        [*open_named("file", BOTH, 0, owner=b"another"), downgrade_op(CURRENT, 1)],
        [*open_named("file", BOTH, 0, owner=b"third"), (Op.CLOSE, CloseArgs(0, CURRENT))],
        [file.put, lock_op(file), (Op.LOCKT, LocktArgs(LockType.WRITE, 0, HUGE, LockOwner(0, b"owner")))],
        [(Op.TEST_STATEID, operations_sessions.TestStateidArgs([stateid, stateid]))],
        [file.put, (Op.SAVEFH, None), (Op.COPY, CopyArgs(stateid, stateid, 0, 100, 4, True, True, []))],
        [file.put, (Op.SAVEFH, None), (Op.CLONE, CloneArgs(stateid, stateid, 0, 4096, 4096))],
        [
            file.put,
            (Op.ALLOCATE, AllocateArgs(stateid, 0, 8192)),
            (Op.DEALLOCATE, DeallocateArgs(stateid, 0, 1)),
        ],
        [
            file.put,
            (Op.SEEK, SeekArgs(stateid, 0, DataContent.DATA)),
            (Op.READ_PLUS, ReadPlusArgs(stateid, 0, 99)),
        ],
        [file.put, (Op.IO_ADVISE, IoAdviseArgs(stateid, 0, 1, 1))],
        [(Op.BACKCHANNEL_CTL, BackchannelCtlArgs(1, [CbSecSys(1, "x", 0, 0, [1, 2])]))],
    ]
