"""Those who wait: one lane for each key and model, first come first served within it."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from math import inf
from operator import attrgetter
from typing import Final

from gateway.errors import GatewayError
from gateway.scheduler.request import SlotRequest, lower

_number: Final = attrgetter("number")

_BURST: Final = 120.0
"""Seconds. Calls that came at once may wait for so long, and it is no sign that too many come.

With less, callers were refused at seven tenths of the load who would have been served; with twice
as much, twice as many were let in at three times the load that were not served in time.
"""


class Waiter:
    """One call that waits for a place. Times are of the queue's clock."""

    __slots__ = (
        "arrived_at",
        "charged",
        "demand",
        "doubtful_at",
        "found_resident",
        "future",
        "give_up_at",
        "granted_at",
        "hurries_at",
        "leaves_at",
        "not_before",
        "number",
        "passed_over_at",
        "stays",
        "timer",
        "turn_at",
    )

    def __init__(
        self,
        demand: SlotRequest,
        *,
        arrived_at: float,
        future: asyncio.Future[None],
        needs: float = 0.0,
        slow: float = 0.0,
        quick: float = 0.0,
    ) -> None:
        """``needs`` is what his call takes, from when others must make way until it is answered.

        ``slow`` is what nearly all answers take at most, ``quick`` what they take at least.
        ``leaves_at``, when he has waited for as long as he ``stays``, is when he is refused: later
        he would only be sent to fail.
        """
        self.demand = demand
        self.arrived_at = arrived_at
        self.future = future
        self.give_up_at = arrived_at + demand.client_timeout
        self.stays = min(demand.queue_timeout, max(demand.client_timeout - quick, 0.0))
        self.leaves_at = arrived_at + self.stays
        latest = self.give_up_at - needs
        # Whoever was late as he came is not hurried for it.
        self.hurries_at = latest if latest > arrived_at else inf
        self.doubtful_at = self.give_up_at - slow
        self.not_before = arrived_at + demand.delay
        self.passed_over_at: float | None = None
        self.turn_at: float | None = None
        # Where he stands in his lane: the lower, the sooner; negative if he had his turn already.
        self.number = 0
        # Once granted: when, what was charged for the turn, and whether the model was loaded.
        self.granted_at = arrived_at
        self.charged = 0.0
        self.found_resident = False
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


class Lane:
    """Those of one key who wait for one model, in order; ``demand`` is the first one's ever."""

    __slots__ = ("_first", "_last", "_waiters", "demand")

    def __init__(self, demand: SlotRequest) -> None:
        self.demand = demand
        # In the order of their numbers. To close a gap in a list of thousands takes microseconds.
        self._waiters: list[Waiter] = []
        self._first = self._last = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    def __contains__(self, waiter: object) -> bool:
        return isinstance(waiter, Waiter) and self._at(self.before(waiter)) is waiter

    @property
    def head(self) -> Waiter:
        return self._waiters[0]

    @property
    def oldest(self) -> Waiter:
        """Not the head where one came back who had his turn already."""
        count = bisect_left(self._waiters, 0, key=_number)
        return min(self._waiters[: count + 1], key=lambda waiter: waiter.arrived_at)

    @property
    def newest(self) -> Waiter:
        return self._waiters[-1]

    def handler(self, held_back: Callable[[Waiter], bool]) -> Iterator[Waiter]:
        """The first who is not held back, and those before him."""
        for waiter in self._waiters:
            yield waiter
            if not held_back(waiter):
                return

    def before(self, waiter: Waiter) -> int:
        """How many of this lane go before one who waits in it."""
        return bisect_left(self._waiters, waiter.number, key=_number)

    def add(self, waiter: Waiter) -> None:
        """At the end; or before all others, if he had his turn already."""
        if waiter.demand.first:
            self._first -= 1
            waiter.number = self._first
            self._waiters.insert(0, waiter)
        else:
            waiter.number = self._last
            self._last += 1
            self._waiters.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        del self._waiters[self.before(waiter)]

    def _at(self, index: int) -> Waiter | None:
        return self._waiters[index] if index < len(self._waiters) else None


class Waiting:
    """All lanes. Mutable state: those not empty, how many wait by key, since when, until when."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._count = 0
        self._since = 0.0
        # Nobody ends his waiting before; those who have gone may have made it too early.
        self._earliest = inf
        self.by_key: dict[str, int] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for lane in self._lanes.values() for waiter in lane)

    def __contains__(self, waiter: Waiter) -> bool:
        lane = self._lanes.get((waiter.demand.key, waiter.demand.model))
        return lane is not None and waiter in lane

    def heads(self, held_back: Callable[[Waiter], bool]) -> Iterator[Waiter]:
        """The first of every lane; and where that one is held back, the next behind him."""
        return (waiter for lane in self._lanes.values() for waiter in lane.handler(held_back))

    def lanes(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def has_before(self, demand: SlotRequest, held_back: Callable[[Waiter], bool]) -> bool:
        """Whether somebody who is not held back goes first in the lane."""
        lane = self._lanes.get((demand.key, demand.model), ())
        return any(not held_back(waiter) for waiter in lane)

    def last_before(self, demand: SlotRequest) -> Waiter | None:
        """Behind whom one would stand in his lane; None if he would be the first."""
        lane = self._lanes.get((demand.key, demand.model))
        return None if lane is None or demand.first else lane.newest

    def add(self, waiter: Waiter) -> None:
        demand = waiter.demand
        place = (demand.key, demand.model)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(demand)
        lane.add(waiter)
        if not self._count:
            self._since = waiter.arrived_at
            self._earliest = inf
        self._earliest = min(self._earliest, _end_of(waiter))
        self._count += 1
        self.by_key[demand.key] = self.by_key.get(demand.key, 0) + 1

    def remove(self, waiter: Waiter) -> None:
        demand = waiter.demand
        place = (demand.key, demand.model)
        lane = self._lanes[place]
        lane.remove(waiter)
        if not lane:
            del self._lanes[place]
        self._count -= 1
        lower(self.by_key, demand.key)

    def all_stay_until(self, at: float) -> bool:
        """Whether nobody is refused, nor leaves, before ``at``."""
        if self._earliest < at:
            self._earliest = min(map(_end_of, self), default=inf)
        return self._earliest >= at

    def is_lasting(self, now: float) -> bool:
        """Whether it is no burst: somebody has waited, one or the other, for a while."""
        return bool(self._count) and now - self._since > _BURST

    def is_greedier(self, one: SlotRequest, newcomer: SlotRequest) -> bool:
        """Whether a key has more waiting, by weight, than another plus one."""
        if one.key == newcomer.key:
            return False
        had = self.by_key.get(one.key, 0) / one.weight
        have = (self.by_key.get(newcomer.key, 0) + 1) / newcomer.weight
        return had > have

    def newest_of_greediest(self) -> Waiter | None:
        """The last who came of the key that has the most waiting for its weight."""
        by_key: dict[str, Waiter] = {}
        for lane in self._lanes.values():
            newest = lane.newest
            if newest.demand.first:
                # So are all of this lane: they had their turn, and give no place up.
                continue
            known = by_key.get(newest.demand.key)
            if known is None or newest.arrived_at >= known.arrived_at:
                by_key[newest.demand.key] = newest
        return max(
            by_key.values(),
            key=lambda waiter: self.by_key[waiter.demand.key] / waiter.demand.weight,
            default=None,
        )


def _end_of(waiter: Waiter) -> float:
    return min(waiter.leaves_at, waiter.give_up_at)
