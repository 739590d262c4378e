"""One module per group of commands: what is said on the command line, and whom it is handed to.

A module is imported when its command runs or its help is shown, so that `quicfs umount` need not wait for
the SMB client's libraries.
"""

from __future__ import annotations

import importlib
from typing import Final

import click

__all__ = ["COMMANDS", "CommandTable"]

COMMANDS: Final = {
    "serve": "serve",
    "mount": "mount",
    "umount": "mount",
    "ls": "files",
    "cat": "files",
    "stat": "files",
    "rm": "files",
    "mkdir": "files",
    "get": "transfer",
    "put": "transfer",
    "gateway": "gateway",
    "connect": "gateway",
    "agent": "agent",
    "cert": "cert",
    "user": "user",
    "perf": "perf",
    "demo": "demo",
}
"""Commands in the order of the help, and the module below this package that has each."""


class CommandTable(click.Group):
    """A group whose commands come from `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"{__name__}.{COMMANDS[cmd_name]}"), cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command
