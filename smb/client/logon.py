"""The client's end of SESSION_SETUP's security tokens: NTLMv2 in SPNEGO."""

from __future__ import annotations

import os
import time

from quicfs.smb.errors import SmbProtocolError
from quicfs.smb.ntlm import Credentials, NtlmInitiator, NtlmRefused
from quicfs.smb.spnego import NTLMSSP, NegState, NegTokenInit, NegTokenResp, parse

__all__ = ["Logon", "LogonRefused"]


class LogonRefused(Exception):
    """We do not go on with this server. The text is a sentence."""


class Logon:
    """One exchange: `first`, `answer`, and `finish` with the token of the server's SUCCESS."""

    def __init__(self, credentials: Credentials, host: str) -> None:
        self._ntlm = NtlmInitiator(credentials, host, time.time_ns(), os.urandom)
        self._init = NegTokenInit([NTLMSSP])
        self.mechanisms_proved = False
        """Whether the server signed the list of mechanisms."""

    @property
    def session_key(self) -> bytes:
        return self._ntlm.session_key

    def first(self, hint: bytes) -> bytes:
        """`hint` is the token of the NEGOTIATE response; it may be empty ([MS-SMB2] §2.2.4)."""
        if hint:
            offer = parse(hint, hints=True)
            if isinstance(offer, NegTokenInit) and NTLMSSP not in offer.mechanisms:
                raise LogonRefused("the server accepts no NTLM, and nothing else is spoken here")
        self._init = NegTokenInit([NTLMSSP], self._ntlm.negotiate())
        return self._init.encode()

    def answer(self, token: bytes) -> bytes:
        """The server's token with the challenge in, the proof out."""
        resp = parse(token)
        if not isinstance(resp, NegTokenResp):
            raise SmbProtocolError("a server that answers with NegTokenInit")
        if resp.state is NegState.REJECT or resp.mechanism not in (None, NTLMSSP):
            raise LogonRefused("the server declines NTLM, and nothing else is spoken here")
        if resp.token is None:
            raise SmbProtocolError("a server that answers without a challenge")
        try:
            last = self._ntlm.authenticate(resp.token)
        except NtlmRefused as error:
            raise LogonRefused(str(error)) from error
        if self._ntlm.context is None:
            raise RuntimeError("no security context after the proof")
        mic = self._ntlm.context.sign(self._init.mech_list(), by_client=True)
        return NegTokenResp(token=last, mic=mic).encode()

    def finish(self, token: bytes, *, guest: bool = False) -> None:
        """Check what the server says about the list of mechanisms (RFC 4178 §5).

        With one mechanism in the list nothing can have been bargained down, so a server may leave its
        signature out; a wrong one is never right. A guest's server does not know the key.
        """
        if not token:
            return
        resp = parse(token)
        if not isinstance(resp, NegTokenResp) or resp.state is NegState.REJECT:
            raise SmbProtocolError("a server whose last token does not accept")
        if resp.mic is None or guest:
            return
        context = self._ntlm.context
        if context is None or not context.verify(self._init.mech_list(), resp.mic, by_client=False):
            raise LogonRefused("the server's signature of the mechanisms is wrong: somebody is in between")
        self.mechanisms_proved = True
