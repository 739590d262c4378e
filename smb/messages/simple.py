"""The bodies that say nothing but their size: StructureSize 4 and two reserved bytes.

LOGOFF ([MS-SMB2] §2.2.7, §2.2.8), TREE_DISCONNECT (§2.2.11, §2.2.12), FLUSH response (§2.2.18), LOCK
response (§2.2.27), ECHO (§2.2.28, §2.2.29), CANCEL (§2.2.30).
"""

from __future__ import annotations

import struct
from typing import Final

from quicfs.smb.messages.wire import body

__all__ = ["EMPTY_BODY", "check_empty"]

_EMPTY = struct.Struct("<HH")
EMPTY_BODY: Final = _EMPTY.pack(4, 0)


def check_empty(message: memoryview) -> None:
    body(_EMPTY, message, 4, "message without fields")
