"""The estimator of everything that is measured: a running mean and mean deviation. Pure.

It is Jacobson's estimator (RFC 6298, section 2), with other gains. The mean deviation describes
service times better than a variance does, because one outlier does not enter it squared. The first
few samples weigh as in a plain average, so that the very first one, often a cold start, does not
linger.
"""

from math import sqrt
from typing import Final

from msgspec import Struct

GAIN: Final = 0.2
"""Weight of the newest sample. Nine tenths of an estimate come from the last ten samples."""

KNOWN_AFTER: Final = 3
"""Samples after which a request may be rejected because of an estimate."""

LARGEST: Final = 1e7
"""No time in seconds and no token count of one request is larger than this."""

_SIGMAS: Final = 1.25
"""Standard deviations in a mean absolute deviation, for a normal distribution."""

_OUTLIER: Final = 4 * _SIGMAS
"""Mean deviations above the mean at which a sample is clipped, because it may be the only one.

The limit is at least twice the mean, so that a model that did become slower is known to be so after
a few samples.
"""

P10: Final = 1.2816
"""Standard deviations between the mean and the 10th percentile of a normal distribution."""


def is_plausible(value: float | None) -> bool:
    """Return True if ``value`` can be a measured time, count or rate at all."""
    return value is not None and 0.0 <= value <= LARGEST


class Estimate(Struct, frozen=True):
    """A mean and a mean deviation over ``count`` samples; with no samples, nothing is known."""

    mean: float = 0.0
    deviation: float = 0.0
    count: int = 0

    def with_sample(self, value: float) -> "Estimate":
        """Return the estimate after ``value`` was measured; outliers above the mean are clipped."""
        if self.count == 0:
            return Estimate(value, value / 2, 1)
        limit = self.mean + max(_OUTLIER * self.deviation, self.mean)
        return self._moved_to(min(value, limit))

    def with_lower_bound(self, value: float) -> "Estimate":
        """Return the estimate after something took longer than ``value``, for example a timeout.

        A bound below the mean is no news. A bound above it raises the mean and never lowers the
        deviation: reaching the same timeout again and again makes the estimate no more certain.
        It is not clipped, because a timeout that grows too slowly fails every request.
        """
        if value <= self.mean:
            return self
        if self.count == 0:
            return Estimate(value, value / 2, 1)
        moved = self._moved_to(value)
        return Estimate(moved.mean, max(moved.deviation, self.deviation), moved.count)

    def plus(self, other: "Estimate") -> "Estimate":
        """Return the estimate of both in sequence: deviations add up, as in the worst case."""
        return Estimate(
            self.mean + other.mean,
            self.deviation + other.deviation,
            max(self.count, other.count),
        )

    @property
    def known(self) -> bool:
        """Whether there are enough samples to reject a request because of this estimate."""
        return self.count >= KNOWN_AFTER

    @property
    def variance(self) -> float:
        """Variance of one sample."""
        return (self.deviation * _SIGMAS) ** 2

    def variance_of(self, samples: float) -> float:
        """Return the variance of the sum of so many samples.

        Samples vary independently, so that part grows with their number. The error of the mean is
        the same in all of them, so that part grows with the square.
        """
        mean_error = max(1 / self.count, GAIN / (2 - GAIN)) if self.count else 1.0
        return self.variance * (samples + samples**2 * mean_error)

    @property
    def p10(self) -> float:
        """What nine of ten samples exceed."""
        return max(self.mean - P10 * sqrt(self.variance_of(1)), 0.0)

    @property
    def p90(self) -> float:
        """What nine of ten samples do not exceed."""
        return self.mean + P10 * sqrt(self.variance_of(1))

    def _moved_to(self, value: float) -> "Estimate":
        count = self.count + 1
        gain = max(GAIN, 1 / count)
        return Estimate(
            self.mean + gain * (value - self.mean),
            self.deviation + gain * (abs(value - self.mean) - self.deviation),
            count,
        )
