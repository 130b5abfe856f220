"""How long things take: as usual, and as quick as one time in ten. Pure."""

from dataclasses import dataclass
from math import sqrt
from typing import Final

from gateway.admission.service import Measured, ServiceTimes

_P10: Final = 1.2816
"""Standard deviations between the mean and the 10th percentile of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Usual:
    """As things take on average."""

    service: ServiceTimes

    def answer(self, model: str) -> float:
        return self.service.of(model).mean

    def load(self, model: str) -> float:
        """What an answer takes more where the model is not loaded."""
        return max(self.service.of(model, resident=False).mean - self.answer(model), 0.0)


@dataclass(frozen=True, slots=True)
class Quick:
    """As quick as so many ``calls`` in a row are one time in ten; nothing where little is known."""

    service: ServiceTimes
    calls: int = 1

    def answer(self, model: str) -> float:
        return self._quick(model, self.service.of(model))

    def load(self, model: str) -> float:
        cold = self.service.of(model, resident=False)
        return max(self._quick(model, cold) - self.answer(model), 0.0)

    def _quick(self, model: str, seen: Measured) -> float:
        if not self.service.knows(model):
            return 0.0
        return max(seen.mean - _P10 * sqrt(seen.variance_of(self.calls)) / self.calls, 0.0)


def slow_answer(model: str, service: ServiceTimes) -> float:
    """What nine of ten answers take at most; no load included.

    Nothing where none was seen: another model's answers are no reason to doubt this one's.
    """
    if not service.has_seen(model):
        return 0.0
    seen = service.of(model)
    return seen.mean + _P10 * sqrt(seen.variance_of(1))
