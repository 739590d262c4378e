"""An NFS server and raw NFSv4.1 clients in one process, in virtual time: `virtual_loop.run(test())`.

    async with Rig(tmp_path) as rig:
        client = await rig.client(b"a")          # EXCHANGE_ID, CREATE_SESSION, RECLAIM_COMPLETE
        results = await client.do(*root(), (Op.GETFH, None))
        rig.kill(); await rig.restart()          # as kill -9: nothing is said to anybody

A `Link` is what QUIC would be: any number of streams between one client and the server, and the server may open some
towards the client. Everything here is for other tests as well.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.client import RpcClient
from quicfs.nfs.rpc.identity import Squash
from quicfs.nfs.rpc.message import AuthSys, Call, Credential
from quicfs.nfs.rpc.service import Peer, Program, serve
from quicfs.nfs.rpc.tcp import TcpPeer
from quicfs.nfs.server.exports import Export
from quicfs.nfs.server.server import NfsServer
from quicfs.nfs.v4.callback import DIALECT, CbSequenceResok
from quicfs.nfs.v4.compound import (
    Compound,
    CompoundCall,
    CompoundReply,
    ReplyBuilder,
    Result,
    unpack_reply,
)
from quicfs.nfs.v4.const import CALLBACK_PROGRAM, PROGRAM, VERSION, CbOp, CreateSession, Op, Stat
from quicfs.nfs.v4.operations_sessions import (
    ChannelAttrs,
    CreateSessionArgs,
    CreateSessionResok,
    ExchangeIdArgs,
    ExchangeIdResok,
    ReclaimCompleteArgs,
    SequenceArgs,
    SequenceResok,
)
from quicfs.nfs.v4.types import CbSecNone, ClientOwner
from quicfs.nfs.xdr import Packer, Unpacker
from quicfs.vfs.local import LocalTree

Operation = tuple[Op, Any]
COMPOUND = 1


class Pipe:
    """One end of a stream in memory. `delay` seconds pass before what is sent arrives."""

    def __init__(self, name: str, delay: float = 0.0) -> None:
        self.peer = name
        self.secured = True
        self.delay = delay
        self.other: Pipe
        self._arrived: deque[memoryview] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._closed = False
        self._error: ConnectionError | None = None
        self._stopped: asyncio.Event | None = None

    def stop_sending(self) -> None:
        """The other end takes nothing more: whoever sends waits."""
        self._stopped = asyncio.Event()

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._ended:
                return memoryview(b"")
            self._wake.clear()
            await self._wake.wait()
        piece = self._arrived.popleft()
        if len(piece) > limit:
            self._arrived.appendleft(piece[limit:])
        return piece[:limit]

    async def send(self, *parts: bytes | memoryview) -> None:
        if self._error is not None or self._closed:
            raise self._error or ConnectionError("the stream was closed here")
        data = memoryview(b"".join(parts))
        if self._stopped is not None:
            await self._stopped.wait()
            raise self._error or ConnectionError("cut")
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.other.arrive, data)
        else:
            self.other.arrive(data)

    def arrive(self, data: memoryview) -> None:
        if self._error is None and not self._closed:
            self._arrived.append(data)
            self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    def fail(self, why: str) -> None:
        """What has arrived and was not read is gone, too."""
        self._error = ConnectionError(why)
        self._arrived.clear()
        self._wake.set()
        if self._stopped is not None:
            self._stopped.set()

    def cut(self, why: str = "cut") -> None:
        """Both ends."""
        self.fail(why)
        self.other.fail(why)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self.other.end()
            self.end()


def pipe(name: str, delay: float = 0.0) -> tuple[Pipe, Pipe]:
    """(the client's end, the server's end)."""
    left, right = Pipe("server", delay), Pipe(name, delay)
    left.other, right.other = right, left
    return left, right


class _Peer(Peer):
    def __init__(self, link: Link) -> None:
        super().__init__(link.name, secured=True, certificate=link.certificate, transport=link)
        self._link = link

    async def open_backchannel(self) -> RpcClient:
        return self._link.call_back()


class Link:
    """A connection with streams. `programs` answer callbacks. It has `open`, `alive` and `aclose` as the connections
    have that NfsFileSystem is given. With `tcp` each stream is a TCP connection, which carries callbacks as well."""

    def __init__(
        self,
        rig: Rig,
        name: str,
        programs: Sequence[Program] = (),
        certificate: PeerCertificate | None = None,
        delay: float = 0.0,
        tcp: bool = False,
    ) -> None:
        self.rig = rig
        self.name = name
        self.tcp = tcp
        self.programs = programs
        self.certificate = certificate
        self.delay = delay
        self.alive = True
        self.pipes: list[Pipe] = []
        self.callback_pipes: list[Pipe] = []

    async def open(self) -> RpcClient:
        if not self.alive or self.rig.server is None:
            raise ConnectionError("the server cannot be reached")
        ours, theirs = pipe(self.name, self.delay)
        self.pipes.append(ours)
        peer = TcpPeer(theirs) if self.tcp else _Peer(self)  # type: ignore[arg-type]
        self.rig.run(serve(theirs, self.rig.server.programs, peer))
        return RpcClient(ours, programs=self.programs if self.tcp else ())

    def call_back(self) -> RpcClient:
        if not self.alive:
            raise ConnectionError("the client is gone")
        ours, theirs = pipe(self.name, self.delay)
        self.callback_pipes.append(ours)
        self.rig.run(serve(ours, self.programs, Peer("server")))
        return RpcClient(theirs)

    def cut(self) -> None:
        """The network is gone, without a word."""
        self.alive = False
        for one in self.pipes + self.callback_pipes:
            one.cut()

    async def aclose(self) -> None:
        self.cut()


class Rig:
    """A server that exports `directory/tree` as /export, and keeps its state in `directory/state` (or, without `state`,
    nowhere)."""

    def __init__(
        self,
        directory: Path,
        *,
        lease: float = 90.0,
        exports: Sequence[Export] | None = None,
        state: bool = True,
        **options: Any,
    ) -> None:
        self.tree = directory / "tree"
        self.tree.mkdir(exist_ok=True)
        self.tree.chmod(0o777)
        self._state = directory / "state" if state else None
        self._lease = lease
        self._given = exports
        self.exports: Sequence[Export] = ()
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: list[Link] = []
        self._trees: list[LocalTree] = []
        self.server: NfsServer | None = None

    async def __aenter__(self) -> Self:
        await self.restart()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for link in self._links:
            link.cut()
        if self.server is not None:
            await self.server.aclose()
        await self._settle()
        for tree in self._trees:
            await tree.close()

    async def restart(self) -> NfsServer:
        """Start the server on what is on disk."""
        if self._given is not None:
            self.exports = self._given
        else:
            tree = LocalTree(self.tree)
            self._trees.append(tree)
            self.exports = [Export("/export", tree, squash=Squash(no_root_squash=True))]
        loop = asyncio.get_running_loop()
        self.server = NfsServer(
            self.exports, state_directory=self._state, lease=self._lease, clock=loop.time, **self._options
        )
        await self.server.start()
        return self.server

    async def kill(self) -> None:
        """As kill -9 does: nothing is written, nobody is told more than that the connection is gone."""
        assert self.server is not None
        dead, self.server = self.server, None
        for link in self._links:
            link.cut()
        self._links.clear()
        await self._settle()
        # What is to be closed in this process is, but the disk keeps what it had.
        if self._state is None:
            await dead.aclose()
            return
        kept = self._state.with_name("kept")
        shutil.copytree(self._state, kept)
        await dead.aclose()
        shutil.rmtree(self._state)
        kept.rename(self._state)

    async def stop(self) -> None:
        """As an administrator does."""
        assert self.server is not None
        stopped, self.server = self.server, None
        for link in self._links:
            link.cut()
        self._links.clear()
        await self._settle()
        await stopped.aclose()

    def connect(
        self,
        name: str = "client",
        programs: Sequence[Program] = (),
        certificate: PeerCertificate | None = None,
        delay: float = 0.0,
        tcp: bool = False,
    ) -> Link:
        link = Link(self, name, programs, certificate, delay, tcp)
        self._links.append(link)
        return link

    async def client(
        self, owner: bytes = b"client", *, reclaim_complete: bool = True, **options: Any
    ) -> RawClient:
        """One that is ready to open files."""
        client = RawClient(self, owner, **options)
        await client.establish(reclaim_complete=reclaim_complete)
        return client

    def run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


FORE = ChannelAttrs(0, 1 << 20, 1 << 20, 8192, 64, 16, None)
BACK = ChannelAttrs(0, 4096, 4096, 0, 8, 4, None)


class Failed(AssertionError):
    """A COMPOUND did not end with the status that the test wants."""


def sequence(session: bytes, number: int, slot: int = 0, highest: int = 0, *, keep: bool = True) -> Operation:
    return Op.SEQUENCE, SequenceArgs(session, number, slot, max(highest, slot), keep)


def packed(operations: Sequence[Operation], minor: int = 2, tag: bytes = b"") -> Packer:
    compound = Compound(tag)
    for op, args in operations:
        compound.add(op, args)
    packer = Packer()
    compound.pack(packer, minor)
    return packer


class Callbacks:
    """The client's callback program: `answers[op]` makes the result of one operation out of its arguments; what has
    come is in `seen`."""

    number = CALLBACK_PROGRAM
    versions = range(1, 2)

    def __init__(self) -> None:
        self.seen: list[tuple[CbOp, Any]] = []
        self.answers: dict[CbOp, Callable[[Any], Awaitable[tuple[Stat, Any]]]] = {}

    async def call(self, call: Call, peer: Peer) -> Packer:
        if call.procedure != COMPOUND:
            return Packer()
        compound = CompoundCall.unpack(call.args, DIALECT)
        reply = ReplyBuilder(compound.tag, DIALECT)
        while compound.more:
            op, args = compound.next()
            self.seen.append((op, args))
            if op in self.answers:
                status, result = await self.answers[op](args)
            elif op is CbOp.SEQUENCE:
                status, result = Stat.OK, CbSequenceResok(args.sessionid, args.sequenceid, args.slotid, 0, 0)
            else:
                status, result = Stat.OK, None
            reply.add(op, status, result)
            if status is not Stat.OK:
                break
        return reply.finish()


class RawClient:
    """A client that sends what it is told to. `streams` are bound by being used; `session` is the newest."""

    def __init__(
        self,
        rig: Rig,
        owner: bytes = b"client",
        *,
        verifier: bytes = b"boot\0\0\0\1",
        uid: int = 0,
        certificate: PeerCertificate | None = None,
        credential: Credential | None = None,
        delay: float = 0.0,
        minor: int = 2,
        fore: ChannelAttrs = FORE,
        back: bool = True,
        tcp: bool = False,
    ) -> None:
        self.rig = rig
        self.owner = owner
        self.verifier = verifier
        self.credential = credential or AuthSys(1, owner.decode("latin-1"), uid, uid, ())
        self.certificate = certificate
        self.delay = delay
        self.minor = minor
        self.fore = fore
        self.back = back
        self.callbacks = Callbacks()
        self.link = rig.connect(owner.decode("latin-1"), (self.callbacks,), certificate, delay, tcp)
        self.streams: list[RpcClient] = []
        self.clientid = 0
        self.sequence = 0  # for CREATE_SESSION
        self.session = b""
        self.numbers: dict[tuple[bytes, int], int] = {}  # the last sequence id of (session, slot)
        self.sequence_result: SequenceResok | None = None

    # --- streams

    async def stream(self, number: int = 0) -> RpcClient:
        """The stream with this number, opened when it is needed first or again."""
        while len(self.streams) <= number:
            self.streams.append(await self.link.open())
        if not self.streams[number].alive:
            self.streams[number] = await self.link.open()
        return self.streams[number]

    def reconnect(self) -> None:
        """Another connection, after the old one was cut."""
        self.link.cut()
        self.link = self.rig.connect(
            self.link.name, (self.callbacks,), self.certificate, self.delay, self.link.tcp
        )
        self.streams.clear()

    # --- calls

    async def raw(self, args: Packer, *, stream: int = 0, procedure: int = COMPOUND) -> Unpacker:
        rpc = await self.stream(stream)
        return await rpc.call(PROGRAM, VERSION, procedure, self.credential, args, timeout=300.0)

    async def compound(self, *operations: Operation, stream: int = 0, tag: bytes = b"") -> CompoundReply:
        """Whatever is asked, with nothing added."""
        return unpack_reply(await self.raw(packed(operations, self.minor, tag), stream=stream))

    def next(self, slot: int = 0, *, keep: bool = True, highest: int = 0) -> Operation:
        """SEQUENCE of the next request in `slot`."""
        key = self.session, slot
        self.numbers[key] = self.numbers.get(key, 0) + 1
        return sequence(self.session, self.numbers[key], slot, highest, keep=keep)

    async def call(
        self, *operations: Operation, slot: int = 0, stream: int = 0, keep: bool = True
    ) -> CompoundReply:
        """`operations` after a SEQUENCE, the next of its slot, whose result is not among those returned."""
        reply = await self.compound(self.next(slot, keep=keep), *operations, stream=stream)
        first = reply.results.pop(0)
        if first.status is not Stat.OK:
            raise Failed(f"SEQUENCE: {first.status.name}")
        self.sequence_result = first.value
        return reply

    async def do(self, *operations: Operation, slot: int = 0, stream: int = 0) -> list[Result]:
        """As `call`, and all must be OK."""
        reply = await self.call(*operations, slot=slot, stream=stream)
        if reply.status is not Stat.OK:
            last = reply.results[-1]
            raise Failed(f"{last.op.name}: {last.status.name}")
        return reply.results

    # --- coming into being

    async def exchange_id(self, flags: int = 0) -> ExchangeIdResok:
        args = ExchangeIdArgs(ClientOwner(self.verifier, self.owner), flags, None, None)
        (result,) = (await self.compound((Op.EXCHANGE_ID, args))).check()
        self.clientid, self.sequence = result.value.clientid, result.value.sequenceid
        return result.value

    def create_args(self) -> CreateSessionArgs:
        flags = int(CreateSession.CONN_BACK_CHAN) if self.back else 0
        return CreateSessionArgs(
            self.clientid, self.sequence, flags, self.fore, BACK, CALLBACK_PROGRAM, [CbSecNone()]
        )

    async def create_session(self) -> CreateSessionResok:
        (result,) = (await self.compound((Op.CREATE_SESSION, self.create_args()))).check()
        self.sequence += 1
        self.session = result.value.sessionid
        return result.value

    async def establish(self, *, reclaim_complete: bool = True) -> None:
        await self.exchange_id()
        await self.create_session()
        if reclaim_complete:
            await self.reclaim_complete()

    async def reclaim_complete(self) -> None:
        await self.do((Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(False)))
