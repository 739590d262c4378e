"""What the command line says of itself."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from quicfs import __version__
from quicfs.cli import cli
from tests.integration.cli import quicfs


def paths(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    children = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [path] + [
        below for name, child in children if child is not None for below in paths(child, (*path, name))
    ]


EVERY = paths(cli)


def test_all_commands_are_there() -> None:
    expected = {"serve", "mount", "umount", "ls", "cat", "stat", "rm", "mkdir", "get", "put", "agent", "demo"}
    assert expected <= {" ".join(path) for path in EVERY}
    assert {("cert", "init"), ("user", "add"), ("perf", "server"), ("perf", "client")} <= set(EVERY)


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_with_examples(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"], prog_name="quicfs")
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: quicfs {' '.join(path)}".strip())
    examples = done.output.partition("Examples:")[2]
    assert f"quicfs {' '.join(path)}".strip() in examples


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_no_option_takes_a_password(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"], prog_name="quicfs")
    assert "--password " not in done.output


def test_version() -> None:
    done = quicfs("--version")
    assert (done.returncode, done.stdout) == (0, f"quicfs {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["serve"],
        ["ls", "smb://host/share", "extra"],
        ["ls", "http://host/share"],
        ["cat", "smb://host"],
        ["ls", "smb://host//path"],
        ["ls", "--nonsense", "smb://host/share"],
        ["serve", "/tmp", "--listen", "nowhere:notaport"],
        ["serve", "/tmp", "--cert", "only.pem"],
        ["perf", "client", "host", "--bytes", "-1"],
        ["cert", "init", "--force", "--renew"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    done = quicfs(*arguments)
    assert done.returncode == 2
    assert "Usage: quicfs" in done.stderr and "Traceback" not in done.stderr and not done.stdout
