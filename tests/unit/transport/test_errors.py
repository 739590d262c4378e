"""The three kinds of error, as text for a person and as codes for the wire."""

from __future__ import annotations

from quicfs.transport.errors import ClosedError, ProtocolViolation, TransportErrorCode, error_name


def test_violation_carries_what_connection_close_needs() -> None:
    violation = ProtocolViolation(TransportErrorCode.FLOW_CONTROL_ERROR, "stream limit exceeded", 0x08)
    assert (violation.code, violation.frame_type, violation.reason) == (3, 8, "stream limit exceeded")
    assert str(violation) == "FLOW_CONTROL_ERROR: stream limit exceeded"


def test_closed_tells_who_and_why() -> None:
    assert str(ClosedError(0x100 + 42, False, "bad certificate", True)) == (
        "connection closed by the peer: CRYPTO_ERROR(42): bad certificate"
    )
    assert str(ClosedError(7, True, "", False)) == "connection closed by this end: application error 0x7"
    assert isinstance(ClosedError(0, False, "", True), ConnectionError)


def test_names_of_codes() -> None:
    assert error_name(0x0A) == "PROTOCOL_VIOLATION"
    assert error_name(0x1FF) == "CRYPTO_ERROR(255)"
    assert error_name(0x4242) == "error 0x4242"
