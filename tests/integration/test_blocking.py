"""The blocking flavour: threads, timeouts, interruption by close, and the interpreter's exit."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from quicfs.transport.blocking import BlockingNet, BlockingSocket
from quicfs.transport.errors import ClosedError
from quicfs.transport.handshake import HandshakeError, HandshakeRequest
from quicfs.transport.uapi import AuthMode, MessageType, SockOpt, StreamFlags
from tests.integration.handshake_rig import NAME, Agents, Pki, toml


@contextlib.contextmanager
def net_of(agents: Agents, pki: Pki) -> Iterator[BlockingNet]:
    bus, _ = agents.private(toml(truststore=pki.ca.path, server=pki.server))
    with BlockingNet() as net:
        net.attach(bus)
        yield net


@contextlib.contextmanager
def pair_of(agents: Agents, pki: Pki) -> Iterator[tuple[BlockingSocket, BlockingSocket]]:
    with net_of(agents, pki) as net, net.socket() as listener, net.socket() as client:
        listener.setsockopt(SockOpt.ALPN, b"one")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(20)

        def serve() -> BlockingSocket:
            server = listener.accept()
            server.handshake(HandshakeRequest(MessageType.SERVERHELLO, auth_mode=AuthMode.X509))
            return server

        with ThreadPoolExecutor(1) as pool:
            serving = pool.submit(serve)
            client.settimeout(20)
            client.setsockopt(SockOpt.ALPN, b"one")
            client.connect(("127.0.0.1", listener.getsockname()[1]))
            client.handshake(HandshakeRequest(peername=NAME))
            with serving.result() as server:
                yield client, server


def test_many_threads_on_one_socket(agents: Agents, pki: Pki) -> None:
    with pair_of(agents, pki) as (client, server):
        stop = threading.Event()

        def echo() -> None:
            while not stop.is_set():
                try:
                    stream = server.accept_stream()
                except ClosedError:
                    return
                with stream:
                    while piece := stream.recv():
                        stream.send(bytes(piece))

        def ask(number: int) -> bool:
            question = number.to_bytes(4, "big") * 5_000
            with client.open_stream() as stream:
                stream.send(question)
                stream.send_eof()
                answer = b""
                while piece := stream.recv():
                    answer += piece
            return answer == question

        servers = [threading.Thread(target=echo) for _ in range(3)]
        for thread in servers:
            thread.start()
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(60)))
        stop.set()
        client.close(3, "enough")
        for thread in servers:
            thread.join(20)
            assert not thread.is_alive()


def test_a_timeout_has_no_effect(agents: Agents, pki: Pki) -> None:
    with pair_of(agents, pki) as (client, server):
        server.settimeout(0.05)
        for call in (server.recv, server.recvmsg, server.accept_stream):
            start = time.monotonic()
            with pytest.raises(TimeoutError):
                call()
            assert time.monotonic() - start < 5
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.recv()
        server.settimeout(20)
        _, stream_id = client.send(b"late", -1, StreamFlags.NEW)
        assert bytes(server.recv().data) == b"late"
        client.settimeout(0.2)
        taken = 0
        with pytest.raises(TimeoutError):  # nobody reads: flow control holds
            while True:
                taken += client.send(bytes(1 << 19), stream_id)[0]
        received = 0
        while received < taken:
            received += len(server.recv().data)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.recv()  # what timed out was not sent
        assert received == taken


def test_close_ends_what_others_wait_for(agents: Agents, pki: Pki) -> None:
    with net_of(agents, pki) as net, ThreadPoolExecutor(2) as pool:
        listener = net.socket()
        listener.setsockopt(SockOpt.ALPN, b"one")
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        accepting = pool.submit(listener.accept)
        while not accepting.running():
            time.sleep(0.01)
        net.close()
        with pytest.raises(OSError) as caught:
            accepting.result(20)
        assert caught.value.errno == errno.EBADF
        listener.close()
        with pytest.raises(OSError):
            net.socket()


def test_errors_are_the_same(agents: Agents, pki: Pki) -> None:
    with BlockingNet() as net, net.socket() as sock:
        with pytest.raises(OSError) as caught:
            sock.connect(("127.0.0.1", 9))
        assert caught.value.errno == errno.EINVAL
        sock.setsockopt(SockOpt.ALPN, b"one")
        sock.connect(("127.0.0.1", 9))
        with pytest.raises(HandshakeError) as none:
            sock.handshake(HandshakeRequest(peername=NAME))
        assert none.value.errno == errno.ESRCH
        with pytest.raises(ValueError, match="negative"):
            sock.settimeout(-1)


@pytest.mark.parametrize(
    "last", ["", "raise SystemExit(3)", "threading.Thread(target=swallow, daemon=True).start()"]
)
def test_the_interpreter_ends(tmp_path: Path, last: str) -> None:
    """Nothing was closed: the program ends at once all the same, without a word."""
    program = f"""
import threading
from quicfs.transport.blocking import BlockingNet
from quicfs.transport.uapi import SockOpt
net = BlockingNet()
listener = net.socket()
listener.setsockopt(SockOpt.ALPN, b"one")
listener.bind(("127.0.0.1", 0))
listener.listen()
def swallow():
    try:
        listener.accept()
    except OSError:
        pass
{last}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (3 if "SystemExit" in last else 0, "")
