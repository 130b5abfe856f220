"""What comes, and how much of the places is whose in the long run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.arrivals import Traffic, Want, fair_part

from .requests import demand
from .scenarios import steady


def test_a_key_wants_as_many_places_as_its_calls_would_keep_busy() -> None:
    """One in five seconds of ten seconds each: two; however many models they are for."""
    traffic = Traffic()
    for number in range(400):
        traffic.add(demand("a", "mn"[number % 2]), 5.0 * number)
    wants = traffic.wants(steady(m=10.0, n=10.0), 2000.0)

    assert wants["a"].places == pytest.approx(2.0, rel=0.05)


def test_one_call_can_be_left_out_of_it() -> None:
    """Twelve of ten seconds each are remembered for two minutes: one place; without one, less."""
    traffic, service = Traffic(), steady(m=10.0)
    for _ in range(12):
        traffic.add(demand("a", "m"), 0.0)
    traffic.add(demand("b", "m"), 0.0)
    wants = traffic.wants(service, 0.0, but=demand("a", "m"))

    assert wants["a"].places == pytest.approx(11 / 12)
    assert wants["b"].places == pytest.approx(1 / 12)
    assert traffic.wants(service, 0.0, but=demand("b", "m"))["b"].places == pytest.approx(0.0)
    assert traffic.wants(service, 0.0, but=demand("c", "m")) == traffic.wants(service, 0.0)


def test_what_came_is_forgotten() -> None:
    """After some minutes it counts for nothing."""
    traffic = Traffic()
    for number in range(100):
        traffic.add(demand("a"), float(number))

    assert traffic.wants(steady(model=10.0), 1300.0)["a"].places < 0.01


def test_no_more_keys_are_remembered_than_can_be() -> None:
    """The one that came longest ago is forgotten."""
    traffic = Traffic()
    for number in range(300):
        traffic.add(demand(f"k{number}"), 1.0)
    wants = traffic.wants(steady(model=10.0), 1.0)

    assert (len(wants), "k43" in wants, "k44" in wants) == (256, False, True)


def test_it_knows_of_those_who_can_wait_for_much_less() -> None:
    """For two minutes after the last of them came."""
    traffic = Traffic()
    traffic.add(demand(client_timeout=60.0), 0.0)

    assert traffic.has_shorter(300.0, 119.0)
    assert not traffic.has_shorter(300.0, 121.0)
    assert not traffic.has_shorter(100.0, 0.0)


def test_of_all_that_comes_a_part_is_for_each_model() -> None:
    """By the time that it takes: as many calls of twice the length are two thirds."""
    traffic, service = Traffic(), steady(m=12.0, n=6.0)
    for model in "mnmnmn":
        traffic.add(demand("a", model), 0.0)

    assert traffic.part_of("m", 300.0, service, 0.0) == pytest.approx(2 / 3)
    assert traffic.part_of("n", 300.0, service, 0.0) == pytest.approx(1 / 3)


def test_nothing_is_kept_for_models_whose_callers_can_wait_longer() -> None:
    """They lose nothing by it; and one model alone has everything."""
    traffic, service = Traffic(), steady(m=12.0, n=6.0)
    traffic.add(demand("a", "m"), 0.0)

    assert traffic.part_of("m", 300.0, service, 0.0) == 1.0

    traffic.add(demand("a", "n", client_timeout=60.0), 0.0)

    assert traffic.part_of("n", 60.0, service, 0.0) == 1.0
    assert traffic.part_of("m", 300.0, service, 0.0) == pytest.approx(2 / 3)


def part(wants: dict[str, tuple[float, float]], weight: float = 1.0) -> float:
    return fair_part(
        "me", weight, {key: Want(places, each) for key, (places, each) in wants.items()}, 1.0
    )


def test_alone_a_key_has_everything() -> None:
    """What it wants itself does not matter."""
    assert part({}) == part({"me": (9.0, 1.0)}) == 1.0


def test_those_who_want_all_share_by_weight() -> None:
    """Two others of weight one, and one of two."""
    assert part({"a": (9.0, 1.0), "b": (9.0, 1.0)}) == pytest.approx(1 / 3)
    assert part({"a": (9.0, 1.0)}, weight=3.0) == pytest.approx(3 / 4)


def test_what_the_modest_leave_is_shared_by_the_others() -> None:
    """A tenth is wanted by one; the rest is halved."""
    assert part({"a": (0.1, 1.0), "b": (9.0, 1.0)}) == pytest.approx(0.45)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.tuples(st.floats(0.0, 3.0), st.floats(0.1, 9.0)),
        min_size=1,
    ),
    st.floats(0.5, 4.0),
)
def test_the_parts_of_all_are_no_more_than_there_is(
    wants: dict[str, tuple[float, float]], capacity: float
) -> None:
    """And each has at least its share by weight, or what it wants."""
    each = {key: Want(places, weight) for key, (places, weight) in wants.items()}
    parts = {key: fair_part(key, want.weight, each, capacity) for key, want in each.items()}
    used = sum(min(parts[key], want.places) for key, want in each.items())
    weights = sum(want.weight for want in each.values())

    assert used <= capacity * (1 + 1e-9)
    assert all(
        parts[key] >= capacity * want.weight / weights * (1 - 1e-9) for key, want in each.items()
    )
