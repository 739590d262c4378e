"""Addresses of shares and of sockets as a user writes them.

    smb+quic://[user@]host[:port]/share[/path]      smb:// is short for it
    nfs+quic://host[:port]/export[/path]            nfs:// is short for it

Host names, IPv4 and [IPv6] literals; user, share and path may be percent-encoded. There is no query and
no fragment: "?" and "#" are part of a name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote, unquote

from quicfs.errors import UserError

__all__ = ["DEFAULT_PORT", "NFS", "SMB", "Address", "Url", "parse_address", "parse_target", "parse_url"]

DEFAULT_PORT: Final = 443
SMB: Final = "smb+quic"
NFS: Final = "nfs+quic"
_SCHEMES: Final = {"smb+quic": SMB, "smb": SMB, "nfs+quic": NFS, "nfs": NFS}
_FORMS: Final = {
    SMB: "smb+quic://[user@]host[:port]/share[/path]",
    NFS: "nfs+quic://host[:port]/export[/path]",
}
_ANY_FORM: Final = " or ".join(_FORMS.values())


@dataclass(frozen=True, slots=True)
class Address:
    """Where a socket listens or connects to; an IPv6 literal stands without brackets in `host`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pair(self) -> tuple[str, int]:
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class Url:
    """One thing on a share. `path` is relative to the share, joined by "/", "" for the share itself.

    NFS calls a share an export; "" is the root that holds all of them.
    """

    address: Address
    share: str
    path: str = ""
    user: str | None = None
    scheme: str = SMB

    @property
    def name(self) -> str:
        """The last component: what a copy of it is called."""
        return self.path.rpartition("/")[2] or self.share or self.address.host

    def with_path(self, path: str) -> Url:
        return replace(self, path=path)

    def __str__(self) -> str:
        user = f"{quote(self.user, safe='')}@" if self.user is not None else ""
        host = str(self.address)
        if self.address.port == DEFAULT_PORT:
            host = host.removesuffix(f":{DEFAULT_PORT}")
        path = "/".join(quote(part) for part in [self.share, *self.path.split("/")] if part)
        return f"{self.scheme}://{user}{host}/{path}"


def parse_url(text: str, *, share_needed: bool = True) -> Url:
    """Raises UserError naming what is wrong. `share` may be "" when it is not needed."""
    name, separator, rest = text.partition("://")
    if not separator:
        raise UserError(f"{text!r} is no URL: write {_ANY_FORM}")
    scheme = _SCHEMES.get(name.lower())
    if scheme is None:
        raise UserError(f"unknown scheme {name!r} in {text!r}: write {_ANY_FORM}")
    authority, _, rest = rest.partition("/")
    user, at, host_port = authority.rpartition("@")
    if ":" in user:
        shown = text.replace(user, user.partition(":")[0] + ":***", 1)
        raise UserError(
            f"{shown} holds a password, which other users could see: leave it out, and use the prompt, "
            "--password-file or QUICFS_PASSWORD"
        )
    if at and scheme == NFS:
        raise UserError(f"{text!r} names a user, but NFS has no logins: leave {user}@ out")
    address = _split_host_port(host_port, text, DEFAULT_PORT)
    parts = [_decode(part, text) for part in rest.split("/")]
    share, *path = parts
    if not share and (any(path) or (share_needed and scheme == SMB)):
        raise UserError(f"{text!r} names no share: write {_FORMS[scheme]}")
    path = [part for part in path if part not in {"", "."}]
    if ".." in path:
        raise UserError(f"{text!r} holds '..': write the path without it")
    return Url(address, share, "/".join(path), _decode(user, text) if at and user else None, scheme)


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """`ADDR:PORT`, `[ADDR]:PORT`, `:PORT` for all addresses; without a port when there is a default."""
    return _split_host_port(text, text, default_port, any_host=True)


def parse_target(text: str, ports: Mapping[str, int]) -> tuple[str, Address]:
    """`SCHEME://HOST[:PORT]` and nothing more: the scheme and the address; `ports` has the schemes and their ports."""
    form = " or ".join(f"{scheme}://HOST[:PORT]" for scheme in ports)
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    host_port, _, path = rest.partition("/")
    if not separator or scheme not in ports or path or "@" in host_port:
        raise UserError(f"{text!r} is no address to pass connections on to: write {form}")
    return scheme, _split_host_port(host_port, text, ports[scheme])


def _split_host_port(text: str, whole: str, default_port: int | None, *, any_host: bool = False) -> Address:
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket:
            raise UserError(f"{whole!r} has a '[' without its ']': write [ADDRESS]:PORT")
        host = unquote(host)  # a zone is written %25eth0 (RFC 6874)
        _check_ipv6(host, whole)
        if tail and not tail.startswith(":"):
            raise UserError(f"{whole!r} has {tail!r} after the address: write [ADDRESS]:PORT")
        colon, port_text = tail[:1], tail[1:]
    elif text.count(":") > 1:
        raise UserError(f"{whole!r} has an IPv6 address without brackets: write [ADDRESS]:PORT")
    else:
        host, colon, port_text = text.partition(":")
    if not host:
        if not (any_host and colon):
            raise UserError(f"{whole!r} names no host")
        host = "::"
    if any(character.isspace() or character in "/@?#\\%" for character in host.partition("%")[0]):
        raise UserError(f"{host!r} in {whole!r} is no host name")
    if not colon:
        if default_port is None:
            raise UserError(f"{whole!r} has no port: write ADDRESS:PORT")
        return Address(host, default_port)
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and int(port_text) <= 0xFFFF):
        raise UserError(f"{port_text!r} in {whole!r} is no port: write a number up to 65535")
    return Address(host, int(port_text))


def _check_ipv6(host: str, whole: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise UserError(f"{host!r} in {whole!r} is no IPv6 address") from None


def _decode(part: str, whole: str) -> str:
    try:
        name = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise UserError(f"{part!r} in {whole!r} is not UTF-8 when decoded: percent-encode UTF-8") from None
    if "/" in name or "\0" in name:
        raise UserError(f"{part!r} in {whole!r} holds an encoded '/' or NUL: no name can hold those")
    return name
