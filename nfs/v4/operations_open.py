"""Opens, delegations and byte-range locks (RFC 8881 §18, RFC 9754)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

from quicfs.nfs.v4.attributes import Attributes, pack_fattr, unpack_fattr
from quicfs.nfs.v4.const import (
    VERIFIER_SIZE,
    CreateMode,
    DelegationType,
    GddStatus,
    LimitBy,
    LockType,
    Op,
    OpenClaim,
    Stat,
    WhyNoDelegation,
)
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import (
    Ace,
    Bitmap,
    ChangeInfo,
    Component,
    LockDenied,
    LockOwner,
    NfsTime,
    OpenOwner,
    StateId,
    Verifier,
)
from quicfs.nfs.xdr import Packer, Struct, Switch, Uint32, Uint64, Unpacker, XdrError, struct

# --- OPEN: arguments


@dataclass(slots=True)
class CreateHow:
    """createhow4."""

    mode: CreateMode
    attrs: Attributes = field(default_factory=dict)  # all but EXCLUSIVE
    verifier: bytes = bytes(VERIFIER_SIZE)  # EXCLUSIVE and EXCLUSIVE4_1

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.mode)
        if self.mode >= CreateMode.EXCLUSIVE:
            if len(self.verifier) != VERIFIER_SIZE:
                raise XdrError("8 bytes are needed")
            packer.fixed(self.verifier)
        if self.mode != CreateMode.EXCLUSIVE:
            pack_fattr(self.attrs, packer)

    @staticmethod
    def unpack(unpacker: Unpacker) -> CreateHow:
        number = unpacker.uint32()
        if number > CreateMode.EXCLUSIVE4_1:
            raise XdrError(f"{number} is no createmode4")
        how = CreateHow(CreateMode(number))
        if number >= CreateMode.EXCLUSIVE:
            how.verifier = bytes(unpacker.take(VERIFIER_SIZE))
        if number != CreateMode.EXCLUSIVE:
            how.attrs = unpack_fattr(unpacker)
        return how


@struct
class ClaimNull(Struct):
    file: Component


@struct
class ClaimPrevious(Struct):
    delegate_type: DelegationType


@struct
class ClaimDelegateCur(Struct):
    stateid: StateId
    file: Component


@struct
class ClaimDelegatePrev(Struct):
    file: Component


@struct
class ClaimFh(Struct):
    pass


@struct
class ClaimDelegCurFh(Struct):
    stateid: StateId


@struct
class ClaimDelegPrevFh(Struct):
    pass


Claim = (
    ClaimNull
    | ClaimPrevious
    | ClaimDelegateCur
    | ClaimDelegatePrev
    | ClaimFh
    | ClaimDelegCurFh
    | ClaimDelegPrevFh
)
_CLAIMS = {
    OpenClaim.NULL: ClaimNull,
    OpenClaim.PREVIOUS: ClaimPrevious,
    OpenClaim.DELEGATE_CUR: ClaimDelegateCur,
    OpenClaim.DELEGATE_PREV: ClaimDelegatePrev,
    OpenClaim.FH: ClaimFh,
    OpenClaim.DELEG_CUR_FH: ClaimDelegCurFh,
    OpenClaim.DELEG_PREV_FH: ClaimDelegPrevFh,
}


@struct
class OpenArgs(Struct):
    """`how` None: the file must be there (OPEN4_NOCREATE). Bits of const.ShareAccess and ShareDeny."""

    seqid: Uint32
    share_access: Uint32
    share_deny: Uint32
    owner: OpenOwner
    how: CreateHow | None
    claim: Annotated[Claim, Switch(OpenClaim, _CLAIMS)]


# --- OPEN: the delegation that comes with the result


@struct
class LimitSize(Struct):
    filesize: Uint64


@struct
class LimitBlocks(Struct):
    num_blocks: Uint32
    bytes_per_block: Uint32


SpaceLimit = Annotated[
    LimitSize | LimitBlocks, Switch(LimitBy, {LimitBy.SIZE: LimitSize, LimitBy.BLOCKS: LimitBlocks})
]


@struct
class ReadDelegation(Struct):
    stateid: StateId
    recall: bool
    permissions: Ace


@struct
class WriteDelegation(Struct):
    stateid: StateId
    recall: bool
    space_limit: SpaceLimit
    permissions: Ace


@struct
class ReadAttrsDelegation(ReadDelegation):
    """With times kept by the client (RFC 9754)."""


@struct
class WriteAttrsDelegation(WriteDelegation):
    """With times kept by the client (RFC 9754)."""


@dataclass(slots=True)
class NoDelegation:
    """open_none_delegation4 of OPEN_DELEGATE_NONE_EXT. `will`: of CONTENTION and RESOURCE, the server will say when."""

    why: WhyNoDelegation
    will: bool = False

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.why)
        if self.why in (WhyNoDelegation.CONTENTION, WhyNoDelegation.RESOURCE):
            packer.uint32(self.will)

    @staticmethod
    def unpack(unpacker: Unpacker) -> NoDelegation:
        number = unpacker.uint32()
        if number > WhyNoDelegation.IS_DIR:
            raise XdrError(f"{number} is no why_no_delegation4")
        why = WhyNoDelegation(number)
        if why not in (WhyNoDelegation.CONTENTION, WhyNoDelegation.RESOURCE):
            return NoDelegation(why)
        will = unpacker.uint32()
        if will > 1:
            raise XdrError(f"{will} is no boolean")
        return NoDelegation(why, will == 1)


Delegation = Annotated[
    ReadDelegation | WriteDelegation | NoDelegation | None,
    Switch(
        DelegationType,
        {
            DelegationType.NONE: None,
            DelegationType.READ: ReadDelegation,
            DelegationType.WRITE: WriteDelegation,
            DelegationType.NONE_EXT: NoDelegation,
            DelegationType.READ_ATTRS_DELEG: ReadAttrsDelegation,
            DelegationType.WRITE_ATTRS_DELEG: WriteAttrsDelegation,
        },
    ),
]


@struct
class OpenResok(Struct):
    """Bits of const.OpenResult."""

    stateid: StateId
    cinfo: ChangeInfo
    rflags: Uint32
    attrset: Bitmap
    delegation: Delegation


# --- the rest of opens


@struct
class CloseArgs(Struct):
    seqid: Uint32
    stateid: StateId


@struct
class CloseResok(Struct):
    stateid: StateId


@struct
class OpenDowngradeArgs(Struct):
    stateid: StateId
    seqid: Uint32
    share_access: Uint32
    share_deny: Uint32


@struct
class OpenDowngradeResok(Struct):
    stateid: StateId


@struct
class OpenConfirmArgs(Struct):
    stateid: StateId
    seqid: Uint32


@struct
class OpenConfirmResok(Struct):
    stateid: StateId


# --- delegations


@struct
class DelegpurgeArgs(Struct):
    clientid: Uint64


@struct
class DelegreturnArgs(Struct):
    stateid: StateId


@struct
class WantDelegationArgs(Struct):
    want: Uint32
    claim: Annotated[
        ClaimFh | ClaimDelegPrevFh | ClaimPrevious,
        Switch(
            OpenClaim,
            {
                OpenClaim.FH: ClaimFh,
                OpenClaim.DELEG_PREV_FH: ClaimDelegPrevFh,
                OpenClaim.PREVIOUS: ClaimPrevious,
            },
        ),
    ]


@struct
class WantDelegationResok(Struct):
    delegation: Delegation


@struct
class GetDirDelegationArgs(Struct):
    signal_deleg_avail: bool
    notification_types: Bitmap
    child_attr_delay: NfsTime
    dir_attr_delay: NfsTime
    child_attributes: Bitmap
    dir_attributes: Bitmap


@struct
class DirDelegation(Struct):
    cookieverf: Verifier
    stateid: StateId
    notification: Bitmap
    child_attributes: Bitmap
    dir_attributes: Bitmap


@struct
class DirDelegationUnavailable(Struct):
    will_signal_deleg_avail: bool


@struct
class GetDirDelegationResok(Struct):
    result: Annotated[
        DirDelegation | DirDelegationUnavailable,
        Switch(GddStatus, {GddStatus.OK: DirDelegation, GddStatus.UNAVAIL: DirDelegationUnavailable}),
    ]


# --- locks


class _Locker(IntEnum):
    EXISTING = 0
    NEW = 1


@struct
class OpenToLockOwner(Struct):
    """The first lock of this owner on this open."""

    open_seqid: Uint32
    open_stateid: StateId
    lock_seqid: Uint32
    lock_owner: LockOwner


@struct
class ExistLockOwner(Struct):
    lock_stateid: StateId
    lock_seqid: Uint32


@struct
class LockArgs(Struct):
    locktype: LockType
    reclaim: bool
    offset: Uint64
    length: Uint64
    locker: Annotated[
        OpenToLockOwner | ExistLockOwner,
        Switch(_Locker, {_Locker.NEW: OpenToLockOwner, _Locker.EXISTING: ExistLockOwner}),
    ]


@struct
class LockResok(Struct):
    stateid: StateId


@struct
class LocktArgs(Struct):
    locktype: LockType
    offset: Uint64
    length: Uint64
    owner: LockOwner


@struct
class LockuArgs(Struct):
    locktype: LockType
    seqid: Uint32
    stateid: StateId
    offset: Uint64
    length: Uint64


@struct
class LockuResok(Struct):
    stateid: StateId


@struct
class ReleaseLockownerArgs(Struct):
    lock_owner: LockOwner


OPERATIONS = (
    Operation(Op.OPEN, OpenArgs, OpenResok),
    Operation(Op.CLOSE, CloseArgs, CloseResok),
    Operation(Op.OPEN_DOWNGRADE, OpenDowngradeArgs, OpenDowngradeResok),
    Operation(Op.OPEN_CONFIRM, OpenConfirmArgs, OpenConfirmResok, minor=0),
    Operation(Op.DELEGPURGE, DelegpurgeArgs),
    Operation(Op.DELEGRETURN, DelegreturnArgs),
    Operation(Op.WANT_DELEGATION, WantDelegationArgs, WantDelegationResok),
    Operation(Op.GET_DIR_DELEGATION, GetDirDelegationArgs, GetDirDelegationResok),
    Operation(Op.LOCK, LockArgs, LockResok, failed={Stat.DENIED: LockDenied}),
    Operation(Op.LOCKT, LocktArgs, failed={Stat.DENIED: LockDenied}),
    Operation(Op.LOCKU, LockuArgs, LockuResok),
    Operation(Op.RELEASE_LOCKOWNER, ReleaseLockownerArgs, minor=0),
)
