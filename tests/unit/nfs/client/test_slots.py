"""Slots of a session (RFC 8881 §2.10.6.1)."""

from __future__ import annotations

import asyncio

import pytest

from quicfs.nfs import limits
from quicfs.nfs.client.errors import SessionGone
from quicfs.nfs.client.slots import SlotTable


def test_the_lowest_free_slot_is_used_first() -> None:
    async def main() -> None:
        slots = SlotTable(4)
        taken = [await slots.acquire() for _ in range(3)]
        assert [slot.number for slot in taken] == [0, 1, 2]
        assert slots.highest == 2 and slots.in_use == 3
        slots.release(taken[1], consumed=True)
        assert (await slots.acquire()).number == 1
        slots.release(taken[2], consumed=True)
        assert slots.highest == 1

    asyncio.run(main())


def test_sequence_ids_count_what_the_server_has_done() -> None:
    async def main() -> None:
        slots = SlotTable(1)
        slot = await slots.acquire()
        assert slot.seqid == 1
        slots.release(slot, consumed=False)
        assert (await slots.acquire()).seqid == 1
        slots.release(slot, consumed=True)
        assert (await slots.acquire()).seqid == 2
        slot.seqid = 0xFFFFFFFF
        slots.release(slot, consumed=True)
        assert slot.seqid == 0

    asyncio.run(main())


def test_who_waits_first_comes_first() -> None:
    async def main() -> None:
        slots = SlotTable(1)
        slot = await slots.acquire()
        order: list[int] = []

        async def wait(me: int) -> None:
            mine = await slots.acquire()
            order.append(me)
            await asyncio.sleep(0)
            slots.release(mine, consumed=True)

        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        slots.release(slot, consumed=True)
        late = asyncio.create_task(wait(5))
        await asyncio.gather(*tasks, late)
        assert order == [0, 1, 2, 3, 4, 5]
        assert slots.in_use == 0

    asyncio.run(main())


def test_a_cancelled_wait_passes_its_turn_on() -> None:
    async def main() -> None:
        slots = SlotTable(1)
        slot = await slots.acquire()
        first = asyncio.create_task(slots.acquire())
        second = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        slots.release(slot, consumed=True)
        first.cancel()  # it has the slot already, and does not know
        assert (await second) is slot
        third = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        slots.release(slot, consumed=True)
        assert (await slots.acquire()) is slot

    asyncio.run(main())


def test_the_server_wants_fewer_and_more_again() -> None:
    async def main() -> None:
        slots = SlotTable(8)
        taken = [await slots.acquire() for _ in range(8)]
        slots.aim(1)
        for slot in taken:
            slots.release(slot, consumed=True)
        assert [(await slots.acquire()).number for _ in range(2)] == [0, 1]
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        assert not waiting.done()
        slots.aim(11)
        assert (await waiting).number == 2
        assert slots.target == 12
        assert {(await slots.acquire()).number for _ in range(9)} == set(range(3, 12))
        slots.aim(0xFFFFFFFF)
        assert slots.target == limits.CLIENT_SLOTS

    asyncio.run(main())


def test_at_least_one_slot_is_used() -> None:
    async def main() -> None:
        slots = SlotTable(0)
        assert (await slots.acquire()).number == 0

    asyncio.run(main())


def test_who_waits_hears_that_the_session_is_gone() -> None:
    async def main() -> None:
        slots = SlotTable(1)
        await slots.acquire()
        waiting = asyncio.create_task(slots.acquire())
        await asyncio.sleep(0)
        slots.close("gone")
        with pytest.raises(SessionGone, match="gone"):
            await waiting
        with pytest.raises(SessionGone):
            await slots.acquire()

    asyncio.run(main())


def test_discarded_slots_do_not_come_back() -> None:
    async def main() -> None:
        slots = SlotTable(2)
        slots.discard(await slots.acquire())
        assert (await slots.acquire()).number == 1
        slots.discard(await slots.acquire()) if not slots.exhausted and slots.in_use < 1 else None

    asyncio.run(main())
