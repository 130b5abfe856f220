"""What the queue knows of its own future: it plays it, and keeps what it saw until it changes."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.models.residency import ResidencyTracker
from gateway.scheduler.active import Holders
from gateway.scheduler.pace import Usual, quick_answer, slow_answer
from gateway.scheduler.policy import Order
from gateway.scheduler.prediction import Prediction, at_once, harmed, predict
from gateway.scheduler.queue import Waiter, Waiting
from gateway.scheduler.request import Limits, SlotRequest
from gateway.scheduler.simulation import MOST_TURNS, Future, Scene, Waits, late, play

_FRESH: Final = 1.0
"""Seconds for which the future that was seen is shown, if nothing happens."""

_MANY: Final = 128
"""Waiters. With more of them it is shown for as long whatever happens: to play it takes long."""

_SLOWER: Final = 1.1
"""Times as long as usual. Who can be harmed by so little was not in time before; that things go
quicker harmed nobody in some tens of simulated hours."""

_LOADING: Final = 0.3
"""Of the time: what loading may take where models do not fit together, and what it may delay."""


@dataclass(frozen=True, slots=True)
class Place:
    """``position`` 1 is the next to go; ``wait`` is how many seconds more he is likely to wait."""

    position: int
    wait: float


class Foresight:
    """Mutable state: what was seen last, and when."""

    def __init__(
        self,
        *,
        limits: Limits,
        holders: Holders,
        waiting: Waiting,
        residency: ResidencyTracker,
        order: Order,
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._holders = holders
        self._waiting = waiting
        self._residency = residency
        self._order = order
        self._now = now
        self._changed = False
        self._seen_at = -inf
        # If nobody comes; and the place of each in it.
        self._seen: Future | None = None
        self._positions: dict[Waits, int] = {}
        self._seen_slower: Future | None = None
        # If one like these comes. Many are refused for one reason while nothing changes.
        self._seen_with: dict[tuple[object, ...], tuple[Waiter, Future]] = {}
        self._unsettled: dict[tuple[object, ...], Collection[Waits]] = {}
        self._advice: dict[tuple[object, ...], Prediction] = {}

    def waiter(self, demand: SlotRequest) -> Waiter:
        """One who comes now, with what is known of how long his call may take."""
        future = asyncio.get_running_loop().create_future()
        now = self._now()
        if demand.client_timeout == inf:
            return Waiter(demand, arrived_at=now, future=future)
        model, service = demand.model, self._holders.service
        return Waiter(
            demand,
            arrived_at=now,
            future=future,
            needs=self._needs(demand),
            slow=slow_answer(model, service),
            quick=quick_answer(model, service),
        )

    def changed(self) -> None:
        """Somebody came, went or left: what was seen is not to come any more."""
        self._changed = True

    def of(self, newcomer: Waiter) -> Prediction:
        """What one who does not wait yet has to expect."""
        one, with_him = self._future_with(newcomer)
        alike = _alike(newcomer.demand)
        if alike not in self._advice:
            scene, service = self._scene(one), self._holders.service
            self._advice[alike] = predict(one, scene, service, with_him)
        return self._advice[alike]

    def harmed_by(self, newcomer: Waiter, *, part: float) -> Mapping[Waits, float]:
        """Those who are late because of him; see ``predict.harmed``."""
        one, with_him = self._future_with(newcomer)
        if not late(with_him, part):
            return {}  # And what comes without him need not be played.
        return harmed(one, with_him, self._future, part=part)

    def unsettled_by(self, newcomer: Waiter) -> Collection[Waits]:
        """Those who are late because of him if everything takes a tenth longer than usual.

        He is one of them if he is late then himself.
        """
        one, with_him = self._future_with(newcomer)
        if with_him is self._seen:
            return ()  # He is behind all that can be seen.
        alike = _alike(newcomer.demand)
        if alike not in self._unsettled:
            self._unsettled[alike] = self._late_if_slower(one)
        return self._unsettled[alike]

    def roughly(self, demand: SlotRequest) -> Prediction:
        """The same at a glance, for one to whom it makes no difference: swaps do not count."""
        service, now = self._holders.service, self._now()
        answer = Usual(service).answer
        left = (answer(one.demand.model) - (now - one.granted_at) for one in self._holders)
        before = sum(max(seconds, 0.0) for seconds in left)
        before += sum(len(lane) * answer(lane.demand.model) for lane in self._waiting.lanes())
        wait = before / self.capacity(demand)
        finish, known = wait + answer(demand.model), service.knows_slot_time(demand.model)
        return Prediction(len(self._waiting), wait, finish, wait, finish, known=known)

    def at_once(self, waiter: Waiter) -> Prediction:
        """What one has to expect who has his place."""
        demand = waiter.demand
        resident = waiter.found_resident or not demand.local
        return at_once(demand.model, self._holders.service, resident=resident)

    def place(self, waiter: Waiter) -> Place:
        """Where one stands who waits."""
        self._look()
        future = self._future
        at = future.granted_at.get(waiter, future.refused.get(waiter, future.until))
        position = self._positions.get(waiter, len(self._positions) + 1)
        return Place(position, max(at - self._now(), 0.0))

    def capacity(self, demand: SlotRequest) -> float:
        """How many calls are really served at once, with such a one among them."""
        residency, most = self._residency.view(), self._limits.max_active
        models = {(lane.demand.model, lane.demand.local) for lane in self._waiting.lanes()}
        models.add((demand.model, demand.local))
        here = frozenset(model for model, local in models if local)
        elsewhere = (len(models) - len(here)) * demand.model_max_active
        if residency.can_coexist(here):
            return min(most, elsewhere + len(here) * demand.model_max_active)
        together = residency.max_loaded or max(map(len, residency.coresident), default=1)
        places = min(most, together * demand.model_max_active) * (1 - _LOADING)
        return min(most, elsewhere + places)

    # Inside.

    def _needs(self, demand: SlotRequest) -> float:
        """Seconds until an answer, from when others must begin to make way for it.

        Where little is known of the model it is twice that, up to half of the caller's time: or it
        might never be served in time, and so never be known.
        """
        service, residency = self._holders.service, self._residency.view()
        if not demand.local:
            return service.slot_time(demand.model).mean
        needs = service.slot_time(demand.model, loaded=False).mean
        if not residency.fits_without_eviction(demand.model):
            in_the_way = (service.slot_time(model).mean for model in residency.resident)
            needs += max(in_the_way, default=0.0)
        if service.knows_slot_time(demand.model):
            return needs
        return max(needs, min(2 * needs, demand.client_timeout / 2))

    def _look(self) -> None:
        """What was seen a while ago is looked at anew: those at work take as long as they take."""
        now = self._now()
        outdated = self._changed and len(self._waiting) <= _MANY
        if outdated or now - self._seen_at > _FRESH:
            self._changed = False
            self._seen_at = now
            self._seen = None
            self._seen_slower = None
            self._seen_with.clear()
            self._unsettled.clear()
            self._advice.clear()

    @property
    def _future(self) -> Future:
        if self._seen is None:
            self._seen = play(self._scene(), Usual(self._holders.service))
            self._positions = {one: number for number, one in enumerate(self._seen.granted_at, 1)}
        return self._seen

    def _future_with(self, newcomer: Waiter) -> tuple[Waiter, Future]:
        """What comes if he does; or one like him, who is in it in his place."""
        self._look()
        alike = _alike(newcomer.demand)
        if alike not in self._seen_with:
            self._seen_with[alike] = newcomer, self._play_with(newcomer)
        return self._seen_with[alike]

    def _play_with(self, newcomer: Waiter) -> Future:
        last = self._waiting.last_before(newcomer.demand)
        if last is not None and len(self._waiting) >= MOST_TURNS:
            future = self._future
            if last not in future.granted_at and last not in future.refused:
                # He comes behind one whose turn is too far ahead to be seen: nothing else changes.
                return future
        return play(self._scene(newcomer), Usual(self._holders.service), newcomer=newcomer)

    def _late_if_slower(self, newcomer: Waiter) -> Collection[Waits]:
        pace = Usual(self._holders.service, _SLOWER)
        # As it will be once he waits; he is only refused, or hurries, like everybody else.
        with_him = play(self._scene(newcomer), pace)
        too_late = late(with_him)
        found = too_late.keys() & {newcomer}
        if too_late.keys() == found:
            return found
        if self._seen_slower is None:
            self._seen_slower = play(self._scene(), pace)
        return found | harmed(newcomer, with_him, self._seen_slower, part=1.0).keys()

    def _scene(self, newcomer: Waiter | None = None) -> Scene:
        """How things stand, with the newcomer in his lane."""
        lanes = {(one.demand.key, one.demand.model): list(one) for one in self._waiting.lanes()}
        if newcomer is not None:
            demand = newcomer.demand
            lane = lanes.setdefault((demand.key, demand.model), [])
            lane.insert(0 if demand.first else len(lane), newcomer)
        now = self._now()
        return Scene(
            now=now,
            lanes=list(lanes.values()),
            holders=self._holders,
            occupancy=self._holders.occupancy,
            shares=self._holders.shares,
            residency=self._residency.view(),
            limits=self._limits,
            order=self._order,
            swapped_at=self._holders.swapped_at if self._waiting.is_lasting(now) else None,
        )


def _alike(demand: SlotRequest) -> tuple[object, ...]:
    """What tells two apart who come to the same queue."""
    return (demand.key, demand.model, demand.queue_timeout, demand.client_timeout, demand.batch)
