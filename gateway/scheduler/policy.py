"""Decides which queued request runs next: one pure function.

It reads the first request of every queue, the slots in use and what is in GPU memory. It does no
I/O, knows no clock and changes nothing. Its rules, in this order:

1. Caps. A request runs only inside all of them: slots in total, per model and per key. A retry
   does not run beside its first attempt, and no request runs before its ``not_before``.
2. Memory. A request runs only if its model is loaded, or can be loaded without evicting a model
   that is in use.
3. Urgent requests. A request is urgent when it was skipped for ``max_affinity_delay`` (rule 5), or
   when it can only just meet its client's deadline although its key is due (its account is not
   higher than that of the request that would run instead). A deadline counts only
   ``DEADLINE_SWAP_INTERVAL`` after the last swap. The urgent request that arrived first runs next.
   While models in use are in its way, other requests to those models do not start, so that they
   become idle and the swap happens.
4. Rank. Interactive requests run before batch requests, then the key with the lower account (see
   ``fair_share``) before the higher, then the older request before the younger. A batch request
   that has waited for ``MAX_BATCH_DELAY`` ranks as interactive.
5. Affinity. Within one class, a request that evicts no model runs before one that does. If the
   first by rank is not chosen because of this, it is skipped: from then on its
   ``max_affinity_delay`` counts.

So a free slot and a request that could use it exist at the same time only under rule 3. Of one
queue only the first request is a candidate; the others wait for it, also while it waits for its
``not_before``. Nothing counts as skipped while no request can run.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, Generic, Protocol, TypeVar

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import FairShare
from gateway.scheduler.queue import SlotRequest, decrement
from gateway.settings import SchedulerSettings

MAX_BATCH_DELAY: Final = 120.0
"""Seconds after which a batch request ranks as interactive, so that it never starves."""

DEADLINE_SWAP_INTERVAL: Final = 75.0
"""Seconds between two swaps that a deadline may bring forward. Clients with short timeouts would
otherwise make Ollama spend its time on loading models."""


@dataclass(slots=True)
class Usage:
    """Slots in use, by what the caps limit. Mutable state: all counters.

    ``in_memory`` counts by model the requests that use this machine's memory. A counter at zero is
    removed, so that names do not accumulate.
    """

    total: int = 0
    by_model: dict[str, int] = field(default_factory=dict)
    by_key: dict[str, int] = field(default_factory=dict)
    by_fingerprint: dict[Hashable, int] = field(default_factory=dict)
    in_memory: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Usage":
        return Usage(
            self.total,
            self.by_model.copy(),
            self.by_key.copy(),
            self.by_fingerprint.copy(),
            self.in_memory.copy(),
        )

    def add(self, request: SlotRequest) -> None:
        model, key, fingerprint = request.model, request.key, request.fingerprint
        self.total += 1
        self.by_model[model] = self.by_model.get(model, 0) + 1
        self.by_key[key] = self.by_key.get(key, 0) + 1
        if request.local:
            self.in_memory[model] = self.in_memory.get(model, 0) + 1
        if fingerprint != b"":
            self.by_fingerprint[fingerprint] = self.by_fingerprint.get(fingerprint, 0) + 1

    def remove(self, request: SlotRequest) -> None:
        self.total -= 1
        decrement(self.by_model, request.model)
        decrement(self.by_key, request.key)
        decrement(self.by_fingerprint, request.fingerprint)
        if request.local:
            decrement(self.in_memory, request.model)

    def is_duplicate_in_flight(self, request: SlotRequest) -> bool:
        """Return True if this is a retry whose first attempt still has its slot."""
        return request.retry and request.fingerprint in self.by_fingerprint

    def has_room(self, request: SlotRequest, settings: SchedulerSettings) -> bool:
        """Return True if the request fits inside all caps (rule 1)."""
        if self.total >= settings.max_active:
            return False
        if self.by_model.get(request.model, 0) >= request.model_max_active:
            return False
        cap = request.key_max_active
        if cap is not None and self.by_key.get(request.key, 0) >= cap:
            return False
        return not (request.retry and request.fingerprint in self.by_fingerprint)


class Candidate(Protocol):
    """A queued request as far as the policy reads it. All times are of one monotonic clock.

    ``skipped_at`` is when rule 5 first skipped it, ``due_at`` when its key was first due while a
    loaded model was kept that is in its way; both are None before that. From ``urgent_at`` on it
    can only just meet its deadline.
    """

    @property
    def request(self) -> SlotRequest: ...
    @property
    def arrived_at(self) -> float: ...
    @property
    def skipped_at(self) -> float | None: ...
    @property
    def due_at(self) -> float | None: ...
    @property
    def urgent_at(self) -> float: ...
    @property
    def not_before(self) -> float: ...


C = TypeVar("C", bound=Candidate)


@dataclass(slots=True, kw_only=True)
class SchedulerState:
    """What decides which request is next, besides the candidates. The policy only reads it.

    ``swapped_at`` is when a model was last evicted for another one.
    """

    settings: SchedulerSettings
    usage: Usage
    shares: FairShare
    residency: Residency
    now: float
    swapped_at: float = -inf


@dataclass(frozen=True, slots=True)
class Decision(Generic[C]):
    """What the policy decided.

    Args:
        chosen: the request that runs now, None if none can.
        skipped: the request that is skipped for it, or for which others do not start.
        due: requests with a deadline whose key was due, if a loaded model is kept in their way.
        redispatch_at: when time alone may change the decision, None if it cannot.
    """

    chosen: C | None
    skipped: C | None = None
    due: Sequence[C] = ()
    redispatch_at: float | None = None


_NOTHING: Final[Decision[Any]] = Decision(None)


class MarkedCandidate(Candidate, Protocol):
    """A candidate on which decisions are recorded."""

    skipped_at: float | None
    due_at: float | None


M = TypeVar("M", bound=MarkedCandidate)


def record_decision(decision: Decision[M], now: float) -> None:
    """Record on the requests what was decided about them. The first time counts."""
    skipped = decision.skipped
    if skipped is not None and skipped.skipped_at is None:
        skipped.skipped_at = now
    for candidate in decision.due:
        if candidate.due_at is None:
            candidate.due_at = now


class Policy(Protocol):
    """Decides which request is next: ``select_next``, or ``first_come`` to compare with."""

    def __call__(self, candidates: Iterable[C], state: SchedulerState, /) -> Decision[C]: ...


def first_come(candidates: Iterable[C], state: SchedulerState) -> Decision[C]:
    """First come, first served, inside the caps: what the benchmarks compare with."""
    fits = state.usage.has_room
    able = [each for each in candidates if fits(each.request, state.settings)]
    return Decision(min(able, key=lambda each: each.arrived_at, default=None))


def select_next(candidates: Iterable[C], state: SchedulerState) -> Decision[C]:
    """Decide which request runs next.

    Args:
        candidates: the first request of every queue.
        state: slots, accounts, GPU memory and the time.
    """
    settings, usage, now = state.settings, state.usage, state.now
    # Rule 1.
    if usage.total >= settings.max_active:
        return _NOTHING
    has_room = usage.has_room
    able = [each for each in candidates if has_room(each.request, settings)]
    ready = [each for each in able if each.not_before <= now]
    redispatch_at = None
    if len(ready) < len(able):
        redispatch_at = min(each.not_before for each in able if each.not_before > now)
    if not ready:
        return Decision(None, redispatch_at=redispatch_at)
    # Rule 4.
    if len(ready) > 1:
        account = state.shares.account
        ready.sort(key=lambda each: (*_class_and_account(each, now, account), each.arrived_at))
    # Rule 3. Most requests were never skipped nor due, and need no closer look.
    urgent = [
        each
        for each in ready
        if (each.skipped_at is not None or each.due_at is not None) and _is_urgent(each, state)
    ]
    decision = _select_urgent(urgent, ready, state) if urgent else _select_by_rank(ready, state)
    return decision if redispatch_at is None else replace(decision, redispatch_at=redispatch_at)


def _select_urgent(urgent: Iterable[C], ranked: Iterable[C], state: SchedulerState) -> Decision[C]:
    """Rule 3: choose the urgent request that arrived first, or one that is not in its way."""
    first = min(urgent, key=lambda each: each.arrived_at)
    if _can_run(first, state):
        return Decision(first)
    keep = state.residency.can_coexist_with(first.request.model, state.usage.in_memory)
    for each in ranked:
        if not each.request.local or each.request.model in keep:
            return Decision(each, skipped=first, due=(first,))
    return Decision(None, skipped=first, due=(first,))


def _select_by_rank(ranked: Sequence[C], state: SchedulerState) -> Decision[C]:
    """Rules 2, 4 and 5; rule 3 once more, for a request that becomes urgent by being due now."""
    chosen = _first_without_swap(ranked, state)
    if chosen is None:
        return Decision(None)
    first = ranked[0]
    due = () if _needs_swap(chosen, state) else _due(chosen, ranked, state)
    urgent = [each for each in due if _deadline_is_near(each, state)]
    if urgent:
        return _select_urgent(urgent, ranked, state)
    if chosen is first:
        return Decision(chosen, due=due)
    if not state.settings.max_affinity_delay:
        return _select_urgent((first,), ranked, state)
    return Decision(chosen, skipped=first, due=due)


def _first_without_swap(ranked: Iterable[C], state: SchedulerState) -> C | None:
    """Of the best class that can run, the first that evicts nothing; else its first (rule 5)."""
    able = None
    for each in ranked:
        if not _can_run(each, state):  # Rule 2.
            continue
        if able is not None and _is_batch(each, state.now) != _is_batch(able, state.now):
            break
        if not _needs_swap(each, state):
            return each
        able = able or each
    return able


def _due(chosen: C, ranked: Iterable[C], state: SchedulerState) -> Sequence[C]:
    """Return requests with a deadline that need a swap and rank no lower by class and account.

    Their age does not count: a request with a short timeout is always younger than those with a
    long one, and would never be due.
    """
    now, account = state.now, state.shares.account
    limit = _class_and_account(chosen, now, account)
    found = []
    for each in ranked:
        if _class_and_account(each, now, account) > limit:
            break  # So are all behind it.
        if each.urgent_at < inf and each.due_at is None and _needs_swap(each, state):
            found.append(each)
    return tuple(found)


def _is_urgent(candidate: Candidate, state: SchedulerState) -> bool:
    skipped, now = candidate.skipped_at, state.now
    if skipped is not None and skipped + state.settings.max_affinity_delay <= now:
        return True
    return candidate.due_at is not None and _deadline_is_near(candidate, state)


def _deadline_is_near(candidate: Candidate, state: SchedulerState) -> bool:
    return max(candidate.urgent_at, state.swapped_at + DEADLINE_SWAP_INTERVAL) <= state.now


def _class_and_account(
    candidate: Candidate, now: float, account: Callable[[str], float]
) -> tuple[bool, float]:
    request = candidate.request
    is_batch = request.batch and now - candidate.arrived_at < MAX_BATCH_DELAY
    return (is_batch, account(request.key))


def _is_batch(candidate: Candidate, now: float) -> bool:
    """Return True if it ranks as a batch request."""
    return candidate.request.batch and now - candidate.arrived_at < MAX_BATCH_DELAY


def _needs_swap(candidate: Candidate, state: SchedulerState) -> bool:
    """Return True if a model must be evicted for it."""
    request = candidate.request
    return request.local and not state.residency.fits_without_eviction(request.model)


def _can_run(candidate: Candidate, state: SchedulerState) -> bool:
    """Rule 2. What does not run on this machine uses none of its memory."""
    request = candidate.request
    return not request.local or state.residency.can_load_now(request.model, state.usage.in_memory)
