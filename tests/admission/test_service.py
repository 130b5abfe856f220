"""Lease times as measured, and what may be said from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.service import ServiceTimes

SECONDS = st.floats(0.0, 10_000.0)


def measured(*seconds: float) -> ServiceTimes:
    service = ServiceTimes()
    for each in seconds:
        service.add(each)
    return service


def test_nothing_is_expected_before_anything_was_measured() -> None:
    """No guesses: zero becomes the shortest advice there is."""
    assert ServiceTimes().expected_wait(10, 1) == 0.0
    assert ServiceTimes().certain_wait(10, 1) == 0.0


def test_the_expected_wait_is_a_lease_for_each_ahead_and_one_that_is_active() -> None:
    """Ten seconds each, two before him, one place: thirty seconds."""
    assert measured(10.0).expected_wait(2, 1) == 30.0


def test_places_share_the_wait() -> None:
    """Three places serve three at once."""
    assert measured(10.0).expected_wait(2, 3) == 10.0


def test_the_estimate_follows_what_is_measured() -> None:
    """Models change; what was long ago counts less and less."""
    service = measured(*[100.0] * 5, *[1.0] * 50)

    assert service.expected_wait(0, 1) == pytest.approx(1.0, rel=0.01)


def test_nothing_is_certain_after_four_leases() -> None:
    """Too few to refuse anybody for."""
    assert measured(*[10.0] * 4).certain_wait(100, 1) == 0.0
    assert measured(*[10.0] * 5).certain_wait(100, 1) > 0.0


def test_steady_leases_make_a_certain_wait() -> None:
    """Always ten seconds: nine ahead are close to ninety."""
    assert measured(*[10.0] * 60).certain_wait(9, 1) == pytest.approx(90.0, rel=0.01)


def test_leases_of_all_lengths_make_nothing_certain() -> None:
    """With a spread as wide as the mean, the next ones may all be quick."""
    assert measured(*[1.0, 100.0] * 20).certain_wait(50, 1) == 0.0


def test_the_last_step_of_a_crowd_counts_only_when_it_is_full() -> None:
    """Four places, three ahead: all three may go in the first round."""
    steady = measured(*[10.0] * 60)

    assert steady.certain_wait(3, 4) == 0.0
    assert steady.certain_wait(4, 4) == pytest.approx(10.0, rel=0.01)


@given(st.lists(SECONDS, min_size=1, max_size=40), st.integers(0, 100), st.integers(1, 8))
def test_what_is_certain_is_never_more_than_what_is_expected(
    seconds: list[float], ahead: int, places: int
) -> None:
    """Advice never tells someone to wait less than what he was refused for."""
    service = measured(*seconds)

    assert 0.0 <= service.certain_wait(ahead, places) <= service.expected_wait(ahead, places)
