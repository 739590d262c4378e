"""A private certificate authority and a server certificate signed by it, for sites that have none.

They meet the rules that Windows has for SMB over QUIC: extended key usage serverAuth, SHA-256,
ECDSA P-256, the host's names as subject alternative names. A certificate bought or got by ACME works as well;
nothing else of quicfs depends on this file.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from quicfs.errors import UserError
from quicfs.places import CertificateFiles

__all__ = ["CertificateFiles", "create", "own_names", "renew"]

CA_LIFETIME: Final = datetime.timedelta(days=3650)
# The most that common clients accept for a server (Apple's limit, from certificates of private CAs as well).
SERVER_LIFETIME: Final = datetime.timedelta(days=825)
# Clocks differ: the certificate works at once on a machine that is behind.
CLOCK_SKEW: Final = datetime.timedelta(hours=1)


def own_names() -> list[str]:
    """What this machine is reached by, as far as it knows itself."""
    return list(dict.fromkeys((socket.getfqdn(), socket.gethostname(), "localhost", "127.0.0.1", "::1")))


def create(directory: Path, names: Sequence[str], *, force: bool = False) -> CertificateFiles:
    """A new authority and a server certificate for `names` (DNS names and IP addresses) in `directory`.

    Raises UserError when one of the files is there already, unless `force` says to replace them.
    """
    files = CertificateFiles(directory)
    if not force and (there := [path for path in files.all() if path.exists()]):
        raise UserError(
            f"{there[0]} is there already: give --renew for a new server certificate of the same authority, "
            "--force to replace both, or another --dir"
        )
    alternatives = _alternatives(names)
    directory.mkdir(parents=True, exist_ok=True, mode=0o755)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"quicfs CA for {names[0]}"[:64])])
    ca = _authority(name, key)
    _write(files.ca_key, _pem_key(key), 0o600)
    _write(files.ca, _pem(ca), 0o644)
    _issue(files, alternatives, ca, key)
    return files


def renew(directory: Path, names: Sequence[str] = ()) -> CertificateFiles:
    """A new server certificate from the authority in `directory`, for the same names unless others are given.

    Clients that trust the authority notice nothing.
    """
    files = CertificateFiles(directory)
    for path in (files.ca, files.ca_key):
        if not path.exists():
            raise UserError(f"{path} is missing, so nothing can be renewed: leave out --renew to begin anew")
    try:
        ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
        old = None if names else x509.load_pem_x509_certificate(files.cert.read_bytes())
    except ValueError as error:
        raise UserError(f"{directory} holds a certificate or key that cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise UserError(f"{files.ca_key} is not the key of {files.ca}")
    if old is None:
        alternatives = _alternatives(names)
    else:
        alternatives = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    _issue(files, alternatives, ca, key)
    return files


def _issue(
    files: CertificateFiles,
    alternatives: Sequence[x509.GeneralName],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _server(alternatives, key, ca, ca_key)
    _write(files.key, _pem_key(key), 0o600)
    _write(files.cert, _pem(leaf), 0o644)


def _authority(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """RFC 5280 §4.2.1.9: path length 0, it signs servers and no other authority."""
    return (
        _builder(name, name, key.public_key(), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    alternatives: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(alternatives[0].value)[:64])])
    return (
        _builder(subject, ca.subject, key.public_key(), SERVER_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now - CLOCK_SKEW + lifetime)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    if not names:
        raise UserError("a server certificate needs a name: give --name HOST")
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        ascii_name = name.encode("idna").decode() if not name.isascii() else name
        labels = ascii_name.removeprefix("*.").rstrip(".").split(".")
        if not all(label and len(label) <= 63 and label.replace("-", "").isalnum() for label in labels):
            raise UserError(f"{name!r} is neither a host name nor an IP address")
        return x509.DNSName(ascii_name.rstrip("."))
    except UnicodeError:
        raise UserError(f"{name!r} is neither a host name nor an IP address") from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace `path` as a whole; it never exists with other rights than `mode`."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    temporary.replace(path)
