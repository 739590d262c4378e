"""Operations on the current file handle and its attributes (RFC 8881 §18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quicfs.nfs.v4.attributes import Fattr
from quicfs.nfs.v4.const import GssService, Op, SecFlavor, SecinfoStyle
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.types import LIST_LIMIT, Bitmap, Body, Component, FileHandle, StateId
from quicfs.nfs.xdr import Array, Packer, Struct, Uint32, Unpacker, struct


@struct
class AccessArgs(Struct):
    """Bits of const.Access."""

    access: Uint32


@struct
class AccessResok(Struct):
    supported: Uint32
    access: Uint32


@struct
class GetattrArgs(Struct):
    attr_request: Bitmap


@struct
class GetattrResok(Struct):
    attributes: Fattr


@struct
class SetattrArgs(Struct):
    stateid: StateId
    attributes: Fattr


@struct
class SetattrRes(Struct):
    """Travels with failures too: what has been set until then (§18.30)."""

    attrsset: Bitmap


@struct
class VerifyArgs(Struct):
    """Of VERIFY and NVERIFY."""

    attributes: Fattr


@struct
class GetfhResok(Struct):
    object: FileHandle


@struct
class PutfhArgs(Struct):
    object: FileHandle


@struct
class OpenattrArgs(Struct):
    createdir: bool


@struct
class SecinfoArgs(Struct):
    name: Component


@struct
class SecinfoNoNameArgs(Struct):
    style: SecinfoStyle


@struct
class GssInfo(Struct):
    """rpcsec_gss_info."""

    oid: Body
    qop: Uint32
    service: GssService


@dataclass(slots=True)
class Secinfo:
    """secinfo4: a flavor, with its parameters if it is RPCSEC_GSS."""

    flavor: int
    gss: GssInfo | None = None

    def pack(self, packer: Packer) -> None:
        packer.uint32(self.flavor)
        if self.flavor == SecFlavor.GSS:
            assert self.gss is not None
            self.gss.pack(packer)

    @staticmethod
    def unpack(unpacker: Unpacker) -> Secinfo:
        flavor = unpacker.uint32()
        return Secinfo(flavor, GssInfo.unpack(unpacker) if flavor == SecFlavor.GSS else None)


@struct
class SecinfoResok(Struct):
    """Of SECINFO and SECINFO_NO_NAME."""

    flavors: Annotated[list[Secinfo], Array(LIST_LIMIT)]


OPERATIONS = (
    Operation(Op.ACCESS, AccessArgs, AccessResok),
    Operation(Op.GETATTR, GetattrArgs, GetattrResok),
    Operation(Op.SETATTR, SetattrArgs, SetattrRes, always=SetattrRes),
    Operation(Op.VERIFY, VerifyArgs),
    Operation(Op.NVERIFY, VerifyArgs),
    Operation(Op.GETFH, None, GetfhResok),
    Operation(Op.PUTFH, PutfhArgs),
    Operation(Op.PUTPUBFH),
    Operation(Op.PUTROOTFH),
    Operation(Op.SAVEFH),
    Operation(Op.RESTOREFH),
    Operation(Op.OPENATTR, OpenattrArgs),
    Operation(Op.SECINFO, SecinfoArgs, SecinfoResok),
    Operation(Op.SECINFO_NO_NAME, SecinfoNoNameArgs, SecinfoResok),
)
