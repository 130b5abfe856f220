"""What fits in memory together, and what may be sent without driving out work."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.residency import Residency

NAMES = st.sets(st.sampled_from("abcd")).map(frozenset)
VIEWS = st.builds(
    Residency,
    resident=NAMES,
    together=st.sets(NAMES, max_size=3).map(frozenset),
    max_loaded=st.none() | st.integers(1, 4),
)


def seen(*sets: str, resident: str = "") -> Residency:
    return Residency(frozenset(resident), frozenset(map(frozenset, sets)))


def test_one_model_always_fits() -> None:
    """Ollama loads any one, into slower memory if it must."""
    assert Residency().fit(frozenset("a"))
    assert Residency().fit(frozenset())


def test_a_number_says_what_fits() -> None:
    """Whatever the models are."""
    assert Residency(max_loaded=2).fit(frozenset("ab"))
    assert not Residency(max_loaded=2).fit(frozenset("abc"))


def test_without_a_number_only_what_was_seen_together_fits() -> None:
    """And any part of it."""
    view = seen("abc", "cd")

    assert view.fit(frozenset("ac"))
    assert not view.fit(frozenset("ad"))
    assert not Residency().fit(frozenset("ab"))


def test_a_number_counts_more_than_what_was_seen() -> None:
    """The owner has said it."""
    view = Residency(together=frozenset({frozenset("ab")}), max_loaded=1)

    assert not view.fit(frozenset("ab"))


def test_a_loaded_model_costs_nothing_and_another_only_if_there_is_room() -> None:
    """Room that was seen, or that is left of the number."""
    assert Residency(frozenset("a"), max_loaded=1).costs_nothing("a")
    assert not Residency(frozenset("a"), max_loaded=1).costs_nothing("b")
    assert Residency(frozenset("a"), max_loaded=2).costs_nothing("b")
    assert seen("ab", resident="a").costs_nothing("b")


def test_a_model_is_eligible_where_no_work_is_driven_out() -> None:
    """Nothing at work, or itself, or both loaded, or both known to fit."""
    view = Residency(frozenset("ab"), max_loaded=1)

    assert view.eligible("c", {})
    assert view.eligible("c", {"c": 1})
    assert view.eligible("b", {"a": 1})
    assert not view.eligible("c", {"a": 1})
    assert Residency(max_loaded=2).eligible("c", {"a": 1})


def test_of_those_at_work_as_many_stay_as_fit_beside_the_next() -> None:
    """The same ones each time it is asked."""
    assert Residency(max_loaded=2).beside("c", {"b": 1, "a": 1}) == frozenset("a")
    assert Residency(max_loaded=1).beside("c", {"a": 1}) == frozenset()
    assert seen("bc").beside("c", {"a": 1, "b": 1}) == frozenset("b")


@given(VIEWS, NAMES, st.sampled_from("abcd"))
def test_what_stays_fits_and_when_the_rest_is_gone_the_next_is_eligible(
    view: Residency, active: frozenset[str], model: str
) -> None:
    """Waiting for the others to come free is enough."""
    stay = view.beside(model, active)

    assert stay <= active
    assert view.fit(stay | {model})
    assert view.eligible(model, stay)


def test_what_is_idle_and_does_not_fit_goes_for_what_is_loaded() -> None:
    """What is at work stays, and so does what fits."""
    view = Residency(frozenset("ab"), max_loaded=2)

    assert view.after("c", {"b": 1}).resident == frozenset("bc")
    assert view.after("c", {}).resident == frozenset("ac")
    assert seen("bc", "ad").after("c", {}).resident == frozenset("c")
