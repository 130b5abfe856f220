"""Who is next on one GPU: one pure function of those who wait, what is at work, what is loaded.

It holds no clock, does no I/O and changes nothing. In this order:

1. inside every cap;
2. eligible: the model is loaded, or can be without driving out one that is at work;
3. one who is urgent: he was passed over for ``max_affinity_delay``, or will only just be in time
   although his key had its turn; from then on nobody is sent to the models in his way, so that
   they come free and the swap happens;
4. whoever is likely to be in time before those who are not, for these would mostly be served for
   nobody; then class, then fair share, then age; but of one class, calls that leave memory as it is
   go before calls that swap, for at most ``max_affinity_delay`` of passing anybody over.

So a free place and somebody eligible coexist only while 3 lets a model come free. Of one lane only
the first goes, and while he has to wait for his ``not_before``, those behind him wait with him.
Nobody is passed over while nobody can go: a load that has begun is waited for by all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from typing import Generic, Protocol, TypeVar

from gateway.models.residency import Residency
from gateway.scheduler.request import Limits, Occupancy, SlotRequest


class Head(Protocol):
    """The first of one lane, as far as the order looks at him; times are of one clock.

    ``passed_over_at`` is when it was his turn by class, share and age and another one went,
    ``turn_at`` when it was his key's turn by class and share and a model was kept that is in his
    way; both None before that. From ``hurries_at`` on he can only just be in time, from
    ``doubtful_at`` on he may well be late. He is not sent before ``not_before``.
    """

    @property
    def demand(self) -> SlotRequest: ...
    @property
    def arrived_at(self) -> float: ...
    @property
    def passed_over_at(self) -> float | None: ...
    @property
    def turn_at(self) -> float | None: ...
    @property
    def hurries_at(self) -> float: ...
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

    ``passed_over`` is whose turn it was by class, share and age if another one goes, or for whom
    others make way; ``overtaken`` are those in a hurry whose key had as good a right, if what is
    loaded is kept for the one that goes.
    ``ask_again_at`` is when time alone may change the answer.
    """

    waiter: H | None
    passed_over: H | None = None
    overtaken: tuple[H, ...] = ()
    ask_again_at: float | None = None


class Marked(Head, Protocol):
    """One on whom is noted what was decided about him."""

    passed_over_at: float | None
    turn_at: float | None


M = TypeVar("M", bound=Marked)


def note(decision: Decision[M], now: float) -> None:
    """Write down on those whom it was about what was decided; what was written before stays."""
    passed = decision.passed_over
    if passed is not None and passed.passed_over_at is None:
        passed.passed_over_at = now
    for one in decision.overtaken:
        if one.turn_at is None:
            one.turn_at = now


class Order(Protocol):
    """Who is next, one way or another; ``decide`` is the one that is meant."""

    def __call__(self, heads: Iterable[H], standing: Standing, /) -> Decision[H]: ...


def decide(heads: Iterable[H], standing: Standing) -> Decision[H]:
    """Who goes next of the first of every lane."""
    limits, now = standing.limits, standing.now
    if standing.occupancy.total >= limits.max_active:
        return Decision(None)
    has_room = standing.occupancy.has_room
    able = [head for head in heads if has_room(head.demand, limits)]
    ready = [head for head in able if head.not_before <= now]
    if not ready:
        return Decision(None, ask_again_at=_first_ready(able, now))
    ranked = sorted(ready, key=lambda head: _rank(head, standing)) if len(ready) > 1 else ready
    urgent = [one for one in ranked if _is_urgent(one, limits, now)]
    decision = _serve_urgent(urgent, ranked, standing) if urgent else _serve_near(ranked, standing)
    if len(ready) == len(able):
        return decision
    return replace(decision, ask_again_at=_earlier(decision.ask_again_at, _first_ready(able, now)))


def _serve_urgent(urgent: Iterable[H], ranked: list[H], standing: Standing) -> Decision[H]:
    """The first who came goes, or whoever is not in his way: what he needs comes free soon."""
    chosen = min(urgent, key=lambda head: head.arrived_at)
    if _eligible(chosen, standing):
        return Decision(chosen)
    stay = standing.residency.can_coexist_with(chosen.demand.model, standing.occupancy.in_memory)
    beside = (head for head in ranked if not head.demand.local or head.demand.model in stay)
    # From then on the others need not make way for him.
    ends_at = chosen.doubtful_at if standing.now < chosen.doubtful_at < inf else None
    return Decision(
        next(beside, None), passed_over=chosen, overtaken=(chosen,), ask_again_at=ends_at
    )


def _serve_near(ranked: list[H], standing: Standing) -> Decision[H]:
    """Of the best class that can go, whoever costs no swap; else whoever is first of them."""
    chosen = _nearest(ranked, standing)
    if chosen is None:
        return Decision(None)
    first, now = ranked[0], standing.now
    overtaken = () if _swaps(chosen, standing) else _overtaken(chosen, ranked, standing)
    pressing = [head for head in overtaken if head.hurries_at <= now]
    if pressing:
        return _serve_urgent(pressing, ranked, standing)
    if chosen is first or is_doubtful(first, now):
        return Decision(chosen, overtaken=overtaken)
    if not standing.limits.max_affinity_delay:
        return _serve_urgent([first], ranked, standing)
    return Decision(chosen, passed_over=first, overtaken=overtaken)


def _nearest(ranked: list[H], standing: Standing) -> H | None:
    able = None
    for head in ranked:
        if not _eligible(head, standing):
            continue
        if able is not None and _class_of(head, standing) != _class_of(able, standing):
            break
        if not _swaps(head, standing):
            return head
        able = able or head
    return able


def _overtaken(chosen: H, ranked: list[H], standing: Standing) -> tuple[H, ...]:
    """Those in a hurry who would have to swap, and whose key had as good a right, at any age."""
    hurried = [head for head in ranked if head.hurries_at < inf and head.turn_at is None]
    if not hurried:
        return ()
    right = _rank(chosen, standing)[:2]
    return tuple(
        head
        for head in hurried
        if _swaps(head, standing)
        and not is_doubtful(head, standing.now)
        and _rank(head, standing)[:2] <= right
    )


def _is_urgent(head: Head, limits: Limits, now: float) -> bool:
    passed, turn = head.passed_over_at, head.turn_at
    if passed is None and turn is None:
        return False
    waited = passed is not None and passed + limits.max_affinity_delay <= now
    hurries = turn is not None and head.hurries_at <= now
    return (waited or hurries) and not is_doubtful(head, now)


def is_doubtful(head: Head, now: float) -> bool:
    """Whether he may well be late; never of one for whom it was so from the beginning."""
    return head.arrived_at < head.doubtful_at <= now


def _rank(head: Head, standing: Standing) -> tuple[int, float, float]:
    share = standing.shares.of(head.demand.key)
    return (_class_of(head, standing), share, head.arrived_at)


def _class_of(head: Head, standing: Standing) -> int:
    """0 is interactive; batch becomes it after waiting long enough, so that it never starves."""
    arrived_at = head.arrived_at
    if arrived_at < head.doubtful_at <= standing.now:  # As above; it is asked most often of all.
        return 2
    if not head.demand.batch:
        return 0
    return int(standing.now - arrived_at < standing.limits.max_batch_delay)


def _swaps(head: Head, standing: Standing) -> bool:
    """Whether something must leave memory for him."""
    demand = head.demand
    return demand.local and not standing.residency.fits_without_eviction(demand.model)


def _eligible(head: Head, standing: Standing) -> bool:
    demand = head.demand
    in_memory = standing.occupancy.in_memory
    return not demand.local or standing.residency.can_load_now(demand.model, in_memory)


def _first_ready(heads: Iterable[Head], now: float) -> float | None:
    """When the first of those goes who may not go yet."""
    return min((head.not_before for head in heads if head.not_before > now), default=None)


def _earlier(one: float | None, other: float | None) -> float | None:
    return min((time for time in (one, other) if time is not None), default=None)
