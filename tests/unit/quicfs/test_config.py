from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from quicfs.cli import cli
from quicfs.config import config_option, load
from quicfs.errors import UserError


@click.group()
@config_option
def root() -> None:
    pass


@root.command()
@click.argument("directory", metavar="DIR")
@click.option("--read-only", is_flag=True)
@click.option("--name", "names", multiple=True)
@click.option("--count", type=int, default=1)
@config_option
def serve(directory: str, read_only: bool, names: tuple[str, ...], count: int) -> None:
    click.echo(f"{directory} {read_only} {names} {count}")


@root.group()
def perf() -> None:
    pass


@perf.command()
@click.option("--bytes", "count", type=int, default=5)
@config_option
def client(count: int) -> None:
    click.echo(str(count))


def invoke(tmp_path: Path, text: str, *arguments: str) -> str:
    file = tmp_path / "quicfs.toml"
    file.write_text(text)
    done = CliRunner().invoke(root, [argument.format(file) for argument in arguments])
    if isinstance(done.exception, UserError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output.strip()


TEXT = """
[serve]
directory = "/srv"
read-only = true
name = ["a", "b"]

[perf.client]
bytes = 1_000
"""


@pytest.mark.parametrize("where", [["--config", "{}", "serve"], ["serve", "--config", "{}"]])
def test_options_come_from_the_file(tmp_path: Path, where: list[str]) -> None:
    assert invoke(tmp_path, TEXT, *where) == "/srv True ('a', 'b') 1"
    assert invoke(tmp_path, TEXT, *where, "/other", "--name", "c", "--count", "3") == "/other True ('c',) 3"


@pytest.mark.parametrize(
    "where", [["--config", "{}", "perf", "client"], ["perf", "client", "--config", "{}"]]
)
def test_nested_commands(tmp_path: Path, where: list[str]) -> None:
    assert invoke(tmp_path, TEXT, *where) == "1000"


def test_one_value_for_an_option_that_may_be_repeated(tmp_path: Path) -> None:
    assert (
        invoke(tmp_path, '[serve]\nnames = "solo"', "serve", "/d", "--config", "{}") == "/d False ('solo',) 1"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[serve]\nport = 3", "no option 'serve.port'"),
        ("[server]\ndirectory = '/srv'", "no command 'server'"),
        ("[perf.client]\nbites = 3", "no option 'perf.client.bites'"),
        ("[perf.klient]\nbytes = 3", "no command 'perf.klient'"),
        ("verbose_ = true", "no option 'verbose_'"),
        ("serve = 3", "write a table"),
        ("[serve]\nread-only = 'yes'", "'serve.read-only' is true or false"),
        ("[serve]\ncount = true", "'serve.count' needs a value"),
        ("[serve]\ndirectory = ['/a']", "'serve.directory' takes one value"),
        ("[serve]\nconfig = 'other.toml'", "no option 'serve.config'"),
        ("[serve]\nhelp = true", "no option 'serve.help'"),
        ("[serve", "not valid TOML"),
    ],
)
def test_what_means_nothing_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint.replace("[", r"\[")):
        invoke(tmp_path, text, "serve", "--config", "{}", "/srv")


def test_a_value_of_a_wrong_type_is_a_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "quicfs.toml"
    file.write_text("[serve]\ncount = 'many'")
    done = CliRunner().invoke(root, ["--config", str(file), "serve", "/srv"])
    assert done.exit_code == 2 and "many" in done.output


def test_every_option_of_every_command_may_stand_in_a_file(tmp_path: Path) -> None:
    """By its long name; --config and --help themselves make no sense there."""

    def sections(command: click.Command, path: str) -> list[tuple[str, str]]:
        context = click.Context(command)
        if isinstance(command, click.Group):
            found = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
            return [
                section
                for name, child in found
                if child is not None
                for section in sections(child, f"{path}.{name}" if path else name)
            ]
        return [
            (path, text[2:])
            for parameter in command.params
            for text in parameter.opts
            if text.startswith("--") and text not in {"--config", "--help"}
        ]

    every = sections(cli, "")
    assert {("serve", "read-only"), ("perf.client", "bytes"), ("cert.init", "name"), ("mount", "ca")} <= set(
        every
    )
    for section, key in every:
        file = tmp_path / "quicfs.toml"
        for value in ("true", "1"):
            file.write_text(f"[{section}]\n{key} = {value}\n")
            try:
                load(file, cli)
                break
            except UserError as error:
                assert "there is no" not in str(error), error
        else:
            pytest.fail(f"neither a flag nor a value: {section} {key}")
