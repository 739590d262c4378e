"""Who a connection's calls are made for, while it lasts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.identity import IdentityMap
from tests.sim.nfs_files import made
from tests.sim.nfs_rig import Rig
from tests.sim.virtual_loop import run


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root makes files of others")
def test_a_map_that_changes_counts_at_once(tmp_path: Path) -> None:
    path, now = tmp_path / "map", [0.0]
    path.write_text("cn:alice = 850:850\n")
    alice = PeerCertificate("CN=alice", ("alice",), (), (), "00" * 32)

    async def main() -> None:
        identities = IdentityMap.load(path, clock=lambda: now[0])
        async with Rig(tmp_path, identities=identities) as rig:
            client = await rig.client(certificate=alice)
            await made(client, "before")
            path.write_text("cn:alice = 90:90\n")
            now[0] += 2
            await made(client, "after")
            path.write_text("cn:bob = 850:850\n")
            now[0] += 2
            await made(client, "nobody")
            owners = [(rig.tree / name).stat().st_uid for name in ("before", "after", "nobody")]
            assert owners == [850, 90, 65534]

    run(main())
