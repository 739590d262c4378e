"""FILETIME: units of 100 ns since 1601-01-01 UTC ([MS-DTYP] §2.3.3), against ns since 1970."""

from __future__ import annotations

from typing import Final

__all__ = ["filetime_from_ns", "ns_from_filetime"]

_EPOCH: Final = 116_444_736_000_000_000  # 1970-01-01 as a FILETIME
_LAST: Final = (1 << 63) - 1


def filetime_from_ns(ns: int) -> int:
    """Rounded down; times before 1601 or after 30827 become the nearest that can be said."""
    filetime = ns // 100 + _EPOCH
    return filetime if 0 < filetime <= _LAST else (1 if filetime <= 0 else _LAST)


def ns_from_filetime(filetime: int) -> int:
    return (filetime - _EPOCH) * 100
