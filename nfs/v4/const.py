"""Numbers of NFSv4.1 and 4.2: RFC 5662, RFC 7863, RFC 8276, RFC 9754. Names without the prefixes of the RFCs.

Bits of a mask are IntEnums too: `mask & ExchangeId.USE_PNFS_MDS` is then plain integer arithmetic.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from quicfs.nfs.v4.stat import Nfs4Error as Nfs4Error  # noqa: PLC0414
from quicfs.nfs.v4.stat import Stat as Stat  # noqa: PLC0414

PROGRAM: Final = 100003
VERSION: Final = 4
CALLBACK_PROGRAM: Final = 0x40000000
CALLBACK_VERSION: Final = 1
MINOR_VERSIONS: Final = range(1, 3)

FHSIZE: Final = 128
VERIFIER_SIZE: Final = 8
OTHER_SIZE: Final = 12
OPAQUE_LIMIT: Final = 1024
SESSIONID_SIZE: Final = 16
DEVICEID_SIZE: Final = 16
UINT32_MAX: Final = 0xFFFFFFFF
UINT64_MAX: Final = 0xFFFFFFFF_FFFFFFFF  # as a length: to the end of the file
MAXFILEOFF: Final = UINT64_MAX - 1


class Procedure(IntEnum):
    NULL = 0
    COMPOUND = 1


class Op(IntEnum):
    """nfs_opnum4."""

    ACCESS = 3
    CLOSE = 4
    COMMIT = 5
    CREATE = 6
    DELEGPURGE = 7
    DELEGRETURN = 8
    GETATTR = 9
    GETFH = 10
    LINK = 11
    LOCK = 12
    LOCKT = 13
    LOCKU = 14
    LOOKUP = 15
    LOOKUPP = 16
    NVERIFY = 17
    OPEN = 18
    OPENATTR = 19
    OPEN_CONFIRM = 20
    OPEN_DOWNGRADE = 21
    PUTFH = 22
    PUTPUBFH = 23
    PUTROOTFH = 24
    READ = 25
    READDIR = 26
    READLINK = 27
    REMOVE = 28
    RENAME = 29
    RENEW = 30
    RESTOREFH = 31
    SAVEFH = 32
    SECINFO = 33
    SETATTR = 34
    SETCLIENTID = 35
    SETCLIENTID_CONFIRM = 36
    VERIFY = 37
    WRITE = 38
    RELEASE_LOCKOWNER = 39
    BACKCHANNEL_CTL = 40
    BIND_CONN_TO_SESSION = 41
    EXCHANGE_ID = 42
    CREATE_SESSION = 43
    DESTROY_SESSION = 44
    FREE_STATEID = 45
    GET_DIR_DELEGATION = 46
    GETDEVICEINFO = 47
    GETDEVICELIST = 48
    LAYOUTCOMMIT = 49
    LAYOUTGET = 50
    LAYOUTRETURN = 51
    SECINFO_NO_NAME = 52
    SEQUENCE = 53
    SET_SSV = 54
    TEST_STATEID = 55
    WANT_DELEGATION = 56
    DESTROY_CLIENTID = 57
    RECLAIM_COMPLETE = 58
    ALLOCATE = 59
    COPY = 60
    COPY_NOTIFY = 61
    DEALLOCATE = 62
    IO_ADVISE = 63
    LAYOUTERROR = 64
    LAYOUTSTATS = 65
    OFFLOAD_CANCEL = 66
    OFFLOAD_STATUS = 67
    READ_PLUS = 68
    SEEK = 69
    WRITE_SAME = 70
    CLONE = 71
    GETXATTR = 72
    SETXATTR = 73
    LISTXATTRS = 74
    REMOVEXATTR = 75
    ILLEGAL = 10044


class CbOp(IntEnum):
    """nfs_cb_opnum4."""

    GETATTR = 3
    RECALL = 4
    LAYOUTRECALL = 5
    NOTIFY = 6
    PUSH_DELEG = 7
    RECALL_ANY = 8
    RECALLABLE_OBJ_AVAIL = 9
    RECALL_SLOT = 10
    SEQUENCE = 11
    WANTS_CANCELLED = 12
    NOTIFY_LOCK = 13
    NOTIFY_DEVICEID = 14
    OFFLOAD = 15
    ILLEGAL = 10044


class FileType(IntEnum):
    """nfs_ftype4."""

    REG = 1
    DIR = 2
    BLK = 3
    CHR = 4
    LNK = 5
    SOCK = 6
    FIFO = 7
    ATTRDIR = 8
    NAMEDATTR = 9


class Access(IntEnum):
    """Bits of ACCESS (RFC 8881 §18.1), with those of extended attributes (RFC 8276 §8.5)."""

    READ = 0x01
    LOOKUP = 0x02
    MODIFY = 0x04
    EXTEND = 0x08
    DELETE = 0x10
    EXECUTE = 0x20
    XAREAD = 0x40
    XAWRITE = 0x80
    XALIST = 0x100


class StableHow(IntEnum):
    UNSTABLE = 0
    DATA_SYNC = 1
    FILE_SYNC = 2


class FhExpire(IntEnum):
    """Bits of the attribute fh_expire_type."""

    PERSISTENT = 0
    NOEXPIRE_WITH_OPEN = 1
    VOLATILE_ANY = 2
    VOL_MIGRATION = 4
    VOL_RENAME = 8


class ChangeAttrType(IntEnum):
    MONOTONIC_INCR = 0
    VERSION_COUNTER = 1
    VERSION_COUNTER_NOPNFS = 2
    TIME_METADATA = 3
    UNDEFINED = 4


class FsCharsetCap(IntEnum):
    CONTAINS_NON_UTF8 = 1
    ALLOWS_ONLY_UTF8 = 2


class FsStatusType(IntEnum):
    FIXED = 1
    UPDATED = 2
    VERSIONED = 3
    WRITABLE = 4
    REFERRAL = 5


# --- access control lists (RFC 8881 §6.2)


class AclSupport(IntEnum):
    ALLOW = 1
    DENY = 2
    AUDIT = 4
    ALARM = 8


class AceType(IntEnum):
    ALLOWED = 0
    DENIED = 1
    AUDIT = 2
    ALARM = 3


class AceFlag(IntEnum):
    FILE_INHERIT = 0x01
    DIRECTORY_INHERIT = 0x02
    NO_PROPAGATE_INHERIT = 0x04
    INHERIT_ONLY = 0x08
    SUCCESSFUL_ACCESS = 0x10
    FAILED_ACCESS = 0x20
    IDENTIFIER_GROUP = 0x40
    INHERITED = 0x80


class AceMask(IntEnum):
    READ_DATA = 0x01  # of a directory: list
    WRITE_DATA = 0x02  # add a file
    APPEND_DATA = 0x04  # add a directory
    READ_NAMED_ATTRS = 0x08
    WRITE_NAMED_ATTRS = 0x10
    EXECUTE = 0x20
    DELETE_CHILD = 0x40
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    WRITE_RETENTION = 0x200
    WRITE_RETENTION_HOLD = 0x400
    DELETE = 0x10000
    READ_ACL = 0x20000
    WRITE_ACL = 0x40000
    WRITE_OWNER = 0x80000
    SYNCHRONIZE = 0x100000
    GENERIC_READ = 0x120081
    GENERIC_WRITE = 0x160106
    GENERIC_EXECUTE = 0x1200A0


class AclFlag(IntEnum):
    AUTO_INHERIT = 1
    PROTECTED = 2
    DEFAULTED = 4


# --- opens, locks and delegations (RFC 8881 §18.16)


class CreateMode(IntEnum):
    UNCHECKED = 0
    GUARDED = 1
    EXCLUSIVE = 2
    EXCLUSIVE4_1 = 3


class OpenType(IntEnum):
    NOCREATE = 0
    CREATE = 1


class LimitBy(IntEnum):
    SIZE = 1
    BLOCKS = 2


class ShareAccess(IntEnum):
    """Bits of share_access: what is opened for, and which delegation would be welcome."""

    READ = 1
    WRITE = 2
    BOTH = 3
    WANT_DELEG_MASK = 0xFF00
    WANT_READ_DELEG = 0x0100
    WANT_WRITE_DELEG = 0x0200
    WANT_ANY_DELEG = 0x0300
    WANT_NO_DELEG = 0x0400
    WANT_CANCEL = 0x0500
    WANT_SIGNAL_DELEG_WHEN_RESRC_AVAIL = 0x10000
    WANT_PUSH_DELEG_WHEN_UNCONTENDED = 0x20000
    WANT_DELEG_TIMESTAMPS = 0x100000
    WANT_OPEN_XOR_DELEGATION = 0x200000


class ShareDeny(IntEnum):
    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3


class OpenResult(IntEnum):
    """Bits of rflags."""

    CONFIRM = 0x02
    LOCKTYPE_POSIX = 0x04
    PRESERVE_UNLINKED = 0x08
    NO_OPEN_STATEID = 0x10
    MAY_NOTIFY_LOCK = 0x20


class OpenClaim(IntEnum):
    NULL = 0
    PREVIOUS = 1
    DELEGATE_CUR = 2
    DELEGATE_PREV = 3
    FH = 4
    DELEG_CUR_FH = 5
    DELEG_PREV_FH = 6


class DelegationType(IntEnum):
    NONE = 0
    READ = 1
    WRITE = 2
    NONE_EXT = 3
    READ_ATTRS_DELEG = 4
    WRITE_ATTRS_DELEG = 5


class WhyNoDelegation(IntEnum):
    NOT_WANTED = 0
    CONTENTION = 1
    RESOURCE = 2
    NOT_SUPP_FTYPE = 3
    WRITE_DELEG_NOT_SUPP_FTYPE = 4
    NOT_SUPP_UPGRADE = 5
    NOT_SUPP_DOWNGRADE = 6
    CANCELLED = 7
    IS_DIR = 8


class LockType(IntEnum):
    """nfs_lock_type4; READW and WRITEW: the client is going to wait."""

    READ = 1
    WRITE = 2
    READW = 3
    WRITEW = 4


# --- clients and sessions


class ExchangeId(IntEnum):
    """Bits of EXCHANGE_ID (RFC 8881 §18.35)."""

    SUPP_MOVED_REFER = 0x1
    SUPP_MOVED_MIGR = 0x2
    SUPP_FENCE_OPS = 0x4
    BIND_PRINC_STATEID = 0x100
    USE_NON_PNFS = 0x10000
    USE_PNFS_MDS = 0x20000
    USE_PNFS_DS = 0x40000
    MASK_PNFS = 0x70000
    UPD_CONFIRMED_REC_A = 0x40000000
    CONFIRMED_R = 0x80000000


class StateProtectHow(IntEnum):
    NONE = 0
    MACH_CRED = 1
    SSV = 2


class CreateSession(IntEnum):
    """Bits of CREATE_SESSION (§18.36)."""

    PERSIST = 1
    CONN_BACK_CHAN = 2
    CONN_RDMA = 4


class ChannelDirFromClient(IntEnum):
    FORE = 1
    BACK = 2
    FORE_OR_BOTH = 3
    BACK_OR_BOTH = 7


class ChannelDirFromServer(IntEnum):
    FORE = 1
    BACK = 2
    BOTH = 3


class SeqStatus(IntEnum):
    """Bits of sr_status_flags (§18.46)."""

    CB_PATH_DOWN = 0x1
    CB_GSS_CONTEXTS_EXPIRING = 0x2
    CB_GSS_CONTEXTS_EXPIRED = 0x4
    EXPIRED_ALL_STATE_REVOKED = 0x8
    EXPIRED_SOME_STATE_REVOKED = 0x10
    ADMIN_STATE_REVOKED = 0x20
    RECALLABLE_STATE_REVOKED = 0x40
    LEASE_MOVED = 0x80
    RESTART_RECLAIM_NEEDED = 0x100
    CB_PATH_DOWN_SESSION = 0x200
    BACKCHANNEL_FAULT = 0x400
    DEVID_CHANGED = 0x800
    DEVID_DELETED = 0x1000


class SecFlavor(IntEnum):
    NONE = 0
    SYS = 1
    GSS = 6


class GssService(IntEnum):
    NONE = 1
    INTEGRITY = 2
    PRIVACY = 3


class SecinfoStyle(IntEnum):
    CURRENT_FH = 0
    PARENT = 1


class GddStatus(IntEnum):
    """gddrnf4_status."""

    OK = 0
    UNAVAIL = 1


class Notify(IntEnum):
    """notify_type4: bit numbers."""

    CHANGE_CHILD_ATTRS = 0
    CHANGE_DIR_ATTRS = 1
    REMOVE_ENTRY = 2
    ADD_ENTRY = 3
    RENAME_ENTRY = 4
    CHANGE_COOKIE_VERIFIER = 5


class RecallAny(IntEnum):
    """Bit numbers of craa_type_mask (§20.6)."""

    RDATA_DLG = 0
    WDATA_DLG = 1
    DIR_DLG = 2
    FILE_LAYOUT = 3
    BLK_LAYOUT = 4


# --- pNFS


class LayoutIoMode(IntEnum):
    READ = 1
    RW = 2
    ANY = 3


class LayoutReturnType(IntEnum):
    """layoutreturn_type4 and layoutrecall_type4."""

    FILE = 1
    FSID = 2
    ALL = 3


# --- NFSv4.2 (RFC 7862) and extended attributes (RFC 8276)


class NetlocType(IntEnum):
    NAME = 1
    URL = 2
    NETADDR = 3


class DataContent(IntEnum):
    DATA = 0
    HOLE = 1


class IoAdvise(IntEnum):
    """Bit numbers."""

    NORMAL = 0
    SEQUENTIAL = 1
    SEQUENTIAL_BACKWARDS = 2
    RANDOM = 3
    WILLNEED = 4
    WILLNEED_OPPORTUNISTIC = 5
    DONTNEED = 6
    NOREUSE = 7
    READ = 8
    WRITE = 9
    INIT_PROXIMITY = 10


class SetxattrOption(IntEnum):
    EITHER = 0
    CREATE = 1
    REPLACE = 2
