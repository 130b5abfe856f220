"""Those who hold places: how many, what their turns cost their keys, and how long they take."""

from collections.abc import Callable, Iterator
from math import inf

from gateway.models.statistics import Statistics
from gateway.scheduler.fair_share import Shares
from gateway.scheduler.queue import Waiter
from gateway.scheduler.request import Occupancy


class Holders:
    """Mutable state: the holders, and what is counted, measured and charged of them."""

    def __init__(self, *, now: Callable[[], float], service: Statistics) -> None:
        self.occupancy = Occupancy()
        self.service = service
        self.shares = Shares()
        self._now = now
        self._holders: dict[Waiter, None] = {}
        # When something last had to leave memory for one of them.
        self.swapped_at = -inf

    def __len__(self) -> int:
        return len(self._holders)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._holders)

    def add(self, waiter: Waiter, *, resident: bool, swaps: bool = False) -> None:
        """His turn begins; ``resident``: the model is proven to be loaded.

        ``swaps``: it is not believed to be, and is loaded for him.
        """
        demand = waiter.demand
        waiter.granted_at = self._now()
        if swaps:
            self.swapped_at = waiter.granted_at
        waiter.found_resident = resident
        waiter.charged = self.service.slot_time(demand.model).mean / demand.weight
        self._holders[waiter] = None
        self.occupancy.add(demand)
        self.shares.begin(demand.key, turn=waiter.charged, saves=not demand.batch)

    def remove(self, waiter: Waiter, *, answered: bool) -> None:
        """His turn has ended; only what was ``answered`` tells how long an answer takes."""
        demand = waiter.demand
        held = self._now() - waiter.granted_at
        if answered:
            self.service.record_slot_time(demand.model, held, loaded=waiter.found_resident)
        del self._holders[waiter]
        self.occupancy.remove(demand)
        self.shares.charge(demand.key, held / demand.weight - waiter.charged)

    def close(self, key: str) -> None:
        """Nothing of this key waits: its account ends unless something of it is at work."""
        if key not in self.occupancy.by_key:
            self.shares.forget(key)

    def settle(self) -> None:
        """Charge those at work for as long as it has lasted."""
        now = self._now()
        for waiter in self._holders:
            due = (now - waiter.granted_at) / waiter.demand.weight
            if due > waiter.charged:
                self.shares.charge(waiter.demand.key, due - waiter.charged)
                waiter.charged = due

    def forgive(self) -> None:
        """Nobody has waited until now: what was taken meanwhile was taken from nobody."""
        self.settle()
        self.shares.level(self.service.mean_slot_time)
