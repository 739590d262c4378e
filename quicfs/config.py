"""Options from a TOML file: a table per command, a key per option, dashes or underscores alike.

    [serve]                      the same as
    dir = "/srv/projects"        quicfs serve /srv/projects --listen :443 --read-only
    listen = ":443"
    read-only = true

    [perf.client]                the same as
    bytes = 1_000_000            quicfs perf client --bytes 1000000

What stands on the command line wins. A table or key that means nothing is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from quicfs.errors import UserError

__all__ = ["config_option", "load"]


def load(path: Path, root: click.Group) -> dict[str, Any]:
    """The file as click's `default_map` for `root`. Raises UserError naming the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    return _commands(document, root, f"{path}: ", "")


def _commands(table: Mapping[str, Any], group: click.Group, where: str, prefix: str) -> dict[str, Any]:
    """Sub-tables name commands; keys beside them are options of the group itself."""
    context = click.Context(group)
    options: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for name, value in table.items():
        path = f"{prefix}{name}"
        command = group.get_command(context, name)
        if command is None:
            options[name] = value
        elif not isinstance(value, dict):
            raise UserError(f"{where}{path!r} is a command: write a table [{path}]")
        elif isinstance(command, click.Group):
            defaults[name] = _commands(value, command, where, f"{path}.")
        else:
            defaults[name] = _options(value, command, where, f"{path}.")
    return defaults | _options(options, group, where, prefix)


def _options(table: Mapping[str, Any], command: click.Command, where: str, prefix: str) -> dict[str, Any]:
    known = {name: parameter for parameter in command.params for name in _spellings(parameter)}
    defaults: dict[str, Any] = {}
    for key, value in table.items():
        parameter = known.get(key.replace("-", "_"))
        if parameter is None or parameter.name is None:
            thing = "command" if isinstance(value, dict) else "option"
            raise UserError(f"{where}there is no {thing} {prefix + key!r}: see quicfs --help")
        _check(value, parameter, f"{where}{prefix + key!r}")
        several = parameter.multiple or parameter.nargs != 1
        defaults[parameter.name] = [value] if several and not isinstance(value, list) else value
    return defaults


def _spellings(parameter: click.Parameter) -> set[str]:
    """The Python name and the long options; not what only makes sense when typed."""
    if parameter.name is None or parameter.name in {"config", "help", "version"}:
        return set()
    long_options = {text[2:].replace("-", "_") for text in parameter.opts if text.startswith("--")}
    return {parameter.name} | long_options


def _check(value: Any, parameter: click.Parameter, what: str) -> None:
    """click converts strings; here is what it would take silently in another meaning."""
    multiple = isinstance(parameter, click.Option) and parameter.multiple
    items = value if isinstance(value, list) and (multiple or parameter.nargs != 1) else [value]
    is_flag = isinstance(parameter, click.Option) and parameter.is_flag
    for item in items:
        if isinstance(item, list | dict):
            raise UserError(
                f"{what} takes one value, not {'a list' if isinstance(item, list) else 'a table'}"
            )
        if is_flag and not isinstance(item, bool):
            raise UserError(f"{what} is true or false, not {item!r}")
        if isinstance(item, bool) and not is_flag:
            raise UserError(f"{what} needs a value, not {str(item).lower()}")


def _use(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    root = context.find_root().command
    assert isinstance(root, click.Group), "the command line is one tree"
    defaults: Any = load(path, root)
    for name in _names(context):
        defaults = defaults.get(name, {})
    context.default_map = {**(context.default_map or {}), **defaults}


def _names(context: click.Context) -> list[str]:
    """The words that led from the root to this command."""
    names: list[str] = []
    while context.parent is not None:
        names.append(context.info_name or "")
        context = context.parent
    return names[::-1]


config_option: Final = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,  # the defaults must be there before the other options are looked at
    expose_value=False,
    callback=_use,
    metavar="FILE",
    help="Take options from this TOML file; see docs/cli.md.",
)
