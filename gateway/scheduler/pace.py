"""How long things take: as usual, or so many times as long; and one time in ten. Pure."""

from dataclasses import dataclass
from math import sqrt
from typing import Final

from gateway.scheduler.service import ServiceTimes

P10: Final = 1.2816
"""Standard deviations between the mean and the 10th percentile of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Usual:
    """As things take on average, or so many ``times`` as long."""

    service: ServiceTimes
    times: float = 1.0

    def answer(self, model: str) -> float:
        return self.times * self.service.of(model).mean

    def load(self, model: str) -> float:
        """What an answer takes more where the model is not loaded."""
        cold = self.times * self.service.of(model, resident=False).mean
        return max(cold - self.answer(model), 0.0)


def quick_answer(model: str, service: ServiceTimes) -> float:
    """What nine of ten answers take at least; nothing where little is known."""
    if not service.knows(model):
        return 0.0
    seen = service.of(model)
    return max(seen.mean - P10 * sqrt(seen.variance_of(1)), 0.0)


def slow_answer(model: str, service: ServiceTimes) -> float:
    """What nine of ten answers take at most; no load included.

    Nothing where none was seen: another model's answers are no reason to doubt this one's.
    """
    if not service.has_seen(model):
        return 0.0
    seen = service.of(model)
    return seen.mean + P10 * sqrt(seen.variance_of(1))
