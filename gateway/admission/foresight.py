"""What the queue knows of its own future: it plays it, and remembers what it saw until it changes.

Rules for letting one in who would have to wait:

* Refused is who would surely be too late himself: the 10th percentile of the prediction decides.
* So is who would make somebody late that was let in before, unless so much more is waiting of that
  one's key, or for his model, that its last are beyond its fair share.
* Where keys share, each may fill the queue only with as much as its fair part of the places serves
  in time, as long as what the others send goes on.
* A wait is planned with something to spare; with more of it by the patient, while others come who
  can wait for much less.
* None of this where all that waits is surely served in time, however badly it goes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Final

from gateway.admission.demand import Demand, Limits
from gateway.admission.forecast import Future, Scene, Waits, play
from gateway.admission.holders import Holders
from gateway.admission.memory import Memory
from gateway.admission.pace import Usual
from gateway.admission.predict import Prediction, at_once, harmed, predict
from gateway.admission.traffic import Traffic, fair_part
from gateway.admission.turns import Order
from gateway.admission.waiting import Waiter, Waiting

_USABLE: Final = 0.9
"""Of the time that a call can wait: what may be planned with. Something always comes between."""

_USABLE_BESIDE_HURRY: Final = 0.6
"""The same of the patient, while others come who cannot wait: the rest is for these."""

_GREEDY: Final = 3.0
"""More than so many times as much waiting, for its weight, as another's makes a key greedy."""

_CROWDED: Final = 1.5
"""The same for models, whoever's calls: else the load that a model needs would keep it away."""

_LOADING: Final = 0.3
"""Of the time: what loading may take where models do not fit together, and what it may delay."""

_FRESH: Final = 1.0
"""Seconds for which the future that was seen is shown, if nothing happens."""


@dataclass(frozen=True, slots=True)
class Place:
    """``position`` 1 is the next to go; ``wait`` is how many seconds more he is likely to wait."""

    position: int
    wait: float


class Foresight:
    """Mutable state: what was seen last, and the traffic."""

    def __init__(
        self,
        *,
        limits: Limits,
        holders: Holders,
        waiting: Waiting,
        memory: Memory,
        order: Order,
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._holders = holders
        self._waiting = waiting
        self._memory = memory
        self._order = order
        self._now = now
        self._traffic = Traffic()
        self._seen_at = -inf
        self._seen: tuple[Future, dict[Waits, int]] | None = None
        # What one like these was told. Many are refused for one reason while nothing changes.
        self._advice: dict[tuple[object, ...], Prediction] = {}
        self._harmful: dict[tuple[object, ...], bool] = {}

    def changed(self) -> None:
        """Somebody came, went or left: what was seen is not to come any more."""
        self._seen = None
        self._advice.clear()
        self._harmful.clear()

    def of(self, newcomer: Waiter) -> Prediction:
        """What one who does not wait yet has to expect."""
        self._look()
        alike = _alike(newcomer.demand)
        if alike not in self._advice:
            scene, service = self._scene(newcomer), self._holders.service
            self._advice[alike] = predict(newcomer, scene, service)
        return self._advice[alike]

    def roughly(self, demand: Demand) -> Prediction:
        """The same at a glance, for one to whom it makes no difference: swaps do not count."""
        service, now = self._holders.service, self._now()
        answer = Usual(service).answer
        left = (answer(one.demand.model) - (now - one.granted_at) for one in self._holders)
        before = sum(max(seconds, 0.0) for seconds in left)
        before += sum(len(lane) * answer(lane.demand.model) for lane in self._waiting.lanes())
        wait = before / self._capacity(demand)
        finish, known = wait + answer(demand.model), service.knows(demand.model)
        return Prediction(len(self._waiting), wait, finish, wait, finish, known=known)

    def at_once(self, waiter: Waiter) -> Prediction:
        """What one has to expect who has his place."""
        demand = waiter.demand
        resident = waiter.found_resident or not demand.local
        return at_once(demand.model, self._holders.service, resident=resident)

    def needs(self, demand: Demand) -> float:
        """Seconds until an answer, from when others must begin to make way for it."""
        service, residency = self._holders.service, self._memory.residency()
        if not demand.local:
            return service.of(demand.model).mean
        alone = service.of(demand.model, resident=False).mean
        if residency.costs_nothing(demand.model):
            return alone
        in_the_way = (service.of(model).mean for model in residency.resident)
        return alone + max(in_the_way, default=0.0)

    def place(self, waiter: Waiter) -> Place:
        """Where one stands who waits."""
        self._look()
        if self._seen is None:
            future = play(self._scene(), Usual(self._holders.service))
            positions = {one: number for number, one in enumerate(future.granted_at, 1)}
            self._seen = future, positions
        future, positions = self._seen
        at = future.granted_at.get(waiter, future.refused.get(waiter, future.until))
        return Place(positions.get(waiter, len(positions) + 1), max(at - self._now(), 0.0))

    def _look(self) -> None:
        """What was seen a while ago is looked at anew: those at work take as long as they take."""
        now = self._now()
        if now - self._seen_at > _FRESH:
            self.changed()
            self._seen_at = now

    # Whether one may wait.

    def spares_everybody(self, demand: Demand) -> bool:
        """Whether nobody can be late, even if everything is loaded anew for every call."""
        usual, seconds = Usual(self._holders.service), 0.0
        alone = [one.demand for one in self._holders] + [demand]
        for one, count in chain(
            ((lane.demand, len(lane)) for lane in self._waiting.lanes()),
            ((one, 1) for one in alone),
        ):
            seconds += count * (usual.answer(one.model) + usual.load(one.model))
        if seconds > demand.limit:
            return False
        ends_at = self._now() + seconds
        return all(min(one.leaves_at, one.give_up_at) >= ends_at for one in self._waiting)

    def exceeds_its_share(self, demand: Demand) -> bool:
        """Whether its key has more waiting than it can have served in time.

        Of what is waiting, calls count that wait no longer than this one: others can go later.
        """
        now, service = self._now(), self._holders.service
        self._traffic.add(demand, now)
        own = sum(
            len(lane) * service.of(lane.demand.model).mean
            for lane in self._waiting.lanes()
            if lane.demand.key == demand.key and lane.demand.limit <= demand.limit
        )
        wants = self._traffic.wants(service, now)
        part = fair_part(demand.key, demand.weight, wants, self._capacity(demand))
        return own > part * demand.limit * self._usable(demand)

    def harms(self, newcomer: Waiter) -> bool:
        """Whether he would make somebody late who does not have to stand back for his key."""
        self._look()
        alike = _alike(newcomer.demand)
        if alike not in self._harmful:
            self._harmful[alike] = self._harms(newcomer)
        return self._harmful[alike]

    def _harms(self, newcomer: Waiter) -> bool:
        demand, part = newcomer.demand, self._usable(newcomer.demand)
        scene, service = self._scene(newcomer), self._holders.service
        return any(
            not self._stands_back(one.demand, demand)
            for one in harmed(newcomer, scene, service, part=part)
        )

    def _stands_back(self, one: Demand, newcomer: Demand) -> bool:
        """Whether so much of one's key or model waits that his being late refuses nobody else."""
        if self._waiting.is_greedier(one, newcomer, times=_GREEDY):
            return True
        if one.limit > newcomer.limit:
            # Those who cannot wait have a part of the time kept for them.
            return False
        counts = Counter[str]()
        for lane in self._waiting.lanes():
            counts[lane.demand.model] += len(lane)
        return counts[one.model] > _CROWDED * (counts[newcomer.model] + 1)

    def _usable(self, demand: Demand) -> float:
        """The part of its time in the queue that a call may be planned to wait."""
        hurried = self._traffic.has_shorter(demand.limit, self._now())
        return _USABLE_BESIDE_HURRY if hurried else _USABLE

    def _capacity(self, demand: Demand) -> float:
        """How many calls are really served at once."""
        residency = self._memory.residency()
        models = {lane.demand.model for lane in self._waiting.lanes() if lane.demand.local}
        models.add(demand.model)
        if residency.fit(frozenset(models)):
            return min(self._limits.max_active, len(models) * demand.model_max_active)
        together = residency.max_loaded or max(map(len, residency.together), default=1)
        places = min(self._limits.max_active, together * demand.model_max_active)
        return places * (1 - _LOADING)

    def _scene(self, newcomer: Waiter | None = None) -> Scene:
        """How things stand, with the newcomer in his lane."""
        lanes = {(one.demand.key, one.demand.model): list(one) for one in self._waiting.lanes()}
        if newcomer is not None:
            demand = newcomer.demand
            lane = lanes.setdefault((demand.key, demand.model), [])
            lane.insert(0 if demand.first else len(lane), newcomer)
        return Scene(
            now=self._now(),
            lanes=list(lanes.values()),
            holders=self._holders,
            occupancy=self._holders.occupancy,
            shares=self._holders.shares,
            residency=self._memory.residency(),
            limits=self._limits,
            order=self._order,
            swapped_at=self._holders.swapped_at,
        )


def _alike(demand: Demand) -> tuple[object, ...]:
    """What tells two apart who come to the same queue."""
    return (demand.key, demand.model, demand.queue_timeout, demand.patience, demand.batch)
