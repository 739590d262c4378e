from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicfs.errors import UserError
from quicfs.url import NFS, SMB, Address, Url, parse_address, parse_target, parse_url


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smb+quic://host/share", Url(Address("host", 443), "share")),
        ("smb://host/share", Url(Address("host", 443), "share")),
        ("SMB://host/share/", Url(Address("host", 443), "share")),
        ("smb://alice@host:8443/share/a/b", Url(Address("host", 8443), "share", "a/b", "alice")),
        ("smb://host/share//a/./b/", Url(Address("host", 443), "share", "a/b")),
        ("smb://[2001:db8::1]/s", Url(Address("2001:db8::1", 443), "s")),
        ("smb://alice@[::1]:99/s/x", Url(Address("::1", 99), "s", "x", "alice")),
        ("smb://[fe80::1%25eth0]/s", Url(Address("fe80::1%eth0", 443), "s")),
        ("smb://EXAMPLE%5Calice@h/s", Url(Address("h", 443), "s", "", "EXAMPLE\\alice")),
        ("smb://alice%40example.org@h/s", Url(Address("h", 443), "s", "", "alice@example.org")),
        ("smb://h/my%20share/50%25%20off?#1", Url(Address("h", 443), "my share", "50% off?#1")),
        ("smb://h/s/%C3%A9t%C3%A9", Url(Address("h", 443), "s", "été")),
        ("smb://h/s/été", Url(Address("h", 443), "s", "été")),
        ("nfs+quic://h/e/a", Url(Address("h", 443), "e", "a", scheme=NFS)),
        ("nfs://[::1]:8443/e", Url(Address("::1", 8443), "e", scheme=NFS)),
        ("NFS://h", Url(Address("h", 443), "", scheme=NFS)),
    ],
)
def test_urls(text: str, expected: Url) -> None:
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host/share", "no URL"),
        ("http://host/share", "unknown scheme 'http'"),
        ("smb://host", "names no share"),
        ("smb://host//path", "names no share"),
        ("smb:///share", "names no host"),
        ("smb://host:x/share", "no port"),
        ("smb://host:65536/share", "no port"),
        ("smb://host:/share", "no port"),
        ("smb://host:-1/share", "no port"),
        ("smb://host:٤/share", "no port"),
        ("smb://2001:db8::1/share", "without brackets"),
        ("smb://[::1/share", "without its ']'"),
        ("smb://[::g]/share", "no IPv6 address"),
        ("smb://[::1]x/share", "after the address"),
        ("smb://ho st/share", "no host name"),
        ("smb://h/s/../t", "'..'"),
        ("smb://h/s/%2e%2e", "'..'"),
        ("smb://h/s/a%2Fb", "encoded '/'"),
        ("smb://h/s/%00", "NUL"),
        ("smb://h/s/%FF", "not UTF-8"),
        ("nfs://alice@h/e", "NFS has no logins"),
        ("nfs://h//a", "names no share"),
        ("nfs://h/e/../f", "'..'"),
    ],
)
def test_bad_urls_are_named(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("[", r"\[").replace("..", r"\.\.")):
        parse_url(text)


def test_password_in_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="QUICFS_PASSWORD") as caught:
        parse_url("smb://alice:geheim@host/share")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("127.0.0.1:445", None, Address("127.0.0.1", 445)),
        ("[::1]:0", None, Address("::1", 0)),
        (":443", None, Address("::", 443)),
        ("host", 443, Address("host", 443)),
        ("[::1]", 443, Address("::1", 443)),
    ],
)
def test_addresses(text: str, default: int | None, expected: Address) -> None:
    assert parse_address(text, default_port=default) == expected


@pytest.mark.parametrize("text", ["", ":", "host", "host:", "[::1]", "::1:443", "host:99999", "a b:1"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(UserError):
        parse_address(text)


_NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


@given(
    st.sampled_from(["files.example.org", "192.0.2.7", "2001:db8::1"]),
    st.integers(0, 0xFFFF),
    st.one_of(st.none(), _NAMES.filter(lambda name: ":" not in name)),
    _NAMES,
    st.lists(_NAMES, max_size=4),
    st.sampled_from([SMB, NFS]),
)
def test_url_survives_being_written_and_read(
    host: str, port: int, user: str | None, share: str, path: list[str], scheme: str
) -> None:
    url = Url(Address(host, port), share, "/".join(path), user if scheme == SMB else None, scheme)
    assert parse_url(str(url)) == url


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_a_sentence(text: str) -> None:
    for candidate in (text, f"smb://{text}", f"smb://h/{text}"):
        try:
            parse_url(candidate)
        except UserError as error:
            assert str(error)


PORTS = {"nfs": 2049, "smb": 445}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nfs://host", ("nfs", Address("host", 2049))),
        ("SMB://host/", ("smb", Address("host", 445))),
        ("nfs://[::1]:99", ("nfs", Address("::1", 99))),
    ],
)
def test_targets(text: str, expected: tuple[str, Address]) -> None:
    assert parse_target(text, PORTS) == expected


@pytest.mark.parametrize(
    "text", ["host", "http://host", "nfs://", "nfs://host/path", "smb://me@host", "nfs://h:x"]
)
def test_bad_targets(text: str) -> None:
    with pytest.raises(UserError):
        parse_target(text, PORTS)
