"""Share reservations: what each open of a file may do, and what it denies to others (RFC 8881 §9.7).

an open is refused    when it wants what another open denies, or denies what another open has
a second OPEN of the same owner adds to the first (§9.8): one open, with the union of both
OPEN_DOWNGRADE goes back to the union of some of those (§18.18)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from quicfs.nfs.v4.const import Nfs4Error, Stat

__all__ = ["ShareTable"]

_READ, _WRITE = 1, 2
_BOTH = _READ | _WRITE


class _Share:
    """What one holder has: the unions, and what they are unions of."""

    __slots__ = ("access", "accesses", "denied", "deny")

    def __init__(self) -> None:
        self.access = self.deny = 0
        self.accesses: set[int] = set()
        self.denied: set[int] = set()


class ShareTable:
    """The reservations on one file. `access` and `deny` are bits: 1 to read, 2 to write. A holder is any value that is
    told apart from others, here an open owner."""

    __slots__ = ("_shares",)

    def __init__(self) -> None:
        self._shares: dict[Hashable, _Share] = {}

    def __bool__(self) -> bool:
        return bool(self._shares)

    def held(self, holder: Hashable) -> tuple[int, int]:
        """Access and deny of this holder, zeros if it has none."""
        share = self._shares.get(holder)
        return (share.access, share.deny) if share is not None else (0, 0)

    def conflicts(self, holder: Hashable, access: int, deny: int) -> list[Hashable]:
        """Those who are in the way of `add`."""
        return [
            other
            for other, share in self._shares.items()
            if other != holder and (share.deny & access or share.access & deny)
        ]

    def deniers(self, access: int) -> list[Hashable]:
        """Those who deny some of `access`."""
        return [holder for holder, share in self._shares.items() if share.deny & access]

    def add(self, holder: Hashable, access: int, deny: int) -> None:
        """One more OPEN of `holder`. SHARE_DENIED, and then nothing has changed."""
        if not 0 < access <= _BOTH or not 0 <= deny <= _BOTH:
            raise ValueError("access is 1 to 3, deny 0 to 3")
        if self.conflicts(holder, access, deny):
            raise Nfs4Error(Stat.SHARE_DENIED)
        share = self._shares.get(holder)
        if share is None:
            share = self._shares[holder] = _Share()
        share.access |= access
        share.deny |= deny
        share.accesses.add(access)
        share.denied.add(deny)

    def downgrade(self, holder: Hashable, access: int, deny: int) -> None:
        """§18.18.3: INVAL unless both are unions of what some of the OPENs asked for."""
        share = self._shares[holder]
        accesses = {bits for bits in share.accesses if not bits & ~access}
        denied = {bits for bits in share.denied if not bits & ~deny}
        if not access or _union(accesses) != access or _union(denied) != deny:
            raise Nfs4Error(Stat.INVAL)
        share.access, share.deny = access, deny
        share.accesses, share.denied = accesses, denied | {0}

    def remove(self, holder: Hashable) -> None:
        self._shares.pop(holder, None)


def _union(bits: Iterable[int]) -> int:
    union = 0
    for one in bits:
        union |= one
    return union
