"""The queue: who gets a place, when, and what becomes of those who do not."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.errors import Draining, GatewayError, QueueFull, QueueTimeout, RateLimitExceeded
from gateway.scheduler import Place, Snapshot
from gateway.scheduler.snapshot import LaneState
from tests.models.virtual import now, virtual_time

from .requests import Caller, come, demand, leave, measured, refused, scheduler, settled

# Places.


@virtual_time
async def test_a_free_place_is_had_at_once() -> None:
    """Without a turn of the loop, and with no wait to tell of."""
    queue = scheduler()
    async with queue.slot(demand()) as slot:
        assert slot.waited == 0.0
        assert repr(queue) == "<Admission 1/1 active, 0/64 queued>"

    assert repr(queue) == "<Admission 0/1 active, 0/64 queued>"
    assert queue.idle


@virtual_time
async def test_its_repr_tells_places_and_queue() -> None:
    """What tests and people read: taken of all, waiting of most."""
    queue = scheduler(max_active=2)
    callers = await come(queue, *[demand()] * 7)

    assert repr(queue) == "<Admission 2/2 active, 5/64 queued>"

    await leave(*callers)

    assert repr(queue) == "<Admission 0/2 active, 0/64 queued>"


@virtual_time
async def test_those_who_wait_go_in_the_order_in_which_they_came() -> None:
    """One place, five callers: each gets it after the one before him."""
    queue = scheduler()
    callers = await come(queue, *[demand(key) for key in "abcde"])
    for place, caller in enumerate(callers):
        assert [one.granted for one in callers] == [i <= place for i in range(5)]

        await leave(caller)

    assert queue.idle


@virtual_time
async def test_one_at_his_models_cap_does_not_hold_up_others() -> None:
    """Nothing is held while waiting: the place goes to whoever can use it."""
    queue = scheduler(max_active=2)
    first, same, other = await come(
        queue,
        demand("a", "m", model_max_active=1),
        demand("b", "m", model_max_active=1),
        demand("c", "n", model_max_active=1),
    )

    assert (first.granted, same.granted, other.granted) == (True, False, True)

    await leave(other)
    before = same.granted
    await leave(first)

    assert (before, same.granted) == (False, True)

    await leave(same)


@virtual_time
async def test_a_keys_own_cap_makes_its_calls_wait_and_refuses_none() -> None:
    """Its second call waits although there is room; another key's does not."""
    queue = scheduler(max_active=3)
    mine = demand("mine", key_max_active=1)
    first, second, other = await come(queue, mine, mine, demand("other"))

    assert (first.granted, second.granted, other.granted) == (True, False, True)

    await leave(first, second, other)

    assert [await one.ended() for one in (first, second, other)] == [None] * 3


@virtual_time
async def test_all_three_caps_are_looked_at_together() -> None:
    """One who fits the model but not the key takes nothing of the model while he waits."""
    queue = scheduler(max_active=3)
    busy, waiting, passing = await come(
        queue,
        demand("a", "m", model_max_active=1, key_max_active=1),
        demand("a", "n", model_max_active=1, key_max_active=1),
        demand("b", "n", model_max_active=1, key_max_active=1),
    )

    assert (busy.granted, waiting.granted, passing.granted) == (True, False, True)

    await leave(passing, busy, waiting)


@virtual_time
async def test_the_wait_is_told() -> None:
    """From asking to the grant, in seconds."""
    queue = scheduler()
    first, second = await come(queue, demand(), demand())
    await asyncio.sleep(7)
    await leave(first)

    assert second.waited == 7.0

    await leave(second)


@virtual_time
async def test_a_call_that_fails_gives_its_place_back() -> None:
    """However the block ends."""
    queue = scheduler()
    with pytest.raises(ZeroDivisionError):
        async with queue.slot(demand()):
            raise ZeroDivisionError

    assert queue.idle


@virtual_time
async def test_a_snapshot_tells_who_holds_and_who_waits() -> None:
    """By model, and by lane with how long its first has waited."""
    queue = scheduler(max_active=2)
    callers = await come(queue, demand(model="m"), demand(model="n"), demand(model="m"))
    await asyncio.sleep(4)

    assert queue.snapshot() == Snapshot(
        max_active=2,
        max_queued=64,
        active={"m": 1, "n": 1},
        lanes=(LaneState("key", "m", 1, 4.0),),
    )

    await leave(*callers)

    assert queue.snapshot() == Snapshot(max_active=2, max_queued=64, active={})


@virtual_time
async def test_one_who_waits_is_told_where_he_stands() -> None:
    """Of two keys, the second call of one is the third to go; nothing before and after."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    holder, *_ = callers = await come(queue, demand("a"), demand("b"), demand("c"))
    slot = queue.slot(demand("b"))
    before = slot.place()
    task = asyncio.get_running_loop().create_task(slot.__aenter__())
    await settled()

    assert before is None
    assert slot.place() == Place(3, 30.0)

    await asyncio.sleep(10.0)
    await leave(holder)
    assert slot.place() == Place(2, 20.0)

    await leave(*callers[1:])
    await task
    assert slot.place() is None
    await slot.__aexit__(None, None, None)


@virtual_time
async def test_one_who_was_refused_stands_nowhere() -> None:
    """While he waited, too."""
    queue = scheduler()
    holder = await come(queue, demand())
    slot = queue.slot(demand(queue_timeout=5.0))
    with pytest.raises(QueueTimeout):
        await slot.__aenter__()

    assert slot.place() is None

    await leave(*holder)


@virtual_time
async def test_a_snapshot_tells_when_the_last_of_a_lane_will_go() -> None:
    """Ten seconds each: the one at work, and two before him."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand("a")] * 4)

    assert [lane.expected_wait for lane in queue.snapshot().lanes] == [30.0]

    await leave(*callers)


# Bounds of the queue.


@virtual_time
async def test_a_full_queue_refuses_with_503() -> None:
    """The queue's bound is everybody's; the advice comes with it."""
    queue = scheduler(max_queued=2, max_queued_per_key=2)
    callers = await come(queue, demand("a"), demand("b"), demand("c"))
    error = await refused(queue, demand("d"))

    assert isinstance(error, QueueFull)
    assert "2 calls wait" in error.message
    assert error.headers["Retry-After"] == "1"

    await leave(*callers)


@virtual_time
async def test_a_key_with_too_many_waiting_is_told_so_with_429() -> None:
    """One key cannot fill the queue: others still find room in it."""
    queue = scheduler(max_queued=64, max_queued_per_key=2)
    callers = await come(queue, *[demand("greedy")] * 3)
    error = await refused(queue, demand("greedy"))

    assert isinstance(error, RateLimitExceeded)
    assert "2 calls waiting" in error.message

    callers += await come(queue, demand("modest"))
    assert repr(queue) == "<Admission 1/1 active, 3/64 queued>"

    await leave(*callers)


@virtual_time
async def test_where_nobody_may_wait_a_free_place_is_still_had() -> None:
    """``max_queued`` 0: now or never."""
    queue = scheduler(max_queued=0, max_queued_per_key=0)
    async with queue.slot(demand()):
        assert isinstance(await refused(queue, demand()), GatewayError)

    async with queue.slot(demand()):
        pass


@virtual_time
async def test_one_who_waited_makes_room_in_the_queue() -> None:
    """Bounds count those who wait now, for all and for a key."""
    queue = scheduler(max_queued=1, max_queued_per_key=1)
    first, second = await come(queue, demand(), demand())
    assert isinstance(await refused(queue, demand()), RateLimitExceeded)

    await leave(first)
    third = await come(queue, demand())

    await leave(second, *third)
    assert queue.idle


# The clock of the queue.


@virtual_time
async def test_the_queue_timeout_is_kept_to_the_second() -> None:
    """By a timer of the waiter's own: nothing else has to happen."""
    queue = scheduler()
    holder = await come(queue, demand())
    asked_at = now()
    error = await refused(queue, demand(queue_timeout=12.0))

    assert isinstance(error, QueueTimeout)
    assert now() - asked_at == 12.0
    assert "12 s" in error.message
    assert repr(queue) == "<Admission 1/1 active, 0/64 queued>"

    await leave(*holder)


@virtual_time
async def test_one_who_got_his_place_is_not_timed_out_afterwards() -> None:
    """The clock ends with the wait."""
    queue = scheduler()
    first, second = await come(queue, demand(), demand(queue_timeout=10.0))
    await leave(first)
    await asyncio.sleep(60)

    assert not second.task.done()

    await leave(second)
    assert await second.ended() is None


@virtual_time
async def test_one_who_is_timed_out_does_not_hold_up_the_next() -> None:
    """The place goes to the one behind him."""
    queue = scheduler()
    first, impatient, patient = await come(
        queue, demand(), demand(queue_timeout=1.0), demand(queue_timeout=60.0)
    )
    await asyncio.sleep(5)
    await leave(first)

    assert isinstance(await impatient.ended(), QueueTimeout)
    assert patient.granted

    await leave(patient)


# Refusal on arrival, and honest advice.


@virtual_time
async def test_a_wait_that_is_certainly_too_long_is_refused_on_arrival() -> None:
    """Ten seconds each, nine ahead, thirty to wait: he is told now, not in thirty seconds."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand()] * 10)
    asked_at = now()
    error = await refused(queue, demand(queue_timeout=30.0))

    assert isinstance(error, QueueTimeout)
    assert now() == asked_at
    assert "number 10" in error.message
    assert error.headers["Retry-After"] == "60"

    await leave(*callers)


@virtual_time
async def test_the_same_wait_is_not_refused_to_one_with_time() -> None:
    """His own ``queue_timeout`` decides."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand()] * 10, demand(queue_timeout=200.0))

    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await leave(*callers)


@virtual_time
async def test_those_whom_one_passes_over_do_not_count_as_before_him() -> None:
    """Twelve wait for another model; he waits for one call alone and is not refused."""
    queue = scheduler(max_active=2)
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
    """Four seconds each; one that has just begun, two waiting: twelve."""
    queue = scheduler(max_queued=2)
    await measured(queue, 4.0)
    callers = await come(queue, demand("a"), demand("b"), demand("c"))
    error = await refused(queue, demand("d"))

    assert error.headers["Retry-After"] == "12"

    await leave(*callers)


@virtual_time
async def test_retry_after_knows_that_a_model_has_fewer_places_than_all_have() -> None:
    """Four places, one for this model: those who wait for it wait one after another."""
    queue = scheduler(max_active=4, max_queued=2)
    await measured(queue, 4.0)
    mine = demand(model="m", model_max_active=1)
    callers = await come(queue, mine, mine, mine)
    error = await refused(queue, mine)

    assert error.headers["Retry-After"] == "12"

    await leave(*callers)


@pytest.mark.parametrize(("slot", "advice"), [(0.001, "1"), (1000.0, "60")])
def test_retry_after_stays_between_one_second_and_sixty(slot: float, advice: str) -> None:
    """Below one nobody waits; above sixty SDKs do not come back at all."""

    @virtual_time
    async def run() -> None:
        queue = scheduler(max_queued=1, max_queued_per_key=1)
        await measured(queue, slot)
        callers = await come(queue, demand("a"), demand("b"))
        error = await refused(queue, demand("c"))

        assert error.headers["Retry-After"] == advice

        await leave(*callers)

    run()


# Drain.


@virtual_time
async def test_a_drain_refuses_those_who_wait_and_those_who_come() -> None:
    """Those who hold places keep them."""
    queue = scheduler()
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
    queue = scheduler()
    queue.drain()
    queue.drain()

    assert queue.idle


# Leaving, in every order in which things can meet in one turn of the loop.


@virtual_time
async def test_one_who_leaves_the_queue_is_forgotten() -> None:
    """He takes no place when his turn would have come."""
    queue = scheduler()
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
    queue = scheduler()
    holder = queue.slot(demand())
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
    queue = scheduler()
    holder = queue.slot(demand())
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
        queue = scheduler()
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
    queue = scheduler()
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
    queue = scheduler()
    first, second = await come(queue, demand(), demand())
    first.task.cancel()
    await settled()

    assert second.granted

    await leave(second)
    assert queue.idle


@virtual_time
async def test_a_cancellation_before_the_first_step_takes_nothing() -> None:
    """A call that never began was never there."""
    queue = scheduler()
    caller = Caller(queue, demand())
    caller.task.cancel()
    await settled()

    assert queue.idle


@virtual_time
async def test_a_grant_that_holds_one_back_lets_those_behind_him_go() -> None:
    """A retry waits for its moment; then its first attempt begins, and it is not waited for."""
    queue = scheduler(max_active=4)
    retry = demand("a", "n", retry=True, first=True, delay=60.0, fingerprint=b"1")
    callers = await come(queue, retry, demand("a", "n"), demand("b", "m", fingerprint=b"1"))

    assert [one.granted for one in callers] == [False, True, True]

    await leave(callers[2])
    await asyncio.sleep(60.0)
    await leave(*callers)


@virtual_time
async def test_in_a_long_queue_a_place_may_be_a_second_old() -> None:
    """To foresee it takes longer than anybody should wait for the answer."""
    queue = scheduler(max_queued=300, max_queued_per_key=300)
    await measured(queue, 1.0)
    callers = await come(queue, *[demand()] * 200)
    waiters = list(queue._waiting)
    before = queue.place(waiters[50])
    await leave(callers[0])

    assert queue.place(waiters[50]) == before

    await asyncio.sleep(1.1)
    after = queue.place(waiters[50])
    assert before is not None
    assert after is not None
    assert after.position == before.position - 1

    await leave(*callers)
