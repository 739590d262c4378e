"""The agent's configuration, a TOML file that reads like tlshd.conf.

    [agent]
    socket = "/run/quicfs/agent.sock"
    timeout = 10                  # seconds for one handshake
    max_handshakes = 64           # at one time
    ticket_key = "tickets.key"    # keep the key of session tickets there, for restarts and for several agents

    [authenticate.client]         # when this machine connects
    x509.truststore = "ca.pem"    # who may have signed a server's certificate; default: the system's CAs
    x509.certificate = "me.pem"   # our own, for servers that ask for one
    x509.private_key = "me.key"

    [authenticate.server]         # when this machine is connected to
    x509.certificate = "server.pem"
    x509.private_key = "server.key"
    x509.truststore = "clients-ca.pem"
    client_certificates = "off"   # or "optional", "required"; the last two need the truststore

Relative paths are relative to the folder of the file (of the process for standard input). A key that is
not listed here is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from quicfs.handshake_agent.failures import AgentError
from quicfs.transport.uapi import CertificateRequest

DEFAULT_SOCKET: Final = Path("/run/quicfs/agent.sock")
DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 3600.0
DEFAULT_MAX_HANDSHAKES: Final = 64

_CLIENT_CERTIFICATES: Final[dict[str, CertificateRequest]] = {
    "off": CertificateRequest.NO,
    "optional": CertificateRequest.REQUEST,
    "required": CertificateRequest.REQUIRE,
}


_TABLES: Final = frozenset(
    {
        "agent",
        "authenticate",
        *(f"authenticate.{role}{below}" for role in ("client", "server") for below in ("", ".x509")),
    }
)

_T = TypeVar("_T")
_N = TypeVar("_N", int, float)


class ConfigError(AgentError):
    """The configuration is wrong. Its text is one sentence that names the key or the file."""


@dataclass(frozen=True, slots=True)
class X509:
    """PEM files of one role; certificate and key come together or not at all."""

    certificate: Path | None = None
    private_key: Path | None = None
    truststore: Path | None = None


@dataclass(frozen=True, slots=True)
class AgentConfig:
    socket: Path = DEFAULT_SOCKET
    timeout_s: float = DEFAULT_TIMEOUT_S
    max_handshakes: int = DEFAULT_MAX_HANDSHAKES
    ticket_key: Path | None = None
    client: X509 = field(default_factory=X509)
    server: X509 = field(default_factory=X509)
    client_certificates: CertificateRequest = CertificateRequest.NO


def load_config(path: Path) -> AgentConfig:
    """Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read the agent's configuration {path}: {reason}") from None
    return parse_config(text, base=path.parent, source=str(path))


def parse_config(text: str, *, base: Path = Path(), source: str = "the configuration") -> AgentConfig:
    """Raises ConfigError, whose text begins with `source`."""
    try:
        reader = _Reader(tomllib.loads(text), base)
        config = _read(reader)
        reader.finish()
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


def _read(reader: _Reader) -> AgentConfig:
    x509 = {
        role: X509(**{name: reader.path(f"authenticate.{role}.x509.{name}") for name in X509.__match_args__})
        for role in ("client", "server")
    }
    for role, files in x509.items():
        if (files.certificate is None) != (files.private_key is None):
            raise ConfigError(
                f"authenticate.{role}: x509.certificate and x509.private_key must both be given"
            )
    requested = reader.get(
        "authenticate.server.client_certificates", CertificateRequest.NO, _CLIENT_CERTIFICATES.__getitem__
    )
    if requested and x509["server"].truststore is None:
        raise ConfigError(
            "authenticate.server.client_certificates needs x509.truststore, the CAs of the clients"
        )
    most = reader.get("agent.max_handshakes", DEFAULT_MAX_HANDSHAKES, _number(int, 1, 65536))
    return AgentConfig(
        socket=reader.path("agent.socket") or DEFAULT_SOCKET,
        timeout_s=reader.get("agent.timeout", DEFAULT_TIMEOUT_S, _number(float, 0.001, MAX_TIMEOUT_S)),
        max_handshakes=most,
        ticket_key=reader.path("agent.ticket_key"),
        client=x509["client"],
        server=x509["server"],
        client_certificates=requested,
    )


def _number(kind: Callable[[Any], _N], low: float, high: float) -> Callable[[Any], _N]:
    def convert(value: Any) -> _N:
        if isinstance(value, (bool, str)) or not low <= value <= high or kind(value) != value:
            raise ValueError
        return kind(value)

    return convert


class _Reader:
    """Keys by their full name; whatever nobody asked for is left over for `finish`."""

    def __init__(self, tables: Mapping[str, Any], base: Path) -> None:
        self._base = base
        self._values = dict(_flatten(tables, ""))

    def get(self, name: str, default: _T, convert: Callable[[Any], _T]) -> _T:
        if name not in self._values:
            return default
        value = self._values.pop(name)
        try:
            return convert(value)
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{name} cannot be {value!r}") from None

    def path(self, name: str) -> Path | None:
        def convert(value: Any) -> Path | None:
            if not isinstance(value, str) or not value or "\0" in value:
                raise ValueError
            return self._base / value

        return self.get(name, None, convert)

    def finish(self) -> None:
        for name in self._values:
            raise ConfigError(f"{name} is not a key of the agent")


def _flatten(tables: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, dict) or f"{prefix}{key}" not in _TABLES:
            yield f"{prefix}{key}", value
