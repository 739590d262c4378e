"""Who does the handshakes: an agent that runs, or one of a command's own."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from quicfs.agents import PrivateAgent, client_net, server_configuration, server_net
from quicfs.errors import UserError
from quicfs.listen import listen_streams
from quicfs.options import AgentOptions
from quicfs.quic import connect_stream
from quicfs.transport.bytestream import ByteStream
from quicfs.url import Address
from tests.integration.cli import Site, quicfs, refused, running

ALPN = b"echo"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


async def echo(stream: ByteStream) -> None:
    while piece := await stream.recv():
        await stream.send(bytes(piece))


async def say(address: Address, options: AgentOptions, words: bytes) -> bytes:
    async with client_net(options) as net:
        stream = await connect_stream(net, address, ALPN)
        try:
            await stream.send(words)
            await stream.send_eof()
            heard = b""
            while piece := await stream.recv():
                heard += piece
            return heard
        finally:
            await stream.aclose()


def test_one_agent_for_all(site: Site, tmp_path: Path) -> None:
    config, socket = tmp_path / "agent.toml", tmp_path / "agent.sock"
    config.write_text(server_configuration(site.files.cert, site.files.key))
    with running("agent", "--config", config, "--socket", socket, log=tmp_path / "log") as (process, line):
        assert str(socket) in line

        async def run() -> bytes:
            async with server_net(AgentOptions(socket=socket)) as net:
                listener = await listen_streams(net, Address("localhost", 0), ALPN, echo)
                try:
                    address = Address("localhost", listener.address.port)
                    return await say(address, AgentOptions(ca=site.files.ca), b"words")
                finally:
                    await listener.aclose()

        assert asyncio.run(run()) == b"words"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not socket.exists()


def test_our_own_agent_is_started_again_when_it_was_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    start = PrivateAgent.start

    async def noted(self: PrivateAgent) -> object:
        bus = await start(self)
        assert self.pid is not None
        pids.append(self.pid)
        return bus

    monkeypatch.setattr(PrivateAgent, "start", noted)

    async def run() -> None:
        own = AgentOptions(cert=site.files.cert, key=site.files.key)
        async with server_net(own) as net:
            listener = await listen_streams(net, Address("localhost", 0), ALPN, echo)
            address = Address("localhost", listener.address.port)
            for words in (b"before", b"after"):
                assert await say(address, AgentOptions(ca=site.files.ca), words) == words
                os.kill(pids[0], signal.SIGKILL) if words == b"before" else None
            await listener.aclose()

    asyncio.run(run())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_certificates_of_clients(site: Site, tmp_path: Path) -> None:
    clients = Site.make(tmp_path / "clients", "alice.example").files

    async def run() -> None:
        options = AgentOptions(cert=site.files.cert, key=site.files.key, ca=clients.ca)
        async with server_net(options) as net:
            listener = await listen_streams(net, Address("localhost", 0), ALPN, echo)
            address = Address("localhost", listener.address.port)
            try:
                with pytest.raises(ConnectionError, match="certificate"):
                    await say(address, AgentOptions(ca=site.files.ca), b"words")
            finally:
                await listener.aclose()

    asyncio.run(run())


def test_no_agent_there(tmp_path: Path) -> None:
    refused(
        quicfs("ls", "smb://localhost/share", "--agent", tmp_path / "none"),
        str(tmp_path / "none"),
        "quicfs agent",
    )


def test_an_agent_says_what_is_wrong_with_its_files(site: Site, tmp_path: Path) -> None:
    async def start(configuration: str) -> None:
        await PrivateAgent(configuration).start()

    with pytest.raises(UserError, match=r"none\.pem"):
        asyncio.run(start(server_configuration(tmp_path / "none.pem", site.files.key)))
    with pytest.raises(UserError, match="do not match"):
        asyncio.run(start(server_configuration(site.files.cert, site.files.ca_key)))


def test_agents_configuration(tmp_path: Path) -> None:
    refused(quicfs("agent", "--config", tmp_path / "none"), str(tmp_path / "none"))
    (tmp_path / "agent.toml").write_text("[agent]\ntimout = 3\n")
    refused(quicfs("agent", "--config", tmp_path / "agent.toml"), "agent.timout")
    (tmp_path / "file").write_text("")
    refused(quicfs("agent", "--socket", tmp_path / "file"), str(tmp_path / "file"), "--socket")
