"""Reading and writing (RFC 8881 §18), and what NFSv4.2 adds for ranges of files (RFC 7862 §15)."""

from __future__ import annotations

from typing import Annotated

from quicfs.nfs.v4.const import DataContent, Op, StableHow, Stat
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import (
    LIST_LIMIT,
    Bitmap,
    Body,
    Netloc,
    NfsTime,
    StateId,
    Verifier,
    WriteResponse,
)
from quicfs.nfs.xdr import Array, Payload, Struct, Switch, Uint32, Uint64, struct


@struct
class ReadArgs(Struct):
    stateid: StateId
    offset: Uint64
    count: Uint32


@struct
class ReadResok(Struct):
    eof: bool
    data: Annotated[memoryview | bytes, Payload()]


@struct
class WriteArgs(Struct):
    stateid: StateId
    offset: Uint64
    stable: StableHow
    data: Annotated[memoryview | bytes, Payload()]


@struct
class WriteResok(Struct):
    count: Uint32
    committed: StableHow
    writeverf: Verifier


@struct
class CommitArgs(Struct):
    offset: Uint64
    count: Uint32


@struct
class CommitResok(Struct):
    writeverf: Verifier


# --- NFSv4.2


@struct
class AllocateArgs(Struct):
    stateid: StateId
    offset: Uint64
    length: Uint64


@struct
class DeallocateArgs(Struct):
    stateid: StateId
    offset: Uint64
    length: Uint64


@struct
class CloneArgs(Struct):
    src_stateid: StateId
    dst_stateid: StateId
    src_offset: Uint64
    dst_offset: Uint64
    count: Uint64


@struct
class CopyArgs(Struct):
    src_stateid: StateId
    dst_stateid: StateId
    src_offset: Uint64
    dst_offset: Uint64
    count: Uint64  # 0: to the end
    consecutive: bool
    synchronous: bool
    source_server: Annotated[list[Netloc], Array(LIST_LIMIT)]  # empty: this one


@struct
class CopyRequirements(Struct):
    consecutive: bool
    synchronous: bool


@struct
class CopyResok(Struct):
    response: WriteResponse
    requirements: CopyRequirements


@struct
class CopyNotifyArgs(Struct):
    src_stateid: StateId
    destination_server: Netloc


@struct
class CopyNotifyResok(Struct):
    lease_time: NfsTime
    stateid: StateId
    source_server: Annotated[list[Netloc], Array(LIST_LIMIT)]


@struct
class OffloadCancelArgs(Struct):
    stateid: StateId


@struct
class OffloadStatusArgs(Struct):
    stateid: StateId


@struct
class OffloadStatusResok(Struct):
    count: Uint64
    complete: Stat | None


@struct
class IoAdviseArgs(Struct):
    stateid: StateId
    offset: Uint64
    count: Uint64
    hints: Bitmap  # of const.IoAdvise


@struct
class IoAdviseResok(Struct):
    hints: Bitmap


@struct
class SeekArgs(Struct):
    stateid: StateId
    offset: Uint64
    what: DataContent


@struct
class SeekResok(Struct):
    eof: bool
    offset: Uint64


@struct
class ReadPlusArgs(Struct):
    stateid: StateId
    offset: Uint64
    count: Uint32


@struct
class Data(Struct):
    offset: Uint64
    data: Annotated[memoryview | bytes, Payload()]


@struct
class Hole(Struct):
    offset: Uint64
    length: Uint64


Content = Annotated[Data | Hole, Switch(DataContent, {DataContent.DATA: Data, DataContent.HOLE: Hole})]


@struct
class ReadPlusResok(Struct):
    eof: bool
    contents: Annotated[list[Content], Array(LIST_LIMIT)]


@struct
class AppDataBlock(Struct):
    offset: Uint64
    block_size: Uint64
    block_count: Uint64
    reloff_blocknum: Uint64
    block_num: Uint32
    reloff_pattern: Uint64
    pattern: Body


@struct
class WriteSameArgs(Struct):
    stateid: StateId
    stable: StableHow
    adb: AppDataBlock


OPERATIONS = (
    Operation(Op.READ, ReadArgs, ReadResok),
    Operation(Op.WRITE, WriteArgs, WriteResok),
    Operation(Op.COMMIT, CommitArgs, CommitResok),
    Operation(Op.ALLOCATE, AllocateArgs, minor=2),
    Operation(Op.DEALLOCATE, DeallocateArgs, minor=2),
    Operation(Op.CLONE, CloneArgs, minor=2),
    Operation(Op.COPY, CopyArgs, CopyResok, minor=2, failed={Stat.OFFLOAD_NO_REQS: CopyRequirements}),
    Operation(Op.COPY_NOTIFY, CopyNotifyArgs, CopyNotifyResok, minor=2),
    Operation(Op.OFFLOAD_CANCEL, OffloadCancelArgs, minor=2),
    Operation(Op.OFFLOAD_STATUS, OffloadStatusArgs, OffloadStatusResok, minor=2),
    Operation(Op.IO_ADVISE, IoAdviseArgs, IoAdviseResok, minor=2),
    Operation(Op.SEEK, SeekArgs, SeekResok, minor=2),
    Operation(Op.READ_PLUS, ReadPlusArgs, ReadPlusResok, minor=2),
    Operation(Op.WRITE_SAME, WriteSameArgs, WriteResponse, minor=2),
)
