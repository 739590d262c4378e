"""RPC over QUIC on real sockets: what the RPC layer gets to know from TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quicfs.nfs.rpc.message import AuthNone
from quicfs.nfs.rpc.quic import ALPN, RpcConnection
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt
from tests.integration.handshake_rig import NAME, Agents, Pki, toml
from tests.integration.test_keylog import secrets_in
from tests.integration.test_quic_socket import listen, serve_one
from tests.unit.nfs.rpc.streams import Echo, opaque


@contextlib.asynccontextmanager
async def pair(
    agents: Agents,
    pki: Pki,
    *,
    certificates: str,
    auth_mode: AuthMode,
    alpn: bytes = ALPN,
    rpc_keys: bool = False,
) -> AsyncIterator[tuple[QuicSocket, QuicSocket]]:
    server, mine = pki.server, pki.client
    if rpc_keys:  # RFC 9289 §5.2.1
        server = pki.ca.issue("rpc-server", NAME, purpose=x509.ObjectIdentifier("1.3.6.1.5.5.7.3.34"))
        mine = pki.ca.issue("rpc-client", purpose=x509.ObjectIdentifier("1.3.6.1.5.5.7.3.33"))
    net = HandshakeNet()
    bus, _ = agents.private(
        toml(
            truststore=pki.ca.path,
            server=server,
            client=mine,
            clients_ca=pki.ca.path,
            client_certificates=certificates,
        )
    )
    net.attach(bus)
    listener = listen(net, alpn)
    accepting = asyncio.create_task(serve_one(listener))
    client = QuicSocket(net)
    try:
        client.setsockopt(SockOpt.ALPN, alpn)
        await client.connect(("127.0.0.1", listener.getsockname()[1]))
        await client.handshake(HandshakeRequest(MessageType.CLIENTHELLO, 5000, auth_mode, NAME))
        yield client, await accepting
    finally:
        accepting.cancel()
        for sock in (client, listener):
            await sock.close()
        net.close()


def expand_label(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 §7.1, for one block."""
    digest = hashlib.sha256 if len(secret) == 32 else hashlib.sha384
    full = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes((len(full),)) + full + bytes((len(context),)) + context
    return hmac.new(secret, info + b"\1", digest).digest()[:length]


def exporter(secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
    """RFC 8446 §7.5."""
    digest = hashlib.sha256 if len(secret) == 32 else hashlib.sha384
    derived = expand_label(secret, label, digest(b"").digest(), len(secret))
    return expand_label(derived, b"exporter", digest(context).digest(), length)


def test_channel_binding(agents: Agents, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """draft-cel-nfsv4-rpc-over-quicv1-06 §4: implementations MUST provide "tls-exporter" (RFC 9266 §2)."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))

    async def main() -> set[bytes]:
        found = set()
        async with pair(agents, pki, certificates="off", auth_mode=AuthMode.UNAUTH) as (client, server):
            assert client.channel_binding == server.channel_binding
            assert client.getsockopt(SockOpt.CHANNEL_BINDING) == client.channel_binding
            echo = Echo()
            ends = RpcConnection(client), RpcConnection(server, [echo])
            rpc = await ends[0].open()
            await rpc.call(Echo.number, 2, 1, AuthNone(), opaque(b"x"), timeout=10)
            assert echo.peers[0].binding == client.channel_binding
            found.add(client.channel_binding)
            for end in ends:
                await end.aclose()
        return found

    bindings = asyncio.run(main()) | asyncio.run(main())
    assert len(bindings) == 2
    secrets = secrets_in(log)["EXPORTER_SECRET"].values()
    assert bindings == {exporter(secret, b"EXPORTER-Channel-Binding", b"", 32) for secret in secrets}


@pytest.mark.parametrize("certificates", ["optional", "required"])
def test_the_certificate_of_a_client(agents: Agents, pki: Pki, certificates: str) -> None:
    """draft-cel-nfsv4-rpc-over-quicv1-06 §3.2.1: the identities of the handshake apply to all streams and messages."""
    expected = x509.load_pem_x509_certificate(pki.client[0].read_bytes())

    async def main() -> None:
        async with pair(agents, pki, certificates=certificates, auth_mode=AuthMode.X509) as (client, server):
            der = expected.public_bytes(Encoding.DER)
            assert server.peer_certificate == server.getsockopt(SockOpt.PEER_CERTIFICATE) == der
            echo = Echo()
            ends = RpcConnection(client), RpcConnection(server, [echo])
            for _ in range(2):
                rpc = await ends[0].open()
                await rpc.call(Echo.number, 2, 1, AuthNone(), opaque(b"x"), timeout=10)
            for peer in echo.peers:
                assert peer.certificate is not None
                assert peer.certificate.common_names == ("client",)
                assert peer.certificate.sha256 == hashlib.sha256(der).hexdigest()
            assert ends[0].certificate is not None
            assert NAME in ends[0].certificate.dns_names
            for end in ends:
                await end.aclose()

    asyncio.run(main())


def test_no_certificate(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        async with pair(agents, pki, certificates="optional", auth_mode=AuthMode.UNAUTH) as (_, server):
            assert server.peer_certificate == b""

    asyncio.run(main())


def test_key_usage_of_rpc(agents: Agents, pki: Pki) -> None:
    """draft-cel-nfsv4-rpc-over-quicv1-06 §3.2.1: the PKIX Extended Key Usage values of RFC 9289 are valid."""

    async def main() -> None:
        async with pair(agents, pki, certificates="required", auth_mode=AuthMode.X509, rpc_keys=True) as (
            client,
            server,
        ):
            assert client.peer_certificate
            assert server.peer_certificate

    asyncio.run(main())


def test_key_usage_of_rpc_is_for_rpc(agents: Agents, pki: Pki) -> None:
    async def main() -> None:
        with pytest.raises(HandshakeError, match="for another purpose"):
            async with pair(
                agents, pki, certificates="off", auth_mode=AuthMode.UNAUTH, rpc_keys=True, alpn=b"smb"
            ):
                pass

    asyncio.run(main())
