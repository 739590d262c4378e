"""Packet protection, both ways of it: what it promises, and that C and Python write and read the same bytes."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.transport.plain_protection import PlainProtection
from quicfs.transport.protection import TAG_LENGTH, Protection

MakeProtection = Callable[..., Protection]

IV = bytes(range(12))
SUITES: dict[str, dict[str, Any]] = {
    "AES-128-GCM": {"key": b"k" * 16, "iv": IV, "hp": b"h" * 16, "chacha20": False},
    "AES-256-GCM": {"key": b"k" * 32, "iv": IV, "hp": b"h" * 32, "chacha20": False},
    "ChaCha20-Poly1305": {"key": b"k" * 32, "iv": IV, "hp": b"h" * 32, "chacha20": True},
}
CID = b"connect!"
PN_OFFSET = 1 + len(CID)
HEAD = b"\x0c\x04"
HEAD_LENGTH = len(HEAD) + 8

suites = pytest.mark.parametrize("suite", SUITES)


def leaf_type() -> MakeProtection:
    made: MakeProtection = importlib.import_module("quicfs.transport._protection").Protection
    return made


@pytest.fixture(params=["plain", "leaf"])
def make(request: pytest.FixtureRequest, require: Callable[..., None]) -> MakeProtection:
    """Each of the two implementations."""
    if request.param == "plain":
        return PlainProtection
    require("quicfs.transport._protection")
    return leaf_type()


@pytest.fixture(scope="module")
def leaf(require: Callable[..., None]) -> MakeProtection:
    require("quicfs.transport._protection")
    return leaf_type()


def prefix(pn_length: int, bits: int = 0x40) -> bytes:
    return bytes((bits | (pn_length - 1),)) + CID


def noise(size: int, seed: int = 1) -> bytes:
    return bytes((index * 7 + (index >> 8) * 31 + seed) & 0xFF for index in range(size))


def seal(
    protection: Protection, first_pn: int, pn_length: int, payloads: list[bytes], bits: int = 0x40
) -> bytes:
    out = bytearray(sum(map(len, payloads)) + (1 + len(CID) + pn_length + TAG_LENGTH) * len(payloads) + 9)
    end = protection.seal_run(memoryview(out), 5, prefix(pn_length, bits), first_pn, pn_length, payloads)
    assert out[:5] == bytes(5)
    assert not any(out[end:])
    return bytes(out[5:end])


def seal_stream(
    protection: Protection,
    first_pn: int,
    pn_length: int,
    offset: int,
    data: bytes,
    step: int,
    bits: int = 0x40,
) -> bytes:
    out = bytearray(len(data) + 80 * (len(data) // step + 1))
    view = memoryview(data)
    end = protection.seal_stream_run(
        memoryview(out), 0, prefix(pn_length, bits), first_pn, pn_length, HEAD, offset, view, step
    )
    return bytes(out[:end])


def bounds(sizes: list[int]) -> tuple[list[int], list[int]]:
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    pairs = list(pairwise(edges))
    return [start for start, _ in pairs], [stop for _, stop in pairs]


def open_all(
    protection: Protection,
    data: bytes,
    sizes: list[int],
    largest: int,
    phase: int = -1,
    pn_offset: int = PN_OFFSET,
) -> tuple[list[tuple[int, int, bytes]], list[int]]:
    starts, stops = bounds(sizes)
    scratch = memoryview(bytearray(len(data) + 16))
    opened, other = protection.open_run(memoryview(data), starts, stops, pn_offset, largest, scratch, phase)
    return [(pn, first, bytes(payload)) for pn, first, payload in opened], other


def sizes_of(payloads: list[bytes], pn_length: int) -> list[int]:
    return [PN_OFFSET + pn_length + len(payload) + TAG_LENGTH for payload in payloads]


# --- what is promised, by either of them


@suites
@pytest.mark.parametrize("pn_length", [1, 2, 3, 4])
def test_what_was_sealed_is_opened(make: MakeProtection, suite: str, pn_length: int) -> None:
    protection = make(**SUITES[suite])
    payloads = [noise(size, size) for size in (3, 4, 15, 16, 17, 100, 1452, 1, 70)]
    payloads = [payload.ljust(4 - pn_length, b"\0") for payload in payloads]
    sealed = seal(protection, 1000, pn_length, payloads)
    opened, other = open_all(protection, sealed, sizes_of(payloads, pn_length), 999)
    first = 0x40 | (pn_length - 1)
    assert opened == [(1000 + index, first, payload) for index, payload in enumerate(payloads)]
    assert other == []


@suites
def test_a_forged_packet_is_left_out(make: MakeProtection, suite: str) -> None:
    protection = make(**SUITES[suite])
    payloads = [noise(60, seed) for seed in range(4)]
    sealed = bytearray(seal(protection, 7, 2, payloads))
    size = len(sealed) // 4
    sealed[2 * size - 1] ^= 0x80  # the tag of the second
    sealed[2 * size + 40] ^= 1  # the payload of the third, which changes its sample too
    before = bytes(sealed)
    opened, other = open_all(protection, before, [size] * 4, 6)
    assert [(pn, payload) for pn, _, payload in opened] == [(7, payloads[0]), (10, payloads[3])]
    assert other == []
    assert sealed == before


@suites
def test_packets_of_another_key_phase_are_told_apart(make: MakeProtection, suite: str) -> None:
    protection = make(**SUITES[suite])
    payloads = [noise(40, seed) for seed in range(3)]
    sealed = b"".join(
        seal(protection, 50 + index, 2, [payload], 0x44 if index == 1 else 0x40)
        for index, payload in enumerate(payloads)
    )
    sizes = sizes_of(payloads, 2)
    opened, other = open_all(protection, sealed, sizes, 49, 0)
    assert ([pn for pn, _, _ in opened], other) == ([50, 52], [1])
    opened, other = open_all(protection, sealed, sizes, 49, 4)
    assert ([pn for pn, _, _ in opened], other) == ([51], [0, 2])
    opened, other = open_all(protection, sealed, sizes, 49)
    assert ([pn for pn, _, _ in opened], other) == ([50, 51, 52], [])


def test_packets_that_are_too_short(make: MakeProtection) -> None:
    protection = make(**SUITES["AES-128-GCM"])
    sealed = seal(protection, 0, 1, [noise(3)])
    assert open_all(protection, sealed[:-1], [len(sealed) - 1], -1) == ([], [])  # no sample
    twice = sealed + bytes(40)
    # The second ends before its tag could begin, though there are bytes enough for a sample.
    opened, _ = open_all(protection, twice, [len(sealed), 12], -1)
    assert [pn for pn, _, _ in opened] == [0]
    assert open_all(protection, b"\x40", [1], -1) == ([], [])


def test_long_headers(make: MakeProtection) -> None:
    """Longer than any that is put together on a stack; with a token, for one."""
    protection = make(**SUITES["AES-128-GCM"])
    for length in (30, 70, 1100):
        head = bytes((0xC1,)) + noise(length)
        out = memoryview(bytearray(3000))
        end = protection.seal_run(out, 0, head, 3, 2, (noise(500),))
        opened, _ = open_all(protection, bytes(out[:end]), [end], -1, pn_offset=len(head))
        assert opened == [(3, 0xC1, noise(500))]


@suites
def test_a_stream_run_is_a_run_of_its_frames(make: MakeProtection, suite: str) -> None:
    protection = make(**SUITES[suite])
    data = noise(1000)
    frames = [
        HEAD + (0xC0 << 56 | 77 + at).to_bytes(8, "big") + data[at : at + 333]
        for at in range(0, len(data), 333)
    ]
    assert seal_stream(protection, 5, 2, 77, data, 333) == seal(protection, 5, 2, frames)


@suites
@pytest.mark.parametrize("count", [1, 2, 44, 256, 300])
def test_a_stream_run_comes_back_as_its_data(make: MakeProtection, suite: str, count: int) -> None:
    protection = make(**SUITES[suite])
    step = 200
    data = noise(step * count - 50)
    train = memoryview(seal_stream(protection, 300, 2, 10_000, data, step))
    segment = PN_OFFSET + 2 + HEAD_LENGTH + step + TAG_LENGTH
    opened, piece = protection.open_stream_run(train, segment, PN_OFFSET, 300, -1, HEAD, 10_000)
    assert opened == min(count, 256)
    assert piece == data[: opened * step]


def test_a_stream_run_ends_at_what_is_not_expected(make: MakeProtection) -> None:
    protection = make(**SUITES["AES-128-GCM"])
    step = 100
    data = noise(step * 6)
    segment = PN_OFFSET + 2 + HEAD_LENGTH + step + TAG_LENGTH
    train = seal_stream(protection, 9, 2, 0, data, step)

    def take(
        data: bytes, *, pn: int = 9, phase: int = -1, head: bytes = HEAD, offset: int = 0
    ) -> tuple[int, bytes]:
        opened, piece = protection.open_stream_run(
            memoryview(data), segment, PN_OFFSET, pn, phase, head, offset
        )
        return opened, bytes(piece)

    assert take(train) == (6, data)
    assert take(train, phase=0) == (6, data)
    nothing = (0, b"")
    assert take(b"") == nothing
    assert take(train, pn=8) == nothing
    assert take(train, phase=4) == nothing
    assert take(train, head=b"\x0c\x08") == nothing
    assert take(train, offset=1) == nothing
    forged = bytearray(train)
    forged[3 * segment + 60] ^= 1
    assert take(bytes(forged)) == (3, data[: 3 * step])
    for other in (
        seal_stream(protection, 12, 2, 300, data[300:], step, 0x44),  # the other key phase
        seal_stream(protection, 12, 2, 300, data[300:], step, 0x48),  # a reserved bit
        seal_stream(protection, 13, 2, 300, data[300:], step),  # a packet is missing
        seal_stream(protection, 12, 2, 301, data[300:], step),  # another offset
        seal(protection, 12, 2, [b"\x01".ljust(HEAD_LENGTH + step, b"\0")]),  # no STREAM frame
        seal(protection, 12, 2, [HEAD + (0xC0 << 56 | 300).to_bytes(8, "big")]),  # an empty one
    ):
        assert take(train[: 3 * segment] + other, phase=0) == (3, data[: 3 * step])
    # Packet numbers of another length say the same.
    longer = seal_stream(protection, 12, 3, 300, data[300:399], 99)
    assert take(train[: 3 * segment] + longer) == (4, data[:399])


def test_misuse_is_an_error_and_no_overrun(make: MakeProtection) -> None:
    protection = make(**SUITES["AES-128-GCM"])
    out = memoryview(bytearray(100))
    with pytest.raises(ValueError):
        protection.seal_run(out, 0, prefix(2), 0, 2, [bytes(100)])
    sealed = seal(protection, 0, 2, [noise(50), noise(50)])
    half = len(sealed) // 2
    with pytest.raises(ValueError):
        protection.open_run(
            memoryview(sealed), [0, half], [half, 2 * half], PN_OFFSET, -1, memoryview(bytearray(60))
        )


def test_keys_that_fit_no_suite(make: MakeProtection) -> None:
    for key, hp in ((b"k" * 15, b"h" * 15), (b"k" * 16, b"h" * 15)):
        with pytest.raises(ValueError):
            make(key, IV, hp, chacha20=False)


# --- both alike

pn_lengths = st.integers(1, 4)
numbers = st.one_of(st.integers(0, 300), st.integers(0, (1 << 62) - 100))


@suites
@given(data=st.data())
def test_both_seal_alike(leaf: MakeProtection, suite: str, data: st.DataObject) -> None:
    pn_length = data.draw(pn_lengths)
    pn = data.draw(numbers)
    payloads = data.draw(st.lists(st.binary(min_size=3, max_size=40), max_size=70))
    bits = data.draw(st.sampled_from([0x40, 0x44, 0x60, 0xC0, 0xE0]))
    sealed = seal(leaf(**SUITES[suite]), pn, pn_length, payloads, bits)
    assert sealed == seal(PlainProtection(**SUITES[suite]), pn, pn_length, payloads, bits)


@suites
@given(data=st.data())
def test_both_seal_streams_alike(leaf: MakeProtection, suite: str, data: st.DataObject) -> None:
    arguments = (
        data.draw(numbers),
        data.draw(pn_lengths),
        data.draw(st.integers(0, (1 << 62) - 5000)),
        data.draw(st.binary(max_size=4000)),
        data.draw(st.integers(1, 900)),
    )
    assert seal_stream(leaf(**SUITES[suite]), *arguments) == seal_stream(
        PlainProtection(**SUITES[suite]), *arguments
    )


@suites
@given(data=st.data())
def test_both_open_alike(leaf: MakeProtection, suite: str, data: st.DataObject) -> None:
    """Whatever comes: packets in any order, from far ahead, changed, cut, or made up."""
    plain = PlainProtection(**SUITES[suite])
    largest = data.draw(st.one_of(st.just(-1), numbers))
    packets: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 12))):
        pn_length = data.draw(pn_lengths)
        pn = max(0, min(largest + data.draw(st.integers(-300, 70_000)), (1 << 62) - 1))
        bits = data.draw(st.sampled_from([0x40, 0x40, 0x44, 0x58]))
        packet = bytearray(seal(plain, pn, pn_length, [data.draw(st.binary(min_size=3, max_size=90))], bits))
        match data.draw(st.sampled_from(["as it is", "as it is", "flip", "cut", "noise"])):
            case "flip":
                packet[data.draw(st.integers(0, len(packet) - 1))] ^= 1 << data.draw(st.integers(0, 6))
            case "cut":
                del packet[data.draw(st.integers(1, len(packet))) :]
            case "noise":
                packet = bytearray(data.draw(st.binary(min_size=1, max_size=60)))
                packet[0] &= 0x7F
            case _:
                pass
        # A run is of one connection: endpoints see to that before anything is opened.
        packet[1 : 1 + len(CID)] = CID[: max(0, len(packet) - 1)]
        packets.append(bytes(packet))
    together = b"".join(packets)
    sizes = [len(packet) for packet in packets]
    phase = data.draw(st.sampled_from([-1, 0, 4]))
    assert open_all(leaf(**SUITES[suite]), together, sizes, largest, phase) == open_all(
        plain, together, sizes, largest, phase
    )


@suites
@given(data=st.data())
def test_both_open_streams_alike(leaf: MakeProtection, suite: str, data: st.DataObject) -> None:
    plain = PlainProtection(**SUITES[suite])
    pn_length = data.draw(pn_lengths)
    pn = data.draw(numbers)
    offset = data.draw(st.integers(0, 1 << 40))
    step = data.draw(st.integers(1, 300))
    train = bytearray(seal_stream(plain, pn, pn_length, offset, data.draw(st.binary(max_size=2000)), step))
    size = PN_OFFSET + pn_length + HEAD_LENGTH + step + TAG_LENGTH
    if train and data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(train) - 1))
        if not 1 <= position % size <= len(CID):  # endpoints see to it that a run is of one connection
            train[position] ^= 1 << data.draw(st.integers(0, 7))
    segment = data.draw(st.one_of(st.just(size), st.integers(1, 400)))
    phase = data.draw(st.sampled_from([-1, 0, 4]))
    arguments = (memoryview(train), segment, PN_OFFSET, pn, phase, HEAD, offset)
    assert leaf(**SUITES[suite]).open_stream_run(*arguments) == plain.open_stream_run(*arguments)


# --- which of them is used


@pytest.mark.parametrize(("wish", "used"), [("1", "Python"), ("0", "C")])
def test_the_environment_chooses(wish: str, used: str, leaf: MakeProtection) -> None:
    program = "from quicfs.transport.protection import IMPLEMENTATION; print(IMPLEMENTATION)"
    environment = {**os.environ, "QUICFS_PLAIN": wish}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == used


def test_the_leaf_refuses_what_is_out_of_bounds(leaf: MakeProtection) -> None:
    protection = leaf(**SUITES["AES-128-GCM"])
    data, out = memoryview(bytearray(100)), memoryview(bytearray(100))
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("seal_run", (out, 101, prefix(1), 0, 1, [])),
        ("seal_run", (out, -1, prefix(1), 0, 1, [])),
        ("seal_run", (out, 0, prefix(1), 0, 5, [])),
        ("seal_run", (out, 0, b"", 0, 1, [])),
        ("seal_run", (out, 0, prefix(1), 0, 1, [b"ab"])),
        ("seal_stream_run", (out, 0, prefix(1), 0, 1, HEAD, 0, data, 0)),
        ("seal_stream_run", (out, 0, prefix(1), 0, 1, bytes(9), 0, data, 10)),
        ("seal_stream_run", (out, 0, prefix(1), 0, 1, HEAD, 0, data, 90)),
        ("open_run", (data, [0], [101], PN_OFFSET, -1, out)),
        ("open_run", (data, [-1], [100], PN_OFFSET, -1, out)),
        ("open_run", (data, [60], [50], PN_OFFSET, -1, out)),
        ("open_run", (data, [0], [], PN_OFFSET, -1, out)),
        ("open_run", (data, [0], [100], 0, -1, out)),
        ("open_run", (data, [0], [100], PN_OFFSET, -2, out)),
        ("open_stream_run", (data, 0, PN_OFFSET, 0, -1, HEAD, 0)),
        ("open_stream_run", (data, 1 << 62, PN_OFFSET, 0, -1, HEAD, 0)),
        ("open_stream_run", (data, 100, 0, 0, -1, HEAD, 0)),
        ("open_stream_run", (data, 100, 61, 0, -1, HEAD, 0)),
        ("open_stream_run", (data, 100, PN_OFFSET, 0, -1, bytes(9), 0)),
    ]
    for name, arguments in calls:
        with pytest.raises(ValueError):
            getattr(protection, name)(*arguments)
    for name, arguments in (
        ("seal_run", (out, 0, prefix(1), 0, 1)),
        ("seal_run", (bytes(100), 0, prefix(1), 0, 1, [])),
        ("seal_run", (out, 0, prefix(1), 0, 1, [3])),
        ("seal_run", (out, "0", prefix(1), 0, 1, [])),
        ("open_run", (data, [0], [100], PN_OFFSET, -1, bytearray(100))),
        ("open_run", (data, [0], [100], PN_OFFSET, -1, memoryview(bytes(100)))),
        ("open_run", (data, [0], ["x"], PN_OFFSET, -1, out)),
    ):
        with pytest.raises((TypeError, BufferError)):
            getattr(protection, name)(*arguments)
