from __future__ import annotations

import datetime
import ipaddress
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from quicfs import certs
from quicfs.errors import UserError
from quicfs.places import default_directory


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_server_certificate_meets_the_rules_of_windows(tmp_path: Path) -> None:
    files = certs.create(tmp_path / "new", ["files.example.org", "192.0.2.7", "2001:db8::1"])
    ca, server = load(files.ca), load(files.cert)
    server.verify_directly_issued_by(ca)
    names = alternatives(server)
    assert names.get_values_for_type(x509.DNSName) == ["files.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("192.0.2.7"),
        ipaddress.ip_address("2001:db8::1"),
    ]
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    key = server.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    assert server.signature_hash_algorithm is not None and server.signature_hash_algorithm.name == "sha256"
    now = datetime.datetime.now(datetime.UTC)
    assert server.not_valid_before_utc < now < server.not_valid_after_utc <= ca.not_valid_after_utc
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    files = certs.create(tmp_path, ["localhost"])
    assert {stat.S_IMODE(path.stat().st_mode) for path in (files.key, files.ca_key)} == {0o600}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ca.key",
        "ca.pem",
        "server.key",
        "server.pem",
    ]


def test_nothing_is_overwritten_unless_told(tmp_path: Path) -> None:
    files = certs.create(tmp_path, ["localhost"])
    before = [path.read_bytes() for path in files.all()]
    with pytest.raises(UserError, match="--force"):
        certs.create(tmp_path, ["localhost"])
    assert [path.read_bytes() for path in files.all()] == before
    certs.create(tmp_path, ["localhost"], force=True)
    assert all(
        new != old for new, old in zip([path.read_bytes() for path in files.all()], before, strict=True)
    )


def test_renewal_keeps_authority_and_names(tmp_path: Path) -> None:
    files = certs.create(tmp_path, ["files.example.org", "192.0.2.7"])
    ca, old = files.ca.read_bytes(), load(files.cert)
    certs.renew(tmp_path)
    new = load(files.cert)
    assert files.ca.read_bytes() == ca
    assert new.serial_number != old.serial_number and alternatives(new) == alternatives(old)
    new.verify_directly_issued_by(load(files.ca))


def test_renewal_without_authority(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --renew"):
        certs.renew(tmp_path)


@pytest.mark.parametrize("name", ["", "a b", "-/-", "x" * 64 + ".org", "host:443", "a..b"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="neither a host name nor an IP address"):
        certs.create(tmp_path, [name])
    assert not list(tmp_path.iterdir())


def test_international_name(tmp_path: Path) -> None:
    server = load(certs.create(tmp_path, ["bücher.example"]).cert)
    assert alternatives(server).get_values_for_type(x509.DNSName) == ["xn--bcher-kva.example"]


@pytest.mark.parametrize(
    ("user", "config", "expected"),
    [
        (0, "/ignored", "/etc/quicfs"),
        (1000, "/somewhere", "/somewhere/quicfs"),
        (1000, "", "/home/alice/.config/quicfs"),
    ],
)
def test_default_place(monkeypatch: pytest.MonkeyPatch, user: int, config: str, expected: str) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("XDG_CONFIG_HOME", config)
    monkeypatch.setenv("HOME", "/home/alice")
    assert default_directory() == Path(expected)
