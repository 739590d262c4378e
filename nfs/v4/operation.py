"""One row of the table of operations: what travels with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quicfs.nfs.v4.const import CbOp, Op, Stat
from quicfs.nfs.xdr import Struct


@dataclass(frozen=True, slots=True)
class Operation:
    """`args` and `ok` are None where nothing travels. `minor`: the minor version that brought it, 0 for what 4.1 has
    abolished (NOTSUPP). `failed`: what follows the status of some failures; `always`: what follows every failure."""

    op: Op | CbOp
    args: type[Struct] | None = None
    ok: type[Struct] | None = None
    minor: int = 1
    failed: Mapping[Stat, type[Struct]] = field(default_factory=dict)
    always: type[Struct] | None = None

    def result(self, status: Stat) -> type[Struct] | None:
        """What follows this status."""
        if status is Stat.OK:
            return self.ok
        return self.failed.get(status, self.always)


def table(rows: Iterable[Operation]) -> dict[Op | CbOp, Operation]:
    made: dict[Op | CbOp, Operation] = {}
    for row in rows:
        assert row.op not in made, row.op
        made[row.op] = row
    return made
