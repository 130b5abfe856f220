"""The queue: places, those who hold them, those who wait.

All mutable state of admission is in ``Admission`` and what it owns; every change is synchronous
and ends with ``_dispatch``, so between two of them a free place and one who may use it never
coexist.
"""

import asyncio
import random
from collections.abc import Callable, Iterable

from gateway.errors import Draining, GatewayError
from gateway.models.residency import ResidencyTracker
from gateway.models.statistics import Statistics
from gateway.scheduler.active import Holders
from gateway.scheduler.estimates import Foresight, Place
from gateway.scheduler.overload import Crowd
from gateway.scheduler.policy import Decision, Order, Standing, decide, is_doubtful, note
from gateway.scheduler.prediction import Prediction
from gateway.scheduler.queue import Waiter, Waiting
from gateway.scheduler.rejections import (
    crowded,
    displaced,
    key_queue_full,
    queue_full,
    refuse_hopeless,
    too_late,
    waited_too_long,
)
from gateway.scheduler.request import Limits, SlotRequest
from gateway.scheduler.slot import Slot
from gateway.scheduler.snapshot import Snapshot, state_of

Refusal = Callable[[SlotRequest, Prediction, float], GatewayError]


class Scheduler:
    """Gives leases: ``async with admission.lease(demand) as lease``.

    ``statistics`` is what is known of how long answers take. ``jitter`` gives numbers from 0 to 1:
    refused callers shall not come back all together.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        now: Callable[[], float],
        residency: ResidencyTracker,
        statistics: Statistics | None = None,
        order: Order = decide,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limits = limits
        self._now = now
        self._residency = residency
        self._order = order
        self._jitter = jitter
        self._holders = Holders(now=now, service=statistics or Statistics(now=now))
        self._waiting = Waiting()
        self._foresight = Foresight(
            limits=limits,
            holders=self._holders,
            waiting=self._waiting,
            residency=residency,
            order=order,
            now=now,
        )
        self._crowd = Crowd(
            holders=self._holders, waiting=self._waiting, foresight=self._foresight, now=now
        )
        self._ask_again: asyncio.TimerHandle | None = None
        self._draining = False

    def __repr__(self) -> str:
        return (
            f"<Admission {len(self._holders)}/{self._limits.max_active} active, "
            f"{len(self._waiting)}/{self._limits.max_queued} queued>"
        )

    @property
    def idle(self) -> bool:
        """Whether nobody holds a place and nobody waits for one."""
        return not len(self._holders) and not len(self._waiting)

    def slot(self, demand: SlotRequest) -> Slot:
        """The right to have one request at Ollama, for as long as the block lasts.

        Raises on entering:
            Draining: the gateway is shutting down.
            QueueFull, RateLimitExceeded: no room to wait, for anybody or for this key.
            QueueTimeout: waited ``demand.queue_timeout`` seconds, or surely would.
            DeadlineUnreachable: the caller will surely have left before it is done.
        """
        return Slot(self, demand, now=self._now)

    def drain(self) -> None:
        """Refuse whoever comes and whoever waits; those who hold places keep them."""
        self._draining = True
        for waiter in list(self._waiting):
            self._waiting.remove(waiter)
            waiter.end(Draining())
        self._ask_again_at(None)

    def look_again(self) -> None:
        """Something that decides who is next has changed elsewhere: what is loaded."""
        self._dispatch()

    def snapshot(self) -> Snapshot:
        now, place, lanes = self._now(), self._foresight.place, self._waiting.lanes()
        states = (state_of(one, now=now, expected_wait=place(one.newest).wait) for one in lanes)
        return Snapshot(
            max_active=self._limits.max_active,
            max_queued=self._limits.max_queued,
            active=dict(self._holders.occupancy.by_model),
            lanes=tuple(states),
        )

    # What a lease calls.

    def enter(self, demand: SlotRequest) -> tuple[Waiter, Prediction]:
        """Take a place at once, or a place in the queue; raises what refuses both."""
        if self._draining:
            raise Draining
        if len(self._waiting):
            self._holders.settle()
        if demand.key not in self._waiting.by_key:
            self._holders.shares.arrive(demand.key)
        waiter = self._foresight.waiter(demand)
        if self._goes_at_once(waiter):
            self._grant(waiter)
            if len(self._waiting):
                # With him at work a retry may be held back that others stood behind.
                self._dispatch()
            return waiter, self._foresight.at_once(waiter)
        if not len(self._waiting):
            self._holders.forgive()
        try:
            foreseen = self._admit(waiter)
        except GatewayError:
            self._close_account(demand.key)
            raise
        self._wait(waiter)
        return waiter, foreseen

    def leave(self, waiter: Waiter) -> None:
        """The caller has gone while he waited.

        He may have been granted a place in the same turn of the loop: it is handed on, or it
        would be lost for ever.
        """
        if waiter in self._waiting:
            self._remove(waiter)
            waiter.end()
            # He may have been the one for whose sake others were held back.
            self._dispatch()
        elif waiter.was_granted():
            self.give_back(waiter, answered=False)

    def place(self, waiter: Waiter) -> Place | None:
        """Where he stands now; None if he does not wait."""
        return self._foresight.place(waiter) if waiter in self._waiting else None

    def give_back(self, waiter: Waiter, *, answered: bool) -> None:
        """A place is free again; ``answered``: the call was served."""
        demand = waiter.demand
        self._holders.remove(waiter, answered=answered)
        if demand.local:
            self._residency.release(demand.model, answered=answered)
        self._close_account(demand.key)
        self._dispatch()

    # Inside.

    def _goes_at_once(self, waiter: Waiter) -> bool:
        if not len(self._waiting) and self._finds_all_ready(waiter.demand):
            return True
        if self._waiting.has_before(waiter.demand, self._is_held_back):
            return False
        heads = self._waiting.heads(self._is_held_back)
        return self._decide((*heads, waiter)).waiter is waiter

    def _finds_all_ready(self, demand: SlotRequest) -> bool:
        """Whether nothing keeps him waiting if nobody is before him, whatever the order."""
        occupancy = self._holders.occupancy
        if demand.delay or not occupancy.has_room(demand, self._limits):
            return False
        if not demand.local:
            return True
        residency = self._residency.view()
        loaded = demand.model in residency.resident
        return loaded and residency.can_load_now(demand.model, occupancy.in_memory)

    def _wait(self, waiter: Waiter) -> None:
        """In the queue, until his own clock ends."""
        stays = waiter.stays
        refusal = too_late if stays < waiter.demand.queue_timeout else waited_too_long
        waiter.timer = asyncio.get_running_loop().call_later(stays, self._expire, waiter, refusal)
        self._waiting.add(waiter)
        self._dispatch()

    def _is_held_back(self, waiter: Waiter) -> bool:
        """Whether those behind him in his lane need not wait for him."""
        held_back = self._holders.occupancy.holds_back(waiter.demand)
        return held_back or is_doubtful(waiter, self._now())

    def _decide(self, heads: Iterable[Waiter]) -> Decision[Waiter]:
        now = self._now()
        standing = Standing(
            occupancy=self._holders.occupancy,
            limits=self._limits,
            residency=self._residency.view(),
            shares=self._holders.shares,
            now=now,
        )
        decision = self._order(heads, standing)
        note(decision, now)
        return decision

    def _dispatch(self) -> None:
        """Let everybody go who may."""
        self._foresight.changed()
        ask_again_at = None
        if len(self._waiting):
            self._holders.settle()
        while len(self._waiting):
            decision = self._decide(self._waiting.heads(self._is_held_back))
            waiter = decision.waiter
            if waiter is None:
                ask_again_at = decision.ask_again_at
                break
            self._waiting.remove(waiter)
            if waiter.is_waiting():
                self._grant(waiter)
            else:
                self._close_account(waiter.demand.key)
                waiter.end()
        self._ask_again_at(ask_again_at)

    def _grant(self, waiter: Waiter) -> None:
        demand = waiter.demand
        loaded = not demand.local or demand.model in self._residency.view().resident
        resident = not demand.local or self._residency.acquire(demand.model)
        self._holders.add(waiter, resident=resident, swaps=not loaded)
        self._foresight.changed()
        waiter.end()

    def _remove(self, waiter: Waiter) -> None:
        self._waiting.remove(waiter)
        self._close_account(waiter.demand.key)

    def _close_account(self, key: str) -> None:
        if key not in self._waiting.by_key:
            self._holders.close(key)

    def _ask_again_at(self, when: float | None) -> None:
        if self._ask_again is not None:
            self._ask_again.cancel()
            self._ask_again = None
        if when is not None:
            delay = max(when - self._now(), 0.0)
            self._ask_again = asyncio.get_running_loop().call_later(delay, self._dispatch)

    def _expire(self, waiter: Waiter, refusal: Refusal) -> None:
        if waiter in self._waiting:
            self._remove(waiter)
            waiter.end(refusal(waiter.demand, self._anew(waiter), self._jitter()))
            self._dispatch()

    def _anew(self, waiter: Waiter) -> Prediction:
        """What he has to expect who has waited in vain, if he comes again now."""
        return self._foresight.of(self._foresight.waiter(waiter.demand))

    def _admit(self, waiter: Waiter) -> Prediction:
        """What he has to expect who may wait; raises what refuses him."""
        demand, limits, foresight = waiter.demand, self._limits, self._foresight
        if demand.first:
            return foresight.roughly(demand)  # He had his turn, and is not told to come again.
        self._crowd.came(demand)
        if self._waiting.by_key.get(demand.key, 0) >= limits.max_queued_per_key:
            raise key_queue_full(limits.max_queued_per_key, foresight.of(waiter), self._jitter())
        foreseen = foresight.roughly(demand)
        if foreseen.known and not self._crowd.spares_everybody(demand):
            foreseen = foresight.of(waiter)
            refuse_hopeless(demand, foreseen, self._jitter())
            if self._crowd.keeps_out(waiter, foreseen):
                raise crowded(demand, foreseen, self._jitter())
        if len(self._waiting) >= limits.max_queued and not self._displace(demand):
            raise queue_full(len(self._waiting), foresight.of(waiter), self._jitter())
        return foreseen

    def _displace(self, demand: SlotRequest) -> bool:
        """Make room for a modest key: the newest waiter of the one with most waiting must go."""
        waiter = self._waiting.newest_of_greediest()
        if waiter is None or not self._waiting.is_greedier(waiter.demand, demand):
            return False
        self._remove(waiter)
        waiter.end(displaced(self._anew(waiter), self._jitter()))
        return True
