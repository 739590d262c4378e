"""What commands keep between connections: for whom it counts, who may read it, and how much it may become."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from quicfs import sessions
from quicfs.options import AgentOptions
from quicfs.sessions import KeptSession, SessionCache
from quicfs.transport.uapi import AuthMode
from quicfs.transport.wire.ticket import SessionTicket
from quicfs.url import Address

WHERE = (Address("server.example", 443), b"smb", AuthMode.UNAUTH)
TICKET = SessionTicket(bytes(32), b"smb", b"", b"session" * 100).pack()
SESSION = KeptSession(TICKET, b"token")


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text("the first authority")
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "sessions"


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def test_it_comes_back_once(directory: Path) -> None:
    SessionCache(AgentOptions(), directory).put(*WHERE, SESSION)
    cache = SessionCache(AgentOptions(), directory)
    assert cache.take(*WHERE) == SESSION
    assert cache.take(*WHERE) == KeptSession()
    assert not files(directory)


@pytest.mark.parametrize("session", [KeptSession(b"", b"token"), KeptSession(TICKET, b"")])
def test_half_of_it(directory: Path, session: KeptSession) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, session)
    assert cache.take(*WHERE) == session
    cache.put(*WHERE, KeptSession())
    assert not files(directory)


def test_only_the_user_may_read_it(directory: Path) -> None:
    SessionCache(AgentOptions(), directory).put(*WHERE, SESSION)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(directory)] == [0o600]


@pytest.mark.parametrize(
    "where",
    [
        (Address("other.example", 443), b"smb", AuthMode.UNAUTH),
        (Address("server.example", 444), b"smb", AuthMode.UNAUTH),
        (Address("server.example", 443), b"perf", AuthMode.UNAUTH),
        (Address("server.example", 443), b"smb", AuthMode.X509),
    ],
)
def test_it_counts_for_one_server_only(directory: Path, where: tuple[Address, bytes, AuthMode]) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, SESSION)
    assert cache.take(*where) == KeptSession()


def test_it_counts_for_the_same_certificates(directory: Path, ca: Path, tmp_path: Path) -> None:
    options = AgentOptions(ca=ca)
    SessionCache(options, directory).put(*WHERE, SESSION)
    own = tmp_path / "me.pem"
    own.write_text("me")
    for other in (
        AgentOptions(),
        AgentOptions(ca=ca, cert=own),
        AgentOptions(socket=Path("/run/agent.sock")),
    ):
        assert SessionCache(other, directory).take(*WHERE) == KeptSession()
    ca.write_text("another authority in the same file")
    assert SessionCache(options, directory).take(*WHERE) == KeptSession()
    ca.write_text("the first authority")
    assert SessionCache(options, directory).take(*WHERE) == SESSION


def test_certificates_that_cannot_be_read(directory: Path, tmp_path: Path) -> None:
    cache = SessionCache(AgentOptions(ca=tmp_path / "missing.pem"), directory)
    cache.put(*WHERE, SESSION)
    assert cache.take(*WHERE) == KeptSession()


def test_a_directory_that_others_may_read_is_not_used(directory: Path) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, SESSION)
    directory.chmod(0o755)
    assert cache.take(*WHERE) == KeptSession()
    cache.put(Address("new.example", 1), b"smb", AuthMode.UNAUTH, SESSION)
    assert len(files(directory)) == 1


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, SESSION)
    (path,) = files(directory)
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    assert cache.take(*WHERE) == KeptSession()
    cache.put(*WHERE, KeptSession(b"", b"new"))
    assert elsewhere.read_bytes()[2 : 2 + len(TICKET)] == TICKET


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"\xff\xff", b"\xff\xffshort", b"\0\x40" + bytes(64), bytes(100_000)]
)
def test_damaged_files(directory: Path, content: bytes) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, SESSION)
    (path,) = files(directory)
    path.write_bytes(content)
    assert cache.take(*WHERE) == KeptSession()
    assert not files(directory)


def test_there_are_not_too_many(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_FILES", 5)
    cache = SessionCache(AgentOptions(), directory)
    for number in range(20):
        cache.put(Address("server.example", 1000 + number), b"smb", AuthMode.UNAUTH, SESSION)
        for path in files(directory):
            age = os.stat(path).st_mtime - 1
            os.utime(path, (age, age))
    assert len(files(directory)) == 5
    assert cache.take(Address("server.example", 1019), b"smb", AuthMode.UNAUTH) == SESSION


def test_old_ones_go(directory: Path) -> None:
    cache = SessionCache(AgentOptions(), directory)
    cache.put(*WHERE, SESSION)
    (path,) = files(directory)
    os.utime(path, (1, 1))
    cache.put(Address("other.example", 443), b"smb", AuthMode.UNAUTH, SESSION)
    assert cache.take(*WHERE) == KeptSession()


def test_nowhere_to_keep_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("no directory")
    cache = SessionCache(AgentOptions())
    cache.put(*WHERE, SESSION)
    assert cache.take(*WHERE) == KeptSession()
