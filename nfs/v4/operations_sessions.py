"""Clients, sessions and the state that a server holds for them (RFC 8881 §18.33 to §18.51)."""

from __future__ import annotations

from typing import Annotated

from quicfs.nfs.v4.const import (
    OPAQUE_LIMIT,
    ChannelDirFromClient,
    ChannelDirFromServer,
    Op,
    Stat,
    StateProtectHow,
)
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import (
    LIST_LIMIT,
    Bitmap,
    Body,
    CbSecParms,
    ClientOwner,
    ImplId,
    NetAddr,
    ServerOwner,
    SessionId,
    StateId,
    Verifier,
)
from quicfs.nfs.xdr import Array, Opaque, Struct, Switch, Uint32, Uint64, struct


@struct
class SequenceArgs(Struct):
    sessionid: SessionId
    sequenceid: Uint32
    slotid: Uint32
    highest_slotid: Uint32
    cachethis: bool


@struct
class SequenceResok(Struct):
    """Bits of const.SeqStatus."""

    sessionid: SessionId
    sequenceid: Uint32
    slotid: Uint32
    highest_slotid: Uint32
    target_highest_slotid: Uint32
    status_flags: Uint32


# --- EXCHANGE_ID


@struct
class StateProtectOps(Struct):
    """Bitmaps of operations."""

    must_enforce: Bitmap
    must_allow: Bitmap


@struct
class SsvParms(Struct):
    ops: StateProtectOps
    hash_algs: Annotated[list[Body], Array(LIST_LIMIT)]
    encr_algs: Annotated[list[Body], Array(LIST_LIMIT)]
    window: Uint32
    num_gss_handles: Uint32


@struct
class SsvInfo(Struct):
    ops: StateProtectOps
    hash_alg: Uint32
    encr_alg: Uint32
    ssv_len: Uint32
    window: Uint32
    handles: Annotated[list[Body], Array(LIST_LIMIT)]


@struct
class ExchangeIdArgs(Struct):
    """Bits of const.ExchangeId. `state_protect` None: SP4_NONE."""

    clientowner: ClientOwner
    flags: Uint32
    state_protect: Annotated[
        StateProtectOps | SsvParms | None,
        Switch(
            StateProtectHow,
            {
                StateProtectHow.NONE: None,
                StateProtectHow.MACH_CRED: StateProtectOps,
                StateProtectHow.SSV: SsvParms,
            },
        ),
    ]
    client_impl_id: ImplId | None


@struct
class ExchangeIdResok(Struct):
    clientid: Uint64
    sequenceid: Uint32
    flags: Uint32
    state_protect: Annotated[
        StateProtectOps | SsvInfo | None,
        Switch(
            StateProtectHow,
            {
                StateProtectHow.NONE: None,
                StateProtectHow.MACH_CRED: StateProtectOps,
                StateProtectHow.SSV: SsvInfo,
            },
        ),
    ]
    server_owner: ServerOwner
    server_scope: Annotated[bytes, Opaque(OPAQUE_LIMIT)]
    server_impl_id: ImplId | None


# --- sessions


@struct
class ChannelAttrs(Struct):
    headerpadsize: Uint32
    maxrequestsize: Uint32
    maxresponsesize: Uint32
    maxresponsesize_cached: Uint32
    maxoperations: Uint32
    maxrequests: Uint32
    rdma_ird: Uint32 | None


@struct
class CreateSessionArgs(Struct):
    """Bits of const.CreateSession."""

    clientid: Uint64
    sequence: Uint32
    flags: Uint32
    fore_chan_attrs: ChannelAttrs
    back_chan_attrs: ChannelAttrs
    cb_program: Uint32
    sec_parms: Annotated[list[CbSecParms], Array(LIST_LIMIT)]


@struct
class CreateSessionResok(Struct):
    sessionid: SessionId
    sequence: Uint32
    flags: Uint32
    fore_chan_attrs: ChannelAttrs
    back_chan_attrs: ChannelAttrs


@struct
class DestroySessionArgs(Struct):
    sessionid: SessionId


@struct
class BindConnToSessionArgs(Struct):
    sessid: SessionId
    dir: ChannelDirFromClient
    use_conn_in_rdma_mode: bool


@struct
class BindConnToSessionResok(Struct):
    sessid: SessionId
    dir: ChannelDirFromServer
    use_conn_in_rdma_mode: bool


@struct
class BackchannelCtlArgs(Struct):
    cb_program: Uint32
    sec_parms: Annotated[list[CbSecParms], Array(LIST_LIMIT)]


@struct
class SetSsvArgs(Struct):
    ssv: Body
    digest: Body


@struct
class SetSsvResok(Struct):
    digest: Body


@struct
class DestroyClientidArgs(Struct):
    clientid: Uint64


@struct
class ReclaimCompleteArgs(Struct):
    one_fs: bool


# --- state IDs


@struct
class TestStateidArgs(Struct):
    stateids: Annotated[list[StateId], Array(LIST_LIMIT)]


@struct
class TestStateidResok(Struct):
    status_codes: Annotated[list[Stat], Array(LIST_LIMIT)]


@struct
class FreeStateidArgs(Struct):
    stateid: StateId


# --- NFSv4.0 only: NOTSUPP (§17), but they decode


@struct
class RenewArgs(Struct):
    clientid: Uint64


@struct
class SetclientidArgs(Struct):
    verifier: Verifier
    id: Annotated[bytes, Opaque(OPAQUE_LIMIT)]
    cb_program: Uint32
    cb_location: NetAddr
    callback_ident: Uint32


@struct
class SetclientidResok(Struct):
    clientid: Uint64
    setclientid_confirm: Verifier


@struct
class SetclientidConfirmArgs(Struct):
    clientid: Uint64
    setclientid_confirm: Verifier


OPERATIONS = (
    Operation(Op.SEQUENCE, SequenceArgs, SequenceResok),
    Operation(Op.EXCHANGE_ID, ExchangeIdArgs, ExchangeIdResok),
    Operation(Op.CREATE_SESSION, CreateSessionArgs, CreateSessionResok),
    Operation(Op.DESTROY_SESSION, DestroySessionArgs),
    Operation(Op.BIND_CONN_TO_SESSION, BindConnToSessionArgs, BindConnToSessionResok),
    Operation(Op.BACKCHANNEL_CTL, BackchannelCtlArgs),
    Operation(Op.SET_SSV, SetSsvArgs, SetSsvResok),
    Operation(Op.DESTROY_CLIENTID, DestroyClientidArgs),
    Operation(Op.RECLAIM_COMPLETE, ReclaimCompleteArgs),
    Operation(Op.TEST_STATEID, TestStateidArgs, TestStateidResok),
    Operation(Op.FREE_STATEID, FreeStateidArgs),
    Operation(Op.RENEW, RenewArgs, minor=0),
    Operation(Op.SETCLIENTID, SetclientidArgs, SetclientidResok, minor=0, failed={Stat.CLID_INUSE: NetAddr}),
    Operation(Op.SETCLIENTID_CONFIRM, SetclientidConfirmArgs, minor=0),
)
