"""Who a call is made for: AUTH_SYS or a certificate, squashed as exports(5) says.

An identity map is a text file. A line maps a name in a client's certificate to a user of this machine:

    # name in the certificate        user
    alice@example.org              = alice
    backup.example.org             = 850:850
    cn:Bob Builder                 = bob
    subject:CN=bob,O=Example       = bob
    sha256:9f86d0...               = carol
    desktop.example.org            = auth_sys

A plain name is a DNS name or an e-mail address among the subject's alternative names; the user is a name, with the
groups that the system gives it, or `uid:gid`. `auth_sys` believes what the client says, as it is without a map. The
first line that fits counts. Once there is a map, a client with no certificate, or with one that no line fits, is
nobody.
"""

from __future__ import annotations

import functools
import logging
import os
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quicfs.nfs import limits
from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.message import AuthSys, Credential
from quicfs.vfs import Caller

if TYPE_CHECKING:
    from quicfs.nfs.rpc.service import Peer

_log: Final = logging.getLogger("quicfs.nfs")

NOBODY: Final = 65534
_NO_ID: Final = 0xFFFFFFFF
"""(uid_t)-1: to system calls it means "leave it as it is"."""


_LOOK_S: Final = 1.0
"""Between looks whether the file of a map has changed."""


class IdentityMapError(ValueError):
    """A line that cannot be used: a sentence naming the file and the line."""


@dataclass(frozen=True, slots=True)
class Squash:
    """The options of exports(5) about users. Root is squashed unless `no_root_squash` is set, everybody if
    `all_squash` is."""

    no_root_squash: bool = False
    all_squash: bool = False
    anonuid: int = NOBODY
    anongid: int = NOBODY

    @property
    def anonymous(self) -> Caller:
        return Caller(self.anonuid, self.anongid)

    def apply(self, caller: Caller) -> Caller:
        if self.all_squash:
            return self.anonymous
        gone = (_NO_ID,) if self.no_root_squash else (0, _NO_ID)
        uid = self.anonuid if caller.uid in gone else caller.uid
        gid = self.anongid if caller.gid in gone else caller.gid
        groups = tuple(self.anongid if group in gone else group for group in caller.groups)
        return Caller(uid, gid, groups)


@dataclass(frozen=True, slots=True)
class _Line:
    kind: str  # "", "cn", "subject" or "sha256"
    name: str
    caller: Caller | None  # None: what AUTH_SYS says

    def fits(self, certificate: PeerCertificate) -> bool:
        match self.kind:
            case "cn":
                return self.name in certificate.common_names
            case "subject":
                return self.name == certificate.subject
            case "sha256":
                return self.name == certificate.sha256
            case _:
                return self.name in certificate.dns_names or self.name in certificate.emails


class IdentityMap:
    """See the top of this file for what stands in one. A map that was loaded from a file follows it: `clock()` tells
    when to look, in seconds. While the file cannot be used, what it said last counts."""

    def __init__(self, text: str, *, source: str = "the identity map") -> None:
        """IdentityMapError for a line that cannot be used."""
        self._lines = _lines(text, source)
        self._path: Path | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._looked = 0.0
        self._seen: tuple[int, int, int] | None = None
        self._failure = ""
        self._edition = 0

    @classmethod
    def load(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> IdentityMap:
        """Raises OSError, IdentityMapError."""
        seen = _version(path)
        made = cls(path.read_text(encoding="utf-8"), source=str(path))
        made._path, made._clock, made._looked, made._seen = path, clock, clock(), seen
        return made

    def _follow(self, path: Path) -> None:
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        try:
            seen = _version(path)
            if seen == self._seen:
                return
            self._seen = seen
            self._lines = _lines(path.read_text(encoding="utf-8"), str(path))
        except (OSError, ValueError) as error:
            if str(error) != self._failure:
                _log.error("the identity map stays as it was: %s", error)
            self._failure = str(error)
        else:
            self._failure = ""
            self._edition += 1
            _log.info("%s was read again", path)

    @property
    def edition(self) -> int:
        """How often it has changed."""
        if self._path is not None:
            self._follow(self._path)
        return self._edition

    def caller(self, certificate: PeerCertificate | None, claimed: Credential) -> Caller | None:
        """None: nobody."""
        if self._path is not None:
            self._follow(self._path)
        if certificate is None:
            return None
        for line in self._lines:
            if line.fits(certificate):
                return line.caller or _claimed(claimed)
        return None


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _lines(text: str, source: str) -> list[_Line]:
    lines: list[_Line] = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if content:
            try:
                lines.append(_parse(content))
            except ValueError as error:
                raise IdentityMapError(f"{source}, line {number}: {error}") from None
    return lines


def _parse(content: str) -> _Line:
    name, equals, user = (part.strip() for part in content.rpartition("="))
    if not equals or not name or not user:
        raise ValueError("write NAME = USER")
    kind, colon, rest = name.partition(":")
    if not colon:
        return _Line("", name.lower(), _user(user))
    if kind not in ("cn", "subject", "sha256"):
        raise ValueError(f"{kind}: is not known; cn:, subject: and sha256: are")
    if kind == "sha256":
        rest = rest.replace(":", "").lower()
        if len(rest) != 64 or not set(rest) <= set("0123456789abcdef"):
            raise ValueError("sha256: takes the 64 hex digits of a certificate's fingerprint")
    return _Line(kind, rest.strip(), _user(user))


def _user(text: str) -> Caller | None:
    if text == "auth_sys":
        return None
    uid, colon, gid = text.partition(":")
    if colon:
        if not (uid.isdecimal() and gid.isdecimal() and int(uid) < _NO_ID and int(gid) < _NO_ID):
            raise ValueError(f"{text} is no uid:gid")
        return Caller(int(uid), int(gid))
    try:
        entry = pwd.getpwnam(text)
    except KeyError:
        raise ValueError(f"there is no user {text} on this machine") from None
    groups = tuple(group for group in os.getgrouplist(text, entry.pw_gid) if group != entry.pw_gid)
    return Caller(entry.pw_uid, entry.pw_gid, groups)


@functools.lru_cache(maxsize=limits.MAX_KNOWN_CREDENTIALS)
def _claimed(credential: Credential) -> Caller | None:
    """None: nobody in particular."""
    if isinstance(credential, AuthSys):
        return Caller(credential.uid, credential.gid, credential.gids)
    return None


def resolve(credential: Credential, peer: Peer, squash: Squash, identities: IdentityMap | None) -> Caller:
    """In whose name a call is carried out."""
    if identities is None:
        return _squashed(_claimed(credential), squash)
    return _squashed(identities.caller(peer.certificate, credential), squash)


@functools.lru_cache(maxsize=limits.MAX_KNOWN_CREDENTIALS)
def _squashed(caller: Caller | None, squash: Squash) -> Caller:
    return squash.anonymous if caller is None else squash.apply(caller)
