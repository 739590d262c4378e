"""Path validation and migration (RFC 9000 §8.2, §9).

A peer that moved is followed at once and its new address challenged; until it answers, it gets at most three times
what came from there. The path that it left is challenged too: if the move was not the peer's own but that of
someone who copied a packet, the peer's answer on the old path brings the connection back (§9.3.3). An address that
does not answer is given up for the last one that did.

We ourselves move the other way round: the new path is challenged first, and used once it has answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quicfs.transport import limits
from quicfs.transport.builder import PacketBuilder, Transmit
from quicfs.transport.connid import ConnectionId
from quicfs.transport.errors import MisuseError
from quicfs.transport.frame import (
    FRAME_CODECS,
    PATH_DATA_LENGTH,
    parse_frame,
    write_path_challenge,
    write_path_response,
)
from quicfs.transport.packet import PacketType, packet_number_length
from quicfs.transport.path import Address, Challenge, Path, make_path
from quicfs.transport.paths import News
from quicfs.transport.rtt import INITIAL_RTT, RttEstimator
from quicfs.transport.seal import seal_short, short_overhead
from quicfs.transport.sent import SentRun
from quicfs.transport.state import OPEN
from quicfs.transport.timer import Timer
from quicfs.transport.uapi import Event

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection
    from quicfs.transport.protection import Opened

_PING: Final = b"\x01"
_FRAME: Final = 1 + PATH_DATA_LENGTH


def new_path(
    conn: Connection, remote: Address, local: Address, *, validated: bool = False, limited: bool
) -> Path:
    config = conn.config
    bound = conn.mtu_bound if config.probe_mtu else limits.MIN_INITIAL_DATAGRAM
    if conn.peer is not None:
        bound = min(bound, conn.peer.max_udp_payload_size)
    return make_path(
        remote,
        local,
        algorithm=config.congestion,
        initial_rtt=config.initial_rtt,
        mtu_bound=bound,
        mtu_raise_interval=config.mtu_raise_interval,
        ecn=config.ecn,
        validated=validated,
        limited=limited,
    )


# --- receiving


def path_of(conn: Connection, remote: Address, local: Address) -> Path | None:
    """The path of a train that did not come on the active one. It is not known yet if nothing authentic came on it;
    None for an address that a client does not speak with (§9: it discards such packets)."""
    path = conn.paths.find(remote, local)
    # A server that has not heard yet where its client went still sends to an address that the client has given up.
    if path is None and (conn.is_server or remote in conn.paths.remotes):
        path = new_path(conn, remote, local, limited=True)
    return path


def inspect(conn: Connection, opened: Opened) -> None:
    """Look at 1-RTT packets that came on another path than the active one, before they are processed."""
    paths = conn.paths
    received = conn.application.received
    for pn, _, payload in opened:
        if not received.is_new(pn):
            continue  # a copy: whoever sent it again does not speak for the peer
        # §9.3: only the packet with the highest number tells where the peer is
        if pn > received.largest and not _is_probing(payload):
            paths.news = News.NON_PROBING
        paths.news = max(paths.news, News.PROBING)


def _is_probing(payload: memoryview) -> bool:
    """§9.1: whether there is nothing in a packet but probing frames."""
    pos = 0
    while pos < len(payload):
        frame_type, _, pos = parse_frame(payload, pos, len(payload), PacketType.ONE_RTT)
        if not FRAME_CODECS[frame_type].probing:
            return False
    return True


def after_train(conn: Connection, path: Path, now: float) -> None:
    """A train that came on `path`, which is not the active one, was processed."""
    news, conn.paths.news = conn.paths.news, News.NONE
    if news is News.NONE or conn.state not in OPEN:
        return
    if path not in conn.paths:
        if not (conn.is_server and _admit(conn, path)):
            return
    elif path.peer_cid is None:  # it was taken back, and there was no other
        path.peer_cid = conn.peer_cids.take()
    if path.responses:
        conn.paths.pending = True
    if not conn.is_server:
        return  # a server does not move but where its client follows (§9)
    if news is News.NON_PROBING:
        if path.peer_cid is not None:  # §9.5: without an ID for it the peer cannot be followed
            _follow_peer(conn, path, now)
    elif not path.validated and path.challenge is None:
        _challenge(conn, path, now)  # the client is about to move there
    arm(conn)


def _admit(conn: Connection, path: Path) -> bool:
    """Get to know a path; False if the peer has left us no connection ID for it."""
    # §9.5: the same ID at another address is the network's doing, and what we use may stay the same as well
    same = next((known for known in conn.paths if known.dcid == path.dcid), None)
    path.peer_cid = _peer_cid(conn, same) if same is not None else None
    if path.peer_cid is None:
        path.peer_cid = conn.peer_cids.take()
    if path.peer_cid is None:
        return False
    _add(conn, path)
    return True


def _add(conn: Connection, path: Path) -> None:
    crowded_out = conn.paths.crowded_out(conn.path)
    if crowded_out is not None:
        _remove(conn, crowded_out)
    conn.paths.add(path)


def _peer_cid(conn: Connection, path: Path) -> ConnectionId | None:
    """None while the peer has to give another one."""
    return conn.peer_cids.current if path is conn.path else path.peer_cid


def _follow_peer(conn: Connection, path: Path, now: float) -> None:
    """§9.3: the peer sends from another address, or seems to."""
    old = conn.path
    _activate(conn, path, now)
    if not path.validated and path.challenge is None:
        _challenge(conn, path, now)
    if old.validated and old.challenge is None:
        _challenge(conn, old, now)  # §9.3.3
    _settle(conn, now)
    conn.emit(Event.CONNECTION_MIGRATION, b"\0")


def handle_challenge(conn: Connection, data: bytes) -> None:
    """PATH_CHALLENGE came: it is answered on the path where it came (§8.2.2)."""
    conn.paths.arrival.handle_challenge(data)
    conn.paths.pending = True


def handle_response(conn: Connection, data: bytes, now: float) -> None:
    """PATH_RESPONSE came, on whatever path: the one that was challenged is valid (§8.2.3)."""
    for path in conn.paths:
        challenge = path.challenge
        if challenge is None or data not in challenge.sent:
            continue
        sent_at, full = challenge.sent[data]
        rtt = path.congestion.rtt
        if path is conn.paths.arrival and rtt.first_sample_at is None:
            rtt.update(max(now - sent_at, 1e-6), 0.0, now)
        path.validated = True
        path.challenge = None
        if not full:
            _challenge(conn, path, now)  # §8.2.3: the address is valid; that 1,200 bytes pass has to be seen
        if path.wanted and path.peer_cid is not None:
            _arrive(conn, path, now)
        _settle(conn, now)
        return
    # §19.18: an answer to nothing that is still open, which may just be late: ignored


def on_new_ids(conn: Connection, now: float) -> None:
    """The peer gave IDs, and perhaps took others back (§5.1.2): paths get new ones, or wait for them."""
    ids = conn.peer_cids
    for path in conn.paths:
        if path is conn.path or (path.peer_cid is not None and path.peer_cid.sequence in ids):
            continue
        path.peer_cid = ids.take()
        conn.paths.pending = True
        if path.wanted and path.validated and path.peer_cid is not None:
            _arrive(conn, path, now)


# --- moving


def migrate(
    conn: Connection, now: float, local: Address, *, remote: Address | None = None, at_once: bool = False
) -> None:
    """See `Connection.migrate`."""
    if conn.is_server:
        raise MisuseError("only a client migrates (RFC 9000 §9)")
    if conn.state not in OPEN or not conn.recovery.handshake_confirmed:
        raise MisuseError("a connection migrates after its handshake is confirmed")
    target = conn.path.remote if remote is None else remote
    assert conn.peer is not None
    # §18.2: it concerns the address of the handshake, not the preferred one
    if conn.peer.disable_active_migration and target == conn.first_remote:
        raise MisuseError("the server does not allow migration (disable_active_migration)")
    if conn.paths.find(target, local) is not None:
        raise MisuseError("the connection uses that path already")
    path = new_path(conn, target, local, validated=False, limited=False)
    path.peer_cid = conn.peer_cids.take()
    if path.peer_cid is None:
        raise MisuseError("the peer has given no connection ID for another path yet")
    for other in conn.paths:
        if other.wanted:
            _remove(conn, other)  # the newest wish counts
    _add(conn, path)
    if at_once:
        _activate(conn, path, now)
        conn.application.probes = 1  # its acknowledgement tells what of the old path has to be sent again
        conn.emit(Event.CONNECTION_MIGRATION, b"\1")
    else:
        path.wanted = True
    _challenge(conn, path, now)
    arm(conn)


def _arrive(conn: Connection, path: Path, now: float) -> None:
    """The path that we wanted is valid."""
    path.wanted = False
    _activate(conn, path, now)
    conn.emit(Event.CONNECTION_MIGRATION, b"\1")


def _activate(conn: Connection, path: Path, now: float) -> None:
    """Packets take `path` from now on."""
    old = conn.path
    if path.active_at is None and _port_changed(path, old):
        path.inherit(old)
    old.peer_cid = conn.peer_cids.current
    old.active_at = now
    path.active_at = now
    conn.paths.migrations += 1
    path.expires_at = None
    if path.ecn is not old.ecn:
        path.ecn.follow(old.ecn)
        old.pmtud.forget_probe()
    assert path.peer_cid is not None
    conn.peer_cids.current = path.peer_cid
    conn.path = path
    conn.recovery.switch_path(path.congestion, conn.application.sent.next_pn)
    conn.timers.set(Timer.PACING, None)


def _port_changed(path: Path, other: Path) -> bool:
    """§9.4: the one case in which the network is the same for sure."""
    return bool(
        path.local == other.local
        and isinstance(path.remote, tuple)
        and isinstance(other.remote, tuple)
        and path.remote[0] == other.remote[0]
    )


def _settle(conn: Connection, now: float) -> None:
    """Once the active path is valid the others are kept for what is still under way on them."""
    if conn.path.validated:
        for path in conn.paths:
            if path is not conn.path and path.expires_at is None and not path.wanted:
                path.expires_at = now + 3 * _pto(conn)
    arm(conn)


def _remove(conn: Connection, path: Path) -> None:
    conn.paths.remove(path)
    cid = path.peer_cid
    if cid is None or any(_peer_cid(conn, other) == cid for other in conn.paths):
        return
    conn.peer_cids.retire(cid.sequence)
    conn.retire_peer_cids()


# --- validation


def _pto(conn: Connection) -> float:
    return conn.recovery.rtt.pto_base(conn.recovery.max_ack_delay)


def _challenge(conn: Connection, path: Path, now: float) -> None:
    """Begin to validate a path (§8.2.1)."""
    # §8.2.4: three times the larger of the current probe timeout and that of a new path
    fresh = RttEstimator(INITIAL_RTT).pto_base(conn.recovery.max_ack_delay)
    patience = limits.PATH_VALIDATION_PTOS * max(_pto(conn), fresh)
    interval = path.congestion.rtt.pto_base(conn.recovery.max_ack_delay)
    path.challenge = Challenge(now, interval, now + patience)
    conn.paths.pending = True


def arm(conn: Connection) -> None:
    conn.timers.set(Timer.PATH, conn.paths.timeout())


def on_timer(conn: Connection, now: float) -> None:
    for path in conn.paths:
        if path.challenge is not None and path.challenge.deadline <= now:
            _fail(conn, path, now)
        elif path.expires_at is not None and path.expires_at <= now and path is not conn.path:
            _remove(conn, path)
    conn.paths.pending = True
    if conn.state in OPEN:
        arm(conn)


def _fail(conn: Connection, path: Path, now: float) -> None:
    """Nobody answered (§8.2.4)."""
    path.challenge = None
    if path is not conn.path:
        # The path that the peer left is what there is to return to, until the new one is valid (§9.3.2).
        if conn.path.validated or path is not conn.paths.fallback(conn.path):
            _remove(conn, path)
        return
    fallback = conn.paths.fallback(path)
    if fallback is None and path.validated:
        return  # the address is; only that 1,200 bytes pass was not seen, and there is nowhere else to go
    if fallback is None:
        conn.abandon("the peer's address cannot be validated")  # §9.3.2: without a word
        return
    _activate(conn, fallback, now)
    _remove(conn, path)
    conn.emit(Event.CONNECTION_MIGRATION, b"\0" if conn.is_server else b"\1")


# --- sending


def poll_transmit(conn: Connection, now: float, buffer: memoryview) -> Transmit | None:
    """The next datagram with challenges or responses."""
    if conn.application.keys_out is None:
        return None
    for path in conn.paths:
        transmit = _datagram(conn, path, now, buffer)
        if transmit is not None:
            return transmit
    conn.paths.pending = False
    arm(conn)
    return None


def _datagram(conn: Connection, path: Path, now: float, buffer: memoryview) -> Transmit | None:
    challenge = path.challenge
    asks = challenge is not None and challenge.next_at <= now
    if not asks and not path.responses:
        return None
    space = conn.application
    cid = _peer_cid(conn, path)
    if cid is None:
        if challenge is not None:
            challenge.blocked = True
        return None
    pn = space.sent.next_pn
    pn_length = packet_number_length(pn, space.sent.largest_acked)
    # §8.2.1, §8.2.2: in 1,200 bytes, unless the anti-amplification limit does not allow that
    allowance = path.allowance()
    full = allowance >= limits.MIN_INITIAL_DATAGRAM
    room = min(allowance, limits.MIN_INITIAL_DATAGRAM) - short_overhead(conn, pn_length, cid.cid)
    builder = PacketBuilder(room)
    if challenge is not None and asks:
        challenge.blocked = room < _FRAME
        if not challenge.blocked:
            data = conn.entropy(PATH_DATA_LENGTH)
            challenge.on_sent(data, now, full=full)
            builder.add(write_path_challenge(data), None)
    while path.responses and builder.room >= _FRAME:
        builder.add(write_path_response(path.responses.pop(0)), None)
        if path is conn.path and builder.room and _PING not in builder.parts:
            builder.add(_PING, None)  # §9.3.3: not a probe only, so that nobody else seems to be where we are
    if builder.empty:
        return None
    if full:
        builder.pad(builder.room)
    end = seal_short(conn, now, buffer, 0, pn, pn_length, (builder.payload(pn_length),), cid.cid)
    active = path is conn.path
    run = SentRun(pn, pn, now, end, end, eliciting=active, in_flight=active)
    if active:
        conn.recovery.on_sent(space, run)
    else:
        space.sent.add(run)  # loss and congestion on other paths are none of the active one's (§9.4)
    path.bytes_sent += end
    return Transmit(buffer[:end], end, path.remote, path.local, 0)
