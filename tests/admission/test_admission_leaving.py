"""Drains, and callers who leave in whatever turn of the loop."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.errors import Draining
from tests.catalog.virtual import now, virtual_time

from .demands import Caller, admission, come, demand, leave, refused, settled


@virtual_time
async def test_a_drain_refuses_those_who_wait_and_those_who_come() -> None:
    """Those who hold places keep them."""
    queue = admission()
    holder, waiter = await come(queue, demand(), demand())
    queue.drain()

    assert isinstance(await waiter.ended(), Draining)
    assert isinstance(await refused(queue, demand()), Draining)
    assert repr(queue) == "<Admission 1/1 active, 0/64 queued>"
    assert not holder.task.done()

    await leave(holder)
    assert isinstance(await refused(queue, demand()), Draining)
    assert queue.idle


@virtual_time
async def test_a_second_drain_changes_nothing() -> None:
    """It may be asked for twice."""
    queue = admission()
    queue.drain()
    queue.drain()

    assert queue.idle


# Leaving, in every order in which things can meet in one turn of the loop.


@virtual_time
async def test_one_who_leaves_the_queue_is_forgotten() -> None:
    """He takes no place when his turn would have come."""
    queue = admission()
    first, gone, third = await come(queue, *[demand()] * 3)
    gone.task.cancel()
    await settled()

    assert repr(queue) == "<Admission 1/1 active, 1/64 queued>"

    await leave(first)
    assert third.granted

    await leave(third)
    assert queue.idle


@virtual_time
async def test_a_place_granted_to_one_who_leaves_in_the_same_turn_is_handed_on() -> None:
    """Granted, then cancelled before he could know: the next one gets it."""
    queue = admission()
    holder = queue.lease(demand())
    await holder.__aenter__()
    gone, following = await come(queue, demand(), demand())
    await holder.__aexit__(None, None, None)
    gone.task.cancel()
    await settled()

    assert (gone.granted, following.granted) == (False, True)

    await leave(following)
    assert queue.idle


@virtual_time
async def test_a_place_is_not_granted_to_one_who_has_just_left() -> None:
    """Cancelled, then a place comes free before he could go: the next one gets it."""
    queue = admission()
    holder = queue.lease(demand())
    await holder.__aenter__()
    gone, following = await come(queue, demand(), demand())
    gone.task.cancel()
    await holder.__aexit__(None, None, None)
    await settled()

    assert (gone.granted, following.granted) == (False, True)

    await leave(following)
    assert queue.idle


@pytest.mark.parametrize("cancel_first", [True, False])
def test_a_drain_and_a_cancellation_in_the_same_turn_leave_nothing(cancel_first: bool) -> None:
    """In either order, and the others are still told."""

    @virtual_time
    async def run() -> None:
        queue = admission()
        holder, gone, other = await come(queue, *[demand()] * 3)
        steps: list[Callable[[], object]] = [gone.task.cancel, queue.drain]
        for step in steps if cancel_first else reversed(steps):
            step()

        assert isinstance(await gone.ended(), asyncio.CancelledError)
        assert isinstance(await other.ended(), Draining)

        await leave(holder)
        assert queue.idle

    run()


@virtual_time
async def test_a_timeout_and_a_cancellation_in_the_same_turn_leave_nothing() -> None:
    """The timer finds one who is on his way out, and fails nobody."""
    queue = admission()
    failures: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    (holder,) = await come(queue, demand())
    (gone,) = await come(queue, demand(queue_timeout=5.0))
    loop.call_at(now() + 5.0 - 1e-9, gone.task.cancel)
    await asyncio.sleep(6)

    assert isinstance(await gone.ended(), asyncio.CancelledError)
    assert failures == []

    await leave(holder)
    assert queue.idle


@virtual_time
async def test_a_holder_who_is_cancelled_hands_his_place_on() -> None:
    """Leaving while served is leaving."""
    queue = admission()
    first, second = await come(queue, demand(), demand())
    first.task.cancel()
    await settled()

    assert second.granted

    await leave(second)
    assert queue.idle


@virtual_time
async def test_a_cancellation_before_the_first_step_takes_nothing() -> None:
    """A call that never began was never there."""
    queue = admission()
    caller = Caller(queue, demand())
    caller.task.cancel()
    await settled()

    assert queue.idle
