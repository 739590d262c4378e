"""What the client asks: one SMB2 request without its header, and the bodies that are asked for often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quicfs.smb.limits import CREDIT_SIZE
from quicfs.smb.messages.close import CloseRequest
from quicfs.smb.messages.create import RELATED_FILE_ID, CreateRequest
from quicfs.smb.messages.header import Command, Header
from quicfs.smb.messages.info import InfoType, QueryInfoRequest, SetInfoRequest
from quicfs.smb.messages.ioctl import IoctlRequest

__all__ = ["CLOSE_RELATED", "Answer", "Operation", "close", "create", "ioctl", "query", "set_info"]


@dataclass(slots=True)
class Operation:
    """`payload` is the larger of what is sent and what may come back, in bytes; it decides on the credits."""

    command: int
    body: Sequence[bytes | memoryview]
    payload: int = 0

    @property
    def charge(self) -> int:
        """CreditCharge, [MS-SMB2] §3.2.4.1.5."""
        return 1 if self.payload <= CREDIT_SIZE else (self.payload - 1) // CREDIT_SIZE + 1


@dataclass(slots=True)
class Answer:
    header: Header
    message: memoryview  # from its header on

    @property
    def status(self) -> int:
        return self.header.status


def create(request: CreateRequest) -> Operation:
    return Operation(Command.CREATE, (request.pack(),))


def close(file_id: bytes) -> Operation:
    return Operation(Command.CLOSE, (CloseRequest(file_id).pack(),))


CLOSE_RELATED: Final = close(RELATED_FILE_ID)


def query(
    info_class: int,
    file_id: bytes = RELATED_FILE_ID,
    *,
    kind: InfoType = InfoType.FILE,
    length: int = 4096,
    additional: int = 0,
) -> Operation:
    """QUERY_INFO with an answer of at most `length` bytes."""
    request = QueryInfoRequest(file_id, kind, info_class, length, additional)
    return Operation(Command.QUERY_INFO, (request.pack(),), length)


def set_info(
    info_class: int,
    data: bytes,
    file_id: bytes = RELATED_FILE_ID,
    *,
    kind: InfoType = InfoType.FILE,
    additional: int = 0,
) -> Operation:
    request = SetInfoRequest(file_id, kind, info_class, data, additional)
    return Operation(Command.SET_INFO, (request.pack(),), len(data))


def ioctl(code: int, data: bytes, file_id: bytes = RELATED_FILE_ID, *, output: int = 4096) -> Operation:
    """An FSCTL with an answer of at most `output` bytes."""
    request = IoctlRequest(code, file_id, data, 0, output)
    return Operation(Command.IOCTL, (request.pack(),), max(len(data), output))
