"""The keys of successive phases, against the vectors of RFC 9001 §A.5."""

from __future__ import annotations

import pytest

from quicfs.transport.crypto import CipherSuite, Keys
from quicfs.transport.errors import ProtocolViolation
from quicfs.transport.errors import TransportErrorCode as Code
from quicfs.transport.key_update import KeyPhases
from quicfs.transport.packet import FIXED_BIT, KEY_PHASE_BIT

PREFIX = bytes((FIXED_BIT | 1,)) + bytes(8)


def keys(phase: int = 0, suite: CipherSuite = CipherSuite.AES_128_GCM) -> Keys:
    made = Keys(suite, bytes(suite.hash_type().digest_size))
    for _ in range(phase):
        made = made.next_phase()
    return made


def packet(phase: int, pn: int) -> tuple[int, bytes]:
    out = memoryview(bytearray(100))
    end = keys(phase).seal_run(out, 0, PREFIX, pn, 2, (b"\x01" + bytes(20),))
    return pn, bytes(out[:end])


def test_secret_of_the_next_phase() -> None:
    """§A.5: "quic ku"."""
    secret = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
    following = Keys(CipherSuite.CHACHA20_POLY1305, secret).next_phase().secret
    assert following.hex() == "1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9"


@pytest.mark.parametrize("suite", CipherSuite)
def test_header_protection_stays(suite: CipherSuite) -> None:
    """§6.1: the Key Phase bit of either phase can be read with the keys of the other."""
    out = memoryview(bytearray(100))
    end = keys(1, suite).seal_run(out, 0, bytes((FIXED_BIT | KEY_PHASE_BIT,)) + bytes(8), 7, 1, (bytes(20),))
    scratch = memoryview(bytearray(100))
    assert keys(0, suite).open_run(out, [0], [end], 9, -1, scratch, 0) == ([], [0])
    opened, other = keys(1, suite).open_run(out, [0], [end], 9, -1, scratch, KEY_PHASE_BIT)
    assert [pn for pn, _, _ in opened] == [7]
    assert other == []


def test_neighbouring_phases_are_opened() -> None:
    phases = KeyPhases(1000)
    phases.prepare(keys(0))
    phases.advance(keys(0), keys(0), next_pn=50, highest_received=30)
    data = bytearray()
    starts, stops = [], []
    for phase, pn in ((0, 31), (2, 33), (0, 32), (3, 34)):
        starts.append(len(data))
        data += packet(phase, pn)[1]
        stops.append(len(data))
    scratch = memoryview(bytearray(len(data)))
    old, new = phases.open_other(memoryview(data), starts, stops, len(PREFIX), 30, scratch)
    assert [pn for pn, _, _ in old] == [31, 32]
    assert [pn for pn, _, _ in new] == [33]
    assert {bytes(payload) for _, _, payload in old + new} == {b"\x01" + bytes(20)}


def test_when_an_update_may_begin() -> None:
    """§6.1, §6.5: acknowledged, and 3 PTO ago."""
    phases = KeyPhases(1000)
    phases.prepare(keys(0))
    assert phases.refusal(0.0, 0.1) is None
    current, _ = phases.advance(keys(0), keys(0), next_pn=50, highest_received=30)
    assert current.secret == keys(1).secret
    assert phases.phase == KEY_PHASE_BIT and phases.update_at == 1050
    phases.note_acked(49, 1.0)
    assert phases.refusal(9.0, 0.1) is not None
    phases.note_acked(50, 2.0)
    assert phases.refusal(2.2, 0.1) is not None
    assert phases.refusal(2.4, 0.1) is None
    assert phases.settling
    phases.forget_previous()
    assert not phases.settling


def test_the_next_phase_wants_an_ack_between() -> None:
    """§6.2."""
    phases = KeyPhases(1000)
    phases.prepare(keys(0))
    phases.check_next(0)
    phases.advance(keys(0), keys(0), next_pn=50, highest_received=30)
    with pytest.raises(ProtocolViolation) as violation:
        phases.check_next(9)  # the peer has not even come to this one
    assert violation.value.code == Code.KEY_UPDATE_ERROR
    assert phases.note_received([], [(31, 0, memoryview(b""))], acks_sent=9)
    assert not phases.note_received([], [(32, 0, memoryview(b""))], acks_sent=10)
    with pytest.raises(ProtocolViolation):
        phases.check_next(9)
    phases.check_next(10)
