"""Service times as measured, by model and by what was loaded."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduler.pace import quick_answer
from gateway.scheduler.service import KNOWN_AFTER, MOST_MODELS, Measured, ServiceTimes

SECONDS = st.lists(st.floats(0.0, 10_000.0), min_size=1, max_size=40)


def measured(*seconds: float) -> Measured:
    found = Measured()
    for each in seconds:
        found.add(each)
    return found


def test_the_first_one_is_all_that_is_known() -> None:
    """And it is not known well: half of it is taken for its deviation."""
    one = measured(10.0)

    assert (one.mean, one.deviation, one.known) == (10.0, 5.0, False)


def test_the_estimate_follows_what_is_measured() -> None:
    """Models change; what was long ago counts less and less."""
    found = measured(*[100.0] * 5, *[1.0] * 50)

    assert found.mean == pytest.approx(1.0, rel=0.01)


def test_one_very_slow_answer_tells_little() -> None:
    """It may be the only one; what is slow for good is known after a few."""
    found = measured(*[5.0] * 20, 1500.0)

    assert found.mean == pytest.approx(6.0)
    assert measured(*[5.0] * 20, *[50.0] * 12).mean == pytest.approx(50.0, rel=0.25)


def test_steady_times_are_known_ever_better() -> None:
    """Until there is no doubt."""
    assert measured(*[10.0] * 60).variance == pytest.approx(0.0, abs=1e-6)


@given(SECONDS)
def test_the_mean_stays_within_what_was_seen(seconds: list[float]) -> None:
    """Between the shortest and the longest."""
    found = measured(*seconds)

    assert min(seconds) - 1e-6 <= found.mean <= max(seconds) + 1e-6
    assert found.variance >= 0.0


@given(SECONDS, st.integers(1, 100))
def test_many_do_not_average_out_the_error_of_the_mean(seconds: list[float], calls: int) -> None:
    """What is not known of one is not known of each of them."""
    found = measured(*seconds)

    assert found.variance_of(calls) >= found.variance * calls
    assert found.variance_of(calls) >= found.variance * calls**2 / 9 - 1e-6


def test_loaded_and_not_loaded_are_two_things() -> None:
    """A load is no part of an answer by a loaded model."""
    service = ServiceTimes()
    service.add("m", 2.0, resident=True)
    service.add("m", 10.0, resident=False)

    assert service.of("m").mean == 2.0
    assert service.of("m", resident=False).mean == 10.0


def test_where_one_case_is_unknown_the_nearest_stands_for_it() -> None:
    """The same model first, then all models, then nothing."""
    service = ServiceTimes()
    assert service.of("m") == Measured()

    service.add("n", 4.0, resident=True)
    assert service.of("m").mean == service.of("n", resident=False).mean == 4.0

    service.add("m", 9.0, resident=False)
    assert service.of("m").mean == 9.0
    assert service.turn() == pytest.approx(6.5)


def test_a_model_is_known_by_itself_alone() -> None:
    """Another one's answers say nothing about whether its callers can be in time."""
    service = ServiceTimes()
    for _ in range(KNOWN_AFTER):
        assert not service.knows("m")
        service.add("m", 4.0, resident=True)

    assert service.knows("m")
    assert not service.knows("n")


def test_names_do_not_pile_up() -> None:
    """The oldest is forgotten."""
    service = ServiceTimes()
    for number in range(MOST_MODELS + 1):
        service.add(f"m{number}", 1.0, resident=True)

    assert len(service._warm) == MOST_MODELS
    assert "m0" not in service._warm


def test_it_begins_with_what_was_known_in_an_earlier_life() -> None:
    """As well as it was known then; what is measured now goes on from there."""
    service = ServiceTimes()
    service.expect("m", warm=measured(*[4.0] * 8), cold=measured(*[12.0] * 3))

    assert (service.knows("m"), service.of("m").mean) == (True, 4.0)
    assert service.of("m", resident=False).mean == 12.0
    assert service.turn() == 8.0

    service.add("m", 6.0, resident=True)

    assert service.of("m").mean == pytest.approx(4.4)


def test_nothing_is_held_against_anybody_that_was_not_seen_for_long() -> None:
    """Ten minutes; four of its answers, if they are longer; an hour at most."""
    clock = [0.0]
    service = ServiceTimes(lambda: clock[0])
    for model, seconds in (("m", 5.0), ("slow", 300.0), ("endless", 1e6)):
        for _ in range(5):
            service.add(model, seconds, resident=True)

    def known_at(now: float) -> list[bool]:
        clock[0] = now
        return [service.knows(model) for model in ("m", "slow", "endless")]

    assert known_at(600.0) == [True, True, True]
    assert known_at(601.0) == [False, True, True]
    assert known_at(1201.0) == [False, False, True]
    assert known_at(3601.0) == [False, False, False]

    service.add("m", 5.0, resident=True)

    assert service.knows("m")


def test_what_was_only_seen_in_an_earlier_life_counts_for_two_minutes() -> None:
    """Whoever is refused for it would never be measured, and so be refused for ever."""
    clock = [0.0]
    service = ServiceTimes(lambda: clock[0])
    service.expect("m", warm=measured(*[400.0] * 100), cold=Measured())
    clock[0] = 120.0
    assert service.knows("m")

    clock[0] = 121.0
    assert not service.knows("m")

    service.add("m", 380.0, resident=True)
    clock[0] = 700.0
    assert service.knows("m")


def test_a_much_quicker_answer_ends_what_was_known_long_ago() -> None:
    """In an earlier life, or before a pause; of one that is measured all the time it is one."""
    clock = [0.0]
    service = ServiceTimes(lambda: clock[0])
    service.expect("m", warm=measured(*[400.0] * 100), cold=measured(*[420.0] * 5))
    service.add("m", 190.0, resident=True)

    assert (service.of("m").mean, service.of("m", resident=False).mean) == (190.0, 190.0)
    assert not service.knows("m")

    for _ in range(20):
        service.add("m", 190.0, resident=True)
    service.add("m", 5.0, resident=True)

    assert service.of("m").mean == pytest.approx(153.0)

    clock[0] = 3601.0
    service.add("m", 5.0, resident=True)

    assert service.of("m").mean == 5.0


def test_what_is_measured_counts_more_than_what_was_known() -> None:
    """And what was never known is nothing to begin with."""
    service = ServiceTimes()
    service.add("m", 2.0, resident=True)
    service.expect("m", warm=measured(60.0), cold=Measured())
    service.expect("n", warm=Measured(), cold=Measured())

    assert service.of("m").mean == service.of("m", resident=False).mean == 2.0
    assert not service.has_seen("n")


@pytest.mark.parametrize(
    "values",
    [
        [float(n % 10 + 1) for n in range(0, 700, 7)],
        [math.log(100 / (100 - n * 37 % 100)) for n in range(100)],
        [1.0, 60.0] * 50,
        [5.0] * 100,
    ],
    ids=["even", "exponential", "short and long", "steady"],
)
def test_quick_is_conservative(values: list[float]) -> None:
    """At most two of ten are quicker than what is called quick, for any shape of times."""
    service = ServiceTimes()
    for value in values:
        service.add("m", value, resident=True)
    quicker = sum(value < quick_answer("m", service) - 1e-6 for value in values)

    assert quicker <= 0.2 * len(values)
