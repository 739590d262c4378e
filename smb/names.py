"""Names on the wire and names of the contract.

SMB separates components by backslashes, the contract by slashes. What Windows reserves but Unix allows
travels in Unicode's private area, as macOS, Linux and Samba map it; clients that open with POSIX
semantics send and get everything as it is, but for the backslash.
"""

from __future__ import annotations

from typing import Final

from quicfs.smb.errors import SmbError
from quicfs.smb.limits import MAX_PATH
from quicfs.smb.ntstatus import NtStatus

__all__ = ["name_to_wire", "path_from_wire", "path_to_wire"]

_RESERVED: Final = {'"': 0xF020, "*": 0xF021, ":": 0xF022, "<": 0xF023, ">": 0xF024, "?": 0xF025, "|": 0xF027}
_BACKSLASH: Final = 0xF026
_TRAILING: Final = {" ": "\uf028", ".": "\uf029"}

_TO_WIRE: Final = str.maketrans(
    {**{chr(code): 0xF000 + code for code in range(1, 32)}, **_RESERVED, "\\": _BACKSLASH}
)
_FROM_WIRE: Final = str.maketrans(
    {value: key for key, value in _TO_WIRE.items()} | {0xF028: " ", 0xF029: "."}
)
_POSIX_TO_WIRE: Final = str.maketrans({"\\": _BACKSLASH})
_POSIX_FROM_WIRE: Final = str.maketrans({"\\": "/", chr(_BACKSLASH): "\\"})
_FORBIDDEN: Final = frozenset([chr(code) for code in range(32)]) | frozenset('"*<>?|/')
_DATA_STREAM: Final = "::$DATA"


def name_to_wire(name: str, *, posix: bool) -> str:
    """One name of a directory for the client."""
    if posix:
        return name.translate(_POSIX_TO_WIRE) if "\\" in name else name
    if name.isalnum():
        return name
    if name[-1] in _TRAILING:
        name = name[:-1] + _TRAILING[name[-1]]
    return name.translate(_TO_WIRE)


def path_to_wire(path: str, *, posix: bool) -> str:
    """A path below the share as `\\dir\\name`; the root is `\\`."""
    return "\\" + "\\".join(name_to_wire(name, posix=posix) for name in path.split("/") if name)


def path_from_wire(name: str, *, posix: bool) -> str:
    """The contract's path for a name of CREATE, rename or link. Raises SmbError for names that cannot be."""
    if len(name) > MAX_PATH:
        raise SmbError(NtStatus.OBJECT_NAME_INVALID)
    # [MS-SMB2] §3.3.5.9: a name that begins with a separator is INVALID_PARAMETER.
    if name[:1] in ("\\", "/"):
        raise SmbError(NtStatus.INVALID_PARAMETER)
    if "\0" in name:
        raise SmbError(NtStatus.OBJECT_NAME_INVALID)
    if posix:
        path = name.translate(_POSIX_FROM_WIRE)
    else:
        if name[-len(_DATA_STREAM) :].upper() == _DATA_STREAM:
            name = name[: -len(_DATA_STREAM)]
        # §2.2.13 and [MS-FSCC] §2.1.5: reserved characters; a colon names a stream, and we have none.
        if ":" in name or not _FORBIDDEN.isdisjoint(name):
            raise SmbError(NtStatus.OBJECT_NAME_INVALID)
        path = name.replace("\\", "/").translate(_FROM_WIRE)
    path = path.removesuffix("/")
    for component in path.split("/") if path else ():
        if component in ("", "."):
            raise SmbError(NtStatus.OBJECT_NAME_INVALID)
        if component == "..":
            raise SmbError(NtStatus.OBJECT_PATH_SYNTAX_BAD)
    return path
