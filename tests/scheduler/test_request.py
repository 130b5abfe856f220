"""Who holds places, and whether one more fits."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.request import Occupancy

from .requests import demand, limits

NAMES = st.sampled_from(["a", "b", "c"])


def test_an_empty_house_has_room() -> None:
    """Nothing is counted before anybody came."""
    assert Occupancy().has_room(demand(), limits())


def test_the_cap_of_all_holds() -> None:
    """The last place taken is the last."""
    taken = Occupancy()
    taken.add(demand("a", "m"))

    assert not taken.has_room(demand("b", "n"), limits(max_active=1))
    assert taken.has_room(demand("b", "n"), limits(max_active=2))


def test_a_models_cap_holds_for_that_model_alone() -> None:
    """Another model still has room."""
    taken = Occupancy()
    taken.add(demand("a", "m"))

    assert not taken.has_room(demand("b", "m", model_max_active=1), limits(max_active=9))
    assert taken.has_room(demand("b", "n", model_max_active=1), limits(max_active=9))


def test_a_keys_cap_holds_for_that_key_alone() -> None:
    """Another key still has room, and one without a cap always."""
    taken = Occupancy()
    taken.add(demand("a", "m"))

    assert not taken.has_room(demand("a", "n", key_max_active=1), limits(max_active=9))
    assert taken.has_room(demand("b", "n", key_max_active=1), limits(max_active=9))
    assert taken.has_room(demand("a", "n"), limits(max_active=9))


@given(st.lists(st.tuples(NAMES, NAMES)))
def test_whoever_comes_and_goes_leaves_nothing_behind(pairs: list[tuple[str, str]]) -> None:
    """Counters forget a name at zero, in whatever order places are given back."""
    taken = Occupancy()
    for key, model in pairs:
        taken.add(demand(key, model))

    assert taken.total == len(pairs) == sum(taken.by_model.values()) == sum(taken.by_key.values())

    for key, model in sorted(pairs):
        taken.remove(demand(key, model))

    assert taken == Occupancy()
