"""pNFS (RFC 8881 §12, §18.40 to §18.44; RFC 7862 §15.6, §15.7). The bodies belong to the layout types."""

from __future__ import annotations

from typing import Annotated

from quicfs.nfs.v4.const import LayoutIoMode, LayoutReturnType, Op, Stat
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import LIST_LIMIT, Bitmap, Body, DeviceId, Layout, NfsTime, StateId, Verifier
from quicfs.nfs.xdr import Array, Struct, Switch, Uint32, Uint64, struct


@struct
class GetdeviceinfoArgs(Struct):
    device_id: DeviceId
    layout_type: Uint32
    maxcount: Uint32
    notify_types: Bitmap


@struct
class GetdeviceinfoResok(Struct):
    layout_type: Uint32
    addr_body: Body
    notification: Bitmap


@struct
class GetdeviceinfoTooSmall(Struct):
    mincount: Uint32


@struct
class GetdevicelistArgs(Struct):
    layout_type: Uint32
    maxdevices: Uint32
    cookie: Uint64
    cookieverf: Verifier


@struct
class GetdevicelistResok(Struct):
    cookie: Uint64
    cookieverf: Verifier
    deviceid_list: Annotated[list[DeviceId], Array(LIST_LIMIT)]
    eof: bool


@struct
class LayoutcommitArgs(Struct):
    offset: Uint64
    length: Uint64
    reclaim: bool
    stateid: StateId
    last_write_offset: Uint64 | None
    time_modify: NfsTime | None
    layout_type: Uint32
    layoutupdate: Body


@struct
class LayoutcommitResok(Struct):
    newsize: Uint64 | None


@struct
class LayoutgetArgs(Struct):
    signal_layout_avail: bool
    layout_type: Uint32
    iomode: LayoutIoMode
    offset: Uint64
    length: Uint64
    minlength: Uint64
    stateid: StateId
    maxcount: Uint32


@struct
class LayoutgetResok(Struct):
    return_on_close: bool
    stateid: StateId
    layout: Annotated[list[Layout], Array(LIST_LIMIT)]


@struct
class LayoutgetTryLater(Struct):
    will_signal_layout_avail: bool


@struct
class LayoutReturnFile(Struct):
    offset: Uint64
    length: Uint64
    stateid: StateId
    body: Body


@struct
class LayoutReturnFsid(Struct):
    pass


@struct
class LayoutReturnAll(Struct):
    pass


@struct
class LayoutreturnArgs(Struct):
    reclaim: bool
    layout_type: Uint32
    iomode: LayoutIoMode
    layoutreturn: Annotated[
        LayoutReturnFile | LayoutReturnFsid | LayoutReturnAll,
        Switch(
            LayoutReturnType,
            {
                LayoutReturnType.FILE: LayoutReturnFile,
                LayoutReturnType.FSID: LayoutReturnFsid,
                LayoutReturnType.ALL: LayoutReturnAll,
            },
        ),
    ]


@struct
class LayoutreturnResok(Struct):
    stateid: StateId | None


@struct
class DeviceError(Struct):
    deviceid: DeviceId
    status: Uint32
    opnum: Uint32


@struct
class LayouterrorArgs(Struct):
    offset: Uint64
    length: Uint64
    stateid: StateId
    errors: Annotated[list[DeviceError], Array(LIST_LIMIT)]


@struct
class IoInfo(Struct):
    count: Uint64
    bytes: Uint64


@struct
class LayoutstatsArgs(Struct):
    offset: Uint64
    length: Uint64
    stateid: StateId
    read: IoInfo
    write: IoInfo
    deviceid: DeviceId
    layout_type: Uint32
    layoutupdate: Body


OPERATIONS = (
    Operation(
        Op.GETDEVICEINFO,
        GetdeviceinfoArgs,
        GetdeviceinfoResok,
        failed={Stat.TOOSMALL: GetdeviceinfoTooSmall},
    ),
    Operation(Op.GETDEVICELIST, GetdevicelistArgs, GetdevicelistResok),
    Operation(Op.LAYOUTCOMMIT, LayoutcommitArgs, LayoutcommitResok),
    Operation(Op.LAYOUTGET, LayoutgetArgs, LayoutgetResok, failed={Stat.LAYOUTTRYLATER: LayoutgetTryLater}),
    Operation(Op.LAYOUTRETURN, LayoutreturnArgs, LayoutreturnResok),
    Operation(Op.LAYOUTERROR, LayouterrorArgs, minor=2),
    Operation(Op.LAYOUTSTATS, LayoutstatsArgs, minor=2),
)
