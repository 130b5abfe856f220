"""Any number of callers who come, go, leave and are cut off in any order, one turn at a time.

The machine moves the event loop by single turns, so that a grant, a cancellation, a timeout and a
drain meet in every order that there is.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.errors import (
    DeadlineUnreachable,
    Draining,
    QueueFull,
    QueueTimeout,
    RateLimitExceeded,
)
from gateway.models.residency import Residency, ResidencyTracker
from gateway.scheduler import Scheduler, SlotRequest
from gateway.scheduler.queue import Waiter
from gateway.scheduler.request import Occupancy
from tests.models.virtual import VirtualLoop

from .requests import Caller, EverythingLoaded, demand, limits

LIMITS = limits(max_active=3, max_queued=5, max_queued_per_key=3)
MODELS = {"m": 1, "n": 2, "far": 1}
KEYS = {"free": None, "capped": 1, "other": None}
WEIGHTS = {"free": 1.0, "capped": 2.0, "other": 0.5}
KINDS: dict[str, dict[str, Any]] = {
    "usual": {},
    "batch": {"batch": True},
    "impatient": {"client_timeout": 70.0},
    "retry": {"retry": True},
    "first": {"first": True},
    "later": {"first": True, "delay": 2.0, "retry": True},
}
ENDINGS = (
    asyncio.CancelledError,
    DeadlineUnreachable,
    Draining,
    QueueFull,
    QueueTimeout,
    RateLimitExceeded,
)


class LastOne(EverythingLoaded):
    """Memory with room for one model: whatever was asked for last."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = "m"

    def view(self) -> Residency:
        return Residency(frozenset({self.loaded}), max_loaded=1)

    def acquire(self, model: str) -> bool:
        was_loaded, self.loaded = self.loaded == model, model
        return was_loaded


class Fickle(LastOne):
    """The same, but what it believes has nothing to do with what was asked for."""

    def acquire(self, model: str) -> bool:
        self.loaded = "n" if self.loaded == "m" else "m"
        return self.loaded == model


class Crowd(RuleBasedStateMachine):
    residency_tracker: ClassVar[Callable[[], ResidencyTracker]] = EverythingLoaded

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.queue = Scheduler(
            LIMITS, now=self.loop.time, residency=type(self).residency_tracker(), jitter=lambda: 0.0
        )
        self.callers: list[Caller] = []
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))

    @property
    def present(self) -> list[Caller]:
        return [one for one in self.callers if not one.task.done()]

    @property
    def holders(self) -> list[Caller]:
        return [one for one in self.present if one.granted]

    @property
    def waiters(self) -> list[Caller]:
        return [one for one in self.present if not one.granted]

    @rule(
        key=st.sampled_from(sorted(KEYS)),
        model=st.sampled_from(sorted(MODELS)),
        client_timeout=st.sampled_from([1.0, 50.0, 1000.0]),
        kind=st.sampled_from(sorted(KINDS)),
        fingerprint=st.sampled_from([b"1", b"2", b""]),
    )
    def arrives(
        self, key: str, model: str, client_timeout: float, kind: str, fingerprint: bytes
    ) -> None:
        wish = demand(
            key,
            model,
            model_max_active=MODELS[model],
            key_max_active=KEYS[key],
            queue_timeout=client_timeout,
            weight=WEIGHTS[key],
            fingerprint=fingerprint,
            local=model != "far",
            **KINDS[kind],
        )
        self.loop.run_until_complete(self._arrive(wish))

    async def _arrive(self, wish: SlotRequest) -> None:
        self.callers.append(Caller(self.queue, wish))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.holders)).finish()

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.present)).task.cancel()

    @precondition(lambda self: self.holders and self.waiters)
    @rule(data=st.data())
    def leaves_as_a_place_comes_free(self, data: st.DataObject) -> None:
        """Before he can know, in the very turn in which it may have been granted to him."""
        holder = data.draw(st.sampled_from(self.holders))
        holder.finish()
        while not holder.task.done():
            self.turns_pass(1)
        if self.waiters:
            data.draw(st.sampled_from(self.waiters)).task.cancel()

    @rule(turns=st.integers(1, 4))
    def turns_pass(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    @rule(seconds=st.sampled_from([0.9, 1.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([40.0, 400.0]))
    def the_machine_sleeps(self, seconds: float) -> None:
        """All timers are due at once."""
        self.loop._jumping.waited += seconds
        self.turns_pass(2)

    @precondition(lambda self: len(self.callers) > 12)
    @rule()
    def drains(self) -> None:
        self.queue.drain()

    @invariant()
    def no_cap_is_exceeded(self) -> None:
        taken = self.queue._holders.occupancy

        assert taken.total == sum(taken.by_model.values()) == sum(taken.by_key.values())
        assert 0 <= taken.total <= LIMITS.max_active
        assert all(count <= MODELS[model] for model, count in taken.by_model.items())
        assert all(count <= (KEYS[key] or 99) for key, count in taken.by_key.items())

    @invariant()
    def nobody_is_at_work_without_a_place(self) -> None:
        assert len(self.holders) <= self.queue._holders.occupancy.total

    @invariant()
    def the_queue_is_bounded(self) -> None:
        waiting = [one for one in self.queue._waiting if not one.demand.first]
        by_key = [sum(one.demand.key == key for one in waiting) for key in KEYS]

        assert len(waiting) <= LIMITS.max_queued
        assert max(by_key) <= LIMITS.max_queued_per_key
        assert sum(self.queue._waiting.by_key.values()) == len(self.queue._waiting)

    @invariant()
    def no_place_is_free_while_someone_could_use_it(self) -> None:
        """But for the sake of one who has been passed over for long enough."""
        taken = self.queue._holders.occupancy
        able = [one for one in self.queue._waiting if taken.has_room(one.demand, LIMITS)]
        # One who has just left, and could not yet say so, may still be the one who is waited for.
        if not any(self._is_urgent(one) for one in able):
            assert not [one for one in able if one.is_waiting() and self._is_eligible(one)]

    def _is_eligible(self, one: Waiter) -> bool:
        """His model can be loaded, and nobody in his lane waits for a later moment before him."""
        lane = self.queue._waiting._lanes[one.demand.key, one.demand.model]
        taken, now = self.queue._holders.occupancy, self.loop.time()
        handler = list(lane)[: lane.before(one) + 1]
        if any(each.not_before > now and not taken.holds_back(each.demand) for each in handler):
            return False
        in_memory = taken.in_memory
        residency = self.queue._residency.view()
        return not one.demand.local or residency.can_load_now(one.demand.model, in_memory)

    @invariant()
    def everybody_knows_where_he_stands(self) -> None:
        for one in self.queue._waiting:
            place = self.queue.place(one)

            assert place is not None
            assert place.position >= 1
            assert 0.0 <= place.wait < inf

    def _is_urgent(self, one: Waiter) -> bool:
        now, passed = self.loop.time(), one.passed_over_at
        waited = passed is not None and now >= passed + LIMITS.max_affinity_delay
        return waited or (one.turn_at is not None and now >= one.hurries_at)

    @invariant()
    def equals_go_in_the_order_in_which_they_came(self) -> None:
        passed_over: set[tuple[str, str]] = set()
        for caller in self.callers:
            kind = (caller.wish.key, caller.wish.model)
            if caller.wish.retry or caller.wish.first or caller.wish.client_timeout < inf:
                continue
            if caller.granted:
                assert kind not in passed_over
            elif not caller.task.done() and not caller.task.cancelling():
                passed_over.add(kind)

    @invariant()
    def nothing_fails_behind_the_scenes(self) -> None:
        assert self.failures == []

    def teardown(self) -> None:
        """Everybody is answered, and the house is empty."""
        for caller in self.callers:
            caller.finish()
        ends = self.loop.run_until_complete(self._ends())
        self.loop.close()

        assert all(end is None or isinstance(end, ENDINGS) for end in ends)
        assert repr(self.queue) == "<Admission 0/3 active, 0/5 queued>"
        assert self.queue._holders.occupancy == Occupancy()
        assert self.queue._waiting.by_key == {}
        assert self.queue._waiting._lanes == {}
        assert self.queue._ask_again is None
        assert self.failures == []

    async def _ends(self) -> list[BaseException | None]:
        return [await caller.ended() for caller in self.callers]


class SwappingCrowd(Crowd):
    residency_tracker = LastOne


class MistakenCrowd(Crowd):
    residency_tracker = Fickle


@pytest.mark.parametrize("crowd", [Crowd, SwappingCrowd, MistakenCrowd])
def test_no_place_is_lost_or_given_twice_whatever_happens(crowd: type[Crowd]) -> None:
    """The promises of the queue, held after every single turn of the loop."""
    run_state_machine_as_test(
        crowd, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
