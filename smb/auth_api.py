"""What the server asks of whoever decides on users. No cryptography and no token formats here."""

from __future__ import annotations

from typing import Protocol

from quicfs.smb.ntstatus import NtStatus

__all__ = ["AuthExchange", "Authenticator"]


class AuthExchange(Protocol):
    """One GSS exchange, from the first token to the verdict. Attributes count once `step` gave SUCCESS."""

    @property
    def session_key(self) -> bytes:
        """The exported GSS session key, 16 bytes; zeros for anonymous and guest."""

    @property
    def user(self) -> str:
        """Whom the exchange proved, for logs and for ownership; "" for anonymous."""

    @property
    def is_guest(self) -> bool: ...

    @property
    def is_anonymous(self) -> bool: ...

    def step(self, token: bytes) -> tuple[NtStatus, bytes]:
        """The client's token in, a verdict and our token out ("" when there is none).

        MORE_PROCESSING_REQUIRED, SUCCESS, or why not (LOGON_FAILURE, ACCOUNT_DISABLED,
        INVALID_PARAMETER for a token that is none). Never raises on what a client sent, and never
        blocks. After SUCCESS or a failure it is not called again.
        """


class Authenticator(Protocol):
    def negotiate_token(self) -> bytes:
        """The SPNEGO NegTokenInit2 of our mechanisms for the NEGOTIATE response ([MS-SPNG] §2.2.1)."""

    def new_exchange(self, *, peer: str, allow_guest: bool = False) -> AuthExchange:
        """`peer` is for logs and rate limits; with `allow_guest` unknown users become the guest."""
