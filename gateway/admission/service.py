"""How long calls hold a place, as measured, by model and by whether it had to be loaded."""

from dataclasses import dataclass, field
from typing import Final

_GAIN: Final = 0.2
"""Of the newest; while there are few, all count alike."""
KNOWN_AFTER: Final = 3
"""Calls seen before anybody is refused because of them."""
MOST_MODELS: Final = 256

_SIGMAS: Final = 1.25
"""Standard deviations in a mean absolute deviation, of a normal distribution."""

_OUTLIER: Final = 4 * _SIGMAS
"""Mean deviations above the mean beyond which one answer tells no more: it may be the only one.

At least twice the mean; so what has really become slower is known after a few.
"""


@dataclass(slots=True)
class Measured:
    """Exponentially weighted mean and mean deviation of seconds."""

    mean: float = 0.0
    deviation: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        if self.count == 1:
            self.mean = seconds
            self.deviation = seconds / 2
            return
        # Jacobson's estimator (RFC 6298, section 2) with other gains.
        seconds = min(seconds, self.mean + max(_OUTLIER * self.deviation, self.mean))
        gain = max(_GAIN, 1 / self.count)
        self.deviation += gain * (abs(seconds - self.mean) - self.deviation)
        self.mean += gain * (seconds - self.mean)

    @property
    def variance(self) -> float:
        return (self.deviation * _SIGMAS) ** 2

    def variance_of(self, calls: float) -> float:
        """Of the sum of so many: they differ, and the mean itself is not known exactly.

        The error of the mean is the same for all of them, so many do not average it out.
        """
        doubt = max(1 / self.count, _GAIN / (2 - _GAIN)) if self.count else 1.0
        return self.variance * (calls + calls**2 * doubt)

    @property
    def known(self) -> bool:
        """Whether enough was seen to refuse anybody because of it."""
        return self.count >= KNOWN_AFTER


@dataclass(slots=True)
class ServiceTimes:
    """All mutable state: what was measured, for loaded models, for others, and for all."""

    _warm: dict[str, Measured] = field(default_factory=dict)
    _cold: dict[str, Measured] = field(default_factory=dict)
    _all: Measured = field(default_factory=Measured)

    def add(self, model: str, seconds: float, *, resident: bool) -> None:
        """Learn that an answer by ``model`` took a place for so many seconds."""
        self._all.add(seconds)
        known = self._warm if resident else self._cold
        if model not in known and len(known) >= MOST_MODELS:
            known.pop(next(iter(known)))
        known.setdefault(model, Measured()).add(seconds)

    def expect(self, model: str, *, warm: Measured, cold: Measured) -> None:
        """Begin with what was known in an earlier life, of a model that has not been seen yet."""
        for known, before in ((self._warm, warm), (self._cold, cold)):
            if before.count and model not in known and len(known) < MOST_MODELS:
                known[model] = before
                self._all.add(before.mean)

    def knows(self, model: str) -> bool:
        """Whether enough was seen of this very model to refuse anybody because of it."""
        warm, cold = self._warm.get(model), self._cold.get(model)
        return (warm is not None and warm.known) or (cold is not None and cold.known)

    def has_seen(self, model: str) -> bool:
        return model in self._warm or model in self._cold

    def of(self, model: str, *, resident: bool = True) -> Measured:
        """What is known of this case, or of the nearest one; counts zero if of none."""
        first, second = (self._warm, self._cold) if resident else (self._cold, self._warm)
        return first.get(model) or second.get(model) or self._all

    def turn(self) -> float:
        """Seconds that one turn takes, whoever's it is."""
        return self._all.mean
