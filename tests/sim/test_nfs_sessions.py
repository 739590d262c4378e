"""Clients and sessions against a real server, in memory and in virtual time (RFC 8881 §2.10, §18.33 to §18.51)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from quicfs.nfs import limits
from quicfs.nfs.rpc.certificate import PeerCertificate
from quicfs.nfs.rpc.errors import RpcLost
from quicfs.nfs.v4.compound import unpack_reply
from quicfs.nfs.v4.const import (
    ChannelDirFromClient,
    ChannelDirFromServer,
    CreateSession,
    ExchangeId,
    Nfs4Error,
    Op,
    SeqStatus,
    Stat,
)
from quicfs.nfs.v4.operations_directories import LookupArgs
from quicfs.nfs.v4.operations_sessions import (
    BackchannelCtlArgs,
    BindConnToSessionArgs,
    ChannelAttrs,
    DestroyClientidArgs,
    DestroySessionArgs,
    ExchangeIdArgs,
    ReclaimCompleteArgs,
    SetSsvArgs,
    SsvParms,
    StateProtectOps,
)
from quicfs.nfs.v4.types import CbSecNone, CbSecSys, ClientOwner
from quicfs.nfs.xdr import Packer
from tests.sim.nfs_rig import FORE, RawClient, Rig, packed, sequence
from tests.sim.nfs_sessions import EXPORT, ROOT, in_rig, mkdir, refused

# --- COMPOUND


def test_a_client_gets_a_session_and_the_root(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        results = await client.do(*ROOT, (Op.GETFH, None))
        assert results[1].value.object

    in_rig(tmp_path, body)


@pytest.mark.parametrize("minor", [0, 3, 77])
def test_other_minor_versions_are_refused(tmp_path: Path, minor: int) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig, minor=minor)
        reply = await client.compound(*ROOT)
        assert reply.status is Stat.MINOR_VERS_MISMATCH
        assert not reply.results

    in_rig(tmp_path, body)


def test_tags_come_back_and_must_be_utf8(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        reply = await client.compound(tag="grüße".encode())
        assert (reply.status, reply.tag, reply.results) == (Stat.OK, "grüße".encode(), [])
        reply = await client.compound(*ROOT, tag=b"\xff\xfe")
        assert (reply.status, reply.tag, reply.results) == (Stat.INVAL, b"\xff\xfe", [])

    in_rig(tmp_path, body)


def test_what_needs_a_session_says_so(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        assert await refused(client, *ROOT) is Stat.OP_NOT_IN_SESSION
        assert await refused(client, sequence(bytes(16), 1)) is Stat.BADSESSION

    in_rig(tmp_path, body)


def test_operations_that_stand_alone(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        destroy = Op.DESTROY_SESSION, DestroySessionArgs(client.session)
        assert await refused(client, destroy, *ROOT) is Stat.NOT_ONLY_OP
        # §18.37.3: the session in use goes last.
        assert (await client.call(destroy, *ROOT)).status is Stat.NOT_ONLY_OP
        bind = (
            Op.BIND_CONN_TO_SESSION,
            BindConnToSessionArgs(client.session, ChannelDirFromClient.FORE, False),
        )
        assert (await client.call(bind)).status is Stat.NOT_ONLY_OP
        assert (await client.call(*ROOT, client.next(1))).status is Stat.SEQUENCE_POS
        assert (await client.call(*ROOT, destroy)).status is Stat.OK
        assert await refused(client, client.next()) is Stat.BADSESSION

    in_rig(tmp_path, body)


def raw_operation(number: int) -> Packer:
    """A COMPOUND of one operation without arguments."""
    packer = Packer()
    for word in (0, 2, 1, number):
        packer.uint32(word)
    return packer


@pytest.mark.parametrize("number", [0, 1, 2, 76, 10_044, 0xFFFFFFFF])
def test_unknown_operations_are_illegal(tmp_path: Path, number: int) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        reply = unpack_reply(await client.raw(raw_operation(number)))
        assert [(result.op, result.status) for result in reply.results] == [(Op.ILLEGAL, Stat.OP_ILLEGAL)]

    in_rig(tmp_path, body)


def test_operations_of_a_later_minor_version_are_illegal(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(minor=1)
        packer = packed([client.next(), *EXPORT], minor=1)
        packer.patch_uint32(8, 4)  # one more
        packer.uint32(Op.SEEK)
        reply = unpack_reply(await client.raw(packer))
        assert (reply.results[-1].op, reply.status) == (Op.ILLEGAL, Stat.OP_ILLEGAL)

    in_rig(tmp_path, body)


def test_operations_whose_arguments_end_early(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        packer = packed([client.next(), *ROOT])
        packer.patch_uint32(8, 3)
        packer.uint32(Op.LOOKUP)
        packer.uint32(0xFFFFFFFF)
        reply = unpack_reply(await client.raw(packer))
        assert (reply.results[-1].op, reply.status) == (Op.LOOKUP, Stat.BADXDR)
        await client.do(*ROOT)  # the slot goes on

    in_rig(tmp_path, body)


def test_a_compound_of_ten_thousand_operations_is_refused_by_its_number(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        reply = await client.compound(client.next(), *(ROOT * 10_000))
        assert [(result.op, result.status) for result in reply.results] == [(Op.SEQUENCE, Stat.TOO_MANY_OPS)]
        # The slot did not take it.
        client.numbers[client.session, 0] -= 1
        await client.do(*ROOT)
        # The number alone is enough, wherever it comes from.
        packer = packed([client.next()])
        packer.patch_uint32(8, 0xFFFFFFFF)
        assert unpack_reply(await client.raw(packer)).status is Stat.TOO_MANY_OPS
        client = RawClient(rig, b"other")
        assert (
            await refused(client, *([(Op.DESTROY_CLIENTID, DestroyClientidArgs(1))] * 10_000))
            is Stat.NOT_ONLY_OP
        )

    in_rig(tmp_path, body)


def test_requests_and_replies_have_the_size_of_the_session(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(fore=ChannelAttrs(0, 512, 400, 256, 64, 4, None))
        reply = await client.compound(client.next(), *EXPORT, (Op.LOOKUP, LookupArgs("x" * 400)))
        assert [result.status for result in reply.results] == [Stat.REQ_TOO_BIG]
        client.numbers[client.session, 0] -= 1
        handles = [(Op.GETFH, None)] * 20
        reply = await client.call(*ROOT, *handles, keep=False)
        assert reply.status is Stat.REP_TOO_BIG
        assert reply.results[-2].status is Stat.OK
        reply = await client.call(*ROOT, *handles, keep=True)
        assert reply.status is Stat.REP_TOO_BIG_TO_CACHE
        # What changes something is not begun unless its result has room (§2.10.6.4).
        reply = await client.call(*EXPORT, *([(Op.GETFH, None)] * 2), *mkdir("d"))
        assert reply.status is Stat.REP_TOO_BIG_TO_CACHE
        assert reply.results[-1].op is Op.CREATE
        assert not (rig.tree / "d").exists()

    in_rig(tmp_path, body)


# --- EXCHANGE_ID: the cases of §18.35.4


def test_a_new_owner_and_an_unconfirmed_one(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        first = await client.exchange_id()  # case 1
        assert not first.flags & ExchangeId.CONFIRMED_R
        assert first.flags & ExchangeId.MASK_PNFS == ExchangeId.USE_NON_PNFS
        second = await client.exchange_id()  # case 4
        assert second.clientid != first.clientid
        old, client.clientid = client.clientid, first.clientid
        assert await refused(client, (Op.CREATE_SESSION, client.create_args())) is Stat.STALE_CLIENTID
        client.clientid = old
        await client.create_session()
        third = await client.exchange_id()  # case 2
        assert (third.clientid, third.flags & ExchangeId.CONFIRMED_R) == (old, ExchangeId.CONFIRMED_R)
        assert third.sequenceid == client.sequence == second.sequenceid + 1
        assert third.server_owner == first.server_owner
        await client.do(*ROOT)  # the session is not touched

    in_rig(tmp_path, body)


def test_another_principal_with_the_same_name(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client(b"name", uid=1)
        thief = RawClient(rig, b"name", uid=2)
        with pytest.raises(Nfs4Error, match="CLID_INUSE"):  # case 3
            await thief.exchange_id()
        with pytest.raises(Nfs4Error, match="PERM"):  # case 9
            await thief.exchange_id(ExchangeId.UPD_CONFIRMED_REC_A)
        thief.clientid, thief.sequence = client.clientid, client.sequence
        assert await refused(thief, (Op.CREATE_SESSION, thief.create_args())) is Stat.CLID_INUSE
        assert (
            await refused(thief, (Op.DESTROY_SESSION, DestroySessionArgs(client.session))) is Stat.WRONG_CRED
        )
        assert (
            await refused(thief, (Op.DESTROY_CLIENTID, DestroyClientidArgs(client.clientid)))
            is Stat.WRONG_CRED
        )
        bind = BindConnToSessionArgs(client.session, ChannelDirFromClient.BACK_OR_BOTH, False)
        assert await refused(thief, (Op.BIND_CONN_TO_SESSION, bind)) is Stat.WRONG_CRED
        await client.do(*ROOT)
        # When the lease is over the name is free.
        await asyncio.sleep(100)
        await thief.establish()
        assert await refused(client, client.next()) is Stat.BADSESSION

    in_rig(tmp_path, body)


def test_a_restarted_client_replaces_itself_when_it_has_a_session(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        old = await rig.client()
        new = RawClient(rig, verifier=b"boot\0\0\0\2")
        await new.exchange_id()  # case 5
        assert new.clientid != old.clientid
        await old.do(*ROOT)
        await new.create_session()
        assert await refused(old, old.next()) is Stat.BADSESSION
        await new.do(*ROOT)

    in_rig(tmp_path, body)


def test_updates_of_a_record(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        update = int(ExchangeId.UPD_CONFIRMED_REC_A)
        with pytest.raises(Nfs4Error, match="NOENT"):  # case 7
            await client.exchange_id(update)
        await client.establish()
        before = client.clientid
        assert (await client.exchange_id(update)).clientid == before  # case 6
        client.verifier = b"another!"
        with pytest.raises(Nfs4Error, match="NOT_SAME"):  # case 8
            await client.exchange_id(update)

    in_rig(tmp_path, body)


def test_flags_and_protection_that_are_refused(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        for flags in (ExchangeId.CONFIRMED_R, 0x08000000):
            with pytest.raises(Nfs4Error, match="INVAL"):
                await client.exchange_id(int(flags))
        owner = ClientOwner(bytes(8), b"x")
        none = StateProtectOps(0, 0)
        for protect, status in (
            (none, Stat.INVAL),  # SP4_MACH_CRED needs RPCSEC_GSS (§18.35.3)
            (SsvParms(none, [], [], 1, 1), Stat.ENCR_ALG_UNSUPP),
        ):
            assert await refused(client, (Op.EXCHANGE_ID, ExchangeIdArgs(owner, 0, protect, None))) is status

    in_rig(tmp_path, body)


def test_the_table_of_clients_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 8)

    async def body(rig: Rig) -> None:
        assert rig.server is not None
        clients = [await rig.client(b"client %d" % number) for number in range(6)]
        flood = RawClient(rig)
        for number in range(100):
            flood.owner = b"flood %d" % number
            await flood.exchange_id()
            assert len(rig.server.clients) <= 8
        for client in clients:  # who is confirmed is not touched by who is not
            await client.do(*ROOT)
        more = [await rig.client(b"more %d" % number) for number in range(2)]
        with pytest.raises(Nfs4Error, match="DELAY"):
            await flood.exchange_id()
        await asyncio.sleep(60)
        for client in clients + more[:1]:
            await client.do(*ROOT)
        await asyncio.sleep(60)  # the lease of the last one is over
        await flood.establish()
        assert await refused(more[1], more[1].next()) is Stat.BADSESSION

    in_rig(tmp_path, body)


# --- CREATE_SESSION


def test_create_session_has_a_slot_of_its_own(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig)
        await client.exchange_id()
        args = client.create_args()
        for wrong in (client.sequence - 1, client.sequence + 1):
            wrong_args = replace(args, sequence=wrong)
            assert await refused(client, (Op.CREATE_SESSION, wrong_args)) is Stat.SEQ_MISORDERED
        first = await client.create_session()
        again = (await client.compound((Op.CREATE_SESSION, args))).check()[0].value
        assert again == first
        second = await client.create_session()
        assert second.sessionid != first.sessionid
        assert await refused(client, (Op.CREATE_SESSION, args)) is Stat.SEQ_MISORDERED
        await client.do(*ROOT)

    in_rig(tmp_path, body)


def test_a_lost_reply_to_create_session_comes_again_on_another_connection(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = RawClient(rig, delay=0.05)
        await client.exchange_id()
        asyncio.get_running_loop().call_later(0.06, client.link.cut)
        with pytest.raises(RpcLost):
            await client.create_session()
        assert rig.server is not None
        assert len(rig.server.sessions) == 1
        client.reconnect()
        await client.create_session()
        assert len(rig.server.sessions) == 1
        await client.do(*ROOT)
        assert client.sequence_result is not None
        assert not client.sequence_result.status_flags

    in_rig(tmp_path, body)


def test_channel_attributes_are_negotiated_down(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        huge = ChannelAttrs(9, *[0xFFFFFFFF] * 5, None)
        client = RawClient(rig, fore=huge)
        await client.exchange_id()
        fore = (await client.create_session()).fore_chan_attrs
        assert fore.headerpadsize == 0
        assert fore.maxrequestsize <= limits.MAX_REQUEST
        assert fore.maxresponsesize <= limits.MAX_RESPONSE
        assert fore.maxresponsesize_cached <= limits.MAX_CACHED_RESPONSE
        assert fore.maxoperations <= limits.MAX_OPERATIONS
        assert fore.maxrequests <= limits.MAX_SLOTS
        for bad, status in (
            (replace(FORE, maxrequestsize=20), Stat.TOOSMALL),
            (replace(FORE, maxresponsesize=0), Stat.TOOSMALL),
            (replace(FORE, maxoperations=1), Stat.TOOSMALL),
            (replace(FORE, maxrequests=0), Stat.INVAL),
        ):
            client.fore = bad
            assert await refused(client, (Op.CREATE_SESSION, client.create_args())) is status
        client.fore = FORE
        flags = replace(client.create_args(), flags=0x10)
        assert await refused(client, (Op.CREATE_SESSION, flags)) is Stat.INVAL
        persist = replace(client.create_args(), flags=int(CreateSession.PERSIST | CreateSession.CONN_RDMA))
        made = (await client.compound((Op.CREATE_SESSION, persist))).check()[0].value
        assert made.flags == 0

    in_rig(tmp_path, body)


def test_sessions_are_bounded_and_so_is_what_they_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REPLY_CACHE", 100 * (8192 + limits.SLOT_SIZE))

    async def body(rig: Rig) -> None:
        client = RawClient(rig, fore=replace(FORE, maxrequests=60))
        await client.exchange_id()
        slots = [(await client.create_session()).fore_chan_attrs.maxrequests for _ in range(4)]
        assert slots == [60, 40, 1, 1]
        for _ in range(limits.MAX_SESSIONS_PER_CLIENT - 4):
            await client.create_session()
        assert await refused(client, (Op.CREATE_SESSION, client.create_args())) is Stat.NOSPC
        # Sessions that end give everything back, however often (slot leaks).
        for _ in range(50):
            await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(client.session)))
            assert (await client.create_session()).fore_chan_attrs.maxrequests == 1
        assert rig.server is not None
        for client_record in rig.server.clients:
            for session_id in list(client_record.sessions):
                await client.compound((Op.DESTROY_SESSION, DestroySessionArgs(session_id)))
        assert (await client.create_session()).fore_chan_attrs.maxrequests == 60

    in_rig(tmp_path, body)


# --- connections


def certificate(name: str) -> PeerCertificate:
    return PeerCertificate(f"CN={name}", (name,), (name,), (), "00")


def test_a_session_is_used_by_the_certificate_that_made_it(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        alice = await rig.client(b"a", certificate=certificate("alice"))
        for other in (certificate("bob"), None):
            thief = RawClient(rig, b"b", certificate=other)
            assert await refused(thief, sequence(alice.session, 9)) is Stat.CONN_NOT_BOUND_TO_SESSION
        alice.reconnect()
        await alice.do(*ROOT)

    in_rig(tmp_path, body)


def test_streams_bind_by_being_used_and_by_asking(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        for stream in range(5):
            await client.do(*ROOT, stream=stream, slot=stream)
        for asked, granted in (
            (ChannelDirFromClient.FORE, ChannelDirFromServer.FORE),
            (ChannelDirFromClient.BACK, ChannelDirFromServer.BACK),
            (ChannelDirFromClient.FORE_OR_BOTH, ChannelDirFromServer.BOTH),
            (ChannelDirFromClient.BACK_OR_BOTH, ChannelDirFromServer.BOTH),
        ):
            bind = Op.BIND_CONN_TO_SESSION, BindConnToSessionArgs(client.session, asked, False)
            (result,) = (await client.compound(bind, stream=7)).check()
            assert (result.value.dir, result.value.use_conn_in_rdma_mode) == (granted, False)

    in_rig(tmp_path, body)


def test_the_client_hears_when_it_cannot_be_called_back(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()

        async def flags() -> int:
            await client.do(*ROOT)
            assert client.sequence_result is not None
            return client.sequence_result.status_flags

        assert await flags() == 0
        client.reconnect()
        down = SeqStatus.CB_PATH_DOWN | SeqStatus.CB_PATH_DOWN_SESSION
        assert await flags() == down
        bind = BindConnToSessionArgs(client.session, ChannelDirFromClient.BACK_OR_BOTH, False)
        (await client.compound((Op.BIND_CONN_TO_SESSION, bind))).check()
        assert await flags() == 0
        # A second session that was made without is no fault of the first.
        client.back = False
        await client.create_session()
        assert await flags() == SeqStatus.CB_PATH_DOWN_SESSION
        silent = await rig.client(b"silent", back=False)
        await silent.do(*ROOT)
        assert silent.sequence_result is not None
        assert silent.sequence_result.status_flags == 0

    in_rig(tmp_path, body)


def test_backchannel_ctl_and_set_ssv(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        sys = CbSecSys(0, "server", 0, 0, [])
        await client.do((Op.BACKCHANNEL_CTL, BackchannelCtlArgs(0x40000001, [CbSecNone(), sys])))
        assert (await client.call((Op.BACKCHANNEL_CTL, BackchannelCtlArgs(1, [])))).status is Stat.NOENT
        assert (await client.call((Op.SET_SSV, SetSsvArgs(b"", b"")))).status is Stat.INVAL

    in_rig(tmp_path, body)


# --- the end


def test_destroying_sessions_and_clients(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        destroy = Op.DESTROY_CLIENTID, DestroyClientidArgs(client.clientid)
        assert await refused(client, destroy) is Stat.CLIENTID_BUSY
        assert (await client.call(destroy)).status is Stat.CLIENTID_BUSY
        assert await refused(client, (Op.DESTROY_SESSION, DestroySessionArgs(client.session))) is Stat.OK
        assert (
            await refused(client, (Op.DESTROY_SESSION, DestroySessionArgs(client.session))) is Stat.BADSESSION
        )
        assert await refused(client, destroy) is Stat.OK
        assert await refused(client, destroy) is Stat.STALE_CLIENTID
        assert rig.server is not None
        assert len(rig.server.clients) == len(rig.server.sessions) == 0

    in_rig(tmp_path, body)


def test_a_lease_that_ran_out_with_nothing_held(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        for _ in range(5):
            await asyncio.sleep(80)
            await client.do(*ROOT)
        await asyncio.sleep(100)
        assert await refused(client, client.next()) is Stat.BADSESSION
        assert rig.server is not None
        assert len(rig.server.clients) == 0

    in_rig(tmp_path, body)


def test_reclaim_complete_comes_once(tmp_path: Path) -> None:
    async def body(rig: Rig) -> None:
        client = await rig.client()
        again = Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(False)
        assert (await client.call(again)).status is Stat.COMPLETE_ALREADY
        one = Op.RECLAIM_COMPLETE, ReclaimCompleteArgs(True)
        assert (await client.call(one)).status is Stat.NOFILEHANDLE
        assert (await client.call(*EXPORT, one)).status is Stat.OK

    in_rig(tmp_path, body)
