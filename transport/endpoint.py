"""An endpoint: every connection that shares one UDP port (RFC 9000 §5.2).

Sans-IO. It routes datagrams by connection ID, answers those that belong to nobody (Version Negotiation, Retry,
stateless reset), and gives each new connection to the listener that asked for what the client offers in ALPN.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Final

from quicfs.transport import limits, packet, versions
from quicfs.transport.arrival import Arrival
from quicfs.transport.builder import Transmit
from quicfs.transport.client_hello import ClientHello, parse_client_hello
from quicfs.transport.config import ConnectionConfig
from quicfs.transport.conn import Connection
from quicfs.transport.crypto import CipherSuite, Keys, initial_secrets
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame import write_connection_close
from quicfs.transport.frame_type import FrameType
from quicfs.transport.packet import LongHeader, PacketType
from quicfs.transport.path import Address
from quicfs.transport.protection import TAG_LENGTH
from quicfs.transport.state import OPEN, State
from quicfs.transport.token import NONCE_LENGTH, TokenKind, TokenSealer, UsedTokens, token_kind
from quicfs.transport.uapi import CryptoLevel

_NO_APPLICATION_PROTOCOL: Final = TransportErrorCode.CRYPTO_ERROR + 120  # RFC 7301 §3.2
_MIN_CLIENT_DCID: Final = 8  # RFC 9000 §7.2

Accept = Callable[[Connection, bytes], bool]
"""`(connection, ALPN)`: takes a new connection; False if there is no room for it."""


class Listener:
    """What a listening socket asked for."""

    __slots__ = ("accept", "alpn", "config", "validate_address")

    def __init__(
        self,
        alpn: tuple[bytes, ...],
        config: ConnectionConfig,
        accept: Accept,
        *,
        validate_address: bool = False,
    ) -> None:
        self.alpn = alpn
        self.config = config
        self.accept = accept
        self.validate_address = validate_address


class Endpoint:
    """`entropy(n)` gives n unpredictable bytes; `mtu_of(remote)` the largest UDP payload towards an address.

    `reset_key` is a secret of 32 bytes for stateless resets. An endpoint that comes back with the same one
    resets the connections that it has forgotten; by default it is made anew.
    """

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        *,
        mtu_of: Callable[[Address], int] = lambda remote: limits.MAX_UDP_PAYLOAD,
        reset_key: bytes | None = None,
    ) -> None:
        self._entropy = entropy
        self._mtu_of = mtu_of
        fresh = entropy(32)
        self._reset_key = reset_key or fresh
        # Of this life only, as is the memory of those that were used.
        self._tokens = TokenSealer(hmac.digest(fresh, b"address validation tokens", sha256))
        self._used_tokens = UsedTokens(limits.MAX_USED_TOKENS, limits.NEW_TOKEN_LIFETIME)
        self._by_cid: dict[bytes, Connection] = {}
        self._cids: dict[Connection, set[bytes]] = {}
        self._by_remote: dict[Address, list[Connection]] = {}
        self._half_open: set[Connection] = set()
        self._unrouted: dict[Connection, Arrival] = {}
        self._listeners: list[Listener] = []
        self._replies: deque[Transmit] = deque()
        self._scratch = memoryview(bytearray(limits.TRAIN_BYTES))
        self._answers = 0  # stateless ones, in the second `_answers_since`
        self._answers_since = 0.0

    # --- owners

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._cids)

    @property
    def connections(self) -> Iterable[Connection]:
        return self._cids

    def listen(self, listener: Listener) -> None:
        """Several listeners may ask for the same protocol; the first of them gets the connections."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        self._listeners.remove(listener)

    @property
    def listening(self) -> bool:
        return bool(self._listeners)

    def connect(
        self,
        now: float,
        remote: Address,
        config: ConnectionConfig,
        *,
        local: Address = None,
        token: bytes = b"",
    ) -> Connection:
        """A new client connection; it has something to transmit once TLS has."""
        conn = self._connect(
            now, remote, local, config, config.version or config.versions[0], after_negotiation=False
        )
        conn.token = token
        return conn

    def restart(self, now: float, conn: Connection) -> Connection:
        """A client's connection ended because the server named other versions: it begins anew (RFC 9368 §2.1)."""
        version = conn.versions.next
        assert version is not None
        return self._connect(
            now, conn.path.remote, conn.path.local, conn.config, version, after_negotiation=True
        )

    def _connect(
        self,
        now: float,
        remote: Address,
        local: Address,
        config: ConnectionConfig,
        version: int,
        *,
        after_negotiation: bool,
    ) -> Connection:
        dcid = self._entropy(limits.LOCAL_CID_LENGTH)
        return self._create(
            config,
            now,
            is_server=False,
            remote=remote,
            local=local,
            peer_cid=dcid,
            original_dcid=dcid,
            version=version,
            after_negotiation=after_negotiation,
        )

    def forget(self, conn: Connection) -> None:
        """The connection is CLOSED; its IDs are free (the reset token still answers for them)."""
        for cid in self._cids.pop(conn, ()):
            self._by_cid.pop(cid, None)
        for remote in conn.paths.remotes:
            self._forget_remote(remote, conn)
        self._half_open.discard(conn)
        self._unrouted.pop(conn, None)
        if conn.trace is not None:
            conn.trace.close()

    def _forget_remote(self, remote: Address, conn: Connection) -> None:
        neighbours = self._by_remote.get(remote, [])
        if conn in neighbours:
            neighbours.remove(conn)
            if not neighbours:
                del self._by_remote[remote]

    # --- datagrams

    def handle(
        self, now: float, data: memoryview, segment_size: int, remote: Address, local: Address, ecn: int
    ) -> list[Connection]:
        """A train came; returns the connections that it concerned. `data` is changed in place."""
        total = len(data)
        touched: list[Connection] = []
        start = 0
        while start < total:
            stop = min(start + segment_size, total)
            if data[start] & 0x80:
                conn = self._route_long(now, data, start, stop, remote, local)
            else:
                if not start and _same_connection(data, segment_size):
                    stop = total
                cid = bytes(data[start + 1 : start + 1 + limits.LOCAL_CID_LENGTH])
                conn = self._by_cid.get(cid)
                if conn is None:
                    conn = self._find_reset(now, data[start:stop], remote)
                    if conn is None:
                        self._answer_stateless_reset(now, data[start:stop], segment_size, remote, local)
                    else:
                        touched.append(conn)
                    start = stop
                    continue
            if conn is not None:
                if self._unrouted and conn in self._unrouted:
                    arriving = conn
                    conn = self._handle_arriving(
                        now, conn, data[start:stop], segment_size, ecn, remote, local
                    )
                    if conn is not arriving and arriving in touched:
                        touched.remove(arriving)  # forgotten; it must not say a word
                else:
                    conn.handle_burst(now, data[start:stop], segment_size, ecn, self._scratch, remote, local)
                    self._after(now, conn)
                if conn is not None and conn not in touched:
                    touched.append(conn)
            start = stop
        return touched

    def _handle_arriving(
        self,
        now: float,
        conn: Connection,
        data: memoryview,
        segment_size: int,
        ecn: int,
        remote: Address,
        local: Address,
    ) -> Connection | None:
        """Datagrams of a client that is not routed yet; returns the connection that it has then, if any."""
        arrival = self._unrouted[conn]
        if len(self._listeners) > 1:
            arrival.keep(data, segment_size, ecn)
        conn.handle_burst(now, data, segment_size, ecn, self._scratch, remote, local)
        if conn.initial.received.largest < 0:
            self.forget(conn)  # a forged Initial: nothing in it was authentic
            return None
        routed = self._route_by_alpn(now, conn, arrival)
        if routed is not None:
            self._after(now, routed)
        return routed

    @property
    def has_replies(self) -> bool:
        return bool(self._replies)

    def poll_reply(self) -> Transmit | None:
        """An answer that belongs to no connection."""
        return self._replies.popleft() if self._replies else None

    def replay(self, now: float, conn: Connection) -> None:
        """Keys came for `conn`: datagrams that waited for them are looked at again."""
        conn.replay_undecryptable(now, self._scratch)
        self._after(now, conn)

    def _after(self, now: float, conn: Connection) -> None:
        for cid in conn.local_cids.retired:
            self._by_cid.pop(cid, None)
            self._cids[conn].discard(cid)
        conn.local_cids.retired.clear()
        # Those that were refused count until they are forgotten: who invents clients must not be spared the Retry.
        if conn.state is State.CONNECTED and conn in self._half_open:
            self._half_open.discard(conn)
            self._issue_token(now, conn)

    def _issue_token(self, now: float, conn: Connection) -> None:
        """For the client's next connection (RFC 9000 §8.1.3)."""
        token = self._tokens.seal_new_token(
            conn.path.remote[0], conn.version, now, self._entropy(NONCE_LENGTH)
        )
        conn.queue_control(FrameType.NEW_TOKEN, token)

    def _find_reset(self, now: float, datagram: memoryview, remote: Address) -> Connection | None:
        """A stateless reset carries an ID that nobody knows: only its token tells whom it is for (RFC 9000 §10.3.1)."""
        for conn in self._by_remote.get(remote, ())[-limits.MAX_RESET_SUSPECTS :]:
            if conn.handle_maybe_reset(now, datagram[-packet.STATELESS_RESET_TOKEN_LENGTH :]):
                return conn
        return None

    # --- connection IDs

    def _create(
        self,
        config: ConnectionConfig,
        now: float,
        *,
        is_server: bool,
        remote: Address,
        local: Address,
        peer_cid: bytes,
        original_dcid: bytes,
        retry_scid: bytes | None = None,
        address_validated: bool = False,
        version: int = packet.VERSION_1,
        after_negotiation: bool = False,
    ) -> Connection:
        cids: set[bytes] = set()

        made: list[Connection] = []  # empty while it is being made

        def issue() -> tuple[bytes, bytes]:
            cid = self._entropy(limits.LOCAL_CID_LENGTH)
            cids.add(cid)
            for conn in made:
                self._by_cid[cid] = conn
            return cid, self._reset_token(cid)

        def on_remote(remote: Address, known: bool) -> None:
            if known:
                self._by_remote.setdefault(remote, []).append(conn)
            else:
                self._forget_remote(remote, conn)

        first = self._entropy(limits.LOCAL_CID_LENGTH)
        conn = Connection(
            config,
            now,
            is_server=is_server,
            remote=remote,
            local=local,
            local_cid=(first, self._reset_token(first)),
            peer_cid=peer_cid,
            original_dcid=original_dcid,
            issue_cid=issue,
            on_remote=on_remote,
            entropy=self._entropy,
            retry_scid=retry_scid,
            address_validated=address_validated,
            mtu_bound=self._mtu_of(remote),
            version=version,
            after_negotiation=after_negotiation,
        )
        made.append(conn)
        cids.add(first)
        self._by_cid.update(dict.fromkeys(cids, conn))
        self._cids[conn] = cids
        self._by_remote.setdefault(remote, []).append(conn)
        return conn

    def _reset_token(self, cid: bytes) -> bytes:
        """RFC 9000 §10.3.2: from the ID and a static key, so that it needs no state."""
        return hmac.digest(self._reset_key, cid, sha256)[: packet.STATELESS_RESET_TOKEN_LENGTH]

    # --- new connections

    def _route_long(
        self, now: float, data: memoryview, start: int, stop: int, remote: Address, local: Address
    ) -> Connection | None:
        try:
            header = packet.parse_long_header(data, start, stop)
        except ProtocolViolation:
            # RFC 9000 §8.1: what a server may send counts what comes for a connection, be it discarded or not
            dcid = packet.long_header_dcid(data, start, stop)
            return self._by_cid.get(dcid) if dcid else None
        conn = self._by_cid.get(header.dcid)
        if conn is not None:
            return conn
        if not self._listeners or stop - start < limits.MIN_INITIAL_DATAGRAM:
            return None  # RFC 9000 §14.1: an Initial in a smaller datagram is dropped
        # RFC 9000 §6.1: no answer to a Version Negotiation packet, or two endpoints would go on for ever
        if header.packet_type is PacketType.VERSION_NEGOTIATION:
            return None
        if header.version not in self._versions():
            self._answer_version(now, header, remote, local)
            return None
        if header.packet_type is not PacketType.INITIAL or len(header.dcid) < _MIN_CLIENT_DCID:
            return None
        # RFC 9287 §3.1: only a client with a token of ours can know that the Fixed Bit may have any value
        if not header.fixed_bit and not header.token:
            return None
        return self._new_server_connection(now, header, remote, local)

    def _new_server_connection(
        self, now: float, header: LongHeader, remote: Address, local: Address
    ) -> Connection | None:
        original_dcid: bytes | None = None
        validated = False
        if header.token:
            original_dcid = self._tokens.open_retry(
                header.token, remote[0], remote[1], header.dcid, now, limits.RETRY_TOKEN_LIFETIME
            )
            # RFC 9000 §8.1.3: a Retry token that is not valid -> INVALID_TOKEN
            if original_dcid is None and token_kind(header.token) is TokenKind.RETRY:
                self._refuse(header, TransportErrorCode.INVALID_TOKEN, remote, local)
                return None
            validated = original_dcid is not None or self._proves_address(now, header, remote)
        if not validated:
            if len(self._half_open) >= limits.RETRY_ABOVE or all(
                listener.validate_address for listener in self._listeners
            ):
                self._answer_retry(now, header, remote, local)
                return None
        elif len(self._half_open) >= limits.MAX_HALF_OPEN:
            self._refuse(header, TransportErrorCode.CONNECTION_REFUSED, remote, local)
            return None
        first = self._listeners[0]
        return self._begin(
            now,
            Arrival(header, remote, local, first, original_dcid=original_dcid, validated=validated),
        )

    def _begin(self, now: float, arrival: Arrival) -> Connection:
        """A connection with the configuration of the arrival's listener."""
        header = arrival.header
        conn = self._create(
            replace(arrival.listener.config),
            now,
            is_server=True,
            remote=arrival.remote,
            local=arrival.local,
            peer_cid=header.scid,
            original_dcid=arrival.original_dcid or header.dcid,
            retry_scid=header.dcid if arrival.original_dcid is not None else None,
            address_validated=arrival.validated,
            version=header.version,
        )
        # Until the client learns our ID its packets come to the one that it made up.
        self._by_cid[header.dcid] = conn
        self._cids[conn].add(header.dcid)
        conn.accepted_cids.add(header.dcid)
        self._half_open.add(conn)
        self._unrouted[conn] = arrival
        return conn

    def _proves_address(self, now: float, header: LongHeader, remote: Address) -> bool:
        """A token of an earlier connection; one that is not good is as good as none (RFC 9000 §8.1.3)."""
        return self._tokens.open_new_token(
            header.token, remote[0], header.version, now, limits.NEW_TOKEN_LIFETIME
        ) and self._used_tokens.use(header.token, now)

    def _route_by_alpn(self, now: float, conn: Connection, arrival: Arrival) -> Connection | None:
        """Give the connection to its listener if the ClientHello is complete."""
        if conn.state not in OPEN:
            self._unrouted.pop(conn, None)
            return conn
        try:
            hello = parse_client_hello(conn.crypto_received.of(CryptoLevel.INITIAL))
        except ProtocolViolation as violation:
            self._unrouted.pop(conn, None)
            conn.close(now, violation.code, violation.reason, frame_type=violation.frame_type)
            return conn
        if hello is None:
            if len(self._listeners) > 1:
                # Once a client has heard of us it takes no Retry any more (RFC 9000 §17.2.5.2).
                conn.initial.received.hold()
            return conn
        for listener in self._listeners:
            for alpn in hello.alpn:
                if alpn in listener.alpn:
                    return self._give(now, conn, arrival, listener, alpn, hello)
        # RFC 9001 §8.1: no common protocol -> no_application_protocol
        self._unrouted.pop(conn, None)
        conn.close(now, _NO_APPLICATION_PROTOCOL, "nobody here speaks the protocols that were offered")
        return conn

    def _give(
        self,
        now: float,
        conn: Connection,
        arrival: Arrival,
        listener: Listener,
        alpn: bytes,
        hello: ClientHello,
    ) -> Connection | None:
        if listener.validate_address and not arrival.validated:
            self.forget(conn)
            self._answer_retry(now, arrival.header, arrival.remote, arrival.local)
            return None
        if listener is not arrival.listener:
            # It has said nothing yet, so it can begin again as this listener's.
            self.forget(conn)
            arrival.listener = listener
            conn = self._begin(now, arrival)
            for datagram, ecn in arrival.datagrams:
                view = memoryview(bytearray(datagram))
                conn.handle_burst(now, view, len(view), ecn, self._scratch, arrival.remote, arrival.local)
        self._unrouted.pop(conn, None)
        arrival.datagrams.clear()
        if conn.state not in OPEN:
            return conn
        versions.choose(conn, listener.config, hello.transport_parameters)
        if not listener.accept(conn, alpn):
            conn.close(now, TransportErrorCode.CONNECTION_REFUSED, "too many connections wait")
        return conn

    # --- answers without state

    def _may_answer(self, now: float) -> bool:
        if now - self._answers_since >= 1.0:
            self._answers_since, self._answers = now, 0
        self._answers += 1
        return self._answers <= limits.RESETS_PER_SECOND

    def _reply(self, data: bytes, remote: Address, local: Address) -> None:
        self._replies.append(Transmit(memoryview(data), len(data), remote, local, 0))

    def _versions(self) -> dict[int, None]:
        """What the listeners speak."""
        return dict.fromkeys(version for listener in self._listeners for version in listener.config.versions)

    def _answer_version(self, now: float, header: LongHeader, remote: Address, local: Address) -> None:
        if self._may_answer(now):
            unused = self._entropy(1)[0]
            offered = (
                *self._versions(),
                0x0A0A0A0A | int.from_bytes(self._entropy(4), "big") & 0xF0F0F0F0,
            )
            self._reply(
                packet.write_version_negotiation(header.scid, header.dcid, offered, unused), remote, local
            )

    def _answer_retry(self, now: float, header: LongHeader, remote: Address, local: Address) -> None:
        entropy = self._entropy(limits.LOCAL_CID_LENGTH + NONCE_LENGTH + 1)  # at once: a flood asks for many
        scid, nonce = entropy[: limits.LOCAL_CID_LENGTH], entropy[limits.LOCAL_CID_LENGTH : -1]
        token = self._tokens.seal_retry(remote[0], remote[1], header.dcid, scid, now, nonce)
        retry = packet.write_retry(header.version, header.scid, scid, token, header.dcid, entropy[-1])
        self._reply(retry, remote, local)

    def _refuse(self, header: LongHeader, code: int, remote: Address, local: Address) -> None:
        """CONNECTION_CLOSE in an Initial packet, without keeping state (RFC 9000 §5.2.2)."""
        _, secret = initial_secrets(header.version, header.dcid)
        keys = Keys(CipherSuite.AES_128_GCM, secret, header.version)
        payload = write_connection_close(code, 0, "", 64)
        length = 1 + len(payload) + TAG_LENGTH
        head = packet.write_long_header(
            PacketType.INITIAL, header.version, header.scid, header.dcid, b"", 0, 1, length
        )
        out = memoryview(bytearray(len(head) + length))
        end = keys.seal_run(out, 0, head[:-1], 0, 1, (payload,))
        self._reply(bytes(out[:end]), remote, local)

    def _answer_stateless_reset(
        self, now: float, data: memoryview, segment_size: int, remote: Address, local: Address
    ) -> None:
        # RFC 9000 §10.3.3: smaller than what triggered it, and few, so that two endpoints do not go on for ever
        size = min(len(data), segment_size) - 1
        if size < packet.MIN_STATELESS_RESET_LENGTH or not self._may_answer(now):
            return
        size = min(size, 43)
        cid = bytes(data[1 : 1 + limits.LOCAL_CID_LENGTH])
        self._reply(
            packet.write_stateless_reset(size, self._reset_token(cid), self._entropy(size)), remote, local
        )


def _same_connection(data: memoryview, segment_size: int) -> bool:
    """Whether all datagrams of a train have short headers with the connection ID of the first.

    Looks at one byte of all datagrams at a time: nine steps for a train of any length.
    """
    if len(data) <= segment_size:
        return True
    rest = len(data) % segment_size
    if 0 < rest <= limits.LOCAL_CID_LENGTH or segment_size <= limits.LOCAL_CID_LENGTH:
        return False
    if max(data[::segment_size].tobytes()) >= 0x80:
        return False
    for position in range(1, 1 + limits.LOCAL_CID_LENGTH):
        column = data[position::segment_size].tobytes()
        if column.count(column[0]) != len(column):
            return False
    return True
