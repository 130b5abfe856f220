"""How keys share Ollama and the queue."""

import asyncio
from typing import Any

from gateway.errors import QueueFull
from gateway.scheduler import Scheduler, SlotRequest
from tests.models.virtual import virtual_time

from .helpers import (
    Client,
    arrive,
    finish,
    make_scheduler,
    measure,
    rejection,
    settle,
    slot_request,
)


async def use_slot(
    scheduler: Scheduler, request: SlotRequest, seconds: float, log: list[str]
) -> None:
    async with scheduler.slot(request):
        log.append(request.key)
        await asyncio.sleep(seconds)


async def backlog(
    scheduler: Scheduler, log: list[str], seconds: float, *keys: str, **changes: Any
) -> list[asyncio.Task[None]]:
    """Send one request of each key, in this order, that uses its slot for so many seconds."""
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(use_slot(scheduler, slot_request(key, **changes), seconds, log))
        for key in keys
    ]
    await settle()
    return tasks


@virtual_time
async def test_a_backlog_does_not_delay_another_keys_request() -> None:
    """It runs next."""
    scheduler, log = make_scheduler(), list[str]()
    await measure(scheduler, 10.0)
    tasks = await backlog(scheduler, log, 10.0, *["busy"] * 17)
    await asyncio.sleep(35)
    tasks += await backlog(scheduler, log, 10.0, "quiet")
    await asyncio.gather(*tasks)

    assert log.index("quiet") == 4


@virtual_time
async def test_gpu_time_is_shared_by_weight() -> None:
    """Three to one, while both have requests queued."""
    scheduler, log = make_scheduler(), list[str]()
    await measure(scheduler, 10.0)
    tasks = await backlog(scheduler, log, 10.0, *["light"] * 12)
    tasks += await backlog(scheduler, log, 10.0, *["heavy"] * 12, weight=3.0)
    await asyncio.gather(*tasks)

    assert log[1:13].count("heavy") == 9


@virtual_time
async def test_long_responses_count_for_more_than_short_ones() -> None:
    """One of twenty seconds for four of five."""
    scheduler, log = make_scheduler(max_queued_per_key=64), list[str]()
    await measure(scheduler, 5.0)
    tasks = await backlog(scheduler, log, 20.0, *["long"] * 5)
    tasks += await backlog(scheduler, log, 5.0, *["short"] * 20)
    await asyncio.sleep(150)
    short, long = log.count("short") * 5, log.count("long") * 20

    await asyncio.gather(*tasks)
    assert abs(short - long) <= 40


@virtual_time
async def test_a_long_active_request_gives_no_credit() -> None:
    """While its stream goes on, its key alternates with the other."""
    scheduler, log = make_scheduler(max_active=2), list[str]()
    await measure(scheduler, 10.0)
    (stream,) = await backlog(scheduler, [], 1000.0, "streams")
    tasks = await backlog(scheduler, log, 10.0, *["busy"] * 12)
    await asyncio.sleep(55)
    tasks += await backlog(scheduler, log, 10.0, *["streams"] * 6)
    await asyncio.gather(*tasks)

    assert log[6:10].count("streams") <= 2
    stream.cancel()
    await settle()


@virtual_time
async def test_interactive_runs_first_and_batch_does_not_starve() -> None:
    """After two minutes a batch request ranks as interactive."""
    scheduler, log = make_scheduler(max_queued_per_key=64), list[str]()
    await measure(scheduler, 10.0)
    tasks = await backlog(scheduler, log, 10.0, "person")
    tasks += await backlog(scheduler, log, 10.0, *["night"] * 4, batch=True, queue_timeout=900.0)
    tasks += await backlog(scheduler, log, 10.0, *["person"] * 24, queue_timeout=900.0)
    await asyncio.gather(*tasks)

    assert log[:12] == ["person"] * 12
    assert log.index("night") == 12
    # Alternating, and not all batch requests at once.
    assert log[12:18].count("person") == 2
    assert "night" not in log[18:]


@virtual_time
async def test_batch_uses_a_free_slot() -> None:
    """It is not kept free for requests that may come."""
    scheduler = make_scheduler()
    async with scheduler.slot(slot_request(batch=True)) as slot:
        assert slot.waited == 0.0


@virtual_time
async def test_a_full_queue_drops_the_newest_request_of_the_heaviest_key() -> None:
    """The others stay queued."""
    scheduler = make_scheduler(max_queued=4)
    clients = await arrive(
        scheduler, slot_request("x"), *[slot_request("busy")] * 3, slot_request("other")
    )
    (quiet,) = await arrive(scheduler, slot_request("quiet"))
    newest = clients[3]
    error = await newest.error()

    assert isinstance(error, QueueFull)
    assert "in favour of another key" in error.message
    assert repr(scheduler) == "<Scheduler 1/1 active, 4/4 queued>"

    await finish(*(one for one in clients if one is not newest), quiet)
    assert scheduler.idle


@virtual_time
async def test_a_full_queue_drops_nothing_for_a_key_with_as_much() -> None:
    """Nor for the heaviest key itself."""
    scheduler = make_scheduler(max_queued=4)
    clients = await arrive(
        scheduler, slot_request("x"), *[slot_request(key) for key in ("a", "a", "b", "b")]
    )

    assert isinstance(await rejection(scheduler, slot_request("a")), QueueFull)
    assert isinstance(await rejection(scheduler, slot_request("b")), QueueFull)

    clients += await arrive(scheduler, slot_request("c"))
    assert sum(one.task.done() for one in clients) == 1

    await finish(*clients)


@virtual_time
async def test_nothing_is_dropped_while_there_is_room() -> None:
    """However unequal the keys are."""
    scheduler = make_scheduler(max_queued=5)
    clients = await arrive(
        scheduler, slot_request("x"), *[slot_request("busy")] * 4, slot_request("quiet")
    )

    assert not any(one.task.done() for one in clients)

    await finish(*clients)


@virtual_time
async def test_weight_gives_a_larger_part_of_the_queue() -> None:
    """Four of a key with weight four are no more than one of another."""
    scheduler = make_scheduler(max_queued=5)
    heavy = [slot_request("heavy", weight=4.0)] * 4
    clients: list[Client] = await arrive(
        scheduler, slot_request("x"), *heavy, slot_request("light")
    )

    assert isinstance(await rejection(scheduler, slot_request("light")), QueueFull)

    await finish(*clients)
