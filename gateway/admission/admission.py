"""The queue: places, those who hold them, those who wait.

All mutable state of admission is in ``Admission``; every change is synchronous and ends with
``_dispatch``, so between two of them a free place and one who could use it never coexist.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from gateway.admission.demand import Demand, Limits, Occupancy, lower
from gateway.admission.order import Decision, first_come, goes_before
from gateway.admission.service import ServiceTimes
from gateway.errors import (
    Draining,
    GatewayError,
    QueueFull,
    QueueTimeout,
    RateLimitExceeded,
)


class Waiter:
    """One call that waits for a place."""

    __slots__ = ("arrived_at", "demand", "future", "timer")

    def __init__(self, demand: Demand, arrived_at: float, future: asyncio.Future[None]) -> None:
        self.demand = demand
        self.arrived_at = arrived_at
        self.future = future
        self.timer: asyncio.TimerHandle | None = None

    def is_waiting(self) -> bool:
        return not self.future.done()

    def was_granted(self) -> bool:
        future = self.future
        return future.done() and not future.cancelled() and future.exception() is None

    def end(self, error: GatewayError | None = None) -> None:
        """Stop waiting: granted, or failed with ``error``.

        One whose caller left in this turn of the loop is told nothing: he is on his way out.
        """
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Order(Protocol):
    """Who is next; see ``gateway.admission.order``."""

    def __call__(
        self, waiting: Iterable[Waiter], occupancy: Occupancy, limits: Limits, now: float, /
    ) -> Decision[Waiter]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the queue at one moment, for gauges and people."""

    max_active: int
    max_queued: int
    active: dict[str, int]
    queued: dict[str, int]
    oldest_wait: float


class Admission:
    """Gives leases: ``async with admission.lease(demand) as lease``."""

    def __init__(
        self, limits: Limits, *, now: Callable[[], float], order: Order = first_come
    ) -> None:
        self._limits = limits
        self._now = now
        self._order = order
        self._occupancy = Occupancy()
        self._waiting: dict[Waiter, None] = {}
        self._waiting_by_key: dict[str, int] = {}
        self._service = ServiceTimes()
        self._ask_again: asyncio.TimerHandle | None = None
        self._draining = False

    def __repr__(self) -> str:
        return (
            f"<Admission {self._occupancy.total}/{self._limits.max_active} active, "
            f"{len(self._waiting)}/{self._limits.max_queued} queued>"
        )

    @property
    def idle(self) -> bool:
        """Whether nobody holds a place and nobody waits for one."""
        return self._occupancy.total == 0 and not self._waiting

    def lease(self, demand: Demand) -> "Lease":
        """The right to have one request at Ollama, for as long as the block lasts.

        Raises on entering:
            Draining: the gateway is shutting down.
            QueueFull, RateLimitExceeded: no room to wait, for anybody or for this key.
            QueueTimeout: waited ``demand.queue_timeout`` seconds, or certainly would.
        """
        return Lease(self, demand)

    def drain(self) -> None:
        """Refuse whoever comes and whoever waits; those who hold places keep them."""
        self._draining = True
        for waiter in list(self._waiting):
            self._stop_waiting(waiter)
            waiter.end(Draining())

    def snapshot(self) -> Snapshot:
        queued: dict[str, int] = {}
        for waiter in self._waiting:
            queued[waiter.demand.model] = queued.get(waiter.demand.model, 0) + 1
        oldest = next(iter(self._waiting), None)
        return Snapshot(
            max_active=self._limits.max_active,
            max_queued=self._limits.max_queued,
            active=dict(self._occupancy.by_model),
            queued=queued,
            oldest_wait=0.0 if oldest is None else self._now() - oldest.arrived_at,
        )

    # What a lease calls.

    def enter(self, demand: Demand) -> Waiter | None:
        """Take a place at once (None), or a place in the queue; raises what refuses both."""
        if self._draining:
            raise Draining
        loop = asyncio.get_running_loop()
        waiter = Waiter(demand, self._now(), loop.create_future())
        decision = self._decide((*self._waiting, waiter) if self._waiting else (waiter,))
        if decision.waiter is waiter:
            self._occupancy.add(demand)
            return None
        self._refuse_hopeless(demand)
        waiter.timer = loop.call_later(demand.queue_timeout, self._expire, waiter)
        self._waiting[waiter] = None
        by_key = self._waiting_by_key
        by_key[demand.key] = by_key.get(demand.key, 0) + 1
        self._dispatch()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """The caller has gone while he waited.

        He may have been granted a place in the same turn of the loop: it is handed on, or it
        would be lost for ever.
        """
        if waiter in self._waiting:
            self._stop_waiting(waiter)
            if waiter.timer is not None:
                waiter.timer.cancel()
        elif waiter.was_granted():
            self._free(waiter.demand)

    def give_back(self, demand: Demand, held: float) -> None:
        """A place is free again after ``held`` seconds."""
        self._service.add(held)
        self._free(demand)

    # Inside.

    def _free(self, demand: Demand) -> None:
        self._occupancy.remove(demand)
        self._dispatch()

    def _stop_waiting(self, waiter: Waiter) -> None:
        del self._waiting[waiter]
        lower(self._waiting_by_key, waiter.demand.key)

    def _dispatch(self) -> None:
        """Let everybody go who can."""
        while self._waiting:
            decision = self._decide(self._waiting)
            waiter = decision.waiter
            if waiter is None:
                self._ask_again_at(decision.ask_again_at)
                return
            self._stop_waiting(waiter)
            if waiter.is_waiting():
                self._occupancy.add(waiter.demand)
            waiter.end()

    def _decide(self, waiting: Iterable[Waiter]) -> Decision[Waiter]:
        return self._order(waiting, self._occupancy, self._limits, self._now())

    def _ask_again_at(self, when: float | None) -> None:
        if self._ask_again is not None:
            self._ask_again.cancel()
            self._ask_again = None
        if when is not None:
            delay = max(when - self._now(), 0.0)
            self._ask_again = asyncio.get_running_loop().call_later(delay, self._dispatch)

    def _expire(self, waiter: Waiter) -> None:
        if waiter not in self._waiting:
            return
        self._stop_waiting(waiter)
        waiter.end(
            QueueTimeout(
                f"No place came free within {waiter.demand.queue_timeout:g} s; "
                f"{len(self._waiting)} calls still wait. Try again later, or send fewer at once.",
                retry_after=self._likely_wait(waiter.demand),
            )
        )
        self._dispatch()

    def _refuse_hopeless(self, demand: Demand) -> None:
        limits = self._limits
        queued = len(self._waiting)
        if self._waiting_by_key.get(demand.key, 0) >= limits.max_queued_per_key:
            raise RateLimitExceeded(
                f"This key already has {limits.max_queued_per_key} calls waiting, which is its "
                "limit. Wait for answers before sending more.",
                retry_after=self._likely_wait(demand),
            )
        if queued >= limits.max_queued:
            raise QueueFull(
                f"All places are taken and {queued} calls wait, which is the limit. "
                "Try again later.",
                retry_after=self._likely_wait(demand),
            )
        ahead = sum(goes_before(one.demand, demand, limits) for one in self._waiting)
        if self._service.certain_wait(ahead, limits.max_active) > demand.queue_timeout:
            raise QueueTimeout(
                f"{ahead} calls wait before this one: it would certainly wait longer than "
                f"{demand.queue_timeout:g} s. Try again later.",
                retry_after=self._likely_wait(demand),
            )

    def _likely_wait(self, demand: Demand) -> float:
        """Seconds until such a call is likely to go: it waits at three caps, the slowest counts."""
        most = self._limits.max_active
        waiting = [waiter.demand for waiter in self._waiting]
        same_model = sum(one.model == demand.model for one in waiting)
        same_key = self._waiting_by_key.get(demand.key, 0)
        caps = (
            (len(waiting), most),
            (same_model, min(demand.model_max_active, most)),
            (same_key, min(demand.key_max_active or most, most)),
        )
        return max(self._service.expected_wait(ahead, places) for ahead, places in caps)


class Lease:
    """One place, held inside ``async with``. ``waited`` is the queue wait in seconds."""

    __slots__ = ("_admission", "_demand", "_granted_at", "_now", "waited")

    def __init__(self, admission: Admission, demand: Demand) -> None:
        self._admission = admission
        self._demand = demand
        self._now = admission._now  # noqa: SLF001 - one module, one state
        self._granted_at = 0.0
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        asked_at = self._now()
        waiter = self._admission.enter(self._demand)
        try:
            if waiter is not None:
                await waiter.future
        except BaseException:
            if waiter is not None:
                self._admission.leave(waiter)
            raise
        finally:
            self._granted_at = self._now()
            self.waited = self._granted_at - asked_at
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.give_back(self._demand, self._now() - self._granted_at)
