"""Who gets how much of Ollama, and who makes room for whom."""

import asyncio
from typing import Any

from gateway.errors import QueueFull
from gateway.scheduler import Scheduler, SlotRequest
from tests.models.virtual import virtual_time

from .requests import Caller, come, demand, leave, measured, refused, scheduler, settled


async def works_for(queue: Scheduler, wish: SlotRequest, seconds: float, log: list[str]) -> None:
    async with queue.slot(wish):
        log.append(wish.key)
        await asyncio.sleep(seconds)


async def backlog(
    queue: Scheduler, log: list[str], seconds: float, *keys: str, **changes: Any
) -> list[asyncio.Task[None]]:
    """One call of each key named, in this order, each with so much to do."""
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(works_for(queue, demand(key, **changes), seconds, log)) for key in keys
    ]
    await settled()
    return tasks


@virtual_time
async def test_a_deep_backlog_does_not_delay_another_keys_single_call() -> None:
    """It is the next to go, whatever waits."""
    queue, log = scheduler(), list[str]()
    await measured(queue, 10.0)
    tasks = await backlog(queue, log, 10.0, *["greedy"] * 17)
    await asyncio.sleep(35)
    tasks += await backlog(queue, log, 10.0, "modest")
    await asyncio.gather(*tasks)

    assert log.index("modest") == 4


@virtual_time
async def test_service_time_is_shared_by_weight() -> None:
    """Three to one, while both have calls waiting."""
    queue, log = scheduler(), list[str]()
    await measured(queue, 10.0)
    tasks = await backlog(queue, log, 10.0, *["light"] * 12)
    tasks += await backlog(queue, log, 10.0, *["heavy"] * 12, weight=3.0)
    await asyncio.gather(*tasks)

    assert log[1:13].count("heavy") == 9


@virtual_time
async def test_long_answers_count_for_more_than_short_ones() -> None:
    """Twenty seconds of the one against twenty of the other, four calls to one."""
    queue, log = scheduler(max_queued_per_key=64), list[str]()
    await measured(queue, 5.0)
    tasks = await backlog(queue, log, 20.0, *["long"] * 5)
    tasks += await backlog(queue, log, 5.0, *["short"] * 20)
    await asyncio.sleep(150)
    short, long = log.count("short") * 5, log.count("long") * 20

    await asyncio.gather(*tasks)
    assert abs(short - long) <= 40


@virtual_time
async def test_a_long_call_at_work_is_no_credit_for_the_next_ones() -> None:
    """While its stream goes on, a key takes turns with the other like any."""
    queue, log = scheduler(max_active=2), list[str]()
    await measured(queue, 10.0)
    (stream,) = await backlog(queue, [], 1000.0, "streams")
    tasks = await backlog(queue, log, 10.0, *["busy"] * 12)
    await asyncio.sleep(55)
    tasks += await backlog(queue, log, 10.0, *["streams"] * 6)
    await asyncio.gather(*tasks)

    assert log[6:10].count("streams") <= 2
    stream.cancel()
    await settled()


@virtual_time
async def test_interactive_goes_first_and_batch_does_not_starve() -> None:
    """After two minutes of waiting a batch call takes its turn among the others."""
    queue, log = scheduler(max_queued_per_key=64), list[str]()
    await measured(queue, 10.0)
    tasks = await backlog(queue, log, 10.0, "person")
    tasks += await backlog(queue, log, 10.0, *["night"] * 4, batch=True)
    tasks += await backlog(queue, log, 10.0, *["person"] * 24)
    await asyncio.gather(*tasks)

    assert log[:12] == ["person"] * 12
    assert log.index("night") == 12
    # In turns, and not everything at once that has grown old meanwhile.
    assert log[12:18].count("person") == 2
    assert "night" not in log[18:]


@virtual_time
async def test_batch_has_a_place_that_nobody_else_wants() -> None:
    """It is not kept free for those who may come."""
    queue = scheduler()
    async with queue.slot(demand(batch=True)) as slot:
        assert slot.waited == 0.0


@virtual_time
async def test_a_full_queue_makes_room_for_a_modest_key() -> None:
    """The newest of the greediest is told to come again; the others keep their places."""
    queue = scheduler(max_queued=4)
    callers = await come(queue, demand("x"), *[demand("greedy")] * 3, demand("other"))
    (modest,) = await come(queue, demand("modest"))
    newest = callers[3]
    error = await newest.ended()

    assert isinstance(error, QueueFull)
    assert "made room for another key" in error.message
    assert repr(queue) == "<Admission 1/1 active, 4/4 queued>"

    await leave(*(one for one in callers if one is not newest), modest)
    assert queue.idle


@virtual_time
async def test_nobody_is_displaced_for_one_who_would_have_as_much() -> None:
    """The one with most is refused himself, and so is one who is no more modest."""
    queue = scheduler(max_queued=4)
    callers = await come(queue, demand("x"), *[demand(key) for key in ("a", "a", "b", "b")])

    assert isinstance(await refused(queue, demand("a")), QueueFull)
    assert isinstance(await refused(queue, demand("b")), QueueFull)

    callers += await come(queue, demand("c"))
    assert sum(one.task.done() for one in callers) == 1

    await leave(*callers)


@virtual_time
async def test_nobody_is_displaced_while_there_is_room() -> None:
    """However greedy."""
    queue = scheduler(max_queued=5)
    callers = await come(queue, demand("x"), *[demand("greedy")] * 4, demand("modest"))

    assert not any(one.task.done() for one in callers)

    await leave(*callers)


@virtual_time
async def test_a_weight_is_a_right_to_more_of_the_queue() -> None:
    """Four of a key that weighs four are no more than one of another."""
    queue = scheduler(max_queued=5)
    heavy = [demand("heavy", weight=4.0)] * 4
    callers: list[Caller] = await come(queue, demand("x"), *heavy, demand("light"))

    assert isinstance(await refused(queue, demand("light")), QueueFull)

    await leave(*callers)
