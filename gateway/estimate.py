"""The estimator of everything that is measured: a running mean and mean deviation. Pure.

It is Jacobson's estimator (RFC 6298, section 2), with other gains. The mean deviation describes
service times better than a variance does, because one outlier does not enter it squared. The first
few samples weigh as in a plain average, so that the very first one, often a cold start, does not
linger.
"""

from typing import Final

from msgspec import Struct

GAIN: Final = 0.2
"""Weight of the newest sample. Nine tenths of an estimate come from the last ten samples."""

KNOWN_AFTER: Final = 3
"""Samples after which a request may be rejected because of an estimate."""

LARGEST: Final = 1e7
"""No time in seconds and no token count of one request is larger than this."""

_OUTLIER: Final = 5.0
"""Mean deviations above the mean at which a sample is clipped, because it may be the only one: four
standard deviations of a normal distribution.

The limit is at least twice the mean, so that a model that did become slower is known to be so after
a few samples.
"""


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
        # Without a limit above zero, an estimate that began with zeros could never rise.
        return self._moved_to(min(value, limit) if limit > 0.0 else value)

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

    def _moved_to(self, value: float) -> "Estimate":
        count = self.count + 1
        gain = max(GAIN, 1 / count)
        return Estimate(
            self.mean + gain * (value - self.mean),
            self.deviation + gain * (abs(value - self.mean) - self.deviation),
            count,
        )
