"""One connection: packets in, requests checked and dispatched, responses out ([MS-SMB2] §3.3.5.2, §3.3.4.1).

    read -> decrypt -> split -> window, session, signature -> handler -> response(s) -> sign, encrypt -> write

Packets are taken in order; their handlers run concurrently. What changes the connection's or a session's
state (NEGOTIATE, SESSION_SETUP, LOGOFF, tree connects) is finished before the next packet is looked at.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Final

from quicfs.smb import limits
from quicfs.smb.crypto import PreauthHash
from quicfs.smb.errors import SmbError, SmbProtocolError
from quicfs.smb.framing import MessageStream
from quicfs.smb.messages.header import (
    ASYNC_COMMAND,
    RELATED_OPERATIONS,
    SERVER_TO_REDIR,
    SIGNATURE_OFFSET,
    SIGNED,
    SMB1_MAGIC,
    TRANSFORM_MAGIC,
    Command,
    Header,
    split_compound,
)
from quicfs.smb.messages.negotiate import Dialect
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import negotiate
from quicfs.smb.server.dispatch import COMMANDS
from quicfs.smb.server.opens import FileOpen, PipeOpen
from quicfs.smb.server.request import Chain, Reply, Request
from quicfs.smb.server.session import Session, SessionState
from quicfs.smb.server.window import MessageWindow
from quicfs.smb.status import ntstatus_from_status
from quicfs.smb.transform import transform_session_id
from quicfs.transport.bytestream import ByteStream
from quicfs.vfs import FsError

if TYPE_CHECKING:
    from quicfs.smb.server.server import SmbServer

__all__ = ["Connection"]

_log = logging.getLogger("quicfs.smb")

_async_ids = itertools.count(1)
_PADDING: Final = tuple(bytes(length) for length in range(8))
_PENDING_BODY: Final = Reply.error(NtStatus.PENDING).parts
_FLAGS_AT: Final = 16  # in the header
_NEXT_COMMAND_AT: Final = 20


class Connection:
    def __init__(self, server: SmbServer, stream: ByteStream) -> None:
        self.server = server
        self.peer = stream.peer
        self.secured = stream.secured
        self.dialect = 0
        self.negotiation = negotiate.Negotiation()
        self.preauth = PreauthHash()
        self.large_mtu = False
        self.sessions: dict[int, Session] = {}
        self._messages = MessageStream(stream)
        self._window = MessageWindow()
        self._running: dict[int, Request] = {}  # by message id
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.waiting = 0  # requests that wait for something far away

    # The connection's life

    async def run(self) -> None:
        """Until the stream ends. What the client broke ends it with an SmbProtocolError."""
        try:
            async with asyncio.timeout(limits.NEGOTIATE_TIMEOUT_S) as patience:
                limit = limits.MAX_UNAUTHENTICATED_MESSAGE_SIZE
                while (packet := await self._messages.read_message(limit)) is not None:
                    await self._packet(packet)
                    if patience.when() is not None and self._is_authenticated():
                        patience.reschedule(None)
                        limit = limits.MAX_MESSAGE_SIZE
                    while len(self._running) >= limits.MAX_OUTSTANDING:
                        self._room.clear()
                        await self._room.wait()
        except TimeoutError:
            raise SmbProtocolError("no session was set up in time") from None
        finally:
            await self._end()

    def _is_authenticated(self) -> bool:
        return any(session.state is SessionState.VALID for session in self.sessions.values())

    async def _end(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in list(self.sessions.values()):
            await self.end_session(session)

    async def abort(self, why: str) -> None:
        """End the connection from within a handler, without an answer."""
        _log.warning("%s: connection ended: %s", self.peer, why)
        await self._messages.aclose()

    async def end_session(self, session: Session) -> None:
        """Close everything that belongs to a session and forget it."""
        session.state = SessionState.CLOSED
        self.sessions.pop(session.session_id, None)
        self.server.sessions.pop(session.session_id, None)
        await self.close_opens(session)
        session.trees.clear()

    async def close_opens(self, session: Session, tree_id: int | None = None) -> None:
        """Cancel what waits on the opens of a session (or of one of its trees), and close them."""
        for request in self._running.values():
            open_ = request.waits_for
            if open_ is not None and open_.tree.session is session and tree_id in (None, open_.tree.tree_id):
                self._cancel(request)
        for file_id, found in list(session.opens.items()):
            if tree_id in (None, found.tree.tree_id):
                session.opens.pop(file_id, None)
                try:
                    await found.close()
                except FsError as error:
                    _log.warning("%s: closing an open: %s", self.peer, error)

    # Packets in

    async def _packet(self, packet: memoryview) -> None:
        magic = bytes(packet[:4])
        encrypted_for: int | None = None
        if magic == TRANSFORM_MAGIC:
            encrypted_for = transform_session_id(packet)
            session = self.sessions.get(encrypted_for)
            # §3.3.5.2.1.1: no such session, or one without keys: the connection ends.
            if session is None or session.opener is None:
                raise SmbProtocolError("an encrypted message for no session")
            packet = session.opener.open(packet)
        elif magic == SMB1_MAGIC:
            await self._smb1(packet)
            return
        requests = self._requests(packet, encrypted_for)
        if not requests:
            return
        serial = any(COMMANDS[request.header.command].serial for request in requests)
        if serial:
            await self._serve(requests)
        else:
            task = self._loop.create_task(self._serve(requests))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            for request in requests:
                request.task = task

    async def _smb1(self, packet: memoryview) -> None:
        """§3.3.5.3: an SMB1 negotiate that asks for SMB2 gets its answer from SMB2."""
        if self.dialect:
            raise SmbProtocolError("SMB1 after NEGOTIATE")
        self._window.consume(0, 1)
        header = Header(Command.NEGOTIATE, 0, flags=SERVER_TO_REDIR, credits=self._window.grant(1))
        body = negotiate.answer_smb1(self, packet)
        await self._messages.write_message(header.pack(), body)

    def _requests(self, packet: memoryview, encrypted_for: int | None) -> list[Request]:
        requests: list[Request] = []
        chain = Chain()
        previous: Request | None = None
        for header, message in split_compound(packet, limits.MAX_COMPOUND):
            if header.flags & SERVER_TO_REDIR:
                raise SmbProtocolError("a response sent to the server")
            if header.command == Command.CANCEL:
                self._on_cancel(header)
                continue
            if header.command not in COMMANDS:
                raise SmbProtocolError(f"unknown command {header.command}")
            # §3.3.5.2 and §3.3.5.4: NEGOTIATE comes first, and once.
            if bool(self.dialect) == (header.command == Command.NEGOTIATE):
                raise SmbProtocolError("NEGOTIATE twice" if self.dialect else "a request before NEGOTIATE")
            related = bool(header.flags & RELATED_OPERATIONS)
            if not related:
                chain = Chain()
            request = Request(self, header, message, chain, encrypted=encrypted_for is not None)
            if not self.large_mtu:
                request.charge = 1
            self._window.consume(header.message_id, request.charge)
            if not related:
                request.session = self.sessions.get(header.session_id)
                if encrypted_for is not None and header.session_id != encrypted_for:
                    raise SmbProtocolError("an encrypted message for another session")
                self._admit(request)
            elif previous is not None:
                # §3.3.5.2.7.2: the session and the tree are those of the request before.
                request.session, request.problem = previous.session, previous.problem
                self._check_signature(request)
            else:
                request.problem = NtStatus.INVALID_PARAMETER
            previous = request
            requests.append(request)
        if requests:
            now = self._loop.time()
            for request in requests:
                request.last = request is requests[-1]
                request.started = now
                self._running[request.header.message_id] = request
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(limits.INTERIM_AFTER_S, self._sweep)
        return requests

    def _admit(self, request: Request) -> None:
        """Session and protection of one request; what is wrong becomes its `problem`."""
        spec = COMMANDS[request.header.command]
        session = request.session
        if session is None:
            if spec.needs_session:
                request.problem = NtStatus.USER_SESSION_DELETED
            return
        if spec.needs_session and session.state is not SessionState.VALID:
            request.problem = NtStatus.USER_SESSION_DELETED
            return
        self._check_signature(request)

    def _check_signature(self, request: Request) -> None:
        """§3.3.5.2.4 and §3.3.5.2.9."""
        session = request.session
        if request.encrypted or session is None or session.state is not SessionState.VALID:
            return
        if request.header.command in (Command.NEGOTIATE, Command.SESSION_SETUP):
            return
        if request.header.flags & SIGNED and session.signer is not None:
            if not session.signer.verify(request.message, server=False):
                request.problem = NtStatus.ACCESS_DENIED
        elif session.signing_required or session.encryption_required:
            request.problem = NtStatus.ACCESS_DENIED
        elif request.header.command == Command.TREE_CONNECT and session.signer is not None:
            # §3.3.5.7: signed on every channel. Whoever relayed somebody's login has no key to sign with.
            request.problem = NtStatus.ACCESS_DENIED
        if session.encryption_required:
            request.problem = NtStatus.ACCESS_DENIED

    # Handlers

    async def _serve(self, requests: list[Request]) -> None:
        """Run the requests of one packet in order, and send what they answer as one packet."""
        done: list[tuple[Request, Reply]] = []
        size = 0
        try:
            for request in requests:
                request.before = done
                reply = await self._answer(request)
                size += sum(map(len, reply.parts))
                if size > limits.MAX_IO_SIZE and done:
                    # Several large reads do not fit one packet; responses may come apart (§3.3.4.1.3).
                    await self._send(done)
                    done, size = [], 0
                done.append((request, reply))
            await self._send(done)
        except ConnectionError:
            return  # the reader meets the same, and ends the connection
        finally:
            for request in requests:
                self._running.pop(request.header.message_id, None)
            self._room.set()

    async def _answer(self, request: Request) -> Reply:
        spec = COMMANDS[request.header.command]
        data = b""
        try:
            if request.problem is not None:
                raise SmbError(request.problem)
            if request.cancelled is not None:
                raise SmbError(request.cancelled)
            if spec.needs_session:
                self._find_tree(request, needed=spec.needs_tree)
            return await spec.handle(request)
        except SmbError as error:
            status, data = NtStatus(error.status), error.data
        except FsError as error:
            status = ntstatus_from_status(error.status)
        except SmbProtocolError:
            # §3.3.5.2.6 and each command: a body that does not hold together is INVALID_PARAMETER.
            status = NtStatus.INVALID_PARAMETER
        except asyncio.CancelledError:
            if request.cancelled is None or request.task is None:
                raise
            request.task.uncancel()
            status = request.cancelled
        except ConnectionError:
            raise
        except Exception:
            _log.exception("%s: a request failed in an unforeseen way", self.peer)
            status = NtStatus.INTERNAL_ERROR
        if request.header.command == Command.CREATE:
            request.chain.file_id, request.chain.failed = None, status
        return Reply.error(status, data, contexts=self.dialect == Dialect.SMB_3_1_1)

    def _find_tree(self, request: Request, *, needed: bool) -> None:
        """At the request's turn, for an earlier one of the compound may have ended the tree or the session."""
        session = request.valid_session
        if session.state is not SessionState.VALID:
            raise SmbError(NtStatus.USER_SESSION_DELETED)
        tree_id = request.header.tree_id
        if request.related and request.chain.tree_id is not None:
            tree_id = request.chain.tree_id
        request.tree = session.trees.get(tree_id)
        if needed:
            if request.tree is None:
                raise SmbError(NtStatus.NETWORK_NAME_DELETED)
            request.chain.tree_id = tree_id

    # Slow requests

    def _on_cancel(self, header: Header) -> None:
        """§3.3.5.16: nothing is answered to CANCEL itself."""
        if header.flags & ASYNC_COMMAND:
            for request in self._running.values():
                if request.async_id == header.async_id and request.async_id:
                    self._cancel(request)
                    return
        else:
            found = self._running.get(header.message_id)
            if found is not None:
                self._cancel(found)

    def _cancel(self, request: Request, status: NtStatus = NtStatus.CANCELLED) -> None:
        if request.cancelled is not None:
            return
        request.cancelled = status
        # Only what waits can be cancelled; work that is being done is finished.
        if request.waits_for is not None and request.task is not None:
            request.task.cancel()

    def cancel_waiting(self, open_: FileOpen | PipeOpen) -> None:
        """End what waits on an open that is being closed."""
        for request in self._running.values():
            if request.waits_for is open_:
                self._cancel(request, NtStatus.NOTIFY_CLEANUP)

    def _sweep(self) -> None:
        """Send interim responses for requests that have been running for long."""
        self._sweeper = None
        if not self._running:
            return
        before = self._loop.time() - limits.INTERIM_AFTER_S
        for request in self._running.values():
            if request.started <= before and not request.async_id and request.task is not None:
                task = self._loop.create_task(self._interim_later(request))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._sweeper = self._loop.call_later(limits.INTERIM_AFTER_S, self._sweep)

    async def _interim_later(self, request: Request) -> None:
        try:
            await self.send_interim(request)
        except ConnectionError:
            return

    async def send_interim(self, request: Request) -> None:
        """STATUS_PENDING (§3.3.4.2). The credits of the request are given back with it."""
        if request.async_id or request.answered or not request.last:
            return
        request.async_id = next(_async_ids)
        if request.before:
            # What the compound has answered so far must not wait too.
            before, request.before[:] = list(request.before), []
            await self._send(before)
        # Never signed: with AES-GMAC the final response will use the same nonce.
        await self._write([self._header(request, NtStatus.PENDING), *_PENDING_BODY], request)

    # Packets out

    def _header(self, request: Request, status: int) -> bytes:
        asked = request.header
        flags = SERVER_TO_REDIR | (asked.flags & RELATED_OPERATIONS)
        granted = 0
        if request.async_id:
            flags |= ASYNC_COMMAND
        if not request.async_id or status == NtStatus.PENDING:
            granted = self._window.grant(max(asked.credits, request.charge))
        session = request.session
        header = Header(
            asked.command,
            asked.message_id,
            session.session_id if session is not None else asked.session_id,
            request.tree.tree_id if request.tree is not None else asked.tree_id,
            request.async_id,
            status,
            flags,
            request.charge if self.large_mtu else 0,
            granted,
        )
        return header.pack()

    async def _send(self, done: list[tuple[Request, Reply]]) -> None:
        """One packet with all responses, in order (§3.3.4.1.3)."""
        last = len(done) - 1
        messages: list[list[bytes | memoryview]] = []
        for index, (request, reply) in enumerate(done):
            request.answered = True
            parts: list[bytes | memoryview] = [self._header(request, reply.status), *reply.parts]
            if index != last:
                size = sum(map(len, parts))
                parts.append(_PADDING[-size % 8])
                parts[0] = _with_next_command(bytes(parts[0]), size + (-size % 8))
            if reply.status != NtStatus.PENDING:
                parts = self._sign(request, reply, parts)
            if reply.on_wire is not None:
                reply.on_wire(parts)
            messages.append(parts)
        if messages:
            await self._write([part for parts in messages for part in parts], done[0][0])

    def _sign(
        self, request: Request, reply: Reply, parts: list[bytes | memoryview]
    ) -> list[bytes | memoryview]:
        """§3.3.4.1.1: what was asked with a signature is answered with one, encrypted messages need none."""
        session = request.session
        if session is None or session.signer is None or request.encrypted:
            return parts
        asked = request.header.flags & SIGNED and session.state is not SessionState.IN_PROGRESS
        if not (asked or session.signing_required or reply.sign):
            return parts
        head = bytearray(parts[0])
        head[_FLAGS_AT] |= SIGNED
        head[SIGNATURE_OFFSET : SIGNATURE_OFFSET + 16] = session.signer.sign(
            [bytes(head), *parts[1:]], server=True
        )
        parts[0] = bytes(head)
        return parts

    async def _write(self, parts: list[bytes | memoryview], request: Request) -> None:
        session = request.session
        if request.encrypted and session is not None and session.sealer is not None:
            await self._messages.write_message(*session.sealer.seal(parts))
        else:
            await self._messages.write_message(*parts)


def _with_next_command(header: bytes, size: int) -> bytes:
    return header[:_NEXT_COMMAND_AT] + size.to_bytes(4, "little") + header[_NEXT_COMMAND_AT + 4 :]
