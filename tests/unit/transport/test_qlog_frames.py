"""What qlog says of frames."""

import pytest

from quicfs.transport.frame import FRAME_CODECS
from quicfs.transport.packet import PacketType
from quicfs.transport.qlog_frames import describe
from quicfs.transport.varint import encode


@pytest.mark.parametrize("frame_type", FRAME_CODECS, ids=lambda number: f"{number:#x}")
def test_every_frame_is_described(frame_type: int) -> None:
    frames = describe(encode(frame_type) + bytes(40), PacketType.ONE_RTT)
    assert frames
    assert all("frame_type" in frame for frame in frames)
