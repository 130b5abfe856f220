"""Who is refused on arrival, and what those who are refused are told of the wait."""

import asyncio

import pytest

from gateway.errors import QueueTimeout
from tests.catalog.virtual import now, virtual_time

from .demands import admission, come, demand, leave, measured, refused


@virtual_time
async def test_a_wait_that_is_certainly_too_long_is_refused_on_arrival() -> None:
    """Ten seconds each, nine ahead, thirty to wait: he is told now, not in thirty seconds."""
    queue = admission()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand()] * 10)
    asked_at = now()
    error = await refused(queue, demand(queue_timeout=30.0))

    assert isinstance(error, QueueTimeout)
    assert now() == asked_at
    assert "9 calls wait before this one" in error.message
    assert error.headers["Retry-After"] == "60"

    await leave(*callers)


@virtual_time
async def test_the_same_wait_is_not_refused_to_one_with_time() -> None:
    """His own ``queue_timeout`` decides."""
    queue = admission()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand()] * 10, demand(queue_timeout=200.0))

    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await leave(*callers)


@virtual_time
async def test_those_whom_one_passes_over_do_not_count_as_before_him() -> None:
    """Twelve wait for another model; he waits for one call alone and is not refused."""
    queue = admission(max_active=2)
    await measured(queue, 10.0, 40)
    crowded = demand("crowd", "crowded", model_max_active=1)
    mine = demand("mine", "quiet", model_max_active=1, queue_timeout=15.0)
    holders = await come(queue, crowded, mine)
    crowd = await come(queue, *[crowded] * 12)
    (caller,) = await come(queue, mine)
    await asyncio.sleep(10)
    await leave(holders[1])

    assert caller.granted

    await leave(caller, holders[0], *crowd)
    assert queue.idle


@virtual_time
async def test_retry_after_is_the_measured_lease_time_for_each_ahead() -> None:
    """Four seconds each; one active, two waiting: about twelve."""
    queue = admission(max_queued=2)
    await measured(queue, 4.0)
    callers = await come(queue, demand("a"), demand("b"), demand("c"))
    error = await refused(queue, demand("d"))

    assert error.headers["Retry-After"] == "12"

    await leave(*callers)


@virtual_time
async def test_retry_after_knows_that_a_model_has_fewer_places_than_all_have() -> None:
    """Four places, one for this model: those who wait for it wait one after another."""
    queue = admission(max_active=4, max_queued=2)
    await measured(queue, 4.0)
    mine = demand(model="m", model_max_active=1)
    callers = await come(queue, mine, mine, mine)
    error = await refused(queue, mine)

    assert error.headers["Retry-After"] == "12"

    await leave(*callers)


@pytest.mark.parametrize(("lease", "advice"), [(0.001, "1"), (1000.0, "60")])
def test_retry_after_stays_between_one_second_and_sixty(lease: float, advice: str) -> None:
    """Below one nobody waits; above sixty SDKs do not come back at all."""

    @virtual_time
    async def run() -> None:
        queue = admission(max_queued=1, max_queued_per_key=1)
        await measured(queue, lease)
        callers = await come(queue, demand("a"), demand("b"))
        error = await refused(queue, demand("c"))

        assert error.headers["Retry-After"] == advice

        await leave(*callers)

    run()
