"""The judges of the soak: one for each end's books, and one for what a server sends to addresses that it knows
nothing of.
"""

from __future__ import annotations

from quicfs.transport.conn import Connection
from quicfs.transport.path import CongestionState
from quicfs.transport.state import OPEN

from .network import Address
from .wire import check

AMPLIFICATION = 3  # RFC 9000 §8.1


class Judge:
    """Of one end, by what its connection tells in public."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._congestion: CongestionState | None = None  # of the path that was active
        self._flight = 0
        self._ptos = 0
        self._probes = 0  # datagrams that may exceed the window

    def step(self, conn: Connection, now: float, *, closing: bool) -> None:
        """After each step of the network."""
        recovery = conn.recovery
        check(conn.closed is None or closing, f"{self.name} is closed: {conn.closed}")
        if conn.state not in OPEN:
            return
        check(not conn.work.dropped, f"{self.name} took an honest peer for a hostile one")
        # bytes in flight are those of the packets that are under way, on the path that they took
        flight = dict.fromkeys((path.congestion for path in conn.paths), 0)
        for space in conn.spaces:
            for run in space.sent:
                if run.in_flight and run.congestion in flight:
                    flight[run.congestion] += run.size
        for congestion, size in flight.items():
            check(
                congestion.bytes_in_flight == size,
                f"{self.name} counts {congestion.bytes_in_flight} bytes in flight, of {size}",
            )
        self._congestion, self._flight = recovery.congestion, recovery.bytes_in_flight
        if recovery.stats.ptos > self._ptos:
            self._probes = 2 * len(conn.spaces)  # RFC 9002 §6.2.4: two, in whichever spaces
            self._ptos = recovery.stats.ptos
        # flow control as both ends count it
        streams = conn.streams
        check(
            streams.send_credit.used <= streams.send_credit.limit,
            f"{self.name} has sent {streams.send_credit.used} of {streams.send_credit.limit}",
        )
        check(streams.received <= streams.recv_window.limit, f"{self.name} took more than it allowed")
        self._check_timers(conn, now)
        self._check_progress(conn, now)

    def _check_timers(self, conn: Connection, now: float) -> None:
        """Whoever waits for an answer wakes up by himself, and in time."""
        due = conn.next_timeout()
        # RFC 9002 §6.2.1: application data wait for the handshake's own probes
        waiting = any(
            space.sent.eliciting_in_flight
            for space in conn.spaces
            if space is not conn.application or conn.recovery.handshake_confirmed
        )
        if not waiting or conn.path.allowance() < conn.path.pmtud.current:
            return
        check(due is not None, f"{self.name} has packets under way and no timer")
        wanted = conn.recovery.loss_deadline(at_amplification_limit=False)
        check(wanted is not None, f"{self.name} has packets under way and will not probe")
        assert due is not None
        assert wanted is not None
        check(due <= wanted, f"{self.name} sleeps until {due}, and should act at {wanted}")
        latest = now + 70_000 * conn.recovery.rtt.pto_base(conn.recovery.max_ack_delay)
        check(wanted <= latest, f"{self.name} waits for ever")

    def _check_progress(self, conn: Connection, now: float) -> None:
        """Whoever has data, and room for them in every window, sends them as soon as the pacer lets him."""
        streams, recovery, path = conn.streams, conn.recovery, conn.path
        sendable = any(
            stream.send is not None
            and stream.send.has_work()
            and (stream.send.queue.has_lost or streams.send_credit.available > 0)
            for stream in streams.ready
        )
        if (
            not sendable
            or not recovery.handshake_confirmed
            or recovery.window < path.pmtud.current
            or path.allowance() < path.pmtud.current
        ):
            return
        due = conn.next_timeout()
        latest = max(now, recovery.paced_at(now)) + 1e-6
        check(due is not None and due <= latest, f"{self.name} has data and sleeps until {due}")

    def sent(self, conn: Connection, size: int, *, probes: bool) -> None:
        """A datagram of `size` bytes leaves: it fits into the window (RFC 9002 §7); probes, of any kind, need not."""
        recovery = conn.recovery
        if recovery.stats.ptos > self._ptos:
            self._probes = 2 * len(conn.spaces)
            self._ptos = recovery.stats.ptos
        if recovery.congestion is not self._congestion:
            self._congestion, self._flight = recovery.congestion, recovery.bytes_in_flight
        flight = recovery.bytes_in_flight
        counted = flight
        if not recovery.handshake_confirmed:
            # application data that nothing declares lost yet must not stop the handshake (RFC 9002 §6.2.1)
            counted -= sum(run.size for run in conn.application.sent if run.in_flight)
        if flight > self._flight and counted > recovery.cong.cwnd:
            if size > conn.path.pmtud.current or probes:
                pass  # RFC 9000 §14.4, §9.1
            elif self._probes:
                self._probes -= 1
            else:
                raise AssertionError(
                    f"{self.name} has {flight} bytes in flight, the window is {recovery.cong.cwnd}"
                )
        self._flight = flight


class Amplification:
    """RFC 9000 §8.1, §9.3: as the network counts it, by the client's address. An address is proven when the server has
    heard from it after something of the server's came there."""

    def __init__(self) -> None:
        self._got: dict[Address, int] = {}
        self._gave: dict[Address, int] = {}
        self._reached: set[Address] = set()
        self._proven: set[Address] = set()

    def server_got(self, source: Address, size: int) -> None:
        self._got[source] = self._got.get(source, 0) + size
        if source in self._reached:
            self._proven.add(source)

    def client_got(self, address: Address) -> None:
        self._reached.add(address)

    def server_sends(self, remote: Address, size: int) -> None:
        gave = self._gave[remote] = self._gave.get(remote, 0) + size
        got = self._got.get(remote, 0)
        if remote not in self._proven:
            check(gave <= AMPLIFICATION * got, f"the server sent {gave} bytes to {remote} for {got}")

    def compare(self, conn: Connection) -> None:
        """The server's own count of each path."""
        for path in conn.paths:
            check(path.allowance() >= 0, f"the server sent {-path.allowance()} too many to {path.remote}")
            check(path.bytes_received <= self._got[path.remote], f"{path.remote} did not send so much")
