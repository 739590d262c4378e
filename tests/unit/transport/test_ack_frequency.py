"""Asking for fewer ACKs, and being asked (draft-ietf-quic-ack-frequency)."""

from __future__ import annotations

import pytest

from quicfs.transport.ack_frequency import AckFrequency, own_min_ack_delay_us
from quicfs.transport.acks import ReceivedPackets
from quicfs.transport.errors import ProtocolViolation, TransportErrorCode
from quicfs.transport.frame_ack import AckFrequencyFrame
from quicfs.transport.transport_param import TransportParameters, decode

OURS = TransportParameters(min_ack_delay_us=1000)


@pytest.mark.parametrize(
    ("ours", "delay_us"), [(TransportParameters(), 5000), (OURS, 999), (OURS, (1 << 14) * 1000)]
)
def test_impossible_wishes_are_a_violation(ours: TransportParameters, delay_us: int) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        AckFrequency().handle(AckFrequencyFrame(0, 10, delay_us, 1), ours, ReceivedPackets(0.025))
    assert caught.value.code == TransportErrorCode.PROTOCOL_VIOLATION


def test_an_overtaken_wish_does_not_count() -> None:
    """§4: frames may arrive in another order than they were sent in."""
    received, frequency = ReceivedPackets(0.025), AckFrequency()
    frequency.handle(AckFrequencyFrame(5, 10, 8000, 1), OURS, received)
    frequency.handle(AckFrequencyFrame(4, 0, 2000, 1), OURS, received)
    received.add(1.0, 0, 5)
    received.decide(1.0, 5)
    assert received.ack_at == 1.008


def test_every_frame_has_a_number_of_its_own() -> None:
    frequency = AckFrequency()
    assert not frequency.asked
    assert frequency.write() != frequency.write()
    assert frequency.asked


def test_what_is_announced_fits_max_ack_delay() -> None:
    """§3."""
    assert own_min_ack_delay_us(25) == 1000
    assert own_min_ack_delay_us(0) == 0
    good = TransportParameters(max_ack_delay_ms=1, min_ack_delay_us=1000).encode(is_server=False)
    assert decode(good, from_server=False).min_ack_delay_us == 1000
    bad = TransportParameters(max_ack_delay_ms=1, min_ack_delay_us=1001).encode(is_server=False)
    with pytest.raises(ProtocolViolation) as caught:
        decode(bad, from_server=False)
    assert caught.value.code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR
