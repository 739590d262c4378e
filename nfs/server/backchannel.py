"""The back channel: calls of the server to a client (RFC 8881 §2.10.3.1, §2.10.6, §20).

A session has callback slots, which work as those of its fore channel do, with the parts exchanged; and paths, the
connections that the client bound for it. A path is known by its transport: on QUIC a stream of our own on that
connection, on TCP the connection itself. What is lost with one path is sent again on another, in the same slot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.client import RpcClient, RpcError
from quicfs.nfs.rpc.message import AuthNone, AuthSys, Credential
from quicfs.nfs.rpc.service import Peer
from quicfs.nfs.v4.callback import DIALECT, CbSequenceArgs
from quicfs.nfs.v4.compound import Compound, Result, unpack_reply
from quicfs.nfs.v4.const import CALLBACK_VERSION, CbOp, Nfs4Error, SeqStatus, Stat
from quicfs.nfs.v4.operations_sessions import ChannelAttrs
from quicfs.nfs.v4.types import CbSecNone, CbSecParms, CbSecSys
from quicfs.nfs.xdr import Packer, XdrError

if TYPE_CHECKING:
    from quicfs.nfs.server.clients import Client
    from quicfs.nfs.server.sessions import Session

__all__ = ["BackChannel", "CallbackLost"]

_log = logging.getLogger("quicfs.nfs")
_CB_COMPOUND: Final = 1
_WRAP: Final = 0xFFFFFFFF


class CallbackLost(ConnectionError):
    """The client could not be called, or did not answer in time."""


class _Path:
    """What has one transport: connections that the client bound for callbacks, and the one that we call on."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []
        self._rpc: RpcClient | None = None
        self._opening = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return (self._rpc is not None and self._rpc.alive) or any(not peer.closed for peer in self._peers)

    def add(self, peer: Peer) -> None:
        self._peers = [known for known in self._peers if not known.closed and known is not peer]
        self._peers.append(peer)
        del self._peers[: -limits.MAX_CALLBACK_PATHS]

    async def open(self) -> RpcClient:
        """ConnectionError if there is no way."""
        async with self._opening:
            if self._rpc is None or not self._rpc.alive:
                for peer in self._peers:
                    if not peer.closed:
                        self._rpc = await peer.open_backchannel()
                        return self._rpc
                raise ConnectionError("no bound connection is left")
            return self._rpc

    async def aclose(self) -> None:
        """Give the stream back, if it is one of our own and not the other direction of the client's."""
        rpc, self._rpc = self._rpc, None
        self._peers.clear()
        if rpc is not None:
            await rpc.aclose()


class _Slot:
    """`unsure`: the client may or may not have seen the last request in it."""

    __slots__ = ("number", "sequence", "unsure")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.unsure = False


class _SessionChannel:
    """The back channel of one session."""

    def __init__(
        self, session: Session, attrs: ChannelAttrs, program: int, credential: Credential | None
    ) -> None:
        self.session: Final = session
        self.attrs: Final = attrs
        self.program = program
        self.credential = credential  # None: none that we could call with
        self.paths: dict[object, _Path] = {}
        self.fault = False
        self.free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for number in reversed(range(attrs.maxrequests)):
            self.free.put_nowait(_Slot(number))

    @property
    def usable(self) -> bool:
        if self.fault or self.credential is None:
            return False
        for transport in [key for key, path in self.paths.items() if not path.alive]:
            del self.paths[transport]
        return bool(self.paths)


class BackChannel:
    """All ways to call one client: those of all of its sessions."""

    def __init__(self, client: Client) -> None:
        self._client: Final = client
        self._channels: dict[bytes, _SessionChannel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._wanted = False  # the client has had a back channel, and should know when there is none

    # --- by the operations

    def add(
        self, session: Session, attrs: ChannelAttrs, program: int, security: Sequence[CbSecParms]
    ) -> None:
        """A new session (§18.36.3)."""
        self._channels[session.id] = _SessionChannel(session, attrs, program, _credential(security))

    def bind(self, session: Session, peer: Peer) -> bool:
        """`peer`'s connection may carry callbacks of `session`. False when it cannot."""
        channel = self._channels[session.id]
        path = self._path(peer.transport) or _Path()
        path.add(peer)
        # At the end, where the likeliest to work is.
        channel.paths.pop(peer.transport, None)
        channel.paths[peer.transport] = path
        while len(channel.paths) > limits.MAX_CALLBACK_PATHS:
            self._drop(channel, next(iter(channel.paths)))
        channel.fault = False
        self._wanted = True
        return channel.credential is not None

    def control(self, session: Session, program: int, security: Sequence[CbSecParms]) -> None:
        """BACKCHANNEL_CTL (§18.33)."""
        credential = _credential(security)
        if credential is None:
            raise Nfs4Error(Stat.NOENT)  # §18.33.3: none of the GSS handles is known
        channel = self._channels[session.id]
        channel.program, channel.credential = program, credential

    def forget(self, session: Session) -> None:
        channel = self._channels.pop(session.id, None)
        if channel is not None:
            channel.fault = True  # for who is just calling
            for transport in list(channel.paths):
                self._drop(channel, transport)

    def _path(self, transport: object) -> _Path | None:
        """All sessions share what one transport has."""
        for channel in self._channels.values():
            path = channel.paths.get(transport)
            if path is not None and path.alive:
                return path
        return None

    def _drop(self, channel: _SessionChannel, transport: object) -> None:
        path = channel.paths.pop(transport, None)
        if path is not None and all(
            path is not other.paths.get(transport) for other in self._channels.values()
        ):
            task = asyncio.get_running_loop().create_task(path.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def status(self, session: Session) -> int:
        """The bits of sr_status_flags that tell of callbacks (§18.46.3)."""
        if not self._wanted:
            return 0
        own = self._channels.get(session.id)
        flags = 0
        if own is None or not own.usable:
            flags = int(SeqStatus.CB_PATH_DOWN_SESSION)
            if not any(channel.usable for channel in self._channels.values()):
                flags |= SeqStatus.CB_PATH_DOWN
        if own is not None and own.fault:
            flags |= SeqStatus.BACKCHANNEL_FAULT
        return flags

    # --- by whoever has something to tell the client

    @property
    def usable(self) -> bool:
        """Whether calling the client has a chance: no delegation is given out without."""
        return any(channel.usable for channel in self._channels.values())

    async def call(
        self,
        operations: Sequence[tuple[CbOp, Any]],
        *,
        session: Session | None = None,
        timeout: float = limits.CALLBACK_TIMEOUT_S,
    ) -> list[Result]:
        """CB_COMPOUND of CB_SEQUENCE and `operations`, whose results are returned, up to the first that failed.

        CallbackLost when no path works, or when there is no answer within `timeout` seconds. `session` is the one to
        use, if that is possible.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._call(operations, session)
        except TimeoutError:
            raise CallbackLost(f"client {self._client.name} did not answer in {timeout:g} s") from None

    async def _call(self, operations: Sequence[tuple[CbOp, Any]], session: Session | None) -> list[Result]:
        tried: set[bytes] = set()
        while True:
            channel = self._choose(session, tried)
            if channel is None:
                raise CallbackLost(f"client {self._client.name} has no working back channel")
            tried.add(channel.session.id)
            slot = await channel.free.get()
            try:
                results = await self._in_slot(channel, slot, operations)
            finally:
                channel.free.put_nowait(slot)
            if results is not None:
                return results

    def _choose(self, session: Session | None, tried: set[bytes]) -> _SessionChannel | None:
        if session is not None and session.id not in tried:
            channel = self._channels.get(session.id)
            if channel is not None and channel.usable:
                return channel
        for number, channel in self._channels.items():
            if number not in tried and channel.usable:
                return channel
        return None

    async def _in_slot(
        self, channel: _SessionChannel, slot: _Slot, operations: Sequence[tuple[CbOp, Any]]
    ) -> list[Result] | None:
        """The results, or None when this session's back channel does not work."""
        slot.sequence = (slot.sequence + 1) & _WRAP
        sent = False  # whether the client may have seen this sequence id
        try:
            while channel.usable:
                # The one that was bound last is the likeliest to work.
                transport, path = next(reversed(channel.paths.items()))
                try:
                    rpc = await path.open()
                    sent = True
                    results = await self._send(channel, rpc, slot, operations)
                except (ConnectionError, TimeoutError, RpcError, XdrError) as error:
                    _log.info("callback to %s: %s", self._client.name, error)
                    if channel.paths.get(transport) is path:
                        self._drop(channel, transport)
                    continue
                status = results[0].status if results else Stat.SERVERFAULT
                if status is Stat.OK:
                    slot.unsure = sent = False
                    return results[1:]
                if status is Stat.DELAY:
                    # §20.9.3: nothing has happened in the slot; the client is busy, or only just creates the session.
                    await asyncio.sleep(limits.CALLBACK_RETRY_S)
                elif status is Stat.SEQ_MISORDERED and slot.unsure:
                    slot.unsure = False  # what was given up the last time never arrived
                    slot.sequence = (slot.sequence - 1) & _WRAP
                else:
                    # The client and we do not agree about this session (§18.46.3: BACKCHANNEL_FAULT).
                    _log.warning("callback to %s: CB_SEQUENCE failed: %s", self._client.name, status.name)
                    channel.fault = True
            return None
        finally:
            slot.unsure = slot.unsure or sent

    async def _send(
        self, channel: _SessionChannel, rpc: RpcClient, slot: _Slot, operations: Sequence[tuple[CbOp, Any]]
    ) -> list[Result]:
        assert channel.credential is not None
        compound = Compound(dialect=DIALECT)
        highest = channel.attrs.maxrequests - 1
        compound.add(
            CbOp.SEQUENCE,
            CbSequenceArgs(channel.session.id, slot.sequence, slot.number, highest, False, []),
        )
        for op, args in operations:
            compound.add(op, args)
        packer = Packer()
        compound.pack(packer, 1)
        answer = await rpc.call(
            channel.program,
            CALLBACK_VERSION,
            _CB_COMPOUND,
            channel.credential,
            packer,
            timeout=limits.CALLBACK_PATH_S,
        )
        return unpack_reply(answer, DIALECT).results


def _credential(security: Sequence[CbSecParms]) -> Credential | None:
    """The first of the client's offers that we can use; None if all want RPCSEC_GSS."""
    for offer in security:
        match offer:
            case CbSecNone():
                return AuthNone()
            case CbSecSys():
                return AuthSys(offer.stamp, offer.machine, offer.uid, offer.gid, tuple(offer.gids))
    return None
