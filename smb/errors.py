"""The three ways SMB goes wrong: the peer broke the protocol, a request failed, the connection is over."""

from __future__ import annotations

from quicfs.smb.ntstatus import NtStatus

__all__ = ["SmbError", "SmbProtocolError"]


class SmbProtocolError(Exception):
    """What the peer sent is not SMB2 as [MS-SMB2] writes it. The sentence names the field."""


class SmbError(Exception):
    """One request failed; `status` is what goes (or came) in the header's Status field.

    `data` is that of the ERROR response ([MS-SMB2] §2.2.2), nearly always empty.
    """

    def __init__(self, status: NtStatus | int, detail: str = "", *, data: bytes = b"") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.data = data

    def __str__(self) -> str:
        name = self.status.name if isinstance(self.status, NtStatus) else f"0x{self.status:08x}"
        return f"{self.detail}: {name}" if self.detail else name
