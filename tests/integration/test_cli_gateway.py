"""`quicfs gateway` and `quicfs connect`: bytes of TCP on QUIC, and back."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quicfs import certs
from tests.integration.cli import Site, quicfs, refused, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("site"))


class _Echo(socketserver.BaseRequestHandler):
    """Gives back what it gets; `!` alone resets the connection; what it counts it says at the end."""

    def handle(self) -> None:
        count = 0
        while data := self.request.recv(1 << 16):
            if data == b"!":
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            count += len(data)
            self.request.sendall(data)
        self.request.sendall(b"%d in all" % count)  # after the end of the other direction


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def shutdown_request(self, request) -> None:  # type: ignore[no-untyped-def]
        request.close()  # an orderly shutdown first would undo the reset


@contextmanager
def echo() -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def port_of(line: str, before: str) -> int:
    return int(line.partition(before)[2].split()[0].rpartition(":")[2])


@contextmanager
def chain(site: Site, scheme: str, target: int, *options: str) -> Iterator[int]:
    """TCP -> connect -> QUIC -> gateway -> TCP; gives the port at its beginning."""
    files = site.files
    trust = ["--ca", str(files.ca)]
    keys = ["--cert", str(files.cert), "--key", str(files.key)]
    to = f"{scheme}://127.0.0.1:{target}"
    with running("gateway", "--listen", "localhost:0", "--to", to, *keys, *options) as (_, line):
        port = port_of(line, f"{scheme}+quic://")
        server = f"{scheme}+quic://localhost:{port}"
        with running("connect", "--listen", "127.0.0.1:0", "--to", server, *trust) as (_, listening):
            yield port_of(listening, "passing TCP ")


@pytest.fixture(scope="module", params=["nfs", "smb"])
def port(site: Site, request: pytest.FixtureRequest) -> Iterator[int]:
    with echo() as target, chain(site, request.param, target) as port:
        yield port


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def is_refused(port: int) -> bool:
    with dial(port) as sock:
        try:
            sock.sendall(b"anybody?")
            sock.recv(1)
            return False
        except (ConnectionResetError, BrokenPipeError):
            return True


def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return bytes(data)


def test_both_ways_and_half_closed(port: int) -> None:
    blob = os.urandom(5_000_000)
    with dial(port) as sock:
        writer = threading.Thread(target=lambda: (sock.sendall(blob), sock.shutdown(socket.SHUT_WR)))
        writer.start()
        assert receive(sock, len(blob)) == blob
        writer.join()
        assert receive(sock, 100) == b"5000000 in all"


def test_several_at_once(port: int) -> None:
    socks = [dial(port) for _ in range(5)]
    for number, sock in enumerate(socks):
        sock.sendall(b"hello %d" % number)
    for number, sock in enumerate(socks):
        assert receive(sock, 7) == b"hello %d" % number
        sock.close()


def test_a_reset_goes_through(port: int) -> None:
    with dial(port) as sock:
        sock.sendall(b"!")
        with pytest.raises(ConnectionResetError):
            assert sock.recv(1) == b"x"
    with dial(port) as sock:
        sock.sendall(b"fine")
        assert receive(sock, 4) == b"fine"


def test_a_reader_that_does_not_read_holds_up_the_writer(port: int) -> None:
    """And takes no memory meanwhile: what the pipes hold is bounded."""
    with dial(port) as sock:
        sock.settimeout(3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 400_000_000:
                sent += sock.send(bytes(1 << 20))
        assert sent < 200_000_000
        sock.settimeout(30)
        assert receive(sock, sent) == bytes(sent)


@pytest.mark.parametrize("scheme", ["nfs", "smb"])
def test_nobody_behind_the_gateway(site: Site, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with chain(site, scheme, unused.getsockname()[1]) as port:
            assert is_refused(port)


def test_too_many(site: Site) -> None:
    with echo() as target, chain(site, "nfs", target, "--max-connections", "2") as port:
        socks = [dial(port) for _ in range(2)]
        for sock in socks:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
        assert is_refused(port)
        socks[0].close()
        time.sleep(1)
        with dial(port) as third:
            third.sendall(b"x")
            assert receive(third, 1) == b"x"
        socks[1].close()


def test_certificates_that_are_renewed(site: Site, tmp_path: Path) -> None:
    """New connections get the new one; those that are there stay."""
    files = certs.create(tmp_path / "certs", ["localhost"])
    with echo() as target:
        keys = ["--cert", files.cert, "--key", files.key]
        to = f"nfs://127.0.0.1:{target}"
        with running("gateway", "--listen", "localhost:0", "--to", to, *keys) as (_, line):
            server = f"nfs+quic://localhost:{port_of(line, 'nfs+quic://')}"
            connect = ["connect", "--listen", "127.0.0.1:0", "--to", server]
            other = certs.create(tmp_path / "other", ["localhost"])
            with (
                running(*connect, "--ca", files.ca) as (_, first),
                running(*connect, "--ca", other.ca) as (_, second),
            ):
                old, new = port_of(first, "TCP "), port_of(second, "TCP ")
                with dial(old) as sock:
                    sock.sendall(b"before")
                    assert receive(sock, 6) == b"before"
                    assert is_refused(new)
                    files.key.write_bytes(other.key.read_bytes())
                    files.cert.write_bytes(other.cert.read_bytes())
                    with dial(new) as late:
                        late.sendall(b"after")
                        assert receive(late, 5) == b"after"
                    sock.sendall(b"still there")
                    assert receive(sock, 11) == b"still there"


def test_client_certificates(site: Site) -> None:
    files = site.files
    with echo() as target:
        keys = ["--cert", files.cert, "--key", files.key, "--client-ca", files.ca]
        to = f"smb://127.0.0.1:{target}"
        with running("gateway", "--listen", "localhost:0", "--to", to, *keys) as (_, line):
            server = f"smb+quic://localhost:{port_of(line, 'smb+quic://')}"
            connect = ["connect", "--listen", "127.0.0.1:0", "--to", server, "--ca", files.ca]
            with running(*connect) as (_, listening):
                assert is_refused(port_of(listening, "TCP "))


@pytest.mark.parametrize(
    ("command", "target"),
    [
        ("gateway", "nfs+quic://host"),
        ("gateway", "host:2049"),
        ("gateway", "nfs://host/export"),
        ("gateway", "smb://alice@host"),
        ("connect", "nfs://host"),
        ("connect", "smb+quic://host:port"),
    ],
)
def test_wrong_targets(command: str, target: str) -> None:
    done = quicfs(command, "--listen", "127.0.0.1:0", "--to", target)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(
            quicfs("connect", "--listen", address, "--to", "nfs+quic://localhost", "--ca", site.files.ca),
            address,
            "another program",
        )
