"""Retries, and requests that Ollama was too busy for."""

import asyncio

from tests.models.virtual import now, virtual_time

from .helpers import arrive, finish, make_scheduler, measure, settle, slot_request

FIRST = slot_request(fingerprint=b"one")
RETRY = slot_request(fingerprint=b"one", retry=True)


@virtual_time
async def test_a_retry_is_not_sent_beside_its_first_attempt() -> None:
    """Although there is a slot; it runs when the first attempt has ended."""
    scheduler = make_scheduler(max_active=3)
    first, retry = await arrive(scheduler, FIRST, RETRY)

    assert (first.granted, retry.granted) == (True, False)

    first.task.cancel()
    await settle()

    assert retry.granted

    await finish(retry)
    assert scheduler.idle


@virtual_time
async def test_a_held_back_retry_blocks_no_request() -> None:
    """Requests of the same key for the same model overtake it, new ones and queued ones."""
    scheduler = make_scheduler(max_active=2)
    first, other, retry, behind = await arrive(
        scheduler, FIRST, slot_request(), RETRY, slot_request()
    )
    await finish(other)

    assert (retry.granted, behind.granted) == (False, True)

    await finish(behind)
    (late,) = await arrive(scheduler, slot_request())

    assert (retry.granted, late.granted) == (False, True)
    assert late.waited == 0.0

    await finish(first, retry, late)
    assert scheduler.idle


@virtual_time
async def test_a_request_behind_a_held_back_retry_gets_a_free_slot() -> None:
    """Although the queue is full."""
    scheduler = make_scheduler(max_active=2, max_queued=1)
    first, retry, other = await arrive(scheduler, FIRST, RETRY, slot_request())

    assert (retry.granted, other.granted) == (False, True)

    await finish(first, retry, other)


@virtual_time
async def test_a_request_that_had_its_slot_is_queued_first() -> None:
    """Before the others of its queue, but not before its delay has passed."""
    scheduler = make_scheduler()
    active, waiting = await arrive(scheduler, slot_request(), slot_request())
    (returned,) = await arrive(scheduler, slot_request(first=True, delay=5.0))
    arrived_at = now()
    await finish(active)

    assert (returned.granted, waiting.granted) == (False, False)

    await asyncio.sleep(5.1)

    assert returned.granted
    assert returned.waited == 5.0
    assert now() < arrived_at + 6

    await finish(returned, waiting)
    assert scheduler.idle


@virtual_time
async def test_a_delayed_request_blocks_only_its_own_queue() -> None:
    """Another key's request runs."""
    scheduler = make_scheduler()
    returned, other = await arrive(
        scheduler, slot_request(first=True, delay=5.0), slot_request("other")
    )

    assert (returned.granted, other.granted) == (False, True)

    await finish(other)
    await asyncio.sleep(5.1)
    assert returned.granted

    await finish(returned)


@virtual_time
async def test_a_requeued_request_is_not_rejected() -> None:
    """However full and long the queue is."""
    scheduler = make_scheduler(max_queued=2, max_queued_per_key=2)
    await measure(scheduler, 10.0, 40)
    active, *waiting = await arrive(scheduler, *[slot_request()] * 3)
    (returned,) = await arrive(
        scheduler, slot_request(first=True, client_timeout=15.0, queue_timeout=15.0)
    )
    await finish(active)

    assert returned.granted

    await finish(returned, *waiting)
    assert scheduler.idle
