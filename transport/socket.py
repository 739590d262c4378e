"""`QuicSocket`: the socket interface of net/quic (draft-lxin-quic-socket-apis) on our own endpoint.

The calls, option numbers and structures are those of Linux, with `await` where a call can block. A consumer
never sees TLS: after `connect` or `accept` it files a handshake request, and an agent does the rest
through the methods of `HandshakePort`, which a socket has as well.
"""

from __future__ import annotations

import asyncio
import errno
import socket as _socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from quicfs.transport import limits, rotation, uapi
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.data_socket import DataSocket
from quicfs.transport.driver import Driver, resolve
from quicfs.transport.early_data import EarlyState
from quicfs.transport.endpoint import Listener
from quicfs.transport.errors import ClosedError, MisuseError, ProtocolViolation, TransportErrorCode
from quicfs.transport.fifo import Fifo
from quicfs.transport.handshake import HandshakeError, HandshakeNet, HandshakeRequest, HandshakeResult
from quicfs.transport.handshake_errors import peer_alert_error
from quicfs.transport.path import Address
from quicfs.transport.resume import Resume
from quicfs.transport.sockopts import CIPHER_SUITES, GETTERS, SETTERS
from quicfs.transport.state import OPEN, State
from quicfs.transport.stats import ConnectionStats
from quicfs.transport.uapi import SockOpt

CryptoReader = Callable[[int, bytes], None]

_INTERNAL_ERROR = 80  # TLS alert (RFC 8446 §6.2)


class QuicSocket(DataSocket):
    """A listening socket, or one connection. Belongs to the event loop it was made in.

    Errors are OSErrors with the numbers that the kernel's socket would give; `ClosedError` (a ConnectionError)
    once the connection is over.
    """

    def __init__(self, net: HandshakeNet, *, config: ConnectionConfig | None = None) -> None:
        super().__init__()
        self.net = net
        self.config = config if config is not None else ConnectionConfig()
        self.options = uapi.Config(
            receive_session_ticket=0,
            congestion_control_algo=self.config.congestion,
        )
        self.alpn: tuple[bytes, ...] = ()
        self.event_mask = 0  # bit n: event n
        self.resume = Resume()
        self.phrase: uapi.ConnectionClose | None = None  # why the agent gave up
        self._request: HandshakeRequest | None = None
        self._bound: tuple[str, int] | None = None
        self._listener: Listener | None = None
        self._backlog = 0
        self._accepted: Fifo[QuicSocket] = Fifo()
        self._crypto_reader: CryptoReader | None = None
        self._closed = False

    # --- addresses

    def bind(self, address: tuple[str, int]) -> None:
        """`(host, port)`; an empty host is every address, IPv4 and IPv6."""
        if self._driver is not None:
            raise OSError(errno.EINVAL, "the socket is bound already")
        self._bound = address

    def getsockname(self) -> Address:
        if self._driver is None:
            raise OSError(errno.EBADF, "the socket has no address yet")
        return self._driver.local_address(self._conn)

    def getpeername(self) -> Address:
        return self.connection.path.remote

    @property
    def listening(self) -> bool:
        return self._listener is not None

    @property
    def handshaking(self) -> bool:
        """Whether a handshake was asked for; it may be over."""
        return self._request is not None

    @property
    def connected(self) -> bool:
        return self._conn is not None

    def stats(self) -> ConnectionStats:
        """What the connection has done so far, in numbers; also after its end."""
        return self.connection.stats

    # --- listening

    def listen(self, backlog: int = limits.ACCEPT_BACKLOG) -> None:
        """Take connections whose ALPN offer holds one of ours. Sockets of one process share a UDP port."""
        if not self.alpn:
            raise OSError(errno.EINVAL, "set ALPN before listen")
        if self._bound is None:
            raise OSError(errno.EINVAL, "bind before listen")
        self._backlog = max(1, backlog)
        driver = _shared_driver(self.net, self._bound, self.config.reset_key)
        listener = Listener(
            self.alpn,
            self._effective_config(),
            self._on_accept,
            validate_address=bool(self.options.validate_peer_address),
        )
        driver.acquire()
        try:
            driver.listen(listener)
        except OSError:
            driver.release()
            raise
        self._driver, self._listener = driver, listener

    def _on_accept(self, conn: Connection, alpn: bytes) -> bool:
        if len(self._accepted) >= self._backlog or self._driver is None:
            return False
        accepted = QuicSocket(self.net, config=self.config)
        accepted.alpn = self.alpn
        accepted.options = self.options
        accepted.resume.secret = self.resume.secret
        accepted.event_mask = self.event_mask
        accepted._take(self._driver, conn)
        self._accepted.append(accepted)
        self._arrived.wake()
        return True

    async def accept(self) -> QuicSocket:
        """The next connection that asked for our ALPN; its handshake has not begun."""
        if self._listener is None:
            raise OSError(errno.EINVAL, "listen before accept")
        while not self._accepted:
            if self._closed:
                raise OSError(errno.EBADF, "the socket is closed")
            await self._arrived.wait()
        return self._accepted.popleft()

    # --- connecting

    async def connect(self, address: tuple[str, int]) -> None:
        """Prepare a connection to `(host, port)`; nothing is sent before the handshake request.

        Raises OSError when the name does not resolve or the address cannot be reached.
        """
        if self._conn is not None or self._listener is not None:
            raise OSError(errno.EISCONN, "the socket is in use")
        if not self.alpn:
            raise OSError(errno.EINVAL, "set ALPN before connect")
        family, remote = await resolve(*address)
        driver = Driver(family, self._bound, remote)
        conn = driver.connect(remote, self._effective_config(), self._on_progress, token=self.resume.token)
        self._take(driver, conn)
        remembered = self.resume.early_parameters(conn.version)
        if self.options.early_data and remembered is not None:
            conn.prepare_early_data(remembered)

    def _effective_config(self) -> ConnectionConfig:
        version = self.options.version  # the best one, if it is set
        return replace(
            self.config,
            congestion=self.options.congestion_control_algo,
            keep_alive=self.options.keepalive_probe_interval / 1e6 or self.config.keep_alive,
            initial_rtt=self.options.initial_smoothed_rtt / 1e6 or self.config.initial_rtt,
            version=version or self.config.version,
            versions=tuple(sorted(self.config.versions, key=lambda spoken: spoken != version)),
            mtu_raise_interval=self.options.plpmtud_probe_interval / 1e6 or self.config.mtu_raise_interval,
        )

    def _take(self, driver: Driver, conn: Connection) -> None:
        self._driver = driver
        self._conn = conn
        conn.events.mask = self.event_mask
        driver.acquire()
        driver.own(conn, self._on_progress)

    async def handshake(self, request: HandshakeRequest) -> HandshakeResult:
        """Ask an agent for the TLS handshake and wait for it, or for the end of the connection.

        HandshakeError (an OSError) if TLS fails here or at the peer, ClosedError if the connection does.
        """
        conn = self.connection
        self._request = request
        self.resume.use()
        task = self.loop.create_task(self.net.handshake(self, request))
        try:
            while not task.done():
                waiter = self._arrived.add()
                try:
                    either: set[asyncio.Future[Any]] = {task, waiter}
                    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._arrived.discard(waiter)
                if not task.done() and conn.state not in OPEN:
                    if not self._may_begin_anew(conn):
                        raise self._refusal() or self._end()
                    task.cancel()
                    await asyncio.wait({task})
                    conn = self._begin_anew(conn)
                    task = self.loop.create_task(self.net.handshake(self, request))
            return task.result()
        except BaseException as error:
            task.cancel()
            self._fail_handshake(error)
            raise

    def _may_begin_anew(self, conn: Connection) -> bool:
        """The server speaks another version of QUIC that we speak too, and no early data hang on this connection."""
        return conn.versions.next is not None and conn.early.state is EarlyState.NONE

    def _begin_anew(self, conn: Connection) -> Connection:
        """In that version, with a ClientHello that says so (RFC 9368 §2.1)."""
        assert self._driver is not None
        again = self._conn = self._driver.restart(conn, self._on_progress)
        again.events.mask = self.event_mask
        return again

    def _refusal(self) -> HandshakeError | None:
        """What to say when the peer's TLS ended the connection; None if something else did."""
        closed = self.connection.closed
        request = self._request
        if closed is None or request is None or not closed.remote or closed.is_application:
            return None
        if not 0 <= closed.code - TransportErrorCode.CRYPTO_ERROR <= 0xFF:
            return None
        phrase = closed.reason.encode()[: uapi.PHRASE_MAX_LEN]
        return peer_alert_error(
            uapi.ConnectionClose(closed.code, 0, phrase), request.peername, request.message_type
        )

    def _end(self) -> ClosedError:
        """Why the connection is over. A server may refuse a client's certificate after `handshake` returned."""
        closed = self.connection.closed
        if closed is None:
            return ClosedError(TransportErrorCode.NO_ERROR, False, "closed", remote=False)
        refusal = self._refusal()
        if refusal is not None:
            return ClosedError(closed.code, False, str(refusal), remote=True)
        return closed

    def _fail_handshake(self, error: BaseException) -> None:
        conn = self.connection
        if conn.state not in OPEN:
            return
        code, reason = TransportErrorCode.CRYPTO_ERROR + _INTERNAL_ERROR, ""
        if self.phrase is not None:
            code, reason = self.phrase.errcode, self.phrase.phrase.decode("utf-8", "replace")
        elif isinstance(error, asyncio.CancelledError):
            code = TransportErrorCode.NO_ERROR
        conn.close(self.loop.time(), code, reason)
        self._kick()

    @property
    def early_data(self) -> EarlyState:
        """What became of 0-RTT. A server may refuse what is not safe to repeat as long as `QuicStream.early` says that
        it came in 0-RTT packets and `handshake` has not returned: until then it may be a replay."""
        return self.connection.early.state

    def tls_failed(self) -> None:
        phrase = self.phrase
        if phrase is not None:
            reason = phrase.phrase.decode("utf-8", "replace")
            self.connection.close(self.loop.time(), phrase.errcode, reason, frame_type=phrase.frame)
            self._kick()
            self._on_progress()

    def handshake_done(self) -> None:
        self.connection.handshake_complete(self.loop.time())
        self.resume.forget()
        if self._driver is not None:
            self._driver.replay(self.connection)

    # --- HandshakePort, and options

    def getsockopt(self, optname: int, value: bytes = b"") -> bytes:
        """The option's structure as bytes (`uapi`). OSError ENOPROTOOPT for one that cannot be read.

        `value` says what is asked for, where the option has more to give than one thing: a structure of its type.
        """
        getter = GETTERS.get(SockOpt(optname)) if optname in SockOpt._value2member_map_ else None
        if getter is None:
            raise OSError(errno.ENOPROTOOPT, f"option {optname} cannot be read")
        try:
            return getter(self, value)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error

    def setsockopt(self, optname: int, value: bytes) -> None:
        """Set an option from its structure (`uapi`). OSError EINVAL for a value that is not allowed."""
        setter = SETTERS.get(SockOpt(optname)) if optname in SockOpt._value2member_map_ else None
        if setter is None:
            raise OSError(errno.ENOPROTOOPT, f"option {optname} cannot be set")
        try:
            setter(self, value)
        except (ValueError, MisuseError) as error:
            raise OSError(errno.EINVAL, str(error)) from error
        except ProtocolViolation as violation:
            self.connection.close(
                self.loop.time(), violation.code, violation.reason, frame_type=violation.frame_type
            )
            self._kick()
            raise OSError(errno.EPROTO, violation.reason) from violation

    def subscribe(self, event: uapi.Event, *, on: bool) -> None:
        """Have `recvmsg` return notifications of `event`, or not any more. Accepted sockets begin with what
        their listener wants."""
        self.event_mask = self.event_mask | 1 << event if on else self.event_mask & ~(1 << event)
        if self._conn is not None:
            self._conn.events.mask = self.event_mask

    def attach_crypto_reader(self, callback: CryptoReader | None) -> None:
        self._crypto_reader = callback
        self._deliver_crypto()

    def install_secret(self, secret: uapi.CryptoSecret) -> None:
        if secret.level == uapi.CryptoLevel.EARLY and secret.send and not secret.type:
            self.connection.refuse_early_data()
            return
        suite = CIPHER_SUITES.get(secret.type)
        if suite is None:
            raise ValueError(f"cipher type {secret.type} is not known")
        conn = self.connection
        conn.install_secret(secret.level, suite, secret.material, send=bool(secret.send))
        if not secret.send and self._driver is not None and conn.undecryptable:
            self.loop.call_soon(self._driver.replay, conn)
        self._kick()

    def update_keys(self) -> None:
        """Begin a key update; MisuseError while it is not permitted."""
        self.connection.update_keys(self.loop.time())
        self._kick()

    def rotate_connection_ids(self, wish: uapi.ConnectionIdInfo) -> None:
        """Use others of the peer's connection IDs, or have ours retired; MisuseError if there are none."""
        rotation.apply(self.connection, wish, self.loop.time())
        self._kick()

    def migrate(self, address: Address) -> None:
        """A connected client moves to a local address, as the socket module has it (port 0: any free one), once the
        path is validated: the event CONNECTION_MIGRATION says so. Before `listen` it is the address to which a
        server invites its clients (RFC 9000 §9.6).

        OSError if the address is not ours or the server cannot be reached from there, MisuseError if the server
        allows no migration or the connection is not ready for it.
        """
        if self._conn is not None and self._driver is not None:
            self._driver.migrate(self._conn, address)
        elif self._listener is not None:
            raise OSError(errno.EINVAL, "the preferred address is set before listen")
        elif not address[1]:
            raise OSError(errno.EINVAL, "a preferred address needs a port")
        elif ":" in address[0]:
            self.config = replace(self.config, preferred_ipv6=address[:2])
        else:
            self.config = replace(self.config, preferred_ipv4=address)

    @property
    def _delivers_crypto(self) -> bool:
        conn = self.connection
        return self._request is None and self._crypto_reader is None and conn.state is State.HANDSHAKE

    def set_ticket(self, value: bytes) -> None:
        """A client's ticket before the handshake, or a new one from the agent; on a listener its tickets' secret."""
        version = self._conn.version if self._conn is not None else uapi.QUIC_VERSION_1
        if self.resume.set_ticket(value, version):
            self.connection.emit(uapi.Event.NEW_SESSION_TICKET, self.resume.ticket(version))
            self._on_progress()

    def _deliver_crypto(self) -> None:
        conn = self._conn
        if conn is None:
            return
        if self._crypto_reader is not None:
            while conn.crypto_received and self._crypto_reader is not None:
                self._crypto_reader(*conn.crypto_received.popleft())
        elif conn.state is not State.HANDSHAKE:
            # TLS is over. What comes now are session tickets, for which nobody has asked.
            conn.crypto_received.clear()

    # --- from the driver

    def _on_progress(self) -> None:
        conn = self._conn
        if conn is None:
            return
        if conn.crypto_received:
            self._deliver_crypto()
        self._note_data(conn)
        if conn.state not in OPEN:
            self._note_end()

    # --- the end

    async def close(self, code: int | None = None, phrase: str | None = None) -> None:
        """Close at once: the connection with an application's code, or the listener. Twice is allowed.

        Code and phrase are those of the option CONNECTION_CLOSE where they are not given, or 0 and none.
        What the peer has not acknowledged may be lost; `QuicStream.drained` waits for that.
        """
        if self._closed:
            return
        self._closed = True
        self._arrived.wake()
        driver = self._driver
        if driver is None:
            return
        if self._listener is not None:
            driver.unlisten(self._listener)
            for waiting in self._accepted:
                await waiting.close()
            self._accepted.clear()
        if self._conn is not None:
            set_before = self.phrase or uapi.ConnectionClose(0)
            code = set_before.errcode if code is None else code
            phrase = set_before.phrase.decode("utf-8", "replace") if phrase is None else phrase
            self._conn.close(self.loop.time(), code, phrase, frame_type=None)
            self._kick()
            self.net.release(self)  # not before: a ticket may be with the agent when the peer closes
            self._let_go()
        driver.release()

    async def wait_closed(self) -> None:
        """After `close` of every socket on this UDP port: wait until the port is free, which is at once unless
        the kernel's buffer is full."""
        if self._driver is not None:
            await self._driver.wait_closed()


_DRIVERS: WeakKeyDictionary[HandshakeNet, dict[tuple[str, int], Driver]] = WeakKeyDictionary()


def _shared_driver(net: HandshakeNet, address: tuple[str, int], reset_key: bytes | None) -> Driver:
    """The one driver of a local address: several listeners share its UDP port, and the key of the first of them."""
    drivers = _DRIVERS.setdefault(net, {})
    driver = drivers.get(address)
    if driver is None or driver.closed:
        host, port = address
        family = _socket.AF_INET if "." in host else _socket.AF_INET6
        driver = Driver(family, (host or "::", port), reset_key=reset_key)
        drivers[host, driver.local_address()[1]] = driver
    return driver
