"""What happens in one run of the soak: everything follows from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from quicfs.transport.config import ConnectionConfig, default_parameters
from quicfs.transport.packet import VERSION_1, VERSION_2
from quicfs.transport.uapi import CongestionAlgo

BASE, ETHERNET = 1200, 1472
CLIENT_SIDE, SERVER_SIDE = 0, 1
KEEP_ALIVE = 3.0  # seconds
MOVES = ("new port", "new address", "migrate")


@dataclass(slots=True)
class StreamPlan:
    """Times in seconds after the start of the phase. `sizes`, `resets` and `stops` are by sending side."""

    opener: int
    unidirectional: bool
    start: float
    sizes: dict[int, int]
    chunk: int
    interval: float
    resets: dict[int, float] = field(default_factory=dict)  # the sender gives up
    stops: dict[int, float] = field(default_factory=dict)  # the receiver does not want any more


@dataclass(slots=True)
class Happening:
    """Something that befalls the network or an end, `at` seconds after the start of the phase."""

    at: float
    what: str
    side: int = 0
    value: float = 0.0


@dataclass(slots=True)
class Phase:
    idle: float  # before it
    streams: list[StreamPlan]
    happenings: list[Happening]


@dataclass(slots=True)
class Plan:
    seed: int
    retry: bool
    certificate: int
    padding: int
    interface: tuple[int, int]  # the largest UDP payload that each host's interface takes
    links: tuple[dict[str, float | int | None], dict[str, float | int | None]]
    configs: tuple[ConnectionConfig, ConnectionConfig]
    phases: list[Phase]
    closer: int

    def lines(self) -> list[str]:
        """For a person."""
        answer = [f"retry {self.retry}, certificate {self.certificate}, ClientHello +{self.padding}"]
        for name, link, config, interface in zip(
            ("client", "server"), self.links, self.configs, self.interface, strict=True
        ):
            answer.append(f"{name} sends over {link}, interface {interface}")
            answer.append(f"{name}: {config}")
        for phase in self.phases:
            answer.append(f"after {phase.idle:.2f} s of silence:")
            answer += [f"  {stream}" for stream in phase.streams]
            answer += [f"  {happening}" for happening in phase.happenings]
        return answer


def make_plan(seed: int) -> Plan:
    rng = random.Random(f"soak {seed}")
    idle_timeout = rng.choice((0, 0, 60_000))
    plan = Plan(
        seed=seed,
        retry=rng.random() < 0.3,
        certificate=rng.choice((500, 2500, 6000, 12_000)),
        padding=rng.choice((0, 0, 0, 1000, 2500)),
        interface=(_interface(rng), _interface(rng)),
        links=(_link(rng), _link(rng)),
        configs=(_config(rng, idle_timeout), _config(rng, idle_timeout)),
        phases=[
            _phase(rng, rng.choice((0.0, rng.uniform(0, 2), rng.uniform(2, 40))) if number else 0.0)
            for number in range(rng.choice((1, 1, 2, 3)))
        ],
        closer=rng.choice((CLIENT_SIDE, SERVER_SIDE)),
    )
    if any(happening.what in MOVES for phase in plan.phases for happening in phase.happenings):
        # Nobody can reach a client behind another address before it says something.
        plan.configs[CLIENT_SIDE].keep_alive = KEEP_ALIVE
    return plan


def _interface(rng: random.Random) -> int:
    return rng.choice((BASE, 1252, 1452, ETHERNET, ETHERNET, ETHERNET, 8972))


def _link(rng: random.Random) -> dict[str, float | int | None]:
    rough = rng.choice((0.0, 0.3, 1.0, 1.0))
    rate = rng.choice((None, None, 1e6, 5e6, 20e6, 100e6))
    return {
        "delay": rng.choice((0.0005, 0.005, 0.02, 0.1)) * rng.uniform(0.5, 1.5),
        "rate": rate,
        "queue": rng.choice((15_000, 40_000, 200_000)),
        "loss": rough * rng.uniform(0, 0.08),
        "reorder": rough * rng.choice((0.0, rng.uniform(0, 0.2))),
        "reorder_delay": rng.choice((0.001, 0.01, 0.1)),
        "duplicate": rough * rng.choice((0.0, rng.uniform(0, 0.2))),
        "corrupt": rough * rng.choice((0.0, rng.uniform(0, 0.03))),
        "mtu": rng.choice((BASE, 1300, ETHERNET, ETHERNET, 9000)),
        "mark_above": rng.choice((None, None, 10_000)),
        "bleach": rng.random() < 0.1,
    }


def _config(rng: random.Random, idle_timeout: int) -> ConnectionConfig:
    ours = default_parameters()
    ours.max_idle_timeout_ms = idle_timeout
    ours.max_udp_payload_size = rng.choice((BASE, 1350, ETHERNET, 65_527))
    ours.initial_max_data = rng.choice((1500, 10_000, 100_000, 1 << 20))
    small = (500, 5000, 60_000, 1 << 20)
    ours.initial_max_stream_data_bidi_local = rng.choice(small)
    ours.initial_max_stream_data_bidi_remote = rng.choice(small)
    ours.initial_max_stream_data_uni = rng.choice(small)
    ours.initial_max_streams_bidi = rng.choice((1, 2, 5, 100))
    ours.initial_max_streams_uni = rng.choice((1, 2, 5, 100))
    ours.ack_delay_exponent = rng.choice((0, 3, 10))
    ours.max_ack_delay_ms = rng.choice((0, 5, 25, 100))
    ours.active_connection_id_limit = rng.choice((2, 4, 8))
    ours.max_datagram_frame_size = rng.choice((0, 0, 100, 65_535))
    return ConnectionConfig(
        parameters=ours,
        congestion=rng.choice((CongestionAlgo.RENO, CongestionAlgo.CUBIC)),
        initial_rtt=rng.choice((0.333, 0.1)),
        keep_alive=rng.choice((0.0, 0.0, 5.0)),
        handshake_timeout=300.0,
        probe_mtu=rng.random() < 0.8,
        ecn=rng.random() < 0.7,
        version=rng.choice((VERSION_1, VERSION_1, VERSION_2)),
        ack_frequency=rng.random() < 0.5,
        update_keys_after=rng.choice((20, 1 << 20, 1 << 20)),
    )


def _phase(rng: random.Random, idle: float) -> Phase:
    budget = rng.choice((3000, 30_000, 150_000))
    streams = [_stream(rng, budget) for _ in range(rng.choice((1, 2, 4, 12)))]
    happenings = []
    for side in (CLIENT_SIDE, SERVER_SIDE):
        if rng.random() < 0.3:
            happenings.append(Happening(rng.uniform(0, 1), "mtu", side, rng.randint(BASE, 1400)))
        if rng.random() < 0.2:
            start = rng.uniform(0, 1)
            happenings.append(Happening(start, "pause", side))
            happenings.append(Happening(start + rng.uniform(0, 3), "resume", side))
        if rng.random() < 0.15:
            happenings.append(Happening(rng.uniform(0, 1), "loss", side, rng.uniform(0, 0.1)))
        if rng.random() < 0.2:
            happenings.append(Happening(rng.uniform(0, 1), "key update", side))
        if rng.random() < 0.3:
            happenings.append(Happening(rng.uniform(0, 1), "datagrams", side, rng.randint(1, 20)))
    if rng.random() < 0.2:
        start = rng.uniform(0, 1)
        sides = rng.choice(((0,), (1,), (0, 1)))
        for side in sides:
            happenings.append(Happening(start, "down", side))
            happenings.append(Happening(start + rng.uniform(0.05, 3), "up", side))
    for _ in range(rng.choice((0, 0, 1, 3))):
        happenings.append(Happening(rng.uniform(0, 2), rng.choice(MOVES)))
    return Phase(idle, streams, sorted(happenings, key=lambda happening: happening.at))


def _stream(rng: random.Random, budget: int) -> StreamPlan:
    opener, unidirectional = rng.choice((CLIENT_SIDE, SERVER_SIDE)), rng.random() < 0.4
    sides = (opener,) if unidirectional else (CLIENT_SIDE, SERVER_SIDE)
    sizes = {side: rng.choice((0, 1, rng.randint(0, 3000), rng.randint(0, budget))) for side in sides}
    plan = StreamPlan(
        opener=opener,
        unidirectional=unidirectional,
        start=rng.choice((0.0, rng.uniform(0, 0.5))),
        sizes=sizes,
        chunk=rng.choice((100, 5000, 1 << 20))
        if max(sizes.values()) < 20_000
        else rng.choice((20_000, 1 << 20)),
        interval=rng.choice((0.0, 0.001, 0.05)),
    )
    for side in sides:
        if rng.random() < 0.1:
            plan.resets[side] = rng.uniform(0, 0.5)
        if rng.random() < 0.1:
            plan.stops[side] = rng.uniform(0, 0.5)
    return plan
