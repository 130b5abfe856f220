"""Who is next: the rules one by one."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.scheduler.fair_share import Shares
from gateway.scheduler.policy import Decision, Standing, decide, note
from gateway.scheduler.request import Occupancy, SlotRequest

from .requests import demand, limits

ONE = Residency(frozenset("m"), max_loaded=1)


@dataclass(eq=False)
class Head:
    demand: SlotRequest
    arrived_at: float = 0.0
    passed_over_at: float | None = None
    turn_at: float | None = None
    hurries_at: float = inf
    doubtful_at: float = inf
    not_before: float = field(default=-inf)


def head(key: str = "a", model: str = "m", *, at: float = 0.0, **changes: Any) -> Head:
    wish = {"batch", "model_max_active", "key_max_active", "retry", "fingerprint", "local"} & set(
        changes
    )
    terms = {name: changes.pop(name) for name in wish}
    return Head(demand(key, model, **terms), at, **changes)


def next_of(
    *heads: Head,
    at_work: tuple[SlotRequest, ...] = (),
    view: Residency = ONE,
    accounts: dict[str, float] | None = None,
    now: float = 100.0,
    **terms: Any,
) -> Decision[Head]:
    occupancy, shares = Occupancy(), Shares()
    for one in at_work:
        occupancy.add(one)
    for key, account in (accounts or {}).items():
        shares.charge(key, account)
    return decide(
        heads,
        Standing(
            occupancy=occupancy,
            limits=limits(**{"max_active": 2, **terms}),
            residency=view,
            shares=shares,
            now=now,
        ),
    )


def made_way_for(one: Head, *, until: float | None = None) -> Decision[Head]:
    """A place stays empty for his sake."""
    return Decision(None, passed_over=one, overtaken=(one,), ask_again_at=until)


def test_nobody_is_next_where_nobody_waits() -> None:
    """And there is no time to ask again: a place alone changes nothing."""
    assert next_of() == Decision(None)


def test_nobody_goes_while_all_places_are_taken() -> None:
    """Nor is anybody passed over by it."""
    assert next_of(head(), at_work=(demand(), demand())) == Decision(None)


def test_of_equals_the_first_to_come_goes() -> None:
    """Accounts and classes alike, age decides."""
    later, earlier = head("a", at=2.0), head("b", at=1.0)

    assert next_of(later, earlier).waiter is earlier


def test_the_lower_account_goes_first() -> None:
    """However late he came."""
    earlier, later = head("a", at=1.0), head("b", at=2.0)

    assert next_of(earlier, later, accounts={"a": 5.0}).waiter is later


def test_one_at_a_cap_of_his_own_is_not_asked() -> None:
    """A place that he could not use is not kept for him, and he is not passed over."""
    capped = head("a", key_max_active=1)
    same = head("b", model_max_active=1)
    free = head("c", at=9.0)
    decision = next_of(capped, same, free, at_work=(demand("a", "m"),))

    assert decision == Decision(free)


def test_one_whose_model_would_drive_out_work_waits() -> None:
    """Nobody goes in his stead, so his patience has not begun."""
    other = head("a", "n")

    assert next_of(other, at_work=(demand("b", "m"),)) == Decision(None)


def test_with_nothing_at_work_any_model_may_be_loaded() -> None:
    """A loaded model that is idle is nobody's."""
    other = head("a", "n")

    assert next_of(other).waiter is other


def test_a_loaded_model_goes_first_and_whose_turn_it_was_is_told() -> None:
    """From then on his patience is counted."""
    other, loaded = head("a", "n", at=1.0), head("b", "m", at=2.0)
    decision = next_of(other, loaded)
    note(decision, 100.0)
    note(decision, 120.0)

    assert decision == Decision(loaded, passed_over=other)
    assert (other.passed_over_at, loaded.passed_over_at) == (100.0, None)


def test_once_his_patience_has_ended_the_swap_happens() -> None:
    """First the model in his way comes free, with a place empty; then he goes."""
    other = head("a", "n", at=1.0, passed_over_at=70.0)
    loaded = head("b", "m", at=0.0)

    assert next_of(other, loaded, at_work=(demand("b", "m"),)) == made_way_for(other)
    assert next_of(other, loaded) == Decision(other)


def test_without_patience_nobody_is_passed_over() -> None:
    """The order is then by fair share alone."""
    other, loaded = head("a", "n", at=1.0), head("b", "m", at=2.0)

    assert next_of(other, loaded, max_affinity_delay=0.0).waiter is other


def test_of_two_whose_patience_has_ended_the_first_to_come_goes() -> None:
    """Shares no longer count."""
    one, two = (head(key, key, at=at, passed_over_at=0.0) for key, at in (("n", 2.0), ("o", 1.0)))

    assert next_of(one, two, accounts={"o": 50.0}).waiter is two


def test_only_what_is_in_his_way_comes_free() -> None:
    """Two models are loaded and one must go: calls to the other go on."""
    view = Residency(frozenset({"m", "n"}), max_loaded=2)
    urgent = head("a", "o", passed_over_at=0.0)
    stays, goes = head("b", "m"), head("c", "n")
    at_work = (demand("b", "m"), demand("c", "n"))
    decision = next_of(urgent, goes, stays, at_work=at_work, view=view, max_active=3)

    assert decision.waiter is stays


def test_nobody_is_passed_over_beyond_his_own_deadline() -> None:
    """Once he can only just be in time, nobody goes before him who would be in his way."""
    other = head("a", "n", at=1.0, hurries_at=105.0)
    loaded = head("b", "m", at=2.0)

    assert next_of(other, loaded).waiter is loaded
    assert next_of(other, loaded, now=105.0).waiter is other
    assert next_of(other, loaded, now=105.0, at_work=(demand("b", "m"),)) == made_way_for(other)


def test_a_hurry_counts_from_when_the_keys_turn_has_come() -> None:
    """However young the call is; and once it has come, it has come."""
    hurried = head("a", "n", at=9.0, hurries_at=90.0)
    loaded, same = head("b", "m", at=2.0), head("a", "m", at=1.0)

    assert next_of(hurried, loaded, accounts={"a": 5.0}) == Decision(loaded)
    assert next_of(hurried, loaded, same).waiter is hurried

    hurried.turn_at = 50.0
    assert next_of(hurried, loaded, accounts={"a": 5.0}).waiter is hurried


def test_whose_keys_turn_it_was_is_noted_of_those_in_a_hurry() -> None:
    """Of the same class, with no higher an account than the one that goes; not of the patient."""
    hurried, patient = head("a", "n", at=9.0, hurries_at=200.0), head("b", "n", at=9.0)
    poorer = head("c", "n", at=9.0, hurries_at=200.0)
    loaded = head("b", "m", at=2.0)
    decision = next_of(hurried, patient, poorer, loaded, accounts={"c": 5.0})
    note(decision, 100.0)

    assert decision == Decision(loaded, overtaken=(hurried,))
    assert hurried.turn_at == 100.0


def test_one_who_can_not_be_in_time_is_not_hurried() -> None:
    """A swap for him would most likely be for nothing."""
    late = head("a", "n", at=9.0, hurries_at=90.0, doubtful_at=99.0)
    loaded = head("b", "m", at=2.0)

    assert next_of(late, loaded).waiter is loaded


def test_interactive_goes_before_batch() -> None:
    """Whatever the accounts say, and though the other one's model is loaded."""
    batch, other = head("a", "m", batch=True, at=90.0), head("b", "n", at=99.0)

    assert next_of(batch, other, accounts={"b": 50.0}).waiter is other


def test_batch_goes_where_no_interactive_call_can() -> None:
    """A place is not kept for a class."""
    batch, other = head("a", "m", batch=True, at=90.0), head("b", "n", at=99.0)

    assert next_of(batch, other, at_work=(demand("c", "m"),)).waiter is batch


def test_batch_that_has_waited_long_enough_counts_as_interactive() -> None:
    """So it never starves."""
    batch, other = head("a", batch=True), head("b", at=1.0)

    assert next_of(batch, other, max_batch_delay=99.0).waiter is batch
    assert next_of(batch, other, max_batch_delay=101.0).waiter is other


def test_one_who_may_well_be_late_lets_others_go_first() -> None:
    """And goes where there is nobody else."""
    doubtful = head("a", doubtful_at=99.0)
    hopeful = head("b", at=50.0, batch=True)

    assert next_of(doubtful, hopeful).waiter is hopeful
    assert next_of(doubtful).waiter is doubtful


def test_nobody_makes_way_for_one_who_may_well_be_late() -> None:
    """Until then they do, and that is when to ask again."""
    urgent = head("a", "n", passed_over_at=0.0, doubtful_at=110.0)
    loaded = head("b", "m")
    at_work = (demand("b", "m"),)

    assert next_of(urgent, loaded, at_work=at_work) == made_way_for(urgent, until=110.0)
    assert next_of(urgent, loaded, at_work=at_work, now=110.0).waiter is loaded


def test_what_runs_elsewhere_waits_for_no_model_and_keeps_none_waiting() -> None:
    """It takes no part of this machine's memory, even while somebody else is waited for."""
    elsewhere = head("a", "far", local=False)
    urgent = head("b", "n", passed_over_at=0.0)
    at_work = (demand("c", "m"),)

    assert next_of(elsewhere, at_work=at_work) == Decision(elsewhere)
    assert next_of(elsewhere, urgent, at_work=at_work).waiter is elsewhere
    assert next_of(head("b", "n"), at_work=(demand("a", "far", local=False),)).waiter is not None


def test_a_retry_waits_for_its_first_attempt_alone() -> None:
    """The same call is still being stopped; any other one goes."""
    retry = head("a", retry=True, fingerprint=b"x")
    at_work = (demand("a", "m", fingerprint=b"x"),)

    assert next_of(retry, at_work=at_work).waiter is None
    assert next_of(retry, at_work=(demand("a", "m", fingerprint=b"y"),)).waiter is retry
    assert next_of(head("a", fingerprint=b"x"), at_work=at_work).waiter is not None


def test_nobody_goes_before_his_time() -> None:
    """It is when to ask again, whoever else goes or waits."""
    delayed = head("a", not_before=105.0)
    other, loaded = head("b", "n"), head("c", "m")
    at_work = (demand("c", "m"),)

    assert next_of(delayed) == Decision(None, ask_again_at=105.0)
    assert next_of(delayed, loaded) == Decision(loaded, ask_again_at=105.0)
    assert next_of(delayed, other, at_work=at_work) == Decision(None, ask_again_at=105.0)
    assert next_of(delayed, now=105.0).waiter is delayed


HEADS = st.lists(
    st.builds(
        head,
        st.sampled_from("abc"),
        st.sampled_from("mno"),
        at=st.floats(0.0, 100.0),
        batch=st.booleans(),
        key_max_active=st.none() | st.integers(1, 2),
        model_max_active=st.integers(1, 2),
        passed_over_at=st.none() | st.floats(0.0, 100.0),
        turn_at=st.none() | st.floats(0.0, 100.0),
        hurries_at=st.floats(0.0, 300.0),
        doubtful_at=st.floats(0.0, 300.0),
        not_before=st.floats(0.0, 200.0),
    ),
    max_size=6,
)
VIEWS = st.builds(
    Residency,
    st.sets(st.sampled_from("mno"), max_size=2).map(frozenset),
    max_loaded=st.integers(1, 3),
)
AT_WORK = st.lists(st.builds(demand, st.sampled_from("abc"), st.sampled_from("mno")), max_size=3)


@given(HEADS, AT_WORK, VIEWS)
def test_whoever_goes_fits_and_drives_nobody_out(
    heads: list[Head], at_work: list[SlotRequest], view: Residency
) -> None:
    """Whatever the state; and to ask again is never in the past."""
    occupancy = Occupancy()
    for one in at_work:
        occupancy.add(one)
    decision = next_of(*heads, at_work=tuple(at_work), view=view, max_active=3)
    chosen = decision.waiter

    assert decision.ask_again_at is None or decision.ask_again_at > 100.0
    if chosen is not None:
        assert occupancy.has_room(chosen.demand, limits(max_active=3))
        assert view.can_load_now(chosen.demand.model, occupancy.by_model)
        assert chosen.not_before <= 100.0
        assert chosen is not decision.passed_over
        assert chosen not in decision.overtaken
