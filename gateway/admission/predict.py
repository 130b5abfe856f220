"""What one who comes now has to expect: pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Final, Protocol

from gateway.admission.demand import Demand, Limits
from gateway.admission.residency import Residency
from gateway.admission.service import ServiceTimes
from gateway.admission.turns import Accounts

_P10: Final = 1.2816
"""Standard deviations between the mean and the 10th percentile of a normal distribution."""


class Queue(Protocol):
    """A lane; ``demand`` is one of its calls: all have the same key, model, weight and class."""

    @property
    def demand(self) -> Demand: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds from now; ``quick_wait`` and ``quick`` are 10th percentiles of the others.

    ``position`` is how many are likely to go before; ``quick_answer`` and ``slow_answer`` are the
    10th and the 90th percentile of an answer alone, no load included. ``known``: enough was seen to
    refuse anybody.
    """

    position: int
    wait: float
    finish: float
    quick_wait: float
    quick: float
    quick_answer: float
    slow_answer: float
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known beside the demand itself."""

    active: Mapping[str, int]
    service: ServiceTimes
    residency: Residency
    shares: Accounts
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Before:
    """Of one lane: how many calls go before, in all likelihood, and at least."""

    demand: Demand
    likely: float
    least: float


@dataclass(slots=True)
class _Sum:
    """Seconds that pass until some work is done."""

    seconds: float = 0.0
    variance: float = 0.0

    def add(self, other: "_Sum", part: float = 1.0) -> None:
        self.seconds += other.seconds * part
        self.variance += other.variance * part**2

    @property
    def quick(self) -> float:
        return max(self.seconds - _P10 * sqrt(self.variance), 0.0)

    @property
    def slow(self) -> float:
        return self.seconds + _P10 * sqrt(self.variance)


def predict(demand: Demand, lanes: Iterable[Queue], outlook: Outlook) -> Prediction:
    """When a call that comes now is likely to be answered.

    All that its own key has waiting goes before it; of another key's, as much as fair sharing lets
    through until its turn. It waits at three caps, and the slowest counts: all places, its model's,
    its key's. What is active is taken as half done; in the 10th percentile, as done.
    """
    before = list(_before(demand, lanes, outlook))
    calls = round(sum(each.likely for each in before))
    wait = _likely_wait(demand, before, outlook)
    resident = demand.model in outlook.residency.resident
    least = _least(demand, before, outlook)
    mine = outlook.service.of(demand.model, resident=resident)
    soonest = outlook.service.of(demand.model, resident=resident or least.same.seconds > 0)
    warm = outlook.service.of(demand.model)
    alone = _Sum(warm.mean, warm.variance_of(1))
    answer = _Sum(soonest.mean, soonest.variance_of(1))
    return Prediction(
        position=calls,
        wait=wait,
        finish=wait + mine.mean,
        quick_wait=least.quick(),
        quick=least.quick(answer),
        quick_answer=alone.quick,
        slow_answer=alone.slow,
        known=outlook.service.knows(demand.model),
    )


# Who goes before.


def _before(demand: Demand, lanes: Iterable[Queue], outlook: Outlook) -> Iterator[_Before]:
    by_key: dict[str, list[Queue]] = {}
    for lane in lanes:
        by_key.setdefault(lane.demand.key, []).append(lane)
    own = by_key.pop(demand.key, [])
    yield from (_Before(lane.demand, len(lane), len(lane)) for lane in own)
    # Where the account of its key will be when all that is before it has begun.
    turn_at = outlook.shares.of(demand.key) + _seconds(own, outlook.service) / demand.weight
    for key, theirs in by_key.items():
        ahead = turn_at - outlook.shares.of(key)
        likely, least = _turns_before(demand, theirs, ahead, outlook.service)
        count = sum(map(len, theirs))
        for lane in theirs:
            part = len(lane) / count
            yield _Before(lane.demand, likely * part, least * part)


def _turns_before(
    demand: Demand, theirs: list[Queue], ahead: float, service: ServiceTimes
) -> tuple[float, float]:
    """How many turns another key has before one whose account is ``ahead`` of its own."""
    one = theirs[0].demand
    if one.batch and not demand.batch:
        return 0.0, 0.0
    count = float(sum(map(len, theirs)))
    turn = _seconds(theirs, service) / count / one.weight
    least = min(count, max(ahead, 0.0) // turn) if turn else 0.0
    if demand.batch and not one.batch:
        return count, least
    # At equal accounts whoever has waited longer goes first.
    return (0.0 if ahead < 0 else min(count, least + 1)), least


def _seconds(lanes: Iterable[Queue], service: ServiceTimes) -> float:
    return sum(len(lane) * service.of(lane.demand.model).mean for lane in lanes)


# How long that takes.


def _likely_wait(demand: Demand, before: list[_Before], outlook: Outlook) -> float:
    active = outlook.active
    if not before and _goes_at_once(demand, outlook):
        return 0.0
    service = outlook.service
    places = _places(demand, outlook)
    everybody = sum(service.of(model).mean * count for model, count in active.items()) / 2 / places
    model = service.of(demand.model).mean * active.get(demand.model, 0) / 2
    key = 0.0
    for each in before:
        seconds = each.likely * service.of(each.demand.model).mean
        everybody += seconds / _places(each.demand, outlook)
        model += seconds if each.demand.model == demand.model else 0.0
        key += seconds if each.demand.key == demand.key else 0.0
    return max(
        everybody,
        model / _places_of_model(demand, outlook),
        key / (demand.key_max_active or places),
    )


def _goes_at_once(demand: Demand, outlook: Outlook) -> bool:
    """Whether one before whom nobody waits has a place. His key's cap is not known here."""
    active = outlook.active
    has_place = sum(active.values()) < outlook.limits.max_active
    model_has = active.get(demand.model, 0) < demand.model_max_active
    return has_place and model_has and outlook.residency.eligible(demand.model, active)


@dataclass(slots=True)
class _Least:
    """What must be done before: by all places, by those of the model, by those of the key."""

    everybody: _Sum
    same: _Sum
    own: _Sum

    def quick(self, answer: _Sum | None = None) -> float:
        """The 10th percentile of the slowest, with the answer itself at its end."""
        quickest = 0.0
        for work in (self.everybody, self.same, self.own):
            total = _Sum(work.seconds, work.variance)
            total.add(answer or _Sum())
            quickest = max(quickest, total.quick)
        return quickest


def _least(demand: Demand, before: list[_Before], outlook: Outlook) -> _Least:
    """Models that do not fit beside its own may all be passed over for its sake, for a while."""
    same, near, far, own = _Sum(), _Sum(), _Sum(), _Sum()
    for model, (one, calls, mine) in _by_model(demand, before, outlook.service).items():
        work = _work(model, calls, _places(one, outlook), outlook)
        if not outlook.residency.fit(frozenset({model, demand.model})):
            far.add(work)
            continue
        near.add(work)
        if model == demand.model:
            same.add(_work(model, calls, _places_of_model(demand, outlook), outlook))
        if demand.key_max_active is not None:
            own.add(_work(model, mine, demand.key_max_active, outlook))
    if far.seconds:
        near.add(far, _part_of_far(near.quick, far.seconds, outlook.limits.affinity_patience))
    return _Least(near, same, own)


def _by_model(
    demand: Demand, before: list[_Before], service: ServiceTimes
) -> dict[str, tuple[Demand, float, float]]:
    """Of each known model: one of its demands, how many calls, and how many of the same key."""
    found: dict[str, tuple[Demand, float, float]] = {}
    for each in before:
        model = each.demand.model
        if service.knows(model):
            _, calls, mine = found.get(model, (each.demand, 0.0, 0.0))
            own = each.least if each.demand.key == demand.key else 0.0
            found[model] = (each.demand, calls + each.least, mine + own)
    return found


def _part_of_far(near: float, far: float, patience: float) -> float:
    """They go first only once each time that the patience of one of them has ended."""
    if not patience:
        return 1.0
    return min(near // patience * patience / far, 1.0)


def _work(model: str, calls: float, places: int, outlook: Outlook) -> _Sum:
    seen = outlook.service.of(model)
    return _Sum(calls * seen.mean / places, seen.variance_of(calls) / places**2)


def _places(demand: Demand, outlook: Outlook) -> int:
    """How many calls are really served at once: no more than what is loaded together allows."""
    residency = outlook.residency
    together = residency.max_loaded or max(map(len, residency.together), default=1)
    return max(1, min(outlook.limits.max_active, together * demand.model_max_active))


def _places_of_model(demand: Demand, outlook: Outlook) -> int:
    return max(1, min(outlook.limits.max_active, demand.model_max_active))
