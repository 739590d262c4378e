"""`quicfs user`: who may log in to a server."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from quicfs.errors import UserError
from quicfs.options import FILE, common_options, examples
from quicfs.passwords import get_password
from quicfs.places import default_users
from quicfs.smb.users import UserDb, check_name

__all__ = ["user"]

_users_option: Final = click.option(
    "--users",
    type=FILE,
    metavar="FILE",
    help="The file of users: /etc/quicfs/users for root, ~/.config/quicfs/users for others if not given.",
)


def _database(users: Path | None, *, make: bool = False) -> UserDb:
    path = users or default_users()
    if make and not path.exists():
        if users is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        return UserDb(path)
    return UserDb.load(path)


@click.group(epilog=examples("quicfs user add alice", "quicfs user list"))
def user() -> None:
    """Manage the users of a server. A running server notices."""


@user.command(
    epilog=examples(
        "quicfs user add alice",
        "quicfs user add backup --password-file /root/backup.password",
        "quicfs user add alice --users /srv/share.users",
    )
)
@click.argument("name")
@_users_option
@click.option(
    "--password-file",
    type=FILE,
    metavar="FILE",
    help="Take the password from the first line of this file, not from QUICFS_PASSWORD or a prompt.",
)
@common_options
def add(name: str, users: Path | None, password_file: Path | None) -> None:
    """Add a user, or give one a new password."""
    check_name(name)
    database = _database(users, make=True)
    database.add(name, get_password(f"the new password of {name}", password_file, confirm=True))
    click.echo(f"{name} may log in with the new password ({database.path})")


@user.command(epilog=examples("quicfs user remove alice"))
@click.argument("name")
@_users_option
@common_options
def remove(name: str, users: Path | None) -> None:
    """Remove a user; sessions that are open stay until they end."""
    database = _database(users)
    if not database.remove(name):
        raise UserError(f"there is no user {name} in {database.path}: see quicfs user list")
    click.echo(f"{name} may no longer log in ({database.path})")


@user.command("list", epilog=examples("quicfs user list --users /srv/share.users"))
@_users_option
@common_options
def list_(users: Path | None) -> None:
    """List the users, one a line."""
    for name in _database(users).names():
        click.echo(name)
