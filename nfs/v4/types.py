"""The structures that several operations of NFSv4 share (RFC 5662 §2, RFC 7863)."""

from __future__ import annotations

import struct as _struct
from typing import Annotated, Final

from quicfs.nfs.v4.const import (
    DEVICEID_SIZE,
    FHSIZE,
    OPAQUE_LIMIT,
    OTHER_SIZE,
    SESSIONID_SIZE,
    VERIFIER_SIZE,
    FsStatusType,
    GssService,
    LayoutIoMode,
    LockType,
    NetlocType,
    SecFlavor,
    StableHow,
)
from quicfs.nfs.xdr import (
    Array,
    Codec,
    Fixed,
    Int32,
    Int64,
    Opaque,
    Packer,
    String,
    Struct,
    Switch,
    Uint32,
    Uint64,
    Unpacker,
    XdrError,
    struct,
)

# --- limits of what has none in the RFC
NAME_LIMIT: Final = 4096  # component4: longer ones are NAMETOOLONG, said by the server and not by the decoder
PATH_LIMIT: Final = 65536  # linktext4
TEXT_LIMIT: Final = 65536
LIST_LIMIT: Final = 65536
BITMAP_WORDS: Final = 8  # 256 attributes; the RFCs have 87

FileHandle = Annotated[bytes, Opaque(FHSIZE)]
Verifier = Annotated[bytes, Fixed(VERIFIER_SIZE)]
SessionId = Annotated[bytes, Fixed(SESSIONID_SIZE)]
DeviceId = Annotated[bytes, Fixed(DEVICEID_SIZE)]
Component = Annotated[str, String(NAME_LIMIT)]
Text = Annotated[str, String(TEXT_LIMIT)]
LinkText = Annotated[str, String(PATH_LIMIT)]
Pathname = Annotated[list[Component], Array(LIST_LIMIT)]
Body = Annotated[bytes, Opaque()]  # what belongs to something else: layouts, tokens


# --- bitmap4: here an int, bit n for the n-th attribute


_WORDS: Final = tuple(_struct.Struct(f">{words}I") for words in range(BITMAP_WORDS + 2))


def pack_bitmap(mask: int, packer: Packer) -> None:
    words = (mask.bit_length() + 31) // 32
    if words == 2:
        packer.buffer += _WORDS[3].pack(2, mask & 0xFFFFFFFF, mask >> 32)
        return
    if words > BITMAP_WORDS:
        raise XdrError(f"a bitmap of {words} words")
    values = [mask >> shift & 0xFFFFFFFF for shift in range(0, 32 * words, 32)]
    packer.buffer += _WORDS[words + 1].pack(words, *values)


def unpack_bitmap(unpacker: Unpacker) -> int:
    """Words beyond those that any minor version uses are read and, being for nothing that we know, kept."""
    words = unpacker.uint32()
    if words > BITMAP_WORDS or words * 4 > unpacker.remaining:
        raise XdrError(f"a bitmap of {words} words")
    values: tuple[int, ...] = _WORDS[words].unpack_from(unpacker.data, unpacker.position)
    unpacker.position += 4 * words
    if words == 2:
        return values[0] | values[1] << 32
    mask = 0
    for value in reversed(values):
        mask = mask << 32 | value
    return mask


Bitmap = Annotated[int, Codec(pack_bitmap, unpack_bitmap)]


# --- times, change, state


@struct
class NfsTime(Struct):
    seconds: Int64
    nseconds: Uint32

    @property
    def ns(self) -> int:
        return self.seconds * 1_000_000_000 + self.nseconds

    @classmethod
    def from_ns(cls, ns: int) -> NfsTime:
        return cls(*divmod(ns, 1_000_000_000))


@struct
class ChangeInfo(Struct):
    atomic: bool
    before: Uint64
    after: Uint64


@struct
class StateId(Struct):
    seqid: Uint32
    other: Annotated[bytes, Fixed(OTHER_SIZE)]


# RFC 8881 §8.2.3
ANONYMOUS: Final = StateId(0, bytes(12))
READ_BYPASS: Final = StateId(0xFFFFFFFF, b"\xff" * 12)
CURRENT: Final = StateId(1, bytes(12))
INVALID: Final = StateId(0xFFFFFFFF, bytes(12))


@struct
class StateOwner(Struct):
    """open_owner4, lock_owner4. Servers ignore the client ID: the session says it (§18.16.3)."""

    clientid: Uint64
    owner: Annotated[bytes, Opaque(OPAQUE_LIMIT)]


OpenOwner = StateOwner
LockOwner = StateOwner


@struct
class LockDenied(Struct):
    offset: Uint64
    length: Uint64
    locktype: LockType
    owner: StateOwner


@struct
class ClientOwner(Struct):
    verifier: Verifier
    ownerid: Annotated[bytes, Opaque(OPAQUE_LIMIT)]


@struct
class ServerOwner(Struct):
    minor_id: Uint64
    major_id: Annotated[bytes, Opaque(OPAQUE_LIMIT)]


@struct
class ImplId(Struct):
    domain: Text
    name: Text
    date: NfsTime


@struct
class NetAddr(Struct):
    netid: Text
    addr: Text


# --- of attributes


@struct
class Fsid(Struct):
    major: Uint64
    minor: Uint64


@struct
class SpecData(Struct):
    """Device numbers: major, minor."""

    major: Uint32
    minor: Uint32


@struct
class FsLocation(Struct):
    server: Annotated[list[Text], Array(LIST_LIMIT)]
    rootpath: Pathname


@struct
class FsLocations(Struct):
    fs_root: Pathname
    locations: Annotated[list[FsLocation], Array(LIST_LIMIT)]


@struct
class FsLocationsServer(Struct):
    currency: Int32
    info: Body
    server: Text


@struct
class FsLocationsItem(Struct):
    entries: Annotated[list[FsLocationsServer], Array(LIST_LIMIT)]
    rootpath: Pathname


@struct
class FsLocationsInfo(Struct):
    flags: Uint32
    valid_for: Int32
    fs_root: Pathname
    items: Annotated[list[FsLocationsItem], Array(LIST_LIMIT)]


@struct
class FsStatus(Struct):
    absent: bool
    type: FsStatusType
    source: Text
    current: Text
    age: Int32
    version: NfsTime


@struct
class Ace(Struct):
    """nfsace4. The type and bits are const.AceType, AceFlag, AceMask; others may come."""

    type: Uint32
    flag: Uint32
    access_mask: Uint32
    who: Text


@struct
class Acl41(Struct):
    flag: Uint32
    aces: Annotated[list[Ace], Array(LIST_LIMIT)]


@struct
class ModeMasked(Struct):
    value: Uint32
    mask: Uint32


@struct
class ModeUmask(Struct):
    """RFC 8275."""

    mode: Uint32
    umask: Uint32


@struct
class ChangePolicy(Struct):
    major: Uint64
    minor: Uint64


@struct
class LayoutHint(Struct):
    type: Uint32
    body: Body


@struct
class ThresholdItem(Struct):
    layout_type: Uint32
    hintset: Bitmap
    hintlist: Body


@struct
class RetentionGet(Struct):
    duration: Uint64
    begin_time: NfsTime | None


@struct
class RetentionSet(Struct):
    enable: bool
    duration: Uint64 | None


@struct
class SecLabel(Struct):
    lfs: Uint32
    policy: Uint32
    data: Annotated[bytes, Opaque()]


@struct
class OpenArguments(Struct):
    """RFC 9754: which arguments of OPEN the server takes, as bitmaps."""

    share_access: Bitmap
    share_deny: Bitmap
    share_access_want: Bitmap
    open_claim: Bitmap
    create_mode: Bitmap


# --- pNFS: the bodies belong to the layout type


@struct
class Layout(Struct):
    offset: Uint64
    length: Uint64
    iomode: LayoutIoMode
    type: Uint32
    body: Body


# --- security of callbacks (RFC 8881 §18.33)


@struct
class CbSecNone(Struct):
    pass


@struct
class CbSecSys(Struct):
    """authsys_parms."""

    stamp: Uint32
    machine: Annotated[str, String(255)]
    uid: Uint32
    gid: Uint32
    gids: Annotated[list[Uint32], Array(16)]


@struct
class CbSecGss(Struct):
    service: GssService
    handle_from_server: Body
    handle_from_client: Body


CbSecParms = Annotated[
    CbSecNone | CbSecSys | CbSecGss,
    Switch(SecFlavor, {SecFlavor.NONE: CbSecNone, SecFlavor.SYS: CbSecSys, SecFlavor.GSS: CbSecGss}),
]


# --- NFSv4.2


@struct
class NetlocName(Struct):
    name: Text


@struct
class NetlocUrl(Struct):
    url: Text


@struct
class NetlocAddr(Struct):
    addr: NetAddr


Netloc = Annotated[
    NetlocName | NetlocUrl | NetlocAddr,
    Switch(
        NetlocType,
        {NetlocType.NAME: NetlocName, NetlocType.URL: NetlocUrl, NetlocType.NETADDR: NetlocAddr},
    ),
]


@struct
class WriteResponse(Struct):
    """write_response4: of COPY and WRITE_SAME. `callback_id` when the server goes on by itself."""

    callback_id: StateId | None
    count: Uint64
    committed: StableHow
    writeverf: Verifier
