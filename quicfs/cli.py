"""The command `quicfs`: the list of its parts, and how its failures end."""

from __future__ import annotations

import logging
import os
import stat as stat_mode
import sys
from collections.abc import Sequence
from typing import Final

import click

from quicfs import __version__
from quicfs.commands import CommandTable
from quicfs.errors import explain
from quicfs.options import common_options, examples

__all__ = ["cli", "main"]

EXIT_FAILED: Final = 1  # 2, for a command line that cannot be, is click's
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count


@click.group(
    cls=CommandTable,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "quicfs cert init --name files.example.org     a private authority and a server certificate",
        "quicfs user add alice                         a user, with a password",
        "quicfs serve /srv/projects                    publish a folder on UDP/443",
        "quicfs mount smb+quic://alice@files.example.org/projects /mnt --ca ca.pem",
        "quicfs umount /mnt",
        "quicfs demo                                   all of that here, by itself",
    ),
)
@click.version_option(__version__, message="quicfs %(version)s")
@common_options
def cli() -> None:
    """Serve and mount SMB 3.1.1 shares over QUIC, in user space.

    Every option may also stand in a TOML file (--config), in a table named like the command.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its status: 0 done, 1 failed, 2 used wrongly."""
    logging.basicConfig(format="quicfs: %(message)s", stream=sys.stderr, level=logging.WARNING)
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        status = cli.main(args=arguments, prog_name="quicfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and stat_mode.S_ISFIFO(os.fstat(1).st_mode):
            # Whoever reads our output has enough. What is left must not be flushed into it at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
            return EXIT_FAILED
        click.echo(f"quicfs: {_sentence(error)}", err=True)
        return EXIT_FAILED
    return status if isinstance(status, int) else 0


def _sentence(error: Exception) -> str:
    if (sentence := explain(error)) is not None:
        return sentence
    logging.getLogger("quicfs").info("the mistake in detail", exc_info=error)
    return f"a mistake of quicfs itself: {type(error).__name__}: {error} (run again with -v for the details)"


if __name__ == "__main__":
    main()
