"""Those who wait: one lane for each key and model, first come first served within it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator

from gateway.admission.demand import Demand, lower
from gateway.errors import GatewayError


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
        "needs",
        "not_before",
        "passed_over_at",
        "timer",
    )

    def __init__(
        self,
        demand: Demand,
        *,
        arrived_at: float,
        future: asyncio.Future[None],
        needs: float = 0.0,
        slow: float = 0.0,
    ) -> None:
        """``needs`` is what his call is expected to take, ``slow`` what nearly all take at most."""
        self.demand = demand
        self.arrived_at = arrived_at
        self.needs = needs
        self.future = future
        self.give_up_at = arrived_at + demand.patience
        self.doubtful_at = self.give_up_at - slow
        self.not_before = arrived_at + demand.delay
        self.passed_over_at: float | None = None
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

    __slots__ = ("_waiters", "demand")

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        # A plain dict finds its first entry ever more slowly as entries before it are removed.
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    def __contains__(self, waiter: object) -> bool:
        return waiter in self._waiters

    @property
    def head(self) -> Waiter:
        return next(iter(self._waiters))

    @property
    def oldest(self) -> Waiter:
        """Not the head where one came back who had his turn already."""
        return min(self._waiters, key=lambda waiter: waiter.arrived_at)

    @property
    def newest(self) -> Waiter:
        return next(reversed(self._waiters))

    def front(self, held_back: Callable[[Waiter], bool]) -> Iterator[Waiter]:
        """The first who is not held back, and those before him."""
        for waiter in self._waiters:
            yield waiter
            if not held_back(waiter):
                return

    def add(self, waiter: Waiter) -> None:
        self._waiters[waiter] = None
        if waiter.demand.first:
            self._waiters.move_to_end(waiter, last=False)

    def remove(self, waiter: Waiter) -> None:
        del self._waiters[waiter]


class Waiting:
    """All lanes. Mutable state: the lanes that are not empty, and how many wait by key."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._count = 0
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
        return (waiter for lane in self._lanes.values() for waiter in lane.front(held_back))

    def lanes(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def has_before(self, demand: Demand, held_back: Callable[[Waiter], bool]) -> bool:
        """Whether somebody who is not held back goes first in the lane."""
        lane = self._lanes.get((demand.key, demand.model), ())
        return any(not held_back(waiter) for waiter in lane)

    def add(self, waiter: Waiter) -> None:
        demand = waiter.demand
        place = (demand.key, demand.model)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(demand)
        lane.add(waiter)
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
