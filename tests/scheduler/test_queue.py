"""Lanes, and who stands where in them."""

import asyncio
from typing import Any

from gateway.errors import QueueFull
from gateway.scheduler.queue import Waiter, Waiting

from .requests import demand


def waiter(key: str = "a", model: str = "m", at: float = 0.0, **changes: Any) -> Waiter:
    loop = asyncio.get_running_loop()
    return Waiter(demand(key, model, **changes), arrived_at=at, future=loop.create_future())


def queue(*waiters: Waiter) -> Waiting:
    waiting = Waiting()
    for one in waiters:
        waiting.add(one)
    return waiting


def is_retry(one: Waiter) -> bool:
    return one.demand.retry


def nobody(_one: Waiter) -> bool:
    return False


async def test_there_is_a_lane_for_each_key_and_model() -> None:
    """Of each only the first is asked about."""
    first, second, other, third = waiter(), waiter(), waiter("b"), waiter(model="n")
    waiting = queue(first, second, other, third)

    assert list(waiting.heads(nobody)) == [first, other, third]
    assert (len(waiting), waiting.by_key) == (4, {"a": 3, "b": 1})


async def test_a_lane_that_is_empty_is_forgotten() -> None:
    """And so is its key."""
    only = waiter()
    waiting = queue(only)
    waiting.remove(only)

    assert (len(waiting), waiting.by_key, list(waiting.lanes())) == (0, {}, [])
    assert only not in waiting


async def test_one_who_had_his_turn_goes_to_the_head() -> None:
    """The latest of them first, and the others keep their order."""
    first, second = waiter(), waiter()
    back, again = waiter(first=True), waiter(first=True)
    waiting = queue(first, second, back, again)

    assert list(waiting) == [again, back, first, second]


async def test_a_lane_tells_how_many_go_before_one() -> None:
    """Whoever leaves in between, or comes back."""
    waiters = [waiter(at=float(at)) for at in range(5)]
    waiting = queue(*waiters)
    (lane,) = waiting.lanes()

    assert [lane.before(one) for one in waiters] == [0, 1, 2, 3, 4]

    waiting.remove(waiters[1])
    waiting.remove(waiters[0])
    back = waiter(at=9.0, first=True)
    waiting.add(back)

    assert [lane.before(one) for one in (back, waiters[2], waiters[4])] == [0, 1, 3]
    assert (lane.head, lane.newest, lane.oldest) == (back, waiters[4], waiters[2])
    assert waiters[0] not in waiting


async def test_behind_one_who_is_held_back_the_next_may_go() -> None:
    """He keeps his place; those behind him do not wait for him."""
    retry, following, last = waiter(retry=True), waiter(), waiter()
    waiting = queue(retry, following, last)

    assert list(waiting.heads(is_retry)) == [retry, following]
    assert waiting.has_before(demand("a", "m"), is_retry)

    waiting.remove(following)
    waiting.remove(last)

    assert not waiting.has_before(demand("a", "m"), is_retry)
    assert waiting.has_before(demand("a", "m"), nobody)
    assert not waiting.has_before(demand("b", "m"), nobody)


async def test_one_who_comes_stands_behind_the_last_of_his_lane() -> None:
    """Unless he had his turn already."""
    first, last = waiter(), waiter()
    waiting = queue(first, last, waiter("b"))

    assert waiting.last_before(demand("a", "m")) is last
    assert waiting.last_before(demand("a", "m", first=True)) is None
    assert waiting.last_before(demand("a", "n")) is None


async def test_a_queue_lasts_in_which_somebody_has_waited_for_two_minutes() -> None:
    """One or the other; a moment in which nobody waits begins it anew."""
    first, second, third = waiter(at=0.0), waiter(at=100.0), waiter(at=130.0)
    waiting = queue(first, second)
    waiting.remove(first)

    assert not waiting.is_lasting(120.0)
    assert waiting.is_lasting(121.0)

    waiting.remove(second)
    assert not waiting.is_lasting(125.0)

    waiting.add(third)
    assert not waiting.is_lasting(250.0)


async def test_it_knows_until_when_all_stay() -> None:
    """Also after the first who would have gone has left."""
    short, long = waiter(client_timeout=60.0), waiter("b", queue_timeout=100.0)
    waiting = queue(short, long)

    assert waiting.all_stay_until(60.0)
    assert not waiting.all_stay_until(61.0)

    waiting.remove(short)
    assert waiting.all_stay_until(100.0)
    assert not waiting.all_stay_until(101.0)

    waiting.add(waiter(client_timeout=5.0))
    assert not waiting.all_stay_until(6.0)


async def test_the_greediest_has_the_most_waiting_for_its_weight() -> None:
    """And of it, the last who came, in whichever lane."""
    heavy = [waiter("heavy", at=float(at), weight=4.0) for at in range(5)]
    light = [waiter("light", model, at=float(at)) for at, model in enumerate(("m", "n", "m"))]
    waiting = queue(*heavy, *light)

    assert waiting.newest_of_greediest() is light[2]
    assert Waiting().newest_of_greediest() is None
    assert queue(waiter(first=True)).newest_of_greediest() is None


async def test_a_key_is_greedier_that_has_more_waiting_for_its_weight() -> None:
    """Than the other will have with one more."""
    waiting = queue(*[waiter("heavy", weight=2.0) for _ in range(5)], waiter("light"))

    assert waiting.is_greedier(demand("heavy", weight=2.0), demand("light"))
    assert not waiting.is_greedier(demand("heavy", weight=2.5), demand("light"))
    assert not waiting.is_greedier(demand("heavy", weight=2.0), demand("heavy", weight=9.0))
    assert not waiting.is_greedier(demand("light"), demand("new"))


async def test_a_waiter_ends_once() -> None:
    """Whatever comes second changes nothing."""
    granted, failed, gone = waiter(), waiter(), waiter()
    granted.end()
    granted.end(QueueFull())
    failed.end(QueueFull())
    failed.end()
    gone.future.cancel()
    gone.end()

    assert [one.was_granted() for one in (granted, failed, gone)] == [True, False, False]
    assert not any(one.is_waiting() for one in (granted, failed, gone))
    assert isinstance(failed.future.exception(), QueueFull)
