"""The server of RPC programs on one stream (RFC 5531)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from quicfs.nfs.rpc.errors import RpcErrorCode, RpcStreamError, give_up
from quicfs.nfs.rpc.exchange import Exchange
from quicfs.nfs.rpc.message import (
    AcceptStat,
    Call,
    DropCall,
    RpcFault,
    accepted_header,
    fault_reply,
    peek,
    unpack_call,
)
from quicfs.nfs.rpc.record import Gather
from quicfs.nfs.xdr import Packer, XdrError
from quicfs.transport.bytestream import ByteStream

if TYPE_CHECKING:
    from quicfs.nfs.rpc.certificate import PeerCertificate
    from quicfs.nfs.rpc.client import RpcClient

__all__ = ["DropCall", "Peer", "Program", "RpcFault", "serve"]

_log: Final = logging.getLogger("quicfs.nfs")


class Peer:
    """The other end of what upper layers call a connection: one QUIC stream, or one TCP connection. Hashable by
    identity.

    `certificate`: the names that TLS has verified, None without. `binding`: the tls-exporter channel binding of the
    connection (RFC 9266), None on TCP. `transport`: the same object for all streams of one QUIC connection; on TCP
    the peer itself.
    """

    def __init__(
        self,
        name: str,
        *,
        secured: bool = False,
        certificate: PeerCertificate | None = None,
        binding: bytes | None = None,
        transport: object = None,
    ) -> None:
        self.name = name
        self.secured = secured
        self.certificate = certificate
        self.binding = binding
        self.transport: object = self if transport is None else transport
        self.closed = False
        self.memo: Any = None  # of the upper layer, for what it would otherwise find out with each call
        self._on_close: list[Callable[[Peer], None]] = []

    async def open_backchannel(self) -> RpcClient:
        """A way to call the client: on QUIC a new stream of the same connection, on TCP the other direction of this
        one. ConnectionError when there is none."""
        raise ConnectionError(f"{self.name} cannot be called back")

    @property
    def requester(self) -> RpcClient | None:
        """Who waits for replies on this very stream: nobody on QUIC (§3.4 of the draft)."""
        return None

    def on_close(self, callback: Callable[[Peer], None]) -> None:
        """Called when nothing more can come, at once if that is so already."""
        if self.closed:
            callback(self)
        else:
            self._on_close.append(callback)

    def close(self) -> None:
        """By whoever reads the stream. Twice is allowed."""
        if not self.closed:
            self.closed = True
            callbacks, self._on_close = self._on_close, []
            for callback in callbacks:
                callback(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Program(Protocol):
    """Some versions of one program. The same number may come several times, with other versions."""

    @property
    def number(self) -> int: ...

    @property
    def versions(self) -> range: ...

    async def call(self, call: Call, peer: Peer) -> Packer:
        """The results. Raises XdrError for arguments that make no sense, RpcFault for another answer than results,
        DropCall for none at all. Procedure 0 is the program's to answer."""


class Responder:
    """Finds the program of a call, and turns what comes of it into a reply."""

    def __init__(self, programs: Sequence[Program], peer: Peer) -> None:
        self._peer = peer
        self._programs: dict[tuple[int, int], Program] = {}
        self._versions: dict[int, tuple[int, int]] = {}
        for program in programs:
            low, high = program.versions.start, program.versions.stop - 1
            known = self._versions.get(program.number, (low, high))
            self._versions[program.number] = min(low, known[0]), max(high, known[1])
            for version in program.versions:
                self._programs[program.number, version] = program

    async def answer(self, message: memoryview, replies: Gather) -> None:
        """XdrError for what is no call; RpcStreamError when the stream is to be closed."""
        xid, _ = peek(message)
        try:
            call = unpack_call(message)
        except RpcFault as fault:
            replies.add(fault_reply(xid, fault))
            return
        try:
            results = await self._find(call).call(call, self._peer)
        except RpcFault as fault:
            replies.add(fault_reply(xid, fault))
        except DropCall as reason:
            text = f"a call was dropped: {reason}"
            raise RpcStreamError(text, RpcErrorCode.REQUEST_DROPPED) from None
        except XdrError as error:
            _log.debug("%s: %s", self._peer.name, error)
            replies.add(fault_reply(xid, RpcFault(AcceptStat.GARBAGE_ARGS)))
        except Exception:
            _log.exception("%s: a call failed in an unforeseen way", self._peer.name)
            replies.add(fault_reply(xid, RpcFault(AcceptStat.SYSTEM_ERR)))
        else:
            replies.add(accepted_header(xid), results.parts())

    def _find(self, call: Call) -> Program:
        program = self._programs.get((call.program, call.version))
        if program is not None:
            return program
        versions = self._versions.get(call.program)
        if versions is None:
            raise RpcFault(AcceptStat.PROG_UNAVAIL)
        raise RpcFault(AcceptStat.PROG_MISMATCH, *versions)


async def serve(stream: ByteStream, programs: Sequence[Program], peer: Peer) -> None:
    """Answer the calls on `stream` until it ends, at most `limits.MAX_CALLS` that wait at one time, and close it.

    Calls under way when the peer is gone are carried out to their end. Raises nothing that a peer can bring about.
    """
    requester = peer.requester

    def ended() -> None:
        peer.close()
        if requester is not None:
            requester.lost(f"{peer.name} has closed the connection")

    exchange = Exchange(
        stream,
        answer=Responder(programs, peer).answer,
        on_reply=requester.on_reply if requester is not None else None,
        on_end=ended,
    )
    code = RpcErrorCode.NO_ERROR
    try:
        await exchange.run()
    except RpcStreamError as error:
        _log.info("%s: %s", peer.name, error)
        code = error.code
    except ConnectionError as error:
        _log.debug("%s: %s", peer.name, error)
    finally:
        with contextlib.suppress(ConnectionError):  # it is gone already
            if code is RpcErrorCode.NO_ERROR:
                await stream.aclose()
            else:
                await give_up(stream, code)
