"""The scheduler: when a request gets a slot, and how it is rejected without one."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

from gateway.errors import Draining, GatewayError, QueueFull, QueueTimeout, RateLimitExceeded
from gateway.models.residency import Residency
from gateway.models.statistics import Statistics
from gateway.scheduler import QueuePosition, QueueSnapshot, Scheduler, Snapshot, select_next
from gateway.scheduler.policy import Candidate, Decision, SchedulerState, Usage
from gateway.scheduler.queue import QueuedRequest
from gateway.scheduler.scheduler import ActiveSlots
from tests.models.virtual import now, virtual_time

from .helpers import (
    Client,
    EverythingLoaded,
    arrive,
    finish,
    make_scheduler,
    measure,
    rejection,
    settings,
    settle,
    slot_request,
)
from .simulated_ollama import SimulatedOllama

C = TypeVar("C", bound=Candidate)

# Slots.


@virtual_time
async def test_a_free_slot_is_granted_at_once() -> None:
    """Without an iteration of the event loop, and without a wait."""
    scheduler = make_scheduler()
    async with scheduler.slot(slot_request()) as slot:
        assert slot.waited == 0.0
        assert repr(scheduler) == "<Scheduler 1/1 active, 0/64 queued>"

    assert repr(scheduler) == "<Scheduler 0/1 active, 0/64 queued>"
    assert scheduler.idle


@virtual_time
async def test_repr_shows_slots_and_queue() -> None:
    """What tests and logs read: used and all slots, queued and queueable requests."""
    scheduler = make_scheduler(max_active=2)
    clients = await arrive(scheduler, *[slot_request()] * 7)

    assert repr(scheduler) == "<Scheduler 2/2 active, 5/64 queued>"

    await finish(*clients)

    assert repr(scheduler) == "<Scheduler 0/2 active, 0/64 queued>"


@virtual_time
async def test_queued_requests_run_in_the_order_of_arrival() -> None:
    """One slot, five requests."""
    scheduler = make_scheduler()
    clients = await arrive(scheduler, *[slot_request(key) for key in "abcde"])
    for place, client in enumerate(clients):
        assert [one.granted for one in clients] == [i <= place for i in range(5)]

        await finish(client)

    assert scheduler.idle


@virtual_time
async def test_a_request_at_its_models_cap_does_not_block_others() -> None:
    """A queued request occupies nothing: the slot goes to one that can use it."""
    scheduler = make_scheduler(max_active=2)
    first, same, other = await arrive(
        scheduler,
        slot_request("a", "m", model_max_active=1),
        slot_request("b", "m", model_max_active=1),
        slot_request("c", "n", model_max_active=1),
    )

    assert (first.granted, same.granted, other.granted) == (True, False, True)

    await finish(other)
    before = same.granted
    await finish(first)

    assert (before, same.granted) == (False, True)

    await finish(same)


@virtual_time
async def test_requests_beyond_the_cap_of_a_key_are_queued() -> None:
    """The second is queued although there is a slot; another key's is not."""
    scheduler = make_scheduler(max_active=3)
    mine = slot_request("mine", key_max_active=1)
    first, second, other = await arrive(scheduler, mine, mine, slot_request("other"))

    assert (first.granted, second.granted, other.granted) == (True, False, True)

    await finish(first, second, other)

    assert [await one.error() for one in (first, second, other)] == [None] * 3


@virtual_time
async def test_all_three_caps_are_checked_together() -> None:
    """A request that fits the model but not the key occupies nothing of the model while queued."""
    scheduler = make_scheduler(max_active=3)
    busy, waiting, passing = await arrive(
        scheduler,
        slot_request("a", "m", model_max_active=1, key_max_active=1),
        slot_request("a", "n", model_max_active=1, key_max_active=1),
        slot_request("b", "n", model_max_active=1, key_max_active=1),
    )

    assert (busy.granted, waiting.granted, passing.granted) == (True, False, True)

    await finish(passing, busy, waiting)


@virtual_time
async def test_a_slot_tells_how_long_its_request_was_queued() -> None:
    """In seconds."""
    scheduler = make_scheduler()
    first, second = await arrive(scheduler, slot_request(), slot_request())
    await asyncio.sleep(7)
    await finish(first)

    assert second.waited == 7.0

    await finish(second)


@virtual_time
async def test_a_failed_request_returns_its_slot() -> None:
    """However the block ends."""
    scheduler = make_scheduler()
    with pytest.raises(ZeroDivisionError):
        async with scheduler.slot(slot_request()):
            raise ZeroDivisionError

    assert scheduler.idle


@virtual_time
async def test_snapshot_counts_active_and_queued_requests() -> None:
    """By model; queued ones by key and model, with the wait of the oldest."""
    scheduler = make_scheduler(max_active=2)
    clients = await arrive(
        scheduler, slot_request(model="m"), slot_request(model="n"), slot_request(model="m")
    )
    await asyncio.sleep(4)

    assert scheduler.snapshot() == Snapshot(
        max_active=2,
        max_queued=64,
        active={"m": 1, "n": 1},
        queues=(QueueSnapshot("key", "m", 1, 4.0),),
    )

    await finish(*clients)

    assert scheduler.snapshot() == Snapshot(max_active=2, max_queued=64, active={})


@virtual_time
async def test_a_queued_request_knows_its_position() -> None:
    """Of two keys, the second request of one runs third. Before and after there is no position."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    active, *_ = clients = await arrive(
        scheduler, slot_request("a"), slot_request("b"), slot_request("c")
    )
    slot = scheduler.slot(slot_request("b"))
    before = slot.position()
    task = asyncio.get_running_loop().create_task(slot.__aenter__())
    await settle()

    assert before is None
    assert slot.position() == QueuePosition(3, 30.0)

    await asyncio.sleep(10.0)
    await finish(active)
    assert slot.position() == QueuePosition(2, 20.0)

    await finish(*clients[1:])
    await task
    assert slot.position() is None
    await slot.__aexit__(None, None, None)


@virtual_time
async def test_a_rejected_request_has_no_position() -> None:
    """Also if it was queued before."""
    scheduler = make_scheduler()
    active = await arrive(scheduler, slot_request())
    slot = scheduler.slot(slot_request(queue_timeout=5.0))
    with pytest.raises(QueueTimeout):
        await slot.__aenter__()

    assert slot.position() is None

    await finish(*active)


@virtual_time
async def test_snapshot_estimates_when_the_newest_request_runs() -> None:
    """Ten seconds each: one active, two before it."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    clients = await arrive(scheduler, *[slot_request("a")] * 4)

    assert [each.expected_wait for each in scheduler.snapshot().queues] == [30.0]

    await finish(*clients)


# Bounds of the scheduler.


@virtual_time
async def test_a_full_queue_rejects_with_503() -> None:
    """With advice when to retry."""
    scheduler = make_scheduler(max_queued=2, max_queued_per_key=2)
    clients = await arrive(scheduler, slot_request("a"), slot_request("b"), slot_request("c"))
    error = await rejection(scheduler, slot_request("d"))

    assert isinstance(error, QueueFull)
    assert "2 requests" in error.message
    assert error.headers["Retry-After"] == "1"

    await finish(*clients)


@virtual_time
async def test_a_key_with_too_many_queued_requests_is_rejected_with_429() -> None:
    """Other keys still find room in the queue."""
    scheduler = make_scheduler(max_queued=64, max_queued_per_key=2)
    clients = await arrive(scheduler, *[slot_request("busy")] * 3)
    error = await rejection(scheduler, slot_request("busy"))

    assert isinstance(error, RateLimitExceeded)
    assert "2 requests queued" in error.message

    clients += await arrive(scheduler, slot_request("quiet"))
    assert repr(scheduler) == "<Scheduler 1/1 active, 3/64 queued>"

    await finish(*clients)


@virtual_time
async def test_without_a_queue_a_free_slot_is_granted() -> None:
    """``max_queued`` is 0."""
    scheduler = make_scheduler(max_queued=0, max_queued_per_key=0)
    async with scheduler.slot(slot_request()):
        assert isinstance(await rejection(scheduler, slot_request()), GatewayError)

    async with scheduler.slot(slot_request()):
        pass


@virtual_time
async def test_a_granted_request_makes_room_in_the_queue() -> None:
    """The bounds count the queued requests, of all keys and of one."""
    scheduler = make_scheduler(max_queued=1, max_queued_per_key=1)
    first, second = await arrive(scheduler, slot_request(), slot_request())
    assert isinstance(await rejection(scheduler, slot_request()), RateLimitExceeded)

    await finish(first)
    third = await arrive(scheduler, slot_request())

    await finish(second, *third)
    assert scheduler.idle


# The clock of the scheduler.


@virtual_time
async def test_a_request_is_rejected_when_its_queue_timeout_ends() -> None:
    """By its own timer: nothing else has to happen."""
    scheduler = make_scheduler()
    active = await arrive(scheduler, slot_request())
    arrived_at = now()
    error = await rejection(scheduler, slot_request(queue_timeout=12.0))

    assert isinstance(error, QueueTimeout)
    assert now() - arrived_at == 12.0
    assert "12 s" in error.message
    assert repr(scheduler) == "<Scheduler 1/1 active, 0/64 queued>"

    await finish(*active)


@virtual_time
async def test_an_active_request_has_no_queue_timeout() -> None:
    """The timer ends with the wait."""
    scheduler = make_scheduler()
    first, second = await arrive(scheduler, slot_request(), slot_request(queue_timeout=10.0))
    await finish(first)
    await asyncio.sleep(60)

    assert not second.task.done()

    await finish(second)
    assert await second.error() is None


@virtual_time
async def test_a_timed_out_request_does_not_block_the_next() -> None:
    """The slot goes to the one behind it."""
    scheduler = make_scheduler()
    first, short, long = await arrive(
        scheduler, slot_request(), slot_request(queue_timeout=1.0), slot_request(queue_timeout=60.0)
    )
    await asyncio.sleep(5)
    await finish(first)

    assert isinstance(await short.error(), QueueTimeout)
    assert long.granted

    await finish(long)


# Rejection on arrival, and advice.


@virtual_time
async def test_a_request_that_would_wait_too_long_is_rejected_on_arrival() -> None:
    """Ten seconds each, nine ahead, and thirty to wait."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    clients = await arrive(scheduler, *[slot_request()] * 10)
    arrived_at = now()
    error = await rejection(scheduler, slot_request(queue_timeout=30.0))

    assert isinstance(error, QueueTimeout)
    assert now() == arrived_at
    assert "number 10" in error.message
    assert error.headers["Retry-After"] == "60"

    await finish(*clients)


@virtual_time
async def test_a_request_with_a_longer_timeout_is_queued() -> None:
    """Its own ``queue_timeout`` decides."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    clients = await arrive(scheduler, *[slot_request()] * 10, slot_request(queue_timeout=200.0))

    assert repr(scheduler) == "<Scheduler 1/1 active, 10/64 queued>"

    await finish(*clients)


@virtual_time
async def test_requests_that_run_later_do_not_count_in_the_estimate() -> None:
    """Twelve are queued for another model; this one waits for one request alone."""
    scheduler = make_scheduler(max_active=2)
    await measure(scheduler, 10.0, 40)
    other_model = slot_request("others", "other_model", model_max_active=1)
    mine = slot_request("mine", "quiet", model_max_active=1, queue_timeout=15.0)
    actives = await arrive(scheduler, other_model, mine)
    others = await arrive(scheduler, *[other_model] * 12)
    (client,) = await arrive(scheduler, mine)
    await asyncio.sleep(10)
    await finish(actives[1])

    assert client.granted

    await finish(client, actives[0], *others)
    assert scheduler.idle


@virtual_time
async def test_retry_after_is_the_sum_of_the_measured_times_ahead() -> None:
    """Four seconds each; one has just begun, two are queued: twelve."""
    scheduler = make_scheduler(max_queued=2)
    await measure(scheduler, 4.0)
    clients = await arrive(scheduler, slot_request("a"), slot_request("b"), slot_request("c"))
    error = await rejection(scheduler, slot_request("d"))

    assert error.headers["Retry-After"] == "12"

    await finish(*clients)


@virtual_time
async def test_retry_after_considers_the_cap_of_the_model() -> None:
    """Four slots, one for this model: its requests run one after another."""
    scheduler = make_scheduler(max_active=4, max_queued=2)
    await measure(scheduler, 4.0)
    mine = slot_request(model_max_active=1)
    clients = await arrive(scheduler, mine, mine, mine)
    error = await rejection(scheduler, mine)

    assert error.headers["Retry-After"] == "12"

    await finish(*clients)


@pytest.mark.parametrize(("slot", "advice"), [(0.001, "1"), (1000.0, "60")])
def test_retry_after_stays_between_one_second_and_sixty(slot: float, advice: str) -> None:
    """Above sixty seconds SDKs ignore it."""

    @virtual_time
    async def run() -> None:
        scheduler = make_scheduler(max_queued=1, max_queued_per_key=1)
        await measure(scheduler, slot)
        clients = await arrive(scheduler, slot_request("a"), slot_request("b"))
        error = await rejection(scheduler, slot_request("c"))

        assert error.headers["Retry-After"] == advice

        await finish(*clients)

    run()


# Drain.


@virtual_time
async def test_a_drain_refuses_those_who_wait_and_those_who_arrive() -> None:
    """Active requests keep their slots."""
    scheduler = make_scheduler()
    active, queued = await arrive(scheduler, slot_request(), slot_request())
    scheduler.drain()

    assert isinstance(await queued.error(), Draining)
    assert isinstance(await rejection(scheduler, slot_request()), Draining)
    assert repr(scheduler) == "<Scheduler 1/1 active, 0/64 queued>"
    assert not active.task.done()

    await finish(active)
    assert isinstance(await rejection(scheduler, slot_request()), Draining)
    assert scheduler.idle


@virtual_time
async def test_a_second_drain_changes_nothing() -> None:
    """Shutting down may begin twice."""
    scheduler = make_scheduler()
    scheduler.drain()
    scheduler.drain()

    assert scheduler.idle


# Disconnects, in every order that is possible within one iteration of the event loop.


@virtual_time
async def test_client_disconnect_removes_the_queued_request() -> None:
    """It gets no slot later."""
    scheduler = make_scheduler()
    first, leaving, third = await arrive(scheduler, *[slot_request()] * 3)
    leaving.task.cancel()
    await settle()

    assert repr(scheduler) == "<Scheduler 1/1 active, 1/64 queued>"

    await finish(first)
    assert third.granted

    await finish(third)
    assert scheduler.idle


@virtual_time
async def test_a_slot_granted_to_a_disconnected_client_goes_to_the_next() -> None:
    """Granted, then cancelled before its task ran."""
    scheduler = make_scheduler()
    active = scheduler.slot(slot_request())
    await active.__aenter__()
    leaving, following = await arrive(scheduler, slot_request(), slot_request())
    await active.__aexit__(None, None, None)
    leaving.task.cancel()
    await settle()

    assert (leaving.granted, following.granted) == (False, True)

    await finish(following)
    assert scheduler.idle


@virtual_time
async def test_a_slot_is_not_granted_to_a_disconnected_client() -> None:
    """Cancelled, then a slot becomes free before its task ran."""
    scheduler = make_scheduler()
    active = scheduler.slot(slot_request())
    await active.__aenter__()
    leaving, following = await arrive(scheduler, slot_request(), slot_request())
    leaving.task.cancel()
    await active.__aexit__(None, None, None)
    await settle()

    assert (leaving.granted, following.granted) == (False, True)

    await finish(following)
    assert scheduler.idle


@pytest.mark.parametrize("cancel_first", [True, False])
def test_drain_and_disconnect_together_leave_nothing(cancel_first: bool) -> None:
    """In either order, and the others are still rejected."""

    @virtual_time
    async def run() -> None:
        scheduler = make_scheduler()
        active, leaving, other = await arrive(scheduler, *[slot_request()] * 3)
        steps: list[Callable[[], object]] = [leaving.task.cancel, scheduler.drain]
        for step in steps if cancel_first else reversed(steps):
            step()

        assert isinstance(await leaving.error(), asyncio.CancelledError)
        assert isinstance(await other.error(), Draining)

        await finish(active)
        assert scheduler.idle

    run()


@virtual_time
async def test_timeout_and_disconnect_together_leave_nothing() -> None:
    """The timer finds a request that is being cancelled."""
    scheduler = make_scheduler()
    failures: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    (active,) = await arrive(scheduler, slot_request())
    (leaving,) = await arrive(scheduler, slot_request(queue_timeout=5.0))
    loop.call_at(now() + 5.0 - 1e-9, leaving.task.cancel)
    await asyncio.sleep(6)

    assert isinstance(await leaving.error(), asyncio.CancelledError)
    assert failures == []

    await finish(active)
    assert scheduler.idle


@virtual_time
async def test_client_disconnect_releases_the_slot() -> None:
    """The next request gets it."""
    scheduler = make_scheduler()
    first, second = await arrive(scheduler, slot_request(), slot_request())
    first.task.cancel()
    await settle()

    assert second.granted

    await finish(second)
    assert scheduler.idle


@virtual_time
async def test_a_request_cancelled_before_it_began_leaves_nothing() -> None:
    """Its task never ran."""
    scheduler = make_scheduler()
    client = Client(scheduler, slot_request())
    client.task.cancel()
    await settle()

    assert scheduler.idle


@virtual_time
async def test_a_grant_that_holds_back_a_retry_lets_the_next_run() -> None:
    """The requests behind a delayed retry run once its first attempt is active."""
    scheduler = make_scheduler(max_active=4)
    retry = slot_request("a", "n", retry=True, first=True, delay=60.0, fingerprint=b"1")
    clients = await arrive(
        scheduler, retry, slot_request("a", "n"), slot_request("b", "m", fingerprint=b"1")
    )

    assert [one.granted for one in clients] == [False, True, True]

    await finish(clients[2])
    await asyncio.sleep(60.0)
    await finish(*clients)


@virtual_time
async def test_in_a_long_queue_positions_may_be_a_second_old() -> None:
    """A simulation takes too long to repeat it after every change."""
    scheduler = make_scheduler(max_queued=300, max_queued_per_key=300)
    await measure(scheduler, 1.0)
    clients = await arrive(scheduler, *[slot_request()] * 200)
    queued = list(scheduler._queue)
    before = scheduler.position(queued[50])
    await finish(clients[0])

    assert scheduler.position(queued[50]) == before

    await asyncio.sleep(1.1)
    after = scheduler.position(queued[50])
    assert before is not None
    assert after is not None
    assert after.position == before.position - 1

    await finish(*clients)


# Estimates, and the fast path.


class CountingPolicy:
    """The policy; counts how often it was asked."""

    def __init__(self) -> None:
        self.decisions = 0

    def __call__(self, candidates: Iterable[C], state: SchedulerState, /) -> Decision[C]:
        self.decisions += 1
        return select_next(candidates, state)


@virtual_time
async def test_an_idle_scheduler_with_a_loaded_model_asks_no_policy() -> None:
    """A request passes in constant time: no decision, no estimate, no timer."""
    policy = CountingPolicy()
    ollama = SimulatedOllama(Residency(max_loaded=1), load_seconds=0.0)
    await ollama.generate("model", 1.0)
    scheduler = Scheduler(settings(), now=now, residency=ollama, policy=policy)
    async with scheduler.slot(slot_request(client_timeout=60.0)) as slot:
        assert policy.decisions == 0
        assert slot.waited == 0.0
        assert slot.model_was_loaded

    assert policy.decisions == 0
    assert scheduler.idle


@virtual_time
async def test_the_same_rejection_is_not_simulated_twice() -> None:
    """While nothing changes, requests that differ in nothing get the same estimate."""
    policy = CountingPolicy()
    scheduler = Scheduler(
        settings(), now=now, residency=EverythingLoaded(), policy=policy, jitter=lambda: 0.0
    )
    await measure(scheduler, 10.0, 60)
    clients = await arrive(scheduler, *[slot_request("a", queue_timeout=100.0)] * 7)
    decisions = list[int]()
    for key in ("a", "a", "b"):
        before = policy.decisions
        await rejection(scheduler, slot_request(key, queue_timeout=9.0))
        decisions.append(policy.decisions - before)

    assert min(decisions[0], decisions[2]) > 2
    assert decisions[1] <= 1  # Whether it can run at once is decided each time.

    await finish(*clients)


@virtual_time
async def test_a_slot_tells_the_expected_time() -> None:
    """Of queue and response together, if the model is known."""
    scheduler = make_scheduler()
    async with scheduler.slot(slot_request(model="new")) as unknown:
        assert unknown.expected is None

    await measure(scheduler, 10.0, 60)
    async with scheduler.slot(slot_request()) as at_once:
        assert at_once.expected == pytest.approx(10.0)
        behind = scheduler.slot(slot_request())
        task = asyncio.get_running_loop().create_task(behind.__aenter__())
        await settle()
        assert behind.expected == pytest.approx(20.0)

    await task
    await behind.__aexit__(None, None, None)


@virtual_time
async def test_slots_are_charged_and_measured() -> None:
    """By weight; only an answered request shows how long a response takes."""
    statistics = Statistics(now=now)
    slots = ActiveSlots(now=now, statistics=statistics)
    for seconds, completed in ((10.0, True), (4.0, False)):
        granted = QueuedRequest(slot_request("a", "m", weight=2.0), arrived_at=now())
        slots.add(granted, model_was_loaded=True)
        await asyncio.sleep(seconds)
        slots.remove(granted, completed=completed)

    assert slots.shares.account("a") == 7.0
    assert statistics.slot_time("m").mean == 10.0
    assert (slots.usage, len(slots)) == (Usage(), 0)


@virtual_time
async def test_a_long_request_is_charged_while_it_lasts() -> None:
    """Otherwise its key would have credit first, and a large debt later."""
    slots = ActiveSlots(now=now, statistics=Statistics(now=now))
    granted = QueuedRequest(slot_request("a", "m"), arrived_at=now())
    slots.add(granted, model_was_loaded=True)
    await asyncio.sleep(100.0)
    slots.charge_elapsed()

    assert slots.shares.account("a") == 100.0

    await asyncio.sleep(20.0)
    slots.charge_elapsed()
    slots.charge_elapsed()
    slots.remove(granted, completed=True)

    assert slots.shares.account("a") == 120.0
