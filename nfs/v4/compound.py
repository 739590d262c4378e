"""COMPOUND (RFC 8881 §16.2): several operations in one call, answered up to the first that fails.

A server reads them one at a time, so that what comes after a failure is never decoded:

    call = CompoundCall.unpack(unpacker)
    reply = ReplyBuilder(call.tag)
    while call.more:
        try: op, args = call.next() ...
        except Nfs4Error as error: reply.add(call.op, error.status, error.result); break
    return reply.finish()

CB_COMPOUND is the same with other operations: pass `callback.DIALECT`.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from quicfs.nfs.v4.const import OPAQUE_LIMIT, CbOp, Nfs4Error, Op, Stat
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.operations import OPERATIONS
from quicfs.nfs.v4.operations_files import SetattrRes
from quicfs.nfs.xdr import Packer, Struct, Unpacker, XdrError

_TWO: Final = _struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Dialect:
    """What tells COMPOUND and CB_COMPOUND apart."""

    operations: Mapping[Op | CbOp, Operation]
    illegal: Op | CbOp
    ident: bool  # callback_ident after the minor version; 0 since NFSv4.1


FORE: Final = Dialect(OPERATIONS, Op.ILLEGAL, ident=False)


class CompoundCall:
    """COMPOUND4args being read."""

    __slots__ = ("_dialect", "_rows", "_unpacker", "count", "index", "minor", "op", "tag")

    def __init__(self, tag: bytes, minor: int, count: int, unpacker: Unpacker, dialect: Dialect) -> None:
        self.tag = tag
        self.minor = minor
        self.count = count  # as the peer says: it may be anything
        self.index = 0  # operations read
        self.op: Op | CbOp = dialect.illegal  # the last one read: what the result of a failure is about
        self._unpacker = unpacker
        self._dialect = dialect
        self._rows: Mapping[Any, Operation] = dialect.operations

    @classmethod
    def unpack(cls, unpacker: Unpacker, dialect: Dialect = FORE) -> Self:
        tag = unpacker.opaque(OPAQUE_LIMIT)
        minor = unpacker.uint32()
        if dialect.ident:
            unpacker.uint32()
        return cls(tag, minor, unpacker.uint32(), unpacker, dialect)

    @property
    def more(self) -> bool:
        return self.index < self.count

    def next(self) -> tuple[Any, Any]:
        """(operation, arguments or None). Nfs4Error: this one fails, `self.op` being what to name in its result:
        OP_ILLEGAL, NOTSUPP for what NFSv4.1 has abolished, BADXDR, ATTRNOTSUPP."""
        self.index += 1
        unpacker = self._unpacker
        self.op = self._dialect.illegal
        try:
            row = self._rows.get(unpacker.uint32())
            # RFC 8881 §18.52: nothing that this minor version knows
            if row is None or row.minor > self.minor or row.op == self.op:
                raise Nfs4Error(Stat.OP_ILLEGAL)
            self.op = row.op
            if not row.minor:
                raise Nfs4Error(Stat.NOTSUPP)
            return row.op, None if row.args is None else row.args.unpack(unpacker)
        except XdrError as reason:
            raise Nfs4Error(Stat.BADXDR, str(reason)) from None


class ReplyBuilder:
    """COMPOUND4res being written. Its status is that of the last result."""

    __slots__ = ("_rows", "_start", "_tag", "count", "packer", "status")

    def __init__(self, tag: bytes, dialect: Dialect = FORE) -> None:
        self.packer = Packer()
        self.count = 0
        self.status = Stat.OK  # set it where a failure has no result: MINOR_VERS_MISMATCH
        self._rows = dialect.operations
        self.packer.uint32(0)
        self.packer.opaque(tag)
        self._start = len(self.packer)
        self.packer.uint32(0)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self.packer)

    def add(self, op: Op | CbOp, status: Stat, result: Any = None) -> None:
        """XdrError if the result does not fit its type; nothing is added then."""
        if status is Stat.OK:
            expected = self._rows[op].ok
        else:
            expected = self._rows[op].result(status)
            if expected is SetattrRes and result is None:
                result = SetattrRes(0)
            elif expected is None:
                result = None
        packer = self.packer
        if expected is None:
            packer.buffer += _TWO.pack(op, status)
        else:
            if type(result) is not expected:
                raise TypeError(f"{op!r} {status!r} carries {expected.__name__}, not {result!r}")
            mark = packer.mark()
            packer.buffer += _TWO.pack(op, status)
            try:
                result.pack(packer)
            except XdrError:
                packer.rollback(mark)
                raise
        self.count += 1
        self.status = status

    def replace_last(self, mark: tuple[int, int, int], op: Op | CbOp, status: Stat) -> None:
        """Take back what was added since `packer.mark()`, one result, and fail instead: REP_TOO_BIG (§2.10.6.4)."""
        self.packer.rollback(mark)
        self.count -= 1
        self.add(op, status)

    def finish(self) -> Packer:
        self.packer.patch_uint32(0, self.status)
        self.packer.patch_uint32(self._start, self.count)
        return self.packer


# --- the client's half


class Result(NamedTuple):
    op: Any
    status: Stat
    value: Any  # what travels under this status, or None


@dataclass(slots=True)
class CompoundReply:
    status: Stat
    tag: bytes
    results: list[Result]

    def check(self) -> list[Result]:
        """The results; Nfs4Error with the status of the one that failed."""
        if self.status is not Stat.OK:
            if not self.results:
                raise Nfs4Error(self.status)
            op, status, value = self.results[-1]
            raise Nfs4Error(status, f"{op.name}: {status.name}", value)
        return self.results


class Compound:
    """COMPOUND4args being made."""

    __slots__ = ("dialect", "operations", "tag")

    def __init__(self, tag: bytes = b"", dialect: Dialect = FORE) -> None:
        self.tag = tag
        self.dialect = dialect
        self.operations: list[tuple[Op | CbOp, Struct | None]] = []

    def add(self, op: Op | CbOp, args: Struct | None = None) -> Self:
        self.operations.append((op, args))
        return self

    def pack(self, packer: Packer, minor: int = 2) -> None:
        packer.opaque(self.tag)
        packer.uint32(minor)
        if self.dialect.ident:
            packer.uint32(0)
        packer.uint32(len(self.operations))
        for op, args in self.operations:
            expected = self.dialect.operations[op].args
            packer.uint32(op)
            if expected is not None:
                if type(args) is not expected:
                    raise TypeError(f"{op!r} takes {expected.__name__}, not {args!r}")
                args.pack(packer)


def unpack_reply(unpacker: Unpacker, dialect: Dialect = FORE) -> CompoundReply:
    """XdrError if it is none. An Nfs4Error in it (a server naming attributes of its own) is one too."""
    rows: Mapping[Any, Operation] = dialect.operations
    status = _status(unpacker.uint32())
    tag = unpacker.opaque(OPAQUE_LIMIT)
    count = unpacker.uint32()
    if count * 8 > unpacker.remaining:
        raise XdrError(f"{count} results")
    results: list[Result] = []
    for _ in range(count):
        number, code = unpacker.uint32(), unpacker.uint32()
        row = rows.get(number)
        if row is None:
            raise XdrError(f"a result of operation {number}")
        result = _status(code)
        expected = row.ok if result is Stat.OK else row.result(result)
        try:
            value = None if expected is None else expected.unpack(unpacker)
        except Nfs4Error as error:
            raise XdrError(str(error)) from None
        results.append(Result(row.op, result, value))
    if results and results[-1].status is not status:
        raise XdrError("the status is not that of the last result")
    return CompoundReply(status, tag, results)


_STATUS: Final = {int(status): status for status in Stat}


def _status(number: int) -> Stat:
    try:
        return _STATUS[number]
    except KeyError:
        raise XdrError(f"{number} is no nfsstat4") from None
