"""One simulated GPU in virtual time, driven by the pure policy alone.

Memory holds some models at once. Other models are loaded one at a time and evict the model that was
used the longest ago, or as Ollama does it, the one whose requests end first if all are in use.
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import FairShare
from gateway.scheduler.policy import Candidate, Decision, SchedulerState, Usage, record_decision
from gateway.scheduler.queue import SlotRequest
from gateway.settings import SchedulerSettings

EPSILON = 1e-6


@dataclass(frozen=True)
class Arrival:
    """A request. Its response takes ``seconds``; its client times out after ``client_timeout``."""

    at: float
    request: SlotRequest
    seconds: float
    client_timeout: float = inf


@dataclass(eq=False)
class GpuRequest:
    """One request: a ``Candidate``, and what became of it."""

    arrival: Arrival
    arrived_at: float
    lead_time: float
    skipped_at: float | None = None
    due_at: float | None = None
    granted_at: float | None = None
    done_at: float | None = None
    left_at: float | None = None

    @property
    def request(self) -> SlotRequest:
        return self.arrival.request

    @property
    def client_deadline(self) -> float:
        return self.arrived_at + self.request.client_timeout

    @property
    def urgent_at(self) -> float:
        latest = self.client_deadline - self.lead_time
        return latest if latest > self.arrived_at else inf

    @property
    def not_before(self) -> float:
        return self.arrived_at + self.request.delay

    @property
    def wait(self) -> float:
        assert self.done_at is not None
        return self.done_at - self.arrived_at


Policy = Callable[[Iterable[GpuRequest], SchedulerState], Decision[GpuRequest]]


@dataclass
class Memory:
    """What is loaded, and when each model is ready. ``stalls`` counts evicted models in use."""

    view: Residency
    load: float
    loaded: "OrderedDict[str, float]" = field(default_factory=OrderedDict)
    loads: int = 0
    stalls: int = 0
    loader_free_at: float = 0.0

    @property
    def residency(self) -> Residency:
        return Residency(frozenset(self.loaded), self.view.coresident, self.view.max_loaded)

    def ready_at(self, model: str, busy_until: dict[str, float], now: float) -> float:
        """Return when a request that is sent now can begin."""
        if model not in self.loaded:
            room_at = self._make_room(model, busy_until, now)
            self.loads += 1
            self.loader_free_at = max(room_at, self.loader_free_at) + self.load
            self.loaded[model] = self.loader_free_at
        self.loaded.move_to_end(model)
        return max(now, self.loaded[model])

    def _make_room(self, model: str, busy_until: dict[str, float], now: float) -> float:
        room_at = now
        while not self.view.can_coexist(frozenset(self.loaded) | {model}):
            victim = min(self.loaded, key=lambda one: busy_until.get(one, -inf))
            room_at = max(room_at, busy_until.get(victim, now))
            self.stalls += victim in busy_until
            del self.loaded[victim]
        return room_at


class Gpu:
    """Runs arrivals to their end. ``after`` may return another arrival when a request has ended."""

    def __init__(
        self,
        settings: SchedulerSettings,
        view: Residency,
        *,
        policy: Policy,
        load: float = 0.0,
        after: Callable[[GpuRequest, float], Arrival | None] = lambda _request, _now: None,
        check: Callable[["Gpu"], None] = lambda _gpu: None,
    ) -> None:
        self.settings = settings
        self.memory = Memory(view, load)
        self.now = 0.0
        self.requests: list[GpuRequest] = []
        self.active: list[GpuRequest] = []
        self.usage = Usage()
        self.shares = FairShare()
        self.queues: dict[tuple[str, str], list[GpuRequest]] = {}
        self._policy = policy
        self._after = after
        self._check = check
        self._ends: dict[GpuRequest, float] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def run(self, arrivals: Iterable[Arrival], *, until: float = inf) -> "Gpu":
        for arrival in arrivals:
            self._at(arrival.at, partial(self._arrive, arrival))
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._dispatch()
        return self

    def candidates(self) -> Iterator[GpuRequest]:
        return (queue[0] for queue in self.queues.values() if queue)

    def state(self) -> SchedulerState:
        return SchedulerState(
            usage=self.usage,
            settings=self.settings,
            residency=self.memory.residency,
            shares=self.shares,
            now=self.now,
        )

    def done(self) -> list[GpuRequest]:
        return [request for request in self.requests if request.done_at is not None]

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._number), event))

    def _arrive(self, arrival: Arrival) -> None:
        queued = GpuRequest(arrival, self.now, arrival.seconds + self.memory.load)
        key, model = queued.request.key, queued.request.model
        if not any(queue for (other, _), queue in self.queues.items() if other == key):
            self.shares.arrive(key)
        self.requests.append(queued)
        self.queues.setdefault((key, model), []).append(queued)
        if arrival.client_timeout < inf:
            self._at(self.now + arrival.client_timeout, lambda: self._leave(queued))

    def _leave(self, queued: GpuRequest) -> None:
        if queued.granted_at is None:
            queued.left_at = self.now
            self.queues[queued.request.key, queued.request.model].remove(queued)

    def _dispatch(self) -> None:
        while True:
            decision = self._policy(self.candidates(), self.state())
            record_decision(decision, self.now)
            if decision.chosen is None:
                break
            self._assign_slot(decision.chosen)
        if decision.redispatch_at is not None:
            assert decision.redispatch_at > self.now
            self._at(decision.redispatch_at, lambda: None)
        self._check(self)

    def _assign_slot(self, queued: GpuRequest) -> None:
        request = queued.request
        assert queued.granted_at is None
        assert queued is self.queues[request.key, request.model].pop(0)
        queued.granted_at = self.now
        busy_until: dict[str, float] = {}
        for other in self.active:
            model = other.request.model
            busy_until[model] = max(busy_until.get(model, 0.0), self._ends[other])
        self.usage.add(request)
        self.active.append(queued)
        cost = queued.arrival.seconds / request.weight
        self.shares.begin(request.key, cost, keeps_credit=not request.batch)
        ready_at = self.memory.ready_at(request.model, busy_until, self.now)
        self._ends[queued] = ready_at + queued.arrival.seconds
        self._at(self._ends[queued], lambda: self._end(queued))

    def _end(self, granted: GpuRequest) -> None:
        granted.done_at = self.now
        self.active.remove(granted)
        self.usage.remove(granted.request)
        following = self._after(granted, self.now)
        if following is not None:
            self._at(following.at, lambda: self._arrive(following))


def is_urgent(candidate: Candidate, gpu: Gpu) -> bool:
    """Return True if it was skipped for long enough, or can only just meet its deadline."""
    skipped_at = candidate.skipped_at
    if skipped_at is not None and gpu.now >= skipped_at + gpu.settings.max_affinity_delay:
        return True
    return candidate.due_at is not None and gpu.now >= candidate.urgent_at
