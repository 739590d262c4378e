"""TLS 1.3 over TCP with Python's ssl, the yardstick beside the QUIC stacks: 1 MiB writes, blocking sockets.

Arguments and output are those of quic_peer.py (README.md beside this file). Python's ssl cannot half-close,
so the client's first 16 bytes say both lengths: what it wants back, then what it will send.
"""

import argparse
import json
import signal
import socket
import ssl
import sys
import threading
import time

PIECE_SIZE = 1 << 20
HEADER_SIZE = 16


def receive(connection: ssl.SSLSocket, size: int) -> None:
    buffer = memoryview(bytearray(PIECE_SIZE))
    while size:
        count = connection.recv_into(buffer[: min(size, PIECE_SIZE)])
        if count == 0:
            raise ConnectionError(f"connection closed {size} bytes early")
        size -= count


def send(connection: ssl.SSLSocket, size: int) -> None:
    piece = memoryview(bytes(PIECE_SIZE))
    while size:
        count = min(size, PIECE_SIZE)
        connection.sendall(piece[:count])
        size -= count


def set_congestion(sock: socket.socket, options: argparse.Namespace) -> None:
    """Accepted sockets have what their listener has."""
    if options.congestion is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, options.congestion.encode())


def report(role: str, sent: int, received: int, began: float) -> None:
    seconds = time.perf_counter() - began
    gbit_per_s = round(max(sent, received) * 8 / seconds / 1e9, 4)
    result = {"role": role, "sent": sent, "received": received, "seconds": round(seconds, 6)}
    print(json.dumps(result | {"gbit_per_s": gbit_per_s}), flush=True)


def answer(connection: ssl.SSLSocket) -> None:
    with connection:
        header = connection.recv(HEADER_SIZE)
        download, upload = int.from_bytes(header[:8], "big"), int.from_bytes(header[8:], "big")
        began = time.perf_counter()
        receive(connection, upload)
        send(connection, download)
        connection.sendall(b"\0")
        report("server", download, upload, began)


def serve(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.cert, options.key)
    with socket.create_server((options.host, options.port)) as listener:
        set_congestion(listener, options)
        print(f"ready {listener.getsockname()[1]}", flush=True)
        while True:
            connection, _ = listener.accept()
            secured = context.wrap_socket(connection, server_side=True)
            threading.Thread(target=answer, args=(secured,), daemon=True).start()


def connect(options: argparse.Namespace) -> None:
    context = ssl.create_default_context(cafile=options.ca)
    with (
        socket.create_connection((options.host, options.port)) as plain,
        context.wrap_socket(plain, server_hostname=options.name) as connection,
    ):
        set_congestion(connection, options)
        began = time.perf_counter()
        connection.sendall(options.download.to_bytes(8, "big") + options.upload.to_bytes(8, "big"))
        send(connection, options.upload)
        receive(connection, options.download)
        receive(connection, 1)  # the server has everything
        report("client", options.upload, options.download, began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    roles = parser.add_subparsers(dest="role", required=True)
    for role in ("server", "client"):
        sub = roles.add_parser(role)
        sub.add_argument("--host", default="127.0.0.1")
        sub.add_argument("--port", type=int, default=0)
        sub.add_argument("--congestion", metavar="NAME", help="cubic, bbr ...; default: the system's")
    server, client = roles.choices["server"], roles.choices["client"]
    server.add_argument("--cert", required=True)
    server.add_argument("--key", required=True)
    client.add_argument("--ca", required=True)
    client.add_argument("--name", default="localhost")
    client.add_argument("--upload", type=int, default=0, metavar="BYTES")
    client.add_argument("--download", type=int, default=0, metavar="BYTES")
    options = parser.parse_args()
    (serve if options.role == "server" else connect)(options)


if __name__ == "__main__":
    main()
