"""Thousands of small lives of a connection, each on a bad network of its own and all of it from a seed; after every
step both ends are asked whether everything is still as it must be.

    python -m tests.sim.soak --seeds 1000-1999     run these, name those that fail
    python -m tests.sim.soak --seed 1234 -v        run one again, with every packet
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from quicfs.transport.errors import MisuseError
from quicfs.transport.frame import FrameType
from quicfs.transport.state import OPEN
from quicfs.transport.stream import SendState, Stream

from .endpoints import CLIENT, SERVER, App
from .judge import Amplification, Judge
from .network import Address, Datagram
from .plan import BASE, CLIENT_SIDE, KEEP_ALIVE, SERVER_SIDE, Happening, Phase, Plan, StreamPlan, make_plan
from .stage import Clock, WatchedHost, WatchedNetwork
from .wire import Wire, check

NAMES = ("client", "server")
SLICE = 600.0  # virtual seconds that a phase may take
PATIENCE = 8.0  # seconds of processor time for one seed

PROBING = {FrameType.PATH_CHALLENGE, FrameType.PATH_RESPONSE}  # of a path

Log = Callable[[str], None]


# --- what is known of a transfer


@lru_cache(maxsize=64)
def _content(seed: int, stream_id: int, from_server: bool) -> bytes:
    return random.Random(f"{seed} {stream_id} {from_server}").randbytes(1 << 18)


@dataclass(slots=True)
class Transfer:
    """A stream under way. Indices are the sending side."""

    plan: StreamPlan
    stream: list[Stream | None] = field(default_factory=lambda: [None, None])
    written: list[int] = field(default_factory=lambda: [0, 0])


class Run:
    """One seed. `run()` raises AssertionError when something is not as it must be."""

    def __init__(self, plan: Plan, log: Log | None = None) -> None:
        self.plan = plan
        self.network = network = WatchedNetwork(plan.seed)
        network.on_send = self._on_send
        for (source, destination), settings in zip(
            ((CLIENT, SERVER), (SERVER, CLIENT)), plan.links, strict=True
        ):
            for name, value in settings.items():
                setattr(network.link(source[0], destination[0]), name, value)
        self.links = (network.link(CLIENT[0], SERVER[0]), network.link(SERVER[0], CLIENT[0]))
        self.clock = Clock()
        network.attach(("clock", 0), self.clock)
        self._log = log
        self._random = random.Random(f"run {plan.seed}")
        self._start = network.now
        self.wire = Wire(
            plan.configs[0].parameters,
            plan.configs[1].parameters,
            lambda stream_id, from_server, start, stop: _content(plan.seed, stream_id, from_server)[
                start:stop
            ],
        )
        self.hosts = tuple(
            WatchedHost(
                network, address, plan.seed * 2 + side, partial(self._on_train, side), plan.interface[side]
            )
            for side, address in enumerate((CLIENT, SERVER))
        )
        self._judges = [Judge(name) for name in NAMES]
        self._verified: tuple[dict[int, int], dict[int, int]] = (
            {},
            {},
        )  # bytes checked of each stream that came
        self._transfers: dict[int, Transfer] = {}
        self._expected = 0  # streams to be opened in this phase
        self._accepted = [0, 0]
        self._amplification = Amplification()
        self._local = CLIENT
        self._moves = 0
        self._closing = False
        self._datagrams: tuple[list[bytes], list[bytes]] = ([], [])  # sent by each side and not seen again

    def say(self, text: str) -> None:
        if self._log is not None:
            self._log(f"{self.network.now - self._start:10.6f}  {text}")

    # --- the story

    def run(self) -> None:
        plan = self.plan
        self.hosts[SERVER_SIDE].listen(
            plan.configs[1], validate_address=plan.retry, certificate=plan.certificate
        )
        self.hosts[CLIENT_SIDE].connect(SERVER, plan.configs[0], padding=plan.padding)
        self._until(lambda: len(self._apps) == 2 and all(app.confirmed for app in self._apps), "handshake")
        for phase in plan.phases:
            self._silence(phase.idle)
            self._begin(phase)
            self._until(self._all_done, "transfer")
            self._check_ends()
        self._until(self._quiet, "acknowledgements")
        self._finish()

    def _until(self, done: Callable[[], bool], what: str) -> None:
        def step() -> bool:
            self._step()
            return done()

        try:
            self.network.run(step, SLICE)
        except AssertionError as error:
            raise AssertionError(f"during {what}, {self.network.now - self._start:.6f} s: {error}") from error

    def _silence(self, seconds: float) -> None:
        if seconds:
            deadline = self.network.now + seconds
            self.clock.at(deadline, lambda: None)
            self._until(lambda: self.network.now >= deadline, "silence")

    def _begin(self, phase: Phase) -> None:
        now = self.network.now
        self._expected = len(self._transfers) + len(phase.streams)
        for stream in phase.streams:
            self.clock.at(now + stream.start, partial(self._open, stream))
        for happening in phase.happenings:
            self.clock.at(now + happening.at, partial(self._befall, happening))

    def _finish(self) -> None:
        """Close, over links that lose nothing now: both ends hear of it and forget everything."""
        self.clock.clear()
        for link in self.links:
            link.loss = link.corrupt = link.reorder = 0.0
            link.mtu, link.rate, link.up = 65_535, None, True
        if self._moves:
            self._silence(2 * KEEP_ALIVE)  # whoever is behind a new address says so
        closer = self.plan.closer
        self.say(f"{NAMES[closer]} closes")
        self._closing = True
        self._apps[closer].close(7, "enough")
        self._until(lambda: all(app.closed for app in self._apps), "close")
        for side, app in enumerate(self._apps):
            closed = app.conn.closed
            check(closed is not None, f"{NAMES[side]} does not know how it ended")
            assert closed is not None
            check(closed.is_application and closed.code == 7, f"{NAMES[side]} ended with {closed}")
            check(closed.remote == (side != closer), f"{NAMES[side]} does not know who closed")
            self.hosts[side].flush()
            check(len(self.hosts[side].endpoint) == 0, f"{NAMES[side]}'s endpoint keeps a connection")

    # --- the applications

    @property
    def _apps(self) -> list[App]:
        return [host.apps[0] for host in self.hosts if host.apps]

    def _open(self, plan: StreamPlan) -> None:
        app = self._apps[plan.opener]
        now = self.network.now
        try:
            stream = app.open(unidirectional=plan.unidirectional)
        except MisuseError:  # the peer's limit: it grows when streams have ended
            app.host.flush()
            self.clock.at(now + 0.05, partial(self._open, plan))
            return
        self.say(f"{NAMES[plan.opener]} opens {stream.stream_id}")
        transfer = self._transfers[stream.stream_id] = Transfer(plan)
        self._take_up(transfer, plan.opener, stream)

    def _take_up(self, transfer: Transfer, side: int, stream: Stream) -> None:
        """A side has the stream in hand: it will write its part, or change its mind."""
        now, plan = self.network.now, transfer.plan
        transfer.stream[side] = stream
        if side in plan.sizes:
            self._write(transfer, side)
        if side in plan.resets:
            self.clock.at(now + plan.resets[side], partial(self._reset, side, stream))
        if 1 - side in plan.stops:
            self.clock.at(now + plan.stops[1 - side], partial(self._stop, side, stream))

    def _write(self, transfer: Transfer, side: int) -> None:
        plan, stream, app = transfer.plan, transfer.stream[side], self._apps[side]
        assert stream is not None
        if stream.send is None or stream.send.state not in (SendState.READY, SendState.SEND):
            return
        start = transfer.written[side]
        stop = min(start + plan.chunk, plan.sizes[side])
        transfer.written[side] = stop
        piece = _content(self.plan.seed, stream.stream_id, side == SERVER_SIDE)[start:stop]
        app.write(stream, piece, fin=stop == plan.sizes[side])
        if stop < plan.sizes[side]:
            self.clock.at(self.network.now + plan.interval, partial(self._write, transfer, side))

    def _reset(self, side: int, stream: Stream) -> None:
        self.say(f"{NAMES[side]} resets {stream.stream_id}")
        self._apps[side].conn.reset_stream(stream, 1000 + stream.stream_id)
        self.hosts[side].flush()

    def _stop(self, side: int, stream: Stream) -> None:
        self.say(f"{NAMES[side]} wants no more of {stream.stream_id}")
        self._apps[side].conn.stop_sending(stream, 1000 + stream.stream_id)
        self.hosts[side].flush()

    def _befall(self, happening: Happening) -> None:
        side, what, link = happening.side, happening.what, self.links[happening.side]
        self.say(f"{NAMES[side]}: {what} {happening.value:g}")
        app = self._apps[side]
        if what == "mtu":
            link.mtu = int(happening.value)
        elif what == "loss":
            link.loss = happening.value
        elif what in ("up", "down"):
            link.up = what == "up"
        elif what in ("pause", "resume"):
            app.paused = what == "pause"
            if not app.paused:
                app.read(self.network.now)
                app.host.flush()
        elif what == "key update":
            try:
                app.conn.update_keys(self.network.now)
            except MisuseError as refusal:
                self.say(str(refusal))
            app.host.flush()
        elif what == "datagrams":
            self._send_datagrams(side, int(happening.value))
        elif what in ("new port", "new address"):
            self._moves += 1
            host, port = self.network.seen_at(self._local)
            host = host if what == "new port" else f"198.51.100.{100 + self._moves}"
            self.network.rebind(self._local, (host, port + 1))
        elif what == "migrate":
            self._moves += 1
            local = app.host.attach((f"203.0.113.{self._moves}", 60_000))
            try:
                app.conn.migrate(self.network.now, local)
                self._local = local
            except MisuseError as refusal:
                self.say(str(refusal))
            app.host.flush()

    def _send_datagrams(self, side: int, count: int) -> None:
        conn, rng = self._apps[side].conn, self._random
        largest = conn.datagrams.largest(BASE - 50)
        for _ in range(count if largest >= 16 else 0):
            data = rng.randbytes(rng.randint(16, largest))
            conn.datagrams.send(data, self.network.now)
            self._datagrams[side].append(data)
        self.hosts[side].flush()

    def _all_done(self) -> bool:
        return len(self._transfers) == self._expected and all(
            self._has_ended(stream_id, side)
            for stream_id, transfer in self._transfers.items()
            for side in transfer.plan.sizes
        )

    def _has_ended(self, stream_id: int, sender: int) -> bool:
        receiver = self._apps[1 - sender]
        return stream_id in receiver.ended or stream_id in receiver.resets

    def _quiet(self) -> bool:
        """Nothing is under way, and no stream is left."""
        return all(
            app.conn.recovery.bytes_in_flight == 0 and len(app.conn.streams) == 0 for app in self._apps
        )

    # --- checks

    def _step(self) -> None:
        apps = self._apps
        for side, app in enumerate(apps):
            while self._accepted[side] < len(app.accepted):
                stream_id = app.accepted[self._accepted[side]]
                self._accepted[side] += 1
                stream = app.conn.streams.get(stream_id)
                if stream is not None:
                    self._take_up(self._transfers[stream_id], side, stream)
            self._check_content(side, app)
            while app.conn.datagrams.received:
                data = app.conn.datagrams.take()
                check(
                    data in self._datagrams[1 - side], f"{NAMES[side]} got a datagram twice, or another one"
                )
                self._datagrams[1 - side].remove(data)
            self._judges[side].step(app.conn, self.network.now, closing=self._closing)
            if side == SERVER_SIDE and app.conn.state in OPEN:
                self._amplification.compare(app.conn)

    def _check_content(self, side: int, app: App) -> None:
        """What was delivered is the beginning of what was written, each byte once."""
        verified = self._verified[side]
        for stream_id, data in app.received.items():
            known = verified.get(stream_id, 0)
            if len(data) > known:
                expected = _content(self.plan.seed, stream_id, side == CLIENT_SIDE)[known : len(data)]
                check(data[known:] == expected, f"{NAMES[side]} read something else on {stream_id}")
                verified[stream_id] = len(data)

    def _check_ends(self) -> None:
        for stream_id, transfer in self._transfers.items():
            for sender, size in transfer.plan.sizes.items():
                receiver = self._apps[1 - sender]
                got = len(receiver.received[stream_id])
                if stream_id in receiver.ended:
                    check(got == size, f"stream {stream_id} ended at {got}, not at {size}")
                else:
                    code = receiver.resets[stream_id]
                    check(code == 1000 + stream_id, f"stream {stream_id} was reset with {code}")
                    wanted = sender in transfer.plan.resets or sender in transfer.plan.stops
                    check(wanted, f"stream {stream_id} was reset for no reason")

    def _on_send(self, datagram: Datagram) -> None:
        side = CLIENT_SIDE if datagram.destination == SERVER else SERVER_SIDE
        size = len(datagram.data)
        packets = self.wire.sent(side, datagram.data)
        if self._log is not None:
            self.say(
                f"{NAMES[side]} sends {size} from {_written(datagram.source)} to "
                f"{_written(datagram.destination)}: "
                + (", ".join(map(str, packets)) or datagram.data[:30].hex())
            )
        if side == SERVER_SIDE:
            self._amplification.server_sends(datagram.destination, size)
        if self.hosts[side].apps:
            probes = any(frame_type in PROBING for packet in packets for frame_type, _ in packet.frames)
            self._judges[side].sent(self.hosts[side].apps[0].conn, size, probes=probes)

    def _on_train(
        self, side: int, source: Address, destination: Address, data: bytes, segment_size: int
    ) -> None:
        if side == SERVER_SIDE:
            self._amplification.server_got(source, len(data))
        else:
            self._amplification.client_got(self.network.seen_at(destination))
        for start in range(0, len(data), segment_size):
            self.wire.arrived(1 - side, data[start : start + segment_size])
        self.say(f"{NAMES[side]} receives {len(data)} in datagrams of {segment_size}")


def _written(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def run_seed(seed: int, log: Log | None = None) -> Run:
    """Raises AssertionError, or whatever the transport raises."""
    run = Run(make_plan(seed), log)
    if log is not None:
        for line in run.plan.lines():
            log(line)
    run.run()
    return run


# --- the command


def seeds_of(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of seeds, such as 1000-1999") from None


def _too_long(number: int, frame: object) -> None:
    raise AssertionError(f"not done after {PATIENCE:.0f} s of processor time")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.sim.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--seeds", type=seeds_of, default=range(200), metavar="FIRST-LAST", help="default 0-199"
    )
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("-v", "--verbose", action="store_true", help="every packet and every event")
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + 1) if options.seed is not None else options.seeds
    failed: dict[int, str] = {}
    signal.signal(signal.SIGPROF, _too_long)
    began = time.monotonic()
    for count, seed in enumerate(seeds, 1):
        signal.setitimer(signal.ITIMER_PROF, PATIENCE)
        try:
            run_seed(seed, print if options.verbose else None)
        except Exception as error:
            failed[seed] = f"{type(error).__name__}: {error}"
            if options.seed is not None:
                traceback.print_exc()
            print(f"\rseed {seed} failed: {failed[seed]}", file=sys.stderr)
        if sys.stderr.isatty() or count % 100 == 0 or count == len(seeds):
            rate = count / max(time.monotonic() - began, 1e-9)
            end = "" if sys.stderr.isatty() else "\n"
            print(
                f"\r{count} of {len(seeds)} seeds, {len(failed)} failed, {rate:.1f} a second ",
                end=end,
                file=sys.stderr,
                flush=True,
            )
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(f"\n{len(seeds) - len(failed)} passed, {len(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
