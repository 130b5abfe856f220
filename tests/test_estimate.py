import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimate import Estimate, is_plausible

VALUES = st.floats(0.0, 1e6)


def over(*values: float) -> Estimate:
    return reduce(Estimate.with_sample, values, Estimate())


def test_the_first_sample_is_the_mean() -> None:
    """Half of it is the deviation, as in RFC 6298."""
    assert over(8.0) == Estimate(8.0, 4.0, 1)


def test_the_first_samples_are_averaged() -> None:
    """The very first one, often a cold start, does not linger."""
    assert over(30.0, 10.0, 20.0).mean == pytest.approx(20.0)


def test_the_newest_samples_weigh_most() -> None:
    """A slower machine is known to be slower after a dozen samples: 0.8**12 is 0.07."""
    estimate = over(*[10.0] * 100, *[20.0] * 12)

    assert 19.0 < estimate.mean < 20.0


def test_equal_samples_have_no_deviation() -> None:
    """The timeout of a steady model comes down to what it takes."""
    assert over(*[5.0] * 50).deviation < 0.01


@given(st.lists(VALUES, min_size=1, max_size=50))
def test_an_estimate_stays_within_its_samples(values: list[float]) -> None:
    """The mean is between the extremes, the deviation no larger than the largest."""
    estimate = over(*values)

    assert estimate.count == len(values)
    assert min(values) - 1e-6 <= estimate.mean <= max(values) + 1e-6
    assert 0.0 <= estimate.deviation <= max(values)


@given(st.lists(VALUES, max_size=20), VALUES)
def test_a_lower_bound_never_lowers_the_estimate(values: list[float], aborted_at: float) -> None:
    """Neither mean nor deviation."""
    before = over(*values)
    after = before.with_lower_bound(aborted_at)

    assert after.mean >= before.mean
    assert after.deviation >= before.deviation
    assert (after == before) == (aborted_at <= before.mean)


def test_repeated_timeouts_raise_the_timeout_within_ten_requests() -> None:
    """Of mean + 4 deviations, for responses of 900 s."""
    estimate, timeout = Estimate(), 120.0
    for _ in range(10):
        estimate = estimate.with_lower_bound(timeout)
        timeout = max(120.0, estimate.mean + 4 * estimate.deviation)

    assert timeout > 900.0


@pytest.mark.parametrize("value", [None, -1.0, math.nan, math.inf, 1e300, 10**400])
def test_implausible_values_are_recognised(value: float | None) -> None:
    """Without an error."""
    assert not is_plausible(value)
    assert is_plausible(0.0)


def test_the_estimate_follows_new_samples() -> None:
    """Old samples count less and less."""
    estimate = over(*[100.0] * 5, *[1.0] * 50)

    assert estimate.mean == pytest.approx(1.0, rel=0.01)


def test_an_outlier_is_clipped() -> None:
    """It may be the only one; a model that became slower is known to be after a few samples."""
    estimate = over(*[5.0] * 20, 1500.0)

    assert estimate.mean == pytest.approx(6.0)
    assert over(*[5.0] * 20, *[50.0] * 12).mean == pytest.approx(50.0, rel=0.25)


def test_an_estimate_that_began_with_zeros_can_rise() -> None:
    """Twice nothing is no limit."""
    assert over(0.0, 0.0, *[4.0] * 30).mean == pytest.approx(4.0, rel=0.05)


def test_an_estimate_that_began_far_too_small_rises_within_twenty_samples() -> None:
    """The limit grows with the deviation."""
    assert over(0.001, *[2.0] * 20).mean > 1.8
