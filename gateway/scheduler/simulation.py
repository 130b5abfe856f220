"""What is to come if nobody else does: the order itself, played forward in its own time. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Protocol, TypeVar

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import Shares
from gateway.scheduler.policy import Order, Standing, note
from gateway.scheduler.request import Limits, Occupancy, SlotRequest

MOST_TURNS: Final = 128
"""Turns that are played; of whoever comes after them, only that much is known."""

SWAPPING: Final = 0.1
"""Of the time: what may go into loading before one who comes is let in because he is in a hurry."""


class Waits(Protocol):
    """One who waits, or is about to; at ``leaves_at`` he is refused."""

    demand: SlotRequest
    arrived_at: float
    passed_over_at: float | None
    turn_at: float | None
    hurries_at: float
    doubtful_at: float
    give_up_at: float
    leaves_at: float
    not_before: float


class Holds(Protocol):
    """One at work."""

    demand: SlotRequest
    granted_at: float
    charged: float
    found_resident: bool


class Pace(Protocol):
    """How many seconds things take, by model."""

    def answer(self, model: str, /) -> float: ...
    def load(self, model: str, /) -> float: ...


W = TypeVar("W", bound=Waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """How things stand. ``lanes`` hold those who wait in their order, none of them empty.

    ``swapped_at`` is when something was last loaded, None where loading need not be spared.
    """

    now: float
    lanes: Sequence[Sequence[Waits]]
    holders: Iterable[Holds]
    occupancy: Occupancy
    shares: Shares
    residency: Residency
    limits: Limits
    order: Order
    swapped_at: float | None


@dataclass(slots=True)
class Future:
    """Who goes when, in the order in which they go, and when each is answered.

    ``refused`` are those whose time in the queue ends before. ``until`` is how far was looked.
    """

    granted_at: dict[Waits, float] = field(default_factory=dict)
    answered_at: dict[Waits, float] = field(default_factory=dict)
    refused: dict[Waits, float] = field(default_factory=dict)
    until: float = 0.0


def play(scene: Scene, pace: Pace, *, newcomer: Waits | None = None) -> Future:
    """Play on until nobody waits.

    A ``newcomer`` is never refused in it, nor is one before whom he cannot go. Nor does his hurry
    bring a swap forward before the last one has paid, where loading has to be spared: whoever could
    only be in time by that is not let in, so that loading stays a small part of the time however
    impatient everybody is.
    """
    return _Play(scene, pace, newcomer).run()


class _Row:
    """One lane; its head as the order sees it, with marks that are only of this play."""

    __slots__ = (
        "_waiters",
        "arrived_at",
        "demand",
        "doubtful_at",
        "hurries_at",
        "not_before",
        "passed_over_at",
        "turn_at",
        "waiter",
    )

    def __init__(self, waiters: Sequence[Waits]) -> None:
        self._waiters = iter(waiters)
        self.waiter: Waits | None = None
        self.next()

    def next(self) -> None:
        self.waiter = waiter = next(self._waiters, None)
        if waiter is None:
            return
        self.demand = waiter.demand
        self.arrived_at = waiter.arrived_at
        self.passed_over_at = waiter.passed_over_at
        self.turn_at = waiter.turn_at
        self.hurries_at = waiter.hurries_at
        self.doubtful_at = waiter.doubtful_at
        self.not_before = waiter.not_before


class _Play:
    def __init__(self, scene: Scene, pace: Pace, newcomer: Waits | None) -> None:
        self._scene = scene
        self._pace = pace
        self._newcomer = newcomer
        # All that changes while it plays.
        self._now = scene.now
        self._rows = [_Row(lane) for lane in scene.lanes]
        self._occupancy = scene.occupancy.copy()
        self._shares = scene.shares.copy()
        self._residency = scene.residency
        self._loaded_at = scene.now
        self._ready_at: dict[str, float] = {}
        self._ends = [self._end_of(holder) for holder in scene.holders]
        self._paid_at = -inf
        if newcomer is not None and scene.swapped_at is not None:
            self._paid_at = scene.swapped_at + pace.load(newcomer.demand.model) / SWAPPING
        self._slow_down()
        self._seen = Future()

    def run(self) -> Future:
        seen = self._seen
        while len(seen.granted_at) < MOST_TURNS:
            ask_again_at = self._dispatch()
            if not self._rows or not self._move_on(ask_again_at):
                break
        seen.until = self._now
        return seen

    def _dispatch(self) -> float | None:
        """Let everybody go who may; when time alone may change it."""
        while self._occupancy.total < self._scene.limits.max_active:
            self._refuse_late()
            standing = Standing(
                occupancy=self._occupancy,
                limits=self._scene.limits,
                residency=self._residency,
                shares=self._shares,
                now=self._now,
            )
            decision = self._scene.order(self._rows, standing)
            note(decision, self._now)
            row = decision.waiter
            if row is None or row.waiter is None:
                return decision.ask_again_at
            self._seen.granted_at[row.waiter] = self._now
            self._seen.answered_at[row.waiter] = self._begin(row.demand)
            self._advance(row)
        return None

    def _refuse_late(self) -> None:
        for row in self._rows:
            while row.waiter is not None and row.waiter.leaves_at <= self._now:
                if self._stays(row.waiter):
                    break
                self._seen.refused[row.waiter] = row.waiter.leaves_at
                self._advance(row)
        self._rows = [row for row in self._rows if row.waiter is not None]

    def _stays(self, waiter: Waits) -> bool:
        """Whether he is the newcomer; or before him in his lane, with no less time than he has.

        Were these refused, it would seem that he is in time because they are not.
        """
        newcomer = self._newcomer
        if newcomer is None or waiter is newcomer:
            return newcomer is not None
        one, other = waiter.demand, newcomer.demand
        return one.limit >= other.limit and (one.key, one.model) == (other.key, other.model)

    def _advance(self, row: _Row) -> None:
        row.next()
        self._slow_down()

    def _slow_down(self) -> None:
        """The newcomer's hurry counts only from when the last swap has paid."""
        newcomer = self._newcomer
        if newcomer is None or newcomer.hurries_at == inf:
            return
        for row in self._rows:
            if row.waiter is newcomer:
                row.hurries_at = max(newcomer.hurries_at, self._paid_at)

    def _begin(self, demand: SlotRequest) -> float:
        """Take a place; when he will be answered."""
        answer = self._pace.answer(demand.model)
        begins_at = self._now
        if demand.local:
            begins_at = max(begins_at, self._loaded(demand.model))
        turn, ends_at = answer / demand.weight, begins_at + answer
        self._occupancy.add(demand)
        self._shares.begin(demand.key, turn=turn, saves=not demand.batch)
        self._ends.append((ends_at, demand, (ends_at - self._now) / demand.weight - turn))
        return ends_at

    def _loaded(self, model: str) -> float:
        """When the model is there; what must be loaded is loaded one after the other."""
        if model not in self._residency.resident:
            self._residency = self._residency.after_load(model, self._occupancy.in_memory)
            load = self._pace.load(model)
            self._loaded_at = max(self._loaded_at, self._now) + load
            self._ready_at[model] = self._loaded_at
            if self._scene.swapped_at is not None:
                self._paid_at = self._now + load / SWAPPING
                self._slow_down()
        return self._ready_at.get(model, self._now)

    def _end_of(self, holder: Holds) -> tuple[float, SlotRequest, float]:
        """When he is done, and what he then owes beyond what was charged."""
        demand = holder.demand
        seconds = self._pace.answer(demand.model)
        if not holder.found_resident:
            load = self._pace.load(demand.model)
            self._ready_at[demand.model] = holder.granted_at + load
            seconds += load
        seconds = max(seconds, self._now - holder.granted_at)
        return holder.granted_at + seconds, demand, seconds / demand.weight - holder.charged

    def _move_on(self, ask_again_at: float | None) -> bool:
        """To the next moment at which something changes; False if nothing ever does."""
        at = min((end[0] for end in self._ends), default=inf)
        at = at if ask_again_at is None else min(at, ask_again_at)
        if at == inf:
            return False
        self._now = max(self._now, at)
        over = [end for end in self._ends if end[0] <= self._now]
        self._ends = [end for end in self._ends if end[0] > self._now]
        for _, demand, owes in over:
            self._occupancy.remove(demand)
            self._shares.charge(demand.key, owes)
        return True


def late(future: Future, part: float = 1.0) -> Mapping[Waits, float]:
    """Those who are refused, or answered when they have left, and when.

    Or, with ``part`` below 1, who wait for more than that part of their time in the queue.
    """
    found = dict(future.refused)
    for waiter, granted_at in future.granted_at.items():
        line = waiter.arrived_at + part * (waiter.leaves_at - waiter.arrived_at)
        if future.answered_at[waiter] > waiter.give_up_at or (part < 1 and granted_at > line):
            found[waiter] = granted_at
    return found
