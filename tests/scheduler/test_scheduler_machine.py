"""A state machine: requests that arrive, end, disconnect and time out in any order.

The machine advances the event loop by single iterations, so that a grant, a cancellation, a timeout
and a drain happen in every possible order.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

import pytest
from hypothesis import settings as hypothesis_settings
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
from gateway.scheduler.policy import Usage
from gateway.scheduler.queue import QueuedRequest
from tests.models.virtual import VirtualLoop

from .helpers import Client, EverythingLoaded, settings, slot_request

SETTINGS = settings(max_active=3, max_queued=5, max_queued_per_key=3)
MODELS = {"m": 1, "n": 2, "far": 1}
KEYS = {"free": None, "capped": 1, "other": None}
WEIGHTS = {"free": 1.0, "capped": 2.0, "other": 0.5}
KINDS: dict[str, dict[str, Any]] = {
    "interactive": {},
    "batch": {"batch": True},
    "short timeout": {"client_timeout": 70.0},
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


class OneModel(EverythingLoaded):
    """A memory that holds one model: the last one that was used."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = "m"

    def view(self) -> Residency:
        return Residency(frozenset({self.loaded}), max_loaded=1)

    def acquire(self, model: str) -> bool:
        was_loaded, self.loaded = self.loaded == model, model
        return was_loaded


class WrongMemory(OneModel):
    """The same, but what it believes is wrong."""

    def acquire(self, model: str) -> bool:
        self.loaded = "n" if self.loaded == "m" else "m"
        return self.loaded == model


class Requests(RuleBasedStateMachine):
    residency_tracker: ClassVar[Callable[[], ResidencyTracker]] = EverythingLoaded

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.scheduler = Scheduler(
            SETTINGS,
            now=self.loop.time,
            residency=type(self).residency_tracker(),
            jitter=lambda: 0.0,
        )
        self.clients: list[Client] = []
        self.failures: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context))

    @property
    def present(self) -> list[Client]:
        return [one for one in self.clients if not one.task.done()]

    @property
    def active(self) -> list[Client]:
        return [one for one in self.present if one.granted]

    @property
    def queued(self) -> list[Client]:
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
        request = slot_request(
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
        self.loop.run_until_complete(self._arrive(request))

    async def _arrive(self, request: SlotRequest) -> None:
        self.clients.append(Client(self.scheduler, request))

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def finishes(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.active)).finish()

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def disconnects(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.present)).task.cancel()

    @precondition(lambda self: self.active and self.queued)
    @rule(data=st.data())
    def disconnects_as_a_slot_becomes_free(self, data: st.DataObject) -> None:
        """Before its task runs, in the iteration in which its slot may have been granted."""
        active = data.draw(st.sampled_from(self.active))
        active.finish()
        while not active.task.done():
            self.iterations_pass(1)
        if self.queued:
            data.draw(st.sampled_from(self.queued)).task.cancel()

    @rule(iterations=st.integers(1, 4))
    def iterations_pass(self, iterations: int) -> None:
        for _ in range(iterations):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    @rule(seconds=st.sampled_from([0.9, 1.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([40.0, 400.0]))
    def computer_sleeps(self, seconds: float) -> None:
        """All timers are due at once."""
        self.loop._jumping.waited += seconds
        self.iterations_pass(2)

    @precondition(lambda self: len(self.clients) > 12)
    @rule()
    def drains(self) -> None:
        self.scheduler.drain()

    @invariant()
    def no_cap_is_exceeded(self) -> None:
        usage = self.scheduler._active.usage

        assert usage.total == sum(usage.by_model.values()) == sum(usage.by_key.values())
        assert 0 <= usage.total <= SETTINGS.max_active
        assert all(count <= MODELS[model] for model, count in usage.by_model.items())
        assert all(count <= (KEYS[key] or 99) for key, count in usage.by_key.items())

    @invariant()
    def no_request_is_active_without_a_slot(self) -> None:
        assert len(self.active) <= self.scheduler._active.usage.total

    @invariant()
    def queue_is_bounded(self) -> None:
        waiting = [one for one in self.scheduler._queue if not one.request.first]
        by_key = [sum(one.request.key == key for one in waiting) for key in KEYS]

        assert len(waiting) <= SETTINGS.max_queued
        assert max(by_key) <= SETTINGS.max_queued_per_key
        assert sum(self.scheduler._queue.by_key.values()) == len(self.scheduler._queue)

    @invariant()
    def no_slot_is_free_that_a_request_could_use(self) -> None:
        """Unless it is kept free for an urgent request."""
        usage = self.scheduler._active.usage
        able = [one for one in self.scheduler._queue if usage.has_room(one.request, SETTINGS)]
        # An urgent request may have disconnected without its task having run.
        if not any(self._is_urgent(one) for one in able):
            assert not [one for one in able if one.is_queued() and self._is_eligible(one)]

    def _is_eligible(self, one: QueuedRequest) -> bool:
        """Its model can be loaded, and no request before it in its queue is delayed."""
        queue = self.scheduler._queue._queues[one.request.key, one.request.model]
        usage, now = self.scheduler._active.usage, self.loop.time()
        handler = list(queue)[: queue.index(one) + 1]
        if any(
            each.not_before > now and not usage.is_duplicate_in_flight(each.request)
            for each in handler
        ):
            return False
        in_memory = usage.in_memory
        residency = self.scheduler._residency.view()
        return not one.request.local or residency.can_load_now(one.request.model, in_memory)

    @invariant()
    def every_queued_request_has_a_position(self) -> None:
        for one in self.scheduler._queue:
            position = self.scheduler.position(one)

            assert position is not None
            assert position.position >= 1
            assert 0.0 <= position.wait < inf

    def _is_urgent(self, one: QueuedRequest) -> bool:
        now, skipped_at = self.loop.time(), one.skipped_at
        skipped = skipped_at is not None and now >= skipped_at + SETTINGS.max_affinity_delay
        return skipped or (one.due_at is not None and now >= one.urgent_at)

    @invariant()
    def equal_requests_run_in_the_order_of_arrival(self) -> None:
        still_queued: set[tuple[str, str]] = set()
        for client in self.clients:
            kind = (client.request.key, client.request.model)
            if client.request.retry or client.request.first or client.request.client_timeout < inf:
                continue
            if client.granted:
                assert kind not in still_queued
            elif not client.task.done() and not client.task.cancelling():
                still_queued.add(kind)

    @invariant()
    def no_background_failure(self) -> None:
        assert self.failures == []

    def teardown(self) -> None:
        """Every request ends, and nothing is left."""
        for client in self.clients:
            client.finish()
        ends = self.loop.run_until_complete(self._ends())
        self.loop.close()

        assert all(end is None or isinstance(end, ENDINGS) for end in ends)
        assert repr(self.scheduler) == "<Scheduler 0/3 active, 0/5 queued>"
        assert self.scheduler._active.usage == Usage()
        assert self.scheduler._queue.by_key == {}
        assert self.scheduler._queue._queues == {}
        assert self.scheduler._redispatch is None
        assert self.failures == []

    async def _ends(self) -> list[BaseException | None]:
        return [await client.error() for client in self.clients]


class RequestsWithSwaps(Requests):
    residency_tracker = OneModel


class RequestsWithWrongMemory(Requests):
    residency_tracker = WrongMemory


@pytest.mark.parametrize("requests", [Requests, RequestsWithSwaps, RequestsWithWrongMemory])
def test_no_slot_is_lost_or_granted_twice(requests: type[Requests]) -> None:
    """Checked after every iteration of the event loop."""
    run_state_machine_as_test(
        requests,
        settings=hypothesis_settings(max_examples=100, stateful_step_count=40, deadline=None),
    )
