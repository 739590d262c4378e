"""A client for the server's tests that sends exactly what it is told, over streams in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quicfs.smb.crypto import SessionKeys, derive_session_keys
from quicfs.smb.messages.access import Access, CreateDisposition, CreateOptions, ShareAccess
from quicfs.smb.messages.close import CloseRequest
from quicfs.smb.messages.create import CreateRequest, CreateResponse
from quicfs.smb.messages.header import (
    RELATED_OPERATIONS,
    SIGNATURE_OFFSET,
    SIGNED,
    TRANSFORM_MAGIC,
    Command,
    Header,
    split_compound,
)
from quicfs.smb.messages.negotiate import NegotiateRequest, NegotiateResponse
from quicfs.smb.messages.negotiate_contexts import NegotiateContexts
from quicfs.smb.messages.session import SessionSetupRequest, SessionSetupResponse
from quicfs.smb.messages.tree import TreeConnectRequest
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.server import Share, SmbServer
from quicfs.smb.signing import Signer
from quicfs.smb.transform import Opener, Sealer
from quicfs.vfs.local import LocalTree

KEY = bytes(range(16))
ALL = int(Access.FILE_ALL_ACCESS)
READ = int(Access.FILE_GENERIC_READ)
GUID = b"raw client guid!"


class MemoryStream:
    """One end of a pair; satisfies ByteStream."""

    def __init__(self, *, secured: bool, peer: str) -> None:
        self.secured = secured
        self.peer = peer
        self.other: MemoryStream
        self._inbox: deque[memoryview] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    async def recv(self, limit: int = 1 << 20) -> memoryview:
        while not self._inbox:
            if self._ended:
                return memoryview(b"")
            self._wake.clear()
            await self._wake.wait()
        piece = self._inbox.popleft()
        if len(piece) > limit:
            self._inbox.appendleft(piece[limit:])
            piece = piece[:limit]
        return piece

    async def send(self, *parts: bytes | memoryview) -> None:
        if self.other._ended:
            raise ConnectionError("the other end is gone")
        self.other._inbox.append(memoryview(b"".join(parts)))
        self.other._wake.set()

    async def aclose(self) -> None:
        self.other._ended = True
        self.other._wake.set()


def stream_pair(*, secured: bool, peer: str = "192.0.2.1:4000") -> tuple[MemoryStream, MemoryStream]:
    client = MemoryStream(secured=secured, peer="server")
    server = MemoryStream(secured=secured, peer=peer)
    client.other, server.other = server, client
    return client, server


@dataclass
class Exchange:
    """Lets in whoever names himself; two rounds, as NTLM has."""

    allow_guest: bool
    session_key: bytes = KEY
    user: str = ""
    is_guest: bool = False
    is_anonymous: bool = False
    asked: bool = False

    def step(self, token: bytes) -> tuple[NtStatus, bytes]:
        if not self.asked:
            self.asked = True
            return NtStatus.MORE_PROCESSING_REQUIRED, b"who?"
        if token == b"wrong":
            return NtStatus.LOGON_FAILURE, b""
        if token == b"guest" and self.allow_guest:
            self.user, self.is_guest = "guest", True
        elif token == b"":
            self.is_anonymous = True
        else:
            self.user = token.decode()
        return NtStatus.SUCCESS, b"welcome"


class EveryoneIsWelcome:
    def negotiate_token(self) -> bytes:
        return b"hint"

    def new_exchange(self, *, peer: str, allow_guest: bool = False) -> Exchange:
        return Exchange(allow_guest)


@dataclass
class Answer:
    header: Header
    message: memoryview

    @property
    def status(self) -> int:
        return self.header.status


@dataclass
class RawClient:
    stream: MemoryStream
    message_id: int = 0
    session_id: int = 0
    tree_id: int = 0
    signer: Signer | None = None
    preauth: bytes = bytes(64)
    buffer: bytearray = field(default_factory=bytearray)
    credits: int = 1
    negotiated: NegotiateResponse | None = None
    keys: SessionKeys | None = None
    sealer: Sealer | None = None
    opener: Opener | None = None
    session_flags: int = 0
    waiting: dict[int, Answer] = field(default_factory=dict)

    def header(self, command: int, *, flags: int = 0, charge: int = 1) -> Header:
        self.credits -= charge
        header = Header(
            command, self.message_id, self.session_id, self.tree_id, 0, 0, flags, charge, credits=64
        )
        self.message_id += charge
        return header

    def sign(self, message: bytes) -> bytes:
        if self.signer is None:
            return message
        signed = bytearray(message)
        signed[16] |= SIGNED
        signature = self.signer.sign([bytes(signed)], server=False)
        signed[SIGNATURE_OFFSET : SIGNATURE_OFFSET + 16] = signature
        return bytes(signed)

    def encrypt(self) -> None:
        """From now on."""
        assert self.keys is not None
        self.sealer = Sealer(2, self.keys.client_to_server, self.session_id)
        self.opener = Opener(2, self.keys.server_to_client)
        self.signer = None

    async def send_raw(self, packet: bytes) -> None:
        if self.sealer is not None:
            packet = b"".join(self.sealer.seal((packet,)))
        await self.stream.send(len(packet).to_bytes(4, "big") + packet)

    async def read_packet(self) -> bytes | None:
        """None at the end of the stream."""
        while len(self.buffer) < 4 or len(self.buffer) < 4 + int.from_bytes(self.buffer[:4], "big"):
            piece = await asyncio.wait_for(self.stream.recv(), 10)
            if not piece:
                return None
            self.buffer += piece
        end = 4 + int.from_bytes(self.buffer[:4], "big")
        packet = bytes(self.buffer[4:end])
        del self.buffer[:end]
        if packet[:4] == TRANSFORM_MAGIC:
            assert self.opener is not None
            packet = bytes(self.opener.open(memoryview(packet)))
        return packet

    async def read(self) -> list[Answer]:
        packet = await self.read_packet()
        assert packet is not None, "the server ended the connection"
        answers = [Answer(header, message) for header, message in split_compound(memoryview(packet), 64)]
        for answer in answers:
            self.credits += answer.header.credits
            if answer.header.flags & SIGNED and self.signer is not None:
                assert self.signer.verify(answer.message, server=True)
        return answers

    async def ask(self, command: int, body: bytes, *, charge: int = 1) -> Answer:
        """One request and its one answer."""
        await self.send_raw(self.sign(self.header(command, charge=charge).pack() + body))
        (answer,) = await self.read()
        return answer

    async def start(self, command: int, body: bytes) -> int:
        """A request whose answer is read later; its message id."""
        header = self.header(command)
        await self.send_raw(self.sign(header.pack() + body))
        return header.message_id

    async def compound(
        self, *requests: tuple[int, bytes], related: bool = True, charge: int = 1
    ) -> list[Answer]:
        packet = b""
        for index, (command, body) in enumerate(requests):
            header = self.header(command, flags=RELATED_OPERATIONS if related and index else 0, charge=charge)
            padding = bytes(-len(body) % 8) if index < len(requests) - 1 else b""
            if index < len(requests) - 1:
                header.next_command = 64 + len(body) + len(padding)
            packet += self.sign(header.pack() + body + padding)
        await self.send_raw(packet)
        answers: list[Answer] = []
        while len(answers) < len(requests):
            answers += await self.read()
        return answers

    async def negotiate(
        self, dialects: Sequence[int] = (0x0311,), contexts: NegotiateContexts | None = None
    ) -> NegotiateResponse:
        if contexts is None and 0x0311 in dialects:
            contexts = NegotiateContexts((1,), bytes(32), (2,), (2, 1), "server", 1, True)
        body = NegotiateRequest(dialects, GUID, 1, 0x44, contexts).pack()
        message = self.header(Command.NEGOTIATE, charge=0).pack() + body
        self.message_id += 1
        self._hash(message)
        await self.send_raw(message)
        (answer,) = await self.read()
        assert answer.status == 0, hex(answer.status)
        self._hash(answer.message)
        self.negotiated = NegotiateResponse.parse(answer.message)
        return self.negotiated

    def _hash(self, message: bytes | memoryview) -> None:
        self.preauth = hashlib.sha512(self.preauth + message).digest()

    async def setup(self, user: bytes = b"alice", previous: int = 0) -> int:
        """Log in; the status."""
        body = SessionSetupRequest(b"hello").pack()
        message = self.header(Command.SESSION_SETUP).pack() + body
        negotiated = self.preauth
        self._hash(message)
        await self.send_raw(message)
        (answer,) = await self.read()
        assert answer.status == NtStatus.MORE_PROCESSING_REQUIRED
        self._hash(answer.message)
        self.session_id = answer.header.session_id
        message = (
            self.header(Command.SESSION_SETUP).pack()
            + SessionSetupRequest(user, previous_session_id=previous).pack()
        )
        self._hash(message)
        await self.send_raw(message)
        (answer,) = await self.read()
        if answer.status == 0:
            self.session_flags = SessionSetupResponse.parse(answer.message).session_flags
        if answer.status == 0 and not self.session_flags & 3:
            assert self.negotiated is not None
            dialect = self.negotiated.dialect
            self.keys = keys = derive_session_keys(dialect, KEY, self.preauth, 2)
            self.signer = Signer(2 if dialect == 0x0311 else 1 if dialect >= 0x0300 else 0, keys.signing)
            assert answer.header.flags & SIGNED
            assert self.signer.verify(answer.message, server=True)
        self.preauth = negotiated
        return answer.status

    async def connect(self, share: str = "share") -> int:
        answer = await self.ask(Command.TREE_CONNECT, TreeConnectRequest(f"\\\\server\\{share}").pack())
        if answer.status == 0:
            self.tree_id = answer.header.tree_id
        return answer.status

    async def create(
        self,
        name: str,
        *,
        access: int = ALL,
        share: int = ShareAccess.ALL,
        disposition: int = CreateDisposition.OPEN_IF,
        options: int = 0,
        contexts: dict[bytes, bytes] | None = None,
    ) -> tuple[int, CreateResponse | None]:
        body = CreateRequest(name, access, share, disposition, options, contexts=contexts or {}).pack()
        answer = await self.ask(Command.CREATE, body)
        return answer.status, CreateResponse.parse(answer.message) if answer.status == 0 else None

    async def opened(self, name: str, **how: object) -> bytes:
        """The file id of a successful CREATE."""
        status, response = await self.create(name, **how)  # type: ignore[arg-type]
        assert response is not None, f"{name}: 0x{status:08x}"
        return response.file_id

    async def directory(self, name: str, **how: object) -> bytes:
        return await self.opened(name, options=CreateOptions.DIRECTORY_FILE, **how)

    async def close(self, file_id: bytes) -> int:
        return (await self.ask(Command.CLOSE, CloseRequest(file_id).pack())).status


@dataclass
class Site:
    """A server over a folder, and clients of it."""

    folder: Path
    server: SmbServer
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    clients: list[RawClient] = field(default_factory=list)

    def raw(self, *, secured: bool = True, peer: str = "192.0.2.1:4000") -> RawClient:
        ours, theirs = stream_pair(secured=secured, peer=peer)
        self.tasks.append(asyncio.get_running_loop().create_task(self.server.serve_stream(theirs)))
        client = RawClient(ours)
        self.clients.append(client)
        return client

    async def client(
        self, *, secured: bool = True, user: bytes = b"alice", share: str = "share"
    ) -> RawClient:
        """Negotiated, logged in, connected to the share."""
        client = self.raw(secured=secured)
        await client.negotiate()
        assert await client.setup(user) == 0
        assert await client.connect(share) == 0
        return client


@asynccontextmanager
async def site(
    folder: Path, *, guest: bool = False, encryption_required: bool = False, tree: LocalTree | None = None
) -> AsyncIterator[Site]:
    tree = tree or LocalTree(folder)
    shares = {
        "share": Share("share", tree, comment="the folder"),
        "readonly": Share("readonly", tree, read_only=True),
    }
    server = SmbServer(shares, EveryoneIsWelcome(), guest=guest, encryption_required=encryption_required)
    found = Site(folder, server)
    try:
        yield found
    finally:
        for client in found.clients:
            await client.stream.aclose()
        async with asyncio.timeout(10):
            await asyncio.gather(*found.tasks)
        assert not server.sessions
        assert not any(len(server.state_of(share)[0]) for share in shares.values()), "opens were left behind"
        await tree.close()
