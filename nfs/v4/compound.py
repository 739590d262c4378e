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
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from quicfs.nfs.v4.const import MINOR_VERSIONS, OPAQUE_LIMIT, CbOp, Nfs4Error, Op, Stat
from quicfs.nfs.v4.operation import Operation
from quicfs.nfs.v4.operations import OPERATIONS
from quicfs.nfs.v4.operations_files import SetattrRes
from quicfs.nfs.xdr import Packer, Struct, Unpacker, XdrError
from quicfs.nfs.xdr.notes import Unpack

_OK: Final = Stat.OK
_TWO: Final = _struct.Struct(">II")
_THREE: Final = _struct.Struct(">III")
_NOTHING: Final = bytes(12)  # status, an empty tag, the number of results


@dataclass(frozen=True, slots=True)
class Dialect:
    """What tells COMPOUND and CB_COMPOUND apart."""

    operations: Mapping[Op | CbOp, Operation]
    illegal: Op | CbOp
    ident: bool  # callback_ident after the minor version; 0 since NFSv4.1
    decoders: tuple[dict[int, tuple[Op | CbOp, Unpack | None]], ...] = field(init=False)  # by minor version
    ok: dict[int, type[Struct] | None] = field(init=False)  # what travels with success
    ops: dict[int, Op | CbOp] = field(init=False)

    def __post_init__(self) -> None:
        """RFC 8881 §18.52: what a minor version does not have is illegal in it."""
        rows = [row for row in self.operations.values() if row.op != self.illegal]
        decoders = tuple(
            {
                int(row.op): (row.op, None if row.args is None else row.args.unpack)
                for row in rows
                if 0 < row.minor <= minor
            }
            for minor in range(MINOR_VERSIONS.stop)
        )
        object.__setattr__(self, "decoders", decoders)
        object.__setattr__(self, "ops", {int(op): op for op in self.operations})
        object.__setattr__(self, "ok", {int(op): row.ok for op, row in self.operations.items()})


FORE: Final = Dialect(OPERATIONS, Op.ILLEGAL, ident=False)


class CompoundCall:
    """COMPOUND4args being read."""

    __slots__ = ("_decoders", "_dialect", "_unpacker", "count", "index", "minor", "op", "tag")

    def __init__(self, tag: bytes, minor: int, count: int, unpacker: Unpacker, dialect: Dialect) -> None:
        self.tag = tag
        self.minor = minor
        self.count = count  # as the peer says: it may be anything
        self.index = 0  # operations read
        self.op: Op | CbOp = dialect.illegal  # the last one read: what the result of a failure is about
        self._unpacker = unpacker
        self._dialect = dialect
        self._decoders = dialect.decoders[min(minor, MINOR_VERSIONS[-1])]

    @classmethod
    def unpack(cls, unpacker: Unpacker, dialect: Dialect = FORE) -> Self:
        if not dialect.ident and unpacker.remaining >= _THREE.size:
            size, minor, count = _THREE.unpack_from(unpacker.data, unpacker.position)
            if not size:  # hardly anybody sends a tag
                unpacker.position += _THREE.size
                return cls(b"", minor, count, unpacker, dialect)
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
            number = unpacker.uint32()
            found = self._decoders.get(number)
            if found is None:
                raise self._unknown(number)
            self.op, unpack = found
            return self.op, None if unpack is None else unpack(unpacker)
        except XdrError as reason:
            raise Nfs4Error(Stat.BADXDR, str(reason)) from None

    def _unknown(self, number: int) -> Nfs4Error:
        operations: Mapping[Any, Operation] = self._dialect.operations
        row = operations.get(number)
        if row is None or row.minor:
            return Nfs4Error(Stat.OP_ILLEGAL)
        self.op = row.op
        return Nfs4Error(Stat.NOTSUPP)


class ReplyBuilder:
    """COMPOUND4res being written. Its status is that of the last result."""

    __slots__ = ("_ok", "_rows", "_start", "count", "packer", "status")

    def __init__(self, tag: bytes, dialect: Dialect = FORE) -> None:
        self.packer = Packer()
        self.count = 0
        self.status = Stat.OK  # set it where a failure has no result: MINOR_VERS_MISMATCH
        self._rows = dialect.operations
        self._ok = dialect.ok
        if tag:
            self.packer.uint32(0)
            self.packer.opaque(tag)
            self._start = len(self.packer)
            self.packer.uint32(0)
        else:
            self.packer.buffer += _NOTHING
            self._start = 8

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self.packer)

    def add(self, op: Op | CbOp, status: Stat, result: Any = None) -> None:
        """XdrError if the result does not fit its type; nothing is added then."""
        if status is _OK:
            expected = self._ok[op]
        else:
            expected = self._rows[op].result(status)
            if expected is SetattrRes and result is None:
                result = SetattrRes(0)
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
    ok = dialect.ok
    status = _status(unpacker.uint32())
    tag = unpacker.opaque(OPAQUE_LIMIT)
    count = unpacker.uint32()
    if count * 8 > unpacker.remaining:
        raise XdrError(f"{count} results")
    results: list[Result] = []
    last = _OK
    try:
        for _ in range(count):
            number, code = unpacker.uint32(), unpacker.uint32()
            if number not in ok:
                raise XdrError(f"a result of operation {number}")
            op = dialect.ops[number]
            if code:
                last = _status(code)
                expected = dialect.operations[op].result(last)
            else:
                last = _OK
                expected = ok[number]
            value = None if expected is None else expected.unpack(unpacker)
            results.append(Result(op, last, value))
    except Nfs4Error as error:
        raise XdrError(str(error)) from None
    if last is not status and results:
        raise XdrError("the status is not that of the last result")
    return CompoundReply(status, tag, results)


_STATUS: Final = {int(status): status for status in Stat}


def _status(number: int) -> Stat:
    try:
        return _STATUS[number]
    except KeyError:
        raise XdrError(f"{number} is no nfsstat4") from None
