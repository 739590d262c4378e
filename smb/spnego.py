"""SPNEGO tokens (RFC 4178 §4.2, [MS-SPNG] §2.2.1), in DER by pyasn1."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyasn1.codec.der import decoder, encoder
from pyasn1.error import PyAsn1Error
from pyasn1.type import char, constraint, namedtype, tag, univ

from quicfs.smb.errors import SmbProtocolError

__all__ = ["MAX_TOKEN", "NTLMSSP", "SPNEGO", "NegState", "NegTokenInit", "NegTokenResp", "parse"]

SPNEGO: Final = "1.3.6.1.5.5.2"
NTLMSSP: Final = "1.3.6.1.4.1.311.2.2.10"
MAX_TOKEN: Final = 16384
"""Bytes. NTLM needs some hundred; Windows puts Kerberos tickets into first tokens, which we then decline."""
MAX_MECHANISMS: Final = 32
_HINT: Final = "not_defined_in_RFC4178@please_ignore"  # [MS-SPNG] §2.2.1, what Windows and Samba send


class NegState(enum.IntEnum):
    ACCEPT_COMPLETED = 0
    ACCEPT_INCOMPLETE = 1
    REJECT = 2
    REQUEST_MIC = 3


def _explicit(base: Any, number: int) -> Any:
    return base.subtype(explicitTag=tag.Tag(tag.tagClassContext, tag.tagFormatSimple, number))


def _optional(name: str, base: Any, number: int) -> Any:
    return namedtype.OptionalNamedType(name, _explicit(base, number))


class _MechTypeList(univ.SequenceOf):  # type: ignore[misc]
    componentType = univ.ObjectIdentifier()
    sizeSpec = constraint.ValueSizeConstraint(1, MAX_MECHANISMS)


class _NegHints(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        _optional("hintName", char.GeneralString(), 0),
        _optional("hintAddress", univ.OctetString(), 1),
    )


class _Init(univ.Sequence):  # type: ignore[misc]
    """NegTokenInit as clients send it."""

    componentType = namedtype.NamedTypes(
        namedtype.NamedType("mechTypes", _explicit(_MechTypeList(), 0)),
        _optional("reqFlags", univ.BitString(), 1),
        _optional("mechToken", univ.OctetString(), 2),
        _optional("mechListMIC", univ.OctetString(), 3),
    )


class _Init2(univ.Sequence):  # type: ignore[misc]
    """NegTokenInit2 as servers send it: [3] is the hints, [4] the MIC."""

    componentType = namedtype.NamedTypes(
        namedtype.NamedType("mechTypes", _explicit(_MechTypeList(), 0)),
        _optional("reqFlags", univ.BitString(), 1),
        _optional("mechToken", univ.OctetString(), 2),
        _optional("negHints", _NegHints(), 3),
        _optional("mechListMIC", univ.OctetString(), 4),
    )


class _Resp(univ.Sequence):  # type: ignore[misc]
    componentType = namedtype.NamedTypes(
        _optional("negState", univ.Enumerated(), 0),
        _optional("supportedMech", univ.ObjectIdentifier(), 1),
        _optional("responseToken", univ.OctetString(), 2),
        _optional("mechListMIC", univ.OctetString(), 3),
    )


_APPLICATION_0: Final = tag.Tag(tag.tagClassApplication, tag.tagFormatConstructed, 0)


def _initial(inner: Any) -> Any:
    """InitialContextToken of RFC 2743 §3.1 around a NegTokenInit."""
    fields = namedtype.NamedTypes(
        namedtype.NamedType("thisMech", univ.ObjectIdentifier()),
        namedtype.NamedType("token", _explicit(inner, 0)),
    )
    return univ.Sequence(componentType=fields).subtype(implicitTag=_APPLICATION_0)


_INITIAL: Final = _initial(_Init())
_INITIAL2: Final = _initial(_Init2())
_RESPONSE: Final = _explicit(_Resp(), 1)


def _octets(fields: Any, name: str) -> bytes | None:
    value = fields[name]
    return bytes(value) if value.isValue else None


@dataclass(frozen=True, slots=True)
class NegTokenInit:
    """The first token of either side."""

    mechanisms: Sequence[str]
    token: bytes | None = None

    def encode(self, *, hints: bool = False) -> bytes:
        """With `hints` as a server's NegTokenInit2."""
        whole = (_INITIAL2 if hints else _INITIAL).clone()
        whole["thisMech"] = SPNEGO
        fields = whole["token"]
        fields["mechTypes"].extend(self.mechanisms)
        if self.token is not None:
            fields["mechToken"] = self.token
        if hints:
            fields["negHints"]["hintName"] = _HINT
        return bytes(encoder.encode(whole))

    def mech_list(self) -> bytes:
        """What mechListMIC is computed over: the DER of MechTypeList (RFC 4178 §5)."""
        mechanisms = _MechTypeList()
        mechanisms.extend(self.mechanisms)
        return bytes(encoder.encode(mechanisms))


@dataclass(frozen=True, slots=True)
class NegTokenResp:
    """Every token after the first one."""

    state: NegState | None = None
    mechanism: str | None = None
    token: bytes | None = None
    mic: bytes | None = None

    def encode(self) -> bytes:
        fields = _RESPONSE.clone()
        fields.clear()
        if self.state is not None:
            fields["negState"] = int(self.state)
        if self.mechanism is not None:
            fields["supportedMech"] = self.mechanism
        if self.token is not None:
            fields["responseToken"] = self.token
        if self.mic is not None:
            fields["mechListMIC"] = self.mic
        return bytes(encoder.encode(fields))


def parse(data: bytes, *, hints: bool = False) -> NegTokenInit | NegTokenResp:
    """A token of the peer; `hints` says that a first token comes from a server (NegTokenInit2).

    SmbProtocolError when it is none.
    """
    if not data or len(data) > MAX_TOKEN:
        raise SmbProtocolError(f"a SPNEGO token of {len(data)} bytes")
    try:
        if data[0] == 0x60:
            return _parse_init(data, hints)
        return _parse_resp(data)
    # pyasn1 raises more than its own kind on what no encoder would make.
    except (PyAsn1Error, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise SmbProtocolError("a SPNEGO token that is not DER of RFC 4178") from error


def _parse_init(data: bytes, hints: bool) -> NegTokenInit:
    whole, _ = decoder.decode(data, asn1Spec=_INITIAL2 if hints else _INITIAL)
    if str(whole["thisMech"]) != SPNEGO:
        raise SmbProtocolError("a GSS token of another mechanism than SPNEGO")
    fields = whole["token"]
    mechanisms = [str(mechanism) for mechanism in fields["mechTypes"]]
    if not 0 < len(mechanisms) <= MAX_MECHANISMS:
        raise SmbProtocolError(f"a SPNEGO token with {len(mechanisms)} mechanisms")
    return NegTokenInit(mechanisms, _octets(fields, "mechToken"))


def _parse_resp(data: bytes) -> NegTokenResp:
    fields, _ = decoder.decode(data, asn1Spec=_RESPONSE)
    state = NegState(int(fields["negState"])) if fields["negState"].isValue else None
    mechanism = str(fields["supportedMech"]) if fields["supportedMech"].isValue else None
    return NegTokenResp(state, mechanism, _octets(fields, "responseToken"), _octets(fields, "mechListMIC"))
