"""Certificates as the interop runner makes them: an authority, a chain of any length, a leaf that names the server."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


def write_chain(folder: Path, length: int, names: Sequence[str]) -> None:
    """`cert.pem` (leaf first, without the authority), `priv.key` and `ca.pem` in `folder`.

    RSA with 2,048 bits, so that a chain of 9 exceeds what a server may send before the client has proved its address.
    """
    issuer_key = _key()
    issuer = _name("Root Certificate Authority")
    authority = _certificate(issuer, issuer, issuer_key, issuer_key, authority=True)
    chain: list[x509.Certificate] = []
    for number in range(1, length + 1):
        leaf = number == length
        key = _key()
        subject = _name("leaf" if leaf else f"intermediate {number}")
        chain.append(
            _certificate(subject, issuer, key, issuer_key, authority=not leaf, names=names if leaf else ())
        )
        issuer, issuer_key = subject, key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(_pem(authority))
    (folder / "cert.pem").write_bytes(b"".join(_pem(certificate) for certificate in reversed(chain)))
    (folder / "priv.key").write_bytes(
        issuer_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"interop {text}")])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: rsa.RSAPrivateKey,
    issuer_key: rsa.RSAPrivateKey,
    *,
    authority: bool,
    names: Sequence[str] = (),
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
    return builder.sign(issuer_key, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
