"""Exponentially weighted estimates, as values: pure.

Jacobson's estimator (RFC 6298, section 2): a mean and a mean deviation, which for times of answers
says more than a variance, for one outlier does not square. The first few observations weigh as in
a plain average, so that the very first one does not linger.
"""

from typing import Final

from gateway.timeouts import Estimate

WEIGHT: Final = 0.2
"""Of the newest observation. Nine tenths of what is known come from the last ten."""

LARGEST: Final = 1e7
"""Neither a time in seconds nor a number of tokens of one answer is larger than this."""


def is_plausible(value: float | None) -> bool:
    """Whether this can be a measured time, count or rate at all."""
    return value is not None and 0.0 <= value <= LARGEST


def observed(estimate: Estimate, value: float) -> Estimate:
    """The estimate after ``value`` was measured."""
    count = estimate.count + 1
    if count == 1:
        return Estimate(value, value / 2, 1)
    weight = max(WEIGHT, 1 / count)
    off = abs(value - estimate.mean)
    return Estimate(
        mean=estimate.mean + weight * (value - estimate.mean),
        deviation=estimate.deviation + weight * (off - estimate.deviation),
        count=count,
    )


def at_least(estimate: Estimate, value: float) -> Estimate:
    """The estimate after something took longer than ``value``, nobody knows how much.

    Below the mean that says nothing. Above it the mean rises, and the deviation never falls: to be
    cut at the same time again and again makes nobody surer.
    """
    if value <= estimate.mean:
        return estimate
    after = observed(estimate, value)
    return Estimate(after.mean, max(after.deviation, estimate.deviation), after.count)
