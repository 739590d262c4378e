"""One TLS handshake on one descriptor (RFC 9001 §4), client or server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from quicfs.handshake_agent import failures
from quicfs.handshake_agent.config import AgentConfig, ConfigError
from quicfs.handshake_agent.credentials import CredentialStore
from quicfs.handshake_agent.descriptor import QuicDescriptor
from quicfs.handshake_agent.failures import Failure
from quicfs.handshake_agent.gnutls import (
    Credentials,
    CryptoData,
    EarlyDataRefused,
    PeerParams,
    Resumption,
    Secret,
    Session,
)
from quicfs.handshake_agent.gnutls_library import GnutlsError
from quicfs.handshake_agent.resumption import Resumer, TicketCollector, Wish, identity_of
from quicfs.handshake_agent.tickets import TicketKeys
from quicfs.transport.uapi import (
    AuthMode,
    CertificateRequest,
    Config,
    CryptoLevel,
    CryptoSecret,
    MessageType,
    SockOpt,
    TlsCipher,
)
from quicfs.transport.wire.descriptor import MAX_PAYLOAD
from quicfs.transport.wire.netlink import Request

_log = logging.getLogger("quicfs.handshake_agent")

_MAX_ALPN = 255  # RFC 7301 §3.1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the consumer's socket says about the connection."""

    alpn: Sequence[bytes]
    transport_params: bytes
    cipher: TlsCipher | None
    certificate_request: int
    wish: Wish


class Handshaker:
    """What all handshakes of a process share: configuration and loaded certificates."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._resumer = Resumer(TicketKeys(config.ticket_key))
        self._server = CredentialStore(config.server, system_trust=False)
        self._client = CredentialStore(config.client, system_trust=True)
        self._anonymous = CredentialStore(config.client, system_trust=True, with_certificate=False)

    def preload(self) -> None:
        """Read the files of the configuration once, so that a mistake shows at the start: ConfigError."""
        for files, store in ((self._config.server, self._server), (self._config.client, self._client)):
            if files.certificate is not None or files.truststore is not None:
                store.get()

    async def run(self, request: Request, descriptor: QuicDescriptor) -> TicketCollector | None:
        """Returns when the handshake is complete and everything is installed in the descriptor. If session tickets are
        wanted, what is returned must be run next, or closed.

        Raises Failure after the descriptor was told the reason (CONNECTION_CLOSE), or OSError of the
        descriptor itself. Whoever calls sets the time limit.
        """
        try:
            return await self._run(request, descriptor)
        except Failure as failure:
            # When the consumer has gone meanwhile, the failure is still what happened.
            with contextlib.suppress(OSError):
                descriptor.setsockopt(SockOpt.CONNECTION_CLOSE, failure.connection_close().pack())
                await descriptor.flush()
            raise

    async def _run(self, request: Request, descriptor: QuicDescriptor) -> TicketCollector | None:
        server = request.message_type == MessageType.SERVERHELLO
        credentials = self._credentials(request, server)
        asked = await _ask(descriptor)
        wanted = CertificateRequest.NO
        if server:
            wanted = max(self._config.client_certificates, CertificateRequest(asked.certificate_request))
            if wanted and self._config.server.truststore is None:
                raise failures.no_truststore()
        peer = "the client" if server else request.peername
        identity = identity_of(request, credentials)
        alpn = asked.alpn
        if server:
            resumption = self._resumer.server(
                asked.wish, credentials, alpn, asked.transport_params, asks_certificate=bool(wanted)
            )
        else:
            resumption, alpn = self._resumer.client(asked.wish, identity, alpn)
        session: Session | None = None
        try:
            session = Session(
                server=server,
                credentials=credentials,
                transport_params=asked.transport_params,
                alpn=alpn,
                cipher=asked.cipher,
                peername=request.peername,
                verify=not server or wanted != CertificateRequest.NO,
                certificate_request=wanted,
                resumption=resumption,
            )
            parameters = await _drive(session, descriptor, resumption)
            if not server and resumption.receive:
                kept, session = session, None
                return TicketCollector(kept, descriptor, identity, parameters, asked.wish.wait_s)
            return None
        except GnutlsError as error:
            raise failures.from_gnutls(error, peer, session.sent_alert if session else None) from None
        finally:
            if session is not None:
                session.close()

    def _credentials(self, request: Request, server: bool) -> Credentials:
        if request.message_type not in (MessageType.CLIENTHELLO, MessageType.SERVERHELLO):
            raise failures.invalid_request("the kind of handshake asked for is not known")
        if request.auth_mode not in (AuthMode.UNAUTH, AuthMode.X509):
            raise failures.unsupported("pre-shared keys are not supported")
        if server:
            store = self._server
        elif request.peername:
            store = self._client if request.auth_mode == AuthMode.X509 else self._anonymous
        else:
            raise failures.invalid_request("no name was given to check the server's certificate")
        try:
            credentials = store.get()
        except ConfigError as error:
            _log.error("%s", error)
            raise failures.unusable_files() from None
        if (server or request.auth_mode == AuthMode.X509) and not credentials.has_certificate:
            raise failures.no_certificate()
        return credentials


async def _ask(descriptor: QuicDescriptor) -> _Asked:
    alpn, params, raw, ticket = await asyncio.gather(
        descriptor.getsockopt(SockOpt.ALPN),
        descriptor.getsockopt(SockOpt.TRANSPORT_PARAM_EXT),
        descriptor.getsockopt(SockOpt.CONFIG),
        descriptor.getsockopt(SockOpt.SESSION_TICKET),
    )
    protocols = [name for part in alpn.rstrip(b"\0").split(b",") if (name := part.strip())]
    if not protocols or max(map(len, protocols)) > _MAX_ALPN:
        raise failures.invalid_request("no application protocol (ALPN) was asked for")
    try:
        config = Config.unpack(raw)
        cipher = TlsCipher(config.payload_cipher_type) if config.payload_cipher_type else None
        request = CertificateRequest(config.certificate_request)
    except ValueError:
        raise failures.invalid_request("the socket's CONFIG makes no sense") from None
    wish = Wish(
        ticket, bool(config.early_data), config.receive_session_ticket, issue=not config.no_session_ticket
    )
    return _Asked(protocols, params, cipher, request, wish)


async def _drive(session: Session, descriptor: QuicDescriptor, resumption: Resumption) -> bytes:
    """Returns the peer's transport parameters."""
    told_alpn = False
    parameters = b""
    complete = session.advance()
    while True:
        _check_hello(session, complete)
        if complete and resumption.ticket_key:
            session.issue_ticket()
        parameters = _install(session, descriptor) or parameters
        if not told_alpn and session.selected_alpn is not None:
            descriptor.setsockopt(SockOpt.ALPN, session.selected_alpn)
            told_alpn = True
        if complete:
            _tell_identity(session, descriptor)
            break
        level, data = await descriptor.recvmsg()
        if level != session.read_level:
            raise failures.wrong_level()
        session.feed(level, data)
        complete = session.advance()
    await descriptor.flush()
    return parameters


def _check_hello(session: Session, complete: bool) -> None:
    """The peer's hello must have named parameters and a protocol before anything that depends on it goes out:
    on a server that is when the handshake secrets exist, on a client when the server's flight is done."""
    if complete or (session.server and session.read_level != CryptoLevel.INITIAL):
        if session.selected_alpn is None:
            raise failures.no_application_protocol()
        if not session.got_params:
            raise failures.missing_parameters()


def _install(session: Session, descriptor: QuicDescriptor) -> bytes:
    """Hand over what TLS has produced, in its order: secrets before the data that they protect. Returns the peer's
    transport parameters if they were among it."""
    parameters = b""
    for output in session.outputs:
        match output:
            case CryptoData(level, data):
                descriptor.sendmsg(level, data)
            case Secret(level, send, cipher, secret):
                value = CryptoSecret(int(send), level, cipher, secret)
                descriptor.setsockopt(SockOpt.CRYPTO_SECRET, value.pack())
            case PeerParams(data):
                parameters = data
                descriptor.setsockopt(SockOpt.TRANSPORT_PARAM_EXT, data)
            case EarlyDataRefused():
                value = CryptoSecret(1, CryptoLevel.EARLY, 0, b"")
                descriptor.setsockopt(SockOpt.CRYPTO_SECRET, value.pack())
    session.outputs.clear()
    return parameters


def _tell_identity(session: Session, descriptor: QuicDescriptor) -> None:
    """What applications build on: the channel binding, and who the peer is."""
    descriptor.setsockopt(SockOpt.CHANNEL_BINDING, session.channel_binding())
    certificate = session.peer_certificate
    if len(certificate) > MAX_PAYLOAD:
        raise failures.invalid_request("the peer's certificate is larger than can be handed over")
    if certificate:
        descriptor.setsockopt(SockOpt.PEER_CERTIFICATE, certificate)


def failure_of(error: Exception) -> int:
    """The errno for DONE."""
    if isinstance(error, Failure):
        return error.errno
    if isinstance(error, TimeoutError):
        return errno.ETIMEDOUT
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return errno.EIO
