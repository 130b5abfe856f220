"""Queued requests: one first-in-first-out queue for each key and model."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import Final, TypeVar

from gateway.errors import GatewayError

K = TypeVar("K")

_number: Final = attrgetter("number")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRequest:
    """What one inference request asks of the scheduler.

    Args:
        key: name of the key that sent it.
        model: its model, as Ollama lists it.
        model_max_active: the cap for its model.
        key_max_active: the cap for its key, None without one.
        queue_timeout: seconds that it may be queued.
        weight: the key's share of GPU time, compared with other keys.
        batch: it lets interactive requests go first.
        client_timeout: seconds after which its client gives up; infinity if heartbeats prevent it.
        fingerprint: equal for all attempts of one request; empty bytes if it has none.
        retry: it is not sent while another request with its fingerprint has a slot.
        first: it had its slot already and is queued before the others of its key and model, but
            does not run before ``delay`` seconds have passed.
        local: its model uses this machine's memory.
    """

    key: str
    model: str
    model_max_active: int
    key_max_active: int | None
    queue_timeout: float
    weight: float = 1.0
    batch: bool = False
    client_timeout: float = inf
    fingerprint: Hashable = b""
    retry: bool = False
    first: bool = False
    delay: float = 0.0
    local: bool = True


class QueuedRequest:
    """One request from its arrival until it returns its slot.

    All times are of the scheduler's clock. Mutable state: where it is queued, what the policy has
    recorded about it (``skipped_at``, ``due_at``; see ``policy.Candidate``), and what happened when
    it got its slot.

    Args:
        request: what it asks for.
        arrived_at: when it came.
        future: done when it has its slot or is rejected; None if it gets its slot at once.
        slot_seconds: how long a response is expected to take, 0 if unknown. It is rejected when
            less than that is left until the client gives up: it would be computed for nothing.
        lead_time: how long before the client gives up other requests must make way for it.
    """

    __slots__ = (
        "arrived_at",
        "charged",
        "client_deadline",
        "due_at",
        "expected",
        "future",
        "granted_at",
        "max_wait",
        "model_was_loaded",
        "not_before",
        "number",
        "request",
        "skipped_at",
        "timer",
        "urgent_at",
    )

    def __init__(
        self,
        request: SlotRequest,
        *,
        arrived_at: float,
        future: asyncio.Future[None] | None = None,
        slot_seconds: float = 0.0,
        lead_time: float = 0.0,
    ) -> None:
        self.request = request
        self.arrived_at = arrived_at
        self.future = future
        self.client_deadline = arrived_at + request.client_timeout
        self.max_wait = min(request.queue_timeout, max(request.client_timeout - slot_seconds, 0.0))
        urgent_at = self.client_deadline - lead_time
        # A request that is late already when it comes does not make others wait.
        self.urgent_at = urgent_at if urgent_at > arrived_at else inf
        self.not_before = arrived_at + request.delay
        self.skipped_at: float | None = None
        self.due_at: float | None = None
        # Position in its queue: lower is sooner; negative for requests that had their slot already.
        self.number = 0
        self.timer: asyncio.TimerHandle | None = None
        # Seconds until its response is complete, as estimated when it came; None if unknown.
        self.expected: float | None = None
        # Set when it gets its slot: when, what its key was charged, whether the model was loaded.
        self.granted_at = arrived_at
        self.charged = 0.0
        self.model_was_loaded = False

    def __repr__(self) -> str:
        state = "queued" if self.is_queued() else "active" if self.was_granted() else "ended"
        return f"<QueuedRequest {self.request.key} {self.request.model} {state}>"

    def is_queued(self) -> bool:
        """Return True while it has neither a slot nor an error, and its client is still there."""
        return self.future is not None and not self.future.done()

    def was_granted(self) -> bool:
        future = self.future
        if future is None:
            return True
        return future.done() and not future.cancelled() and future.exception() is None

    def end_wait(self, error: GatewayError | None = None) -> None:
        """Grant the slot, or fail with ``error``.

        A request whose client disconnected in the same iteration of the event loop is cancelled
        already; it gets neither.
        """
        if self.timer is not None:
            self.timer.cancel()
        if self.future is None or self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class ModelQueue:
    """The queued requests of one key for one model. Mutable state: the requests, in order.

    ``request`` is the first that was ever queued in it: it tells key, model and weight.
    """

    __slots__ = ("_first", "_last", "_requests", "request")

    def __init__(self, request: SlotRequest) -> None:
        self.request = request
        # Sorted by number. Removing one from a list of thousands takes microseconds.
        self._requests: list[QueuedRequest] = []
        self._first = self._last = 0

    def __repr__(self) -> str:
        return f"<ModelQueue {self.request.key} {self.request.model}, {len(self)} queued>"

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(self._requests)

    def __contains__(self, queued: QueuedRequest) -> bool:
        index = self.index(queued)
        return index < len(self._requests) and self._requests[index] is queued

    @property
    def oldest(self) -> QueuedRequest:
        """The request that came first: not the first in the queue if that had its slot already."""
        returned = bisect_left(self._requests, 0, key=_number)
        return min(self._requests[: returned + 1], key=lambda queued: queued.arrived_at)

    @property
    def newest(self) -> QueuedRequest:
        return self._requests[-1]

    def index(self, queued: QueuedRequest) -> int:
        """Return how many requests of this queue are before a queued one."""
        return bisect_left(self._requests, queued.number, key=_number)

    def add(self, queued: QueuedRequest) -> None:
        """Append a request; or put it before all others if it had its slot already."""
        if queued.request.first:
            self._first -= 1
            queued.number = self._first
            self._requests.insert(0, queued)
        else:
            queued.number = self._last
            self._last += 1
            self._requests.append(queued)

    def remove(self, queued: QueuedRequest) -> None:
        del self._requests[self.index(queued)]


class RequestQueue:
    """All queued requests. Mutable state: the non-empty queues, and how many there are by key."""

    def __init__(self) -> None:
        self._queues: dict[tuple[str, str], ModelQueue] = {}
        self._count = 0
        self.by_key: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<RequestQueue {self._count} queued, {len(self._queues)} queues>"

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[QueuedRequest]:
        return (queued for queue in self._queues.values() for queued in queue)

    def __contains__(self, queued: QueuedRequest) -> bool:
        queue = self._queues.get((queued.request.key, queued.request.model))
        return queue is not None and queued in queue

    def queues(self) -> Iterator[ModelQueue]:
        return iter(self._queues.values())

    def candidates(self, is_duplicate: Callable[[SlotRequest], bool]) -> Iterator[QueuedRequest]:
        """Yield the first request of every queue, and behind one that is held back the next."""
        for queue in self._queues.values():
            for queued in queue:
                yield queued
                if not (queued.request.retry and is_duplicate(queued.request)):
                    break

    def is_behind(self, request: SlotRequest, is_duplicate: Callable[[SlotRequest], bool]) -> bool:
        """Return True if the request would have to wait for one that is queued before it."""
        queue = self._queues.get((request.key, request.model), ())
        return any(not is_duplicate(queued.request) for queued in queue)

    def add(self, queued: QueuedRequest) -> None:
        request = queued.request
        name = (request.key, request.model)
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = ModelQueue(request)
        queue.add(queued)
        self._count += 1
        self.by_key[request.key] = self.by_key.get(request.key, 0) + 1

    def remove(self, queued: QueuedRequest) -> None:
        request = queued.request
        name = (request.key, request.model)
        queue = self._queues[name]
        queue.remove(queued)
        if not queue:
            del self._queues[name]
        self._count -= 1
        decrement(self.by_key, request.key)

    def to_drop_for(self, request: SlotRequest) -> QueuedRequest | None:
        """Return the request that a full queue drops for another key's, None if there is none.

        It is the newest of the key with the most queued requests for its weight, if that are more
        than the other key would have. Requests that had their slot already are never dropped.
        """
        newest: dict[str, QueuedRequest] = {}
        for queue in self._queues.values():
            last = queue.newest
            if last.request.first:  # Then so are all of this queue.
                continue
            known = newest.get(last.request.key)
            if known is None or last.arrived_at >= known.arrived_at:
                newest[last.request.key] = last
        queued = max(
            newest.values(),
            key=lambda each: self.by_key[each.request.key] / each.request.weight,
            default=None,
        )
        if queued is None or queued.request.key == request.key:
            return None
        most = self.by_key[queued.request.key] / queued.request.weight
        return queued if most > (self.by_key.get(request.key, 0) + 1) / request.weight else None


def decrement(counts: dict[K, int], name: K) -> None:
    """Count one down, and remove the name at zero."""
    left = counts.get(name, 0) - 1
    if left > 0:
        counts[name] = left
    else:
        counts.pop(name, None)
