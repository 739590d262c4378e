"""Datagrams (RFC 9221) with aioquic, which talks to our socket in the same process."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from quicfs.agents import AgentOptions, server_net
from quicfs.certs import CertificateFiles
from quicfs.transport.handshake import HandshakeRequest
from quicfs.transport.socket import QuicSocket
from quicfs.transport.uapi import AuthMode, MessageType, MsgFlags, SockOpt, TransportParam

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


def test_datagrams_both_ways(certificates: CertificateFiles, need: Callable[[bool, str], None]) -> None:
    need(importlib.util.find_spec("aioquic") is not None, "aioquic (pip install -e '.[peers]')")
    from aioquic import asyncio as aioquic
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import DatagramFrameReceived, QuicEvent

    received: asyncio.Queue[bytes] = asyncio.Queue()

    class Client(aioquic.QuicConnectionProtocol):
        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, DatagramFrameReceived):
                received.put_nowait(event.data)

    async def echo(listener: QuicSocket) -> QuicSocket:
        server = await listener.accept()
        await server.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
        for _ in range(20):
            message = await server.recvmsg()
            assert message.flags == MsgFlags.DATAGRAM
            await server.sendmsg([b"echo ", message.data], (), MsgFlags.DATAGRAM)
        return server

    async def main() -> None:
        async with server_net(AgentOptions(cert=certificates.cert, key=certificates.key)) as net:
            listener = QuicSocket(net)
            listener.setsockopt(SockOpt.ALPN, b"perf")
            listener.setsockopt(SockOpt.TRANSPORT_PARAM, TransportParam(max_datagram_frame_size=1200).pack())
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            serving = asyncio.ensure_future(echo(listener))
            configuration = QuicConfiguration(
                alpn_protocols=["perf"], max_datagram_frame_size=1000, server_name="localhost"
            )
            configuration.load_verify_locations(str(certificates.ca))
            connecting: Any = aioquic.connect(
                "127.0.0.1", listener.getsockname()[1], configuration=configuration, create_protocol=Client
            )
            async with asyncio.timeout(60), connecting as client:
                for number in range(20):
                    client._quic.send_datagram_frame(b"%d" % number)
                    client.transmit()
                    assert await received.get() == b"echo %d" % number
                server = await serving
                with pytest.raises(OSError, match="at most 997 fit"):
                    await server.sendmsg([bytes(998)], (), MsgFlags.DATAGRAM)
            await server.close()
            await listener.close()
            await listener.wait_closed()

    asyncio.run(main())
