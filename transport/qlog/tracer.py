"""qlog: what a connection does, as events that qvis shows (draft-ietf-quic-qlog-main-schema, -quic-events).

The format is version 0.3 in JSON text sequences (`.sqlog`, RFC 7464): qvis reads it, as do the pages of the public
interop runner that link to qvis; newer versions of the drafts it refuses. A record per event means that nothing
is kept in memory, and that the log of a process that was killed can be read up to its last whole record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from quicfs.transport import limits
from quicfs.transport.cong import UNLIMITED
from quicfs.transport.packet import PacketType
from quicfs.transport.pnspace import PacketNumberSpace
from quicfs.transport.qlog.frames import describe, hexadecimal, text
from quicfs.transport.sent import SentRun
from quicfs.transport.state import State
from quicfs.transport.transport_param import DEFAULT_ACK_DELAY_EXPONENT, TransportParameters

if TYPE_CHECKING:
    from quicfs.transport.conn import Connection

_encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_FLUSH_S: Final = 1.0

PACKET_TYPES: Final = {
    PacketType.INITIAL: "initial",
    PacketType.ZERO_RTT: "0RTT",
    PacketType.HANDSHAKE: "handshake",
    PacketType.ONE_RTT: "1RTT",
    PacketType.RETRY: "retry",
    PacketType.VERSION_NEGOTIATION: "version_negotiation",
}

_LEVELS: Final = {
    PacketType.INITIAL: "initial",
    PacketType.HANDSHAKE: "handshake",
    PacketType.ONE_RTT: "1rtt",
}

_HIDDEN_PARAMETERS: Final = frozenset({"stateless_reset_token"})

Event = tuple[str, dict[str, Any]]


class Sink(Protocol):
    """Where records go. Does not raise: after an error `write` returns False, and the trace ends."""

    def write(self, record: bytes) -> bool: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class QlogTracer:
    """A `trace.Tracer` that writes to `sink`. `epoch_ms`: when the connection began, milliseconds since 1970."""

    def __init__(self, conn: Connection, now: float, sink: Sink, epoch_ms: float) -> None:
        self._conn = conn
        self._sink = sink
        self._began = self._now = self._flushed = now
        self._size = 0
        self._open = True
        self._metrics: dict[str, float] = {}
        self._write(_encode(_header(conn, epoch_ms)))
        self.event(now, "connectivity:connection_started", _started(conn))
        self._seen = [watch.look(conn) for watch in _WATCHES]
        self.event(now, "transport:parameters_set", _parameters(conn.ours, "local"))
        self.event(now, "recovery:parameters_set", _recovery_parameters(conn))
        self._update_metrics(now)

    # --- what the connection tells

    def event(self, now: float, name: str, data: dict[str, Any]) -> None:
        if self._open:
            self._now = max(now, self._now)  # qvis wants the events of a file in order
            time = round((self._now - self._began) * 1000, 3)
            self._write(_encode({"time": time, "name": name, "data": data}))

    def packets_sent(
        self, now: float, packet_type: PacketType, first_pn: int, payloads: Sequence[bytes], overhead: int
    ) -> None:
        for pn, payload in enumerate(payloads, first_pn):
            self._packet(now, "transport:packet_sent", packet_type, pn, payload, overhead, self._conn.ours)

    def packets_received(
        self,
        now: float,
        packet_type: PacketType,
        opened: Sequence[tuple[int, int, memoryview]],
        came: int,
        overhead: int,
    ) -> None:
        received = self._space(packet_type).received
        for pn, first, payload in opened:
            if received.is_new(pn):
                size = overhead + (first & 0x03) + 1
                self._packet(
                    now, "transport:packet_received", packet_type, pn, payload, size, self._conn.peer
                )
            else:
                header = {"packet_type": PACKET_TYPES[packet_type], "packet_number": pn}
                self.event(now, "transport:packet_dropped", {"header": header, "trigger": "duplicate"})
        for _ in range(came - len(opened)):
            header = {"packet_type": PACKET_TYPES[packet_type]}
            self.event(now, "transport:packet_dropped", {"header": header, "trigger": "decryption_failure"})

    def packet_unopened(self, now: float, packet_type: PacketType, size: int, *, kept: bool) -> None:
        header = {"packet_type": PACKET_TYPES[packet_type]}
        name, trigger = ("buffered", "keys_unavailable") if kept else ("dropped", "key_unavailable")
        data = {"header": header, "raw": {"length": size}, "trigger": trigger}
        self.event(now, f"transport:packet_{name}", data)

    def packets_lost(self, now: float, packet_type: PacketType, run: SentRun) -> None:
        for pn in range(run.first, run.last + 1):
            header = {"packet_type": PACKET_TYPES[packet_type], "packet_number": pn}
            self.event(now, "recovery:packet_lost", {"header": header})

    def update(self, now: float) -> None:
        if not self._open:
            return
        for index, watch in enumerate(_WATCHES):
            old, new = self._seen[index], watch.look(self._conn)
            if new != old:
                self._seen[index] = new
                for name, data in watch.describe(self._conn, old, new):
                    self.event(now, name, data)
        self._update_metrics(now)
        if now - self._flushed >= _FLUSH_S:
            self._flushed = now
            self._sink.flush()

    def close(self) -> None:
        self.update(self._now)
        self._end()

    # --- writing

    def _packet(
        self,
        now: float,
        name: str,
        packet_type: PacketType,
        pn: int,
        payload: bytes | memoryview,
        overhead: int,
        sender: TransportParameters | None,
    ) -> None:
        if self._open:
            exponent = DEFAULT_ACK_DELAY_EXPONENT if sender is None else sender.ack_delay_exponent
            data = {
                "header": {"packet_type": PACKET_TYPES[packet_type], "packet_number": pn},
                "raw": {"length": overhead + len(payload), "payload_length": len(payload)},
                "frames": describe(payload, packet_type, exponent),
            }
            self.event(now, name, data)

    def _update_metrics(self, now: float) -> None:
        metrics = _metrics(self._conn)
        changed = {name: value for name, value in metrics.items() if self._metrics.get(name) != value}
        if changed:
            self._metrics = metrics
            self.event(now, "recovery:metrics_updated", changed)

    def _write(self, text: str) -> None:
        record = b"\x1e" + text.encode() + b"\n"
        self._size += len(record)
        if self._size > limits.QLOG_FILE:
            time = round((self._now - self._began) * 1000, 3)
            data = {"message": f"the log ends here, at its limit of {limits.QLOG_FILE} bytes"}
            last = _encode({"time": time, "name": "loglevel:warning", "data": data})
            self._sink.write(b"\x1e" + last.encode() + b"\n")
            self._end()
        elif not self._sink.write(record):
            self._end()

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._conn.trace = None
            self._sink.close()

    def _space(self, packet_type: PacketType) -> PacketNumberSpace:
        conn = self._conn
        return {PacketType.INITIAL: conn.initial, PacketType.HANDSHAKE: conn.handshake}.get(
            packet_type, conn.application
        )


def _header(conn: Connection, epoch_ms: float) -> dict[str, Any]:
    role = "server" if conn.is_server else "client"
    return {
        "qlog_version": "0.3",
        "qlog_format": "JSON-SEQ",
        "title": "quicfs",
        "trace": {
            "vantage_point": {"name": "quicfs", "type": role},
            "common_fields": {
                "ODCID": hexadecimal(conn.original_dcid),
                "protocol_type": ["QUIC"],
                "time_format": "relative",
                "reference_time": round(epoch_ms, 3),
            },
        },
    }


def _host(address: Any) -> tuple[str, int | None]:
    host, port = (address[0], address[1]) if isinstance(address, tuple) else (address, None)
    return str(host).removeprefix("::ffff:"), port


def _started(conn: Connection) -> dict[str, Any]:
    host, port = _host(conn.path.remote)
    near, far = ("dst", "src") if conn.is_server else ("src", "dst")
    data: dict[str, Any] = {
        "ip_version": "v6" if ":" in host else "v4",
        "protocol": "QUIC",
        f"{far}_ip": host,
        f"{far}_port": port,
        "src_cid": hexadecimal(conn.local_cid),
        "dst_cid": hexadecimal(conn.peer_cids.current.cid),
        "quic_version": f"{conn.version:08x}",
    }
    if conn.path.local is not None:
        data[f"{near}_ip"] = _host(conn.path.local)[0]
    return data


def _parameters(parameters: Any, owner: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"owner": owner}
    for name in parameters.__slots__:
        value = getattr(parameters, name)
        if value is None or name in _HIDDEN_PARAMETERS:
            continue
        if isinstance(value, bytes):
            value = hexadecimal(value)
        elif not isinstance(value, (bool, int)):
            continue  # structures have events of their own
        shown[name.removesuffix("_ms")] = value
    return shown


def _recovery_parameters(conn: Connection) -> dict[str, Any]:
    cong = conn.recovery.cong
    return {
        "initial_rtt": round(conn.recovery.rtt.smoothed * 1000, 3),
        "max_datagram_size": cong.max_datagram_size,
        "initial_congestion_window": cong.cwnd,
        "minimum_congestion_window": cong.minimum_window,
    }


def _metrics(conn: Connection) -> dict[str, float]:
    recovery = conn.recovery
    rtt, cong = recovery.rtt, recovery.cong
    metrics: dict[str, float] = {
        "smoothed_rtt": round(rtt.smoothed * 1000, 3),
        "rtt_variance": round(rtt.variance * 1000, 3),
        "pto_count": recovery.pto_count,
        "congestion_window": cong.cwnd,
        "bytes_in_flight": recovery.bytes_in_flight,
    }
    if rtt.first_sample_at is not None:
        metrics["latest_rtt"] = round(rtt.latest * 1000, 3)
        metrics["min_rtt"] = round(rtt.minimum * 1000, 3)
    if cong.ssthresh != UNLIMITED:
        metrics["ssthresh"] = cong.ssthresh
    return metrics


# --- what is found by comparing


class _Watch(NamedTuple):
    look: Callable[[Connection], Any]
    describe: Callable[[Connection, Any, Any], Sequence[Event]]


def _state(conn: Connection) -> str:
    if conn.state is State.HANDSHAKE:
        return "handshake_started" if conn.peer is not None else "attempted"
    if conn.state is State.CONNECTED:
        return "handshake_confirmed" if conn.recovery.handshake_confirmed else "handshake_complete"
    return conn.state.name.lower()


def _changed(name: str) -> Callable[[Connection, Any, Any], Sequence[Event]]:
    return lambda conn, old, new: ((name, {"old": old, "new": new}),)


def _congestion_state(conn: Connection) -> str:
    cong = conn.recovery.cong
    if cong.in_recovery:
        return "recovery"
    return "slow_start" if cong.in_slow_start else "congestion_avoidance"


def _describe_retry(conn: Connection, old: Any, new: bytes) -> Sequence[Event]:
    header = {"packet_type": "retry", "scid": hexadecimal(new)}
    return (("transport:packet_received", {"header": header, "token_length": len(conn.token)}),)


def _describe_peer(conn: Connection, old: Any, new: Any) -> Sequence[Event]:
    return (("transport:parameters_set", _parameters(new, "remote")),)


def _describe_version(conn: Connection, old: int, new: int) -> Sequence[Event]:
    return (("transport:version_information", {"chosen_version": f"{new:08x}"}),)


def _describe_alpn(conn: Connection, old: bytes, new: bytes) -> Sequence[Event]:
    name = text(new.decode("utf-8", "replace"))
    return (("transport:alpn_information", {"chosen_alpn": {"byte_value": new.hex(), "string_value": name}}),)


def _describe_closed(conn: Connection, old: Any, new: Any) -> Sequence[Event]:
    code = "application_code" if new.is_application else "connection_code"
    owner = "remote" if new.remote else "local"
    return (("connectivity:connection_closed", {"owner": owner, code: new.code, "reason": text(new.reason)}),)


def _describe_cids(conn: Connection, old: tuple[bytes, bytes], new: tuple[bytes, bytes]) -> Sequence[Event]:
    return [
        (
            "connectivity:connection_id_updated",
            {"owner": owner, "old": hexadecimal(before), "new": hexadecimal(after)},
        )
        for owner, before, after in zip(("local", "remote"), old, new, strict=True)
        if before != after
    ]


def _valid_paths(conn: Connection) -> set[tuple[Any, Any]]:
    return {(path.remote, path.local) for path in conn.paths if path.validated}


def _path(remote: Any, local: Any) -> dict[str, Any]:
    host, port = _host(remote)
    shown: dict[str, Any] = {"remote": {"ip": host, "port": port}}
    if local is not None:
        shown["local"] = {"ip": _host(local)[0]}
    return shown


def _describe_validated(conn: Connection, old: set[Any], new: set[Any]) -> Sequence[Event]:
    return [("connectivity:path_validated", _path(*path)) for path in new - old]


def _describe_path(conn: Connection, old: tuple[Any, Any], new: tuple[Any, Any]) -> Sequence[Event]:
    return (("connectivity:path_updated", {"old": _path(*old), "new": _path(*new)}),)


def _keys(conn: Connection) -> list[tuple[Any, Any]]:
    return [(space.keys_in, space.keys_out) for space in conn.spaces]


def _describe_keys(
    conn: Connection, old: list[tuple[Any, Any]], new: list[tuple[Any, Any]]
) -> Sequence[Event]:
    events: list[Event] = []
    for space, before, after in zip(conn.spaces, old, new, strict=True):
        for ours, was, now in zip((False, True), before, after, strict=True):
            if was is now:
                continue
            owner = "server" if conn.is_server is ours else "client"
            data = {"key_type": f"{owner}_{_LEVELS[space.packet_type]}_secret"}
            if now is None:
                events.append(("security:key_discarded", data))
            else:
                data["trigger"] = "tls" if was is None else "key_update"
                events.append(("security:key_updated", data))
    return events


_WATCHES: Final = (
    _Watch(lambda conn: conn.retry_scid, _describe_retry),
    _Watch(lambda conn: conn.version, _describe_version),
    _Watch(lambda conn: conn.alpn, _describe_alpn),
    _Watch(_keys, _describe_keys),
    _Watch(lambda conn: conn.peer, _describe_peer),
    _Watch(_valid_paths, _describe_validated),
    _Watch(lambda conn: (conn.path.remote, conn.path.local), _describe_path),
    _Watch(lambda conn: (conn.local_cid, conn.peer_cids.current.cid), _describe_cids),
    _Watch(_state, _changed("connectivity:connection_state_updated")),
    _Watch(lambda conn: conn.path.pmtud.current, _changed("connectivity:mtu_updated")),
    _Watch(lambda conn: conn.path.ecn.state.name.lower(), _changed("recovery:ecn_state_updated")),
    _Watch(_congestion_state, _changed("recovery:congestion_state_updated")),
    _Watch(lambda conn: conn.closed, _describe_closed),
)
