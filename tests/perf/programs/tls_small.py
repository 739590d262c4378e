"""Small exchanges with TLS 1.3 over TCP: Python's ssl on blocking sockets, a thread for each connection.

A TCP connection has no streams: in mode `parallel` so many requests are sent before their answers are read.
"""

from __future__ import annotations

import argparse
import signal
import socket
import ssl
import sys
import threading
import time

from tests.perf.programs import arguments
from tests.perf.programs.arguments import NAME, PARALLEL, REQUEST, SAME, SIZE


def read(connection: ssl.SSLSocket, size: int) -> None:
    while size:
        piece = connection.recv(size)
        if not piece:
            raise ConnectionError("the server ended the connection")
        size -= len(piece)


def answer(context: ssl.SSLContext, plain: socket.socket) -> None:
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(plain, server_side=True) as connection:
            rest = 0
            while piece := connection.recv(1 << 16):
                whole, rest = divmod(rest + len(piece), SIZE)
                if whole:
                    connection.sendall(REQUEST * whole)
    except OSError:
        pass  # the client is done


def serve(options: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.cert, options.key)
    with socket.create_server((options.host, options.port), backlog=1024) as listener:
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=answer, args=(context, plain), daemon=True).start()


class Client:
    def __init__(self, options: argparse.Namespace) -> None:
        self._address = (options.host, options.port)
        self._context = ssl.create_default_context(cafile=options.ca)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._session: ssl.SSLSession | None = None

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self._address)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._context.wrap_socket(plain, server_hostname=NAME, session=self._session)
        if self._session is not None and not connection.session_reused:
            raise ConnectionError("the server did not resume")
        return connection

    def use_a_ticket(self) -> None:
        with self.connect() as connection:
            connection.sendall(REQUEST)
            read(connection, SIZE)  # the ticket comes before the answer
            self._session = connection.session

    def handshakes(self, seconds: float, parallel: int) -> tuple[int, float]:
        counts = [0] * parallel
        began = time.perf_counter()

        def work(number: int) -> None:
            while time.perf_counter() - began < seconds:
                self.connect().close()
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(number,)) for number in range(parallel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts), time.perf_counter() - began

    def requests(self, mode: str, seconds: float, parallel: int) -> tuple[int, float]:
        batch = parallel if mode == PARALLEL else 1
        count = 0
        with self.connect() as connection:
            began = time.perf_counter()
            while time.perf_counter() - began < seconds:
                connection.sendall(REQUEST * batch)
                read(connection, SIZE * batch)
                count += batch
            return count, time.perf_counter() - began

    def idle(self, count: int) -> None:
        arguments.allow_descriptors(count)
        began = time.perf_counter()
        connections = [self.connect() for _ in range(count)]
        arguments.report(len(connections), time.perf_counter() - began)
        arguments.wait_for_the_end()
        for connection in connections:
            connection.close()


def connect(options: argparse.Namespace) -> None:
    client = Client(options)
    if options.task == "idle":
        client.idle(options.count)
    elif options.task == "handshakes":
        if options.resume:
            client.use_a_ticket()
        arguments.report(*client.handshakes(options.seconds, options.parallel))
    else:
        arguments.report(*client.requests(options.mode, options.seconds, options.parallel))


if __name__ == "__main__":
    chosen = arguments.parse(__doc__, (SAME, PARALLEL))
    (serve if chosen.role == "server" else connect)(chosen)
