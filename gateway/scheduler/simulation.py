"""Estimates waits by running the policy forward from the current queue. Pure.

The simulation assumes that no request arrives or leaves, that every response takes as long as the
mean of its model, and that models are loaded one at a time. A model that was never measured counts
as taking no time: other models tell nothing about it.
It is the only estimate there is: the wait of a new request, the position of a queued one and the
advice to a rejected client come from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from gateway.models.statistics import Statistics
from gateway.scheduler.policy import Policy, SchedulerState, record_decision
from gateway.scheduler.queue import QueuedRequest, SlotRequest

MAX_SIMULATED: Final = 128
"""Requests that get their slot in a simulation. Of those behind them only a lower bound of their
wait is known."""


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """What a new request has to expect, in seconds from now.

    Args:
        position: how many requests get their slot before it.
        wait: until it gets its slot.
        finish: until its response is complete.
        known: its model was measured often enough to reject a request because of this.
    """

    position: int
    wait: float
    finish: float
    known: bool


@dataclass(slots=True)
class Schedule:
    """When each request gets its slot, in that order, and when the response of each is complete.

    ``until`` is how far was simulated. All times are of the scheduler's clock.
    """

    granted_at: dict[QueuedRequest, float] = field(default_factory=dict)
    finished_at: dict[QueuedRequest, float] = field(default_factory=dict)
    until: float = 0.0


class _Head:
    """The first request of one queue as the policy sees it, with its own copy of the marks."""

    __slots__ = (
        "_rest",
        "arrived_at",
        "due_at",
        "not_before",
        "queued",
        "request",
        "skipped_at",
        "urgent_at",
    )

    def __init__(self, requests: Iterable[QueuedRequest]) -> None:
        self._rest = iter(requests)
        self.advance()

    def advance(self) -> bool:
        """Move on to the next request of the queue. Returns False at its end."""
        queued = next(self._rest, None)
        if queued is None:
            return False
        self.queued = queued
        self.request = queued.request
        self.arrived_at = queued.arrived_at
        self.skipped_at = queued.skipped_at
        self.due_at = queued.due_at
        self.urgent_at = queued.urgent_at
        self.not_before = queued.not_before
        return True


def simulate(
    queues: Iterable[Iterable[QueuedRequest]],
    active: Iterable[QueuedRequest],
    state: SchedulerState,
    policy: Policy,
    statistics: Statistics,
    *,
    until: QueuedRequest | None = None,
) -> Schedule:
    """Run the policy forward until all requests have had their slot.

    Args:
        queues: the queued requests of every key and model, in their order; none is empty.
        active: the requests that have a slot.
        state: slots, accounts, GPU memory and the time. It is not changed.
        policy: decides which request is next.
        statistics: how long responses and loads take.
        until: stop when this request has its slot.
    """
    simulation = _Simulation(queues, active, state, statistics)
    schedule, state = Schedule(), simulation.state
    heads = simulation.heads
    while heads and len(schedule.granted_at) < MAX_SIMULATED:
        decision = policy(heads, state)
        record_decision(decision, state.now)
        head = decision.chosen
        if head is None:
            if not simulation.advance(decision.redispatch_at):
                break
            continue
        queued = head.queued
        schedule.granted_at[queued] = state.now
        schedule.finished_at[queued] = simulation.assign_slot(queued.request)
        if queued is until:
            break
        if not head.advance():
            heads.remove(head)
    schedule.until = state.now
    return schedule


class _Simulation:
    """The scheduler at a later time. Mutable state: all of it; nothing is shared with the real one.

    ``state`` and ``heads`` are what the policy sees.
    """

    def __init__(
        self,
        queues: Iterable[Iterable[QueuedRequest]],
        active: Iterable[QueuedRequest],
        state: SchedulerState,
        statistics: Statistics,
    ) -> None:
        self.heads = [_Head(requests) for requests in queues]
        self.state = replace(state, usage=state.usage.copy(), shares=state.shares.copy())
        self._statistics = statistics
        # By model: seconds for a response, and in addition for a load.
        self._seconds: dict[str, tuple[float, float]] = {}
        # When each model that is being loaded is ready. Ollama loads one at a time.
        self._ready_at: dict[str, float] = {}
        self._loader_free_at = state.now
        # When each active request ends, and what its key is then charged in addition.
        self._ends: list[tuple[float, SlotRequest, float]] = []
        for each in active:
            request = each.request
            seconds, load = self._seconds_of(request.model)
            if not each.model_was_loaded:
                seconds += load
                self._ready_at[request.model] = each.granted_at + load
            # A response that takes longer than the mean is about to end.
            seconds = max(seconds, state.now - each.granted_at)
            cost = seconds / request.weight - each.charged
            self._ends.append((each.granted_at + seconds, request, cost))

    def assign_slot(self, request: SlotRequest) -> float:
        """Give the request a slot. Returns when its response is complete."""
        state, model = self.state, request.model
        seconds, load = self._seconds_of(model)
        begins_at = state.now
        if request.local:
            if model not in state.residency.resident:
                if not state.residency.fits_without_eviction(model):
                    state.swapped_at = state.now
                state.residency = state.residency.after_load(model, state.usage.in_memory)
                self._loader_free_at = max(self._loader_free_at, state.now) + load
                self._ready_at[model] = self._loader_free_at
            begins_at = max(begins_at, self._ready_at.get(model, begins_at))
        ends_at, cost = begins_at + seconds, seconds / request.weight
        state.usage.add(request)
        state.shares.begin(request.key, cost, keeps_credit=not request.batch)
        self._ends.append((ends_at, request, (ends_at - state.now) / request.weight - cost))
        return ends_at

    def advance(self, redispatch_at: float | None) -> bool:
        """Go on to the next event. Returns False if there is none."""
        state = self.state
        at = min((end[0] for end in self._ends), default=inf)
        if redispatch_at is not None:
            at = min(at, redispatch_at)
        if at == inf:
            return False
        now = state.now = max(state.now, at)
        still_active = []
        for end in self._ends:
            if end[0] > now:
                still_active.append(end)
            else:
                _, request, cost = end
                state.usage.remove(request)
                state.shares.charge(request.key, cost)
        self._ends = still_active
        return True

    def _seconds_of(self, model: str) -> tuple[float, float]:
        known = self._seconds.get(model)
        if known is None:
            if self._statistics.has_slot_time(model):
                mean = self._statistics.slot_time(model).mean
                cold = self._statistics.slot_time(model, loaded=False).mean
                known = (mean, max(cold - mean, 0.0))
            else:
                known = (0.0, 0.0)
            self._seconds[model] = known
        return known


def estimate_wait(
    newcomer: QueuedRequest,
    schedule: Schedule,
    *,
    now: float,
    statistics: Statistics,
) -> WaitEstimate:
    """Return what a new request has to expect that is part of the simulated queues.

    If the simulation ended before it got its slot, its wait is a lower bound.
    """
    model = newcomer.request.model
    granted_at = schedule.granted_at.get(newcomer, schedule.until)
    finished_at = schedule.finished_at.get(newcomer)
    if finished_at is None:
        finished_at = granted_at + statistics.slot_time(model).mean
    return WaitEstimate(
        position=len(schedule.granted_at) - (newcomer in schedule.granted_at),
        wait=max(granted_at - now, 0.0),
        finish=finished_at - now,
        known=statistics.knows_slot_time(model),
    )
