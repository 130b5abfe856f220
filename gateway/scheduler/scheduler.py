"""The scheduler: slots, the requests that have one, and those that are queued for one.

All mutable state is in ``Scheduler`` and what it owns. Every change is synchronous and ends with
``_dispatch``, so that a free slot and a request that may use it never exist at the same time when
the event loop goes on, except while rule 3 of the policy keeps a slot free.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from math import inf
from types import TracebackType
from typing import Final, Self

from gateway.errors import Draining, GatewayError
from gateway.models.residency import ResidencyTracker
from gateway.models.statistics import Statistics
from gateway.scheduler import rejections
from gateway.scheduler.fair_share import FairShare
from gateway.scheduler.policy import (
    Decision,
    Policy,
    SchedulerState,
    Usage,
    record_decision,
    select_next,
)
from gateway.scheduler.queue import ModelQueue, QueuedRequest, RequestQueue, SlotRequest
from gateway.scheduler.simulation import (
    MAX_SIMULATED,
    Schedule,
    WaitEstimate,
    estimate_wait,
    simulate,
)
from gateway.settings import SchedulerSettings

SAFETY_FACTOR: Final = 0.7
"""Part of the time that a request may wait which its estimated wait may take.

The rest is for requests that come later and run before it. With less, hardly any request with a
short timeout is admitted beside ones with a long timeout. With more, more requests are rejected
after they have waited. Measured with ``bench.load``.
"""

_ESTIMATE_TTL: Final = 1.0
"""Seconds for which a simulation is reused if nothing changes; or if it takes long, whatever
changes."""


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a queued request is: ``position`` 1 is next, ``wait`` is expected, in seconds."""

    position: int
    wait: float


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """The queued requests of one key for one model.

    Args:
        key: name of the key.
        model: name of the model.
        queued: how many there are.
        oldest_wait: seconds for which the oldest has waited.
        expected_wait: seconds until the newest is expected to get its slot.
    """

    key: str
    model: str
    queued: int
    oldest_wait: float
    expected_wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The scheduler at one moment, for metrics and people. ``active`` counts slots by model."""

    max_active: int
    max_queued: int
    active: dict[str, int]
    queues: tuple[QueueSnapshot, ...] = ()

    @property
    def queued(self) -> dict[str, int]:
        """How many requests are queued, by model."""
        counts: dict[str, int] = {}
        for queue in self.queues:
            counts[queue.model] = counts.get(queue.model, 0) + queue.queued
        return counts

    @property
    def oldest_wait(self) -> float:
        return max((queue.oldest_wait for queue in self.queues), default=0.0)


class ActiveSlots:
    """The requests that have a slot; counts, charges and measures them.

    Mutable state: the requests, the usage and the accounts.
    """

    def __init__(self, *, now: Callable[[], float], statistics: Statistics) -> None:
        self.usage = Usage()
        self.shares = FairShare()
        self.statistics = statistics
        self._now = now
        self._requests: dict[QueuedRequest, None] = {}

    def __repr__(self) -> str:
        return f"<ActiveSlots {len(self._requests)} active>"

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[QueuedRequest]:
        return iter(self._requests)

    def add(self, granted: QueuedRequest, *, model_was_loaded: bool) -> None:
        request = granted.request
        granted.granted_at = self._now()
        granted.model_was_loaded = model_was_loaded
        granted.charged = self.statistics.slot_time(request.model).mean / request.weight
        self._requests[granted] = None
        self.usage.add(request)
        self.shares.begin(request.key, granted.charged, keeps_credit=not request.batch)

    def remove(self, granted: QueuedRequest, *, completed: bool) -> None:
        """Return a slot. Only an answered request shows how long a response takes."""
        request = granted.request
        seconds = self._now() - granted.granted_at
        if completed:
            self.statistics.record_slot_time(
                request.model, seconds, loaded=granted.model_was_loaded
            )
        del self._requests[granted]
        self.usage.remove(request)
        self.shares.charge(request.key, seconds / request.weight - granted.charged)

    def charge_elapsed(self) -> None:
        """Charge the keys of active requests that take longer than expected until now."""
        now = self._now()
        for granted in self._requests:
            due = (now - granted.granted_at) / granted.request.weight
            if due > granted.charged:
                self.shares.charge(granted.request.key, due - granted.charged)
                granted.charged = due

    def forgive(self) -> None:
        """Forgive debts beyond one request: until now no key had to wait."""
        self.charge_elapsed()
        self.shares.forgive(self.statistics.mean_slot_time)


class Slot:
    """The right to have one request at Ollama, for as long as the ``async with`` block lasts.

    Mutable state: the request in the queue, from entering until the slot is returned.
    """

    __slots__ = ("_queued", "_request", "_scheduler", "waited")

    def __init__(self, scheduler: "Scheduler", request: SlotRequest) -> None:
        self._scheduler = scheduler
        self._request = request
        self._queued: QueuedRequest | None = None
        self.waited = 0.0
        """Seconds in the queue."""

    def __repr__(self) -> str:
        return f"<Slot {self._queued!r}>"

    @property
    def model_was_loaded(self) -> bool:
        """Whether the model was confirmed to be loaded when the slot was granted."""
        return self._queued is not None and self._queued.model_was_loaded

    @property
    def expected(self) -> float | None:
        """Seconds until the response is complete, as estimated on arrival; None if unknown."""
        return None if self._queued is None else self._queued.expected

    def position(self) -> QueuePosition | None:
        """Return where the request is in the queue; None if it is not queued."""
        return None if self._queued is None else self._scheduler.position(self._queued)

    async def __aenter__(self) -> Self:
        arrived_at = self._scheduler.now()
        self._queued = queued = self._scheduler.enter(self._request)
        if queued.future is not None:
            try:
                await queued.future
            except BaseException:
                # Rejected, or the client disconnected.
                self._queued = None
                self._scheduler.leave(queued)
                raise
            finally:
                self.waited = self._scheduler.now() - arrived_at
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._queued is not None:
            self._scheduler.give_back(self._queued, completed=kind is None)


@dataclass(slots=True)
class _Estimates:
    """Simulations of the present queue. Mutable state: all; ``clear`` when the queue changes."""

    made_at: float = -inf
    schedule: Schedule | None = None
    positions: dict[QueuedRequest, int] = field(default_factory=dict)
    # By what distinguishes new requests: under load most rejections have the same reason.
    for_newcomer: dict[tuple[object, ...], WaitEstimate] = field(default_factory=dict)

    def clear(self, now: float) -> None:
        self.made_at = now
        self.schedule = None
        self.positions = {}
        self.for_newcomer.clear()


class Scheduler:
    """Grants slots: ``async with scheduler.slot(request) as slot``.

    Args:
        settings: caps, bounds of the queue and ``max_affinity_delay``.
        now: monotonic clock in seconds.
        residency: what is in GPU memory; it is told of every slot.
        statistics: how long requests use their slots.
        policy: decides which request is next.
        jitter: returns numbers from 0 to 1 that spread ``Retry-After``.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        *,
        now: Callable[[], float],
        residency: ResidencyTracker,
        statistics: Statistics | None = None,
        policy: Policy = select_next,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.now = now
        self._settings = settings
        self._residency = residency
        self._statistics = statistics or Statistics(now=now)
        self._policy = policy
        self._jitter = jitter
        # All mutable state.
        self._active = ActiveSlots(now=now, statistics=self._statistics)
        self._queue = RequestQueue()
        self._estimates = _Estimates()
        self._changed = False
        self._swapped_at = -inf
        self._redispatch: asyncio.TimerHandle | None = None
        self._draining = False

    def __repr__(self) -> str:
        return (
            f"<Scheduler {len(self._active)}/{self._settings.max_active} active, "
            f"{len(self._queue)}/{self._settings.max_queued} queued>"
        )

    @property
    def idle(self) -> bool:
        """Whether no request has a slot and none is queued."""
        return not len(self._active) and not len(self._queue)

    def slot(self, request: SlotRequest) -> Slot:
        """Return the slot for a request; it is granted on entering its ``async with`` block.

        Raises on entering:
            Draining: the gateway is shutting down.
            QueueFull: there is no room in the queue, or the wait would probably be too long.
            RateLimitExceeded: the key has too many requests queued.
            QueueTimeout: the request was queued for ``queue_timeout`` seconds, or would be.
            DeadlineUnreachable: the client would give up before the response is complete.
        """
        return Slot(self, request)

    def drain(self) -> None:
        """Reject all queued and all new requests. Active requests keep their slots."""
        self._draining = True
        for queued in list(self._queue):
            self._queue.remove(queued)
            queued.end_wait(Draining())
        self._schedule_dispatch(None)

    def redispatch(self) -> None:
        """Decide again, because what is in GPU memory has changed."""
        self._dispatch()

    def snapshot(self) -> Snapshot:
        return Snapshot(
            max_active=self._settings.max_active,
            max_queued=self._settings.max_queued,
            active=dict(self._active.usage.by_model),
            queues=tuple(self._snapshot_of(queue) for queue in self._queue.queues()),
        )

    # What a slot calls.

    def enter(self, request: SlotRequest) -> QueuedRequest:
        """Grant a slot at once, or queue the request; raises what rejects it."""
        if self._draining:
            raise Draining
        active, queue, now = self._active, self._queue, self.now()
        if not len(queue) and self._can_start_now(request):
            # The usual case takes constant time: no estimate, no timer, no future.
            active.shares.arrive(request.key)
            queued = QueuedRequest(request, arrived_at=now)
            self._assign_slot(queued)
            return queued
        if len(queue):
            active.charge_elapsed()
        if request.key not in queue.by_key:
            active.shares.arrive(request.key)
        queued = self._new_request(request, now)
        is_duplicate = active.usage.is_duplicate_in_flight
        if not queue.is_behind(request, is_duplicate) and (
            self._decide((*queue.candidates(is_duplicate), queued)).chosen is queued
        ):
            self._assign_slot(queued)
            if len(queue):
                # It may hold back its own retry, which others were queued behind.
                self._dispatch()
            return queued
        if not len(queue):
            active.forgive()
        try:
            self._admit(queued)
        except GatewayError:
            self._forget_key(request.key)
            raise
        expire = (
            rejections.deadline_passed
            if queued.max_wait < request.queue_timeout
            else rejections.queue_timeout_expired
        )
        loop = asyncio.get_running_loop()
        queued.timer = loop.call_later(queued.max_wait, self._expire, queued, expire)
        queue.add(queued)
        self._dispatch()
        return queued

    def leave(self, queued: QueuedRequest) -> None:
        """Forget a request whose client disconnected while it was queued.

        It may have been granted a slot in the same iteration of the event loop. That slot is given
        back, or it would be lost forever.
        """
        if queued in self._queue:
            self._queue.remove(queued)
            self._forget_key(queued.request.key)
            queued.end_wait()
            # Others may have been held back for its sake.
            self._dispatch()
        elif queued.was_granted():
            self.give_back(queued, completed=False)

    def give_back(self, granted: QueuedRequest, *, completed: bool) -> None:
        """Return a slot. ``completed``: the request ended without an error."""
        request = granted.request
        self._active.remove(granted, completed=completed)
        if request.local:
            self._residency.release(request.model, completed=completed)
        self._forget_key(request.key)
        self._dispatch()

    def position(self, queued: QueuedRequest) -> QueuePosition | None:
        """Return where a request is in the queue; None if it is not queued."""
        if queued not in self._queue:
            return None
        estimates = self._fresh_estimates()
        schedule = estimates.schedule
        if schedule is None:
            schedule = estimates.schedule = self._simulate()
            estimates.positions = {
                each: number for number, each in enumerate(schedule.granted_at, 1)
            }
        granted_at = schedule.granted_at.get(queued, schedule.until)
        position = estimates.positions.get(queued, len(estimates.positions) + 1)
        return QueuePosition(position, max(granted_at - self.now(), 0.0))

    # Admission.

    def _can_start_now(self, request: SlotRequest) -> bool:
        """Return True if no policy needs to be asked, provided that no request is queued."""
        usage = self._active.usage
        if request.delay or not usage.has_room(request, self._settings):
            return False
        if not request.local:
            return True
        residency = self._residency.view()
        model = request.model
        return model in residency.resident and residency.can_load_now(model, usage.in_memory)

    def _new_request(self, request: SlotRequest, now: float) -> QueuedRequest:
        future = asyncio.get_running_loop().create_future()
        if request.client_timeout == inf:
            return QueuedRequest(request, arrived_at=now, future=future)
        statistics, model = self._statistics, request.model
        seconds = statistics.slot_time(model).mean if statistics.knows_slot_time(model) else 0.0
        # Others must make way when there is just time for what is in the way, load and response.
        lead_time = statistics.slot_time(model, loaded=not request.local).mean
        residency = self._residency.view()
        if request.local and not residency.fits_without_eviction(model):
            in_the_way = (statistics.slot_time(each).mean for each in residency.resident)
            lead_time += max(in_the_way, default=0.0)
        return QueuedRequest(
            request, arrived_at=now, future=future, slot_seconds=seconds, lead_time=lead_time
        )

    def _admit(self, queued: QueuedRequest) -> None:
        """Raise the error that rejects a request on arrival, if there is a reason."""
        request, settings, queue = queued.request, self._settings, self._queue
        if request.first:
            return  # It was admitted when it came.
        if queue.by_key.get(request.key, 0) >= settings.max_queued_per_key:
            raise rejections.key_queue_full(
                settings.max_queued_per_key, self._estimate(queued), self._jitter()
            )
        if self._statistics.knows_slot_time(request.model):
            estimate = self._estimate(queued)
            if estimate.finish > request.client_timeout:
                raise rejections.deadline_unreachable(request, estimate, self._jitter())
            if estimate.wait > request.queue_timeout:
                raise rejections.queue_timeout_unreachable(request, estimate, self._jitter())
            if estimate.wait > SAFETY_FACTOR * queued.max_wait:
                raise rejections.over_capacity(queued.max_wait, estimate, self._jitter())
            queued.expected = estimate.finish
        if len(queue) >= settings.max_queued:
            other = queue.to_drop_for(request)
            if other is None:
                raise rejections.queue_full(len(queue), self._estimate(queued), self._jitter())
            queue.remove(other)
            self._forget_key(other.request.key)
            other.end_wait(rejections.dropped(self._estimate_again(other), self._jitter()))

    def _expire(
        self,
        queued: QueuedRequest,
        rejection: Callable[[SlotRequest, WaitEstimate, float], GatewayError],
    ) -> None:
        if queued in self._queue:
            self._queue.remove(queued)
            self._forget_key(queued.request.key)
            estimate = self._estimate_again(queued)
            queued.end_wait(rejection(queued.request, estimate, self._jitter()))
            self._dispatch()

    # Estimates.

    def _estimate(self, newcomer: QueuedRequest) -> WaitEstimate:
        """Return what a new request has to expect, if it is queued now."""
        request = newcomer.request
        alike = (
            request.key,
            request.model,
            request.queue_timeout,
            request.client_timeout,
            request.batch,
        )
        estimates = self._fresh_estimates().for_newcomer
        if alike not in estimates:
            estimates[alike] = estimate_wait(
                newcomer, self._simulate(newcomer), now=self.now(), statistics=self._statistics
            )
        return estimates[alike]

    def _estimate_again(self, queued: QueuedRequest) -> WaitEstimate:
        """Return what a request has to expect that was queued, if its client retries now."""
        self._changed = True
        return self._estimate(self._new_request(queued.request, self.now()))

    def _fresh_estimates(self) -> _Estimates:
        """Return the estimates of the present queue, without those that are outdated."""
        now, estimates = self.now(), self._estimates
        outdated = self._changed and len(self._queue) <= MAX_SIMULATED
        if outdated or now - estimates.made_at > _ESTIMATE_TTL:
            self._changed = False
            estimates.clear(now)
        return estimates

    def _simulate(self, newcomer: QueuedRequest | None = None) -> Schedule:
        queues: dict[tuple[str, str], Iterable[QueuedRequest]] = {
            (queue.request.key, queue.request.model): queue for queue in self._queue.queues()
        }
        if newcomer is not None:
            name = (newcomer.request.key, newcomer.request.model)
            queues[name] = chain(queues.get(name, ()), (newcomer,))
        return simulate(
            queues.values(),
            self._active,
            self._state(),
            self._policy,
            self._statistics,
            until=newcomer,
        )

    # Dispatch.

    def _state(self) -> SchedulerState:
        return SchedulerState(
            settings=self._settings,
            usage=self._active.usage,
            shares=self._active.shares,
            residency=self._residency.view(),
            now=self.now(),
            swapped_at=self._swapped_at,
        )

    def _decide(self, candidates: Iterable[QueuedRequest]) -> Decision[QueuedRequest]:
        state = self._state()
        decision = self._policy(candidates, state)
        record_decision(decision, state.now)
        return decision

    def _dispatch(self) -> None:
        """Grant slots until the policy grants no more."""
        self._changed = True
        redispatch_at = None
        if len(self._queue):
            self._active.charge_elapsed()
        while len(self._queue):
            is_duplicate = self._active.usage.is_duplicate_in_flight
            decision = self._decide(self._queue.candidates(is_duplicate))
            queued = decision.chosen
            if queued is None:
                redispatch_at = decision.redispatch_at
                break
            self._queue.remove(queued)
            if queued.is_queued():
                self._assign_slot(queued)
            else:
                # Its client has disconnected, and its task has not run yet to leave the queue.
                self._forget_key(queued.request.key)
                queued.end_wait()
        self._schedule_dispatch(redispatch_at)

    def _assign_slot(self, queued: QueuedRequest) -> None:
        request = queued.request
        if request.local and not self._residency.view().fits_without_eviction(request.model):
            self._swapped_at = self.now()
        loaded = not request.local or self._residency.acquire(request.model)
        if queued.expected is None and self._statistics.knows_slot_time(request.model):
            queued.expected = self._statistics.slot_time(request.model, loaded=loaded).mean
        self._active.add(queued, model_was_loaded=loaded)
        self._changed = True
        queued.end_wait()

    def _forget_key(self, key: str) -> None:
        """Close the account of a key that has no requests left."""
        if key not in self._queue.by_key and key not in self._active.usage.by_key:
            self._active.shares.forget(key)

    def _schedule_dispatch(self, when: float | None) -> None:
        if self._redispatch is not None:
            self._redispatch.cancel()
            self._redispatch = None
        if when is not None:
            delay = max(when - self.now(), 0.0)
            self._redispatch = asyncio.get_running_loop().call_later(delay, self._dispatch)

    def _snapshot_of(self, queue: ModelQueue) -> QueueSnapshot:
        newest = self.position(queue.newest)
        return QueueSnapshot(
            key=queue.request.key,
            model=queue.request.model,
            queued=len(queue),
            oldest_wait=self.now() - queue.oldest.arrived_at,
            expected_wait=0.0 if newest is None else newest.wait,
        )
