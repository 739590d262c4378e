"""`quicfs demo`: see it work."""

from __future__ import annotations

import click

from quicfs import demo as whole
from quicfs.options import common_options, examples

__all__ = ["demo"]


@click.command(epilog=examples("quicfs demo", "quicfs demo --keep      leaves it mounted, to look around"))
@click.option("--keep", is_flag=True, help="Leave both mounted until Ctrl-C.")
@common_options
def demo(keep: bool) -> None:
    """Serve and mount folders over QUIC on this machine, copy a real tree in and out, compare.

    Once over SMB and once over NFS. Makes everything that it needs in a temporary folder, and removes it at the end.
    """
    whole.run(keep=keep)
