"""Whether one who comes may wait, for the sake of all the others.

That he will surely be too late himself is no matter of this module. In this order:

* Where all that waits is surely served in time, however badly it goes, he may.
* He may not if he would make anybody late that was let in before, not even if things go a bit
  otherwise than usual; unless that one's key has far more waiting than its fair part.
* A crowd that has just come is no overload, and may fill the queue with what is served in time;
  and what a key's calls do to each other then, while nobody else waits, is its own matter.
* Where somebody has waited without a pause, that is planned with time to spare; with more of it by
  the patient, while others come who can wait for much less. Each key may then have only as much
  waiting as its fair part of the places serves in time, and each model as is its part of all that
  comes.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from gateway.admission.demand import Demand
from gateway.admission.forecast import Waits
from gateway.admission.foresight import Foresight
from gateway.admission.holders import Holders
from gateway.admission.pace import Usual
from gateway.admission.predict import Prediction
from gateway.admission.traffic import Traffic, fair_part
from gateway.admission.waiting import Waiter, Waiting

_USABLE: Final = 0.75
"""Of the time that a call can wait: what may be planned with. Something always comes between: with
0.9, one of a thousand was let in and refused later, who is now refused as he comes."""

_USABLE_BESIDE_HURRY: Final = 0.6
"""The same of the patient, while others come who cannot wait: the rest is for these."""

_ALONE: Final = 0.9
"""Of the places: a key that gets so much of them in the long run shares them with nobody."""

_GREEDY: Final = 3.0
"""More than so many times as much waiting, for its weight, as another's makes a key greedy."""

_TOO_MUCH: Final = 1.5
"""Times its fair part: for so much more there is room as long as the others do not come."""


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
        demand = newcomer.demand
        if not self._waiting.is_lasting(self._now()):
            own = demand.key if self._waiting.by_key.keys() <= {demand.key} else None
            return self._harms(newcomer, 1.0, but=own) or self._unsettles(newcomer, but=own)
        part = self._usable(demand)
        return (
            foreseen.wait > part * newcomer.stays
            or self._exceeds_its_keys_part(demand, part)
            or self._exceeds_its_models_part(demand, part)
            or self._harms(newcomer, part)
            or self._unsettles(newcomer)
        )

    # Inside.

    def _exceeds_its_keys_part(self, demand: Demand, usable: float) -> bool:
        """Whether its key has more waiting than it can have served in time.

        Of what is waiting, calls count that wait no longer than this one: others can go later.
        """
        now, service = self._now(), self._holders.service
        wants = self._traffic.wants(service, now)
        capacity = self._foresight.capacity(demand)
        part = fair_part(demand.key, demand.weight, wants, capacity)
        if part >= _ALONE * capacity:
            return False
        own = self._work(demand.limit, key=demand.key)
        return own > part * demand.limit * usable

    def _exceeds_its_models_part(self, demand: Demand, usable: float) -> bool:
        """The same for its model: of each, the same part of what comes is to be served."""
        now, service = self._now(), self._holders.service
        part = self._traffic.part_of(demand.model, demand.limit, service, now)
        if part >= _ALONE:
            return False
        own = self._work(demand.limit, model=demand.model)
        return own > part * self._foresight.capacity(demand) * demand.limit * usable

    def _work(self, limit: float, *, key: str | None = None, model: str | None = None) -> float:
        """Seconds of answers that wait, of calls that wait no longer than that."""
        service = self._holders.service
        return sum(
            len(lane) * service.of(lane.demand.model).mean
            for lane in self._waiting.lanes()
            if lane.demand.limit <= limit
            and key in (None, lane.demand.key)
            and model in (None, lane.demand.model)
        )

    def _harms(self, newcomer: Waiter, part: float, *, but: str | None = None) -> bool:
        """Whether he would make somebody late who does not have to stand back for his key."""
        harmed = self._foresight.harmed_by(newcomer, part=part)
        return self._may_not(harmed, newcomer, but)

    def _unsettles(self, newcomer: Waiter, *, but: str | None = None) -> bool:
        """Whether he would if all goes a bit quicker or slower; or be late then himself."""
        return self._may_not(self._foresight.unsettled_by(newcomer), newcomer, but)

    def _may_not(self, late: Iterable[Waits], newcomer: Waiter, but: str | None) -> bool:
        """Whether those who are late because of him forbid it; those of the key ``but`` do not."""
        return any(
            one.demand.key != but and not self._stands_back(one.demand, newcomer.demand)
            for one in late
        )

    def _stands_back(self, one: Demand, newcomer: Demand) -> bool:
        """Whether so much of his key waits that his being late refuses nobody else.

        It does if it is more than it could have served in time, were the places shared by all keys
        of which something waits.
        """
        if not self._waiting.is_greedier(one, newcomer, times=_GREEDY):
            return False
        weights = {lane.demand.key: lane.demand.weight for lane in self._waiting.lanes()}
        weights[newcomer.key] = newcomer.weight
        fair = self._foresight.capacity(newcomer) * one.weight / sum(weights.values())
        return self._work(one.limit, key=one.key) > _TOO_MUCH * fair * one.limit

    def _usable(self, demand: Demand) -> float:
        """The part of its time in the queue that a call may be planned to wait."""
        hurried = self._traffic.has_shorter(demand.limit, self._now())
        return _USABLE_BESIDE_HURRY if hurried else _USABLE
