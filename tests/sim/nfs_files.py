"""What tests of opens, locks and delegations ask a server for, on top of nfs_rig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quicfs.nfs.v4.attributes import Attribute, Attributes, bitmap
from quicfs.nfs.v4.const import UINT64_MAX, CreateMode, LockType, Op, ShareAccess, StableHow, Stat
from quicfs.nfs.v4.operations_directories import LookupArgs, RemoveArgs
from quicfs.nfs.v4.operations_files import GetattrArgs, PutfhArgs
from quicfs.nfs.v4.operations_io import CommitArgs, ReadArgs, WriteArgs
from quicfs.nfs.v4.operations_open import (
    ClaimNull,
    CloseArgs,
    CreateHow,
    DelegreturnArgs,
    ExistLockOwner,
    LockArgs,
    LocktArgs,
    LockuArgs,
    OpenArgs,
    OpenDowngradeArgs,
    OpenResok,
    OpenToLockOwner,
)
from quicfs.nfs.v4.types import LockOwner, OpenOwner, StateId
from tests.sim.nfs_rig import Operation, RawClient

READ, WRITE, BOTH = int(ShareAccess.READ), int(ShareAccess.WRITE), int(ShareAccess.BOTH)
ROOT: list[Operation] = [(Op.PUTROOTFH, None), (Op.LOOKUP, LookupArgs("export"))]


@dataclass
class Opened:
    fh: bytes
    stateid: StateId
    result: OpenResok

    @property
    def put(self) -> Operation:
        return Op.PUTFH, PutfhArgs(self.fh)


def unchecked(**attrs: Any) -> CreateHow:
    return CreateHow(CreateMode.UNCHECKED, named(attrs))


def guarded(**attrs: Any) -> CreateHow:
    return CreateHow(CreateMode.GUARDED, named(attrs))


def named(attrs: dict[str, Any]) -> Attributes:
    return {Attribute[name.upper()]: value for name, value in attrs.items()}


def open_args(
    claim: Any,
    access: int = BOTH,
    deny: int = 0,
    owner: bytes = b"owner",
    how: CreateHow | None = None,
    want: int = ShareAccess.WANT_NO_DELEG,
) -> Operation:
    return Op.OPEN, OpenArgs(0, access | want, deny, OpenOwner(0, owner), how, claim)


def open_named(name: str, access: int = BOTH, deny: int = 0, **options: Any) -> list[Operation]:
    return [*ROOT, open_args(ClaimNull(name), access, deny, **options), (Op.GETFH, None)]


async def opened(client: RawClient, name: str, access: int = BOTH, deny: int = 0, **options: Any) -> Opened:
    results = await client.do(*open_named(name, access, deny, **options))
    return Opened(results[-1].value.object, results[-2].value.stateid, results[-2].value)


async def made(client: RawClient, name: str, access: int = BOTH, deny: int = 0, **options: Any) -> Opened:
    return await opened(client, name, access, deny, how=unchecked(mode=0o644), **options)


async def refused(client: RawClient, *operations: Operation) -> Stat:
    reply = await client.call(*operations)
    assert reply.status is not Stat.OK, "it was not refused"
    return reply.status


async def reopened(client: RawClient, file: Opened, claim: Any, access: int = BOTH, **options: Any) -> Opened:
    results = await client.do(file.put, open_args(claim, access, **options))
    return Opened(file.fh, results[-1].value.stateid, results[-1].value)


async def close(client: RawClient, file: Opened) -> None:
    await client.do(file.put, (Op.CLOSE, CloseArgs(0, StateId(0, file.stateid.other))))


async def write(
    client: RawClient, file: Opened, data: bytes, offset: int = 0, stable: StableHow = StableHow.UNSTABLE
) -> Any:
    return (await client.do(file.put, write_op(file.stateid, data, offset, stable)))[-1].value


def write_op(
    stateid: StateId, data: bytes, offset: int = 0, stable: StableHow = StableHow.UNSTABLE
) -> Operation:
    return Op.WRITE, WriteArgs(stateid, offset, stable, data)


def read_op(stateid: StateId, offset: int = 0, count: int = 65536) -> Operation:
    return Op.READ, ReadArgs(stateid, offset, count)


async def read(client: RawClient, file: Opened, offset: int = 0, count: int = 65536) -> tuple[bool, bytes]:
    value = (await client.do(file.put, read_op(file.stateid, offset, count)))[-1].value
    return value.eof, bytes(value.data)


async def commit(client: RawClient, file: Opened) -> bytes:
    value: bytes = (await client.do(file.put, (Op.COMMIT, CommitArgs(0, 0))))[-1].value.writeverf
    return value


def lock_op(
    file: Opened,
    offset: int = 0,
    length: int = UINT64_MAX,
    kind: LockType = LockType.WRITE,
    owner: bytes = b"locker",
    *,
    reclaim: bool = False,
    stateid: StateId | None = None,
) -> Operation:
    """With the stateid of a lock, the same owner's; without, its first on this open."""
    if stateid is not None:
        return Op.LOCK, LockArgs(kind, reclaim, offset, length, ExistLockOwner(stateid, 0))
    locker = OpenToLockOwner(0, file.stateid, 0, LockOwner(0, owner))
    return Op.LOCK, LockArgs(kind, reclaim, offset, length, locker)


async def lock(client: RawClient, file: Opened, *args: Any, **options: Any) -> StateId:
    stateid: StateId = (await client.do(file.put, lock_op(file, *args, **options)))[-1].value.stateid
    return stateid


async def unlock(
    client: RawClient, file: Opened, stateid: StateId, offset: int = 0, length: int = UINT64_MAX
) -> StateId:
    args = LockuArgs(LockType.WRITE, 0, stateid, offset, length)
    value: StateId = (await client.do(file.put, (Op.LOCKU, args)))[-1].value.stateid
    return value


def lockt_op(
    offset: int = 0, length: int = UINT64_MAX, kind: LockType = LockType.WRITE, owner: bytes = b"tester"
) -> Operation:
    return Op.LOCKT, LocktArgs(kind, offset, length, LockOwner(0, owner))


def downgrade_op(stateid: StateId, access: int, deny: int = 0) -> Operation:
    return Op.OPEN_DOWNGRADE, OpenDowngradeArgs(stateid, 0, access, deny)


def delegreturn_op(stateid: StateId) -> Operation:
    return Op.DELEGRETURN, DelegreturnArgs(stateid)


def remove_op(name: str) -> Operation:
    return Op.REMOVE, RemoveArgs(name)


def getattr_op(*attributes: Attribute) -> Operation:
    return Op.GETATTR, GetattrArgs(bitmap(attributes))
