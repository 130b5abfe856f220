"""Who is next on one GPU: one pure function of those who wait, what is at work, what is loaded.

It holds no clock, does no I/O and changes nothing. In this order:

1. inside every cap;
2. eligible: the model is loaded, or can be without driving out one that is at work;
3. one whose patience with being passed over is at its end: from then on nobody is sent to the
   models in his way, so that they come free and the swap happens;
4. class, then fair share, then age; but of one class, calls that leave memory as it is go before
   calls that swap, for at most ``affinity_patience`` of passing anybody over.

So a free place and somebody eligible coexist only while 3 lets a model come free.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.admission.demand import Demand, Limits, Occupancy
from gateway.admission.residency import Residency


class Head(Protocol):
    """The first of one lane, as far as the order looks at him; times are of one clock.

    ``passed_over_at`` is when it was his turn and another one went, None before that;
    ``give_up_at`` is when the caller leaves at the latest, and ``needs`` what his call is expected
    to take until it is answered, a load included.
    """

    @property
    def demand(self) -> Demand: ...
    @property
    def arrived_at(self) -> float: ...
    @property
    def passed_over_at(self) -> float | None: ...
    @property
    def give_up_at(self) -> float: ...
    @property
    def needs(self) -> float: ...


H = TypeVar("H", bound=Head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Everything beside those who wait that decides who is next."""

    occupancy: Occupancy
    limits: Limits
    residency: Residency
    shares: Mapping[str, float]
    now: float


@dataclass(frozen=True, slots=True)
class Decision(Generic[H]):
    """``waiter`` may go now, if there is one.

    ``passed_over`` is whose turn it was by class, share and age, if another one goes or nobody can;
    ``ask_again_at`` is when time alone may change the answer.
    """

    waiter: H | None
    passed_over: H | None = None
    ask_again_at: float | None = None


def decide(heads: Iterable[H], standing: Standing) -> Decision[H]:
    """Who goes next of the first of every lane."""
    if standing.occupancy.total >= standing.limits.max_active:
        return Decision(None)
    has_room, limits = standing.occupancy.has_room, standing.limits
    ranked = sorted(
        (head for head in heads if has_room(head.demand, limits)),
        key=lambda head: _rank(head, standing),
    )
    if not ranked:
        return Decision(None)
    urgent = [head for head in ranked if _patience_ends_at(head, standing) <= standing.now]
    if urgent:
        return _serve_urgent(min(urgent, key=lambda head: head.arrived_at), ranked, standing)
    return _serve_near(ranked, standing)


def _serve_urgent(urgent: H, ranked: list[H], standing: Standing) -> Decision[H]:
    """He goes, or whoever is not in his way: what he needs comes free as soon as it can."""
    if _eligible(urgent, standing):
        return Decision(urgent)
    model = urgent.demand.model
    residency = standing.residency
    at_work = frozenset(standing.occupancy.by_model)
    beside = [
        head
        for head in ranked
        if _eligible(head, standing)
        and (head.demand.model == model or residency.fit(at_work | {head.demand.model, model}))
    ]
    return Decision(beside[0] if beside else None, passed_over=urgent)


def _serve_near(ranked: list[H], standing: Standing) -> Decision[H]:
    """Of the best class that can go, whoever costs no swap; else whoever is first of them."""
    first = ranked[0]
    able = [head for head in ranked if _eligible(head, standing)]
    best = _class_of(able[0], standing) if able else 0
    near = [
        head
        for head in able
        if _class_of(head, standing) == best and standing.residency.costs_nothing(head.demand.model)
    ]
    chosen = next(iter(near or able), None)
    if chosen is first:
        return Decision(chosen)
    began = standing.now if first.passed_over_at is None else first.passed_over_at
    ends_at = min(began + standing.limits.affinity_patience, _latest_start(first))
    return Decision(chosen, passed_over=first, ask_again_at=ends_at)


def _rank(head: Head, standing: Standing) -> tuple[int, float, float]:
    share = standing.shares.get(head.demand.key, 0.0)
    return (_class_of(head, standing), share, head.arrived_at)


def _class_of(head: Head, standing: Standing) -> int:
    """0 is interactive; batch becomes it after waiting long enough, so that it never starves."""
    aged = standing.now - head.arrived_at >= standing.limits.batch_patience
    return 0 if aged or not head.demand.batch else 1


def _patience_ends_at(head: Head, standing: Standing) -> float:
    """When being passed over ends for him; never, before it began."""
    if head.passed_over_at is None:
        return float("inf")
    return min(head.passed_over_at + standing.limits.affinity_patience, _latest_start(head))


def _latest_start(head: Head) -> float:
    return head.give_up_at - head.needs


def _eligible(head: Head, standing: Standing) -> bool:
    return standing.residency.eligible(head.demand.model, standing.occupancy.by_model)
