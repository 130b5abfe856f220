"""The queues by key and model."""

import asyncio
from typing import Any

from gateway.errors import QueueFull
from gateway.scheduler.queue import QueuedRequest, RequestQueue, SlotRequest

from .helpers import slot_request


def queued(key: str = "a", model: str = "m", at: float = 0.0, **changes: Any) -> QueuedRequest:
    future = asyncio.get_running_loop().create_future()
    return QueuedRequest(slot_request(key, model, **changes), arrived_at=at, future=future)


def queue_of(*requests: QueuedRequest) -> RequestQueue:
    queue = RequestQueue()
    for request in requests:
        queue.add(request)
    return queue


def is_retry(request: SlotRequest) -> bool:
    return request.retry


def never(_request: SlotRequest) -> bool:
    return False


async def test_the_first_request_of_each_key_and_model_is_a_candidate() -> None:
    first, second, other, third = queued(), queued(), queued("b"), queued(model="n")
    queue = queue_of(first, second, other, third)

    assert list(queue.candidates(never)) == [first, other, third]
    assert (len(queue), queue.by_key) == (4, {"a": 3, "b": 1})
    assert repr(queue) == "<RequestQueue 4 queued, 3 queues>"


async def test_an_empty_queue_is_forgotten_with_its_key() -> None:
    only = queued()
    queue = queue_of(only)
    queue.remove(only)

    assert (len(queue), queue.by_key, list(queue.queues())) == (0, {}, [])
    assert only not in queue


async def test_a_request_that_had_its_slot_is_put_first() -> None:
    """The latest of them before the others."""
    first, second = queued(), queued()
    returned, returned_later = queued(first=True), queued(first=True)
    queue = queue_of(first, second, returned, returned_later)

    assert list(queue) == [returned_later, returned, first, second]


async def test_a_queue_knows_the_index_of_each_request() -> None:
    """Also after some have left or returned."""
    requests = [queued(at=float(at)) for at in range(5)]
    queue = queue_of(*requests)
    (own,) = queue.queues()

    assert [own.index(request) for request in requests] == [0, 1, 2, 3, 4]

    queue.remove(requests[1])
    queue.remove(requests[0])
    returned = queued(at=9.0, first=True)
    queue.add(returned)

    assert [own.index(request) for request in (returned, requests[2], requests[4])] == [0, 1, 3]
    assert (own.newest, own.oldest) == (requests[4], requests[2])
    assert requests[0] not in queue


async def test_a_request_behind_a_held_back_retry_is_a_candidate_too() -> None:
    retry, following, last = queued(retry=True), queued(), queued()
    queue = queue_of(retry, following, last)

    assert list(queue.candidates(is_retry)) == [retry, following]
    assert queue.is_behind(slot_request("a", "m"), is_retry)

    queue.remove(following)
    queue.remove(last)

    assert not queue.is_behind(slot_request("a", "m"), is_retry)
    assert queue.is_behind(slot_request("a", "m"), never)
    assert not queue.is_behind(slot_request("b", "m"), never)


async def test_a_full_queue_drops_the_newest_request_of_the_key_with_most_queued() -> None:
    """Most for its weight, for whichever model the newest is."""
    heavy = [queued("heavy", at=float(at), weight=4.0) for at in range(5)]
    light = [queued("light", model, at=float(at)) for at, model in enumerate(("m", "n", "m"))]

    assert queue_of(*heavy, *light).to_drop_for(slot_request("other")) is light[2]


async def test_a_full_queue_drops_nothing_for_a_key_that_would_have_as_much() -> None:
    """By weight, counting the new request."""
    heavy = [queued("heavy", weight=2.0) for _ in range(4)]

    assert queue_of(*heavy, queued("light")).to_drop_for(slot_request("light")) is None
    assert queue_of(*heavy, queued("light")).to_drop_for(slot_request("heavy", weight=2.0)) is None
    assert queue_of(*heavy, queued("light")).to_drop_for(slot_request("new")) is heavy[3]


async def test_a_full_queue_never_drops_a_request_that_had_its_slot() -> None:
    assert queue_of(*[queued(first=True)] * 1).to_drop_for(slot_request("other")) is None
    assert RequestQueue().to_drop_for(slot_request("other")) is None


async def test_the_wait_of_a_request_ends_once() -> None:
    """Whatever comes second changes nothing."""
    granted, failed, cancelled = queued(), queued(), queued()
    granted.end_wait()
    granted.end_wait(QueueFull())
    failed.end_wait(QueueFull())
    failed.end_wait()
    assert cancelled.future is not None
    cancelled.future.cancel()
    cancelled.end_wait()

    assert [request.was_granted() for request in (granted, failed, cancelled)] == [
        True,
        False,
        False,
    ]
    assert not any(request.is_queued() for request in (granted, failed, cancelled))
    assert failed.future is not None
    assert isinstance(failed.future.exception(), QueueFull)
