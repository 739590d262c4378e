"""Connection IDs (RFC 9000 §5.1, §19.15, §19.16)."""

from __future__ import annotations

import pytest

from quicfs.transport import limits
from quicfs.transport.connid import LocalConnectionIds, PeerConnectionIds
from quicfs.transport.errors import MisuseError, ProtocolViolation, TransportErrorCode


def cid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def token(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_issue_and_retire() -> None:
    ours = LocalConnectionIds(cid(0), token(0))
    assert ours.wanted(100) == limits.MAX_ACTIVE_LOCAL_CIDS - 1
    assert ours.wanted(2) == 1
    issued = ours.issue(cid(1), token(1))
    with pytest.raises(ProtocolViolation):
        ours.handle_retire(1, used=cid(0))  # the peer was not told of it yet
    ours.on_sent(1)
    ours.handle_retire(0, used=cid(1))
    ours.handle_retire(0, used=cid(1))  # repeated: nothing more
    assert ours.retired == [cid(0)] and ours.get(0) is None and ours.get(1) == issued
    for sequence, used in ((2, cid(1)), (1, cid(1))):
        with pytest.raises(ProtocolViolation) as caught:
            ours.handle_retire(sequence, used)
        assert caught.value.code == TransportErrorCode.PROTOCOL_VIOLATION


def test_retire_prior_to_moves_on() -> None:
    peer = PeerConnectionIds(cid(0))
    peer.handle_new(1, 0, cid(1), token(1))
    assert peer.current.cid == cid(0)
    peer.handle_new(2, 2, cid(2), token(2))
    assert peer.current.cid == cid(2) and sorted(peer.to_retire) == [0, 1]
    assert peer.reset_tokens == [token(2)]
    peer.handle_new(1, 0, cid(1), token(1))  # late: retired at once, and only once
    assert sorted(peer.to_retire) == [0, 1]


def test_an_id_keeps_its_meaning() -> None:
    peer = PeerConnectionIds(cid(0))
    peer.handle_new(1, 0, cid(1), token(1))
    peer.handle_new(1, 0, cid(1), token(1))
    for arguments in ((1, 0, cid(9), token(1)), (1, 0, cid(1), token(9)), (3, 0, cid(1), token(3))):
        with pytest.raises(ProtocolViolation):
            peer.handle_new(*arguments)


def test_too_many() -> None:
    peer = PeerConnectionIds(cid(0))
    with pytest.raises(ProtocolViolation) as caught:
        for number in range(1, limits.MAX_ACTIVE_PEER_CIDS + 1):
            peer.handle_new(number, 0, cid(number), token(number))
    assert caught.value.code == TransportErrorCode.CONNECTION_ID_LIMIT_ERROR


def test_flood_of_retirements_ends() -> None:
    """CVE-2024-22189: the peer makes us retire and does not acknowledge."""
    peer = PeerConnectionIds(cid(0))
    with pytest.raises(ProtocolViolation) as caught:
        for number in range(1, 1000):
            peer.handle_new(number, number, cid(number), token(number))
    assert caught.value.code == TransportErrorCode.CONNECTION_ID_LIMIT_ERROR
    assert len(peer.to_retire) <= limits.MAX_RETIRED_UNACKED
    calm = PeerConnectionIds(cid(0))
    for number in range(1, 1000):
        calm.handle_new(number, number, cid(number), token(number))
        for sequence in calm.to_retire:
            calm.on_retirement_acked(sequence)
        calm.to_retire.clear()


def test_ids_for_other_paths_are_fresh_ones() -> None:
    peer = PeerConnectionIds(cid(0))
    assert peer.take() is None
    for number in (1, 2):
        peer.handle_new(number, 0, cid(number), token(number))
    assert peer.reset_tokens == []  # RFC 9000 §10.3.1: of the IDs in use only
    first, second = peer.take(), peer.take()
    assert first is not None and second is not None and (first.sequence, second.sequence) == (1, 2)
    assert peer.take() is None
    assert peer.reset_tokens == [token(1), token(2)]
    peer.retire(1)
    peer.retire(1)
    assert peer.to_retire == [1] and peer.reset_tokens == [token(2)]
    peer.handle_new(1, 0, cid(1), token(1))  # sent again, and late
    assert peer.get(1) is None and peer.to_retire == [1]


def test_a_peer_without_ids_is_the_same_everywhere() -> None:
    peer = PeerConnectionIds(b"")
    assert peer.take() == peer.take() == peer.current
    peer.retire(0)
    assert peer.to_retire == []
    with pytest.raises(MisuseError):
        peer.retire_before(1)


def test_preferred_address_brings_the_second_id() -> None:
    peer = PeerConnectionIds(cid(0))
    peer.add_preferred(cid(1), token(1))
    taken = peer.take()
    assert taken is not None and taken == (1, cid(1), token(1))
    for wrong in (PeerConnectionIds(b""), PeerConnectionIds(cid(1))):
        with pytest.raises(ProtocolViolation) as caught:
            wrong.add_preferred(cid(1), token(1))
        assert caught.value.code == TransportErrorCode.TRANSPORT_PARAMETER_ERROR


def test_numbers_far_apart_are_forgotten_in_bounded_memory() -> None:
    """A peer may leave out numbers; what was retired is remembered as far as the limit goes."""
    peer = PeerConnectionIds(cid(0))
    for number in range(2, 20_000, 2):
        peer.handle_new(number, number, cid(number), token(number))
        for sequence in peer.to_retire:
            peer.on_retirement_acked(sequence)
        peer.to_retire.clear()
    assert peer.lowest == peer.current.sequence == 19_998


def test_a_known_id_again_with_a_later_retire_prior_to() -> None:
    peer = PeerConnectionIds(cid(0))
    peer.handle_new(1, 0, cid(1), token(1))
    peer.handle_new(2, 0, cid(2), token(2))
    peer.handle_new(2, 2, cid(2), token(2))
    assert peer.current.sequence == peer.lowest == 2
    assert sorted(peer.to_retire) == [0, 1]
    peer.handle_new(2, 1, cid(2), token(2))  # overtaken: nothing more
    assert peer.lowest == 2 and len(peer.to_retire) == 2


def test_our_ids_are_asked_back() -> None:
    ours = LocalConnectionIds(cid(0), token(0))
    for number in (1, 2, 3):
        ours.on_sent(ours.issue(cid(number), token(number)).sequence)
    ours.retire_before(2)
    assert ours.retire_prior_to == 2 and ours.wanted(100) == 2
    for wrong in (1, 99, 3):  # back, never issued, too early
        with pytest.raises(MisuseError):
            ours.retire_before(wrong)
    for number in (0, 1):
        ours.handle_retire(number, used=cid(2))
    ours.retire_before(3)
    assert ours.lowest == 2


def test_the_id_in_use_is_chosen() -> None:
    peer = PeerConnectionIds(cid(0))
    for number in (1, 2, 3):
        peer.handle_new(number, 0, cid(number), token(number))
    peer.use(2)
    assert peer.current.cid == cid(2)
    with pytest.raises(MisuseError):
        peer.use(2)
    peer.retire_before(3)
    assert peer.current.cid == cid(3) and sorted(peer.to_retire) == [0, 1, 2]
    with pytest.raises(MisuseError):
        peer.retire_before(4)
