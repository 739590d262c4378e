"""SSLKEYLOGFILE: what the agent writes decrypts what was captured on the wire."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any, Final

import pytest

from quicfs.transport import limits
from quicfs.transport.crypto import CipherSuite, Keys, initial_secrets
from quicfs.transport.frame import parse_frame
from quicfs.transport.packet import VERSION_1, PacketType, parse_long_header
from quicfs.transport.socket import QuicSocket
from tests.integration.handshake_rig import Agents, Pki, both, ports, run, toml
from tests.integration.test_quic_socket import dial, listen, net_of, serve_one

SUITES: Final = {
    0x1301: CipherSuite.AES_128_GCM,
    0x1302: CipherSuite.AES_256_GCM,
    0x1303: CipherSuite.CHACHA20_POLY1305,
}
ENCRYPTED_EXTENSIONS: Final = 8
MESSAGE: Final = b"read by whoever has the key log"


class Relay(asyncio.DatagramProtocol):
    """Between a client and a server on this host; keeps what it relays, in order, with its direction."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.captured: list[tuple[bool, bytes]] = []
        self._server = server
        self._client: Any = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        from_server = source == self._server
        if not from_server:
            self._client = source
        self.captured.append((from_server, data))
        self._transport.sendto(data, self._client if from_server else self._server)


def secrets_in(path: Path) -> dict[str, dict[bytes, bytes]]:
    """Label -> client random -> secret (draft-ietf-tls-keylogfile §2)."""
    found: dict[str, dict[bytes, bytes]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            label, random, secret = line.split(" ")
            found.setdefault(label, {})[bytes.fromhex(random)] = bytes.fromhex(secret)
    return found


def frames_of(opened: list[tuple[int, int, memoryview]], packet_type: PacketType) -> list[Any]:
    frames = []
    for _, _, payload in opened:
        pos = 0
        while pos < len(payload):
            _, frame, pos = parse_frame(payload, pos, len(payload), packet_type)
            frames.append(frame)
    return frames


def crypto_bytes(frames: list[Any]) -> bytes:
    pieces = sorted((frame.offset, bytes(frame.data)) for frame in frames if hasattr(frame, "data"))
    return b"".join(piece for _, piece in pieces)


def opened_long(
    captured: list[tuple[bool, bytes]], keys: Keys, wanted: PacketType, *, from_server: bool
) -> list[Any]:
    frames = []
    for direction, datagram in captured:
        pos = 0
        while direction is from_server and pos < len(datagram) and datagram[pos] & 0x80:
            view = memoryview(bytearray(datagram))
            header = parse_long_header(view, pos, len(view))
            if header.packet_type is wanted:
                opened, _ = keys.open_run(
                    view, (pos,), (header.end,), header.payload_offset - pos, -1, memoryview(bytearray(2000))
                )
                assert opened
                frames += frames_of(opened, wanted)
            pos = header.end
    return frames


def opened_short(captured: list[tuple[bool, bytes]], keys: Keys, *, from_server: bool) -> list[Any]:
    frames = []
    for direction, datagram in captured:
        if direction is from_server and not datagram[0] & 0x80:
            opened, _ = keys.open_run(
                memoryview(bytearray(datagram)),
                (0,),
                (len(datagram),),
                1 + limits.LOCAL_CID_LENGTH,
                -1,
                memoryview(bytearray(70_000)),
            )
            frames += frames_of(opened, PacketType.ONE_RTT)
    return frames


def test_a_captured_connection_is_read_with_it(
    agents: Agents, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    captured: list[tuple[bool, bytes]] = []

    async def main() -> None:
        async with net_of(agents, pki) as net:
            listener = listen(net, b"one")
            transport, relay = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: Relay(("127.0.0.1", listener.getsockname()[1])), ("127.0.0.1", 0)
            )
            accepting = asyncio.ensure_future(serve_one(listener))
            client = await dial(net, transport.get_extra_info("sockname")[1], b"one")
            server = await accepting
            await exchange(client, server)
            captured.extend(relay.captured)
            for sock in (client, server, listener):
                await sock.close()
            await client.wait_closed()
            await listener.wait_closed()
            transport.close()

    asyncio.run(main())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secrets = secrets_in(path)

    hello = next(datagram for from_server, datagram in captured if not from_server)
    odcid = parse_long_header(memoryview(hello), 0, len(hello)).dcid
    of_client, of_server = (
        Keys(CipherSuite.AES_128_GCM, secret, VERSION_1) for secret in initial_secrets(VERSION_1, odcid)
    )
    client_hello = crypto_bytes(opened_long(captured, of_client, PacketType.INITIAL, from_server=False))
    server_hello = crypto_bytes(opened_long(captured, of_server, PacketType.INITIAL, from_server=True))
    random = client_hello[6:38]  # RFC 8446 §4.1.2
    suite = SUITES[int.from_bytes(server_hello[39 + server_hello[38] :][:2], "big")]

    def keys(label: str) -> Keys:
        return Keys(suite, secrets[label][random], VERSION_1)

    flight = crypto_bytes(
        opened_long(captured, keys("SERVER_HANDSHAKE_TRAFFIC_SECRET"), PacketType.HANDSHAKE, from_server=True)
    )
    assert flight[0] == ENCRYPTED_EXTENSIONS
    assert opened_long(
        captured, keys("CLIENT_HANDSHAKE_TRAFFIC_SECRET"), PacketType.HANDSHAKE, from_server=False
    )
    for label, from_server in (("CLIENT_TRAFFIC_SECRET_0", False), ("SERVER_TRAFFIC_SECRET_0", True)):
        frames = opened_short(captured, keys(label), from_server=from_server)
        assert any(isinstance(frame, tuple) and MESSAGE in map(bytes_of, frame) for frame in frames)


def bytes_of(field: Any) -> bytes:
    return bytes(field) if isinstance(field, memoryview) else b""


async def exchange(client: QuicSocket, server: QuicSocket) -> None:
    stream = client.open_stream()
    await stream.send(MESSAGE)
    there = await server.accept_stream()
    assert await there.recv() == MESSAGE
    await there.send(MESSAGE)
    assert await stream.recv() == MESSAGE


def test_a_file_that_cannot_be_written_is_said(
    agents: Agents, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    bus, process = agents.private(toml(truststore=pki.ca.path, server=pki.server))

    async def main(net: Any) -> None:
        client, server = ports()
        await both(net, client, server)
        assert client.done and server.done

    run(main, bus)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert "missing/keys: No such file or directory" in process.stderr.read()
