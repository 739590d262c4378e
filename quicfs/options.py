"""Options that several commands share, and how their help is laid out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from quicfs.config import config_option
from quicfs.errors import UserError
from quicfs.url import Address, Url, parse_address, parse_target, parse_url

__all__ = [
    "FILE",
    "AddressParameter",
    "AgentOptions",
    "TargetParameter",
    "UrlParameter",
    "client_options",
    "common_options",
    "examples",
    "peer_options",
    "server_options",
    "verbose_option",
]

FILE: Final = click.Path(dir_okay=False, path_type=Path)

_VERBOSITY: Final = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """`socket` of an agent that runs; or what one of our own is told. `ca` None: the system's."""

    socket: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None


class UrlParameter(click.ParamType[Url]):
    name = "url"

    def __init__(self, *, share_needed: bool = True) -> None:
        self._share_needed = share_needed

    def convert(self, value: str | Url, param: click.Parameter | None, ctx: click.Context | None) -> Url:
        if isinstance(value, Url):
            return value
        try:
            return parse_url(value, share_needed=self._share_needed)
        except UserError as error:
            self.fail(str(error), param, ctx)


class AddressParameter(click.ParamType[Address]):
    """`ADDR:PORT`; the port may be left out when there is a default."""

    name = "address"

    def __init__(self, default_port: int | None = None) -> None:
        self._default_port = default_port

    def convert(
        self, value: str | Address, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return parse_address(value, default_port=self._default_port)
        except UserError as error:
            self.fail(str(error), param, ctx)


class TargetParameter(click.ParamType[tuple[str, Address]]):
    """`SCHEME://HOST[:PORT]`, with the schemes and ports that are given."""

    name = "target"

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports

    def convert(
        self,
        value: str | tuple[str, Address],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, Address]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_target(value, self._ports)
        except UserError as error:
            self.fail(str(error), param, ctx)


def examples(*lines: str) -> str:
    """An epilog for a command; the lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _set_verbosity(context: click.Context, _: click.Parameter, count: int) -> None:
    # On the group and on the command alike: the more talkative of the two counts.
    level = _VERBOSITY.get(count, logging.DEBUG)
    logger = logging.getLogger("quicfs")
    if context.parent is None or level < logger.level:
        logger.setLevel(level)


verbose_option: Final = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=_set_verbosity,
    help="Say what happens; twice for more.",
)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return config_option(verbose_option(function))


def _as_agent(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hand --cert, --key, the authorities and --agent to `function` as one `agent: AgentOptions`."""

    @functools.wraps(function)
    def call(
        *, cert: Path | None, key: Path | None, ca: Path | None, socket: Path | None, **rest: Any
    ) -> Any:
        if (cert is None) != (key is None):
            raise click.UsageError(
                f"--cert and --key go together: give {'--key' if cert else '--cert'} as well"
            )
        return function(agent=AgentOptions(socket=socket, cert=cert, key=key, ca=ca), **rest)

    return call


_agent: Final = click.option(
    "--agent",
    "socket",
    type=FILE,
    metavar="SOCKET",
    help="Have the TLS handshakes done by the agent that listens there, not by one of our own.",
)
_key: Final = click.option("--key", type=FILE, metavar="FILE", help="Private key of --cert, PEM.")


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that is connected to takes: its certificate and its agent."""
    cert = click.option("--cert", type=FILE, metavar="FILE", help="Certificate chain of the server, PEM.")
    ca = click.option(
        "--client-ca",
        "ca",
        type=FILE,
        metavar="FILE",
        help="Let in only clients with a certificate that an authority in this PEM file has signed.",
    )
    return cert(_key(ca(_agent(_as_agent(function)))))


def peer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that connects takes: whom it trusts, who it is, and its agent."""
    ca = click.option(
        "--ca", type=FILE, metavar="FILE", help="Trust the authorities in this PEM file, not the system's."
    )
    cert = click.option(
        "--cert", type=FILE, metavar="FILE", help="Our own certificate, for servers that ask for one, PEM."
    )
    return ca(cert(_key(_agent(_as_agent(function)))))


def client_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command with a URL takes: besides, where the password comes from."""
    password = click.option(
        "--password-file",
        type=FILE,
        metavar="FILE",
        help="Take the password from the first line of this file, not from QUICFS_PASSWORD or a prompt.",
    )
    return peer_options(password(common_options(function)))
