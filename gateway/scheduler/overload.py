"""Whether one who comes may wait, for the sake of all the others.

That he will surely be too late himself is no matter of this module. In this order:

* Where all that waits is served in time even one after the other, each with a load, he may.
* What a key's calls do to each other in a crowd that has just come is its own matter, while nobody
  else waits.
* He may not if he would make anybody late that was let in before, not even if all takes a tenth
  longer than usual. If his key asks for no more than its part, those do not count whose key
  does: whatever they have waiting is no reason to refuse another.
* Where somebody has waited without a pause, that is planned with time to spare, but for those who
  ask for so little; with more of it by the patient, while others come who can wait for much less.
  Each key may then have only as much waiting as its fair part of the places serves in time, and
  each model as is its part of all that comes.
"""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from gateway.scheduler.active import Holders
from gateway.scheduler.arrivals import Traffic, fair_part
from gateway.scheduler.estimates import Foresight
from gateway.scheduler.pace import Usual
from gateway.scheduler.prediction import Prediction
from gateway.scheduler.queue import Waiter, Waiting
from gateway.scheduler.request import SlotRequest
from gateway.scheduler.simulation import Waits

_USABLE: Final = 0.75
"""Of the time that a call can wait: what may be planned with. Something always comes between: with
0.9, one of a thousand was let in and refused later, who is now refused as he comes."""

_USABLE_BESIDE_HURRY: Final = 0.6
"""The same of the patient, while others come who cannot wait: the rest is for these."""

_ALONE: Final = 0.9
"""Of the places: a key that gets so much of them in the long run shares them with nobody."""

_TOO_MUCH: Final = 1.5
"""Times its part of the queue: a key that has more waiting asks for too much, whenever it came."""


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

    def came(self, demand: SlotRequest) -> None:
        """One came who has to wait, or to go away again."""
        self._traffic.add(demand, self._now())

    def spares_everybody(self, demand: SlotRequest) -> bool:
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
        demand, by_key = newcomer.demand, self._waiting.by_key
        lasting = self._waiting.is_lasting(self._now())
        if not lasting and by_key.keys() <= {demand.key}:
            return False
        modest, part = self._is_modest(demand, demand), 1.0
        if lasting and not modest:
            part = self._usable(demand)
            if self._exceeds(newcomer, foreseen, part):
                return True
        harmed = self._foresight.harmed_by(newcomer, part=part)
        return self._forbid(harmed, demand, modest=modest) or self._forbid(
            self._foresight.unsettled_by(newcomer), demand, modest=modest
        )

    # Inside.

    def _exceeds(self, newcomer: Waiter, foreseen: Prediction, part: float) -> bool:
        """Whether he, his key or his model would have more than that part of their time."""
        demand = newcomer.demand
        return (
            foreseen.wait > part * newcomer.stays
            or self._exceeds_its_keys_part(demand, part)
            or self._exceeds_its_models_part(demand, part)
        )

    def _exceeds_its_keys_part(self, demand: SlotRequest, usable: float) -> bool:
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

    def _exceeds_its_models_part(self, demand: SlotRequest, usable: float) -> bool:
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
            len(lane) * service.slot_time(lane.demand.model).mean
            for lane in self._waiting.lanes()
            if lane.demand.limit <= limit
            and key in (None, lane.demand.key)
            and model in (None, lane.demand.model)
        )

    def _forbid(self, late: Iterable[Waits], newcomer: SlotRequest, *, modest: bool) -> bool:
        """Whether those who are late because of him, or he himself, are a reason to refuse him.

        Beside a ``modest`` key, one that asks for too much is none.
        """
        by_key = {one.demand.key: one.demand for one in late}
        if not modest or newcomer.key in by_key:
            return bool(by_key)
        return any(self._is_modest(one, newcomer) for one in by_key.values())

    def _is_modest(self, one: SlotRequest, newcomer: SlotRequest) -> bool:
        """Whether a key asks for no more than its part, in what came lately and in what waits.

        The call that has just come does not count: one alone is never too much.
        """
        capacity = self._foresight.capacity(newcomer)
        wants = self._traffic.wants(self._holders.service, self._now(), but=newcomer)
        lately = wants[one.key].places if one.key in wants else 0.0
        if lately > fair_part(one.key, one.weight, wants, capacity):
            return False
        weights = {lane.demand.key: lane.demand.weight for lane in self._waiting.lanes()}
        weights |= {one.key: one.weight, newcomer.key: newcomer.weight}
        part = capacity * one.weight / sum(weights.values())
        return self._work(one.limit, key=one.key) <= _TOO_MUCH * part * one.limit

    def _usable(self, demand: SlotRequest) -> float:
        """The part of its time in the queue that a call may be planned to wait."""
        hurried = self._traffic.has_shorter(demand.limit, self._now())
        return _USABLE_BESIDE_HURRY if hurried else _USABLE
