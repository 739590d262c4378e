"""The server's authenticator: NTLMv2 within SPNEGO, or bare, against the file of users."""

from __future__ import annotations

import enum
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Final, Protocol

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.ntlm import SIGNATURE, NtlmAcceptor, NtlmLogon, NtlmRefused, TargetNames
from quicfs.smb.ntstatus import NtStatus
from quicfs.smb.spnego import MAX_TOKEN, NTLMSSP, NegState, NegTokenInit, NegTokenResp, parse

__all__ = ["GUEST", "NtlmAuthenticator", "NtlmExchange", "UserSource", "is_local_address"]

_log = logging.getLogger("quicfs.smb")

GUEST: Final = "guest"

Verdict = tuple[NtStatus, bytes]


class UserSource(Protocol):
    def find(self, name: str) -> bytes | None:
        """The NT hash of a user, 16 bytes, or None."""


class NtlmAuthenticator:
    """Satisfies `quicfs.smb.auth_api.Authenticator`.

    `users` None lets nobody in but guests. `anonymous` lets sessions without a user in (they see what the
    server shows them, usually only the list of shares).
    """

    def __init__(
        self,
        users: UserSource | None,
        names: TargetNames,
        *,
        anonymous: bool = True,
        entropy: Callable[[int], bytes] = os.urandom,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._users = users
        self._names = names
        self._anonymous = anonymous
        self._entropy = entropy
        self._clock_ns = clock_ns
        self._hint = NegTokenInit([NTLMSSP]).encode(hints=True)

    def negotiate_token(self) -> bytes:
        return self._hint

    def new_exchange(self, *, peer: str, allow_guest: bool = False) -> NtlmExchange:
        acceptor = NtlmAcceptor(self._names, self._clock_ns(), self._entropy)
        find = self._users.find if self._users is not None else lambda name: None
        return NtlmExchange(acceptor, find, peer, allow_guest=allow_guest, allow_anonymous=self._anonymous)


class _State(enum.Enum):
    FIRST = "waiting for the first token"
    NEGOTIATE = "waiting for NTLM's NEGOTIATE"  # another mechanism had been preferred
    AUTHENTICATE = "waiting for NTLM's AUTHENTICATE"
    DONE = "decided"


class NtlmExchange:
    """Satisfies `quicfs.smb.auth_api.AuthExchange`.

    FIRST -> AUTHENTICATE -> DONE, or FIRST -> NEGOTIATE -> AUTHENTICATE -> DONE.
    """

    def __init__(
        self,
        acceptor: NtlmAcceptor,
        find: Callable[[str], bytes | None],
        peer: str,
        *,
        allow_guest: bool,
        allow_anonymous: bool,
    ) -> None:
        self._acceptor = acceptor
        self._find = find
        self._peer = peer
        self._allow_guest = allow_guest
        self._allow_anonymous = allow_anonymous
        self._state = _State.FIRST
        self._bare = False  # NTLM without SPNEGO around it
        self._mechanisms: NegTokenInit | None = None
        self._mic_required = False
        self.session_key = bytes(16)
        self.user = ""
        self.is_guest = False
        self.is_anonymous = False

    def step(self, token: bytes) -> Verdict:
        state, self._state = self._state, _State.DONE
        try:
            if len(token) > MAX_TOKEN:
                raise SmbProtocolError(f"a security token of {len(token)} bytes")
            if state is _State.FIRST:
                return self._first(token)
            if state is _State.NEGOTIATE:
                return self._challenge(self._unwrap(token)[0])
            if state is _State.AUTHENTICATE:
                return self._decide(*self._unwrap(token))
        except SmbProtocolError as error:
            _log.info("%s: %s", self._peer, error)
            return NtStatus.INVALID_PARAMETER, b""
        except NtlmRefused as error:
            _log.warning("%s: login refused: %s", self._peer, error)
            return NtStatus.LOGON_FAILURE, b""
        raise RuntimeError("the exchange is over")

    def _first(self, token: bytes) -> Verdict:
        if token.startswith(SIGNATURE):
            self._bare = True
            return self._challenge(token)
        first = parse(token)
        if not isinstance(first, NegTokenInit):
            raise SmbProtocolError("an exchange that does not begin with NegTokenInit")
        if NTLMSSP not in first.mechanisms:
            raise NtlmRefused("the client offers no NTLM")
        self._mechanisms = first
        if first.mechanisms[0] == NTLMSSP and first.token:
            return self._challenge(first.token)
        # RFC 4178 §4.2.2: not the client's first choice, so the list must be proved genuine
        self._mic_required = first.mechanisms[0] != NTLMSSP
        self._state = _State.NEGOTIATE
        state = NegState.REQUEST_MIC if self._mic_required else NegState.ACCEPT_INCOMPLETE
        return NtStatus.MORE_PROCESSING_REQUIRED, NegTokenResp(state, NTLMSSP).encode()

    def _unwrap(self, token: bytes) -> tuple[bytes, bytes | None]:
        """The NTLM message and the mechListMIC in `token`."""
        if self._bare or token.startswith(SIGNATURE):
            return token, None
        wrapped = parse(token)
        if not isinstance(wrapped, NegTokenResp) or wrapped.token is None:
            raise SmbProtocolError("a SPNEGO token without an NTLM message")
        return wrapped.token, wrapped.mic

    def _challenge(self, negotiate: bytes) -> Verdict:
        answer = self._acceptor.challenge(negotiate)
        self._state = _State.AUTHENTICATE
        if not self._bare:
            answer = NegTokenResp(NegState.ACCEPT_INCOMPLETE, NTLMSSP, answer).encode()
        return NtStatus.MORE_PROCESSING_REQUIRED, answer

    def _decide(self, authenticate: bytes, mic: bytes | None) -> Verdict:
        logon = self._acceptor.verify(authenticate, self._find)
        if logon.same_machine and not is_local_address(self._peer):
            # A proof made on this machine, brought by another: NTLM reflection
            raise NtlmRefused(f"the proof of user {logon.user!r} was made on this machine and reflected")
        self._admit(logon)
        return NtStatus.SUCCESS, self._final_token(logon, mic)

    def _admit(self, logon: NtlmLogon) -> None:
        if logon.anonymous and self._allow_guest:
            self.user = GUEST  # where everybody may come in, nobody needs a name for it
            self.is_guest = True
        elif logon.anonymous:
            if not self._allow_anonymous:
                raise NtlmRefused("anonymous sessions are off")
            self.is_anonymous = True
        elif logon.known:
            self.user = logon.user
            self.session_key = logon.session_key
        elif self._allow_guest:
            self.user = GUEST
            self.is_guest = True
        else:
            raise NtlmRefused(f"user {logon.user!r} is unknown")

    def _final_token(self, logon: NtlmLogon, mic: bytes | None) -> bytes:
        if self._mechanisms is None:
            return b""
        if logon.context is None:  # a guest, whose key we cannot know
            return NegTokenResp(NegState.ACCEPT_COMPLETED).encode()
        listed = self._mechanisms.mech_list()
        if mic is None:
            if self._mic_required:
                raise NtlmRefused(f"user {logon.user!r} sent no mechListMIC")
            return NegTokenResp(NegState.ACCEPT_COMPLETED).encode()
        if not logon.context.verify(listed, mic, by_client=True):
            raise NtlmRefused(f"the mechListMIC of user {logon.user!r} is wrong")
        ours = logon.context.sign(listed, by_client=False)
        return NegTokenResp(NegState.ACCEPT_COMPLETED, mic=ours).encode()


def is_local_address(peer: str) -> bool:
    """Whether `peer` ("host:port", "[host]:port" or no address at all) is an address of this machine."""
    host = peer.rpartition(":")[0].strip("[]").partition("%")[0]
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, host)
        except OSError:
            continue
        if packed[:12] == bytes(10) + b"\xff\xff":  # IPv4 in IPv6
            family, host = socket.AF_INET, socket.inet_ntop(socket.AF_INET, packed[12:])  # noqa: PLW2901
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((host, 0))  # only our own addresses can be bound
            except OSError:
                return False
            return True
    return True  # no address: a stream in memory, a socket pair
