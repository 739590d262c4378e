"""The client's end of an SMB 3.1.1 connection, without input and output ([MS-SMB2] §3.2).

It numbers, credits, compounds, signs and encrypts requests, and opens, checks and sorts responses. One
connection carries one session with one tree, which is all that a mount needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.smb.client.operation import Answer, Operation
from quicfs.smb.crypto import PreauthHash, derive_session_keys
from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.limits import MAX_COMPOUND, MAX_IO_SIZE, MAX_MESSAGE_SIZE
from quicfs.smb.messages.header import (
    ASYNC_COMMAND,
    RELATED_OPERATIONS,
    SERVER_TO_REDIR,
    SIGNATURE_OFFSET,
    SIGNED,
    TRANSFORM_MAGIC,
    UNSOLICITED_MESSAGE_ID,
    Command,
    Header,
    split_compound,
)
from quicfs.smb.messages.negotiate import (
    Capabilities,
    Dialect,
    NegotiateRequest,
    NegotiateResponse,
    SecurityMode,
)
from quicfs.smb.messages.negotiate_contexts import (
    Cipher,
    HashAlgorithm,
    NegotiateContexts,
    SigningAlgorithm,
    TransportFlags,
)
from quicfs.smb.messages.simple import EMPTY_BODY
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.signing import Signer
from quicfs.smb.transform import Opener, Sealer, transform_session_id

__all__ = ["MAX_ANSWER", "ClientConnection", "Packet"]

WANTED_CREDITS: Final = 512
"""How many message ids we like to have at our disposal: 32 MiB of payload."""
MAX_ANSWER: Final = MAX_MESSAGE_SIZE
"""Bytes of the longest packet that we ever ask for."""

_CIPHERS: Final = (Cipher.AES_128_GCM, Cipher.AES_256_GCM, Cipher.AES_128_CCM, Cipher.AES_256_CCM)
_SIGNINGS: Final = (SigningAlgorithm.AES_GMAC, SigningAlgorithm.AES_CMAC)
# Servers that have forgotten the session have forgotten its key. The session ends, whoever sent these.
_SESSION_OVER: Final = frozenset({NtStatus.USER_SESSION_DELETED, NtStatus.NETWORK_SESSION_EXPIRED})
_PADDING: Final = [bytes(-n % 8) for n in range(8)]


@dataclass(slots=True)
class Packet:
    """What goes onto the stream, and the ids of the messages in it."""

    parts: Sequence[bytes | memoryview]
    message_ids: Sequence[int]


class ClientConnection:
    """Order of calls: `negotiate_request`, `handle_negotiate`; SESSION_SETUP by `build` with
    `note_setup_request` and `note_setup_response`; `establish`; then `build` and `handle_packet`.
    """

    def __init__(self, *, client_guid: bytes, host: str, secured: bool, salt: bytes, encrypt: bool) -> None:
        self._guid = client_guid
        self._host = host
        self._secured = secured
        self._salt = salt
        self._want_encryption = encrypt
        self._preauth = PreauthHash()
        self._next_id = 0
        self._charges: dict[int, int] = {}  # of the requests that the server has
        self._outstanding = 0  # their sum
        self._async_ids: dict[int, int] = {}
        self._signer: Signer | None = None
        self._sign_all = False
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._encrypting = False
        self._cipher = 0
        self._signing_algorithm = int(SigningAlgorithm.AES_CMAC)  # §3.2.5.2: without the context
        self.credits = 1
        self.session_id = 0
        self.tree_id = 0
        self.established = False
        """Whether session and tree are there."""
        self.dialect = 0
        self.server_guid = bytes(16)
        self.server_time = 0
        """FILETIME of the NEGOTIATE response."""
        self.max_transact = self.max_read = self.max_write = 65536
        self.posix = False
        """Whether the POSIX extensions were agreed on."""
        self.transport_security = False
        """Whether the server relies on the transport's encryption (SMB2_TRANSPORT_CAPABILITIES)."""
        self._server_requires_signing = False

    # NEGOTIATE

    def negotiate_request(self) -> Packet:
        mode = SecurityMode.SIGNING_ENABLED
        if not self._secured:
            mode |= SecurityMode.SIGNING_REQUIRED
        contexts = NegotiateContexts(
            hash_algorithms=(HashAlgorithm.SHA_512,),
            salt=self._salt,
            ciphers=_CIPHERS,
            signing_algorithms=_SIGNINGS,
            netname=self._host,
            transport_flags=TransportFlags.ACCEPT_TRANSPORT_LEVEL_SECURITY if self._secured else None,
            posix=True,
        )
        body = NegotiateRequest(
            (Dialect.SMB_3_1_1,),
            self._guid,
            mode,
            Capabilities.LARGE_MTU | Capabilities.ENCRYPTION,
            contexts,
        ).pack()
        packet = self.build([Operation(Command.NEGOTIATE, (body,))])
        self._preauth.update(*packet.parts)
        return packet

    def handle_negotiate(self, answer: Answer) -> bytes:
        """The server's security token (§3.2.5.2)."""
        response = NegotiateResponse.parse(answer.message)
        contexts = response.contexts
        if response.dialect != Dialect.SMB_3_1_1 or contexts is None:
            raise SmbProtocolError(f"the server speaks dialect 0x{response.dialect:04x}, and 3.1.1 is needed")
        if list(contexts.hash_algorithms) != [HashAlgorithm.SHA_512]:
            raise SmbProtocolError("NEGOTIATE response: no preauth integrity with SHA-512")
        self._cipher = _chosen(contexts.ciphers, _CIPHERS, 0, "cipher")
        self._signing_algorithm = _chosen(
            contexts.signing_algorithms, _SIGNINGS, SigningAlgorithm.AES_CMAC, "signing algorithm"
        )
        flags = contexts.transport_flags or 0
        self.transport_security = self._secured and bool(
            flags & TransportFlags.ACCEPT_TRANSPORT_LEVEL_SECURITY
        )
        self.posix = contexts.posix
        self.dialect = response.dialect
        self.server_guid = bytes(response.server_guid)
        self.server_time = response.system_time
        self._server_requires_signing = bool(response.security_mode & SecurityMode.SIGNING_REQUIRED)
        multi_credit = response.capabilities & Capabilities.LARGE_MTU
        most = MAX_IO_SIZE if multi_credit else 65536
        self.max_transact = min(most, max(response.max_transact_size, 4096))
        self.max_read = min(most, max(response.max_read_size, 4096))
        self.max_write = min(most, max(response.max_write_size, 4096))
        self._preauth.update(answer.message)
        return bytes(response.security_buffer)

    # SESSION_SETUP

    def note_setup_request(self, packet: Packet) -> None:
        self._preauth.update(*packet.parts)

    def note_setup_response(self, answer: Answer) -> None:
        """One that asks for more; the last one does not count (§3.2.5.3.1)."""
        self.session_id = answer.header.session_id
        self._preauth.update(answer.message)

    def establish(self, answer: Answer, session_key: bytes, *, trusted: bool, encrypt: bool) -> None:
        """The server said SUCCESS. `trusted` is off for guests and anonymous sessions, which have no key
        that both know; `encrypt` is the server's wish.

        Raises SmbProtocolError when the answer is not signed with our key (§3.2.5.3.1).
        """
        self.session_id = answer.header.session_id
        if not trusted:
            return
        keys = derive_session_keys(self.dialect, session_key, self._preauth.value, self._cipher)
        self._signer = Signer(self._signing_algorithm, keys.signing)
        if not answer.header.flags & SIGNED or not self._signer.verify(answer.message, server=True):
            raise SmbProtocolError(
                "the server's last word of the login is not signed with the session's key: "
                "somebody is in between, or the server is broken"
            )
        # On a channel without its own protection everything is signed, asked for or not.
        self._sign_all = self._server_requires_signing or not self._secured
        if self._cipher:
            self._sealer = Sealer(self._cipher, keys.client_to_server, self.session_id)
            self._opener = Opener(self._cipher, keys.server_to_client)
        if encrypt or self._want_encryption:
            self.start_encryption()

    def start_encryption(self) -> None:
        """From the next request on, everything is encrypted (§3.2.4.1.8)."""
        if self._sealer is None:
            raise SmbProtocolError("encryption is demanded, and no cipher or no key was agreed on")
        self._encrypting = True

    # Requests

    @property
    def credit_total(self) -> int:
        """What we could have at once if every answer were here."""
        return self.credits + self._outstanding

    def payload_limit(self, most: int) -> int:
        """`most`, or less while the server gives few credits: one request must not need them all."""
        return min(most, max(1, self.credit_total // 2) << 16)

    def build(self, operations: Sequence[Operation]) -> Packet:
        """One request, or several that belong together (§3.2.4.1.4). The credits must be there."""
        ids: list[int] = []
        chunks: list[list[bytes | memoryview]] = []
        last = len(operations) - 1
        sign = self._signer is not None and not self._encrypting
        for index, operation in enumerate(operations):
            charge = operation.charge
            self.credits -= charge
            self._outstanding += charge
            self._charges[self._next_id] = charge
            ids.append(self._next_id)
            flags = RELATED_OPERATIONS if index else 0
            command = operation.command
            # TREE_CONNECT proves that NEGOTIATE was not tampered with, so it is signed always (§3.2.4.1.1).
            signed = sign and (self._sign_all or command == Command.TREE_CONNECT)
            if signed:
                flags |= SIGNED
            size = 64 + sum(map(len, operation.body))
            padding = b"" if index == last else _PADDING[size % 8]
            header = Header(
                command,
                self._next_id,
                self.session_id,
                self.tree_id,
                flags=flags,
                credit_charge=charge,
                credits=charge + max(0, WANTED_CREDITS - self.credits - self._outstanding),
                next_command=0 if index == last else size + len(padding),
            ).pack()
            self._next_id += charge
            parts: list[bytes | memoryview] = [header, *operation.body]
            if padding:
                parts.append(padding)
            if signed and self._signer is not None:
                signature = self._signer.sign(parts, server=False)
                parts[0] = header[:SIGNATURE_OFFSET] + signature
            chunks.append(parts)
        flat = chunks[0] if last == 0 else [part for parts in chunks for part in parts]
        if self._encrypting and self._sealer is not None:
            flat = list(self._sealer.seal(flat))
        return Packet(flat, ids)

    def cancel(self, message_id: int) -> Packet:
        """CANCEL takes no credit and has no answer (§3.2.4.24)."""
        flags = 0
        async_id = self._async_ids.get(message_id, 0)
        if async_id:
            flags |= ASYNC_COMMAND
        signed = self._signer is not None and self._sign_all and not self._encrypting
        if signed:
            flags |= SIGNED
        header = Header(Command.CANCEL, message_id, self.session_id, self.tree_id, async_id, flags=flags)
        parts: list[bytes | memoryview] = [header.pack(), EMPTY_BODY]
        if signed and self._signer is not None:
            signature = self._signer.sign(parts, server=False)
            parts[0] = bytes(parts[0][:SIGNATURE_OFFSET]) + signature
        if self._encrypting and self._sealer is not None:
            parts = list(self._sealer.seal(parts))
        return Packet(parts, ())

    # Responses

    def handle_packet(self, packet: memoryview) -> list[Answer]:
        """The final responses in one packet; interim ones (§3.2.5.1.5) only bring credits.

        Raises SmbProtocolError for what no honest server sends; the connection is over then.
        """
        opened = bytes(packet[:4]) == TRANSFORM_MAGIC
        if opened:
            if self._opener is None or transform_session_id(packet) != self.session_id:
                raise SmbProtocolError("an encrypted message that no session of ours explains")
            packet = self._opener.open(packet)
        answers: list[Answer] = []
        for header, message in split_compound(packet, MAX_COMPOUND):
            if not header.flags & SERVER_TO_REDIR:
                raise SmbProtocolError("a server that sends requests")
            if header.message_id == UNSOLICITED_MESSAGE_ID:
                continue  # a break of an oplock; we hold none
            interim = header.status == NtStatus.PENDING and bool(header.flags & ASYNC_COMMAND)
            if not opened:
                self._check_signature(header, message, interim)
            self.credits += header.credits
            if interim:
                if header.message_id in self._charges:
                    self._async_ids[header.message_id] = header.async_id
                continue
            charge = self._charges.pop(header.message_id, 0)
            if not charge:
                raise SmbProtocolError("a response to a request that we never made")
            self._outstanding -= charge
            if header.flags & ASYNC_COMMAND:
                self._async_ids.pop(header.message_id, None)
            answers.append(Answer(header, message))
        return answers

    def is_pending(self, message_id: int) -> bool:
        """Whether the server told us that it works on the request."""
        return message_id in self._async_ids

    def _check_signature(self, header: Header, message: memoryview, interim: bool) -> None:
        """§3.2.5.1.3. Interim responses need no signature; everything else does when we sign."""
        if self._signer is None or interim or header.status in _SESSION_OVER:
            return
        if self._encrypting:
            raise SmbProtocolError("a response in the clear, where encryption was agreed on")
        if header.flags & SIGNED:
            if not self._signer.verify(message, server=True):
                raise SmbProtocolError("a response with a wrong signature")
        elif self._sign_all:
            raise SmbProtocolError("a response without a signature, where signing was agreed on")


def _chosen(answer: Sequence[int] | None, offered: Sequence[int], default: int, what: str) -> int:
    """§3.2.5.2: the server answers with exactly one of what we offered; 0 is no cipher at all."""
    if answer is None:
        return default
    if len(answer) != 1 or (answer[0] not in offered and answer[0] != 0):
        raise SmbProtocolError(f"NEGOTIATE response: a {what} that we did not offer")
    return answer[0]
