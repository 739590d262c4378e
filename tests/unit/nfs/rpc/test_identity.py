"""Who a call is made for: exports(5) and the map of certificates."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.identity import IdentityMap, IdentityMapError, Squash, resolve
from quicfs.nfs.rpc.message import AuthNone, AuthSys, Credential
from quicfs.nfs.rpc.service import Peer
from quicfs.vfs import Caller

NOBODY = Caller(65534, 65534)
DEFAULT = Squash()
FINGERPRINT = "9f" * 32
ALICE = PeerCertificate(
    "CN=alice,O=Example", ("alice",), ("desk.example.org",), ("alice@example.org",), FINGERPRINT
)


def who(
    credential: Credential,
    squash: Squash = DEFAULT,
    text: str | None = None,
    certificate: PeerCertificate | None = None,
) -> Caller:
    peer = Peer("a client", certificate=certificate)
    return resolve(credential, peer, squash, None if text is None else IdentityMap(text))


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "squash", "expected"),
    [
        (1000, 100, (4, 0), Squash(), Caller(1000, 100, (4, 65534))),
        (0, 0, (0, 10), Squash(), Caller(65534, 65534, (65534, 10))),
        (0, 5, (), Squash(anonuid=7, anongid=8), Caller(7, 5)),
        (0, 0, (0,), Squash(no_root_squash=True), Caller(0, 0, (0,))),
        (1000, 100, (4,), Squash(all_squash=True), NOBODY),
        (1000, 100, (4,), Squash(all_squash=True, anonuid=7, anongid=8), Caller(7, 8)),
        (1000, 100, (4,), Squash(no_root_squash=True, all_squash=True), NOBODY),
        (0xFFFFFFFF, 0xFFFFFFFF, (0xFFFFFFFF,), Squash(no_root_squash=True), Caller(65534, 65534, (65534,))),
    ],
)
def test_squashing(uid: int, gid: int, groups: tuple[int, ...], squash: Squash, expected: Caller) -> None:
    assert who(AuthSys(1, "desk", uid, gid, groups), squash) == expected


def test_nobody_in_particular() -> None:
    assert who(AuthNone()) == NOBODY
    assert who(AuthNone(), Squash(no_root_squash=True, anonuid=9, anongid=9)) == Caller(9, 9)


@pytest.mark.parametrize(
    "name",
    [
        "alice@example.org",
        "Desk.Example.ORG",
        "cn:alice",
        "subject:CN=alice,O=Example",
        f"sha256:{FINGERPRINT.upper()}",
        "sha256:" + ":".join(["9f"] * 32),
    ],
)
def test_names(name: str) -> None:
    claimed = AuthSys(1, "desk", 0, 0)
    assert who(claimed, text=f"{name} = 850:851", certificate=ALICE) == Caller(850, 851)
    assert who(claimed, text=f"{name} = 850:851") == NOBODY
    other = PeerCertificate("CN=bob", ("bob",), ("bob.example.org",), (), "00" * 32)
    assert who(claimed, Squash(no_root_squash=True), f"{name} = 850:851", other) == NOBODY


def test_a_common_name_is_no_host_name() -> None:
    named = PeerCertificate("CN=desk.example.org", ("desk.example.org",), (), (), "00" * 32)
    assert who(AuthSys(1, "desk", 5, 5), text="desk.example.org = 850:850", certificate=named) == NOBODY


def test_the_first_line_that_fits_counts() -> None:
    text = "# who is who\n\nbob@example.org = 1:1\nalice@example.org = 2:2  # her\ncn:alice = 3:3\n"
    assert who(AuthNone(), text=text, certificate=ALICE) == Caller(2, 2)


def test_users_of_the_system() -> None:
    entry = pwd.getpwuid(1)
    caller = who(AuthNone(), text=f"cn:alice = {entry.pw_name}", certificate=ALICE)
    assert (caller.uid, caller.gid) == (entry.pw_uid, entry.pw_gid)
    assert {caller.gid, *caller.groups} == set(os.getgrouplist(entry.pw_name, entry.pw_gid))


def test_a_machine_that_is_believed() -> None:
    claimed = AuthSys(1, "desk", 1000, 100, (4,))
    assert who(claimed, text="desk.example.org = auth_sys", certificate=ALICE) == Caller(1000, 100, (4,))
    assert who(AuthSys(1, "desk", 0, 0), text="cn:alice = auth_sys", certificate=ALICE) == NOBODY


def test_squashing_goes_on_with_a_map() -> None:
    assert who(AuthNone(), text="cn:alice = 0:0", certificate=ALICE) == NOBODY
    assert who(AuthNone(), Squash(all_squash=True), "cn:alice = 5:5", ALICE) == NOBODY


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "NAME = USER"),
        ("= alice", "NAME = USER"),
        ("alice =", "NAME = USER"),
        ("cn:alice = nobody-of-that-name", "no user nobody-of-that-name"),
        ("cn:alice = 1:x", "no uid:gid"),
        ("cn:alice = 4294967295:1", "no uid:gid"),
        ("sha256:12 = 1:1", "64 hex digits"),
        ("oid:alice = 1:1", "oid: is not known"),
    ],
)
def test_lines_that_cannot_be_used(line: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text(f"# fine\n{line}\n")
    with pytest.raises(IdentityMapError, match=rf"{path}, line 2: .*{why}"):
        IdentityMap.load(path)


def test_a_file_that_changes_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, now = tmp_path / "map", [100.0]
    path.write_text("cn:alice = 1:1\n")
    known = IdentityMap.load(path, clock=lambda: now[0])

    def alice() -> Caller | None:
        return known.caller(ALICE, AuthNone())

    assert alice() == Caller(1, 1)
    path.write_text("cn:alice = 200:200\n")
    assert alice() == Caller(1, 1)  # it was looked at just now
    for text, expected in (
        ("", Caller(200, 200)),
        ("cn:alice = nobody-of-that-name\n", Caller(200, 200)),
        ("", Caller(200, 200)),
        ("cn:bob = 3:3\n", None),
    ):
        if text:
            path.write_text(text)
        now[0] += 2
        assert alice() == expected
    path.unlink()
    for _ in range(3):
        now[0] += 2
        assert alice() is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "no user nobody-of-that-name" in said[0] and "No such file" in said[1]
    path.write_text("cn:alice = 4:4\n")
    now[0] += 2
    assert alice() == Caller(4, 4)
