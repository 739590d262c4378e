"""Where passwords come from: a file, the environment, a prompt; never the command line, which all can see."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import click

from quicfs.errors import UserError

__all__ = ["ENVIRONMENT", "get_password"]

ENVIRONMENT: Final = "QUICFS_PASSWORD"
_LONGEST: Final = 1024  # of a password; more is some other file by mistake


def get_password(prompt: str, file: Path | None, *, confirm: bool = False) -> str:
    """The password for what `prompt` names. Raises UserError when there is no way to get one."""
    if file is not None:
        password = _first_line(file)
    elif ENVIRONMENT in os.environ:
        password = os.environ[ENVIRONMENT]
    elif sys.stdin.isatty():
        password = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        raise UserError(
            f"{prompt} is needed and there is no terminal to ask at: use --password-file or {ENVIRONMENT}"
        )
    if not password:
        raise UserError(f"{prompt} is empty")
    return password


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as stream:
            line = stream.readline(_LONGEST + 1)
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text") from None
    if len(line) > _LONGEST:
        raise UserError(f"the first line of {file} is too long for a password")
    return line.rstrip("\r\n")
