"""What ends a stream, and the codes that say so on QUIC."""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable

from quicfs.nfs.rpc.message import AcceptStat, AuthStat, RejectStat, RpcFault
from quicfs.transport.bytestream import ByteStream


class RpcErrorCode(enum.IntEnum):
    """Application error codes of RPC over QUIC (draft-cel-nfsv4-rpc-over-quicv1-06 §3.5 and §7.3)."""

    NO_ERROR = 0
    PROTOCOL_VIOLATION = 1
    SERVER_BUSY = 2
    REQUEST_DROPPED = 3
    UNSPECIFIED_ERROR = 4


class RpcStreamError(ConnectionError):
    """A stream that cannot go on because of what the peer sent, or did not send. `code` is what it gets to hear."""

    def __init__(self, text: str, code: RpcErrorCode = RpcErrorCode.PROTOCOL_VIOLATION) -> None:
        super().__init__(text)
        self.code = code


class RpcError(Exception):
    """The server's answer is no result: `status` says why; `low` and `high` are the versions that it knows."""

    def __init__(self, fault: RpcFault) -> None:
        super().__init__(f"the server answered {fault.stat.name}")
        self.status: AcceptStat | AuthStat | RejectStat = fault.stat
        self.low = fault.low
        self.high = fault.high


class RpcLost(ConnectionError):
    """The stream ended before the reply came. `sent` False: the server cannot have seen the call."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


@runtime_checkable
class Resettable(Protocol):
    """A stream that can end with a code: QUIC's."""

    def reset(self, error_code: int) -> None: ...

    def stop_sending(self, error_code: int) -> None: ...


async def give_up(stream: ByteStream, code: RpcErrorCode) -> None:
    """End both directions at once, with `code` where the transport can carry one (§3.4, §3.5)."""
    if isinstance(stream, Resettable):
        stream.reset(code)
        stream.stop_sending(code)
    else:
        await stream.aclose()
