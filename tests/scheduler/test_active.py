"""Those at work: what their turns cost, and what they teach."""

import asyncio

from gateway.models.statistics import Statistics
from gateway.scheduler.active import Holders
from gateway.scheduler.queue import Waiter
from gateway.scheduler.request import Occupancy
from tests.models.virtual import now, virtual_time

from .requests import demand


def holder(key: str = "a", *, weight: float = 1.0) -> Waiter:
    future = asyncio.get_running_loop().create_future()
    return Waiter(demand(key, "m", weight=weight), arrived_at=now(), future=future)


@virtual_time
async def test_a_turn_costs_what_it_took() -> None:
    """By the weight of the key, and whatever was expected."""
    holders = Holders(now=now, service=Statistics())
    for seconds in (10.0, 4.0):
        one = holder(weight=2.0)
        holders.add(one, resident=True)
        await asyncio.sleep(seconds)
        holders.remove(one, answered=True)

    assert holders.shares.of("a") == 7.0
    assert holders.occupancy == Occupancy()
    assert len(holders) == 0


@virtual_time
async def test_a_long_turn_is_charged_while_it_lasts() -> None:
    """Else its key would first be owed turns, and then owe them all at once."""
    holders = Holders(now=now, service=Statistics())
    one = holder()
    holders.add(one, resident=True)
    await asyncio.sleep(100.0)
    holders.settle()

    assert holders.shares.of("a") == 100.0

    await asyncio.sleep(20.0)
    holders.settle()
    holders.settle()
    holders.remove(one, answered=True)

    assert holders.shares.of("a") == 120.0


@virtual_time
async def test_a_turn_is_charged_as_expected_from_its_beginning() -> None:
    """Two at once count as two, before either has ended."""
    holders = Holders(now=now, service=Statistics())
    holders.service.record_slot_time("m", 10.0, loaded=True)
    for _ in range(2):
        holders.add(holder(), resident=True)
    holders.settle()

    assert holders.shares.of("a") == 20.0


@virtual_time
async def test_only_answers_teach_how_long_an_answer_takes() -> None:
    """One that was broken off says nothing; a load is told apart."""
    holders = Holders(now=now, service=Statistics())
    for seconds, resident, answered in ((1.0, True, False), (8.0, False, True), (2.0, True, True)):
        one = holder()
        holders.add(one, resident=resident)
        await asyncio.sleep(seconds)
        holders.remove(one, answered=answered)

    assert holders.service.slot_time("m").mean == 2.0
    assert holders.service.slot_time("m", loaded=False).mean == 8.0
