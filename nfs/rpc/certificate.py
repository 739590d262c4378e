"""The names in a certificate that TLS has verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """`subject` is an RFC 4514 string, `sha256` the fingerprint of the certificate in lower-case hex; names that are
    compared without regard to case are in lower case."""

    subject: str
    common_names: tuple[str, ...]
    dns_names: tuple[str, ...]
    emails: tuple[str, ...]
    sha256: str

    @classmethod
    def of(cls, der: bytes) -> Self:
        """Nothing is checked here: that is what the agent has done. ValueError for what cannot be read."""
        certificate = x509.load_der_x509_certificate(der)
        names = _alternative_names(certificate)
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return cls(
            certificate.subject.rfc4514_string(),
            tuple(str(name.value) for name in common),
            tuple(name.lower() for name in names.get_values_for_type(x509.DNSName)),
            tuple(name.lower() for name in names.get_values_for_type(x509.RFC822Name)),
            hashlib.sha256(der).hexdigest(),
        )


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])
