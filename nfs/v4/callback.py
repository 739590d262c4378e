"""The callback program (RFC 8881 §20, RFC 7862 §16.1): what a server asks of a client over the back channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from quicfs.nfs.v4.attributes import Fattr
from quicfs.nfs.v4.compound import Dialect
from quicfs.nfs.v4.const import CbOp, LayoutIoMode, LayoutReturnType, Stat
from quicfs.nfs.v4.operation import Operation, table
from quicfs.nfs.v4.operations_open import Delegation
from quicfs.nfs.v4.types import (
    LIST_LIMIT,
    Bitmap,
    Body,
    FileHandle,
    Fsid,
    LockOwner,
    SessionId,
    StateId,
    WriteResponse,
)
from quicfs.nfs.xdr import Array, Packer, Struct, Switch, Uint32, Uint64, Unpacker, struct


@struct
class ReferringCall(Struct):
    sequenceid: Uint32
    slotid: Uint32


@struct
class ReferringCallList(Struct):
    sessionid: SessionId
    referring_calls: Annotated[list[ReferringCall], Array(LIST_LIMIT)]


@struct
class CbSequenceArgs(Struct):
    sessionid: SessionId
    sequenceid: Uint32
    slotid: Uint32
    highest_slotid: Uint32
    cachethis: bool
    referring_call_lists: Annotated[list[ReferringCallList], Array(LIST_LIMIT)]


@struct
class CbSequenceResok(Struct):
    sessionid: SessionId
    sequenceid: Uint32
    slotid: Uint32
    highest_slotid: Uint32
    target_highest_slotid: Uint32


@struct
class CbGetattrArgs(Struct):
    fh: FileHandle
    attr_request: Bitmap


@struct
class CbGetattrResok(Struct):
    attributes: Fattr


@struct
class CbRecallArgs(Struct):
    stateid: StateId
    truncate: bool
    fh: FileHandle


@struct
class CbRecallAnyArgs(Struct):
    """`type_mask`: bits numbered by const.RecallAny."""

    objects_to_keep: Uint32
    type_mask: Bitmap


@struct
class CbRecallSlotArgs(Struct):
    target_highest_slotid: Uint32


@struct
class CbNotifyLockArgs(Struct):
    fh: FileHandle
    lock_owner: LockOwner


@struct
class CbPushDelegArgs(Struct):
    fh: FileHandle
    delegation: Delegation


@struct
class CbWantsCancelledArgs(Struct):
    contended: bool
    resourced: bool


# --- directories and devices: the bodies belong to the bits


@struct
class NotifyChanges(Struct):
    mask: Bitmap
    values: Body


@struct
class CbNotifyArgs(Struct):
    stateid: StateId
    fh: FileHandle
    changes: Annotated[list[NotifyChanges], Array(LIST_LIMIT)]


@struct
class CbNotifyDeviceidArgs(Struct):
    changes: Annotated[list[NotifyChanges], Array(LIST_LIMIT)]


@struct
class LayoutRecallFile(Struct):
    fh: FileHandle
    offset: Uint64
    length: Uint64
    stateid: StateId


@struct
class LayoutRecallFsid(Struct):
    fsid: Fsid


@struct
class LayoutRecallAll(Struct):
    pass


@struct
class CbLayoutrecallArgs(Struct):
    type: Uint32
    iomode: LayoutIoMode
    changed: bool
    recall: Annotated[
        LayoutRecallFile | LayoutRecallFsid | LayoutRecallAll,
        Switch(
            LayoutReturnType,
            {
                LayoutReturnType.FILE: LayoutRecallFile,
                LayoutReturnType.FSID: LayoutRecallFsid,
                LayoutReturnType.ALL: LayoutRecallAll,
            },
        ),
    ]


# --- copies that the server went on with by itself


@dataclass(slots=True)
class OffloadInfo:
    """offload_info4: the response if `status` is OK, else the bytes copied until it failed."""

    status: int
    response: WriteResponse | None = None
    bytes_copied: int = 0

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.status)
        if self.status == Stat.OK:
            assert self.response is not None
            self.response.pack(packer)
        else:
            packer.uint64(self.bytes_copied)

    @staticmethod
    def unpack(unpacker: Unpacker) -> OffloadInfo:
        status = unpacker.uint32()
        if status == Stat.OK:
            return OffloadInfo(status, WriteResponse.unpack(unpacker))
        return OffloadInfo(status, bytes_copied=unpacker.uint64())


@struct
class CbOffloadArgs(Struct):
    fh: FileHandle
    stateid: StateId
    info: OffloadInfo


OPERATIONS: Final = table(
    (
        Operation(CbOp.GETATTR, CbGetattrArgs, CbGetattrResok),
        Operation(CbOp.RECALL, CbRecallArgs),
        Operation(CbOp.LAYOUTRECALL, CbLayoutrecallArgs),
        Operation(CbOp.NOTIFY, CbNotifyArgs),
        Operation(CbOp.PUSH_DELEG, CbPushDelegArgs),
        Operation(CbOp.RECALL_ANY, CbRecallAnyArgs),
        Operation(CbOp.RECALLABLE_OBJ_AVAIL, CbRecallAnyArgs),
        Operation(CbOp.RECALL_SLOT, CbRecallSlotArgs),
        Operation(CbOp.SEQUENCE, CbSequenceArgs, CbSequenceResok),
        Operation(CbOp.WANTS_CANCELLED, CbWantsCancelledArgs),
        Operation(CbOp.NOTIFY_LOCK, CbNotifyLockArgs),
        Operation(CbOp.NOTIFY_DEVICEID, CbNotifyDeviceidArgs),
        Operation(CbOp.OFFLOAD, CbOffloadArgs, minor=2),
        Operation(CbOp.ILLEGAL),
    )
)

DIALECT: Final = Dialect(OPERATIONS, CbOp.ILLEGAL, ident=True)
"""For CompoundCall, ReplyBuilder, Compound and unpack_reply."""
