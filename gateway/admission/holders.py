"""Those who hold places: how many, what their turns cost their keys, and how long they take."""

from collections.abc import Callable

from gateway.admission.demand import Occupancy
from gateway.admission.service import ServiceTimes
from gateway.admission.shares import Shares
from gateway.admission.waiting import Waiter


class Holders:
    """Mutable state: the holders, and what is counted, measured and charged of them."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        self.occupancy = Occupancy()
        self.service = ServiceTimes()
        self.shares = Shares()
        self._now = now
        self._holders: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, waiter: Waiter, *, resident: bool) -> None:
        """His turn begins; ``resident``: the model is believed to be loaded."""
        demand = waiter.demand
        waiter.granted_at = self._now()
        waiter.found_resident = resident
        waiter.charged = self.service.of(demand.model).mean / demand.weight
        self._holders[waiter] = None
        self.occupancy.add(demand)
        self.shares.begin(demand.key, turn=waiter.charged, saves=not demand.batch)

    def remove(self, waiter: Waiter, *, answered: bool) -> None:
        """His turn has ended; only what was ``answered`` tells how long an answer takes."""
        demand = waiter.demand
        held = self._now() - waiter.granted_at
        if answered:
            self.service.add(demand.model, held, resident=waiter.found_resident)
        del self._holders[waiter]
        self.occupancy.remove(demand)
        self.shares.charge(demand.key, held / demand.weight - waiter.charged)

    def settle(self) -> None:
        """Charge those at work for as long as it has lasted."""
        now = self._now()
        for waiter in self._holders:
            due = (now - waiter.granted_at) / waiter.demand.weight
            if due > waiter.charged:
                self.shares.charge(waiter.demand.key, due - waiter.charged)
                waiter.charged = due
