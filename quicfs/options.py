"""Options that several commands share, and how their help is laid out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from quicfs.agents import AgentOptions
from quicfs.config import config_option
from quicfs.errors import UserError
from quicfs.url import Address, Url, parse_address, parse_url

__all__ = [
    "FILE",
    "AddressParameter",
    "UrlParameter",
    "agent_options",
    "client_options",
    "common_options",
    "examples",
]

FILE: Final = click.Path(dir_okay=False, path_type=Path)

_VERBOSITY: Final = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}


class UrlParameter(click.ParamType[Url]):
    name = "url"

    def convert(self, value: str | Url, param: click.Parameter | None, ctx: click.Context | None) -> Url:
        if isinstance(value, Url):
            return value
        try:
            return parse_url(value)
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


def examples(*lines: str) -> str:
    """An epilog for a command; the lines stay as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _set_verbosity(context: click.Context, _: click.Parameter, count: int) -> None:
    # On the group and on the command alike: the more talkative of the two counts.
    level = _VERBOSITY.get(count, logging.DEBUG)
    logger = logging.getLogger("quicfs")
    if context.parent is None or level < logger.level:
        logger.setLevel(level)


_verbose: Final = click.option(
    "-v",
    "--verbose",
    count=True,
    is_eager=True,
    expose_value=False,
    callback=_set_verbosity,
    help="Say what happens; twice for more.",
)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    return config_option(_verbose(function))


def agent_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--cert --key --ca --agent, given to `function` as one `agent: AgentOptions`."""

    def call(*, cert: Path | None, key: Path | None, ca: Path | None, agent: Path | None, **rest: Any) -> Any:
        if (cert is None) != (key is None):
            missing = "--key" if key is None else "--cert"
            raise click.UsageError(f"--cert and --key go together: give {missing} as well")
        return function(agent=AgentOptions(socket=agent, cert=cert, key=key, ca=ca), **rest)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--agent",
            type=FILE,
            metavar="SOCKET",
            help="Have the TLS handshakes done by the agent that listens there, not by one of our own.",
        ),
        click.option(
            "--ca",
            type=FILE,
            metavar="FILE",
            help="Trust the authorities in this PEM file, not the system's.",
        ),
        click.option("--key", type=FILE, metavar="FILE", help="Private key of --cert, PEM."),
        click.option(
            "--cert", type=FILE, metavar="FILE", help="Certificate chain that shows who we are, PEM."
        ),
    ):
        call = option(call)
    return call


def client_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What every command with a URL takes: agent options and where the password comes from."""
    password = click.option(
        "--password-file",
        type=FILE,
        metavar="FILE",
        help="Take the password from the first line of this file, not from QUICFS_PASSWORD or a prompt.",
    )
    return agent_options(password(common_options(function)))
