"""Calls that come again: retries, and those that Ollama had no room for."""

import asyncio

from tests.models.virtual import now, virtual_time

from .requests import come, demand, leave, measured, scheduler, settled

FIRST = demand(fingerprint=b"one")
RETRY = demand(fingerprint=b"one", retry=True)


@virtual_time
async def test_a_retry_is_not_sent_beside_its_first_attempt() -> None:
    """Though there is a place; it goes as soon as the first one has been stopped."""
    queue = scheduler(max_active=3)
    first, retry = await come(queue, FIRST, RETRY)

    assert (first.granted, retry.granted) == (True, False)

    first.task.cancel()
    await settled()

    assert retry.granted

    await leave(retry)
    assert queue.idle


@virtual_time
async def test_nobody_waits_for_the_sake_of_a_retry() -> None:
    """Calls of the same key for the same model pass it, those that come now and those behind it."""
    queue = scheduler(max_active=2)
    first, other, retry, behind = await come(queue, FIRST, demand(), RETRY, demand())
    await leave(other)

    assert (retry.granted, behind.granted) == (False, True)

    await leave(behind)
    (late,) = await come(queue, demand())

    assert (retry.granted, late.granted) == (False, True)
    assert late.waited == 0.0

    await leave(first, retry, late)
    assert queue.idle


@virtual_time
async def test_a_free_place_is_not_refused_to_one_behind_a_retry() -> None:
    """The queue is full of those who cannot go; he can."""
    queue = scheduler(max_active=2, max_queued=1)
    first, retry, other = await come(queue, FIRST, RETRY, demand())

    assert (retry.granted, other.granted) == (False, True)

    await leave(first, retry, other)


@virtual_time
async def test_one_who_had_his_turn_goes_to_the_head_of_his_lane() -> None:
    """Before all that wait there, but not before his time."""
    queue = scheduler()
    holder, waiting = await come(queue, demand(), demand())
    (back,) = await come(queue, demand(first=True, delay=5.0))
    asked_at = now()
    await leave(holder)

    assert (back.granted, waiting.granted) == (False, False)

    await asyncio.sleep(5.1)

    assert back.granted
    assert back.waited == 5.0
    assert now() < asked_at + 6

    await leave(back, waiting)
    assert queue.idle


@virtual_time
async def test_while_one_waits_for_his_time_another_lane_goes_on() -> None:
    """Only his own lane waits with him."""
    queue = scheduler()
    back, other = await come(queue, demand(first=True, delay=5.0), demand("other"))

    assert (back.granted, other.granted) == (False, True)

    await leave(other)
    await asyncio.sleep(5.1)
    assert back.granted

    await leave(back)


@virtual_time
async def test_one_who_had_his_turn_is_not_refused() -> None:
    """The queue may be full, and long; he stands at its head."""
    queue = scheduler(max_queued=2, max_queued_per_key=2)
    await measured(queue, 10.0, 40)
    holder, *waiting = await come(queue, *[demand()] * 3)
    (back,) = await come(queue, demand(first=True, client_timeout=15.0, queue_timeout=15.0))
    await leave(holder)

    assert back.granted

    await leave(back, *waiting)
    assert queue.idle
