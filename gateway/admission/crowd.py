"""Whether one who comes may wait, for the sake of all the others.

That he will surely be too late himself is no matter of this module. In this order:

* Where all that waits is surely served in time, however badly it goes, he may.
* A crowd that has just come is no overload. While it is worked off, he may not only if he would
  make one of another key late.
* Where somebody has waited without a pause, he may not if he would make anybody late that was let
  in before, unless so much more is waiting of that one's key, or for his model, that its last are
  beyond its fair share; nor if he himself had no time to spare.
* Then, too, where keys share, each may fill the queue only with as much as its fair part of the
  places serves in time, as long as what the others send goes on.
* A wait is planned with something to spare; with more of it by the patient, while others come who
  can wait for much less.
"""

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Final

from gateway.admission.demand import Demand
from gateway.admission.foresight import Foresight
from gateway.admission.holders import Holders
from gateway.admission.pace import Usual
from gateway.admission.predict import Prediction
from gateway.admission.traffic import Traffic, fair_part
from gateway.admission.waiting import Waiter, Waiting

_USABLE: Final = 0.9
"""Of the time that a call can wait: what may be planned with. Something always comes between."""

_USABLE_BESIDE_HURRY: Final = 0.6
"""The same of the patient, while others come who cannot wait: the rest is for these."""

_ALONE: Final = 0.9
"""Of the places: a key that gets so much of them in the long run shares them with nobody."""

_GREEDY: Final = 3.0
"""More than so many times as much waiting, for its weight, as another's makes a key greedy."""

_CROWDED: Final = 1.5
"""The same for models, whoever's calls: else the load that a model needs would keep it away."""


class Crowd:
    """Mutable state: what came lately."""

    def __init__(
        self,
        *,
        holders: Holders,
        waiting: Waiting,
        foresight: Foresight,
        now: Callable[[], float],
    ) -> None:
        self._holders = holders
        self._waiting = waiting
        self._foresight = foresight
        self._now = now
        self._traffic = Traffic()

    def came(self, demand: Demand) -> None:
        """One came who has to wait, or to go away again."""
        self._traffic.add(demand, self._now())

    def spares_everybody(self, demand: Demand) -> bool:
        """Whether nobody can be late, even if everything is loaded anew for every call."""
        usual, seconds = Usual(self._holders.service), 0.0
        alone = [one.demand for one in self._holders] + [demand]
        for one, count in chain(
            ((lane.demand, len(lane)) for lane in self._waiting.lanes()),
            ((one, 1) for one in alone),
        ):
            seconds += count * (usual.answer(one.model) + usual.load(one.model))
        return seconds <= demand.limit and self._waiting.all_stay_until(self._now() + seconds)

    def keeps_out(self, newcomer: Waiter, foreseen: Prediction) -> bool:
        """Whether there is no room for him beside those who wait."""
        if not self._waiting.is_lasting(self._now()):
            return self._harms(newcomer, 1.0, but=newcomer.demand.key)
        demand = newcomer.demand
        part = self._usable(demand)
        return (
            foreseen.wait > part * demand.queue_timeout
            or foreseen.finish > demand.patience
            or self._exceeds_its_share(demand, part)
            or self._harms(newcomer, part)
        )

    # Inside.

    def _exceeds_its_share(self, demand: Demand, usable: float) -> bool:
        """Whether its key has more waiting than it can have served in time.

        Of what is waiting, calls count that wait no longer than this one: others can go later.
        """
        now, service = self._now(), self._holders.service
        wants = self._traffic.wants(service, now)
        capacity = self._foresight.capacity(demand)
        part = fair_part(demand.key, demand.weight, wants, capacity)
        if part >= _ALONE * capacity:
            return False
        own = sum(
            len(lane) * service.of(lane.demand.model).mean
            for lane in self._waiting.lanes()
            if lane.demand.key == demand.key and lane.demand.limit <= demand.limit
        )
        return own > part * demand.limit * usable

    def _harms(self, newcomer: Waiter, part: float, *, but: str | None = None) -> bool:
        """Whether he would make somebody late who does not have to stand back for his key."""
        return any(
            one.demand.key != but and not self._stands_back(one.demand, newcomer.demand)
            for one in self._foresight.harmed_by(newcomer, part=part)
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
