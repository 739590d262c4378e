"""Handshakes through real agents: what works, and how what does not is refused."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from quicfs.transport import handshake as hs
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest
from quicfs.transport.handshake_errors import peer_alert_error
from quicfs.transport.uapi import (
    AuthMode,
    CertificateRequest,
    Config,
    ConnectionClose,
    CryptoLevel,
    SockOpt,
    TlsCipher,
)
from tests.integration.handshake_rig import (
    NAME,
    Agents,
    FakePort,
    Pki,
    assert_same_secrets,
    both,
    connected,
    fails,
    ports,
    run,
    toml,
)

# ---- what works


def test_both_roles_in_one_agent(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        outcomes = await both(net, client, server)
        assert outcomes == (hs.HandshakeResult(), hs.HandshakeResult())
        assert_same_secrets(client, server)
        assert client.set[SockOpt.ALPN] == server.set[SockOpt.ALPN] == b"smb"
        # Whatever a server answers may depend on the client's parameters.
        assert server.order[0] == "TRANSPORT_PARAM_EXT"
        assert client.order[0] == "CRYPTO INITIAL"

    run(main, bus)


def test_server_reads_what_came_before_it_was_asked(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        first = asyncio.ensure_future(hs.tls_client_hello_anon(net, client, NAME))
        await client.hello_sent.wait()
        await hs.tls_server_hello_x509(net, server)
        await first
        assert_same_secrets(client, server)

    run(main, bus)


@pytest.mark.parametrize("cipher", list(TlsCipher), ids=lambda c: c.name)
def test_ciphers(pki: Pki, agents: Agents, cipher: TlsCipher) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        config = Config(payload_cipher_type=cipher)
        client, server = connected(FakePort(b"client", config=config), FakePort(b"server"))
        assert await both(net, client, server) == (hs.HandshakeResult(), hs.HandshakeResult())
        assert {secret.type for secret in client.secrets.values()} == {cipher}
        assert_same_secrets(client, server)

    run(main, bus)


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "[::1]", NAME + "."])
def test_names(pki: Pki, agents: Agents, name: str) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        assert (await both(net, client, server, peername=name))[0] == hs.HandshakeResult()

    run(main, bus)


def test_alpn_is_chosen_from_a_list(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = connected(FakePort(b"client", b"sunrpc,smb"), FakePort(b"server", b"h3, smb"))
        assert (await both(net, client, server))[1] == hs.HandshakeResult()
        assert client.set[SockOpt.ALPN] == server.set[SockOpt.ALPN] == b"smb"

    run(main, bus)


def test_client_certificate(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(
        toml(
            truststore=pki.ca.path,
            server=pki.server,
            client=pki.client,
            clients_ca=pki.ca.path,
            client_certificates="required",
        )
    )

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        outcomes = await both(net, client, server, auth_mode=AuthMode.X509)
        assert outcomes == (hs.HandshakeResult(), hs.HandshakeResult())

    run(main, bus)


def test_optional_client_certificate(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(
        toml(
            truststore=pki.ca.path,
            server=pki.server,
            client=pki.stranger,
            clients_ca=pki.ca.path,
            client_certificates="optional",
        )
    )

    async def main(net: HandshakeNet) -> None:
        assert await both(net, *ports()) == (hs.HandshakeResult(), hs.HandshakeResult())

    run(main, bus)


def test_many_at_once(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server, agent="max_handshakes = 8"))

    async def main(net: HandshakeNet) -> None:
        pairs = [ports() for _ in range(4)]
        outcomes = await asyncio.gather(*(both(net, *pair) for pair in pairs))
        assert set(outcomes) == {(hs.HandshakeResult(), hs.HandshakeResult())}
        for pair in pairs:
            assert_same_secrets(*pair)

    run(main, bus)


def test_more_than_the_agent_takes_at_once_wait(pki: Pki, agents: Agents) -> None:
    """Servers alone fill the agent; they end by their time limit, and those behind them get their turn."""
    bus, _ = agents.private(toml(server=pki.server, agent="max_handshakes = 2"))

    async def main(net: HandshakeNet) -> None:
        waiting = [hs.tls_server_hello_x509(net, FakePort(b"server"), timeout_ms=300) for _ in range(4)]
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            fails(outcome, errno.ETIMEDOUT)
        await _works(net, pki)

    async def _works(net: HandshakeNet, pki: Pki) -> None:
        port = FakePort(b"server")
        task = asyncio.ensure_future(hs.tls_server_hello_x509(net, port, timeout_ms=5000))
        port.receive(CryptoLevel.INITIAL, b"\x01\x00\x00\x02no")
        with pytest.raises(HandshakeError) as caught:
            await task
        assert caught.value.errno == errno.EPROTO

    run(main, bus)


# ---- what is refused


REFUSALS = [
    # server's certificate, name asked for, errno, alert, words of the sentence
    ("server", "other.test", errno.EACCES, 42, ("other.test", "not for the name", "connect by a name")),
    ("server", "127.0.0.2", errno.EACCES, 42, ("127.0.0.2",)),
    ("expired", NAME, errno.EKEYEXPIRED, 45, (f"certificate of {NAME} has expired", "renew")),
    ("wrong_purpose", NAME, errno.EKEYREJECTED, 43, (NAME, "another purpose")),
]


@pytest.mark.parametrize(("which", "name", "code", "alert", "words"), REFUSALS)
def test_server_certificate_refused(
    pki: Pki, agents: Agents, which: str, name: str, code: int, alert: int, words: tuple[str, ...]
) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=getattr(pki, which)))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        outcome, _ = await both(net, client, server, peername=name)
        fails(outcome, code, *words)
        assert client.close is not None and client.close.errcode == 0x100 + alert

    run(main, bus)


def test_wrong_ca(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.other_ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        outcome, other = await both(net, client, server)
        fails(outcome, errno.EACCES, NAME, "not signed by a trusted CA", "--ca")
        assert isinstance(other, asyncio.CancelledError)
        assert client.close is not None and client.close.errcode == 0x100 + 48
        assert (0, CryptoLevel.APP) not in client.secrets

    run(main, bus)


def test_system_trust_by_default(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(server=pki.server))

    async def main(net: HandshakeNet) -> None:
        outcome, _ = await both(net, *ports())
        fails(outcome, errno.EACCES, "trusted CA")

    run(main, bus)


def test_no_certificate_configured(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path))

    async def main(net: HandshakeNet) -> None:
        client, server = ports()
        outcome, other = await both(net, client, server)
        fails(other, errno.ENOENT, "no certificate is configured", "x509.certificate")
        assert isinstance(outcome, asyncio.CancelledError)
        outcome, _ = await both(net, *ports(), auth_mode=AuthMode.X509)
        fails(outcome, errno.ENOENT, "no certificate is configured")

    run(main, bus)


def test_alpn_mismatch(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        client, server = connected(FakePort(b"client", b"sunrpc"), FakePort(b"server", b"smb"))
        closes: list[ConnectionClose] = []
        _, other = await both(net, client, server)
        fails(other, errno.EPROTONOSUPPORT, "ALPN")
        assert server.close is not None and server.close.errcode == 0x100 + 120
        closes.append(server.close)
        fails(peer_alert_error(closes[0], NAME), errno.EPROTONOSUPPORT, NAME, "does not serve")

    run(main, bus)


@pytest.mark.parametrize("by_socket", [False, True])
def test_client_certificate_required_and_missing(pki: Pki, agents: Agents, by_socket: bool) -> None:
    bus, _ = agents.private(
        toml(
            truststore=pki.ca.path,
            server=pki.server,
            clients_ca=pki.ca.path,
            client_certificates="off" if by_socket else "required",
        )
    )

    async def main(net: HandshakeNet) -> None:
        config = Config(certificate_request=CertificateRequest.REQUIRE if by_socket else 0)
        client, server = connected(FakePort(b"client"), FakePort(b"server", config=config))
        _, other = await both(net, client, server)
        fails(other, errno.EACCES, "the client sent no certificate")
        assert server.close is not None and server.close.errcode == 0x100 + 116
        assert (0, CryptoLevel.APP) not in server.secrets
        fails(peer_alert_error(server.close, NAME), errno.EACCES, NAME, "wants a client certificate")

    run(main, bus)


def test_client_certificate_of_another_ca(pki: Pki, agents: Agents) -> None:
    """The client knows from the server's list that its certificate will not do, and sends none; one that is sent
    all the same is checked, which the server's own certificate shows: it is for another purpose."""
    for client, code, words in (
        (pki.stranger, errno.EACCES, "no certificate"),
        (pki.server, errno.EKEYREJECTED, "another purpose"),
    ):
        bus, _ = agents.private(
            toml(
                truststore=pki.ca.path,
                server=pki.server,
                client=client,
                clients_ca=pki.ca.path,
                client_certificates="required",
            )
        )

        async def main(net: HandshakeNet, code: int = code, words: str = words) -> None:
            _, other = await both(net, *ports(), auth_mode=AuthMode.X509)
            fails(other, code, "the client", words)

        run(main, bus)


def test_requests_that_make_no_sense(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        async def refused(code: int, port: FakePort, **fields: object) -> None:
            request = HandshakeRequest(**{"peername": NAME, **fields})  # type: ignore[arg-type]
            with pytest.raises(HandshakeError) as caught:
                await net.handshake(port, request)
            fails(caught.value, code)

        await refused(errno.EINVAL, FakePort(b"x"), peername="")
        await refused(errno.EINVAL, FakePort(b"x"), message_type=3)
        await refused(errno.EOPNOTSUPP, FakePort(b"x"), auth_mode=AuthMode.PSK)
        await refused(errno.EINVAL, FakePort(b"x", alpn=b""))
        await refused(errno.EINVAL, FakePort(b"x", alpn=b"a" * 256))
        await refused(errno.EINVAL, FakePort(b"x", config=Config(payload_cipher_type=53)))
        broken = FakePort(b"x")
        broken.options[SockOpt.CONFIG] = b"short"
        await refused(errno.EINVAL, broken)

    run(main, bus)


@pytest.mark.parametrize(
    "hello",
    [
        b"\x01\x00\x00\x04\x03\x03\x00\x00",
        b"\x02\x00\x00\x00",
        b"\x14\x00\x00\x04abcd",
        b"\xff" * 40,
        os.urandom(2000),
        b"\x01\xff\xff\xff" + bytes(16384),
    ],
    ids=["cut", "server hello", "finished", "ones", "random", "16 MiB announced"],
)
def test_garbage_in_crypto_data(pki: Pki, agents: Agents, hello: bytes) -> None:
    """An alert or the time limit, and the agent serves on."""
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        server = FakePort(b"server")
        server.receive(CryptoLevel.INITIAL, hello)
        with pytest.raises(HandshakeError) as caught:
            await hs.tls_server_hello_x509(net, server, timeout_ms=1000)
        assert caught.value.errno in (errno.EPROTO, errno.ETIMEDOUT)
        assert caught.value.errno == errno.ETIMEDOUT or server.close is not None
        assert (await both(net, *ports()))[0] == hs.HandshakeResult()

    run(main, bus)


def test_crypto_data_at_the_wrong_level(pki: Pki, agents: Agents) -> None:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: HandshakeNet) -> None:
        server = FakePort(b"server")
        server.receive(CryptoLevel.HANDSHAKE, b"\x01\x00\x00\x04\x03\x03\x00\x00")
        with pytest.raises(HandshakeError) as caught:
            await hs.tls_server_hello_x509(net, server)
        fails(caught.value, errno.EPROTO, "level")
        assert server.close is not None and server.close.errcode == 0x100 + 10

    run(main, bus)


def samba_hello() -> bytes:
    text = (Path(__file__).parents[1] / "vectors" / "smbclient-clienthello.hex").read_text()
    return bytes.fromhex("".join(line for line in text.split() if not line.startswith("#")))


def without_extension(hello: bytes, kind: int) -> bytes:
    """The ClientHello (RFC 8446 §4.1.2) with that extension renamed to one that nobody knows."""
    at = 4 + 2 + 32
    at += 1 + hello[at]  # legacy_session_id
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher_suites
    at += 1 + hello[at]  # legacy_compression_methods
    at += 2
    while int.from_bytes(hello[at : at + 2], "big") != kind:
        at += 4 + int.from_bytes(hello[at + 2 : at + 4], "big")
    return hello[:at] + b"\xfe\xfe" + hello[at + 2 :]


@pytest.mark.parametrize(
    ("extension", "code", "alert"),
    [(0x10, errno.EPROTONOSUPPORT, 120), (0x39, errno.EPROTO, 109)],
    ids=["no ALPN", "no transport parameters"],
)
def test_extension_missing(pki: Pki, agents: Agents, extension: int, code: int, alert: int) -> None:
    """RFC 9001 §8.1 and §8.2; nothing of the server's flight goes out."""
    bus, _ = agents.private(toml(server=pki.server))

    async def main(net: HandshakeNet) -> None:
        server = FakePort(b"server")
        server.receive(CryptoLevel.INITIAL, without_extension(samba_hello(), extension))
        with pytest.raises(HandshakeError) as caught:
            await hs.tls_server_hello_x509(net, server)
        assert caught.value.errno == code
        assert server.close is not None and server.close.errcode == 0x100 + alert
        assert server.order == ["CONNECTION_CLOSE"]

    run(main, bus)


def test_real_client_hello_of_another_implementation(pki: Pki, agents: Agents) -> None:
    """Samba's ClientHello: its parameters and ALPN are understood, and the server's flight goes out."""
    bus, _ = agents.private(toml(server=pki.server))

    async def main(net: HandshakeNet) -> None:
        server = FakePort(b"server")
        server.receive(CryptoLevel.INITIAL, samba_hello())
        with pytest.raises(HandshakeError):
            await hs.tls_server_hello_x509(net, server, timeout_ms=3000)
        assert "CRYPTO HANDSHAKE" in server.order
        assert (1, CryptoLevel.APP) in server.secrets
        assert server.set[SockOpt.ALPN] == b"smb"

    run(main, bus)
