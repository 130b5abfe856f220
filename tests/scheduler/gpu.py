"""One simulated GPU in virtual time, which asks the pure order who is next and holds it to account.

Memory holds some models at once. A model that is not there is loaded, one at a time, and drives
out the one that was used the longest ago; one that is at work is driven out when its calls have
ended, as Ollama does it.
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import Shares
from gateway.scheduler.policy import Decision, Head, Standing, is_doubtful, note
from gateway.scheduler.request import Limits, Occupancy, SlotRequest

EPSILON = 1e-6


@dataclass(frozen=True)
class Arrival:
    """A call: its answer takes ``seconds``; its caller leaves the queue after ``stays``."""

    at: float
    demand: SlotRequest
    seconds: float
    stays: float = inf


@dataclass(eq=False)
class Caller:
    """One call on its way; what ``Head`` asks for, and what became of it."""

    arrival: Arrival
    arrived_at: float
    needs: float
    passed_over_at: float | None = None
    turn_at: float | None = None
    granted_at: float | None = None
    done_at: float | None = None
    left_at: float | None = None

    @property
    def demand(self) -> SlotRequest:
        return self.arrival.demand

    @property
    def give_up_at(self) -> float:
        return self.arrived_at + self.demand.client_timeout

    @property
    def hurries_at(self) -> float:
        latest = self.give_up_at - self.needs
        return latest if latest > self.arrived_at else inf

    @property
    def doubtful_at(self) -> float:
        return self.give_up_at - self.arrival.seconds

    @property
    def not_before(self) -> float:
        return self.arrived_at + self.demand.delay

    @property
    def wait(self) -> float:
        assert self.done_at is not None
        return self.done_at - self.arrived_at


def first_come(heads: Iterable[Caller], standing: Standing) -> Decision[Caller]:
    """The order to compare with: first come, first served, inside the caps."""
    ranked = sorted(heads, key=lambda head: head.arrived_at)
    fits = standing.occupancy.has_room
    return Decision(next((one for one in ranked if fits(one.demand, standing.limits)), None))


Order = Callable[[Iterable[Caller], Standing], Decision[Caller]]


@dataclass
class Memory:
    """What is loaded, and when what is asked of it will be ready."""

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
        """When a call that is sent now can begin; it may have to wait for others to end."""
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
            # An idle one, the longest unused first; else whoever is done first.
            victim = min(self.loaded, key=lambda one: busy_until.get(one, -inf))
            room_at = max(room_at, busy_until.get(victim, now))
            self.stalls += victim in busy_until
            del self.loaded[victim]
        return room_at


class Gpu:
    """Runs arrivals to their end. ``after`` may follow a call that ended with another one."""

    def __init__(
        self,
        limits: Limits,
        view: Residency,
        *,
        order: Order,
        load: float = 0.0,
        after: Callable[[Caller, float], Arrival | None] = lambda _caller, _now: None,
        check: Callable[["Gpu"], None] = lambda _gpu: None,
    ) -> None:
        self.limits = limits
        self.memory = Memory(view, load)
        self.now = 0.0
        self.callers: list[Caller] = []
        self.active: list[Caller] = []
        self.occupancy = Occupancy()
        self.shares = Shares()
        self.lanes: dict[tuple[str, str], list[Caller]] = {}
        self._order = order
        self._after = after
        self._check = check
        self._ends: dict[Caller, float] = {}
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

    def heads(self) -> Iterator[Caller]:
        return (lane[0] for lane in self.lanes.values() if lane)

    def standing(self) -> Standing:
        return Standing(
            occupancy=self.occupancy,
            limits=self.limits,
            residency=self.memory.residency,
            shares=self.shares,
            now=self.now,
        )

    def done(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.done_at is not None]

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._number), event))

    def _arrive(self, arrival: Arrival) -> None:
        demand = arrival.demand
        caller = Caller(arrival, self.now, arrival.seconds + self.memory.load)
        if not any(lane for (key, _), lane in self.lanes.items() if key == demand.key):
            self.shares.arrive(demand.key)
        self.callers.append(caller)
        self.lanes.setdefault((demand.key, demand.model), []).append(caller)
        if arrival.stays < inf:
            self._at(self.now + arrival.stays, lambda: self._leave(caller))

    def _leave(self, caller: Caller) -> None:
        if caller.granted_at is None:
            caller.left_at = self.now
            self.lanes[caller.demand.key, caller.demand.model].remove(caller)

    def _dispatch(self) -> None:
        while True:
            decision = self._order(self.heads(), self.standing())
            note(decision, self.now)
            if decision.waiter is None:
                break
            self._grant(decision.waiter)
        if decision.ask_again_at is not None:
            assert decision.ask_again_at > self.now
            self._at(decision.ask_again_at, lambda: None)
        self._check(self)

    def _grant(self, caller: Caller) -> None:
        demand = caller.demand
        assert caller.granted_at is None
        assert caller is self.lanes[demand.key, demand.model].pop(0)
        caller.granted_at = self.now
        busy_until: dict[str, float] = {}
        for other in self.active:
            model = other.demand.model
            busy_until[model] = max(busy_until.get(model, 0.0), self._ends[other])
        self.occupancy.add(demand)
        self.active.append(caller)
        self.shares.begin(
            demand.key, turn=caller.arrival.seconds / demand.weight, saves=not demand.batch
        )
        ready_at = self.memory.ready_at(demand.model, busy_until, self.now)
        self._ends[caller] = ready_at + caller.arrival.seconds
        self._at(self._ends[caller], lambda: self._end(caller))

    def _end(self, caller: Caller) -> None:
        caller.done_at = self.now
        self.active.remove(caller)
        self.occupancy.remove(caller.demand)
        following = self._after(caller, self.now)
        if following is not None:
            self._at(following.at, lambda: self._arrive(following))


def is_urgent(head: Head, gpu: Gpu) -> bool:
    """Whether his patience with being passed over is at its end, or his time."""
    if is_doubtful(head, gpu.now):
        return False
    passed = head.passed_over_at
    if passed is not None and gpu.now >= passed + gpu.limits.max_affinity_delay:
        return True
    return head.turn_at is not None and gpu.now >= head.hurries_at
