"""How long calls hold a place, as measured, by model and by whether it had to be loaded."""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

_GAIN: Final = 0.2
"""Of the newest; while there are few, all count alike."""
KNOWN_AFTER: Final = 3
"""Calls seen before anybody is refused because of them."""
MOST_MODELS: Final = 256
_DOUBTED_AFTER: Final = 600.0
"""Seconds. Of a model that was not measured for so long nothing is held against anybody: were it
refused for ever because of what once was true, it would never be measured again."""
_FEW: Final = 4.0
"""Answers. One that takes long is doubted only after so many of them."""
_LONGEST: Final = 3600.0
"""Seconds after which every one is."""
_HEARSAY: Final = 120.0
"""Seconds after which one is that was only measured before this start. By then it was measured
again, unless it is refused for what is not true any more."""

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
    """All mutable state: what was measured, for loaded models, for others, and for all.

    ``now`` is a clock in seconds.
    """

    now: Callable[[], float] = lambda: 0.0
    _warm: dict[str, Measured] = field(default_factory=dict)
    _cold: dict[str, Measured] = field(default_factory=dict)
    _all: Measured = field(default_factory=Measured)
    # When each model was measured last; and of which it was in an earlier life.
    _seen_at: dict[str, float] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def add(self, model: str, seconds: float, *, resident: bool) -> None:
        """Learn that an answer by ``model`` took a place for so many seconds."""
        if seconds < self.of(model, resident=resident).mean / 2 and not self._is_sure(model):
            # Another machine, or another model by that name.
            self._forget(model)
        self._all.add(seconds)
        known = self._warm if resident else self._cold
        if model not in known and len(known) >= MOST_MODELS:
            self._forget(next(iter(known)))
        known.setdefault(model, Measured()).add(seconds)
        self._seen_at[model] = self.now()
        self._told.discard(model)

    def expect(self, model: str, *, warm: Measured, cold: Measured) -> None:
        """Begin with what was known in an earlier life, of a model that has not been seen yet."""
        for known, before in ((self._warm, warm), (self._cold, cold)):
            if before.count and model not in known and len(known) < MOST_MODELS:
                known[model] = before
                self._all.add(before.mean)
                self._seen_at[model] = self.now()
                self._told.add(model)

    def knows(self, model: str) -> bool:
        """Whether enough was seen of this very model to refuse anybody because of it."""
        warm, cold = self._warm.get(model), self._cold.get(model)
        known = (warm is not None and warm.known) or (cold is not None and cold.known)
        return known and not self._is_old(model)

    def has_seen(self, model: str) -> bool:
        return model in self._warm or model in self._cold

    def of(self, model: str, *, resident: bool = True) -> Measured:
        """What is known of this case, or of the nearest one; counts zero if of none."""
        first, second = (self._warm, self._cold) if resident else (self._cold, self._warm)
        return first.get(model) or second.get(model) or self._all

    def turn(self) -> float:
        """Seconds that one turn takes, whoever's it is."""
        return self._all.mean

    # Inside.

    def _is_sure(self, model: str) -> bool:
        """Whether what is known was seen in this life, and lately."""
        return model not in self._told and not self._is_old(model)

    def _is_old(self, model: str) -> bool:
        good_for = _HEARSAY
        if model not in self._told:
            good_for = min(max(_DOUBTED_AFTER, _FEW * self.of(model).mean), _LONGEST)
        return self.now() - self._seen_at.get(model, -inf) > good_for

    def _forget(self, model: str) -> None:
        self._warm.pop(model, None)
        self._cold.pop(model, None)
        self._seen_at.pop(model, None)
        self._told.discard(model)
