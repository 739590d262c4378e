"""Who does the TLS handshakes for us: an agent that runs already, or one of our own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["AgentOptions"]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    socket: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None
