"""Who is next on one GPU: one pure function of those who wait, what is at work, what is loaded.

It holds no clock, does no I/O and changes nothing. In this order:

1. inside every cap;
2. eligible: the model is loaded, or can be without driving out one that is at work;
3. one whose patience with being passed over is at its end: from then on nobody is sent to the
   models in his way, so that they come free and the swap happens;
4. whoever is likely to be in time before those who are not, for these would mostly be served for
   nobody; then class, then fair share, then age; but of one class, calls that leave memory as it is
   go before calls that swap, for at most ``affinity_patience`` of passing anybody over.

So a free place and somebody eligible coexist only while 3 lets a model come free. Of one lane only
the first goes, and while he has to wait for his ``not_before``, those behind him wait with him.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Generic, Protocol, TypeVar

from gateway.admission.demand import Demand, Limits, Occupancy
from gateway.admission.residency import Residency


class Head(Protocol):
    """The first of one lane, as far as the order looks at him; times are of one clock.

    ``passed_over_at`` is when it was his turn and another one went, None before that;
    ``give_up_at`` is when the caller leaves at the latest, and ``needs`` what his call is expected
    to take until it is answered, a load included; from ``doubtful_at`` on he may well be late. He
    is not sent before ``not_before``.
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
    @property
    def doubtful_at(self) -> float: ...
    @property
    def not_before(self) -> float: ...


class Accounts(Protocol):
    """Whose turn it is among keys: the lower, the sooner."""

    def of(self, key: str, /) -> float: ...


H = TypeVar("H", bound=Head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Everything beside those who wait that decides who is next."""

    occupancy: Occupancy
    limits: Limits
    residency: Residency
    shares: Accounts
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
    has_room, limits, now = standing.occupancy.has_room, standing.limits, standing.now
    able = [head for head in heads if has_room(head.demand, limits)]
    ranked = [head for head in able if head.not_before <= now]
    if not ranked:
        return Decision(None, ask_again_at=_first_ready(able, now))
    ranked.sort(key=lambda head: _rank(head, standing))
    urgent = [
        head
        for head in ranked
        if _patience_ends_at(head, limits) <= now and not is_doubtful(head, now)
    ]
    if urgent:
        chosen = min(urgent, key=lambda head: head.arrived_at)
        decision = _serve_urgent(chosen, ranked, standing)
    else:
        decision = _serve_near(ranked, standing)
    if len(ranked) == len(able):
        return decision
    return replace(decision, ask_again_at=_earlier(decision.ask_again_at, _first_ready(able, now)))


def _serve_urgent(urgent: H, ranked: list[H], standing: Standing) -> Decision[H]:
    """He goes, or whoever is not in his way: what he needs comes free as soon as it can."""
    if _eligible(urgent, standing):
        return Decision(urgent)
    stay = standing.residency.beside(urgent.demand.model, standing.occupancy.in_memory)
    beside = (head for head in ranked if not head.demand.local or head.demand.model in stay)
    # From then on the others need not make way for him.
    ends_at = urgent.doubtful_at if standing.now < urgent.doubtful_at < inf else None
    return Decision(next(beside, None), passed_over=urgent, ask_again_at=ends_at)


def _serve_near(ranked: list[H], standing: Standing) -> Decision[H]:
    """Of the best class that can go, whoever costs no swap; else whoever is first of them."""
    first, now = ranked[0], standing.now
    able = [head for head in ranked if _eligible(head, standing)]
    best = _class_of(able[0], standing) if able else 0
    costs_nothing = standing.residency.costs_nothing
    near = (
        head
        for head in able
        if (not head.demand.local or costs_nothing(head.demand.model))
        and _class_of(head, standing) == best
    )
    chosen = next(near, able[0] if able else None)
    if chosen is first or is_doubtful(first, now):
        return Decision(chosen)
    began = now if first.passed_over_at is None else first.passed_over_at
    ends_at = min(began + standing.limits.affinity_patience, _latest_start(first))
    if ends_at <= now:
        return _serve_urgent(first, ranked, standing)
    return Decision(chosen, passed_over=first, ask_again_at=ends_at)


def is_doubtful(head: Head, now: float) -> bool:
    """Whether he may well be late; never of one for whom it was so from the beginning."""
    return head.arrived_at < head.doubtful_at <= now


def _rank(head: Head, standing: Standing) -> tuple[int, float, float]:
    share = standing.shares.of(head.demand.key)
    return (_class_of(head, standing), share, head.arrived_at)


def _class_of(head: Head, standing: Standing) -> int:
    """0 is interactive; batch becomes it after waiting long enough, so that it never starves."""
    if is_doubtful(head, standing.now):
        return 2
    if not head.demand.batch:
        return 0
    return int(standing.now - head.arrived_at < standing.limits.batch_patience)


def _patience_ends_at(head: Head, limits: Limits) -> float:
    """When being passed over ends for him; never, before it began."""
    if head.passed_over_at is None:
        return inf
    return min(head.passed_over_at + limits.affinity_patience, _latest_start(head))


def _latest_start(head: Head) -> float:
    """When he must go to be in time; whoever was late as he came is not hurried for it."""
    latest = head.give_up_at - head.needs
    return latest if latest > head.arrived_at else inf


def _eligible(head: Head, standing: Standing) -> bool:
    demand = head.demand
    in_memory = standing.occupancy.in_memory
    return not demand.local or standing.residency.eligible(demand.model, in_memory)


def _first_ready(heads: Iterable[Head], now: float) -> float | None:
    """When the first of those goes who may not go yet."""
    return min((head.not_before for head in heads if head.not_before > now), default=None)


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)
