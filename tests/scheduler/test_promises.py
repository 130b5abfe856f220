"""Whoever was let in is served in time, and who would break that is told at once."""

import asyncio

import pytest

from gateway.errors import QueueFull
from gateway.scheduler import Scheduler, SlotRequest
from tests.models.virtual import now, virtual_time

from .requests import Caller, come, demand, leave, measured, refused, scheduler


async def full(queue: Scheduler, *wishes: SlotRequest) -> list[Caller]:
    """A queue that knows that calls take ten seconds, and has a place for the first of these."""
    await measured(queue, 10.0, 60)
    return await come(queue, *wishes)


async def lasting(queue: Scheduler, *wishes: SlotRequest) -> list[Caller]:
    """The same, when somebody has waited for minutes before these come."""
    callers = await full(queue, demand("x"), demand("y"))
    await asyncio.sleep(130.0)
    return callers + await come(queue, *wishes)


def patient(key: str, seconds: float = 100.0) -> SlotRequest:
    return demand(key, queue_timeout=seconds)


@virtual_time
async def test_one_who_would_make_others_late_is_refused_at_once() -> None:
    """His key's turn would come before theirs, and the last of them has no second to spare."""
    queue = scheduler()
    callers = await full(queue, *[patient("a", 70.0)] * 4, *[patient("b", 70.0)] * 3)
    asked_at = now()
    error = await refused(queue, patient("c"))

    assert isinstance(error, QueueFull)
    assert now() == asked_at
    assert "make one too late that waits already" in error.message

    await leave(*callers)


@virtual_time
async def test_it_is_too_much_if_it_only_goes_well_when_all_goes_as_usual() -> None:
    """Ten seconds each, and the last would begin at sixty of sixty-four; at eleven each, late."""
    tight, enough = scheduler(), scheduler()
    callers = await full(tight, *[patient("a", 64.0)] * 3, *[patient("b", 64.0)] * 3)
    assert isinstance(await refused(tight, patient("c")), QueueFull)

    callers += await full(enough, *[patient("a", 68.0)] * 3, *[patient("b", 68.0)] * 3)
    callers += await come(enough, patient("c"))
    assert repr(enough) == "<Admission 1/1 active, 6/64 queued>"

    await leave(*callers)


@virtual_time
async def test_one_who_goes_before_those_with_time_is_let_in() -> None:
    """A second more for everybody, and nobody is late."""
    queue = scheduler()
    callers = await full(queue, *[patient("a")] * 4, *[patient("b")] * 4, patient("c"))

    assert repr(queue) == "<Admission 1/1 active, 8/64 queued>"

    await leave(*callers)


@virtual_time
async def test_one_of_a_modest_key_is_let_in_before_a_greedy_one() -> None:
    """What the greedy has waiting beyond its share is no reason to refuse another."""
    queue = scheduler()
    callers = await full(queue, *[patient("a")] * 10, patient("b"))

    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await asyncio.sleep(10.0)
    await leave(callers[0])
    assert callers[-1].granted

    await leave(*callers[1:])


@virtual_time
async def test_one_with_more_waiting_than_another_is_not_yet_greedy() -> None:
    """Forty seconds of work and none: of fifty-five that two keys share not by far too much."""
    queue, other = scheduler(), scheduler()
    callers = await full(queue, *[patient("a", 55.0)] * 5)
    assert isinstance(await refused(queue, patient("b", 55.0)), QueueFull)

    callers += await full(other, *[patient("a", 50.0)] * 5, patient("b", 50.0))
    assert repr(other) == "<Admission 1/1 active, 5/64 queued>"

    await leave(*callers)


@virtual_time
async def test_a_key_may_fill_the_queue_only_with_its_share() -> None:
    """While another key sends as much, half of what the places serve in time is not its own."""
    queue = scheduler(max_queued_per_key=64)
    callers = await full(queue, demand("a"))
    outcomes: list[str] = []
    for number in range(60):
        wish = demand("ab"[number % 2], queue_timeout=400.0)
        caller = Caller(queue, wish)
        callers.append(caller)
        await asyncio.sleep(0.5)
        outcomes.append("refused" if caller.task.done() else wish.key)

    assert outcomes.count("a") == pytest.approx(outcomes.count("b"), rel=0.25)
    # As time goes by, it is only for one now and then that there is room.
    assert outcomes[-20:].count("refused") >= 18

    await leave(*(one for one in callers if not one.task.done()))
    await asyncio.gather(*(one.task for one in callers), return_exceptions=True)


@virtual_time
async def test_the_patient_leave_a_part_of_the_time_to_those_who_cannot_wait() -> None:
    """Only while such callers come."""
    queue = scheduler()
    callers = await lasting(queue, *[patient("a")] * 7)
    assert not isinstance(await _outcome(queue, patient("a"), callers), QueueFull)

    await refused(queue, demand("b", queue_timeout=40.0))
    assert isinstance(await _outcome(queue, patient("a"), callers), QueueFull)

    await leave(*(one for one in callers if not one.task.done()))


async def _outcome(
    queue: Scheduler, wish: SlotRequest, callers: list[Caller]
) -> BaseException | None:
    (caller,) = await come(queue, wish)
    callers.append(caller)
    return await caller.ended() if caller.task.done() else None


@virtual_time
async def test_a_crowd_that_came_at_once_is_let_in_as_long_as_it_is_served_in_time() -> None:
    """To the last second; in a queue that lasts, some of that time is kept for what comes.

    A hundred seconds: ten behind the one at work; but only eight behind one who waits already.
    """
    queue, crowd = scheduler(), [patient("a")] * 16
    burst = await full(queue, *crowd)

    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await leave(*(one for one in burst if not one.task.done()))
    queue = scheduler()
    more = await lasting(queue, *crowd)

    assert repr(queue) == "<Admission 1/1 active, 9/64 queued>"

    await leave(*(one for one in more if not one.task.done()))
    await asyncio.gather(*(one.task for one in burst + more), return_exceptions=True)


@virtual_time
async def test_what_is_kept_free_is_for_a_key_that_asks_for_little() -> None:
    """One more of the key that waits is too much; of another it is not, whatever the model."""
    queue = scheduler()
    callers = await lasting(queue, *[patient("a")] * 9)
    assert repr(queue) == "<Admission 1/1 active, 9/64 queued>"

    callers += await come(queue, patient("b"))
    assert isinstance(await refused(queue, patient("a")), QueueFull)
    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await leave(*(one for one in callers if not one.task.done()))
    await asyncio.gather(*(one.task for one in callers), return_exceptions=True)


@virtual_time
async def test_a_model_may_fill_the_queue_only_with_its_part() -> None:
    """Four times as much comes for another, so a fifth is its own; all is if nothing else comes."""
    alone, beside = await _let_in("m" * 16), await _let_in("n" * 16 + "m" * 16)

    assert alone == 9
    assert beside == 5


async def _let_in(models: str) -> int:
    """How many wait for ``m``, one of them since minutes, when these have come."""
    queue = scheduler(max_active=2, max_queued_per_key=64)
    for model, seconds in (("m", 10.0), ("n", 40.0)):
        await measured(queue, seconds, 10, model=model)
    first = [demand("x", "m", model_max_active=1)] * 2
    callers = await come(queue, *first)
    await asyncio.sleep(130.0)
    for model in models:
        callers += await come(queue, demand("a", model, model_max_active=1, queue_timeout=100.0))
    waiting = sum(lane.waiting for lane in queue.snapshot().lanes if lane.model == "m")
    await leave(*(one for one in callers if not one.task.done()))
    await asyncio.gather(*(one.task for one in callers), return_exceptions=True)
    return waiting


@virtual_time
async def test_nobody_is_late_for_one_who_asks_for_as_much() -> None:
    """Each key alone would be served in time; what each has waiting is its part."""
    queue = scheduler()
    callers = await full(queue, *[patient("a", 75.0)] * 4, *[patient("b", 75.0)] * 3)

    assert isinstance(await refused(queue, patient("b", 75.0)), QueueFull)
    assert isinstance(await refused(queue, patient("a", 75.0)), QueueFull)
    assert repr(queue) == "<Admission 1/1 active, 6/64 queued>"

    await leave(*callers)


@virtual_time
async def test_little_that_waits_is_not_thought_about() -> None:
    """What surely ends in time is let in whatever anybody's share is."""
    queue = scheduler()
    callers = await full(queue, *[demand(key, queue_timeout=3600.0) for key in "abcdefgh"])

    assert queue._foresight._seen_with == {}
    assert repr(queue) == "<Admission 1/1 active, 7/64 queued>"

    await leave(*callers)
