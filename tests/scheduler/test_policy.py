"""Which request runs next: the rules of the policy one by one."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import FairShare
from gateway.scheduler.policy import (
    DEADLINE_SWAP_INTERVAL,
    MAX_BATCH_DELAY,
    Decision,
    SchedulerState,
    Usage,
    first_come,
    record_decision,
    select_next,
)
from gateway.scheduler.queue import SlotRequest

from .helpers import settings, slot_request

ONE_MODEL = Residency(frozenset("m"), max_loaded=1)


@dataclass(eq=False)
class Queued:
    """The first request of one queue."""

    request: SlotRequest
    arrived_at: float = 0.0
    skipped_at: float | None = None
    due_at: float | None = None
    urgent_at: float = inf
    not_before: float = field(default=-inf)


_OF_THE_REQUEST = {
    "batch",
    "model_max_active",
    "key_max_active",
    "retry",
    "fingerprint",
    "local",
}


def queued(key: str = "a", model: str = "m", *, at: float = 0.0, **changes: Any) -> Queued:
    own = {name: changes.pop(name) for name in _OF_THE_REQUEST & set(changes)}
    return Queued(slot_request(key, model, **own), at, **changes)


def state_of(
    *,
    active: tuple[SlotRequest, ...] = (),
    view: Residency = ONE_MODEL,
    accounts: dict[str, float] | None = None,
    now: float = 100.0,
    swapped_at: float = -inf,
    **changes: Any,
) -> SchedulerState:
    usage, shares = Usage(), FairShare()
    for request in active:
        usage.add(request)
    for key, account in (accounts or {}).items():
        shares.charge(key, account)
    return SchedulerState(
        settings=settings(**{"max_active": 2, **changes}),
        usage=usage,
        shares=shares,
        residency=view,
        now=now,
        swapped_at=swapped_at,
    )


def decide(*candidates: Queued, **state: Any) -> Decision[Queued]:
    return select_next(candidates, state_of(**state))


def assert_waits_for(decision: Decision[Queued], urgent: Queued) -> None:
    """A slot stays free until the model that is in its way is idle."""
    assert decision.chosen is None
    assert decision.skipped is urgent
    assert list(decision.due) == [urgent]


# Rule 1: caps.


def test_without_queued_requests_nothing_runs() -> None:
    """And time alone changes nothing."""
    assert decide() == Decision(None)


def test_nothing_runs_while_all_slots_are_in_use() -> None:
    """And nothing counts as skipped."""
    assert decide(queued(), active=(slot_request(), slot_request())) == Decision(None)


def test_a_request_at_its_cap_is_no_candidate() -> None:
    """No slot is kept free for it, and it does not count as skipped."""
    capped_key = queued("a", key_max_active=1)
    capped_model = queued("b", model_max_active=1)
    free = queued("c", at=9.0)

    decision = decide(capped_key, capped_model, free, active=(slot_request("a", "m"),))

    assert decision == Decision(free)


def test_a_retry_waits_for_its_first_attempt_alone() -> None:
    retry = queued("a", retry=True, fingerprint=b"x")
    active = (slot_request("a", "m", fingerprint=b"x"),)

    assert decide(retry, active=active).chosen is None
    assert decide(retry, active=(slot_request("a", "m", fingerprint=b"y"),)).chosen is retry
    assert decide(queued("a", fingerprint=b"x"), active=active).chosen is not None


def test_a_delayed_request_does_not_run_before_its_time() -> None:
    """The policy says when to decide again, whatever else runs or waits."""
    delayed = queued("a", not_before=105.0)
    other, loaded = queued("b", "n"), queued("c", "m")
    active = (slot_request("c", "m"),)

    assert decide(delayed) == Decision(None, redispatch_at=105.0)
    assert decide(delayed, loaded) == Decision(loaded, redispatch_at=105.0)
    assert decide(delayed, other, active=active) == Decision(None, redispatch_at=105.0)
    assert decide(delayed, now=105.0).chosen is delayed


# Rule 2: memory.


def test_a_request_that_would_evict_a_model_in_use_waits() -> None:
    """No other request runs instead, so it does not count as skipped."""
    assert decide(queued("a", "n"), active=(slot_request("b", "m"),)) == Decision(None)


def test_an_idle_model_may_be_evicted() -> None:
    other = queued("a", "n")

    assert decide(other).chosen is other


def test_a_remote_model_waits_for_no_memory_and_blocks_none() -> None:
    """Also while a slot is kept free for an urgent request."""
    remote = queued("a", "far", local=False)
    urgent = queued("b", "n", skipped_at=0.0)
    active = (slot_request("c", "m"),)

    assert decide(remote, active=active) == Decision(remote)
    assert decide(remote, urgent, active=active).chosen is remote
    assert decide(queued("b", "n"), active=(slot_request("a", "far", local=False),)).chosen


# Rule 3: urgent requests.


def test_a_request_is_urgent_once_it_was_skipped_for_long_enough() -> None:
    """First the model in its way becomes idle, with a slot free; then it runs."""
    other = queued("a", "n", at=1.0, skipped_at=70.0)
    loaded = queued("b", "m", at=0.0)

    assert_waits_for(decide(other, loaded, active=(slot_request("b", "m"),)), other)
    assert decide(other, loaded) == Decision(other)


def test_of_urgent_requests_the_oldest_runs_first() -> None:
    """Accounts do not count."""
    one, two = (queued(key, key, at=at, skipped_at=0.0) for key, at in (("n", 2.0), ("o", 1.0)))

    assert decide(one, two, accounts={"o": 50.0}).chosen is two


def test_only_what_is_in_the_way_of_an_urgent_request_must_become_idle() -> None:
    """Of two loaded models one must be evicted: requests to the other go on."""
    view = Residency(frozenset({"m", "n"}), max_loaded=2)
    urgent = queued("a", "o", skipped_at=0.0)
    stays, goes = queued("b", "m"), queued("c", "n")
    active = (slot_request("b", "m"), slot_request("c", "n"))

    assert decide(urgent, goes, stays, active=active, view=view, max_active=3).chosen is stays


def test_a_request_is_not_skipped_past_its_deadline() -> None:
    """Once it can only just be in time, nothing runs that would be in its way."""
    other = queued("a", "n", at=1.0, urgent_at=105.0)
    loaded = queued("b", "m", at=2.0)

    assert decide(other, loaded).chosen is loaded
    assert decide(other, loaded, now=105.0).chosen is other
    assert_waits_for(decide(other, loaded, now=105.0, active=(slot_request("b", "m"),)), other)


def test_a_deadline_counts_once_the_key_is_due() -> None:
    """However young the request is; and a key that was due once stays so."""
    hurried = queued("a", "n", at=9.0, urgent_at=90.0)
    loaded, same_key = queued("b", "m", at=2.0), queued("a", "m", at=1.0)

    assert decide(hurried, loaded, accounts={"a": 5.0}) == Decision(loaded)
    assert decide(hurried, loaded, same_key).chosen is hurried

    hurried.due_at = 50.0
    assert decide(hurried, loaded, accounts={"a": 5.0}).chosen is hurried


def test_a_deadline_brings_no_swap_forward_soon_after_the_last_one() -> None:
    """Clients with short timeouts would make Ollama do little else than load models."""
    hurried = queued("a", "n", at=1.0, urgent_at=90.0)
    loaded = queued("b", "m", at=2.0)
    swapped_at = 100.0 - DEADLINE_SWAP_INTERVAL

    assert decide(hurried, loaded, swapped_at=swapped_at + 1.0).chosen is loaded
    assert decide(hurried, loaded, swapped_at=swapped_at).chosen is hurried


def test_a_request_with_a_deadline_is_due_at_the_same_class_and_account() -> None:
    """Not one without a deadline, nor one of a key with a higher account."""
    hurried, patient = queued("a", "n", at=9.0, urgent_at=200.0), queued("b", "n", at=9.0)
    later_request = queued("c", "n", at=9.0, urgent_at=200.0)
    loaded = queued("b", "m", at=2.0)

    decision = decide(hurried, patient, later_request, loaded, accounts={"c": 5.0})
    record_decision(decision, 100.0)

    assert decision.chosen is loaded
    assert list(decision.due) == [hurried]
    assert hurried.due_at == 100.0


# Rule 4: rank.


def test_of_equal_requests_the_oldest_runs_first() -> None:
    later, earlier = queued("a", at=2.0), queued("b", at=1.0)

    assert decide(later, earlier).chosen is earlier


def test_the_key_with_the_lower_account_runs_first() -> None:
    """However late its request came."""
    earlier, later = queued("a", at=1.0), queued("b", at=2.0)

    assert decide(earlier, later, accounts={"a": 5.0}).chosen is later


def test_interactive_requests_run_before_batch_requests() -> None:
    """Whatever the accounts are, and although the batch request's model is loaded."""
    batch, other = queued("a", "m", batch=True, at=90.0), queued("b", "n", at=99.0)

    assert decide(batch, other, accounts={"b": 50.0}).chosen is other


def test_a_batch_request_runs_if_no_interactive_one_can() -> None:
    batch, other = queued("a", "m", batch=True, at=90.0), queued("b", "n", at=99.0)

    assert decide(batch, other, active=(slot_request("c", "m"),)).chosen is batch


def test_a_batch_request_ranks_as_interactive_after_a_while() -> None:
    batch, other = queued("a", batch=True), queued("b", at=1.0)

    assert decide(batch, other, now=MAX_BATCH_DELAY).chosen is batch
    assert decide(batch, other, now=MAX_BATCH_DELAY - 1.0).chosen is other


# Rule 5: affinity.


def test_a_request_for_a_loaded_model_runs_first_and_the_other_is_skipped() -> None:
    """The first time that it was skipped counts."""
    other, loaded = queued("a", "n", at=1.0), queued("b", "m", at=2.0)

    decision = decide(other, loaded)
    record_decision(decision, 100.0)
    record_decision(decision, 120.0)

    assert decision == Decision(loaded, skipped=other)
    assert (other.skipped_at, loaded.skipped_at) == (100.0, None)


def test_with_an_affinity_delay_of_zero_nothing_is_skipped() -> None:
    other, loaded = queued("a", "n", at=1.0), queued("b", "m", at=2.0)

    assert decide(other, loaded, max_affinity_delay=0.0).chosen is other


CANDIDATES = st.lists(
    st.builds(
        queued,
        st.sampled_from("abc"),
        st.sampled_from("mno"),
        at=st.floats(0.0, 100.0),
        batch=st.booleans(),
        key_max_active=st.none() | st.integers(1, 2),
        model_max_active=st.integers(1, 2),
        skipped_at=st.none() | st.floats(0.0, 100.0),
        due_at=st.none() | st.floats(0.0, 100.0),
        urgent_at=st.floats(0.0, 300.0),
        not_before=st.floats(0.0, 200.0),
    ),
    max_size=6,
)
VIEWS = st.builds(
    Residency,
    st.sets(st.sampled_from("mno"), max_size=2).map(frozenset),
    max_loaded=st.integers(1, 3),
)
ACTIVE = st.lists(
    st.builds(slot_request, st.sampled_from("abc"), st.sampled_from("mno")), max_size=3
)


@given(CANDIDATES, ACTIVE, VIEWS)
def test_what_runs_fits_and_evicts_no_model_in_use(
    candidates: list[Queued], active: list[SlotRequest], view: Residency
) -> None:
    """Whatever the state is; and the next decision is never in the past."""
    state = state_of(active=tuple(active), view=view, max_active=3)
    decision = select_next(candidates, state)
    chosen = decision.chosen

    assert decision.redispatch_at is None or decision.redispatch_at > 100.0
    if chosen is not None:
        assert state.usage.has_room(chosen.request, state.settings)
        assert view.can_load_now(chosen.request.model, state.usage.by_model)
        assert chosen.not_before <= 100.0
        assert chosen is not decision.skipped
        assert chosen not in decision.due


def test_first_come_ignores_accounts_and_memory() -> None:
    """But not the caps."""
    first, loaded = queued("a", "n", at=1.0), queued("b", "m", at=2.0)
    state = state_of(accounts={"a": 5.0})

    assert first_come((loaded, first), state).chosen is first

    state.usage.add(slot_request())
    state.usage.add(slot_request())
    assert first_come((loaded, first), state).chosen is None


# Usage.


def test_the_cap_of_a_model_is_for_that_model_alone() -> None:
    usage = Usage()
    usage.add(slot_request("a", "m"))

    assert not usage.has_room(slot_request("b", "m", model_max_active=1), settings(max_active=9))
    assert usage.has_room(slot_request("b", "n", model_max_active=1), settings(max_active=9))


def test_the_cap_of_a_key_is_for_that_key_alone() -> None:
    usage = Usage()
    usage.add(slot_request("a", "m"))

    assert not usage.has_room(slot_request("a", "n", key_max_active=1), settings(max_active=9))
    assert usage.has_room(slot_request("b", "n", key_max_active=1), settings(max_active=9))
    assert usage.has_room(slot_request("a", "n"), settings(max_active=9))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("mno"))))
def test_usage_is_empty_after_all_slots_were_returned(pairs: list[tuple[str, str]]) -> None:
    """Counters at zero are removed, in whatever order slots are returned."""
    usage = Usage()
    for key, model in pairs:
        usage.add(slot_request(key, model))

    assert usage.total == len(pairs) == sum(usage.by_model.values()) == sum(usage.by_key.values())

    for key, model in sorted(pairs):
        usage.remove(slot_request(key, model))

    assert usage == Usage()
