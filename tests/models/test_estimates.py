import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.models.estimates import at_least, is_plausible, observed
from gateway.timeouts import Estimate

VALUES = st.floats(0.0, 1e6)


def over(*values: float) -> Estimate:
    return reduce(observed, values, Estimate())


def test_the_first_observation_is_the_mean() -> None:
    """As RFC 6298 begins: half of it is the deviation."""
    assert over(8.0) == Estimate(8.0, 4.0, 1)


def test_the_first_few_are_averaged() -> None:
    """The very first one, which is often a cold one, does not linger."""
    assert over(30.0, 10.0, 20.0).mean == pytest.approx(20.0)


def test_the_newest_weigh_most() -> None:
    """A machine that became slower is known to be after a dozen calls: 0.8**12 is 0.07."""
    estimate = over(*[10.0] * 100, *[20.0] * 12)

    assert 19.0 < estimate.mean < 20.0


def test_what_never_changes_has_no_deviation() -> None:
    """A steady model's clock comes down to what it takes."""
    assert over(*[5.0] * 50).deviation < 0.01


@given(st.lists(VALUES, min_size=1, max_size=50))
def test_an_estimate_stays_within_what_was_seen(values: list[float]) -> None:
    """The mean is between the extremes, the deviation no wider than they are from 0."""
    estimate = over(*values)

    assert estimate.count == len(values)
    assert min(values) - 1e-6 <= estimate.mean <= max(values) + 1e-6
    assert 0.0 <= estimate.deviation <= max(values)


@given(st.lists(VALUES, max_size=20), VALUES)
def test_at_least_never_lowers(values: list[float], cut_at: float) -> None:
    """Neither mean nor deviation falls for a call that took longer than it was allowed."""
    before = over(*values)
    after = at_least(before, cut_at)

    assert after.mean >= before.mean
    assert after.deviation >= before.deviation
    assert (after == before) == (cut_at <= before.mean)


def test_cut_again_and_again() -> None:
    """A clock of mean + 4 deviations that cuts every answer of 900 s reaches them in ten calls."""
    estimate, clock = Estimate(), 120.0
    for _ in range(10):
        estimate = at_least(estimate, clock)
        clock = max(120.0, estimate.mean + 4 * estimate.deviation)

    assert clock > 900.0


@pytest.mark.parametrize("value", [None, -1.0, math.nan, math.inf, 1e300, 10**400])
def test_what_is_no_measurement(value: float | None) -> None:
    """Nonsense is told from a value without an error."""
    assert not is_plausible(value)
    assert is_plausible(0.0)
