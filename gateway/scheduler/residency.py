"""What is in Ollama's memory, as far as the order of calls depends on it: a frozen view, pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Residency:
    """Which models are believed to be loaded, and which can be loaded together.

    ``max_loaded`` is how many fit at once, or None where only experience tells: then ``together``
    holds the sets that were seen in memory at the same time.
    """

    resident: frozenset[str] = frozenset()
    together: frozenset[frozenset[str]] = frozenset()
    max_loaded: int | None = None

    def fit(self, models: frozenset[str]) -> bool:
        """Whether all these are known to be loaded at the same time without driving one out."""
        if len(models) <= 1:
            return True
        if self.max_loaded is not None:
            return len(models) <= self.max_loaded
        return any(models <= seen for seen in self.together)

    def costs_nothing(self, model: str) -> bool:
        """Whether a call to ``model`` leaves everything in memory where it is."""
        if model in self.resident:
            return True
        if self.max_loaded is not None:
            return len(self.resident) < self.max_loaded or not self.resident
        return self.fit(self.resident | {model})

    def eligible(self, model: str, active: AbstractSet[str] | Mapping[str, int]) -> bool:
        """Whether ``model`` is loaded, or can be without driving out one that is at work.

        Sent earlier, it would wait inside Ollama with a place held, and the other would be
        loaded again for its next call.
        """
        if not active or model in active:
            return True
        at_work = frozenset(active)
        return (model in self.resident and at_work <= self.resident) or self.fit(at_work | {model})

    def beside(self, model: str, active: AbstractSet[str] | Mapping[str, int]) -> frozenset[str]:
        """Of those at work, as many as can stay when ``model`` is loaded.

        The same ones until the others have come free: else each would be left for another.
        """
        stay = frozenset[str]()
        for other in sorted(active):
            if self.fit(stay | {other, model}):
                stay |= {other}
        return stay

    def after(self, model: str, active: AbstractSet[str] | Mapping[str, int]) -> "Residency":
        """The view when ``model`` was loaded too: whatever is idle and does not fit has gone."""
        stay = frozenset({model, *active})
        for other in sorted(self.resident - stay):
            if self.fit(stay | {other}):
                stay |= {other}
        return Residency(stay, self.together, self.max_loaded)
